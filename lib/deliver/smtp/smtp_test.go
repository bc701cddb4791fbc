package smtp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/dns"
	"angarium/lib/dsn"
	"angarium/lib/maillog"
	"angarium/lib/smtp"
)

// peer is a server that answers by name: RCPT to "late..." gets 450, "no..."
// gets 550; the rest is taken.
type peer struct {
	t    *testing.T
	addr netip.AddrPort
	ln   net.Listener

	mu       sync.Mutex
	sessions int
	got      []string // "from -> to, to: body"
}

func serve(t *testing.T, network, addr string, s *smtp.Server) *peer {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, ln: ln}
	if a, ok := ln.Addr().(*net.TCPAddr); ok {
		p.addr = a.AddrPort()
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.sessions++
			p.mu.Unlock()
			go s.Serve(ctx, c, func(*smtp.Conn) smtp.Session { return &talk{p: p, lmtp: s.LMTP} })
		}
	}()
	return p
}

type talk struct {
	p    *peer
	lmtp bool
	from string
	to   []string
}

func (s *talk) Connect(context.Context) smtp.Reply              { return smtp.Reply{} }
func (s *talk) Helo(context.Context, string, string) smtp.Reply { return smtp.Reply{} }
func (s *talk) Mail(_ context.Context, m smtp.Mail) smtp.Reply {
	s.from, s.to = m.From.String(), nil
	if m.From.Local == "mail451" {
		return smtp.Replyf(451, "4.3.0", "not now")
	}
	return smtp.Reply{}
}
func (s *talk) Rcpt(_ context.Context, r smtp.Rcpt) smtp.Reply {
	switch {
	case strings.HasPrefix(r.To.Local, "late"):
		return smtp.Replyf(450, "4.2.2", "full")
	case strings.HasPrefix(r.To.Local, "no"):
		return smtp.Replyf(550, "5.1.1", "no such user")
	}
	s.to = append(s.to, r.To.String())
	return smtp.Reply{}
}
func (s *talk) Data(context.Context) smtp.Reply { return smtp.Reply{} }
func (s *talk) Content(_ context.Context, r io.Reader) []smtp.Reply {
	b, err := io.ReadAll(r)
	if err != nil {
		return []smtp.Reply{smtp.Fail(err)}
	}
	s.p.mu.Lock()
	s.p.got = append(s.p.got, fmt.Sprintf("%s -> %s: %s", s.from, strings.Join(s.to, ","), b))
	s.p.mu.Unlock()
	if !s.lmtp {
		return []smtp.Reply{smtp.Replyf(250, "2.0.0", "Ok: queued as ABC")}
	}
	var list []smtp.Reply
	for _, to := range s.to {
		if strings.HasPrefix(to, "over") {
			list = append(list, smtp.Replyf(552, "5.2.2", "over quota"))
		} else {
			list = append(list, smtp.Replyf(250, "2.1.5", "Ok SESSIONID=<x>"))
		}
	}
	return list
}
func (s *talk) Reset()       {}
func (s *talk) End(smtp.End) {}

type letter string

func (l letter) Content() io.Reader { return strings.NewReader(string(l)) }
func (l letter) Size() int64        { return int64(len(l)) }

type lines struct {
	mu   sync.Mutex
	list []string
}

func (l *lines) Log(_ time.Time, _ maillog.Priority, _ string, _ int64, text string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, text)
	return nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.list, "\n")
}

// zone is a DNS.
type zone struct {
	mx map[string][]dns.MX
	a  map[string][]netip.Addr
}

func (z zone) MX(_ context.Context, name string) ([]dns.MX, error) {
	if strings.HasPrefix(name, "servfail") {
		return nil, &dns.Error{Name: name, Type: "MX"}
	}
	if v, ok := z.mx[name]; ok {
		return v, nil
	}
	if _, ok := z.a[name]; ok {
		return nil, &dns.Error{Name: name, Type: "MX", Kind: dns.NoData}
	}
	return nil, &dns.Error{Name: name, Type: "MX", Kind: dns.NotFound}
}

func (z zone) Host(_ context.Context, name string, _ dns.Family) (dns.Host, error) {
	if ip, err := netip.ParseAddr(name); err == nil {
		return dns.Host{Addrs: []netip.Addr{ip}, Name: name}, nil
	}
	if v, ok := z.a[name]; ok {
		return dns.Host{Addrs: v, Name: name}, nil
	}
	return dns.Host{}, &dns.Error{Name: name, Type: "A", Kind: dns.NotFound}
}

func (z zone) Native(ctx context.Context, name string, f dns.Family) ([]netip.Addr, error) {
	h, err := z.Host(ctx, name, f)
	return h.Addrs, err
}

func (z zone) Alias(context.Context, string) (bool, error) { return false, nil }

func (z zone) TLSA(_ context.Context, name string) ([]dns.TLSA, bool, error) {
	return nil, false, &dns.Error{Name: name, Type: "TLSA", Kind: dns.NotFound}
}

func request(log *lines, hop, from string, to ...string) *agent.Request {
	r := &agent.Request{QueueID: "ID", Sender: address.Parse(from), Message: letter("Subject: x\n\n.dot\n"), NextHop: hop,
		Log: maillog.New(log, "postfix/smtp")}
	for _, a := range to {
		r.Recipients = append(r.Recipients, agent.Recipient{Address: address.Parse(a)})
	}
	return r
}

func show(list []agent.Result) string {
	var out []string
	for _, r := range list {
		text := r.Text
		if r.Err != nil {
			e := dsn.From(r.Err, "?")
			text = e.Status() + " " + e.Error()
		}
		if r.Site {
			text += " [site]"
		}
		if r.Reuse > 1 {
			text += fmt.Sprintf(" [%d]", r.Reuse)
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// closedPort is where nobody listens.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

func TestAnswers(t *testing.T) {
	p := serve(t, "tcp", "127.0.0.1:0", &smtp.Server{Hostname: "peer.test"})
	port := fmt.Sprint(p.addr.Port())
	dead := closedPort(t)
	at := "127.0.0.1[127.0.0.1]"
	z := zone{
		mx: map[string][]dns.MX{"null.test": {{Pref: 0}}, "self.test": {{Pref: 10, Host: "me.test"}}, "nomx.test": {{Pref: 10, Host: "gone.test"}}},
		a:  map[string][]netip.Addr{"me.test": {netip.MustParseAddr("192.0.2.77")}},
	}
	for _, c := range []struct {
		name, hop, from string
		to              []string
		want            string
	}{
		{"taken", "[127.0.0.1]:" + port, "a@x.test", []string{"b@far.test"}, "250 2.0.0 Ok: queued as ABC"},
		{"each its own", "[127.0.0.1]:" + port, "a@x.test", []string{"b@far.test", "late@far.test", "no@far.test"},
			"250 2.0.0 Ok: queued as ABC; 4.2.2 host " + at + " said: 450 4.2.2 full (in reply to RCPT TO command); 5.1.1 host " + at + " said: 550 5.1.1 no such user (in reply to RCPT TO command)"},
		{"MAIL refused", "[127.0.0.1]:" + port, "mail451@x.test", []string{"b@far.test"}, "4.3.0 host " + at + " said: 451 4.3.0 not now (in reply to MAIL FROM command)"},
		{"nobody there", "[127.0.0.1]:" + dead, "", []string{"b@far.test"}, "4.4.1 connect to " + at + ":" + dead + ": Connection refused [site]"},
		{"second hop", "[127.0.0.1]:" + dead + ", [127.0.0.1]:" + port, "", []string{"b@far.test"}, "250 2.0.0 Ok: queued as ABC"},
		{"null MX", "null.test", "", []string{"b@null.test"}, "5.1.10 Domain null.test does not accept mail (nullMX)"},
		{"no such domain", "none.test", "", []string{"b@none.test"},
			"5.4.4 Host or domain name not found. Name service error for name=none.test type=A: Host not found"},
		{"MX without address", "nomx.test", "", []string{"b@nomx.test"},
			"5.4.4 Host or domain name not found. Name service error for name=gone.test type=A: Host not found"},
		{"DNS down", "servfail.test", "", []string{"b@x"},
			"4.4.3 Host or domain name not found. Name service error for name=servfail.test type=MX: Host not found, try again [site]"},
		{"loop", "self.test", "", []string{"b@self.test"}, "5.4.6 mail for self.test loops back to myself"},
		{"bad hop", "[127.0.0.1", "", []string{"b@x"}, "4.3.5 bad destination syntax: [127.0.0.1 [site]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := &lines{}
			a := New(Config{Hostname: "here.test", Resolver: z, OwnAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.77")}, ConnectTimeout: 2 * time.Second})
			defer a.Close()
			if got := show(a.Deliver(context.Background(), request(log, c.hop, c.from, c.to...))); got != c.want {
				t.Errorf("\n got %s\nwant %s\nlog %s", got, c.want, log)
			}
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if want := "a@x.test -> b@far.test: Subject: x\n\n.dot\n"; len(p.got) == 0 || p.got[0] != want {
		t.Errorf("the peer got %q", p.got)
	}
}

// TestMX: the best exchanger is dead, the second one alive; the log tells.
func TestMX(t *testing.T) {
	p := serve(t, "tcp", "127.0.0.2:0", &smtp.Server{Hostname: "peer.test"})
	z := zone{
		mx: map[string][]dns.MX{"far.test": {{Pref: 10, Host: "mx1.far.test"}, {Pref: 20, Host: "mx2.far.test"}}},
		a:  map[string][]netip.Addr{"mx1.far.test": {netip.MustParseAddr("127.0.0.1")}, "mx2.far.test": {netip.MustParseAddr("127.0.0.2")}, "plain.test": {netip.MustParseAddr("127.0.0.2")}},
	}
	log := &lines{}
	a := New(Config{Hostname: "here.test", Resolver: z, Port: fmt.Sprint(p.addr.Port())})
	defer a.Close()
	res := a.Deliver(context.Background(), request(log, "far.test", "a@x.test", "b@far.test"))
	if want := fmt.Sprintf("mx2.far.test[127.0.0.2]:%d", p.addr.Port()); res[0].Err != nil || res[0].Relay != want {
		t.Errorf("%s by %s, want %s", show(res), res[0].Relay, want)
	}
	if want := fmt.Sprintf("connect to mx1.far.test[127.0.0.1]:%d: Connection refused", p.addr.Port()); !strings.Contains(log.String(), want) {
		t.Errorf("log: %s", log)
	}
	if res := a.Deliver(context.Background(), request(log, "plain.test", "a@x.test", "b@plain.test")); res[0].Err != nil {
		t.Errorf("no MX, but an address: %s", show(res))
	}
}

func TestReuse(t *testing.T) {
	p := serve(t, "tcp", "127.0.0.1:0", &smtp.Server{Hostname: "peer.test"})
	a := New(Config{Hostname: "here.test", CacheDemand: true, CacheTime: 100 * time.Millisecond})
	defer a.Close()
	hop := fmt.Sprintf("[127.0.0.1]:%d", p.addr.Port())
	send := func(more bool) string {
		r := request(&lines{}, hop, "a@x.test", "b@far.test")
		r.More = more
		return show(a.Deliver(context.Background(), r))
	}
	const ok = "250 2.0.0 Ok: queued as ABC"
	for i, c := range []struct {
		more bool
		want string
	}{{true, ok}, {true, ok + " [2]"}, {false, ok + " [3]"}, {true, ok}} {
		if got := send(c.more); got != c.want {
			t.Errorf("%d: %s, want %s", i, got, c.want)
		}
	}
	time.Sleep(200 * time.Millisecond) // too old now
	if got := send(false); got != ok {
		t.Errorf("after the limit: %s", got)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sessions != 3 {
		t.Errorf("%d sessions, want 3", p.sessions)
	}
}

func TestLMTP(t *testing.T) {
	path := t.TempDir() + "/lmtp"
	serve(t, "unix", path, &smtp.Server{Hostname: "peer.test", LMTP: true})
	a := New(Config{LMTP: true, Hostname: "here.test", AssumeFinal: true})
	defer a.Close()
	res := a.Deliver(context.Background(), request(&lines{}, "unix:"+path, "a@x.test", "b@here.test", "over@here.test", "no@here.test"))
	at := "here.test[" + path + "]"
	want := "250 2.1.5 Ok SESSIONID=<x>; 5.2.2 host " + at + " said: 552 5.2.2 over quota (in reply to end of DATA command); 5.1.1 host " + at + " said: 550 5.1.1 no such user (in reply to RCPT TO command)"
	if got := show(res); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if res[0].Relay != at || res[0].Status != "2.1.5" {
		t.Errorf("relay %s, status %s", res[0].Relay, res[0].Status)
	}
	res = a.Deliver(context.Background(), request(&lines{}, "unix:"+path+"-none", "", "b@here.test"))
	if got, want := show(res), "4.4.1 connect to here.test["+path+"-none]: No such file or directory [site]"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

// TestProbe: sendmail -bv must not deliver.
func TestProbe(t *testing.T) {
	p := serve(t, "tcp", "127.0.0.1:0", &smtp.Server{Hostname: "peer.test"})
	a := New(Config{Hostname: "here.test"})
	r := request(&lines{}, fmt.Sprintf("[127.0.0.1]:%d", p.addr.Port()), "a@x.test", "b@far.test", "no@far.test")
	r.Verify = true
	if got := show(a.Deliver(context.Background(), r)); !strings.HasPrefix(got, "250 2.1.5 Ok; 5.1.1 ") {
		t.Error(got)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.got) != 0 {
		t.Errorf("delivered: %q", p.got)
	}
}

// strict is a server without mercy for whoever gets the sequence wrong; it
// refuses all recipients whose name begins with "late" for now. Each of its
// sessions ends behind the given number of messages, without a word.
func strict(t *testing.T, perSession int) *peer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, ln: ln, addr: ln.Addr().(*net.TCPAddr).AddrPort()}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.sessions++
			p.mu.Unlock()
			go p.strict(c, perSession)
		}
	}()
	return p
}

func (p *peer) strict(c net.Conn, perSession int) {
	defer c.Close()
	r := bufio.NewReader(c)
	say := func(s string) { io.WriteString(c, s+"\r\n") }
	say("220 strict.test ESMTP")
	open, rcpts, messages := false, 0, 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		verb := strings.ToUpper(line[:4])
		switch {
		case verb == "EHLO" || verb == "LHLO":
			say("250-strict.test\r\n250 PIPELINING")
		case verb == "RSET":
			open, rcpts = false, 0
			say("250 2.0.0 OK")
		case verb == "QUIT":
			say("221 2.0.0 Bye")
			return
		case verb == "MAIL" && messages == perSession:
			return
		case verb == "MAIL" && open:
			say("503 5.5.0 MAIL already given")
		case verb == "MAIL":
			open, rcpts = true, 0
			say("250 2.1.0 OK")
		case verb == "RCPT" && strings.HasPrefix(line[9:], "late"):
			say("451 4.2.0 later")
		case verb == "RCPT":
			rcpts++
			say("250 2.1.5 OK")
		case verb == "DATA" && rcpts == 0:
			say("503 5.5.0 No valid recipients")
		case verb == "DATA":
			say("354 OK")
			for line != ".\r\n" {
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
			}
			open = false
			messages++
			say("250 2.0.0 Saved")
		default:
			say("500 5.5.2 what?")
		}
	}
}

// TestRefusedThenReused: a transaction in which nobody was taken is ended before
// the connection carries the next message, which would bounce otherwise.
func TestRefusedThenReused(t *testing.T) {
	p := strict(t, 100)
	a := New(Config{Hostname: "us.test", CacheDemand: true, CacheTime: time.Minute, Port: fmt.Sprint(p.addr.Port())})
	defer a.Close()
	hop := fmt.Sprintf("[127.0.0.1]:%d", p.addr.Port())
	for n, to := range []string{"late@x.test", "late@x.test", "good@x.test", "late@x.test", "good@x.test"} {
		r := request(&lines{}, hop, "a@us.test", to)
		r.More = true
		res := a.Deliver(context.Background(), r)[0]
		if good := to[0] == 'g'; good != (res.Err == nil) || dsn.Permanent(res.Err) {
			t.Errorf("message %d to %s: %v", n, to, res.Err)
		}
	}
	if p.sessions != 1 {
		t.Errorf("%d sessions for 5 messages", p.sessions)
	}
}

// TestDeadConnection: a kept connection that ends under us costs a new one, and
// not a try.
func TestDeadConnection(t *testing.T) {
	p := strict(t, 1)
	a := New(Config{Hostname: "us.test", CacheDemand: true, CacheTime: time.Minute, Port: fmt.Sprint(p.addr.Port())})
	defer a.Close()
	hop := fmt.Sprintf("[127.0.0.1]:%d", p.addr.Port())
	for n := range 3 {
		r := request(&lines{}, hop, "a@us.test", "good@x.test")
		r.More = true
		if res := a.Deliver(context.Background(), r)[0]; res.Err != nil {
			t.Errorf("message %d: %v", n, res.Err)
		}
	}
}
