package smtp

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"angarium/lib/dns"
	"angarium/lib/dsn"
)

// DANE is how TLSA records (RFC 7672) are looked up, for levels dane and dane-only.
type DANE struct {
	// Unusable says why main.cf does not allow for them; "": it does.
	Unusable string
	// InsecureMX is smtp_tls_dane_insecure_mx_policy: may, encrypt or dane.
	InsecureMX string
	Force      bool // smtp_tls_force_insecure_host_tlsa_lookup
	// Digests are matching types, best first: tls_dane_digests.
	Digests []byte
}

// hashes of matching types, RFC 6698, 7.4.
var hashes = map[byte]crypto.Hash{1: crypto.SHA256, 2: crypto.SHA512}

// dane looks whether a host has told in the DNS what certificate it shows. Where
// it has not, level dane becomes what it stands on: may, or encrypt where there are
// records that are of no use. For dane-only that is an error.
func (d *delivery) dane(ctx context.Context, policy Policy, hop string, p place) (Policy, error) {
	less := func(level, why string) (Policy, error) {
		if policy.Level == "dane-only" {
			return policy, dsn.New(0, "4.7.5", "%s", why)
		}
		policy.Level, policy.Match = level, nil
		return policy, nil
	}
	switch {
	case p.network != "tcp":
		d.r.Log.Warnf("%s: the \"dane\" security level is invalid for delivery via unix-domain sockets", hop)
		return policy, dsn.New(0, "4.7.5", "client TLS configuration problem")
	case d.c.DANE.Unusable != "":
		d.r.Log.Warnf("%s: %s configured with %s", hop, policy.Level, d.c.DANE.Unusable)
		return less("may", "client TLS configuration problem")
	case p.mxOf != "" && !p.mxSecure && (policy.Level == "dane-only" || d.c.DANE.InsecureMX == "may"):
		return less("may", "non DNSSEC destination")
	}
	list, base, err := d.tlsa(ctx, p)
	if err != nil {
		return policy, dsn.New(0, "4.7.5", "TLSA lookup error for %s:%s", p.host, p.port)
	}
	if len(list) == 0 {
		return less("may", "no TLSA records found")
	}
	if list = d.usable(list, "_"+p.port+"._tcp."+base); len(list) == 0 {
		return less("encrypt", "TLSA records unusable")
	}
	if p.mxOf != "" && !p.mxSecure {
		if d.c.DANE.InsecureMX != "dane" {
			return less("encrypt", "")
		}
		policy.Level = "half-dane"
	}
	policy.TLSA, policy.SNI = list, base
	policy.Match = []string{base}
	if p.mxOf != "" {
		policy.Match = append(policy.Match, p.mxOf)
	}
	return policy, nil
}

// tlsa looks the records of a host up: those of its real name first, else of the
// alias. base is whose they are. No records is no error.
func (d *delivery) tlsa(ctx context.Context, p place) (list []dns.TLSA, base string, err error) {
	names := []string{p.host}
	alias := !strings.EqualFold(p.realName, p.host)
	switch {
	case p.secure && alias:
		names = []string{p.realName, p.host}
	case p.secure || d.c.DANE.Force:
	case !alias:
		return nil, "", nil // an unsigned zone has no signed records
	default:
		signed, err := d.c.Resolver.Alias(ctx, p.host)
		if err != nil {
			d.r.Log.Warnf("DNSSEC status lookup error for %s: %v", p.host, err)
			return nil, "", err
		}
		if !signed {
			return nil, "", nil
		}
	}
	for _, name := range names {
		list, signed, err := d.c.Resolver.TLSA(ctx, "_"+p.port+"._tcp."+name)
		switch {
		case dns.Missing(err), err == nil && !signed:
			continue
		case err != nil:
			d.r.Log.Warnf("DANE TLSA lookup problem: %v", err)
			return nil, "", err
		}
		return list, name, nil
	}
	return nil, "", nil
}

// usable are the records that can be meant for mail: those of a usage that needs no
// other authority, and of a digest that we want.
func (d *delivery) usable(list []dns.TLSA, name string) []dns.TLSA {
	return slices.DeleteFunc(list, func(r dns.TLSA) bool {
		if r.Usage != 2 && r.Usage != 3 {
			d.r.Log.Warnf("%s unsupported TLSA certificate usage: %s", name, recordText(r))
			return true
		}
		return r.Matching != 0 && !slices.Contains(d.c.DANE.Digests, r.Matching)
	})
}

// recordText is a record for the log; of long data, the ends.
func recordText(r dns.TLSA) string {
	data := fmt.Sprintf("%X", r.Data)
	if len(r.Data) > 64 {
		data = data[:64] + "..." + data[len(data)-64:]
	}
	if data == "" {
		data = "..."
	}
	return fmt.Sprintf("%d %d %d %s", r.Usage, r.Selector, r.Matching, data)
}

// obey takes out of the policy the records that make no sense. Where none is left
// nobody can be known by them: dane is content with any secret connection then.
func (d *delivery) obey(policy Policy, p place) Policy {
	if policy.TLSA == nil {
		return policy
	}
	best := map[[2]byte]int{}
	rank := func(r dns.TLSA) int { return slices.Index(d.c.DANE.Digests, r.Matching) }
	good := []dns.TLSA{}
	for _, r := range policy.TLSA {
		if !sound(r) {
			d.r.Log.Warnf("%s: unusable TLSA RR: %s", p.relay, recordText(r))
			continue
		}
		if kind := [2]byte{r.Usage, r.Selector}; r.Matching != 0 {
			if b, ok := best[kind]; !ok || rank(r) < b {
				best[kind] = rank(r)
			}
		}
		good = append(good, r)
	}
	// Beside whole certificates and keys only the best digest of a usage and
	// selector counts, RFC 7671, 9.
	policy.TLSA = slices.DeleteFunc(good, func(r dns.TLSA) bool { return r.Matching != 0 && rank(r) != best[[2]byte{r.Usage, r.Selector}] })
	switch {
	case len(policy.TLSA) > 0:
	case policy.Level == "dane-only":
		d.r.Log.Warnf("%s: all TLSA records unusable", p.relay)
	default:
		d.r.Log.Warnf("%s: all TLSA records unusable, fallback to unauthenticated TLS", p.relay)
		policy.Level, policy.TLSA = "encrypt", nil
	}
	return policy
}

// sound reports whether a record can agree with anything.
func sound(r dns.TLSA) bool {
	var err error
	switch {
	case r.Selector > 1:
		return false
	case r.Matching != 0:
		return len(r.Data) == hashes[r.Matching].Size()
	case r.Selector == 0:
		_, err = x509.ParseCertificate(r.Data)
	default:
		_, err = x509.ParsePKIXPublicKey(r.Data)
	}
	return err == nil
}

// agrees reports whether a chain of certificates, the server's own first, is one
// that the records allow. For the server's own certificate (usage 3) neither its
// names nor its dates count, RFC 7672, 3.1.1.
func (p Policy) agrees(chain []*x509.Certificate, now time.Time) bool {
	for _, r := range p.TLSA {
		if r.Usage == 3 && fits(r, chain[0]) || r.Usage == 2 && p.anchored(r, chain, now) {
			return true
		}
	}
	return false
}

// fits reports whether a record is about a certificate.
func fits(r dns.TLSA, cert *x509.Certificate) bool {
	data := cert.Raw
	if r.Selector == 1 {
		data = cert.RawSubjectPublicKeyInfo
	}
	if r.Matching != 0 {
		h := hashes[r.Matching].New()
		h.Write(data)
		data = h.Sum(nil)
	}
	return bytes.Equal(data, r.Data)
}

// anchored reports whether the chain leads to the authority that a record names,
// and its first certificate has one of our names.
func (p Policy) anchored(r dns.TLSA, chain []*x509.Certificate, now time.Time) bool {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
	for i, cert := range chain {
		if i == 0 {
			continue
		}
		if o.Intermediates.AddCert(cert); fits(r, cert) {
			o.Roots.AddCert(cert)
		}
	}
	if r.Matching == 0 { // the authority itself is in the DNS, and need not be sent
		if err := addAnchor(o.Roots, r, chain); err != nil {
			return false
		}
	}
	_, err := chain[0].Verify(o)
	return err == nil && p.named(chain[0], "", "")
}

// addAnchor trusts a whole certificate of a record; or, where it is a key, what
// that has signed.
func addAnchor(roots *x509.CertPool, r dns.TLSA, chain []*x509.Certificate) error {
	if r.Selector == 0 {
		cert, err := x509.ParseCertificate(r.Data)
		if err == nil {
			roots.AddCert(cert)
		}
		return err
	}
	key, err := x509.ParsePKIXPublicKey(r.Data)
	if err != nil {
		return err
	}
	signer := &x509.Certificate{PublicKey: key}
	err = errors.New("signed nothing")
	for _, cert := range chain {
		if signer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil {
			roots.AddCert(cert)
			err = nil
		}
	}
	return err
}
