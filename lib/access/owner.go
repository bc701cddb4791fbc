package access

import (
	"strings"

	"angarium/lib/address"
	"angarium/lib/dsn"
)

// ownership is reject_sender_login_mismatch and its parts: may this login use that
// sender address? The owners of an address stand in smtpd_sender_login_maps.
func (e *evaluation) ownership(name string) (outcome, *dsn.Error) {
	s, c := e.s, &e.p.c
	if s.Sender == nil || s.Sender.IsNull() {
		return dunno, nil
	}
	loggedIn := s.SASLUser != ""
	switch {
	case name == "reject_authenticated_sender_login_mismatch" && !loggedIn, name == "reject_unauthenticated_sender_login_mismatch" && loggedIn:
		return dunno, nil
	}
	owners, err := e.owners(*s.Sender)
	if err != nil {
		c.Warn("%v", err)
		return refuse, dsn.New(451, "4.3.0", "<%s>: Temporary lookup failure", s.Sender)
	}
	if loggedIn {
		if len(owners) == 0 && name == "reject_known_sender_login_mismatch" {
			return dunno, nil
		}
		for _, o := range owners {
			if strings.EqualFold(o, s.SASLUser) {
				return dunno, nil
			}
		}
		return blame(553, "5.7.1", s.Sender.String(), classNames[Sender], "not owned by user "+s.SASLUser)
	}
	if len(owners) == 0 {
		return dunno, nil
	}
	return blame(553, "5.7.1", s.Sender.String(), classNames[Sender], "not logged in")
}

// owners asks for the whole address, that without extension, user where the domain
// is ours, and @domain.
func (e *evaluation) owners(a address.Address) ([]string, error) {
	t := e.p.c.SenderLogins
	if t == nil {
		return nil, nil
	}
	a = e.p.resolved(e.ctx, a)
	user, _, ext := address.SplitExtension(a.Local, e.p.c.Delimiters)
	keys := []string{a.String()}
	if ext {
		keys = append(keys, user+"@"+a.Domain)
	}
	keys = append(keys, "@"+a.Domain)
	for _, k := range keys {
		value, ok, err := t.Lookup(e.ctx, strings.ToLower(k))
		if err != nil {
			return nil, err
		}
		if ok {
			return Words(value), nil
		}
	}
	return nil, nil
}
