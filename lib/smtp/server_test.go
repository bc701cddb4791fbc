package smtp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"angarium/lib/dsn"
)

// testSession takes everything but what its fields refuse.
type testSession struct {
	mu      sync.Mutex
	c       *Conn
	from    string
	rcpts   []string
	content []byte
	all     []string // every message taken
	odd     []string
	end     *End
	reject  map[string]Reply // by recipient
	perRcpt bool
	readErr error
	early   int // stop reading content after so many bytes
}

func (s *testSession) Connect(context.Context) Reply              { return Reply{} }
func (s *testSession) Helo(context.Context, string, string) Reply { return Reply{} }
func (s *testSession) Data(context.Context) Reply                 { return Reply{} }
func (s *testSession) Reset()                                     { s.from, s.rcpts = "", nil }
func (s *testSession) Etrn(context.Context, string) Reply         { return Reply{} }
func (s *testSession) Mail(_ context.Context, m Mail) Reply       { s.from = m.From.String(); return Reply{} }
func (s *testSession) Odd(what Oddity, verb, text string)         { s.odd = append(s.odd, text) }
func (s *testSession) End(e End)                                  { s.end = &e }
func (s *testSession) Mechanisms() []string                       { return nil }
func (s *testSession) AuthAllowed(context.Context) Reply {
	return Reply{503, "5.5.1", "Error: authentication not enabled"}
}
func (s *testSession) Auth(context.Context, string) (Exchange, Reply) { return nil, Reply{} }
func (s *testSession) AuthDone(context.Context, string, Exchange, error) Reply {
	return Reply{}
}

func (s *testSession) Rcpt(_ context.Context, r Rcpt) Reply {
	if r, ok := s.reject[r.To.String()]; ok {
		return r
	}
	s.rcpts = append(s.rcpts, r.To.String())
	return Reply{}
}

func (s *testSession) Content(_ context.Context, body io.Reader) []Reply {
	var buf bytes.Buffer
	var err error
	if s.early > 0 {
		_, err = io.CopyN(&buf, body, int64(s.early))
		if err == nil {
			return []Reply{{451, "4.3.0", "Error: disk full"}}
		}
	} else {
		_, err = io.Copy(&buf, body)
	}
	s.content, s.readErr = buf.Bytes(), err
	if err != nil {
		return []Reply{Fail(err)}
	}
	s.mu.Lock()
	s.all = append(s.all, buf.String())
	s.mu.Unlock()
	if s.perRcpt {
		var out []Reply
		for _, r := range s.rcpts {
			out = append(out, Reply{250, "2.1.5", "<" + r + "> Ok"})
		}
		return out
	}
	return []Reply{{250, "2.0.0", "Ok: queued as 4675B9B2122"}}
}

// talk sends all of input to a server and returns everything it said.
func talk(t testing.TB, srv *Server, sess *testSession, input string) string {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(context.Background(), b, func(c *Conn) Session { sess.c = c; return sess })
	}()
	go func() {
		_, _ = io.WriteString(a, input)
		_, _ = io.WriteString(a, "QUIT\r\n")
	}()
	_ = a.SetReadDeadline(time.Now().Add(30 * time.Second))
	out, err := io.ReadAll(a)
	if err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("reading: %v", err)
	}
	a.Close()
	<-done
	return strings.ReplaceAll(string(out), "\r\n", "\n")
}

func testServer() *Server {
	return &Server{Hostname: "mail.bench.test", Size: 104857600, HardErrors: 1000, SoftErrors: 1000}
}

// ehlo is the answer to EHLO.
const ehlo = `250-mail.bench.test
250-PIPELINING
250-SIZE 104857600
250-VRFY
250-ETRN
250-ENHANCEDSTATUSCODES
250-8BITMIME
250-DSN
250-SMTPUTF8
250 CHUNKING
`

// dialogues are commands and the replies of Postfix 3.7.11 to them.
// TestDialogue asks us, TestPeer the real one where it is installed.
func dialogues() [][]string {
	return [][]string{
		{"EHLO a.test", ehlo, "FOO", "500 5.5.2 Error: command not recognized\n",
			"MAIL", "501 5.5.4 Syntax: MAIL FROM:<address>\n",
			"MAIL FROM", "501 5.5.4 Syntax: MAIL FROM:<address>\n",
			"MAIL FROM:", "501 5.5.4 Syntax: MAIL FROM:<address>\n",
			"MAIL FROM:<a", "501 5.1.7 Bad sender address syntax\n",
			"MAIL FROM:<a@b", "501 5.1.7 Bad sender address syntax\n",
			"RSET", "250 2.0.0 Ok\n", "RSET x", "501 5.5.4 Syntax: RSET\n",
			"RCPT TO:<root>", "503 5.5.1 Error: need MAIL command\n",
			"DATA", "503 5.5.1 Error: need RCPT command\n",
			"MAIL FROM:<a@b.test> SIZE=abc", "501 5.5.4 Bad message size syntax\n",
			"MAIL FROM:<a@b.test> SIZE=999999999999", "552 5.3.4 Message size exceeds fixed limit\n",
			"MAIL FROM:<a@b.test> SIZE=99999999999999999999999", "552 5.3.4 Message size exceeds file system imposed limit\n",
			"MAIL FROM:<a@b.test> FOO=bar", "555 5.5.4 Unsupported option: FOO=bar\n",
			"MAIL FROM:<a@b.test> BODY=foo", "555 5.5.4 Unsupported option: BODY=foo\n"},
		{"MAIL FROM:<a@b.test>", "250 2.1.0 Ok\n",
			"MAIL FROM:<c@b.test>", "503 5.5.1 Error: nested MAIL command\n",
			"RCPT TO:<root", "501 5.1.3 Bad recipient address syntax\n",
			"RCPT TO:<a b@c.test>", "501 5.1.3 Bad recipient address syntax\n",
			"RCPT", "501 5.5.4 Syntax: RCPT TO:<address>\n",
			"RCPT TO:<>", "501 5.1.3 Bad recipient address syntax\n",
			"RCPT TO:<root> FOO", "555 5.5.4 Unsupported option: FOO\n",
			"DATA", "554 5.5.1 Error: no valid recipients\n",
			"RCPT TO:<root@mail.bench.test> NOTIFY=FOO", "501 5.5.4 Error: Bad NOTIFY parameter syntax\n",
			"RCPT TO:<root@mail.bench.test> NOTIFY=NEVER,SUCCESS", "501 5.5.4 Error: Bad NOTIFY parameter syntax\n",
			"RCPT TO:<root@mail.bench.test> ORCPT=foo", "501 5.5.4 Error: Bad ORCPT parameter syntax\n",
			"RCPT TO:<postmaster>", "250 2.1.5 Ok\n",
			"DATA x", "501 5.5.4 Syntax: DATA\n"},
		{"HELO", "501 Syntax: HELO hostname\n", "EHLO", "501 Syntax: EHLO hostname\n",
			"HELO a b", "250 mail.bench.test\n", "EHLO a b", ehlo,
			"NOOP", "250 2.0.0 Ok\n", "  NOOP x y", "250 2.0.0 Ok\n", "noop", "250 2.0.0 Ok\n",
			"", "500 5.5.2 Error: bad syntax\n",
			"VRFY", "501 5.5.4 Syntax: VRFY address [SMTPUTF8]\n",
			"VRFY root", "252 2.0.0 root\n",
			"VRFY foo bar", "501 5.1.3 Bad recipient address syntax\n",
			"EXPN x", "500 5.5.2 Error: command not recognized\n",
			"HELP", "500 5.5.2 Error: command not recognized\n",
			"ETRN", "500 Syntax: ETRN domain\n", "ETRN relay.test", "250 Queuing started\n",
			"NOOP " + strings.Repeat("x", 3000), "250 2.0.0 Ok\n",
			"STARTTLS x", "501 5.5.4 Syntax: STARTTLS\n",
			"AUTH", "503 5.5.1 Error: authentication not enabled\n",
			"NO\x00OP", "500 5.5.2 Error: command not recognized\n",
			"MAIL FROM:<a\x00b@b.test>", "501 5.1.7 Bad sender address syntax\n",
			"MAIL FROM:<\xe9@b.test>", "500 5.5.2 Error: bad UTF-8 syntax\n",
			"BDAT", "521 5.5.4 Syntax: BDAT count [LAST]\n"},
		{"EHLO x", ehlo, "MAILFROM:<a>", "221 2.7.0 Error: I can break rules, too. Goodbye.\n"},
		{"EHLO x", ehlo, "GET / HTTP/1.0", "221 2.7.0 Error: I can break rules, too. Goodbye.\n"},
		{"EHLO x", ehlo, "QUIT x", "221 2.0.0 Bye\n"},
	}
}

func TestDialogue(t *testing.T) {
	for _, script := range dialogues() {
		var in, want strings.Builder
		want.WriteString("220 mail.bench.test ESMTP\n")
		for i := 0; i < len(script); i += 2 {
			in.WriteString(script[i] + "\r\n")
			want.WriteString(script[i+1])
		}
		got := talk(t, testServer(), &testSession{}, in.String())
		if last := script[len(script)-1]; !strings.HasPrefix(last, "221") && !strings.HasPrefix(last, "521") {
			want.WriteString("221 2.0.0 Bye\n")
		}
		if got != want.String() {
			t.Errorf("dialogue of %q:\n%s\nwant:\n%s", in.String(), got, want.String())
		}
	}
}

// Paths as Postfix 3.7.11 takes and refuses them.
func TestPath(t *testing.T) {
	for in, want := range map[string]string{
		"<a@b@c.test>": "a@b@c.test", "<a..b@c.test>": "a..b@c.test", "<.a@c.test>": ".a@c.test",
		"<a@b.test.>": "a@b.test.", "<a@.b.test>": "!", "<a@b..test>": "!", "<a@>": "!",
		`<"a"@b.test>`: "a@b.test", `<"a\"b"@b.test>`: `a"b@b.test`, `<"a@b.test>`: "!",
		`<a\ b@b.test>`: "a b@b.test", "<a,b@c.test>": "!", "<a;b@c.test>": "!", "<(a)b@c.test>": "b@c.test",
		"<a>b@c.test>": "!", "<a@b.test>x": "!", "<\xc3\xa9@b.test>": "\xc3\xa9@b.test",
		"<a!b>": "a!b", "<a%b>": "a%b", "<a@[1.2.3.4]>": "a@[1.2.3.4]", "<a@[IPv6:::1]>": "a@[IPv6:::1]",
		"<a@[::1]>": "!", "<a@[bad]>": "!", "<a@1.2.3.4>": "!", "<a@b_c>": "a@b_c", "<a@b c>": "!", "<a b@c.test>": "!",
		"< a@b.test >": "a@b.test", "<a @b.test>": "a@b.test", "<a@-b.test>": "!", "<>": "", "a@b.test": "a@b.test",
		"<a@b.test": "!", `<"">`: "", `<""@c.test>`: "@c.test", "<a\tb@c.test>": "!",
		"<@x.test,@y.test:c@d.test>": "c@d.test", "<a@" + strings.Repeat("x", 70) + ".test>": "!",
		"a@b.test>": "a@b.test", "<<a@b.test>>": "a@b.test", "<Joe <a@b.test>>": "a@b.test", "<@b.test>": "@b.test",
		"<a:b@c.test>": "a:b@c.test", `<"a"b@c.test>`: "!", `<a"b"@c.test>`: "!", `<"a"."b"@c.test>`: "a.b@c.test", `<a@"b".test>`: "!",
	} {
		a, ok := parsePath(in, false)
		got := a.String()
		if !ok {
			got = "!"
		}
		if a.Local == "" && a.Domain != "" {
			got = "@" + a.Domain
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{"a@b.test", "<(x)a@b.test>", "<<a@b.test>>", `<""@b.test>`} {
		if _, ok := parsePath(in, true); ok {
			t.Errorf("strict: %s was taken", in)
		}
	}
}

// Parameters as Postfix 3.7.11 takes and refuses them: not twice, and not without
// their value. What stands for itself has no value.
func TestParameters(t *testing.T) {
	all := allowed{DSN: true, UTF8: true}
	unsupported := func(arg string) Reply { return Reply{555, "5.5.4", "Unsupported option: " + arg} }
	badRet, badID := Reply{501, "5.5.4", "Bad RET parameter syntax"}, Reply{501, "5.5.4", "Bad ENVID parameter syntax"}
	for in, want := range map[string]Reply{
		"RET=FULL": {}, "RET=FULL RET=HDRS": badRet, "RET=": badRet, "RET": unsupported("RET"),
		"ENVID=a ENVID=b": badID, "ENVID=": badID, "ENVID=+xx": badID, "ENVID": unsupported("ENVID"),
		"ENVID=" + strings.Repeat("x", 101): {}, "AUTH=<>": {}, "AUTH": unsupported("AUTH"), "SIZE": unsupported("SIZE"),
		"SMTPUTF8": {}, "SMTPUTF8=1": unsupported("SMTPUTF8=1"), "BODY=BINARYMIME": unsupported("BODY=BINARYMIME"),
	} {
		if got := parseMail(&Mail{}, in, all); got != want {
			t.Errorf("MAIL %.20s: %v, want %v", in, got, want)
		}
	}
	badNotify, badORCPT := Reply{501, "5.5.4", "Error: Bad NOTIFY parameter syntax"}, Reply{501, "5.5.4", "Error: Bad ORCPT parameter syntax"}
	for in, want := range map[string]Reply{
		"NOTIFY=SUCCESS,DELAY": {}, "NOTIFY=NEVER NOTIFY=DELAY": badNotify, "NOTIFY=NEVER,DELAY": badNotify, "NOTIFY": unsupported("NOTIFY"),
		"ORCPT=rfc822;a": {}, "ORCPT=rfc822;": {}, "ORCPT=;a": badORCPT, "ORCPT=rfc822;a ORCPT=rfc822;b": badORCPT, "ORCPT": unsupported("ORCPT"),
	} {
		if got, _ := parseRcpt(&Rcpt{}, in, false, all); got != want {
			t.Errorf("RCPT %s: %v, want %v", in, got, want)
		}
	}
	for _, in := range []string{"RET=FULL", "ENVID=x"} {
		if got := parseMail(&Mail{}, in, allowed{}); got != noDSN {
			t.Errorf("MAIL %s without DSN: %v", in, got)
		}
	}
	for _, in := range []string{"NOTIFY=NEVER", "ORCPT=rfc822;a"} {
		if got, _ := parseRcpt(&Rcpt{}, in, false, allowed{}); got != noDSN {
			t.Errorf("RCPT %s without DSN: %v", in, got)
		}
	}
}

const envelope = "EHLO a\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<b@b.test>\r\n"

// Each content is sent in pieces of every small size.
func TestContent(t *testing.T) {
	for in, want := range map[string]string{
		"Subject: x\r\n\r\nhello\r\n.\r\n":         "Subject: x\n\nhello\n",
		".\r\n":                                    "",
		"..\r\n...\r\n.x\r\n.\r\n":                 ".\n..\nx\n",
		"a\x00b\xff\r\nc\rd\r\ne\r\r\n.\r\n":       "a\x00b\xff\nc\rd\ne\r\n",
		"a\r\n.\r\r\nb\r\n.\r\n":                   "a\n\r\nb\n",
		"a\n.\nb\r\n.\r\n":                         "a\nb\n",      // LF.LF
		"a\n.\r\nb\r\n.\r\n":                       "a\nb\n",      // LF.CRLF
		"a\r\n.\nb\r\n.\r\n":                       "a\nb\n",      // CRLF.LF
		"a\r.\rb\r\n.\r\n":                         "a\r.\rb\n",   // CR.CR
		"a\r.\r\nb\r\n.\r\n":                       "a\r.\nb\n",   // CR.CRLF
		"a\r\r\n.\r\n":                             "a\r\n",       // CRCRLF.CRLF is an end: CRLF stands before the dot
		"a\n..\r\nb\n\n.\n.\r\n.\r\n":              "a\n.\nb\n\n", // stuffed behind a bare LF
		strings.Repeat("x", 100000) + "\r\n.\r\n":  strings.Repeat("x", 100000) + "\n",
		strings.Repeat("\r", 40000) + "\r\n.\r\n":  strings.Repeat("\r", 40000) + "\n",
		strings.Repeat("..\r\n", 20000) + ".\r\n":  strings.Repeat(".\n", 20000),
		strings.Repeat("\n", 70000) + "\r\n.\r\n":  strings.Repeat("\n", 70001),
		"MAIL FROM:<evil@b.test>\r\nQUIT\r\n.\r\n": "MAIL FROM:<evil@b.test>\nQUIT\n",
	} {
		for _, size := range []int{1, 2, 3, 7, 256, 257, 1 << 20} {
			if size < 7 && len(in) > 5000 {
				continue
			}
			sess := &testSession{}
			out := talkInPieces(t, testServer(), sess, envelope+"DATA\r\n"+in, size)
			if len(sess.all) != 1 || sess.all[0] != want {
				t.Errorf("pieces of %d: %.80q became %.80q, want %.80q\n%s", size, in, sess.all, want, out)
			}
			if !strings.HasSuffix(out, "250 2.0.0 Ok: queued as 4675B9B2122\n221 2.0.0 Bye\n") {
				t.Errorf("pieces of %d: %.80q: %s", size, in, out)
			}
		}
	}
}

func talkInPieces(t testing.TB, srv *Server, sess *testSession, input string, size int) string {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(context.Background(), b, func(c *Conn) Session { sess.c = c; return sess })
	}()
	go func() {
		for in := input + "QUIT\r\n"; in != ""; {
			n := min(size, len(in))
			if _, err := io.WriteString(a, in[:n]); err != nil {
				return
			}
			in = in[n:]
		}
	}()
	_ = a.SetReadDeadline(time.Now().Add(30 * time.Second))
	out, _ := io.ReadAll(a)
	a.Close()
	<-done
	return strings.ReplaceAll(string(out), "\r\n", "\n")
}

func TestContentByRead(t *testing.T) {
	in := []byte("a\r\n..b\r\n\r\rc\n.\r\nd\r\n.\r\n")
	want := "a\n.b\n\r\rc\nd\n"
	for size := 1; size < 9; size++ {
		var u unstuff
		var out []byte
		dst := make([]byte, size)
		for src, end := in, false; !end; {
			var n, used int
			n, used, end = u.decode(dst, src)
			if n == 0 && used == 0 {
				t.Fatalf("size %d: stuck at %q", size, src)
			}
			out, src = append(out, dst[:n]...), src[used:]
		}
		if string(out) != want {
			t.Errorf("size %d: %q", size, out)
		}
	}
}

func TestBareNewlineReject(t *testing.T) {
	srv := testServer()
	srv.BareNewline = RejectNewline
	sess := &testSession{}
	out := talk(t, srv, sess, envelope+"DATA\r\na\nb\r\n.\r\nNOOP\r\n")
	if !strings.HasSuffix(out, "550 5.5.2 mail.bench.test Error: bare <LF> received\n250 2.0.0 Ok\n221 2.0.0 Bye\n") || len(sess.all) > 0 {
		t.Errorf("%v %s", sess.all, out)
	}
	out = talk(t, srv, sess, "NOOP\n")
	if !strings.HasSuffix(out, "550 5.5.2 mail.bench.test Error: bare <LF> received\n") {
		t.Error(out)
	}
}

func TestBdat(t *testing.T) {
	for _, c := range []struct{ in, out, content string }{
		{"BDAT 4\r\nabcdBDAT 2 LAST\r\n\r\n", "250 2.0.0 Ok: 4 bytes\n250 2.0.0 Ok: queued as 4675B9B2122\n", "abcd\n"},
		{"BDAT 3 LAST\r\n.\r\n", "250 2.0.0 Ok: queued as 4675B9B2122\n", ".\n"},
		{"BDAT 3 LAST\r\nabc", "250 2.0.0 Ok: queued as 4675B9B2122\n", "abc\n"},
		{"BDAT 0 LAST\r\n", "250 2.0.0 Ok: queued as 4675B9B2122\n", ""},
		{"BDAT 2\r\na\rBDAT 1\r\n\nNOOP\r\nBDAT 2 LAST\r\nb\r", "250 2.0.0 Ok: 2 bytes\n250 2.0.0 Ok: 1 bytes\n250 2.0.0 Ok\n250 2.0.0 Ok: queued as 4675B9B2122\n", "a\nb\r\n"},
		{"BDAT 2\r\na\rBDAT 0\r\nBDAT 1 LAST\r\nx", "250 2.0.0 Ok: 2 bytes\n551 5.7.1 Null BDAT request\n551 5.0.0 Discarded 1 bytes after earlier error\n", "-"},
		{"BDAT 0\r\nBDAT 1 LAST\r\nx", "551 5.7.1 Null BDAT request\n551 5.0.0 Discarded 1 bytes after earlier error\n", "-"},
		{"BDAT 1\r\n\rBDAT 1\r\n\rBDAT 1 LAST\r\nx", "250 2.0.0 Ok: 1 bytes\n250 2.0.0 Ok: 1 bytes\n250 2.0.0 Ok: queued as 4675B9B2122\n", "\r\rx\n"},
		{"BDAT 4\r\nabcdMAIL FROM:<x@y.test>\r\nRCPT TO:<x@y.test>\r\nDATA\r\nBDAT 0 LAST\r\n",
			"250 2.0.0 Ok: 4 bytes\n503 5.5.1 Error: nested MAIL command\n503 5.5.1 Error: RCPT after BDAT\n503 5.5.1 Error: DATA after BDAT\n250 2.0.0 Ok: queued as 4675B9B2122\n", "abcd\n"},
		{"BDAT 4\r\nabcdRSET\r\nNOOP\r\n", "250 2.0.0 Ok: 4 bytes\n250 2.0.0 Ok\n250 2.0.0 Ok\n", "-"},
		{"RSET\r\nBDAT 4\r\nabcdBDAT 2 LAST\r\n\r\n", "250 2.0.0 Ok\n503 5.5.1 Error: need RCPT command\n551 5.0.0 Discarded 2 bytes after earlier error\n", "-"},
		{"BDAT 99999999999\r\n", "521 5.3.4 Chunk exceeds message size limit\n", "-"},
	} {
		for _, size := range []int{1, 5, 1000} {
			sess := &testSession{}
			out := talkInPieces(t, testServer(), sess, envelope+c.in, size)
			_, out, _ = strings.Cut(out, "250 2.1.5 Ok\n")
			if strings.TrimSuffix(out, "221 2.0.0 Bye\n") != c.out {
				t.Errorf("%q in %d: got\n%s\nwant\n%s", c.in, size, out, c.out)
			}
			got := "-"
			if len(sess.all) == 1 {
				got = sess.all[0]
			}
			if got != c.content {
				t.Errorf("%q in %d: content %q, want %q", c.in, size, got, c.content)
			}
		}
	}
}

func TestTooLarge(t *testing.T) {
	srv := testServer()
	srv.Size = 1000
	sess := &testSession{}
	out := talk(t, srv, sess, envelope+"DATA\r\n"+strings.Repeat("0123456789\r\n", 5000)+".\r\nNOOP\r\n")
	if !strings.HasSuffix(out, "552 5.3.4 Error: message file too big\n250 2.0.0 Ok\n221 2.0.0 Bye\n") || len(sess.all) > 0 {
		t.Error(out)
	}
	sess = &testSession{early: 10}
	out = talk(t, testServer(), sess, envelope+"DATA\r\n"+strings.Repeat("0123456789\r\n", 5000)+".\r\nNOOP\r\n")
	if !strings.HasSuffix(out, "451 4.3.0 Error: disk full\n250 2.0.0 Ok\n221 2.0.0 Bye\n") {
		t.Error(out)
	}
	sess = &testSession{early: 2}
	out = talk(t, testServer(), sess, envelope+"BDAT 6\r\nabcdefBDAT 3 LAST\r\nabcNOOP\r\n")
	if !strings.HasSuffix(out, "451 4.3.0 Error: disk full\n551 5.0.0 Discarded 3 bytes after earlier error\n250 2.0.0 Ok\n221 2.0.0 Bye\n") {
		t.Error(out)
	}
}

func TestLMTP(t *testing.T) {
	srv := testServer()
	srv.LMTP = true
	sess := &testSession{perRcpt: true, reject: map[string]Reply{"no@b.test": {550, "5.1.1", "User unknown"}}}
	out := talk(t, srv, sess, "EHLO a\r\nLHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\nRCPT TO:<no@b.test>\r\nRCPT TO:<c@b.test>\r\nDATA\r\nx\r\n.\r\n")
	if !strings.HasPrefix(out, "220 mail.bench.test LMTP\n500 5.5.2 Syntax error\n250-mail.bench.test\n") ||
		!strings.HasSuffix(out, "550 5.1.1 User unknown\n250 2.1.5 Ok\n354 go ahead\n250 2.1.5 <a@b.test> Ok\n250 2.1.5 <c@b.test> Ok\n221 2.0.0 bye\n") {
		t.Error(out)
	}
}

func TestLimits(t *testing.T) {
	srv := testServer()
	srv.HardErrors, srv.Recipients, srv.Overshoot, srv.JunkCommands, srv.HeloRequired = 4, 2, 1, 3, true
	sess := &testSession{}
	out := talk(t, srv, sess, "MAIL FROM:<a@b.test>\r\nRCPT TO:<x>\r\nDATA\r\nVRFY root\r\nETRN x\r\nNOOP\r\n")
	want := "503 5.5.1 Error: send HELO/EHLO first\n503 5.5.1 Error: need MAIL command\n503 5.5.1 Error: need RCPT command\n252 2.0.0 root\n" +
		"503 Error: send HELO/EHLO first\n421 4.7.0 mail.bench.test Error: too many errors\n"
	if !strings.HasSuffix(out, want) || sess.end == nil || sess.end.Reason != TooManyErrors || sess.end.After != "ETRN" {
		t.Errorf("%+v\n%s", sess.end, out)
	}
	if got := sess.c.Counts(); got != " mail=0/1 rcpt=0/1 data=0/1 vrfy=1 etrn=0/1 commands=1/5" {
		t.Error(got)
	}
	out = talk(t, srv, sess, envelope+strings.Repeat("RCPT TO:<b@b.test>\r\n", 9))
	if n := strings.Count(out, "452 4.5.3 Error: too many recipients\n"); n != 5 || !strings.HasSuffix(out, "too many errors\n") {
		t.Errorf("%d: %s", n, out)
	}
	out = talk(t, srv, sess, strings.Repeat("NOOP\r\n", 20))
	if n := strings.Count(out, "250 2.0.0 Ok\n"); n != 8 {
		t.Errorf("%d: %s", n, out)
	}
}

func TestSoftBounceAndMultiline(t *testing.T) {
	srv := testServer()
	srv.SoftBounce = true
	sess := &testSession{reject: map[string]Reply{"b@b.test": {550, "5.1.1", "one\ntwo\x01"}}}
	out := talk(t, srv, sess, envelope)
	if !strings.Contains(out, "450-4.1.1 one\n450 4.1.1 two?\n") {
		t.Error(out)
	}
}

func TestPipelining(t *testing.T) {
	srv := testServer()
	srv.ForbidPipelining = true
	sess := &testSession{}
	out := talk(t, srv, sess, "EHLO a\r\nMAIL FROM:<a@b.test>\r\n")
	if !strings.HasSuffix(out, "554 5.5.0 Error: SMTP protocol synchronization\n") || len(sess.odd) != 1 || sess.odd[0] != "MAIL FROM:<a@b.test>\r\n" {
		t.Errorf("%q %s", sess.odd, out)
	}
}

func TestTimeoutAndLost(t *testing.T) {
	srv := testServer()
	srv.Timeout = 50 * time.Millisecond
	for _, in := range []string{"EHLO a\r\nNO", envelope + "DATA\r\nabc\r\n"} {
		a, b := net.Pipe()
		sess := &testSession{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			srv.Serve(context.Background(), b, func(c *Conn) Session { return sess })
		}()
		go io.WriteString(a, in)
		out, _ := io.ReadAll(a)
		<-done
		if !strings.HasSuffix(string(out), "421 4.4.2 mail.bench.test Error: timeout exceeded\r\n") || sess.end.Reason != TimedOut {
			t.Errorf("%+v %s", sess.end, out)
		}
		if len(sess.all) > 0 {
			t.Error("half a message was taken")
		}
	}
	a, b := net.Pipe()
	sess := &testSession{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		testServer().Serve(context.Background(), b, func(c *Conn) Session { return sess })
	}()
	go func() {
		io.WriteString(a, envelope+"DATA\r\nabc\r\ndef\r\n")
		a.Close()
	}()
	io.Copy(io.Discard, a)
	<-done
	if sess.end.Reason != Lost || sess.end.After != "DATA (10 bytes)" {
		t.Errorf("%+v", sess.end)
	}
}

func TestStop(t *testing.T) {
	a, b := net.Pipe()
	sess := &testSession{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		testServer().Serve(ctx, b, func(c *Conn) Session { return sess })
	}()
	r := bufio.NewReader(a)
	r.ReadString('\n')
	cancel()
	line, _ := r.ReadString('\n')
	<-done
	if line != "421 4.3.2 mail.bench.test Service shutting down\r\n" || sess.end.Reason != Stopped {
		t.Errorf("%q %+v", line, sess.end)
	}
}

func testCert(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail.bench.test"}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"mail.bench.test"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// What was pipelined behind STARTTLS in clear must not be done under TLS.
func TestStartTLSForgets(t *testing.T) {
	srv := testServer()
	srv.TLS, srv.TLSRequired = testCert(t), true
	a, b := net.Pipe()
	sess := &testSession{}
	go srv.Serve(context.Background(), b, func(c *Conn) Session { return sess })
	go io.WriteString(a, "EHLO a\r\nMAIL FROM:<x@y.test>\r\nSTARTTLS\r\nMAIL FROM:<evil@b.test>\r\n")
	r := bufio.NewReader(a)
	var said strings.Builder
	for {
		l, err := r.ReadString('\n')
		said.WriteString(l)
		if err != nil || strings.HasPrefix(l, "220 2.0.0") {
			break
		}
	}
	if !strings.Contains(said.String(), "530 5.7.0 Must issue a STARTTLS command first\r\n220 2.0.0 Ready to start TLS\r\n") {
		t.Fatal(said.String())
	}
	c := tls.Client(a, &tls.Config{InsecureSkipVerify: true})
	go io.WriteString(c, "RCPT TO:<b@b.test>\r\n")
	l, err := bufio.NewReader(c).ReadString('\n')
	if l != "503 5.5.1 Error: need MAIL command\r\n" {
		t.Errorf("%q %v", l, err)
	}
	c.Close()
}

type plainExchange struct{ got string }

func (p *plainExchange) Next(_ context.Context, r []byte) ([]byte, bool, error) {
	if r == nil {
		return []byte{}, false, nil
	}
	p.got = string(r)
	if p.got != "\x00bob\x00secret" {
		return nil, false, errors.New("wrong")
	}
	return nil, true, nil
}

type authSession struct {
	testSession
	last *plainExchange
}

func (s *authSession) Mechanisms() []string              { return []string{"PLAIN"} }
func (s *authSession) AuthAllowed(context.Context) Reply { return Reply{} }
func (s *authSession) Auth(_ context.Context, mech string) (Exchange, Reply) {
	if !strings.EqualFold(mech, "PLAIN") {
		return nil, Fail(dsn.New(535, "5.7.8", "Error: authentication failed: Invalid authentication mechanism"))
	}
	s.last = &plainExchange{}
	return s.last, Reply{}
}

func TestAuth(t *testing.T) {
	for in, want := range map[string]string{
		"AUTH PLAIN AGJvYgBzZWNyZXQ=\r\nAUTH PLAIN\r\n":   "235 2.7.0 Authentication successful\n503 5.5.1 Error: already authenticated\n",
		"AUTH plain\r\nAGJvYgBzZWNyZXQ=\r\n":              "334 \n235 2.7.0 Authentication successful\n",
		"AUTH PLAIN\r\n*\r\n":                             "334 \n501 5.7.0 Authentication aborted\n",
		"AUTH PLAIN ====\r\n":                             "535 5.7.8 Error: authentication failed: another step is needed in authentication\n",
		"AUTH PLAIN AGJvYgBzZWNyZXI=\r\n":                 "535 5.7.8 Error: authentication failed: authentication failure\n",
		"AUTH FOO\r\n":                                    "535 5.7.8 Error: authentication failed: Invalid authentication mechanism\n",
		"AUTH\r\n":                                        "501 5.5.4 Syntax: AUTH mechanism\n",
		"MAIL FROM:<>\r\nAUTH PLAIN AGJvYgBzZWNyZXQ=\r\n": "250 2.1.0 Ok\n503 5.5.1 Error: MAIL transaction in progress\n",
	} {
		a, b := net.Pipe()
		go testServer().Serve(context.Background(), b, func(c *Conn) Session { return &authSession{} })
		go io.WriteString(a, "EHLO a\r\n"+in+"QUIT\r\n")
		out, _ := io.ReadAll(a)
		got := strings.ReplaceAll(string(out), "\r\n", "\n")
		if !strings.Contains(got, "250-AUTH PLAIN\n250-ENHANCED") || !strings.HasSuffix(got, "250 CHUNKING\n"+want+"221 2.0.0 Bye\n") {
			t.Errorf("%q: %s", in, got)
		}
	}
}

func ExampleReply_String() {
	fmt.Println(Reply{550, "5.1.1", "no\nsuch user"})
	// Output: 550 5.1.1 no such user
}

// A client that speaks before it is greeted.
func TestEarlyTalker(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := io.WriteString(a, "EHLO x\r\n"); err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := b.(*net.TCPConn).SyscallConn()
	_ = raw.Read(func(fd uintptr) bool { // until it has come
		n, _, _ := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return n > 0
	})
	s := &testSession{}
	done := make(chan struct{})
	go func() {
		(&Server{Hostname: "mail.here.test", ForbidPipelining: true}).Serve(context.Background(), b, func(*Conn) Session { return s })
		close(done)
	}()
	<-done
	_ = a.SetReadDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 100)
	n, _ := a.Read(buf)
	if got := string(buf[:n]); got != "554 5.5.0 Error: SMTP protocol synchronization\r\n" {
		t.Errorf("%q", got)
	}
	if len(s.odd) != 1 || s.odd[0] != "EHLO x\r\n" {
		t.Errorf("%q", s.odd)
	}
}
