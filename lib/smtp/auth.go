package smtp

import (
	"encoding/base64"
	"errors"
	"strings"
)

// maxAuthLine limits a line of an AUTH exchange; RFC 4954, 4 asks for 12288.
const maxAuthLine = 12288

var (
	// ErrAuthAborted: the client sent "*" (RFC 4954, 4).
	ErrAuthAborted = errors.New("authentication aborted")
	// ErrAuthEncoding: no base64.
	ErrAuthEncoding = errors.New("malformed base64")
)

func (c *Conn) doAuth(args string) bool {
	a, ok := c.sess.(Authenticator)
	switch {
	case c.srv.HeloRequired && c.helo == "":
		return c.fail(Reply{503, "5.5.1", "Error: send HELO/EHLO first"})
	case !ok || c.Discarded("auth"):
		return c.fail(Reply{503, "5.5.1", "Error: authentication not enabled"})
	}
	if r := a.AuthAllowed(c.ctx); !r.OK() {
		return c.fail(r)
	}
	mech, initial, more := strings.Cut(args, " ")
	initial = strings.TrimLeft(initial, " \t")
	switch {
	case mech == "" || strings.ContainsAny(initial, " \t"):
		return c.fail(Reply{501, "5.5.4", "Syntax: AUTH mechanism"})
	case c.authenticated:
		return c.fail(Reply{503, "5.5.1", "Error: already authenticated"})
	case c.mail:
		return c.fail(Reply{503, "5.5.1", "Error: MAIL transaction in progress"})
	}
	var response []byte
	if more && initial != "" {
		var err error
		if response, err = decodeAuth(initial); err != nil { // before anything else
			return c.authDone(a, upper(mech), nil, err)
		}
	}
	x, r := a.Auth(c.ctx, mech)
	if !r.OK() {
		return c.fail(r)
	}
	return c.exchange(a, upper(mech), x, response)
}

// decodeAuth is base64. "=", which RFC 4954 has for an empty initial response, is
// none to smtpd(8), and so it is here.
func decodeAuth(s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, ErrAuthEncoding
	}
	return b, nil
}

// exchange carries challenges and responses to and fro.
func (c *Conn) exchange(a Authenticator, mech string, x Exchange, response []byte) bool {
	for range 16 { // no mechanism asks so often
		challenge, done, err := x.Next(c.ctx, response)
		if err != nil || done && challenge == nil {
			return c.authDone(a, mech, x, err)
		}
		c.reply(Reply{334, "", base64.StdEncoding.EncodeToString(challenge)})
		line, _, long, err := c.readLine(maxAuthLine)
		switch {
		case err != nil:
			_ = c.lost(err)
			c.closing = true
			return false
		case long:
			c.odd(OddLongLine, "AUTH", string(line))
			return c.fail(Reply{500, "5.5.6", "SASL response limit exceeded"})
		case string(line) == "*":
			return c.authDone(a, mech, x, ErrAuthAborted)
		case done:
			return c.authDone(a, mech, x, nil)
		}
		response = []byte{}
		if len(line) > 0 {
			if response, err = decodeAuth(string(line)); err != nil {
				return c.authDone(a, mech, x, err)
			}
		}
	}
	return c.authDone(a, mech, x, errors.New("too many steps"))
}

func (c *Conn) authDone(a Authenticator, mech string, x Exchange, err error) bool {
	r := a.AuthDone(c.ctx, mech, x, err)
	if err == nil && r.OK() {
		c.authenticated = true
		return c.ok(r, "235", "2.7.0", "Authentication successful")
	}
	if r.Code == 0 {
		switch err {
		case ErrAuthAborted:
			r = Reply{501, "5.7.0", "Authentication aborted"}
		case ErrAuthEncoding:
			r = Reply{535, "5.7.8", "Error: authentication failed: another step is needed in authentication"}
		default:
			r = Reply{535, "5.7.8", "Error: authentication failed: authentication failure"}
		}
	}
	return c.fail(r)
}
