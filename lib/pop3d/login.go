package pop3d

import (
	"context"
	"crypto/md5"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"angarium/lib/maillog"
	"angarium/lib/pop3"
	"angarium/lib/sasl"
)

func (s *session) userCommand(name string) {
	switch {
	case !s.cleartext():
		s.Err("[AUTH] USER command only available under a layer")
	case s.user != "":
		s.Err("[AUTH] Must give PASS command")
	case len(name) > 512 || strings.ContainsAny(name, "\x00\r"):
		s.Err("[AUTH] Invalid user")
	default:
		// Whether there is such a user is told to nobody.
		s.user = name
		s.OK("Name is a valid mailbox")
	}
}

func (s *session) pass(ctx context.Context, password string) {
	if s.user == "" {
		s.Err("[AUTH] Must give USER command")
		return
	}
	name := s.user
	s.user = ""
	id, err := s.users.Verify(ctx, name, password)
	if err != nil {
		s.log.Log(maillog.Notice, "badlogin: %s plaintext (%.200s) [%v]", s.client(ctx), name, err)
		s.pause(ctx, s.conf.FailPause)
		if !sasl.Refused(err) {
			s.Err("[SYS/TEMP] Login is not possible now")
			return
		}
		s.Err("[AUTH] Invalid login")
		return
	}
	if !s.Secure() {
		s.pause(ctx, s.conf.PlainPause)
	}
	s.login(ctx, id, "plaintext")
}

// apop is RFC 1939, 7: the MD5 of the greeting's stamp and the password.
func (s *session) apop(ctx context.Context, arg string) {
	if s.locked() {
		s.Err("[AUTH] APOP command only available under a layer")
		return
	}
	users, ok := s.users.(sasl.SecretVerifier)
	if !ok {
		s.Err("Unrecognized command")
		return
	}
	name, digest, ok := cutLast(arg)
	if !ok || len(digest) != 2*md5.Size {
		s.badAPOP(ctx, &sasl.Error{Code: sasl.CodeBadProt, Text: "Bad Digest"})
		return
	}
	secret, id, err := users.Secret(ctx, name)
	if err != nil && !sasl.Refused(err) {
		s.badAPOP(ctx, err)
		return
	}
	sum := md5.Sum([]byte(s.stamp + secret))
	same := subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(strings.ToLower(digest))) == 1
	if !same || err != nil {
		s.badAPOP(ctx, &sasl.Error{Code: sasl.CodeBadAuth, Text: "login incorrect"})
		return
	}
	s.login(ctx, id, "APOP")
}

func (s *session) badAPOP(ctx context.Context, err error) {
	s.log.Log(maillog.Notice, "badlogin: %s APOP (%s) %v", s.client(ctx), s.stamp, err)
	s.pause(ctx, s.conf.FailPause)
	s.Errf("[AUTH] authenticating: %s", meaning(err))
}

func cutLast(arg string) (before, after string, ok bool) {
	i := strings.LastIndexByte(arg, ' ')
	if i < 0 {
		return arg, "", false
	}
	return strings.TrimRight(arg[:i], " "), arg[i+1:], true
}

// meaning is the part of an error that the client may read. That a user does
// not exist is not in it.
func meaning(err error) string {
	var e *sasl.Error
	if !errors.As(err, &e) || e.Code == sasl.CodeFail {
		return "generic failure"
	}
	switch e.Code {
	case sasl.CodeBadProt:
		return "bad protocol / cancel"
	case sasl.CodeNoMech:
		return "no mechanism available"
	}
	return "authentication failure"
}

// auth is RFC 5034. It reports whether the session goes on.
func (s *session) auth(ctx context.Context, arg string) bool {
	if s.locked() {
		s.Err("[AUTH] AUTH command only available under a layer")
		return true
	}
	if arg == "" {
		s.OK("List of supported mechanisms follows")
		for _, m := range s.mechanisms() {
			s.Line(m)
		}
		s.End()
		return true
	}
	mech, initial, given := strings.Cut(arg, " ")
	mech = strings.ToUpper(mech)
	var response []byte
	if initial = strings.TrimLeft(initial, " "); given && initial != "" {
		var err error
		if response, err = pop3.Decode(initial); err != nil {
			s.badAuth(ctx, mech, "", "bad protocol / cancel", "authenticating: bad protocol / cancel")
			return true
		}
	}
	if !slices.Contains(s.mechanisms(), mech) {
		why := "no mechanism available"
		if m, ok := sasl.Lookup(mech); ok && m.Cleartext && !s.cleartext() {
			why = "encryption needed to use mechanism"
		}
		s.badAuth(ctx, mech, "", why, "authenticating: "+why)
		return true
	}
	srv, err := sasl.NewServer(mech, s.users, sasl.Options{Host: s.conf.Host})
	if err != nil {
		s.badAuth(ctx, mech, "", meaning(err), "authenticating: "+meaning(err))
		return true
	}
	return s.exchange(ctx, mech, srv, response)
}

func (s *session) exchange(ctx context.Context, mech string, srv sasl.Server, response []byte) bool {
	for {
		challenge, done, err := srv.Next(ctx, response)
		who, as := srv.Identity()
		switch {
		case err != nil:
			// In the words of PASS, not Cyrus' shorter ones for AUTH: fail2ban's
			// filter looks for the code, and would let AUTH be guessed for ever.
			s.badAuth(ctx, mech, who, err.Error(), "authenticating: "+meaning(err))
			return true
		case done && challenge == nil:
			s.authenticated(ctx, mech, who, as)
			return true
		}
		response, err = s.ReadResponse(challenge)
		switch {
		case done && err == nil: // POP3 has no place for data with its success
			s.authenticated(ctx, mech, who, as)
			return true
		case errors.Is(err, pop3.ErrCancelled):
			s.Err("[AUTH] Client canceled authentication")
			return true
		case errors.Is(err, pop3.ErrBase64):
			s.badAuth(ctx, mech, who, "bad protocol / cancel", "authenticating: bad protocol / cancel")
			return true
		case errors.Is(err, pop3.ErrTooLong):
			s.badAuth(ctx, mech, who, "bad protocol / cancel", "Error reading client response: line too long")
			return true
		case err != nil:
			return false
		}
	}
}

func (s *session) badAuth(ctx context.Context, mech, who, log, reply string) {
	if who == "" {
		who = "-notset-"
	}
	s.log.Log(maillog.Notice, "badlogin: %s %.30s (%.200s) [%s]", s.client(ctx), mech, who, log)
	s.pause(ctx, s.conf.FailPause)
	s.Err("[AUTH] " + reply)
}

func (s *session) authenticated(ctx context.Context, mech, who, as string) {
	if as != "" && as != who {
		if s.conf.AuthorizeAs == nil || !s.conf.AuthorizeAs(who, as) {
			s.badAuth(ctx, mech, who, "authorization failure", "authenticating: authorization failure")
			return
		}
		who = as
	}
	s.login(ctx, who, mech)
}

// pause slows guessing down.
func (s *session) pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// login opens the maildrop of somebody who proved who he is.
func (s *session) login(ctx context.Context, id, how string) {
	session := s.sessionID()
	if s.Secure() {
		how += "+TLS"
	}
	s.log.Log(maillog.Notice, "login: %s %s %s User logged in SESSIONID=<%s>", s.client(ctx), id, how, session)
	leave, limit := s.shared.enter(s.ip, id, s.conf.MaxPerHost, s.conf.MaxPerUser)
	if leave == nil {
		s.log.Log(maillog.Err, "Too many open connections (%s)", limit)
		s.Errf("Too many open connections (%s)", limit)
		return
	}
	drop, err := s.drops.Open(ctx, id)
	if err != nil {
		leave()
		s.notOpened(id, err)
		return
	}
	if s.shared.early(id, s.conf.MinPoll, s.conf.Padding, time.Now()) {
		leave()
		_ = drop.Close()
		least := int((s.conf.MinPoll + time.Minute - 1) / time.Minute)
		plural := "s"
		if least == 1 {
			plural = ""
		}
		s.log.Log(maillog.Err, "%s: Logins must be at least %d minute%s apart", drop.Name(), least, plural)
		s.Errf("[LOGIN-DELAY] Logins must be at least %d minute%s apart", least, plural)
		return
	}
	s.leave = append(s.leave, leave)
	if s.conf.Present != nil {
		s.leave = append(s.leave, s.conf.Present(s.log.Number(), s.client(ctx), id, drop.Name()))
	}
	s.drop = drop
	s.OKf("Mailbox locked and ready SESSIONID=<%s>", session)
}

func (s *session) notOpened(id string, err error) {
	verb, code, why, pri := "open", "[SYS/TEMP]", "System I/O error", maillog.Err
	switch {
	case errors.Is(err, ErrBusy):
		verb, code, why = "lock", "[IN-USE]", "Mailbox is locked by POP server"
	case errors.Is(err, ErrNotFound):
		why, pri = "Mailbox does not exist", maillog.Info
	case errors.Is(err, ErrDenied):
		code, why, pri = "[SYS/PERM]", "Permission denied", maillog.Info
	default:
		s.log.Log(pri, "Unable to open maildrop %s: %v", s.drops.Name(id), err)
		s.Errf("%s Unable to open maildrop: %s", code, why)
		return
	}
	s.log.Log(pri, "Unable to %s maildrop %s: %s", verb, s.drops.Name(id), why)
	s.Errf("%s Unable to %s maildrop: %s", code, verb, why)
}
