package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// server answers from a zone; names that begin with "servfail" fail, "slow"
// never answers, "big" is truncated over UDP.
func server(t *testing.T, zone map[string][]string) string {
	t.Helper()
	h := mdns.HandlerFunc(func(w mdns.ResponseWriter, m *mdns.Msg) {
		r := new(mdns.Msg)
		r.SetReply(m)
		q := m.Question[0]
		name := strings.ToLower(q.Name)
		_, udp := w.RemoteAddr().(*net.UDPAddr)
		exists := false
		for owner, records := range zone {
			if owner != name {
				continue
			}
			exists = true
			for _, text := range records {
				rr, err := mdns.NewRR(owner + " 60 IN " + text)
				if err != nil {
					t.Error(err)
				} else if rr.Header().Rrtype == q.Qtype {
					r.Answer = append(r.Answer, rr)
				}
			}
		}
		switch {
		case strings.HasPrefix(name, "servfail"):
			r.Rcode = mdns.RcodeServerFailure
		case strings.HasPrefix(name, "slow"):
			return
		case strings.HasPrefix(name, "big") && udp:
			r.Answer, r.Truncated = nil, true
		case !exists:
			r.Rcode = mdns.RcodeNameError
		}
		_ = w.WriteMsg(r)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Skip("the UDP port of that number is taken")
	}
	for _, s := range []*mdns.Server{{Listener: l, Handler: h}, {PacketConn: pc, Handler: h}} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		go func() { _ = s.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return l.Addr().String()
}

func TestLookups(t *testing.T) {
	r := New(Config{Timeout: 200 * time.Millisecond, Attempts: 1, Servers: []string{server(t, map[string][]string{
		"far.test.":               {"MX 20 mx2.far.test.", "MX 10 mx1.far.test.", "TXT \"v=\" \"spf1\""},
		"null.test.":              {"MX 0 ."},
		"mx1.far.test.":           {"A 192.0.2.1", "AAAA 2001:db8::1"},
		"only6.test.":             {"AAAA 2001:db8::2"},
		"big.test.":               {"MX 5 mx.big.test."},
		"1.2.0.192.in-addr.arpa.": {"PTR mx1.far.test."},
	})}})
	ctx := context.Background()
	for _, c := range []struct {
		what string
		ask  func() (any, error)
		want string
	}{
		{"MX, best first", func() (any, error) { return r.MX(ctx, "far.test") }, "[{10 mx1.far.test false} {20 mx2.far.test false}] <nil>"},
		{"null MX", func() (any, error) { return r.MX(ctx, "null.test") }, "[{0  false}] <nil>"},
		{"over TCP", func() (any, error) { return r.MX(ctx, "big.test") }, "[{5 mx.big.test false}] <nil>"},
		{"both families", func() (any, error) { return r.Addrs(ctx, "mx1.far.test", Both) }, "[192.0.2.1 2001:db8::1] <nil>"},
		{"IPv4", func() (any, error) { return r.Addrs(ctx, "mx1.far.test", IPv4) }, "[192.0.2.1] <nil>"},
		{"IPv6 only", func() (any, error) { return r.Addrs(ctx, "only6.test", Both) }, "[2001:db8::2] <nil>"},
		{"literal", func() (any, error) { return r.Addrs(ctx, "192.0.2.7", Both) }, "[192.0.2.7] <nil>"},
		{"PTR", func() (any, error) { return r.PTR(ctx, netip.MustParseAddr("192.0.2.1")) }, "[mx1.far.test] <nil>"},
		{"TXT", func() (any, error) { return r.TXT(ctx, "far.test") }, "[v=spf1] <nil>"},
		{"no such name", func() (any, error) { return r.MX(ctx, "no.test") },
			"[] Host or domain name not found. Name service error for name=no.test type=MX: Host not found"},
		{"no data", func() (any, error) { return r.MX(ctx, "only6.test") },
			"[] Host or domain name not found. Name service error for name=only6.test type=MX: Host found but no data record of requested type"},
		{"server failure", func() (any, error) { return r.MX(ctx, "servfail.test") },
			"[] Host or domain name not found. Name service error for name=servfail.test type=MX: Host not found, try again"},
		{"silence", func() (any, error) { return r.MX(ctx, "slow.test") },
			"[] Host or domain name not found. Name service error for name=slow.test type=MX: Host not found, try again"},
	} {
		v, err := c.ask()
		if got := fmt.Sprintf("%v %v", v, err); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.what, got, c.want)
		}
		if temporary := strings.HasSuffix(c.want, "try again"); err != nil && Missing(err) == temporary {
			t.Errorf("%s: Missing = %v", c.what, Missing(err))
		}
	}
}

// TestSecondServer: the first one is down.
func TestSecondServer(t *testing.T) {
	good := server(t, map[string][]string{"a.test.": {"A 192.0.2.1"}})
	r := New(Config{Servers: []string{"127.0.0.1:1", good}, Timeout: 300 * time.Millisecond, Attempts: 1})
	if addrs, err := r.Addrs(context.Background(), "a.test", IPv4); err != nil || len(addrs) != 1 {
		t.Errorf("%v, %v", addrs, err)
	}
}

func TestHosts(t *testing.T) {
	name := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(name, []byte("# comment\n192.0.2.5 Mail.test mail # here\n2001:db8::5 mail.test\nrubbish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := New(Config{Hosts: name, Servers: []string{server(t, map[string][]string{"host.sub.test.": {"A 192.0.2.9"}})}, Search: []string{"none.test", "sub.test"}, NDots: 1})
	ctx := context.Background()
	if a, err := r.Native(ctx, "MAIL.test", IPv4); err != nil || fmt.Sprint(a) != "[192.0.2.5]" {
		t.Errorf("hosts file: %v, %v", a, err)
	}
	if a, err := r.Native(ctx, "host", IPv4); err != nil || fmt.Sprint(a) != "[192.0.2.9]" {
		t.Errorf("search list: %v, %v", a, err)
	}
	if n, err := r.PTR(ctx, netip.MustParseAddr("192.0.2.5")); err != nil || fmt.Sprint(n) != "[Mail.test mail]" {
		t.Errorf("names: %v, %v", n, err)
	}
}
