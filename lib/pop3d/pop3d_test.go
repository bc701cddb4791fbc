package pop3d

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"angarium/lib/maillog"
	"angarium/lib/sasl"
)

// users knows bob and ann, with the password "secret".
type users struct{}

func (users) Verify(_ context.Context, user, password string) (string, error) {
	switch {
	case user == "disk":
		return "", errors.New("disk on fire")
	case user != "bob" && user != "ann" && user != "boss":
		return "", &sasl.Error{Code: sasl.CodeBadAuth, What: "user not found", Text: "checkpass failed"}
	case password != "secret":
		return "", &sasl.Error{Code: sasl.CodeBadAuth, Text: "checkpass failed"}
	}
	return user, nil
}

func (u users) Secret(ctx context.Context, user string) (string, string, error) {
	if _, err := u.Verify(ctx, user, "secret"); err != nil {
		return "", "", err
	}
	return "secret", user, nil
}

// house is an Opener with one maildrop, bob's.
type house struct {
	mu     sync.Mutex
	open   bool
	texts  []string
	gone   []int
	fail   error
	broken bool
}

func (h *house) Open(_ context.Context, user string) (Maildrop, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case user != "bob":
		return nil, ErrNotFound
	case h.open:
		return nil, ErrBusy
	case h.fail != nil:
		return nil, h.fail
	}
	h.open = true
	return &drop{h: h, texts: slices.Clone(h.texts)}, nil
}

func (h *house) Name(user string) string { return "user." + user }

type drop struct {
	h     *house
	texts []string
}

func (d *drop) Name() string        { return "user.bob" }
func (d *drop) UIDValidity() uint32 { return 1795372852 }
func (d *drop) Len() int            { return len(d.texts) }
func (d *drop) Message(i int) Message {
	return Message{uint32(i + 1), int64(len(d.texts[i]))}
}

func (d *drop) Body(_ context.Context, i int) (Body, error) {
	if d.h.broken {
		return nil, errors.New("no such file")
	}
	return body{strings.NewReader(d.texts[i])}, nil
}

func (d *drop) Remove(_ context.Context, which []int) error {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	d.h.gone = append(d.h.gone, which...)
	return d.h.fail
}

func (d *drop) Seen(context.Context, []int) error { return nil }

func (d *drop) Close() error {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	d.h.open = false
	return nil
}

type body struct{ *strings.Reader }

func (body) Close() error { return nil }

// sink keeps the log.
type sink struct {
	mu    sync.Mutex
	lines []string
}

func (s *sink) Log(_ time.Time, pri maillog.Priority, _ string, _ int64, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pri < maillog.Debug {
		s.lines = append(s.lines, text)
	}
	return nil
}

func (s *sink) has(line string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.lines, line)
}

func fresh() *house {
	return &house{texts: []string{
		"Subject: one\r\n\r\nHello\r\n.dot\r\n..two\r\nend\r\n",
		"Subject: two\r\nX: y\r\n\r\nl1\r\nl2\r\nl3\r\n",
		"Subject: three\r\n\r\n",
	}}
}

// stock is what Cyrus was set to when these dialogues were noted.
func stock() Config {
	return Config{Host: "localhost", Product: "Cyrus POP3 3.6.1-X", Prefix: "cyrus", Plaintext: true, APOP: true, Secrets: true}
}

// client is one connection to a server under test.
type client struct {
	t *testing.T
	net.Conn
	*bufio.Reader
	log      *sink
	greeting string
}

func dial(t *testing.T, conf Config, h *house, shared *Shared) *client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	log := &sink{}
	srv := New(conf, users{}, h, shared)
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := ln.Accept()
		if err == nil {
			srv.Serve(context.Background(), nc, maillog.New(log, "cyrus/pop3"))
		}
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { nc.Close(); <-done })
	c := &client{t: t, Conn: nc, Reader: bufio.NewReader(nc), log: log}
	c.greeting = c.line()
	return c
}

func (c *client) line() string {
	line, err := c.ReadString('\n')
	if err != nil {
		return "<" + err.Error() + ">"
	}
	return strings.TrimSuffix(line, "\r\n")
}

func (c *client) say(line string) string {
	fmt.Fprintf(c.Conn, "%s\r\n", line)
	return c.line()
}

var sessionID = regexp.MustCompile(`<cyrus-\d+-\d+-\d+-\d+>`)

// play runs a dialogue as it was noted from Cyrus: "C: " and "S: " lines.
func (c *client) play(script string) {
	c.t.Helper()
	for i, line := range strings.Split(strings.TrimSpace(script), "\n") {
		line = strings.TrimPrefix(line, "\t")
		if cmd, ok := strings.CutPrefix(line, "C: "); ok {
			fmt.Fprintf(c.Conn, "%s\r\n", cmd)
			continue
		}
		want := strings.TrimPrefix(line, "S: ")
		if got := sessionID.ReplaceAllString(c.line(), "<>"); got != want {
			c.t.Fatalf("line %d: %q, want %q", i+1, got, want)
		}
	}
}

func TestDialogue(t *testing.T) {
	h := fresh()
	c := dial(t, stock(), h, nil)
	if !regexp.MustCompile(`^\+OK localhost Cyrus POP3 3.6.1-X server ready <\d+\.\d+@localhost>$`).MatchString(c.greeting) {
		t.Error(c.greeting)
	}
	c.play(beforeLogin)
	c.play(afterLogin)
	if got := c.line(); got != "<EOF>" {
		t.Errorf("after QUIT: %q", got)
	}
	if !slices.Equal(h.gone, []int{1}) {
		t.Errorf("removed %v", h.gone)
	}
	for _, line := range []string{
		"badlogin: [127.0.0.1] plaintext (nouser) [SASL(-13): user not found: checkpass failed]",
		"badlogin: [127.0.0.1] plaintext (bob) [SASL(-13): authentication failure: checkpass failed]",
		"Unable to open maildrop user.ann: Mailbox does not exist",
		"badlogin: [127.0.0.1] FOO (-notset-) [no mechanism available]",
		"badlogin: [127.0.0.1] PLAIN (bob) [SASL(-13): authentication failure: checkpass failed]",
		"badlogin: [127.0.0.1] LOGIN (bob) [SASL(-13): authentication failure: checkpass failed]",
		"counts: retr=<1> top=<3> dele=<2>",
	} {
		if !c.log.has(line) {
			t.Errorf("no log line %q in %q", line, c.log.lines)
		}
	}
	if l := sessionID.ReplaceAllString(strings.Join(c.log.lines, "\n"), "<>"); !strings.Contains(l, "login: [127.0.0.1] bob plaintext User logged in SESSIONID=<>\n") {
		t.Errorf("no login in %q", l)
	}
}

const beforeLogin = `
C: foo
S: -ERR Unrecognized command
C: NOOP
S: -ERR Unrecognized command
C: STLS
S: -ERR Unrecognized command
C: CAPA x
S: -ERR Unexpected extra argument
C: CAPA
S: +OK List of capabilities follows
S: SASL CRAM-MD5 PLAIN LOGIN
S: EXPIRE NEVER
S: LOGIN-DELAY 0
S: TOP
S: UIDL
S: PIPELINING
S: RESP-CODES
S: AUTH-RESP-CODE
S: USER
S: IMPLEMENTATION Cyrus POP3 3.6.1-X
S: .
C: USER
S: -ERR Missing argument
C: PASS x
S: -ERR [AUTH] Must give USER command
C: USER nouser
S: +OK Name is a valid mailbox
C: USER bob
S: -ERR [AUTH] Must give PASS command
C: PASS x
S: -ERR [AUTH] Invalid login
C: USER  bob
S: +OK Name is a valid mailbox
C: PASS  secret
S: -ERR [AUTH] Invalid login
C: pass secret
S: -ERR [AUTH] Must give USER command
C: USER disk
S: +OK Name is a valid mailbox
C: PASS secret
S: -ERR [SYS/TEMP] Login is not possible now
C: USER ann
S: +OK Name is a valid mailbox
C: PASS secret
S: -ERR [SYS/TEMP] Unable to open maildrop: Mailbox does not exist
C: AUTH
S: +OK List of supported mechanisms follows
S: CRAM-MD5
S: PLAIN
S: LOGIN
S: .
C: AUTH FOO
S: -ERR [AUTH] authenticating: no mechanism available
C: AUTH PLAIN
S: + 
C: *
S: -ERR [AUTH] Client canceled authentication
C: AUTH PLAIN AGJvYgBiYWQ=
S: -ERR [AUTH] authenticating: authentication failure
C: AUTH PLAIN =
S: -ERR [AUTH] authenticating: bad protocol / cancel
C: AUTH PLAIN YW5uAGJvYgBzZWNyZXQ=
S: -ERR [AUTH] authenticating: authorization failure
C: AUTH LOGIN
S: + VXNlcm5hbWU6
C: Ym9i
S: + UGFzc3dvcmQ6
C: YmFk
S: -ERR [AUTH] authenticating: authentication failure
C: APOP
S: -ERR Missing argument
C: APOP bob
S: -ERR [AUTH] authenticating: bad protocol / cancel
C: USER bob
S: +OK Name is a valid mailbox
C: PASS secret
S: +OK Mailbox locked and ready SESSIONID=<>
`

const afterLogin = `
C: USER bob
S: -ERR Unrecognized command
C: AUTH
S: -ERR Unrecognized command
C: STAT
S: +OK 3 93
C: STAT x
S: -ERR Unexpected extra argument
C: LIST
S: +OK scan listing follows
S: 1 41
S: 2 34
S: 3 18
S: .
C: LIST 1
S: +OK 1 41
C: LIST 4
S: -ERR No such message
C: LIST 0
S: -ERR No such message
C: LIST x
S: -ERR Not a number
C: LIST 1 2
S: -ERR Unexpected extra argument
C: LIST -1
S: -ERR Not a number
C: LIST 99999999999999999999
S: -ERR No such message
C: UIDL
S: +OK unique-id listing follows
S: 1 1795372852.1
S: 2 1795372852.2
S: 3 1795372852.3
S: .
C: UIDL 1
S: +OK 1 1795372852.1
C: UIDL 9
S: -ERR No such message
C: RETR
S: -ERR Missing argument
C: RETR x
S: -ERR Not a number
C: RETR 1
S: +OK Message follows
S: Subject: one
S: 
S: Hello
S: ..dot
S: ...two
S: end
S: .
C: TOP 1 0
S: +OK Message follows
S: Subject: one
S: 
S: .
C: TOP 1 2
S: +OK Message follows
S: Subject: one
S: 
S: Hello
S: ..dot
S: .
C: TOP 3 7
S: +OK Message follows
S: Subject: three
S: 
S: .
C: TOP 1
S: -ERR Missing argument
C: TOP 1 x
S: -ERR Invalid number of lines
C: TOP 9 1
S: -ERR No such message
C: TOP 1 1 1
S: -ERR Unexpected extra argument
C: TOP 2 -1
S: -ERR Invalid number of lines
C: DELE
S: -ERR Missing argument
C: DELE 1
S: +OK message deleted
C: DELE 1
S: -ERR No such message
C: RETR 1
S: -ERR No such message
C: LIST
S: +OK scan listing follows
S: 2 34
S: 3 18
S: .
C: UIDL
S: +OK unique-id listing follows
S: 2 1795372852.2
S: 3 1795372852.3
S: .
C: STAT
S: +OK 2 52
C: LAST
S: -ERR Unrecognized command
C: NOOP x
S: -ERR Unexpected extra argument
C: RSET
S: +OK
C: STAT
S: +OK 3 93
C: DELE 2
S: +OK message deleted
C: QUIT x
S: -ERR Unexpected extra argument
C: QUIT
S: +OK
`

func login(t *testing.T, c *client) {
	t.Helper()
	c.say("USER bob")
	if got := c.say("PASS secret"); !strings.HasPrefix(got, "+OK Mailbox locked") {
		t.Fatal(got)
	}
}

// A session that breaks off removes nothing (RFC 1939, 6).
func TestNoQuit(t *testing.T) {
	h := fresh()
	c := dial(t, stock(), h, nil)
	login(t, c)
	c.say("DELE 1")
	c.Conn.Close()
	waitClosed(t, h)
	if len(h.gone) != 0 {
		t.Errorf("removed %v", h.gone)
	}
}

func waitClosed(t *testing.T, h *house) {
	t.Helper()
	for range 1000 {
		h.mu.Lock()
		open := h.open
		h.mu.Unlock()
		if !open {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the maildrop stays locked")
}

func TestOneSession(t *testing.T) {
	h := fresh()
	a := dial(t, stock(), h, nil)
	login(t, a)
	b := dial(t, stock(), h, nil)
	b.say("USER bob")
	if got := b.say("PASS secret"); got != "-ERR [IN-USE] Unable to lock maildrop: Mailbox is locked by POP server" {
		t.Error(got)
	}
	a.say("QUIT")
	waitClosed(t, h)
	login(t, b)
}

func TestRemoveFails(t *testing.T) {
	h := fresh()
	c := dial(t, stock(), h, nil)
	login(t, c)
	c.say("DELE 1")
	h.fail = errors.New("disk on fire")
	if got := c.say("QUIT"); !strings.HasPrefix(got, "-ERR [SYS/TEMP]") {
		t.Error(got)
	}
}

func TestUnreadable(t *testing.T) {
	h := fresh()
	h.broken = true
	c := dial(t, stock(), h, nil)
	login(t, c)
	if got := c.say("RETR 1"); got != "-ERR [SYS/PERM] Could not read message file" {
		t.Error(got)
	}
}

// Without TLS no password in clear, unless configured.
func TestClearText(t *testing.T) {
	conf := stock()
	conf.Plaintext, conf.Info, conf.Expire, conf.MinPoll = false, "min", 5, time.Minute
	c := dial(t, conf, fresh(), nil)
	c.play(`
C: CAPA
S: +OK List of capabilities follows
S: SASL CRAM-MD5
S: EXPIRE 5
S: LOGIN-DELAY 60
S: TOP
S: UIDL
S: PIPELINING
S: RESP-CODES
S: AUTH-RESP-CODE
S: .
C: USER bob
S: -ERR [AUTH] USER command only available under a layer
C: PASS secret
S: -ERR [AUTH] Must give USER command
C: AUTH PLAIN AGJvYgBzZWNyZXQ=
S: -ERR [AUTH] authenticating: encryption needed to use mechanism
C: QUIT
S: +OK
`)
	conf.TLSRequired, conf.Plaintext = true, true
	c = dial(t, conf, fresh(), nil)
	c.play(`
C: USER bob
S: -ERR [AUTH] USER command only available under a layer
C: AUTH CRAM-MD5
S: -ERR [AUTH] AUTH command only available under a layer
C: APOP bob x
S: -ERR [AUTH] APOP command only available under a layer
C: QUIT
S: +OK
`)
}

func TestDigests(t *testing.T) {
	c := dial(t, stock(), fresh(), nil)
	stamp := c.greeting[strings.IndexByte(c.greeting, '<'):]
	apop := func(password string) string {
		sum := md5.Sum([]byte(stamp + password))
		return c.say("APOP bob " + hex.EncodeToString(sum[:]))
	}
	if got := apop("wrong"); got != "-ERR [AUTH] authenticating: authentication failure" {
		t.Error(got)
	}
	if got := apop("secret"); !strings.HasPrefix(got, "+OK Mailbox locked and ready SESSIONID=<cyrus-") {
		t.Error(got)
	}
	c = dial(t, stock(), fresh(), nil)
	challenge, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(c.say("AUTH CRAM-MD5"), "+ "))
	if err != nil {
		t.Fatal(err)
	}
	m := hmac.New(md5.New, []byte("secret"))
	m.Write(challenge)
	if got := c.say(base64.StdEncoding.EncodeToString([]byte("bob " + hex.EncodeToString(m.Sum(nil))))); !strings.HasPrefix(got, "+OK Mailbox") {
		t.Error(got)
	}
	conf := stock()
	conf.APOP = false
	c = dial(t, conf, fresh(), nil)
	if strings.Contains(c.greeting, "<") || c.say("APOP bob x") != "-ERR Unrecognized command" {
		t.Error("APOP is switched off, yet offered:", c.greeting)
	}
}

func TestAuthorizeAs(t *testing.T) {
	conf := stock()
	conf.AuthorizeAs = func(id, other string) bool { return id == "boss" && other == "bob" }
	c := dial(t, conf, fresh(), nil)
	plain := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	if got := c.say("AUTH PLAIN " + plain("bob\x00ann\x00secret")); got != "-ERR [AUTH] authenticating: authorization failure" {
		t.Error(got)
	}
	if got := c.say("AUTH PLAIN " + plain("bob\x00boss\x00secret")); !strings.HasPrefix(got, "+OK Mailbox") {
		t.Error(got)
	}
}

func TestPipelined(t *testing.T) {
	c := dial(t, stock(), fresh(), nil)
	io.WriteString(c.Conn, "USER bob\r\nPASS secret\nSTAT\r\nLIST 1\r\nQUIT\r\n")
	all, _ := io.ReadAll(c.Reader)
	if got := sessionID.ReplaceAllString(string(all), "<>"); got != "+OK Name is a valid mailbox\r\n+OK Mailbox locked and ready SESSIONID=<>\r\n+OK 3 93\r\n+OK 1 41\r\n+OK\r\n" {
		t.Errorf("%q", got)
	}
}

func TestLimits(t *testing.T) {
	shared := NewShared()
	conf := stock()
	conf.MaxPerUser, conf.MinPoll = 1, time.Hour
	h := fresh()
	a := dial(t, conf, h, shared)
	login(t, a)
	b := dial(t, conf, h, shared)
	b.say("USER bob")
	if got := b.say("PASS secret"); got != "-ERR Too many open connections (user)" {
		t.Error(got)
	}
	a.say("QUIT")
	waitClosed(t, h)
	for range 1000 { // the count goes down a moment after
		b.say("USER bob")
		if got := b.say("PASS secret"); got == "-ERR [LOGIN-DELAY] Logins must be at least 60 minutes apart" {
			return
		} else if got != "-ERR Too many open connections (user)" {
			t.Fatal(got)
		}
	}
}

func TestPollPadding(t *testing.T) {
	sh := NewShared()
	now := time.Now()
	for i, c := range []struct {
		after time.Duration
		early bool
	}{{0, false}, {0, false}, {0, true}, {time.Minute, false}, {0, true}, {3 * time.Minute, false}, {0, false}, {0, true}} {
		now = now.Add(c.after)
		if got := sh.early("bob", time.Minute, 2, now); got != c.early {
			t.Errorf("%d: %v", i, got)
		}
	}
}

func TestUIDL(t *testing.T) {
	for format, want := range map[string]string{
		"cyrus": "+OK 2 1795372852.2", "uidonly": "+OK 2 2", "courier": "+OK 2 1795372852-2", "dovecot": "+OK 2 000000026b033734",
	} {
		conf := stock()
		conf.UIDL = format
		c := dial(t, conf, fresh(), nil)
		login(t, c)
		if got := c.say("UIDL 2"); got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
}
