package qmgr

import (
	"context"
	"crypto"
	_ "crypto/md5" // fingerprints, as old configurations have them
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	"angarium/lib/conf/mailconf"
	"angarium/lib/conf/maincf"
	smtpagent "angarium/lib/deliver/smtp"
	"angarium/lib/maps"
	"angarium/lib/tlsconf"
)

// clientTLS reads how smtp(8) secures its connections; p is "smtp_" or "lmtp_".
func (d *daemon) clientTLS(c *smtpagent.Config, conf *maincf.Config, p string) error {
	level := conf.String(p + "tls_security_level")
	if level == "" {
		switch {
		case conf.Bool(p + "enforce_tls"):
			level = "encrypt"
		case conf.Bool(p + "use_tls"):
			level = "may"
		}
	}
	sites := &sitePolicies{conf: conf, p: p}
	var err error
	if sites.table, err = mailconf.Table(conf, p+"tls_policy_maps", d.log); err != nil {
		return err
	}
	if c.DANE, err = dane(conf, p, c); err != nil {
		return err
	}
	switch c.TLSPolicy, err = sites.parse(or(level, "none")); {
	case err != nil: // then nobody may send in clear: the mail waits
		d.log.Warnf("%stls_security_level: %v", p, err)
		c.SitePolicy = func(context.Context, string) (smtpagent.Policy, bool, error) { return c.TLSPolicy, true, err }
	case sites.table != nil:
		c.SitePolicy = sites.lookup
	case c.TLSPolicy.Level == "none":
		return nil
	}
	c.TLSLog = mailconf.TLSLogLevel(conf, p+"tls_loglevel") > 0
	c.TLSWrapper = conf.Bool(p + "tls_wrappermode")
	base := tlsconf.Client{
		CertFile: conf.String(p + "tls_cert_file"), KeyFile: conf.String(p + "tls_key_file"),
		CAFile: conf.String(p + "tls_CAfile"), CAPath: conf.String(p + "tls_CApath"),
	}
	lax, strict := conf.String(p+"tls_protocols"), conf.String(p+"tls_mandatory_protocols")
	c.TLS = func(policy smtpagent.Policy) (*tls.Config, error) {
		b := base
		switch {
		case policy.Protocols != "":
			b.Protocols = policy.Protocols
		case policy.Level == "may":
			b.Protocols = lax
		default:
			b.Protocols = strict
		}
		return b.Config()
	}
	return nil
}

// dane reads what is to be known of TLSA records.
func dane(conf *maincf.Config, p string, c *smtpagent.Config) (smtpagent.DANE, error) {
	d := smtpagent.DANE{InsecureMX: strings.ToLower(conf.String("smtp_tls_dane_insecure_mx_policy")), Force: conf.Bool(p + "tls_force_insecure_host_tlsa_lookup")}
	if d.InsecureMX == "" {
		d.InsecureMX = "may"
	}
	if !slices.Contains([]string{"may", "encrypt", "dane"}, d.InsecureMX) {
		return d, fmt.Errorf("bad value for smtp_tls_dane_insecure_mx_policy: %s", d.InsecureMX)
	}
	switch {
	case conf.String(p+"dns_support_level") != "dnssec", c.NoMX, c.Native:
		d.Unusable = "dnssec lookups disabled"
	case !c.LMTP && c.IgnoreMXError:
		d.Unusable = "MX lookup errors ignored"
	}
	for _, w := range conf.List("tls_dane_digests") {
		name, _, _ := strings.Cut(strings.ToLower(w), "=")
		switch name {
		case "sha256":
			d.Digests = append(d.Digests, 1)
		case "sha512":
			d.Digests = append(d.Digests, 2)
		}
	}
	return d, nil
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// sitePolicies is smtp_tls_policy_maps.
type sitePolicies struct {
	conf  *maincf.Config
	p     string
	table maps.Table
}

// lookup asks for the next hop as it stands and, if it is a plain domain, for its
// parents, ".example.com".
func (s *sitePolicies) lookup(ctx context.Context, hop string) (smtpagent.Policy, bool, error) {
	keys := []string{strings.ToLower(hop)}
	if !strings.ContainsAny(hop, "[]:/") {
		for i := strings.IndexByte(hop, '.'); i >= 0; {
			keys = append(keys, strings.ToLower(hop[i:]))
			next := strings.IndexByte(hop[i+1:], '.')
			if next < 0 {
				break
			}
			i += 1 + next
		}
	}
	for _, key := range keys {
		v, ok, err := s.table.Lookup(ctx, key)
		if err != nil {
			return smtpagent.Policy{}, false, err
		}
		if ok {
			policy, err := s.parse(v)
			return policy, true, err
		}
	}
	return smtpagent.Policy{}, false, nil
}

// digests are the values of smtp_tls_fingerprint_digest that Go has.
var digests = map[string]crypto.Hash{
	"md5": crypto.MD5, "sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512,
}

// parse reads "level name=value ...", and adds what main.cf has for the level. An
// error is not taken for "no TLS".
func (s *sitePolicies) parse(value string) (smtpagent.Policy, error) {
	words := strings.FieldsFunc(value, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' })
	if len(words) == 0 {
		return smtpagent.Policy{}, fmt.Errorf("no security level in %q", value)
	}
	policy := smtpagent.Policy{Level: strings.ToLower(words[0]), SNI: s.conf.String(s.p + "tls_servername")}
	match := ""
	switch policy.Level {
	case "verify":
		match = s.p + "tls_verify_cert_match"
	case "secure":
		match = s.p + "tls_secure_cert_match"
	case "fingerprint":
		match = s.p + "tls_fingerprint_cert_match"
	}
	seps := ":| \t,\n"
	if policy.Level == "fingerprint" { // these have colons themselves
		seps = "| \t,\n"
	}
	split := func(v string) []string {
		return strings.FieldsFunc(v, func(r rune) bool { return strings.ContainsRune(seps, r) })
	}
	if match != "" {
		policy.Match = split(s.conf.String(match))
	}
	if !slices.Contains([]string{"none", "may", "encrypt", "dane", "dane-only", "verify", "secure", "fingerprint"}, policy.Level) {
		return policy, fmt.Errorf("invalid security level %q", words[0])
	}
	own := false
	for _, w := range words[1:] {
		name, v, _ := strings.Cut(w, "=")
		switch name = strings.ToLower(name); {
		case v == "":
			return policy, fmt.Errorf("malformed attribute/value pair %q", w)
		case policy.Level == "none":
			return policy, fmt.Errorf("attribute %q with security level \"none\"", name)
		case name == "match" && match != "":
			if !own {
				policy.Match, own = nil, true
			}
			policy.Match = append(policy.Match, split(v)...)
		case name == "protocols":
			policy.Protocols = v
		case name == "servername":
			policy.SNI = v
		case name == "ciphers", name == "exclude", name == "connection_reuse": // Go chooses; we keep connections in any case
		default:
			return policy, fmt.Errorf("invalid attribute %q", name)
		}
	}
	if policy.Level == "fingerprint" {
		name := s.conf.String(s.p + "tls_fingerprint_digest")
		if policy.Digest = digests[strings.ToLower(name)]; policy.Digest == 0 {
			return policy, fmt.Errorf("%stls_fingerprint_digest: unsupported %q", s.p, name)
		}
		if len(policy.Match) == 0 {
			return policy, fmt.Errorf("no fingerprints to match")
		}
	}
	return policy, nil
}
