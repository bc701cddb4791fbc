package smtp

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"angarium/lib/dns"
	"angarium/lib/dsn"
	"angarium/lib/tlsconf"
)

// Policy is how the connections to a site are secured; see TLS_README and
// smtp_tls_policy_maps. The zero value is no TLS.
type Policy struct {
	// Level is none, may, encrypt, dane, dane-only, verify, secure or fingerprint;
	// after a look at the DNS also half-dane.
	Level string
	// Match are names that the server's certificate may have: "nexthop",
	// "dot-nexthop", "hostname", a name, ".domain"; or its fingerprints.
	Match     []string
	Digest    crypto.Hash // of fingerprints
	Protocols string      // "": as the level has them
	SNI       string      // "nexthop", "hostname" or a name; "": none is sent
	TLSA      []dns.TLSA  // one of which the certificate must agree with; Match are names for trust anchors
}

func (p Policy) none() bool      { return p.Level == "" || p.Level == "none" }
func (p Policy) must() bool      { return !p.none() && p.Level != "may" }
func (p Policy) mustMatch() bool { return p.must() && p.Level != "encrypt" }

// serverName is what SNI shows, "" for nothing.
func (p Policy) serverName(hop, host string) string {
	name := p.SNI
	switch name {
	case "nexthop":
		name = hopName(hop)
	case "hostname":
		name = host
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return ""
	}
	return name
}

// errPolicy marks that it is not known how a connection is to be secured.
var errPolicy = errors.New("no TLS policy")

// policy finds the one for a place of a next hop.
func (d *delivery) policy(ctx context.Context, hop string, p place) (Policy, error) {
	policy, err := d.c.TLSPolicy, error(nil)
	if d.c.SitePolicy != nil {
		site, ok, e := d.c.SitePolicy(ctx, hop)
		if err = e; ok {
			policy = site
		}
	}
	if err != nil {
		d.r.Log.Warnf("TLS policy table: %s: %v", hop, err)
		err = dsn.New(0, "4.7.5", "client TLS configuration problem")
	} else if policy.Level == "dane" || policy.Level == "dane-only" {
		policy, err = d.dane(ctx, policy, hop, p)
	}
	if err != nil {
		d.r.Log.Warnf("TLS policy lookup for %s/%s: %v", hop, p.host, err)
		e := *dsn.From(err, "client TLS configuration problem")
		e.Err = errPolicy
		return policy, &e
	}
	return policy, nil
}

// anyone is conf without its demand for a good certificate: we look at what was
// shown ourselves, since the log tells it in any case.
func anyone(conf *tls.Config, sni string) *tls.Config {
	conf = conf.Clone()
	conf.InsecureSkipVerify = true
	conf.ServerName = sni
	return conf
}

// trust logs what the server's certificate is worth. Where the policy demands a
// good one it is an error that there is none.
func (d *delivery) trust(s *session, p place, hop string, conf *tls.Config, policy Policy) error {
	state := s.client.TLS()
	if state == nil {
		return nil
	}
	word, matched := "Anonymous", false
	var cert *x509.Certificate
	if len(state.PeerCertificates) > 0 {
		cert, word = state.PeerCertificates[0], "Untrusted"
		switch {
		case policy.Level == "fingerprint":
			matched = policy.knows(cert)
		case policy.TLSA != nil:
			matched = policy.agrees(state.PeerCertificates, time.Now())
		default:
			word, matched = d.chain(state, conf, policy, hop, p)
		}
		if !matched && d.c.TLSLog && (policy.Level == "fingerprint" || policy.TLSA != nil) { // OpenSSL's words
			why := "num=65:no matching DANE TLSA records"
			if policy.Level == "dane-only" && len(policy.TLSA) == 0 {
				why = "num=1:unspecified certificate verification error"
			}
			d.r.Log.Infof("server certificate verification failed for %s: %s", p.relay, why)
		}
		s.verified = matched
		switch {
		case matched && policy.Level == "half-dane": // who says that this is the host?
			word = "Trusted"
		case matched:
			word = "Verified"
		}
	}
	if d.c.TLSLog {
		d.r.Log.Infof("%s TLS connection established to %s: %s", word, p.relay, tlsconf.Describe(state, cert, nil))
	}
	if !policy.mustMatch() || matched {
		return nil
	}
	return dsn.New(0, "4.7.5", "Server certificate not verified")
}

// chain looks whether the certificate leads to a CA that we trust and, where the
// policy wants it, has the right name. What is wrong is logged in OpenSSL's words.
func (d *delivery) chain(state *tls.ConnectionState, conf *tls.Config, policy Policy, hop string, p place) (word string, matched bool) {
	cert := state.PeerCertificates[0]
	o := x509.VerifyOptions{Roots: conf.RootCAs, Intermediates: x509.NewCertPool()}
	if o.Roots == nil { // not the system's: nobody asked for these
		o.Roots = x509.NewCertPool()
	}
	for _, c := range state.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := cert.Verify(o)
	matched = err == nil && policy.mustMatch() && policy.named(cert, hopName(hop), p.host)
	if matched || err == nil && !policy.mustMatch() {
		return "Trusted", matched
	}
	if policy.mustMatch() && d.c.TLSLog {
		var invalid x509.CertificateInvalidError
		switch {
		case err == nil:
			d.r.Log.Infof("server certificate verification failed for %s: num=62:hostname mismatch", p.relay)
		case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
			d.r.Log.Infof("server certificate verification failed for %s: certificate has expired", p.relay)
		case bytes.Equal(cert.RawIssuer, cert.RawSubject):
			d.r.Log.Infof("certificate verification failed for %s: self-signed certificate", p.relay)
		default:
			d.r.Log.Infof("certificate verification failed for %s: untrusted issuer %s", p.relay, oneLine(cert.Issuer))
		}
	}
	return "Untrusted", false
}

// oneLine is a name as OpenSSL's X509_NAME_oneline has it, "/C=DE/CN=x".
func oneLine(name pkix.Name) string {
	short := map[string]string{"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU", "1.2.840.113549.1.9.1": "emailAddress"}
	var b strings.Builder
	for _, a := range name.Names {
		kind := a.Type.String()
		if s, ok := short[kind]; ok {
			kind = s
		}
		fmt.Fprintf(&b, "/%s=%v", kind, a.Value)
	}
	return b.String()
}

// named reports whether a certificate has one of the names of the policy.
func (p Policy) named(cert *x509.Certificate, nexthop, host string) bool {
	return slices.ContainsFunc(p.Match, func(m string) bool {
		switch m {
		case "nexthop":
			m = nexthop
		case "dot-nexthop":
			m = "." + nexthop
		case "hostname":
			m = host
		}
		if !strings.HasPrefix(m, ".") {
			return cert.VerifyHostname(m) == nil
		}
		return slices.ContainsFunc(cert.DNSNames, func(n string) bool {
			return len(n) > len(m) && strings.EqualFold(n[len(n)-len(m):], m)
		})
	})
}

// knows reports whether the policy has the fingerprint of a certificate, or of
// its key.
func (p Policy) knows(cert *x509.Certificate) bool {
	if !p.Digest.Available() {
		return false
	}
	for _, what := range [][]byte{cert.Raw, cert.RawSubjectPublicKeyInfo} {
		h := p.Digest.New()
		h.Write(what)
		text := strings.ReplaceAll(fmt.Sprintf("% X", h.Sum(nil)), " ", ":")
		if slices.ContainsFunc(p.Match, func(m string) bool { return strings.EqualFold(m, text) }) {
			return true
		}
	}
	return false
}

// hopName is a next hop without brackets and port.
func hopName(hop string) string {
	host, _, _, err := splitHop(strings.TrimPrefix(hop, "inet:"), "25")
	if err != nil {
		return hop
	}
	return host
}
