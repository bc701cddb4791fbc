package postconf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/mastercf"
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

// showNotActedOn is -U, which the peer does not have: each setting in main.cf and
// master.cf that changes nothing here, with its place.
func (p *command) showNotActedOn() error {
	conf, err := p.load()
	if err != nil {
		return err
	}
	entries, err := mastercf.ReadEntries(p.dir+"/master.cf", p.warn)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	k := newKnown(p, conf, entries)
	k.services()
	if err := k.users(); err != nil {
		return err
	}
	for _, e := range conf.Entries() {
		if why := k.idle(e.Name, nil); why != "" {
			p.line(fmt.Sprintf("%s, line %d: %s: %s = %s", filepath.Join(p.dir, "main.cf"), e.Line, why, e.Name, e.Value))
		}
	}
	for _, s := range k.scopes {
		for _, e := range k.settings(s) {
			if why := k.idle(e.Name, s); why != "" {
				p.line(fmt.Sprintf("%s, line %d: %s: %s: %s = %s", filepath.Join(p.dir, "master.cf"), s.entry.Line, s.name, why, e.Name, e.Value))
			}
		}
	}
	return nil
}

// idle says why a setting changes nothing; "" if it does change something, or is a
// name of the admin's own that something refers to.
func (k *known) idle(name string, s *scope) string {
	p := k.params[name]
	switch {
	case p == nil && (s == nil || !s.valid[name]):
		return "unused parameter"
	case p == nil || p.flags&(user|legacy) != 0:
		return ""
	}
	if s != nil && elsewhere(s.entry.Field[mastercf.FieldCommand], name) {
		return "not acted on in this line"
	}
	if _, builtin := maincf.Find(name); builtin {
		if maincf.ActedOn(name) {
			return ""
		}
	} else if def, ok := strings.CutPrefix(p.def, "$"); ok && maincf.ActedOn(def) {
		return "" // <service>_destination_recipient_limit and the like
	}
	return "not acted on"
}

// elsewhere reports whether a setting counts in main.cf, but not in the line of this
// program: its work is done by another, which does not look there.
func elsewhere(program, name string) bool {
	switch program {
	case "local": // qmgr decides where mail for local users goes
		return slices.Contains([]string{"alias_maps", "expand_owner_alias", "fallback_transport", "fallback_transport_maps",
			"luser_relay", "mailbox_transport", "mailbox_transport_maps", "owner_request_special"}, name)
	case "anvil", "discard", "dnsblog", "error", "flush", "proxymap", "scache", "showq", "tlsmgr", "tlsproxy", "verify":
		return true
	}
	return false
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
