package smtp

import (
	"crypto/tls"
	"crypto/x509"
	"strings"

	"angarium/lib/dsn"
	"angarium/lib/tlsconf"
)

// anyone is conf without its demand for a good certificate: we look at what was
// shown ourselves, since the log tells it in any case.
func anyone(conf *tls.Config) *tls.Config {
	conf = conf.Clone()
	conf.InsecureSkipVerify = true
	return conf
}

// trust logs what the server's certificate is worth. Where conf demands a good
// one (levels verify and secure) it is an error that there is none.
func (d *delivery) trust(s *session, p place, conf *tls.Config) error {
	state, must := s.client.TLS(), !conf.InsecureSkipVerify
	if state == nil {
		return nil
	}
	word := "Anonymous"
	var cert *x509.Certificate
	if len(state.PeerCertificates) > 0 {
		cert, word = state.PeerCertificates[0], "Untrusted"
		if chained(state, conf) {
			if word = "Trusted"; must && named(cert, conf.ServerName, d.c.TLSLevel == "secure") {
				word = "Verified"
			}
		}
	}
	if d.c.TLSLog {
		d.r.Log.Infof("%s TLS connection established to %s: %s", word, p.relay, tlsconf.Describe(state, cert, nil))
	}
	if must && word != "Verified" {
		return dsn.New(0, "4.7.5", "Server certificate not verified")
	}
	return nil
}

// chained reports whether the certificate leads to a CA that we trust: those of
// the configuration or, where a good certificate is demanded, the system's.
func chained(state *tls.ConnectionState, conf *tls.Config) bool {
	if conf.RootCAs == nil && conf.InsecureSkipVerify {
		return false
	}
	o := x509.VerifyOptions{Roots: conf.RootCAs, Intermediates: x509.NewCertPool()}
	for _, c := range state.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := state.PeerCertificates[0].Verify(o)
	return err == nil
}

// named reports whether a certificate is for a host or, with below, for one of
// that domain (nexthop and dot-nexthop of smtp_tls_secure_cert_match).
func named(cert *x509.Certificate, name string, below bool) bool {
	if cert.VerifyHostname(name) == nil {
		return true
	}
	for _, n := range cert.DNSNames {
		if below && len(n) > len(name)+1 && strings.EqualFold(n[len(n)-len(name)-1:], "."+name) {
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
