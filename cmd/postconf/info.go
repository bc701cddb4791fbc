package postconf

import (
	"errors"
	"runtime"

	"angarium/lib/cli"
)

// mapTypes are the table types that lib/maps opens.
func mapTypes() []string {
	return []string{"btree", "cdb", "cidr", "dbm", "environ", "fail", "hash", "inline", "internal", "ldap", "lmdb", "memcache", "mysql",
		"pcre", "pgsql", "pipemap", "proxy", "randmap", "regexp", "socketmap", "sqlite", "static", "tcp", "texthash", "unionmap", "unix"}
}

// showTLS is -T. There is no OpenSSL here; what stands in its place says so.
func (p *command) showTLS() error {
	switch p.tls {
	case "compile-version", "run-version":
		p.lines("crypto/tls " + runtime.Version())
	case "public-key-algorithms":
		p.lines("ecdsa", "ed25519", "rsa")
	default:
		p.warnf("unknown 'postconf -T' mode: %s", p.tls)
		return cli.Exit(1, "")
	}
	return nil
}

// bounceTemplates is -b and -t.
func (p *command) bounceTemplates(args []string) error {
	if len(args) > 1 {
		return errors.New("options -b and -t require at most one template file")
	}
	return errors.New("bounce templates cannot be shown yet")
}

// showNotActedOn is -U, which the peer does not have: the settings that are
// known, and that change nothing here.
func (p *command) showNotActedOn() error {
	conf, err := p.load()
	if err != nil {
		return err
	}
	for _, e := range conf.NotActedOn() {
		p.line(e.Name + " = " + e.Value)
	}
	return nil
}
