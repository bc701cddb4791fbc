package smtp

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"angarium/lib/dns"
	"angarium/lib/smtp"
)

// nameserver serves a zone on loopback, over UDP.
func nameserver(t *testing.T, zone map[string][]string) *dns.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &mdns.Server{PacketConn: pc, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, m *mdns.Msg) {
		r := new(mdns.Msg)
		r.SetReply(m)
		name := strings.TrimSuffix(strings.ToLower(m.Question[0].Name), ".")
		list, ok := zone[name]
		if !ok {
			r.Rcode = mdns.RcodeNameError
		}
		r.AuthenticatedData = m.AuthenticatedData && strings.HasSuffix(name, "signed.test")
		for _, text := range list {
			if rr, err := mdns.NewRR(name + ". 60 IN " + text); err != nil {
				t.Error(err)
			} else if rr.Header().Rrtype == m.Question[0].Qtype {
				r.Answer = append(r.Answer, rr)
			}
		}
		_ = w.WriteMsg(r)
	})}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
	return dns.New(dns.Config{Servers: []string{pc.LocalAddr().String()}, Timeout: time.Second, Attempts: 1, DNSSEC: true})
}

// TestMailExchangers: real questions to a name server, real connections.
func TestMailExchangers(t *testing.T) {
	p := serve(t, "tcp", "127.0.0.1:0", &smtp.Server{Hostname: "peer.test"})
	port := fmt.Sprint(p.addr.Port())
	r := nameserver(t, map[string][]string{
		"two.test":      {"MX 20 live.two.test.", "MX 10 dead.two.test."},
		"live.two.test": {"A 127.0.0.1"}, "dead.two.test": {"A 127.0.0.9"},
		"plain.test":  {"A 127.0.0.1"},
		"null.test":   {"MX 0 ."},
		"empty.test":  {"TXT x"},
		"hollow.test": {"MX 10 gone.test."},
	})
	for domain, want := range map[string][]string{
		"two.test":    {"250 2.0.0 Ok", "connect to dead.two.test[127.0.0.9]:" + port + ": Connection refused"},
		"plain.test":  {"250 2.0.0 Ok", ""},
		"null.test":   {"5.1.10 Domain null.test does not accept mail (nullMX)", ""},
		"empty.test":  {"5.4.4 Host or domain name not found. Name service error for name=empty.test type=A: Host found but no data record of requested type", ""},
		"nobody.test": {"5.4.4 Host or domain name not found. Name service error for name=nobody.test type=A: Host not found", ""},
		"hollow.test": {"5.4.4 Host or domain name not found. Name service error for name=gone.test type=A: Host not found", "no MX host for hollow.test has a valid address record"},
	} {
		log := &lines{}
		a := New(Config{Hostname: "us.test", Port: port, Resolver: r, Protocols: dns.IPv4})
		got := show(a.Deliver(context.Background(), request(log, domain, "a@x.test", "b@"+domain)))
		if !strings.HasPrefix(got, want[0]) || !strings.Contains(log.String(), want[1]) {
			t.Errorf("%s:\n got %s\nwant %s\n log %s", domain, got, want[0], log)
		}
	}
}

// certificate makes one that signs itself.
func certificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// TestTLS: each level against a server with a certificate, and one without TLS.
func TestTLS(t *testing.T) {
	cert, pool := certificate(t, "mx.far.test")
	p := serve(t, "tcp", "127.0.0.1:0", &smtp.Server{Hostname: "mx.far.test", TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	plain := serve(t, "tcp", "127.0.0.1:0", &smtp.Server{Hostname: "mx.far.test"})
	r := nameserver(t, map[string][]string{"mx.far.test": {"A 127.0.0.1"}, "far.test": {"MX 10 mx.far.test."}, "liar.test": {"MX 10 mx.far.test."}})
	const sent = "250 2.0.0 Ok: queued as ABC"
	sum := sha256.Sum256(cert.Leaf.Raw)
	fingerprint := strings.ReplaceAll(fmt.Sprintf("% x", sum[:]), " ", ":")
	for _, c := range []struct {
		level, hop string
		roots      *x509.CertPool
		clear      bool
		want, log  string
	}{
		{"may", "far.test", nil, false, sent, "Untrusted TLS connection established to mx.far.test[127.0.0.1]:"},
		{"may", "far.test", pool, false, sent, "Trusted TLS connection established to mx.far.test[127.0.0.1]:"},
		{"may", "far.test", nil, true, sent, ""},
		{"encrypt", "far.test", nil, false, sent, "Untrusted TLS connection established to mx.far.test[127.0.0.1]:"},
		{"encrypt", "far.test", nil, true, "4.7.4 TLS is required, but was not offered by host mx.far.test[127.0.0.1] [site]", ""},
		{"verify", "far.test", pool, false, sent, "Verified TLS connection established to mx.far.test[127.0.0.1]:"},
		{"verify", "far.test", x509.NewCertPool(), false, "4.7.5 Server certificate not verified [site]", "Untrusted TLS"},
		{"secure", "far.test", pool, false, sent, "Verified TLS"},
		{"fingerprint", "far.test", nil, false, sent, "Verified TLS"},
		{"wrong", "far.test", nil, false, "4.7.5 Server certificate not verified [site]", "Untrusted TLS"},
		{"secure", "liar.test", pool, false, "4.7.5 Server certificate not verified [site]", "hostname mismatch"},
	} {
		log := &lines{}
		at := p
		if c.clear {
			at = plain
		}
		policy := Policy{Level: c.level, Digest: crypto.SHA256}
		switch c.level {
		case "verify":
			policy.Match = []string{"hostname"}
		case "secure":
			policy.Match = []string{"nexthop", "dot-nexthop"}
		case "fingerprint":
			policy.Match = []string{"00:11", fingerprint}
		case "wrong":
			policy.Level, policy.Match = "fingerprint", []string{"00:11"}
		}
		a := New(Config{Hostname: "us.test", Port: fmt.Sprint(at.addr.Port()), Resolver: r, Protocols: dns.IPv4, TLSLog: true, TLSPolicy: policy,
			TLS: func(Policy) (*tls.Config, error) { return &tls.Config{RootCAs: c.roots}, nil }})
		res := a.Deliver(context.Background(), request(log, c.hop, "a@x.test", "b@"+c.hop))
		if got := show(res); got != c.want || !strings.Contains(log.String(), c.log) || c.log == "" && strings.Contains(log.String(), "TLS conn") {
			t.Errorf("%s to %s, clear %v:\n got %s\nwant %s\n log %s", c.level, c.hop, c.clear, got, c.want, log)
		}
		if !strings.HasPrefix(res[0].Relay, "mx.far.test[127.0.0.1]:") {
			t.Errorf("%s to %s: relay=%s", c.level, c.hop, res[0].Relay)
		}
	}
}

// TestDANE: the name server's word about certificates, if that is signed.
func TestDANE(t *testing.T) {
	cert, _ := certificate(t, "mx.signed.test")
	p := serve(t, "tcp", "127.0.0.1:0", &smtp.Server{Hostname: "mx.signed.test", TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	port := fmt.Sprint(p.addr.Port())
	sum := sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo)
	right, wrong := fmt.Sprintf("TLSA 3 1 1 %x", sum), "TLSA 3 1 1 "+strings.Repeat("00", 32)
	zone := map[string][]string{"far.test": {"MX 10 right.signed.test."}}
	for host, record := range map[string]string{"right.signed.test": right, "wrong.signed.test": wrong, "open.test": right, "usage.signed.test": "TLSA 1" + right[6:], "bare.signed.test": "",
		"full.signed.test": fmt.Sprintf("TLSA 2 0 0 %x", cert.Leaf.Raw)} {
		zone[host] = []string{"A 127.0.0.1"}
		if record != "" {
			zone["_"+port+"._tcp."+host] = []string{record}
		}
	}
	const sent, not = "250 2.0.0 Ok: queued as ABC", "4.7.5 Server certificate not verified [site]"
	for _, c := range []struct{ level, hop, want, log string }{
		{"dane", "right.signed.test", sent, "Verified TLS"}, {"dane-only", "right.signed.test", sent, "Verified TLS"},
		{"dane", "wrong.signed.test", not, "num=65"}, {"dane-only", "wrong.signed.test", not, "num=65"},
		{"dane", "open.test", sent, "Untrusted TLS"}, {"dane-only", "open.test", "4.7.5 no TLSA records found [site]", "TLS policy lookup for open.test/open.test: no TLSA records found"},
		{"dane", "bare.signed.test", sent, "Untrusted TLS"}, {"dane-only", "bare.signed.test", "4.7.5 no TLSA records found [site]", ""},
		{"dane", "usage.signed.test", sent, "Untrusted TLS"}, {"dane-only", "usage.signed.test", "4.7.5 TLSA records unusable [site]", ""},
		{"dane", "full.signed.test", not, "num=65"}, // our authority, another name
		{"dane", "far.test", sent, "Trusted TLS"}, {"dane-only", "far.test", "4.7.5 non DNSSEC destination [site]", ""},
	} {
		log := &lines{}
		a := New(Config{Hostname: "us.test", Port: port, Resolver: nameserver(t, zone), Protocols: dns.IPv4, TLSLog: true, TLSPolicy: Policy{Level: c.level},
			DANE: DANE{InsecureMX: "dane", Digests: []byte{2, 1}}, TLS: func(Policy) (*tls.Config, error) { return &tls.Config{}, nil }})
		got := show(a.Deliver(context.Background(), request(log, c.hop, "a@x.test", "b@"+c.hop)))
		if got != c.want || !strings.Contains(log.String(), c.log) {
			t.Errorf("%s to %s:\n got %s\nwant %s\n log %s", c.level, c.hop, got, c.want, log)
		}
	}
}
