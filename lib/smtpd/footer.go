package smtpd

import (
	"context"
	"strings"
	"time"

	"angarium/lib/smtp"
)

// Footer: see smtp.Footer. "\n" in the template begins a line of the reply; "\c" at
// its start puts the first one behind what is said already.
func (s *session) Footer(r smtp.Reply) string {
	if s.c.Footer == nil {
		return r.Text
	}
	template := s.c.Footer(context.Background(), r.String())
	if template == "" {
		return r.Text
	}
	text := r.Text
	for i, line := range strings.Split(template, `\n`) {
		if rest, ok := strings.CutPrefix(line, `\c`); ok && i == 0 {
			line = rest
		} else {
			text += "\n"
		}
		text += strings.ReplaceAll(s.c.Expand(line, s.attribute), "\n", " ")
	}
	return text
}

// attribute is what $name stands for in a footer. The recipient is never told: the
// peer has forgotten it by then, and logs show it.
func (s *session) attribute(name string) (string, bool) {
	var v string
	switch name {
	case "server_name":
		v = s.c.MyName
	case "client":
		v = s.peer.id()
	case "client_name":
		v = s.peer.name
	case "client_address":
		v = s.peer.address()
	case "client_port":
		v = s.peer.port
	case "reverse_client_name":
		v = s.peer.reverse
	case "helo_name":
		v = s.heloName()
	case "localtime":
		v = time.Now().Format("Jan 02 15:04:05")
	case "sender", "sender_name", "sender_domain":
		v = s.senderPart(name)
	case "recipient", "recipient_name", "recipient_domain":
	default:
		s.log.Warnf("unknown macro name \"%s\" in expansion request", name)
		return "", false
	}
	return v, true
}

func (s *session) senderPart(name string) string {
	switch {
	case s.sender == nil:
		return ""
	case name == "sender_domain":
		return s.sender.Domain
	case s.sender.IsNull():
		return "<>"
	case name == "sender_name":
		return s.sender.Local
	}
	return s.sender.String()
}
