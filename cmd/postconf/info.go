package postconf

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
)

// mapTypes are the table types that lib/maps opens.
func mapTypes() []string {
	return []string{"btree", "cdb", "cidr", "dbm", "environ", "fail", "hash", "inline", "internal", "lmdb", "nis", "pcre", "pipemap",
		"proxy", "randmap", "regexp", "sdbm", "socketmap", "static", "tcp", "texthash", "unionmap", "unix"}
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
	file := filepath.Join(conf.Dir(), "main.cf")
	for _, e := range conf.NotActedOn() {
		p.line(fmt.Sprintf("%s, line %d: not acted on: %s = %s", file, e.Line, e.Name, e.Value))
	}
	return nil
}

// describe is -D, which the peer does not have: what parameters are for.
func (p *command) describe(names []string) {
	if len(names) == 0 {
		for _, d := range maincf.Params() {
			names = append(names, d.Name)
		}
	}
	for _, name := range names {
		d, ok := maincf.Find(name)
		if !ok {
			p.warnf("%s: unknown parameter", name)
			continue
		}
		note := ""
		if !maincf.ActedOn(name) {
			note = " [not acted on]"
		}
		p.line(fmt.Sprintf("%s (%v): %s%s", name, d.Kind, d.Doc, note))
	}
}
