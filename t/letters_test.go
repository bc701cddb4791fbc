package t

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func init() {
	commands["letters"] = cmdLetters
	commands["inject"] = cmdInject
	commands["same"] = cmdSame
}

// odd are letters that mail systems have been seen to damage.
func odd() map[string]string {
	long := strings.Repeat("a long line without an end ", 400)
	return map[string]string{
		"plain":       "From: a@example.test\nTo: b@example.test\nSubject: plain\nMessage-ID: <plain@t>\n\nHello.\n",
		"no-body":     "Subject: header only\nMessage-ID: <nobody@t>\n\n",
		"no-header":   "\nA body without a header.\n",
		"dots":        "Subject: dots\nMessage-ID: <dots@t>\n\n.\n..\n...\n.leading\nFrom here on\n>From there\n.\n",
		"long-line":   "Subject: long\nX-Long: " + long + "\nMessage-ID: <long@t>\n\n" + long + long + "\n" + long + "\n",
		"8bit-header": "Subject: gr\xfc\xdfe von M\xfcller\nX-Raw: \xff\xfe\x80\nMessage-ID: <8bit@t>\nContent-Type: text/plain; charset=iso-8859-1\n\nK\xf6ln\n",
		"utf8-header": "Subject: grüße 日本 ☃\nMessage-ID: <utf8@t>\n\nπάντα ῥεῖ\n",
		"nul":         "Subject: zero\nMessage-ID: <nul@t>\n\nbefore\x00after\n\x00\n",
		"bare-cr":     "Subject: carriage\nMessage-ID: <cr@t>\n\nover\rwritten\n\r\r\n",
		"controls":    "Subject: \x01\x02\x1b[31m\nMessage-ID: <ctl@t>\n\n\x07\x08\x0b\x0c\x7f\n",
		"folded":      "Subject: one\n two\n\tthree\n  \n four\nMessage-ID:\n <folded@t>\nReceived: old\n  (trace)\n\nbody\n",
		"bad-header":  "Subject: fine\nMessage-ID: <bad@t>\nX-Y : blank before colon\nX-Empty:\n\n: body\n",
		"same-fields": "Subject: 1\nSubject: 2\nFrom: a@x\nFrom: b@x\nDate: never\nTo:\nCc: \nMessage-ID: <same1@t>\nMessage-ID: <same2@t>\n\nbody\n",
		"broken-mime": "Subject: mime\nMessage-ID: <mime@t>\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"b\n\n--b\nContent-Type: text/plain; charset=\"nowhere\nContent-Transfer-Encoding: base64\n\n=== not base64 ===\n--b\nContent-Type: multipart/alternative; boundary=c\n\n--c\n\nno end\n--b--\ntail\n--b\n",
		"deep-mime":   deep(60),
		"koi8":        "Subject: =?koi8-r?B?89DBzQ==?= =?broken?Q?=\nMessage-ID: <koi8@t>\nContent-Type: text/plain; charset=koi8-r\nContent-Transfer-Encoding: 8bit\n\n\xf0\xf2\xe9\xf7\xe5\xf4\n",
		"jp":          "Subject: =?iso-2022-jp?B?GyRCRnxLXBsoQg==?=\nMessage-ID: <jp@t>\nContent-Type: text/plain; charset=iso-2022-jp\n\n\x1b$BF|K\\\x1b(B\n",
		"trailing":    "Subject: blanks at the end   \nMessage-ID: <trail@t>\n\ntext \t \n\n\n\n",
		"big":         "Subject: big\nMessage-ID: <big@t>\n\n" + strings.Repeat("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n", 20000),
	}
}

func deep(n int) string {
	var b strings.Builder
	b.WriteString("Subject: deep\nMessage-ID: <deep@t>\nMIME-Version: 1.0\n")
	for i := range n {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	b.WriteString("\nbottom\n")
	return b.String()
}

// dropped are the fields that Postfix' message_drop_headers takes out; in the
// body they are rare enough not to matter here.
var dropped = regexp.MustCompile(`(?mi)^(?:bcc|content-length|resent-bcc|return-path):.*\n(?:[ \t].*\n)*`)

// letters dir: writes odd letters into dir, lines ending in LF. With $CORPUS
// set, real ones from below that folder as well.
func cmdLetters(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	for name, text := range odd() {
		if text[0] != '\n' && !strings.Contains(text, "\nDate:") { // Cyrus would add one
			text = "From: a@client.test\nDate: Fri, 28 Aug 2009 09:00:00 +0000\n" + text
		}
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	if corpus := ts.Getenv("CORPUS"); corpus != "" {
		n := 0
		ts.Check(filepath.WalkDir(corpus, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			n++
			data = dropped.ReplaceAll(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), nil)
			if len(data) > 0 && data[len(data)-1] != '\n' {
				data = append(data, '\n')
			}
			return os.WriteFile(filepath.Join(dir, fmt.Sprintf("corpus-%05d", n)), data, 0o644)
		}))
	}
}

// inject host:port dir sender recipient...: sends every file of dir by SMTP in
// one session, and fails unless each gets 250.
func cmdInject(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 4 {
		ts.Fatalf("usage: inject host:port dir sender recipient...")
	}
	c, err := dialSMTP(args[0])
	ts.Check(err)
	defer c.Close()
	for _, file := range files(ts, ts.MkAbs(args[1])) {
		data, err := os.ReadFile(file)
		ts.Check(err)
		if _, err := c.send(args[2], args[3:], data); err != nil {
			ts.Fatalf("%s: %v", filepath.Base(file), err)
		}
	}
}

func files(ts *testscript.TestScript, dir string) []string {
	entries, err := os.ReadDir(dir)
	ts.Check(err)
	var out []string
	for _, e := range entries {
		if !e.IsDir() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}

// smtpClient speaks just enough SMTP to put any octets on the wire.
type smtpClient struct {
	net.Conn
	r *bufio.Reader
}

func dialSMTP(addr string) (*smtpClient, error) {
	if !strings.Contains(addr, ":") {
		addr = "127.0.0.1:" + addr
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &smtpClient{conn, bufio.NewReader(conn)}
	if _, err = c.reply(); err == nil {
		_, err = c.command("EHLO client.test")
	}
	return c, err
}

func (c *smtpClient) command(line string) (string, error) {
	if _, err := fmt.Fprintf(c, "%s\r\n", line); err != nil {
		return "", err
	}
	return c.reply()
}

// reply returns the last line of a reply; 4xx and 5xx are errors.
func (c *smtpClient) reply() (string, error) {
	for {
		c.SetReadDeadline(time.Now().Add(patience))
		line, err := c.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		line = strings.TrimRight(line, "\r\n")
		if len(line) >= 4 && line[3] == '-' {
			continue
		}
		if line == "" || line[0] >= '4' {
			return line, fmt.Errorf("reply: %s", line)
		}
		return line, nil
	}
}

// send gives one letter, LF line ends, to the server and returns its last reply.
func (c *smtpClient) send(from string, to []string, data []byte) (string, error) {
	if _, err := c.command("MAIL FROM:<" + from + ">"); err != nil {
		return "", err
	}
	for _, rcpt := range to {
		if _, err := c.command("RCPT TO:<" + rcpt + ">"); err != nil {
			return "", err
		}
	}
	if _, err := c.command("DATA"); err != nil {
		return "", err
	}
	var b bytes.Buffer
	for line := range bytes.Lines(data) {
		if line[0] == '.' {
			b.WriteByte('.')
		}
		b.Write(bytes.TrimSuffix(line, []byte("\n")))
		b.WriteString("\r\n")
	}
	b.WriteString(".\r\n")
	if _, err := c.Write(b.Bytes()); err != nil {
		return "", err
	}
	return c.reply()
}

// same dir got...: the letters of dir and the files got (folders count with
// all that is in them) are the same, octet for octet, but for trace fields on
// top and the kind of line ends.
func cmdSame(ts *testscript.TestScript, neg bool, args []string) {
	want := map[string]string{}
	for _, file := range files(ts, ts.MkAbs(args[0])) {
		data, err := os.ReadFile(file)
		ts.Check(err)
		want[string(data)] = filepath.Base(file)
	}
	n := 0
	for _, place := range args[1:] {
		ts.Check(filepath.WalkDir(ts.MkAbs(place), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text := withoutTrace(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")))
			if _, ok := want[text]; !ok {
				return fmt.Errorf("%s is none of the letters:\n%.2000q", path, text)
			}
			n++
			delete(want, text)
			return nil
		}))
	}
	for _, name := range want {
		ts.Fatalf("%d came back; missing: %s", n, name)
	}
}

var trace = regexp.MustCompile(`\A(?i:(?:Return-Path|Delivered-To|X-Original-To|X-Sieve|X-Cyrus-Session-Id|Received|Date|Message-ID):.*\n(?:[ \t].*\n)*)`)

// withoutTrace cuts what our programs put on top: up to the Received field of
// the first hop, which is smtpd's.
func withoutTrace(data []byte) string {
	s := string(data)
	cut := 0
	for {
		m := trace.FindString(s[cut:])
		if m == "" {
			return s
		}
		cut += len(m)
		if strings.HasPrefix(m, "Received: from client.test") {
			return s[cut:]
		}
	}
}
