package imapd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/sasl"
	"angarium/lib/store"
)

// passwords is a Verifier: everybody's is "secret".
type passwords struct{}

func (passwords) Verify(_ context.Context, user, password string) (string, error) {
	switch {
	case user == "broken":
		return "", errors.New("the file can't be read")
	case password != "secret":
		return "", &sasl.Error{Code: sasl.CodeBadAuth, Text: "checkpass failed"}
	}
	return user, nil
}

// logLines collects the log.
type logLines struct{ lines chan string }

func (l logLines) Log(_ time.Time, _ maillog.Priority, tag string, _ int64, text string) error {
	select {
	case l.lines <- tag + ": " + text:
	default:
	}
	return nil
}

// house is a server on loopback with users u1, u2 and the administrator cyrus.
type house struct {
	t     testing.TB
	store *store.Store
	addr  string
	log   logLines
	dir   string
}

func newHouse(t testing.TB, change func(*Config)) *house {
	t.Helper()
	dir := t.TempDir()
	h := &house{t: t, dir: dir, log: logLines{make(chan string, 1000)}}
	st, err := store.Open(context.Background(), store.Config{
		ConfigDirectory: filepath.Join(dir, "conf"), Partitions: map[string]string{"default": filepath.Join(dir, "spool")},
		DefaultPartition: "default", Log: maillog.New(h.log, "store"), DelayedDelete: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.store = st
	for _, u := range []string{"u1", "u2"} {
		if _, err := st.Create(context.Background(), store.Entry{Name: mailbox.Inbox(u)}); err != nil {
			t.Fatal(err)
		}
	}
	conf := Config{Service: "imap", Host: "mail.test", Product: "Cyrus IMAP 3.6.1-test", Store: st, Verifier: passwords{},
		Offer: sasl.Offer{Cleartext: true, List: []string{"PLAIN", "LOGIN"}}, Admins: []string{"cyrus"}, Protected: []string{`\Sent`}, LoginPause: -1, Version: "3.6.1-test"}
	if change != nil {
		change(&conf)
	}
	srv, err := New(conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		done := make(chan struct{}, 1000)
		n := 0
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			n++
			go func() {
				defer func() { done <- struct{}{} }()
				defer c.Close()
				stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
				defer stop()
				srv.Serve(ctx, c, maillog.New(h.log, "cyrus/imap"))
			}()
		}
		for ; n > 0; n-- {
			<-done
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		<-ended
		_ = st.Close()
	})
	return h
}

// talk is one client connection.
type talk struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	n    int
}

func (h *house) dial() *talk {
	h.t.Helper()
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	k := &talk{t: h.t, conn: c, r: bufio.NewReader(c)}
	k.line()
	return k
}

func (h *house) login(user string) *talk {
	h.t.Helper()
	k := h.dial()
	k.ok("LOGIN " + user + " secret")
	return k
}

// line reads a line with the literals in it, which are written "{n}text".
func (k *talk) line() string {
	k.t.Helper()
	_ = k.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var b strings.Builder
	for {
		s, err := k.r.ReadString('\n')
		if err == io.EOF && b.Len() == 0 && s == "" {
			return "" // gone
		}
		if err != nil {
			k.t.Fatalf("%v after %q", err, b.String()+s)
		}
		s = strings.TrimRight(s, "\r\n")
		b.WriteString(s)
		i := strings.LastIndexByte(s, '{')
		var n int
		if i < 0 || !strings.HasSuffix(s, "}") {
			return b.String()
		}
		if _, err := fmt.Sscanf(s[i:], "{%d}", &n); err != nil {
			return b.String()
		}
		lit := make([]byte, n)
		for got := 0; got < n; {
			m, err := k.r.Read(lit[got:])
			if err != nil {
				k.t.Fatal(err)
			}
			got += m
		}
		b.WriteString(strings.ReplaceAll(string(lit), "\r\n", "~"))
	}
}

func (k *talk) send(s string) {
	k.t.Helper()
	if _, err := k.conn.Write([]byte(s)); err != nil {
		k.t.Fatal(err)
	}
}

// cmd sends a command and returns all lines of the answer, the tag as "x".
func (k *talk) cmd(s string) []string {
	k.t.Helper()
	k.n++
	tag := fmt.Sprintf("t%d ", k.n)
	k.send(tag + s + "\r\n")
	var out []string
	for {
		l := k.line()
		if rest, ok := strings.CutPrefix(l, tag); ok {
			return append(out, "x "+rest)
		}
		if l == "" {
			return out
		}
		out = append(out, l)
		if strings.HasPrefix(l, "+") {
			return out
		}
	}
}

// ok sends a command that must succeed and returns the untagged lines.
func (k *talk) ok(s string) []string {
	k.t.Helper()
	out := k.cmd(s)
	if last := out[len(out)-1]; !strings.HasPrefix(last, "x OK") {
		k.t.Fatalf("%s: %s", s, last)
	}
	return out[:len(out)-1]
}

// literal makes "{n+}" and the text, in which ~ stands for CRLF.
func literal(s string) string {
	s = strings.ReplaceAll(s, "~", "\r\n")
	return fmt.Sprintf("{%d+}\r\n%s", len(s), s)
}

var literals = regexp.MustCompile(`LIT\(([^()]*)\)`)

// TestDialogues plays the conversations of testdata/*.txt with ourselves.
//
// A line "C: " is sent by the first client, "D: " by another; "S: " is an answer.
// "O: " is one that only we give, "P: " one that only Cyrus gives. LIT(text) is a
// non-synchronizing literal with ~ for CRLF, and what stands between two / in an
// answer is a regular expression.
func TestDialogues(t *testing.T) {
	for name, script := range dialogues(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, newHouse(t, nil).dial, script, "S: ", "O: ")
		})
	}
}

// TestCyrus plays the same with the real Cyrus at ANGARIUM_CYRUS (host:port of a
// private one with users u1 and u2, password secret): the dialogues say what it
// says, or what they say is worth nothing.
func TestCyrus(t *testing.T) {
	addr := os.Getenv("ANGARIUM_CYRUS")
	if addr == "" {
		t.Skip("no real Cyrus: ANGARIUM_CYRUS is not set")
	}
	for name, script := range dialogues(t) {
		t.Run(name, func(t *testing.T) {
			h := &house{t: t, addr: addr}
			tidy(h)
			play(t, h.dial, script, "S: ", "P: ")
		})
	}
}

// tidy removes what an earlier run left.
func tidy(h *house) {
	k, admin := h.login("u1"), h.login("cyrus")
	var names []string
	for _, l := range k.ok(`LIST "" *`) {
		if f := strings.Fields(l); f[1] == "LIST" && strings.HasPrefix(f[len(f)-1], "INBOX.") {
			names = append(names, f[len(f)-1])
		}
	}
	for _, n := range slices.Backward(names) {
		n = "user.u1" + strings.TrimPrefix(n, "INBOX")
		admin.ok("SETACL " + n + " cyrus lrswipkxtea")
		if out := admin.cmd("DELETE " + n); strings.Contains(out[0], "already exists") {
			time.Sleep(1100 * time.Millisecond) // Cyrus can't delete one name twice in a second
			admin.ok("DELETE " + n)
		}
	}
	for _, l := range k.ok(`LIST (SUBSCRIBED) "" *`) {
		if f := strings.Fields(l); f[1] == "LIST" {
			k.ok("UNSUBSCRIBE " + f[len(f)-1])
		}
	}
	k.ok("SELECT INBOX")
	k.ok(`STORE 1:* +FLAGS.SILENT (\Deleted)`)
	k.ok("CLOSE")
}

func dialogues(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no dialogues", err)
	}
	scripts := map[string]string{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		scripts[strings.TrimSuffix(filepath.Base(f), ".txt")] = string(data)
	}
	return scripts
}

// play sends what a script says and compares what comes with the lines of the
// kinds that count.
func play(t *testing.T, dial func() *talk, script string, kinds ...string) {
	clients := map[string]*talk{}
	var pending []string
	n, sent := 0, ""
	nothingLeft := func() {
		for _, l := range pending {
			t.Errorf("line %d: %s\n  unexpected: %s", n, sent, l)
		}
		pending = nil
	}
	for line := range strings.Lines(script) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if len(line) < 3 || line[0] == '#' {
			continue
		}
		who, text := line[:3], line[3:]
		if strings.Contains("S: O: P: ", who) {
			if !slices.Contains(kinds, who) {
				continue
			}
			got := "nothing"
			if len(pending) > 0 {
				got, pending = pending[0], pending[1:]
			}
			if !alike(text, got) {
				t.Errorf("line %d: %s\n   got: %s\n  want: %s", n, sent, got, text)
			}
			continue
		}
		nothingLeft()
		if clients[who] == nil {
			clients[who] = dial()
			clients[who].t = t
		}
		sent = text
		text = literals.ReplaceAllStringFunc(text, func(s string) string { return literal(s[4 : len(s)-1]) })
		for _, l := range clients[who].cmd(strings.ReplaceAll(text, "}~", "}\r\n")) {
			if !strings.Contains(l, "URLMECH") && !strings.Contains(l, "[ANNOTATIONS 65536]") {
				pending = append(pending, l)
			}
		}
	}
	nothingLeft()
}

// alike compares with what is wanted, in which /x/ is a regular expression.
func alike(want, got string) bool {
	parts := strings.Split(want, "/")
	if len(parts)%2 == 0 || len(parts) == 1 {
		return want == got
	}
	var re strings.Builder
	re.WriteString("^")
	for i, p := range parts {
		if i%2 == 0 {
			re.WriteString(regexp.QuoteMeta(p))
		} else {
			re.WriteString(p)
		}
	}
	return regexp.MustCompile(re.String() + "$").MatchString(got)
}
