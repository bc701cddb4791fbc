package smtpd

import (
	"context"
	"net/netip"
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
	attrs := make(map[string]string)
	for word := range strings.FieldsSeq(args) {
		name, value, ok := strings.Cut(word, "=")
		name = strings.ToUpper(name)
		if !ok || !strings.Contains(" "+names+" ", " "+name+" ") {
			return smtp.Reply{Code: 501, Status: "5.5.4", Text: "Error: " + verb + " attribute=value expected"}, true
		}
		if value, ok = smtp.Unxtext(value); !ok {
			return smtp.Reply{Code: 501, Status: "5.5.4", Text: "Error: Bad " + verb + " attribute value"}, true
		}
		if strings.EqualFold(value, "[UNAVAILABLE]") || strings.EqualFold(value, "[TEMPUNAVAIL]") {
			value = ""
		}
		attrs[name] = value
	}
	if verb == "XFORWARD" {
		return s.xforward(attrs), true
	}
	return s.xclient(ctx, attrs), true
}

// xforward takes what the log and the queue file are to say of the client.
func (s *session) xforward(attrs map[string]string) smtp.Reply {
	for name, value := range attrs {
		switch name {
		case "NAME":
			s.forward.Name = value
		case "ADDR":
			s.forward.Addr = strings.TrimPrefix(value, "IPV6:")
		case "PORT":
			s.forward.Port = value
		case "HELO":
			s.forward.Helo = value
		case "PROTO":
			s.forward.Proto = value
		case "IDENT":
			s.forwardIdent = value
		}
	}
	return smtp.Reply{}
}

// xclient makes the session that of another client, from the greeting on.
func (s *session) xclient(ctx context.Context, attrs map[string]string) smtp.Reply {
	p := *s.peer
	for name, value := range attrs {
		switch name {
		case "ADDR":
			a, err := netip.ParseAddr(strings.TrimPrefix(strings.ToUpper(value), "IPV6:"))
			if err != nil {
				return smtp.Reply{Code: 501, Status: "5.5.4", Text: "Bad XCLIENT attribute value"}
			}
			p.addr = a.Unmap()
		case "NAME":
			p.name, p.reverse = orUnknown(value), orUnknown(value)
		case "PORT":
			p.port = value
		case "HELO":
			s.helo = smtp.Neuter(value)
		case "PROTO":
			s.proto = strings.ToUpper(value)
		case "LOGIN":
			s.saslUser, s.saslMethod = value, "XCLIENT"
			if value == "" {
				s.saslMethod = ""
			}
			s.conn.SetAuthenticated(value != "")
		}
	}
	if v, ok := attrs["REVERSE_NAME"]; ok {
		p.reverse = orUnknown(v)
	}
	s.peer = &p
	s.forward, s.forwardIdent = agent.Client{}, ""
	helo, proto := s.helo, s.proto
	r := s.Connect(ctx)
	if !r.OK() {
		s.conn.Deny()
	}
	s.conn.SetHelo(helo, proto != "SMTP")
	return r
}

func orUnknown(name string) string {
	if name == "" || !plausible(name) {
		return "unknown"
	}
	return name
}
