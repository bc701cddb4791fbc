package smtpd

import (
	"context"
	"net/netip"
	"strconv"
	"strings"

	"angarium/lib/access"
	"angarium/lib/agent"
	"angarium/lib/smtp"
)

// Etrn: see smtp.Turner.
func (s *session) Etrn(ctx context.Context, site string) smtp.Reply {
	if s.c.Policy != nil {
		sub := access.Subject{ClientName: s.peer.name, ReverseName: s.peer.reverse, ClientAddr: s.peer.addr, Helo: s.heloName(), Etrn: site}
		if err, _ := s.c.Policy.Check(ctx, &sub, s.c.Client, s.c.Helo, s.c.Etrn); err != nil {
			r := smtp.Fail(err)
			s.whatsUp("reject", "ETRN", r.String())
			return r
		}
	}
	r := smtp.Reply{Code: 459, Text: "<" + site + ">: service unavailable"}
	if s.c.Flush != nil {
		r = s.c.Flush(ctx, site)
	}
	if r.Code == 459 {
		s.log.Warnf("reject: ETRN %.100s... from %s", site, s.peer.id())
	}
	return r
}

const (
	xclientNames  = "NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT"
	xforwardNames = "NAME ADDR PROTO HELO SOURCE PORT IDENT"
)

// Extensions: see smtp.Extender. XCLIENT and XFORWARD are offered to proxies
// that the administrator trusts.
func (s *session) Extensions() []string {
	var out []string
	if s.c.XClient != nil && s.c.XClient(s.peer.name, s.peer.addr) {
		out = append(out, "XCLIENT "+xclientNames)
	}
	if s.c.XForward != nil && s.c.XForward(s.caller.name, s.caller.addr) {
		out = append(out, "XFORWARD "+xforwardNames)
	}
	return out
}

// Extend: see smtp.Extender.
func (s *session) Extend(ctx context.Context, verb, args string) (smtp.Reply, bool) {
	allowed, names, who := s.c.XClient, xclientNames, s.peer
	if verb == "XFORWARD" {
		allowed, names, who = s.c.XForward, xforwardNames, s.caller
	}
	switch {
	case s.sender != nil:
		return smtp.Reply{Code: 503, Status: "5.5.1", Text: "Error: MAIL transaction in progress"}, true
	case args == "":
		return smtp.Reply{Code: 501, Status: "5.5.4", Text: "Syntax: " + verb + " attribute=value..."}, true
	case allowed == nil || !allowed(who.name, who.addr):
		return smtp.Reply{Code: 550, Status: "5.7.0", Text: "Error: insufficient authorization"}, true
	}
	attrs, bad := attributes(verb, names, args)
	switch {
	case bad.Code != 0:
		return bad, true
	case verb == "XFORWARD":
		return s.xforward(attrs), true
	}
	return s.xclient(ctx, attrs), true
}

// attribute is one of XCLIENT or XFORWARD. It is absent where the proxy said
// [UNAVAILABLE].
type attribute struct {
	name, value string
	absent      bool
}

// or is the value, or another one where it is absent.
func (a attribute) or(other string) string {
	if a.absent {
		return other
	}
	return a.value
}

// bad refuses an attribute.
func (a attribute) bad() smtp.Reply { return extendError("Bad " + a.name + " syntax: " + a.value) }

func extendError(text string) smtp.Reply { return smtp.Reply{Code: 501, Status: "5.5.4", Text: text} }

// attributes parses name=value words. A value that is no xtext stands for itself.
func attributes(verb, names, args string) (list []attribute, bad smtp.Reply) {
	for word := range strings.FieldsSeq(args) {
		name, value, ok := strings.Cut(word, "=")
		if !ok || value == "" {
			return nil, extendError("Error: attribute=value expected")
		}
		a := attribute{name: strings.ToUpper(name), value: value}
		if !strings.Contains(" "+names+" ", " "+a.name+" ") {
			return nil, extendError("Bad " + verb + " attribute name: " + name)
		}
		if text, ok := smtp.Unxtext(value); ok {
			a.value = text
		}
		if a.absent = strings.EqualFold(a.value, "[UNAVAILABLE]") || strings.EqualFold(a.value, "[TEMPUNAVAIL]"); !a.absent && !a.valid() {
			return nil, a.bad()
		}
		list = append(list, a)
	}
	return list, smtp.Reply{}
}

// valid reports whether a value is of the kind that its name asks for.
func (a attribute) valid() bool {
	switch a.name {
	case "NAME", "REVERSE_NAME":
		return smtp.ValidDomain(a.value)
	case "ADDR", "DESTADDR":
		_, ok := a.addr()
		return ok
	case "PORT", "DESTPORT":
		_, err := strconv.ParseUint(a.value, 10, 16)
		return err == nil
	case "SOURCE":
		return strings.EqualFold(a.value, "LOCAL") || strings.EqualFold(a.value, "REMOTE")
	}
	return true
}

// addr is the value as an address, which IPv6: may precede.
func (a attribute) addr() (netip.Addr, bool) {
	text := a.value
	if len(text) > 5 && strings.EqualFold(text[:5], "IPv6:") {
		text = text[5:]
	}
	ip, err := netip.ParseAddr(text)
	return ip.Unmap(), err == nil
}

// xforward takes what the log and the queue file are to say of the client.
func (s *session) xforward(attrs []attribute) smtp.Reply {
	for _, a := range attrs {
		if s.forward.Name == "" && a.name != "IDENT" { // which tells nothing of the client
			s.forward = agent.Client{Name: "unknown", Addr: "unknown", Port: "unknown"}
		}
		switch a.name {
		case "NAME":
			s.forward.Name = a.or("unknown")
		case "ADDR":
			s.forward.Addr = "unknown"
			if ip, ok := a.addr(); ok {
				s.forward.Addr = ip.String()
			}
		case "PORT":
			s.forward.Port = a.or("unknown")
		case "HELO":
			s.forward.Helo = smtp.Neuter(a.or(""))
		case "PROTO":
			s.forward.Proto = smtp.Neuter(a.or(""))
		case "IDENT":
			s.forwardIdent = smtp.Neuter(a.or(""))
		case "SOURCE":
			s.source = strings.ToUpper(a.or("LOCAL"))
		}
	}
	return smtp.Reply{}
}

// xclient makes the session that of another client, from the greeting on. What it
// said in HELO is forgotten, unless the proxy repeats it.
func (s *session) xclient(ctx context.Context, attrs []attribute) smtp.Reply {
	p := *s.peer
	helo, proto := "", "SMTP"
	for _, a := range attrs {
		switch a.name {
		case "PROTO":
			if proto = strings.ToUpper(a.value); a.absent || proto != "SMTP" && proto != "ESMTP" {
				return a.bad()
			}
		case "HELO":
			helo = smtp.Neuter(a.or(""))
		case "ADDR":
			p.addr, _ = a.addr() // none: unknown
		case "NAME":
			p.name, p.reverse = a.or("unknown"), a.or("unknown")
			p.failed = strings.EqualFold(a.value, "[TEMPUNAVAIL]")
		case "PORT":
			p.port = a.or("unknown")
		case "DESTADDR":
			ip, _ := a.addr()
			p.server = netip.AddrPortFrom(ip, p.server.Port())
		case "DESTPORT":
			port, _ := strconv.ParseUint(a.or("0"), 10, 16)
			p.server = netip.AddrPortFrom(p.server.Addr(), uint16(port))
		case "LOGIN":
			if s.saslUser, s.saslMethod = a.or(""), ""; s.saslUser != "" {
				s.saslMethod = "XCLIENT"
			}
			s.conn.SetAuthenticated(s.saslUser != "")
		}
	}
	for _, a := range attrs { // whatever NAME says, in any order
		if a.name == "REVERSE_NAME" {
			p.reverse = a.or("unknown")
		}
	}
	s.peer = &p
	s.forward, s.forwardIdent, s.source = agent.Client{}, "", ""
	s.helo, s.proto = helo, proto
	s.conn.SetHelo(helo, proto == "ESMTP")
	r := s.greet(ctx, "XCLIENT")
	if !r.OK() {
		s.conn.Deny()
	}
	return r
}
