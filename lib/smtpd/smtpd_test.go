package smtpd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"angarium/lib/access"
	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/dsn"
	"angarium/lib/maillog"
	"angarium/lib/route"
	"angarium/lib/sasl"
	"angarium/lib/smtp"
)

// fakeCleaner keeps messages in memory.
type fakeCleaner struct {
	mu   sync.Mutex
	n    int
	got  []*fakeLetter
	fail error // of Commit
	full error // of Space
}

type fakeLetter struct {
	bytes.Buffer
	c                *fakeCleaner
	id               string
	env              Envelope
	rcpts            []string
	done, aborted    bool
	hold             bool
	filter, redirect string
	notify           agent.Notify
	orcpt            string
	traced           bool
}

func (c *fakeCleaner) Space(int64) error { return c.full }
func (c *fakeCleaner) Begin(_ context.Context, e Envelope) (Letter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	l := &fakeLetter{c: c, id: fmt.Sprintf("4F1A23C%d", c.n), env: e}
	c.got = append(c.got, l)
	return l, nil
}

func (l *fakeLetter) ID() string { return l.id }
func (l *fakeLetter) Trace(b []byte) error {
	l.traced = true
	_, err := l.Write(b)
	return err
}
func (l *fakeLetter) Recipient(_ context.Context, r agent.Recipient) error {
	l.rcpts = append(l.rcpts, r.Address.String())
	l.notify, l.orcpt = r.Notify, r.ORCPT
	return nil
}
func (l *fakeLetter) Commit(context.Context) error { l.done = l.c.fail == nil; return l.c.fail }
func (l *fakeLetter) Abort()                       { l.aborted = !l.done }
func (l *fakeLetter) Hold()                        { l.hold = true }
func (l *fakeLetter) Filter(s string) error        { l.filter = s; return nil }
func (l *fakeLetter) Redirect(s string) error      { l.redirect = s; return nil }
func (l *fakeLetter) BCC(_ context.Context, a string) error {
	l.rcpts = append(l.rcpts, "bcc:"+a)
	return nil
}

type names map[string]string

func (n names) PTR(_ context.Context, a netip.Addr) ([]string, error) {
	if v, ok := n[a.String()]; ok {
		return []string{v}, nil
	}
	return nil, errors.New("no such name")
}

func (n names) Addrs(_ context.Context, host string) ([]netip.Addr, error) {
	if v, ok := n["forward:"+host]; ok {
		return []netip.Addr{netip.MustParseAddr(v)}, nil
	}
	return nil, errors.New("no address")
}

type mapTable map[string]string

func (m mapTable) Lookup(_ context.Context, key string) (string, bool, error) {
	v, ok := m[key]
	if v == "!" {
		return "", false, errors.New("table trouble")
	}
	return v, ok, nil
}

type domains []string

func (d domains) Match(_ context.Context, name string) (bool, error) {
	for _, s := range d {
		if strings.EqualFold(s, name) {
			return true, nil
		}
	}
	return false, nil
}

type passwords map[string]string

func (p passwords) Verify(_ context.Context, user, password string) (string, error) {
	if user == "trouble" {
		return "", errors.New("disk trouble")
	}
	if p[user] != password || password == "" {
		return "", &sasl.Error{Code: sasl.CodeBadAuth}
	}
	return user, nil
}

// clientConn has the address of a client on the Internet.
type clientConn struct {
	net.Conn
	addr string
}

func (c clientConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.addr))
}

// house is a server with two local users.
type house struct {
	t       *testing.T
	c       Config
	cleaner *fakeCleaner
	log     strings.Builder
	client  string
}

func newHouse(t *testing.T, change func(*Config, *access.Config)) *house {
	h := &house{t: t, cleaner: &fakeCleaner{}, client: "192.0.2.7:4321"}
	r := route.New(route.Config{MyHostname: "mail.here.test", MyOrigin: "here.test", MyDomain: "here.test", AppendAtMyOrigin: true, SwapBangPath: true, PercentHack: true,
		MyDestination: domains{"here.test"}, VirtualAliasDomains: domains{"va.test"}, RelayDomains: domains{"relay.test"}, VirtualMailboxDomains: domains{"vm.test"},
		OwnAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, LocalTransport: "local:mail.here.test", DefaultTransport: "smtp", RelayTransport: "relay", VirtualTransport: "virtual"})
	rcpts := &Recipients{Router: r, Local: mapTable{"bob": "x", "joe": "x", "trouble": "!"}, VirtualAlias: mapTable{"a@va.test": "bob"}, Delimiters: "+"}
	ac := access.Config{MyNetworks: func(a netip.Addr) bool { return a.IsLoopback() }, Destination: rcpts.Destination, Listed: rcpts.Listed, Parents: true,
		Open: func(string) (access.Table, error) {
			return mapTable{"hold@x.test": "HOLD", "disc@x.test": "DISCARD", "prep@x.test": "PREPEND X-Test: yes", "redir@x.test": "REDIRECT joe@here.test", "filt@x.test": "FILTER smtp:[x]"}, nil
		}}
	h.c = Config{Server: &smtp.Server{Hostname: "mail.here.test", Size: 100000, ErrorSleep: 0}, Banner: "mail.here.test ESMTP Postfix", MyName: "mail.here.test", Service: "smtp",
		DelayReject: true, RelayFirst: true, CheckRecipient: true, Recipients: rcpts, Cleaner: h.cleaner,
		Resolver: names{"192.0.2.7": "mx.example.net", "forward:mx.example.net": "192.0.2.7", "192.0.2.8": "liar.example.net", "forward:liar.example.net": "192.0.2.99", "127.0.0.1": "localhost", "forward:localhost": "127.0.0.1"}}
	if change != nil {
		change(&h.c, &ac)
	}
	h.c.Policy = access.New(ac)
	if h.c.Relay == nil {
		h.c.Relay = h.c.Policy.Parse(access.Recipient, "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination")
	}
	return h
}

// talk sends all lines and returns what was answered; the log is in h.log.
func (h *house) talk(lines ...string) string {
	h.t.Helper()
	a, b := net.Pipe()
	h.log.Reset()
	log := maillog.New(maillog.ToWriter(&h.log), "postfix/smtpd")
	done := make(chan struct{})
	go func() {
		defer close(done)
		New(h.c).Serve(context.Background(), clientConn{b, h.client}, log, false)
	}()
	go func() { _, _ = io.WriteString(a, strings.Join(lines, "\r\n")+"\r\n") }()
	_ = a.SetReadDeadline(time.Now().Add(30 * time.Second))
	out, err := io.ReadAll(a)
	if err != nil && !errors.Is(err, io.ErrClosedPipe) {
		h.t.Errorf("%v", err)
	}
	a.Close()
	<-done
	return strings.ReplaceAll(string(out), "\r\n", "\n")
}

// logged are the lines of the last session, without their prefix.
func (h *house) logged() string {
	return regexp.MustCompile(`(?m)^.*?\]: `).ReplaceAllString(h.log.String(), "")
}

func TestAccept(t *testing.T) {
	h := newHouse(t, nil)
	out := h.talk("EHLO mx.example.net", "MAIL FROM:<a@far.test> BODY=8BITMIME RET=HDRS ENVID=x", "RCPT TO:<Bob+lists@here.test> NOTIFY=SUCCESS", "DATA", "Subject: hi", "", "..dot", ".", "QUIT")
	if !strings.HasSuffix(out, "250 2.1.0 Ok\n250 2.1.5 Ok\n354 End data with <CR><LF>.<CR><LF>\n250 2.0.0 Ok: queued as 4F1A23C1\n221 2.0.0 Bye\n") {
		t.Error(out)
	}
	l := h.cleaner.got[0]
	if !l.done || l.env.Sender != address.Parse("a@far.test") || l.env.Encoding != "8bit" || l.env.Ret != "HDRS" || l.env.EnvID != "x" || l.notify != agent.NotifySuccess || l.env.Local {
		t.Errorf("%+v", l)
	}
	want := `^Received: from mx\.example\.net \(mx\.example\.net \[192\.0\.2\.7\]\)
	by mail\.here\.test \(Postfix\) with ESMTP id 4F1A23C1
	for <Bob\+lists@here\.test>; \w{3}, [ \d]\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4} \(\S+\)
Subject: hi

\.dot
$`
	if !regexp.MustCompile(want).MatchString(l.String()) {
		t.Errorf("%s", l.String())
	}
	// talk does not wait for answers, and is noticed.
	improper := regexp.MustCompile(`(?m)^improper .*\n`)
	if got := improper.ReplaceAllString(h.logged(), ""); got != "connect from mx.example.net[192.0.2.7]\n4F1A23C1: client=mx.example.net[192.0.2.7]\ndisconnect from mx.example.net[192.0.2.7] ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5\n" {
		t.Error(got)
	}
}

func TestRefusals(t *testing.T) {
	h := newHouse(t, nil)
	for in, want := range map[string]string{
		"a@remote.test":         "554 5.7.1 <a@remote.test>: Relay access denied",
		"no@here.test":          "550 5.1.1 <no@here.test>: Recipient address rejected: User unknown in local recipient table",
		"no":                    "550 5.1.1 <no>: Recipient address rejected: User unknown in local recipient table",
		"b@va.test":             "550 5.1.1 <b@va.test>: Recipient address rejected: User unknown in virtual alias table",
		"trouble@here.test":     "451 4.3.0 <trouble@here.test>: Temporary lookup failure",
		"a%b@relay.test":        "554 5.7.1 <a%b@relay.test>: Relay access denied",
		"a@remote.test@vm.test": "554 5.7.1 <a@remote.test@vm.test>: Relay access denied",
		"bob":                   "250 2.1.5 Ok",
		"BOB@HERE.TEST":         "250 2.1.5 Ok",
		"postmaster":            "250 2.1.5 Ok",
		"a@va.test":             "250 2.1.5 Ok",
		"x@relay.test":          "250 2.1.5 Ok",
		"any@vm.test":           "250 2.1.5 Ok",
		"bob@[127.0.0.1]":       "250 2.1.5 Ok",
		"bob@[192.0.2.1]":       "554 5.7.1 <bob@[192.0.2.1]>: Relay access denied",
	} {
		out := h.talk("HELO x", "MAIL FROM:<s@x.test>", "RCPT TO:<"+in+">", "QUIT")
		if !strings.HasSuffix(out, "250 2.1.0 Ok\n"+want+"\n221 2.0.0 Bye\n") {
			t.Errorf("%s: %s", in, out)
		}
		line := "NOQUEUE: reject: RCPT from mx.example.net[192.0.2.7]: " + want + "; from=<s@x.test> to=<" + address.Parse(in).Quoted() + "> proto=SMTP helo=<x>\n"
		if refused := want[0] != '2'; strings.Contains(h.logged(), line) != refused {
			t.Errorf("%s: %s", in, h.logged())
		}
	}
	for _, l := range h.cleaner.got {
		if l.done {
			t.Error("a message without content was committed")
		}
	}
	h.client = "127.0.0.1:99"
	if out := h.talk("HELO x", "MAIL FROM:<s@x.test>", "RCPT TO:<a@remote.test>", "QUIT"); !strings.HasSuffix(out, "250 2.1.5 Ok\n221 2.0.0 Bye\n") {
		t.Error("mynetworks may not relay:", out)
	}
}

func TestClientNames(t *testing.T) {
	h := newHouse(t, nil)
	for addr, want := range map[string]string{
		"192.0.2.8:1": "warning: hostname liar.example.net does not resolve to address 192.0.2.8\nconnect from unknown[192.0.2.8]\n",
		"192.0.2.9:1": "connect from unknown[192.0.2.9]\n", "[::ffff:192.0.2.7]:1": "connect from mx.example.net[192.0.2.7]\n",
		"[2001:db8::1]:1": "connect from unknown[2001:db8::1]\n",
	} {
		h.client = addr
		h.talk("QUIT")
		if got := h.logged(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

func TestEffects(t *testing.T) {
	h := newHouse(t, nil)
	p := access.New(access.Config{Open: func(string) (access.Table, error) {
		return mapTable{"hold@x.test": "HOLD", "disc@x.test": "DISCARD", "prep@x.test": "PREPEND X-Test: yes", "redir@x.test": "REDIRECT joe@here.test", "filt@x.test": "FILTER smtp:[x]", "bcc@x.test": "BCC joe@here.test"}, nil
	}})
	h.c.Sender = p.Parse(access.Sender, "check_sender_access hash:x")
	send := func(from string) *fakeLetter {
		out := h.talk("EHLO x", "MAIL FROM:<"+from+">", "RCPT TO:<bob@here.test>", "DATA", "x", ".", "QUIT")
		if !strings.Contains(out, "250 2.0.0 Ok: queued as ") {
			t.Errorf("%s: %s", from, out)
		}
		return h.cleaner.got[len(h.cleaner.got)-1]
	}
	if l := send("hold@x.test"); !l.hold || !l.done {
		t.Errorf("%+v", l)
	}
	if l := send("disc@x.test"); l.done || !l.aborted {
		t.Errorf("%+v", l)
	}
	if l := send("prep@x.test"); !strings.HasPrefix(l.String(), "X-Test: yes\nReceived: ") {
		t.Errorf("%s", l)
	}
	if l := send("redir@x.test"); l.redirect != "joe@here.test" {
		t.Errorf("%+v", l)
	}
	if l := send("filt@x.test"); l.filter != "smtp:[x]" {
		t.Errorf("%+v", l)
	}
	if l := send("bcc@x.test"); len(l.rcpts) != 2 || l.rcpts[1] != "bcc:joe@here.test" {
		t.Errorf("%+v", l)
	}
}

func TestTrouble(t *testing.T) {
	h := newHouse(t, nil)
	h.cleaner.fail = errors.New("no space left on device")
	out := h.talk("EHLO x", "MAIL FROM:<a@x.test>", "RCPT TO:<bob@here.test>", "DATA", "x", ".", "QUIT")
	if !strings.HasSuffix(out, "451 4.3.0 Error: queue file write error\n221 2.0.0 Bye\n") || strings.Contains(out, "space left") {
		t.Error(out)
	}
	if !strings.Contains(h.logged(), "warning: 4F1A23C1: no space left on device") {
		t.Error(h.logged())
	}
	h.cleaner.full = dsn.New(452, "4.3.1", "Insufficient system storage")
	out = h.talk("EHLO x", "MAIL FROM:<a@x.test>", "QUIT")
	if !strings.HasSuffix(out, "452 4.3.1 Insufficient system storage\n221 2.0.0 Bye\n") {
		t.Error(out)
	}
}

func TestAuth(t *testing.T) {
	h := newHouse(t, func(c *Config, _ *access.Config) {
		c.Auth, c.AuthCleartext, c.AuthHeader = passwords{"joe": "secret"}, true, true
	})
	good, bad := "AUTH PLAIN AGpvZQBzZWNyZXQ=", "AUTH PLAIN AGpvZQB3cm9uZw=="
	out := h.talk("EHLO x", bad, "AUTH LOGIN", "am9l", "d3Jvbmc=", "AUTH FOO", "MAIL FROM:<a@x.test>", "RCPT TO:<a@far.test>", "RSET", good, "MAIL FROM:<a@x.test>", "RCPT TO:<a@far.test>", "DATA", "x", ".", "QUIT")
	if !strings.Contains(out, "250-AUTH PLAIN LOGIN\n") || !strings.HasSuffix(out, `535 5.7.8 Error: authentication failed: authentication failure
334 VXNlcm5hbWU6
334 UGFzc3dvcmQ6
535 5.7.8 Error: authentication failed: authentication failure
535 5.7.8 Error: authentication failed: no mechanism available
250 2.1.0 Ok
554 5.7.1 <a@far.test>: Relay access denied
250 2.0.0 Ok
235 2.7.0 Authentication successful
250 2.1.0 Ok
250 2.1.5 Ok
354 End data with <CR><LF>.<CR><LF>
250 2.0.0 Ok: queued as 4F1A23C1
221 2.0.0 Bye
`) {
		t.Error(out)
	}
	for _, want := range []string{
		"warning: mx.example.net[192.0.2.7]: SASL LOGIN authentication failed: authentication failure, sasl_username=joe\n",
		"4F1A23C1: client=mx.example.net[192.0.2.7], sasl_method=PLAIN, sasl_username=joe\n",
		" ehlo=1 auth=1/4 mail=2 ",
	} {
		if !strings.Contains(h.logged(), want) {
			t.Errorf("%q is not in\n%s", want, h.logged())
		}
	}
	if l := h.cleaner.got[0].String(); !strings.Contains(l, "(Authenticated sender: joe)\n\tby mail.here.test (Postfix) with ESMTPA id ") {
		t.Error(l)
	}
	h.c.AuthTLSOnly = true
	if out := h.talk("EHLO x", good, "QUIT"); strings.Contains(out, "250-AUTH") || !strings.HasSuffix(out, "503 5.5.1 Error: authentication not enabled\n221 2.0.0 Bye\n") {
		t.Error(out)
	}
	h.c.AuthTLSOnly = false
	if out := h.talk("EHLO x", "AUTH PLAIN AHRyb3VibGUAeA==", "QUIT"); !strings.Contains(out, "454 4.7.0 Temporary authentication failure") {
		t.Error(out)
	}
}

func TestDelayReject(t *testing.T) {
	h := newHouse(t, func(c *Config, ac *access.Config) {
		c.DelayReject = false
		c.Client = access.New(*ac).Parse(access.Client, "permit_mynetworks, reject")
	})
	out := h.talk("EHLO x", "MAIL FROM:<a@b.test>", "QUIT")
	if out != "554 5.7.1 <mx.example.net[192.0.2.7]>: Client host rejected: Access denied\n503 5.7.0 Error: access denied for mx.example.net[192.0.2.7]\n503 5.7.0 Error: access denied for mx.example.net[192.0.2.7]\n221 2.0.0 Bye\n" {
		t.Error(out)
	}
	if !strings.Contains(h.logged(), "NOQUEUE: reject: CONNECT from mx.example.net[192.0.2.7]: 554 5.7.1 <mx.example.net[192.0.2.7]>: Client host rejected: Access denied; proto=SMTP\n") {
		t.Error(h.logged())
	}
}

func TestLimits(t *testing.T) {
	h := newHouse(t, func(c *Config, _ *access.Config) {
		c.Limits, c.Limit = NewLimits(), LimitConfig{Rate: 2, Recipients: 3, Unit: time.Minute}
	})
	out := h.talk("EHLO x", "MAIL FROM:<a@b.test>", "RCPT TO:<bob>", "RCPT TO:<bob>", "RCPT TO:<bob>", "RCPT TO:<bob>", "QUIT")
	if !strings.HasSuffix(out, "250 2.1.5 Ok\n450 4.7.1 Error: too many recipients from 192.0.2.7\n221 2.0.0 Bye\n") {
		t.Error(out)
	}
	h.talk("QUIT")
	out = h.talk("QUIT")
	if out != "421 4.7.0 mail.here.test Error: too many connections from 192.0.2.7\n" {
		t.Error(out)
	}
	if !strings.Contains(h.logged(), "warning: Connection rate limit exceeded: 3 from mx.example.net[192.0.2.7] for service smtp\n") {
		t.Error(h.logged())
	}
	h.c.Limit.Exempt = func(string, netip.Addr) bool { return true }
	if out = h.talk("QUIT"); !strings.HasPrefix(out, "220 ") {
		t.Error(out)
	}
}

func TestXClient(t *testing.T) {
	h := newHouse(t, func(c *Config, _ *access.Config) {
		c.XClient = func(_ string, a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.7") }
		c.XForward = c.XClient
	})
	out := h.talk("EHLO x", "XCLIENT NAME=foo.example ADDR=IPV6:2001:db8::7 HELO=he", "EHLO y", "MAIL FROM:<a@b.test>", "RCPT TO:<bob>", "QUIT")
	if !strings.Contains(out, "250-XCLIENT NAME ADDR") || !strings.Contains(out, "\n220 mail.here.test ESMTP Postfix\n") {
		t.Error(out)
	}
	if !strings.Contains(h.logged(), "4F1A23C1: client=foo.example[2001:db8::7]\n") {
		t.Error(h.logged())
	}
	h.talk("EHLO x", "XFORWARD NAME=foo.example ADDR=198.51.100.1 IDENT=ABC", "MAIL FROM:<a@b.test>", "RCPT TO:<bob>", "QUIT")
	if !strings.Contains(h.logged(), "4F1A23C2: client=mx.example.net[192.0.2.7], orig_queue_id=ABC, orig_client=foo.example[198.51.100.1]\n") {
		t.Error(h.logged())
	}
	h.client = "192.0.2.9:1"
	if out := h.talk("EHLO x", "XCLIENT NAME=foo.example", "QUIT"); !strings.HasSuffix(out, "550 5.7.0 Error: insufficient authorization\n221 2.0.0 Bye\n") {
		t.Error(out)
	}
}

// The log lines that fail2ban, pflogsumm and their like wait for.
func TestOddClients(t *testing.T) {
	h := newHouse(t, func(c *Config, _ *access.Config) { c.Server.HardErrors = 3 })
	for _, c := range []struct{ in, want string }{
		{"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<no>\r\nRCPT TO:<no>\r\nRCPT TO:<no>\r\nNOOP", "too many errors after RCPT from mx.example.net[192.0.2.7]\n"},
		{"HELO x\r\nMAIL FROM:<a@b.test>\r\nQUIT", "improper command pipelining after HELO from mx.example.net[192.0.2.7]: MAIL FROM:<a@b.test>\\r\\nQUIT\\r\\n\n"},
		{"EHLO x\r\nGET / HTTP/1.0", "warning: non-SMTP command from mx.example.net[192.0.2.7]: GET / HTTP/1.0\n"},
		{"EHLO x\r\nMAIL FROM:<a@b.test> SIZE=999999\r\nQUIT", "NOQUEUE: reject: MAIL from mx.example.net[192.0.2.7]: 552 5.3.4 Message size exceeds fixed limit; from=<a@b.test> proto=ESMTP helo=<x>\n"},
		{"HELO a (b)\r\x01<c>\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<no>\r\nQUIT", " proto=SMTP helo=<a??b????c?>\n"},
		{"MAIL FROM:<a,b@c>\r\nQUIT", "warning: Illegal address syntax from mx.example.net[192.0.2.7] in MAIL command: <a,b@c>\n"},
	} {
		h.talk(c.in)
		if !strings.Contains(h.logged(), c.want) {
			t.Errorf("%q: %q is not in\n%s", c.in, c.want, h.logged())
		}
	}
}

// What XCLIENT and XFORWARD refuse, in the words of the real Postfix.
func TestAttributes(t *testing.T) {
	anyone := func(string, netip.Addr) bool { return true }
	h := newHouse(t, func(c *Config, _ *access.Config) { c.XClient, c.XForward = anyone, anyone })
	for in, want := range map[string]string{
		"XCLIENT":                            "501 5.5.4 Syntax: XCLIENT attribute=value...",
		"XCLIENT NAME":                       "501 5.5.4 Error: attribute=value expected",
		"XCLIENT LOGIN=":                     "501 5.5.4 Error: attribute=value expected",
		"XCLIENT FOO=x":                      "501 5.5.4 Bad XCLIENT attribute name: FOO",
		"XCLIENT NAME=a..b":                  "501 5.5.4 Bad NAME syntax: a..b",
		"XCLIENT ADDR=bad":                   "501 5.5.4 Bad ADDR syntax: bad",
		"XCLIENT PORT=99999":                 "501 5.5.4 Bad PORT syntax: 99999",
		"XCLIENT PROTO=FOO":                  "501 5.5.4 Bad PROTO syntax: FOO",
		"XCLIENT DESTADDR=x":                 "501 5.5.4 Bad DESTADDR syntax: x",
		"XCLIENT DESTPORT=-1":                "501 5.5.4 Bad DESTPORT syntax: -1",
		"XCLIENT LOGIN=a+2":                  "220 mail.here.test ESMTP Postfix",
		"XFORWARD FOO=x":                     "501 5.5.4 Bad XFORWARD attribute name: FOO",
		"XFORWARD SOURCE=X":                  "501 5.5.4 Bad SOURCE syntax: X",
		"XFORWARD ADDR=IPV6:2001:db8::1":     "250 2.0.0 Ok",
		"XFORWARD NAME=[UNAVAILABLE] PORT=7": "250 2.0.0 Ok",
	} {
		if out := h.talk("EHLO x", in, "QUIT"); !strings.HasSuffix(out, "\n"+want+"\n221 2.0.0 Bye\n") {
			t.Errorf("%s: %s", in, out)
		}
	}
	h.talk("EHLO x", "XCLIENT ADDR=[UNAVAILABLE] DESTADDR=192.0.2.99 DESTPORT=99", "MAIL FROM:<a@b.test>", "RCPT TO:<bob>", "DATA", "", ".", "QUIT")
	if log := h.logged(); !strings.Contains(log, ": client=mx.example.net[unknown]\n") || !strings.Contains(log, "disconnect from mx.example.net[unknown] ehlo=1 xclient=0/1 mail=1") {
		t.Error(log)
	}
	l := h.cleaner.got[len(h.cleaner.got)-1]
	if l.env.Server != "192.0.2.99" || l.env.SrvPort != "99" || !strings.HasPrefix(l.String(), "Received: from mx.example.net (mx.example.net [unknown])\n\tby mail.here.test (Postfix) with SMTP id") {
		t.Errorf("%s %s %s", l.env.Server, l.env.SrvPort, l)
	}
	h.talk("EHLO x", "XFORWARD IDENT=ABC SOURCE=LOCAL", "MAIL FROM:<a@b.test>", "RCPT TO:<bob>", "DATA", "", ".", "QUIT")
	if l := h.cleaner.got[len(h.cleaner.got)-1]; !l.env.Local || l.env.Ident != "ABC" || l.env.Orig.Addr != "unknown" {
		t.Errorf("%+v", l.env)
	}
}

// A recipient is told to its sender as it was typed.
func TestTyped(t *testing.T) {
	h := newHouse(t, nil)
	for in, want := range map[string]string{"<@q:bob@here.test>": "rfc822;@q:bob@here.test", "Bob@here.test.": "rfc822;Bob@here.test.", `<"bob"@here.test>`: `rfc822;"bob"@here.test`, "<bob>": "rfc822;bob", "<bob> ORCPT=rfc822;x+2By": "rfc822;x+y"} {
		h.talk("EHLO x", "MAIL FROM:<a@x.test>", "RCPT TO:"+in, "QUIT")
		if l := h.cleaner.got[len(h.cleaner.got)-1]; l.orcpt != want {
			t.Errorf("%s: %s", in, l.orcpt)
		}
	}
}

// What is thrown away is not looked at; what tables ask for comes behind the content;
// behind BDAT the first line is no more than content.
func TestTraces(t *testing.T) {
	h := newHouse(t, func(c *Config, ac *access.Config) {
		c.Sender = access.New(*ac).Parse(access.Sender, "check_sender_access x:y")
	})
	h.talk("EHLO x", "MAIL FROM:<disc@x.test>", "RCPT TO:<bob>", "DATA", "Subject: x", "", ".", "QUIT")
	if l := h.cleaner.got[0]; l.Len() > 0 || !l.aborted {
		t.Errorf("%+v", l)
	}
	out := h.talk("EHLO x", "MAIL FROM:<a@x.test>", "RCPT TO:<bob>", "BDAT 0", "BDAT 0", "RSET", "MAIL FROM:<a@x.test>", "RCPT TO:<bob>", "BDAT 8 LAST", "From x", "QUIT")
	if !strings.Contains(out, "551 5.7.1 Null BDAT request\n551 5.7.1 Null BDAT request\n") || !strings.Contains(out, "250 2.0.0 Ok: 8 bytes queued") {
		t.Error(out)
	}
	if l := h.cleaner.got[len(h.cleaner.got)-1]; !l.done || l.traced {
		t.Errorf("%+v", l)
	}
}

// A footer stands behind every refusal, with the reply's codes on each of its lines.
func TestFooter(t *testing.T) {
	h := newHouse(t, func(c *Config, _ *access.Config) {
		c.Footer = func(_ context.Context, refusal string) string {
			switch {
			case strings.HasPrefix(refusal, "550 5.1.1 <no@here.test>: "):
				return `\c. See $sender_domain\nCall us`
			case strings.HasPrefix(refusal, "500"):
				return ""
			}
			return "main"
		}
		c.Expand = func(s string, lookup func(string) (string, bool)) string {
			return regexp.MustCompile(`\$\w+`).ReplaceAllStringFunc(s, func(n string) string { v, _ := lookup(n[1:]); return v })
		}
	})
	out := h.talk("EHLO x", "MAIL FROM:<a@x.test>", "RCPT TO:<no@here.test>", "FOO", "DATA", "QUIT")
	want := "550-5.1.1 <no@here.test>: Recipient address rejected: User unknown in local recipient table. See x.test\n550 5.1.1 Call us\n" +
		"500 5.5.2 Error: command not recognized\n554-5.5.1 Error: no valid recipients\n554 5.5.1 main\n221 2.0.0 Bye\n"
	if !strings.HasSuffix(out, want) {
		t.Error(out)
	}
	if strings.Contains(h.logged(), "Call us") {
		t.Error(h.logged())
	}
}
