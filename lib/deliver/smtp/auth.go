package smtp

import (
	"context"
	"errors"
	"strings"

	"angarium/lib/address"
	"angarium/lib/dsn"
	"angarium/lib/smtp"
)

// AuthAt is where a password is needed.
type AuthAt struct {
	NextHop, Host string // the next hop as it was given, and the server's name
	Sender        address.Address
	Offered       []string // mechanisms of the server
	TLS, Verified bool     // the connection is secret, and the server known by its certificate
}

// Login is how to log in at a server.
type Login interface {
	smtp.ClientExchange
	// Refused is told the reply with which the server turned us down.
	Refused(*dsn.Error)
}

// ErrNoMechanism says that we have a password, but no mechanism for it.
var ErrNoMechanism = errors.New("no compatible mechanism")

// ErrNoWorthy says that none of the server's is good enough.
var ErrNoWorthy = errors.New("no mechanism available")

// login logs in, if the server asks for that and we have a password. A failure is
// ours to repair: the mail waits, unless AuthHard.
func (d *delivery) login(ctx context.Context, s *session, hop string, p place) error {
	params, offered := s.client.Extension("AUTH")
	if d.c.Auth == nil || !offered {
		return nil
	}
	at := AuthAt{NextHop: hop, Host: p.host, Sender: d.r.Sender, Offered: strings.Fields(params), TLS: s.client.TLS() != nil, Verified: s.verified}
	l, err := d.c.Auth(ctx, at)
	var refused *dsn.Error
	switch {
	case errors.As(err, &refused): // not for the first time
	case errors.Is(err, ErrNoMechanism):
		if params == "" {
			d.r.Log.Warnf("%s offered null AUTH mechanism list", p.relay)
		} else {
			d.r.Log.Warnf("%s offered no supported AUTH mechanisms: '%s'", p.relay, params)
		}
		return dsn.New(0, "4.7.0", "SASL authentication failed: server %s offered no compatible authentication mechanisms for this type of connection security", p.name)
	case err != nil:
		if errors.Is(err, ErrNoWorthy) {
			d.r.Log.Warnf("SASL authentication failure: No worthy mechs found") // libsasl's words
		}
		e := dsn.New(0, "4.7.0", "SASL authentication failed; cannot authenticate to server %s: %v", p.name, err)
		e.SASL = err.Error()
		return e
	case l == nil:
		return nil
	default:
		err := s.client.Auth(ctx, l)
		if err == nil {
			return nil
		}
		refused = dsn.From(err, "SASL authentication failed")
		if refused.Reply != 0 {
			l.Refused(refused)
		}
	}
	e := *refused
	if !d.c.AuthHard || e.Reply == 0 {
		e.Code[0] = 4
	}
	return &e
}
