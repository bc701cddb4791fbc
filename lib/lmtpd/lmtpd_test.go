package lmtpd

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/store"
)

// lmtp is a client that talks to a server of its own.
type lmtp struct {
	t   *testing.T
	c   net.Conn
	r   *bufio.Reader
	log *bytes.Buffer
	st  *store.Store
}

func newLMTP(t *testing.T, change func(*Config)) *lmtp {
	t.Helper()
	dir := t.TempDir()
	st, err := store.Open(context.Background(), store.Config{
		ConfigDirectory: filepath.Join(dir, "conf"), DefaultPartition: "default",
		Partitions: map[string]string{"default": filepath.Join(dir, "spool")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	for _, u := range []string{"user.u1", "user.u2", "user.u1.Sent", "user.u1.Private", "lists.go"} {
		e := store.Entry{Name: mailbox.Name(u)}
		if u == "user.u1.Sent" || u == "lists.go" {
			e.ACL = store.ACL{{ID: "anyone", Rights: store.RightPost | store.RightLookup}}
		}
		if _, err := st.Create(context.Background(), e); err != nil {
			t.Fatal(err)
		}
	}
	conf := Config{
		Hostname: "here.test", Version: "3.6.1-Angarium", Store: st, Downcase: true,
		Namespace: mailbox.Namespace{UnixSep: true, Alt: true},
		Seen:      &Duplicates{Dir: filepath.Join(dir, "conf", "deliver")},
		Now:       func() time.Time { return time.Date(2026, 11, 22, 19, 4, 7, 0, time.UTC) },
	}
	if change != nil {
		change(&conf)
	}
	l := &lmtp{t: t, log: &bytes.Buffer{}, st: st}
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		New(conf).Serve(context.Background(), b, maillog.New(maillog.ToWriter(l.log), "cyrus/lmtpunix"))
		close(done)
	}()
	l.c, l.r = a, bufio.NewReader(a)
	t.Cleanup(func() { a.Close(); <-done })
	l.expect("220 here.test Cyrus LMTP 3.6.1-Angarium server ready")
	return l
}

// reply reads one reply, its lines joined.
func (l *lmtp) reply() string {
	l.t.Helper()
	var lines []string
	for {
		_ = l.c.SetDeadline(time.Now().Add(10 * time.Second))
		line, err := l.r.ReadString('\n')
		if err != nil {
			l.t.Fatal(err)
		}
		line = strings.TrimSuffix(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] == ' ' {
			return strings.Join(lines, "\n")
		}
	}
}

var sessionID = regexp.MustCompile(`<here.test-[0-9]+-[0-9]+-[0-9]+-[0-9]+>`)

func (l *lmtp) expect(want string) {
	l.t.Helper()
	if got := sessionID.ReplaceAllString(l.reply(), "<ID>"); got != want {
		l.t.Errorf("got  %q\nwant %q", got, want)
	}
}

func (l *lmtp) say(line, want string) {
	l.t.Helper()
	_ = l.c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := l.c.Write([]byte(line + "\r\n")); err != nil {
		l.t.Fatal(err)
	}
	l.expect(want)
}

// stored is the content of a mailbox's messages.
func (l *lmtp) stored(name mailbox.Name) []string {
	l.t.Helper()
	m, err := l.st.Open(context.Background(), name, store.User{})
	if err != nil {
		l.t.Fatal(err)
	}
	defer m.Close()
	v, err := m.View(context.Background())
	if err != nil {
		l.t.Fatal(err)
	}
	var out []string
	for i := range v.Len() {
		b, err := m.Body(context.Background(), v.At(i).UID)
		if err != nil {
			l.t.Fatal(err)
		}
		text, _ := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
		b.Close()
		out = append(out, string(text))
	}
	return out
}

const (
	ok      = "250 2.1.5 Success SESSIONID=<ID>"
	nobody  = "550-Mailbox unknown.  Either there is no mailbox associated with this\n550-name or you do not have authorization to see it.\n550 5.1.1 User unknown"
	hello   = "250-here.test\n250-8BITMIME\n250-ENHANCEDSTATUSCODES\n250-PIPELINING\n250-SIZE\n250-IGNOREQUOTA\n250 Ok SESSIONID=<ID>"
	goAhead = "354 go ahead"
)

// TestManyErrors: a mailing list with many unknown users, in a connection that is
// kept for long, costs nobody his mail.
func TestManyErrors(t *testing.T) {
	l := newLMTP(t, nil)
	for _, c := range [][2]string{
		{"HELO mx", "500 5.5.2 Syntax error"}, {"LHLO", "500 5.5.2 Syntax error"}, {"FOO", "500 5.5.2 Syntax error"},
		{"LHLO me.test", hello}, {"RCPT TO:<u1>", "503 5.5.1 Need MAIL command"}, {"DATA", "503 5.5.1 No recipients"},
	} {
		l.say(c[0], c[1])
	}
	for range 120 {
		l.say("NOOP", "250 2.0.0 ok")
	}
	l.say("MAIL FROM:<a@b>", "250 2.1.0 ok")
	l.say("MAIL FROM:<a@b>", "503 5.5.1 Nested MAIL command")
	l.say("DATA", "503 5.5.1 No recipients")
	for range 50 {
		l.say("RCPT TO:<nobody@here.test>", nobody)
	}
	l.say("RCPT TO:<u1@here.test>", "250 2.1.5 ok")
	l.say("DATA", goAhead)
	l.say("Subject: x\r\n\r\nhi\r\n.", ok)
}

// TestDialogue has what the running Cyrus 3.6 said to the same lines.
func TestDialogue(t *testing.T) {
	l := newLMTP(t, nil)
	l.say("LHLO me.test", hello)
	l.say("VRFY u1", "252 2.3.3 try RCPT to attempt delivery")
	for _, c := range [][2]string{
		{"STARTTLS", "500 5.5.2 Syntax error"}, {"RSET x", "500 5.5.2 Syntax error"}, {"RSET", "250 2.0.0 Ok SESSIONID=<ID>"},
		{"MAIL FROM:a@b", "501 5.5.4 Syntax error in parameters"}, {"MAIL FROM:<a@b", "501 5.5.4 Syntax error in parameters"},
		{"MAIL FROM:<a@b> SIZE=x", "501 5.5.2 SIZE requires a value"}, {"MAIL FROM:<a@b> FOO=BAR", "501 5.5.4 Unrecognized parameters"},
		{"MAIL FROM:<a@b> BODY=BINARYMIME", "501 5.5.4 Unrecognized BODY type"}, {"MAIL FROM:<>", "250 2.1.0 ok"},
		{"RCPT TO:u1", "501 5.5.4 Syntax error in parameters"}, {"RCPT TO:<u1", "501 5.5.4 Syntax error in parameters"},
		{"RCPT TO:<u1> FOO", "501 5.5.4 Unrecognized parameters"}, {"RSET", "250 2.0.0 Ok SESSIONID=<ID>"},
	} {
		l.say(c[0], c[1])
	}
	l.say("MAIL FROM:<a@there.test>", "250 2.1.0 ok")
	l.say("RCPT TO:<nosuch>", nobody)
	l.say("RCPT TO:<U1@anywhere.test>", "250 2.1.5 ok")
	l.say("RCPT TO:<u2> IGNOREQUOTA", "250 2.1.5 ok")
	l.say("RCPT TO:<u1+nofolder@here.test>", "250 2.1.5 ok") // into the INBOX, which has it already
	l.say("RCPT TO:<u1+Sent>", "250 2.1.5 ok")
	l.say("RCPT TO:<+lists/go>", "250 2.1.5 ok")
	l.say("RCPT TO:<+user/u1>", nobody)
	l.say("RCPT TO:<../../etc>", nobody)
	l.say("DATA", goAhead)
	letter := "From: a@there.test\r\nSubject: lunch\r\nMessage-ID: <1@there.test>\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\n\r\nhello \x00 \xe9\r\n..dot\r\nno end \r x\r\n"
	l.say(strings.ReplaceAll(letter, "\r\n.", "\r\n..")+".", ok)
	for range 4 {
		l.expect(ok)
	}
	trace := "Return-Path: <a@there.test>\r\nReceived: from me.test ([unix socket])\r\n\t by here.test (Cyrus 3.6.1-Angarium) with LMTPA;\r\n\t Sun, 22 Nov 2026 19:04:07 +0000\r\n" +
		"X-Cyrus-Session-Id: ID\r\nX-Sieve: CMU Sieve 3.0\r\n"
	for _, name := range []mailbox.Name{"user.u1", "user.u2", "user.u1.Sent", "lists.go"} {
		got := l.stored(name)
		if len(got) != 1 {
			t.Fatalf("%s has %d messages", name, len(got))
		}
		id := regexp.MustCompile(`Id: here.test-[-0-9]+\r`)
		if g := id.ReplaceAllString(got[0], "Id: ID\r"); g != trace+letter {
			t.Errorf("%s has\n%q, want\n%q", name, g, trace+letter)
		}
	}
	// The same again: told the same, not stored.
	l.say("MAIL FROM:<>", "250 2.1.0 ok")
	l.say("RCPT TO:<u2>", "250 2.1.5 ok")
	l.say("DATA", goAhead)
	l.say(letter+".", ok)
	if n := len(l.stored("user.u2")); n != 1 {
		t.Errorf("a duplicate was stored: %d", n)
	}
	l.say("QUIT", "221 2.0.0 bye")
	for _, want := range []string{"Delivered: <1@there.test> to mailbox: user.u2",
		"dupelim: eliminated duplicate message to user.u2 id <1@there.test> date Sun, 22 Nov 2026 10:00:00 +0000 (delivery)"} {
		if !strings.Contains(l.log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, l.log)
		}
	}
}

func TestQuotaAndSize(t *testing.T) {
	l := newLMTP(t, func(c *Config) { c.MaxSize = 2000 })
	err := l.st.Update(context.Background(), "user.u1", func(e *store.Entry) error {
		e.IsQuotaRoot, e.Quota = true, store.Quota{Storage: 1000, Messages: -1}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	send := func(body string, rcpt string, want string) {
		t.Helper()
		l.say("MAIL FROM:<a@there.test>", "250 2.1.0 ok")
		l.say("RCPT TO:"+rcpt, "250 2.1.5 ok")
		l.say("DATA", goAhead)
		l.say("Subject: x\r\n\r\n"+body+"\r\n.", want)
	}
	l.say("LHLO me.test", "250-here.test\n250-8BITMIME\n250-ENHANCEDSTATUSCODES\n250-PIPELINING\n250-SIZE 2000\n250-IGNOREQUOTA\n250 Ok SESSIONID=<ID>")
	send("small", "<u1>", ok)
	send(strings.Repeat("large ", 150), "<u1>", "452 4.2.2 Over quota SESSIONID=<ID>")
	send(strings.Repeat("large ", 150), "<u1> IGNOREQUOTA", ok)
	l.say("MAIL FROM:<a@there.test> SIZE=3000", "552 5.3.4 Message size exceeds fixed limit")
}

func TestNoAuth(t *testing.T) {
	l := newLMTP(t, func(c *Config) { c.PreAuth = func(net.Conn) bool { return false } })
	l.say("LHLO me.test", hello)
	l.say("MAIL FROM:<a@there.test>", "430 Authentication required")
}

func TestDuplicates(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	a := &Duplicates{Dir: dir, Now: func() time.Time { return now }}
	b := &Duplicates{Dir: dir, Now: func() time.Time { return now }}
	a.Mark("<1@x>", "d", "user.bob")
	for _, c := range []struct {
		id, date string
		name     mailbox.Name
		want     bool
	}{
		{"<1@x>", "d", "user.bob", true},
		{"<1@x>", "e", "user.bob", false},       // another message with its id
		{"<1@x>", "d", "user.bob.Lists", false}, // a copy to a folder is none
		{"<2@x>", "d", "user.bob", false},
		{"", "d", "user.bob", false},
	} {
		for i, d := range []*Duplicates{a, b} {
			if got := d.Has(c.id, c.date, c.name); got != c.want {
				t.Errorf("%d: %v: %v", i, c, got)
			}
		}
	}
	now = now.AddDate(0, 0, 2)
	if !b.Has("<1@x>", "d", "user.bob") {
		t.Error("forgotten after two days")
	}
	now = now.AddDate(0, 0, 1)
	if b.Has("<1@x>", "d", "user.bob") {
		t.Error("remembered after three days")
	}
	b.Mark("<3@x>", "d", "user.bob")
	if _, err := os.Stat(filepath.Join(dir, "20261122")); err == nil {
		t.Error("the day that is over is still there")
	}
}

func TestPeek(t *testing.T) {
	long := "Subject: " + strings.Repeat("x", 100000) + "\nMessage-ID: <far>\n\nb\n"
	for _, c := range []struct{ in, id, date string }{
		{"", "", ""},
		{"\n", "", ""},
		{"body only", "", ""},
		{"message-id:\n <1@x>\nDATE : now\n\nMessage-ID: <2>\n", "<1@x>", "now"},
		{"Message-ID: <1>\nMessage-ID: <2>\n", "<1>", ""},
		{long, "", ""},
	} {
		for _, step := range []int{1, 7, 1 << 20} {
			m, err := peek(&slow{r: strings.NewReader(c.in), n: step})
			if err != nil {
				t.Fatal(err)
			}
			all, err := io.ReadAll(m)
			if want := strings.ReplaceAll(c.in, "\n", "\r\n"); err != nil || string(all) != want {
				t.Errorf("%.40q by %d: %v, %d octets, want %d", c.in, step, err, len(all), len(want))
			}
			if m.id != c.id || m.date != c.date {
				t.Errorf("%.40q: %q %q", c.in, m.id, m.date)
			}
			m.free()
		}
	}
}

// slow gives n octets at a time.
type slow struct {
	r io.Reader
	n int
}

func (s *slow) Read(b []byte) (int, error) { return s.r.Read(b[:min(len(b), s.n)]) }

func FuzzPeek(f *testing.F) {
	f.Add([]byte("Message-ID: <1>\n\nx"), 3)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		m, err := peek(&slow{r: bytes.NewReader(in), n: 1 + step&1023})
		if err != nil {
			t.Fatal(err)
		}
		defer m.free()
		all, err := io.ReadAll(m)
		if want := bytes.ReplaceAll(in, []byte("\n"), []byte("\r\n")); err != nil || !bytes.Equal(all, want) {
			t.Fatalf("altered: %v", err)
		}
	})
}
