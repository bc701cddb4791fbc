package smtpd

import (
	"context"
	"strconv"
	"strings"

	"angarium/lib/address"
	"angarium/lib/milter"
	"angarium/lib/smtp"
)

// milterOf finds the filters for a client: nil if there are none.
func (s *session) milterOf(ctx context.Context) *milter.Config {
	if s.c.Milters == nil {
		return nil
	}
	return s.c.Milters(ctx, s.peer.addr)
}

// filtered carries out what the filters say about a step of the dialogue.
func (s *session) filtered(verb string, v milter.Verdict) smtp.Reply {
	switch v.Kind {
	case milter.Hold:
		s.hold = true
		s.whatsUp("milter-hold", verb, "milter triggers HOLD action")
	case milter.Discard:
		s.discard = true
		s.whatsUp("milter-discard", verb, "milter triggers DISCARD action")
	case milter.Disconnect:
		s.whatsUp("milter-reject", verb, "421 4.7.0 Server closing connection")
		return smtp.Reply{Code: 421, Status: "4.7.0", Text: "Server closing connection"}
	case milter.Refuse:
		r := milterReply(v.Text)
		if s.c.Server.SoftBounce {
			r = r.Soft()
		}
		s.whatsUp("milter-reject", verb, strings.ReplaceAll(v.Text, "\r\n", " "))
		return r
	}
	return smtp.Reply{}
}

// milterReply reads "550 5.7.1 text", maybe of several lines.
func milterReply(text string) smtp.Reply {
	var r smtp.Reply
	for i, line := range strings.Split(strings.ReplaceAll(text, "\r", ""), "\n") {
		if len(line) < 4 {
			continue
		}
		if i == 0 {
			r.Code, _ = strconv.Atoi(line[:3])
		} else {
			r.Text += "\n"
		}
		line = line[4:]
		if status, rest, ok := strings.Cut(line, " "); ok && strings.Count(status, ".") == 2 && strings.Trim(status, "0123456789.") == "" {
			r.Status, line = status, rest
		}
		r.Text += line
	}
	return r
}

// connectFilters opens the dialogue with the filters.
func (s *session) connectFilters(ctx context.Context) smtp.Reply {
	c := s.milterOf(ctx)
	if c == nil {
		return smtp.Reply{}
	}
	if s.filters != nil {
		s.filters.Close()
	}
	s.filters = c.Begin()
	port, _ := strconv.Atoi(s.peer.port)
	name := s.peer.name
	if name == "unknown" {
		name = "[" + s.peer.addr.String() + "]"
	}
	v := s.filters.Connect(ctx, milter.Client{Name: name, Addr: s.peer.addr.String(), Port: port}, s.macro)
	r := s.filtered("CONNECT", v)
	if r.Code != 0 && r.Code != 421 && s.conn != nil {
		s.conn.Ask() // the filters say so again at each command, with their own reply
	}
	return r
}

// mailArgs are the parameters of MAIL as the client gave them.
func mailArgs(m smtp.Mail) []string {
	list := []string{"<" + m.From.Quoted() + ">"}
	if m.Size > 0 {
		list = append(list, "SIZE="+strconv.FormatInt(m.Size, 10))
	}
	if m.Body != "" {
		list = append(list, "BODY="+m.Body)
	}
	if m.SMTPUTF8 {
		list = append(list, "SMTPUTF8")
	}
	if m.Ret != "" {
		list = append(list, "RET="+m.Ret)
	}
	return list
}

// macro gives the value of a macro, as far as it is known now.
func (s *session) macro(name string) (string, bool) {
	some := func(v string) (string, bool) { return v, v != "" }
	switch name {
	case "i", "{i}":
		if s.letter == nil {
			return "", false
		}
		return s.letter.ID(), true
	case "j", "{j}":
		return s.c.MyName, true
	case "_", "{_}":
		if s.peer.reverse != "unknown" && s.peer.name == "unknown" {
			return s.peer.reverse + " [" + literal(s.peer.addr) + "] (may be forged)", true
		}
		return s.peer.name + " [" + literal(s.peer.addr) + "]", true
	case "{client_addr}":
		return s.peer.addr.String(), true
	case "{client_name}":
		return s.peer.name, true
	case "{client_port}":
		return some(s.peer.port)
	case "{client_ptr}":
		return s.peer.reverse, true
	case "{client_resolve}":
		if s.peer.name == "unknown" {
			return "FAIL", true
		}
		return "OK", true
	case "{daemon_addr}":
		if s.peer.server.IsValid() {
			return s.peer.server.Addr().String(), true
		}
	case "{daemon_port}":
		if s.peer.server.IsValid() {
			return itoa(int(s.peer.server.Port())), true
		}
	case "{auth_type}":
		return some(s.saslMethod)
	case "{auth_authen}":
		return some(s.saslUser)
	case "{mail_addr}":
		if s.sender != nil {
			return s.sender.Quoted(), true
		}
	case "{rcpt_addr}":
		if s.rcpt != nil {
			return s.rcpt.Quoted(), true
		}
	case "{mail_host}", "{mail_mailer}":
		return s.routeMacro(name, s.sender)
	case "{rcpt_host}", "{rcpt_mailer}":
		return s.routeMacro(name, s.rcpt)
	case "{tls_version}", "{cipher}", "{cipher_bits}":
		return s.tlsMacro(name)
	}
	if s.c.Macro != nil {
		return s.c.Macro(name)
	}
	return "", false
}

// tlsMacro reads what the log says of the connection: "TLSv1.3 with cipher X (256/256 bits)".
func (s *session) tlsMacro(name string) (string, bool) {
	f := strings.Fields(s.tlsText)
	if len(f) < 5 {
		return "", false
	}
	switch name {
	case "{tls_version}":
		return f[0], true
	case "{cipher}":
		return f[3], true
	}
	bits, _, _ := strings.Cut(strings.TrimPrefix(f[4], "("), "/")
	return bits, true
}

func (s *session) routeMacro(name string, a *address.Address) (string, bool) {
	if a == nil || s.c.Recipients == nil || s.c.Recipients.Router == nil {
		return "", false
	}
	res, err := s.c.Recipients.resolve(context.Background(), *a)
	if err != nil {
		return "", false
	}
	if strings.HasSuffix(name, "_host}") {
		return res.NextHop, true
	}
	return res.Transport, true
}

// filterRcpt tells the filters of a recipient that the lists let pass.
func (s *session) filterRcpt(r smtp.Rcpt) smtp.Reply {
	if s.filters == nil {
		return smtp.Reply{}
	}
	s.rcpt = &r.To
	defer func() { s.rcpt = nil }()
	list := []string{"<" + r.To.Quoted() + ">"}
	if r.ORCPT != "" {
		list = append(list, "ORCPT="+r.ORCPT)
	}
	return s.filtered("RCPT", s.filters.Rcpt(list, s.macro))
}
