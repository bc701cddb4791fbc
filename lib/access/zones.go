package access

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"angarium/lib/address"
	"angarium/lib/dsn"
)

// ErrNullMX is what DNS.Mail says of a domain that takes no mail at all (RFC 7505).
var ErrNullMX = errors.New("domain does not accept mail")

// Zones is what check_*_mx_access and its like ask beyond DNS. A name that does
// not exist is an empty answer; an error is temporary.
type Zones interface {
	MX(ctx context.Context, domain string) ([]string, error)
	NS(ctx context.Context, domain string) ([]string, error)
	Addrs(ctx context.Context, host string) ([]netip.Addr, error)
}

// serverCheck tells which server of whom a restriction is about:
// check_sender_mx_access is of the sender, by "mx".
func serverCheck(name string) (who, kind string, ok bool) {
	who, ok = strings.CutSuffix(name, "_access")
	if !ok {
		return "", "", false
	}
	if who, ok = strings.CutPrefix(who, "check_"); !ok {
		return "", "", false
	}
	for _, kind := range []string{"mx", "ns", "a"} {
		if w, ok := strings.CutSuffix(who, "_"+kind); ok {
			switch w {
			case "client", "reverse_client_hostname", "helo", "sender", "recipient":
				return w, kind, true
			}
		}
	}
	return "", "", false
}

// servers looks up the hosts behind a name, by name and by address, in a table. A
// name that can't be asked for says nothing, as with Postfix: whoever can make the
// look-up fail must not be able to stop mail either.
func (e *evaluation) servers(it *item, who, kind string, depth int) (outcome, *dsn.Error) {
	zones, ok := e.p.c.DNS.(Zones)
	if !ok {
		return dunno, nil
	}
	name, class, domain := e.whose(who)
	if domain == "" || domain == "unknown" {
		return dunno, nil
	}
	hosts, err := serversOf(e.ctx, zones, kind, domain)
	if err != nil {
		e.p.c.Warn("Unable to look up %s host for %s: %v", strings.ToUpper(kind), domain, err)
		return dunno, nil
	}
	in := &evaluation{p: e.p, s: e.s, ctx: e.ctx, name: name, class: class}
	for _, host := range hosts {
		keys := e.p.domainKeys(strings.ToLower(host))
		addrs, err := zones.Addrs(e.ctx, host)
		if len(addrs) == 0 {
			why := "Name or service not known" // getaddrinfo(3)'s words
			if err != nil {
				why = err.Error()
			}
			e.p.c.Warn("Unable to look up %s host %s for %s %s: %s", strings.ToUpper(kind), host, class, name, why)
		}
		for _, a := range addrs {
			keys = append(keys, addrKeys(a)...)
		}
		o, refusal := in.look(it, keys, depth)
		if o == permit { // the owner of a domain could name a server of ours
			e.p.c.Warn("restriction %s returns OK for %s", it.name, host)
			e.p.c.Warn("this is not allowed for security reasons")
			e.p.c.Warn("use DUNNO instead of OK if you want to make an exception")
			return e.serverError()
		}
		if o != dunno {
			return o, refusal
		}
	}
	return dunno, nil
}

// whose is a name in a session: how refusals call it, and its domain.
func (e *evaluation) whose(who string) (name, class, domain string) {
	s := e.s
	of := func(a *address.Address, class string) (string, string, string) {
		if a == nil {
			return "", class, ""
		}
		return a.String(), class, a.Domain
	}
	switch who {
	case "client":
		return s.clientID(), classNames[Client], s.ClientName
	case "reverse_client_hostname", "reverse_client":
		return s.ReverseName, "Unverified Client host", s.ReverseName
	case "helo":
		return s.Helo, classNames[Helo], s.Helo
	case "sender":
		return of(s.Sender, classNames[Sender])
	default:
		return of(s.Recipient, classNames[Recipient])
	}
}

// serversOf are the hosts of a domain: its mail exchangers (or itself), the name
// servers of the closest zone that has some, or itself.
func serversOf(ctx context.Context, z Zones, kind, domain string) ([]string, error) {
	if strings.HasPrefix(domain, "[") {
		lit := strings.TrimPrefix(strings.ToLower(strings.Trim(domain, "[]")), "ipv6:")
		if _, err := netip.ParseAddr(lit); err != nil || kind == "ns" {
			return nil, nil
		}
		return []string{lit}, nil
	}
	switch kind {
	case "mx":
		hosts, err := z.MX(ctx, domain)
		if err == nil && len(hosts) == 0 {
			hosts = []string{domain}
		}
		return hosts, err
	case "ns":
		for {
			hosts, err := z.NS(ctx, domain)
			if err != nil || len(hosts) > 0 {
				return hosts, err
			}
			_, parent, ok := strings.Cut(domain, ".")
			if !ok || !strings.Contains(parent, ".") && len(parent) == 0 {
				return nil, nil
			}
			domain = parent
		}
	}
	return []string{domain}, nil
}

// listing asks a block list for an address or a name; what is how its reply calls
// that. An answer counts if the filter lets it.
func (e *evaluation) listing(key, arg string) (zone string, text string, listed bool) {
	zone, filter, _ := strings.Cut(arg, "=")
	if e.p.c.DNS == nil || zone == "" || key == "" {
		return zone, "", false
	}
	addrs, text, err := e.p.c.DNS.Block(e.ctx, key+"."+zone)
	if err != nil {
		e.p.c.Warn("%s.%s: RBL lookup error: %v", key, zone, err)
		return zone, "", false
	}
	for _, a := range addrs {
		if filter == "" || matches(filter, a) {
			return zone, text, true
		}
	}
	return zone, "", false
}

// matches compares an address with a pattern such as 127.0.0.[2..10;12].
func matches(pattern string, a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	b := a.As4()
	parts := splitPattern(pattern)
	if len(parts) != 4 {
		return false
	}
	for i, p := range parts {
		if !octetMatches(p, int(b[i])) {
			return false
		}
	}
	return true
}

// splitPattern parts at dots outside of brackets.
func splitPattern(s string) (parts []string) {
	start, inside := 0, false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '[':
			inside = true
		case ']':
			inside = false
		case '.':
			if !inside {
				parts = append(parts, s[start:i])
				start = i + 1
			}
		}
	}
	return append(parts, s[start:])
}

func octetMatches(p string, octet int) bool {
	for alt := range strings.SplitSeq(strings.Trim(p, "[]"), ";") {
		low, high, isRange := strings.Cut(alt, "..")
		if !isRange {
			high = low
		}
		l, err1 := strconv.Atoi(low)
		h, err2 := strconv.Atoi(high)
		if err1 == nil && err2 == nil && l <= octet && octet <= h {
			return true
		}
	}
	return false
}

// rbl is reject_rbl_client and reject_rhsbl_*: zone[=filter].
func (e *evaluation) rbl(name, arg string) (outcome, *dsn.Error) {
	key, what, class := reversed(e.s.ClientAddr), e.s.ClientAddr.String(), classNames[Client]
	if who, ok := strings.CutPrefix(name, "reject_rhsbl_"); ok {
		var domain string
		if what, class, domain = e.whose(who); who == "client" {
			what = domain
		}
		if key = strings.TrimSuffix(domain, "."); key == "unknown" || strings.HasPrefix(key, "[") {
			return dunno, nil
		}
		if _, err := netip.ParseAddr(key); err == nil {
			return dunno, nil
		}
	}
	zone, text, listed := e.listing(key, arg)
	if !listed {
		return dunno, nil
	}
	return refuse, e.rblReply(RBLHit{Zone: zone, Class: class, What: what, Reason: text})
}

// RBLHit is what a block list said.
type RBLHit struct{ Zone, Class, What, Reason string }

// rblReply makes the refusal, from the administrator's template if there is one.
func (e *evaluation) rblReply(h RBLHit) *dsn.Error {
	c := &e.p.c
	msg := "Service unavailable; " + h.Class + " [" + h.What + "] blocked using " + h.Zone
	if h.Reason != "" {
		msg += "; " + h.Reason
	}
	if c.RBLReply == nil {
		return dsn.New(c.RBLCode, fit(c.RBLCode, "5.7.1"), "%s", msg)
	}
	text, err := c.RBLReply(e.ctx, c.RBLCode, h, e.s)
	if err != nil {
		c.Warn("%v", err)
		return dsn.New(451, "4.3.5", "Server configuration error")
	}
	word, rest, _ := strings.Cut(text, " ")
	code, err := strconv.Atoi(word)
	if err != nil || code < 400 || code > 599 || rest == "" {
		c.Warn("rbl response code configuration error: %s", text)
		return dsn.New(450, "4.7.1", "Service unavailable")
	}
	status := fit(code, "5.7.1")
	if first, more, ok := strings.Cut(rest, " "); ok {
		if own, err := dsn.ParseCode(first); err == nil && own[0] == code/100 {
			status, rest = first, more
		}
	}
	return dsn.New(code, status, "%s", rest)
}

// white is permit_dnswl_client and permit_rhswl_client.
func (e *evaluation) white(name, arg string) (outcome, *dsn.Error) {
	key := reversed(e.s.ClientAddr)
	if name == "permit_rhswl_client" {
		if key = e.s.ClientName; key == "unknown" {
			return dunno, nil
		}
	}
	_, _, listed := e.listing(key, arg)
	return when(listed)
}
