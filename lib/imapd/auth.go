package imapd

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"angarium/lib/imap"
	"angarium/lib/maillog"
	"angarium/lib/sasl"
	"angarium/lib/store"
)

// base are the capabilities that do not depend on the session, in Cyrus' order.
const (
	before = "IMAP4rev1 LITERAL+ ID ENABLE"
	after  = " ACL BINARY CHILDREN CONDSTORE CREATE-SPECIAL-USE ESEARCH ESORT LIST-EXTENDED LIST-STATUS MOVE MULTIAPPEND" +
		" NAMESPACE OBJECTID QRESYNC QUOTA RIGHTS=kxten SAVEDATE SORT SORT=DISPLAY SPECIAL-USE STATUS=SIZE THREAD=ORDEREDSUBJECT THREAD=REFERENCES UIDPLUS UNSELECT WITHIN"
)

// capabilities lists what works now.
func (s *session) capabilities() string {
	var b strings.Builder
	b.WriteString(before)
	if s.loggedIn {
		b.WriteString(after)
	}
	if !s.tls && !s.loggedIn && s.conf.TLS != nil {
		b.WriteString(" STARTTLS")
	}
	if s.loggedIn || !s.cleartext() {
		b.WriteString(" LOGINDISABLED")
	}
	if !s.loggedIn {
		for _, m := range s.mechanisms() {
			b.WriteString(" AUTH=" + m)
		}
		b.WriteString(" SASL-IR")
	} else {
		if !s.compressed {
			b.WriteString(" COMPRESS=DEFLATE")
		}
		b.WriteString(" IDLE")
	}
	if len(s.conf.Unsupported) == 0 {
		return b.String()
	}
	words := slices.DeleteFunc(strings.Fields(b.String()), func(w string) bool {
		return slices.ContainsFunc(s.conf.Unsupported, func(u string) bool { return strings.EqualFold(u, w) })
	})
	return strings.Join(words, " ")
}

// cleartext tells whether a password may cross this connection as it is.
func (s *session) cleartext() bool {
	return s.tls || s.conf.Offer.Cleartext && !s.conf.TLSRequired
}

func (s *session) mechanisms() []string {
	if !s.tls && s.conf.TLSRequired {
		return nil
	}
	o := s.conf.Offer
	o.Cleartext = s.cleartext()
	return o.Mechanisms()
}

func (s *session) capability() {
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	s.sync(true)
	s.Raw("* CAPABILITY ")
	if s.loggedIn {
		s.Raw(s.capabilities())
	} else { // unlike the greeting this names everything, as in Cyrus
		c := s.capabilities()
		s.Raw(before + after + strings.TrimPrefix(c, before) + " COMPRESS=DEFLATE IDLE")
	}
	s.CRLF()
	s.OK("Completed")
}

func (s *session) noop() {
	if s.dec.CRLF(); s.dec.OK() {
		s.sync(true)
		s.OK("Completed")
	}
}

func (s *session) logout() {
	if s.dec.CRLF(); s.dec.OK() {
		s.Raw("* BYE LOGOUT received\r\n")
		s.OK("Completed")
		s.bye = true
	}
}

// ident is ID, RFC 2971.
func (s *session) ident() {
	s.dec.SP()
	if s.dec.Peek('(') {
		n := 0
		s.dec.List(func() {
			name := s.dec.String()
			if !s.dec.Take(' ') {
				s.dec.Bad("Invalid/missing value for field in Id")
			}
			value, _ := s.dec.NString()
			if n++; n > 30 || len(name) > 30 || len(value) > 1024 {
				s.dec.Bad("Invalid Id: too many or too long fields")
			}
		})
	} else if w := s.dec.Atom(); s.dec.OK() && !strings.EqualFold(w, "NIL") {
		s.dec.Bad("Invalid parameter list in Id")
	}
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	s.sync(true)
	if !s.conf.IDResponse {
		s.Raw("* ID NIL\r\n")
	} else {
		s.Raw(`* ID ("name" "Angarium" "version" `).String(s.conf.Version).Raw(` "support-url" NIL "os" "Linux")`).CRLF()
	}
	s.OK("Completed")
}

func (s *session) starttls() {
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	switch {
	case s.conf.TLS == nil:
		s.BAD("Unrecognized command")
	case s.tls:
		s.BAD("TLS already active")
	case s.loggedIn:
		s.BAD("Can't Starttls after authentication")
	default:
		s.OK("Begin TLS negotiation now")
		if s.Flush() != nil || !s.startTLS() {
			s.bye = true
		}
	}
}

// compress is COMPRESS, RFC 4978.
func (s *session) compress() {
	s.dec.SP()
	algorithm := s.dec.Atom()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	switch {
	case s.compressed:
		s.BAD("[COMPRESSIONACTIVE] DEFLATE active via COMPRESS")
	case !strings.EqualFold(algorithm, "DEFLATE"):
		s.NO("Unknown COMPRESS algorithm: " + algorithm)
	default:
		s.OK(algorithm + " active")
		if s.Flush() != nil {
			s.bye = true
			return
		}
		s.compressed = true
		s.dec.Reset(imap.NewInflater(s.conn))
		s.Encoder.Reset(imap.NewDeflater(s.conn))
	}
}

// login is LOGIN, RFC 3501, 6.2.3.
func (s *session) login() {
	if s.loggedIn {
		s.refuse("Already logged in")
		return
	}
	s.dec.SP()
	user := s.dec.AString()
	s.dec.SP()
	password := s.dec.AString()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	if !s.cleartext() {
		s.log.Log(maillog.Notice, "badlogin: %s plaintext (%.200s) [login attempted without a layer]", s.peer(), user)
		s.NO("Login only available under a layer")
		return
	}
	if strings.EqualFold(user, "anonymous") {
		s.log.Log(maillog.Notice, "badlogin: %s anonymous login refused", s.peer())
		s.NO("Anonymous login is not permitted")
		return
	}
	id, err := s.conf.Verifier.Verify(s.ctx, user, password)
	if err != nil {
		s.refuseLogin("plaintext", user, err, "Login failed: authentication failure")
		return
	}
	s.welcome(id, "plaintext")
}

// refuseLogin logs a failed attempt and answers after a pause.
func (s *session) refuseLogin(mech, user string, err error, text string) {
	s.log.Log(maillog.Notice, "badlogin: %s %s (%.200s) [%s]", s.peer(), mech, user, err)
	if !sasl.Refused(err) {
		s.NO("[UNAVAILABLE] Login failed: generic failure")
		return
	}
	if s.conf.LoginPause > 0 {
		t := time.NewTimer(s.conf.LoginPause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.ctx.Done():
		}
	}
	s.NO(text)
	if s.badLogins++; s.badLogins >= s.conf.MaxBadLogins {
		s.Raw("* BYE Too many failed logins\r\n")
		s.bye = true
	}
}

// welcome makes the session that of a user.
func (s *session) welcome(id, mech string) {
	leave, why := s.srv.logins.enter(s.ip, id, s.conf.MaxLoginsPerHost, s.conf.MaxLoginsPerUser)
	if leave == nil {
		s.log.Log(maillog.Notice, "badlogin: %s %s (%s) [%s]", s.peer(), mech, id, strings.ToLower(why))
		s.NO("[LIMIT] " + why)
		s.bye = s.badLogins > 0
		return
	}
	s.leave = leave
	s.user = store.User{ID: id, Admin: slices.Contains(s.conf.Admins, id)}
	if s.conf.Groups != nil {
		s.user.Groups = s.conf.Groups(s.ctx, id)
	}
	s.ns = s.conf.Namespace
	s.ns.User, s.ns.Admin = id, s.user.Admin
	s.loggedIn = true
	s.dec.SetLimits(s.conf.Limits)
	s.present()
	if s.tls {
		mech += "+TLS"
	}
	s.log.Log(maillog.Notice, "login: %s %s %s User logged in SESSIONID=<%s>", s.peer(), id, mech, s.id)
	if s.conf.AutoINBOX && !s.user.Admin {
		s.autocreate()
	}
	s.OK("[CAPABILITY " + s.capabilities() + "] User logged in SESSIONID=<" + s.id + ">")
}

// autocreate makes the INBOX of a user who has none, and what belongs beside it.
func (s *session) autocreate() {
	inbox := s.ns.Inbox(s.user.ID)
	if _, err := s.conf.Store.Lookup(s.ctx, inbox); !errors.Is(err, store.ErrNotFound) {
		return
	}
	e := s.conf.NewINBOX
	e.Name = inbox
	if _, err := s.conf.Store.Create(s.ctx, e); err != nil {
		s.log.Errorf("autocreate %s: %v", inbox, err)
		return
	}
	for _, f := range s.conf.Autocreate {
		name := inbox.Child(f)
		if _, err := s.conf.Store.Create(s.ctx, store.Entry{Name: name}); err != nil {
			s.log.Errorf("autocreate %s: %v", name, err)
			continue
		}
		_ = s.conf.Store.Subscribe(s.ctx, s.user.ID, name, true)
	}
	_ = s.conf.Store.Subscribe(s.ctx, s.user.ID, inbox, true)
}

// authenticate is AUTHENTICATE, RFC 3501, 6.2.2, with RFC 4959.
func (s *session) authenticate() {
	s.dec.SP()
	mech := strings.ToUpper(s.dec.Atom())
	var initial []byte
	if s.dec.MoreArgs() {
		text := s.dec.AString()
		if initial = []byte{}; text != "=" {
			var err error
			if initial, err = base64.StdEncoding.DecodeString(text); err != nil {
				s.dec.Bad("Invalid initial response in Authenticate")
			}
		}
	}
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	if s.loggedIn {
		s.BAD("Already authenticated")
		return
	}
	if !slices.Contains(s.mechanisms(), mech) {
		s.log.Log(maillog.Notice, "badlogin: %s %.30s () [SASL(-4): no mechanism available]", s.peer(), mech)
		s.NO("no mechanism available")
		return
	}
	server, err := sasl.NewServer(mech, s.conf.Verifier, sasl.Options{Host: s.conf.Host})
	if err != nil {
		s.NO("no mechanism available")
		return
	}
	s.exchange(mech, server, initial)
}

var errCancelled = errors.New("client canceled authentication")

// exchange passes challenges and responses between client and mechanism.
func (s *session) exchange(mech string, server sasl.Server, response []byte) {
	for {
		challenge, done, err := server.Next(s.ctx, response)
		if err == nil && (!done || challenge != nil) {
			response, err = s.challenge(challenge)
		}
		authcid, authzid := server.Identity()
		switch {
		case errors.Is(err, errCancelled):
			s.log.Log(maillog.Notice, "badlogin: %s %s (%.200s) [Client canceled authentication]", s.peer(), mech, authcid)
			s.BAD("Client canceled authentication")
			return
		case err != nil && !s.dec.OK():
			return
		case err != nil:
			text := "authentication failure"
			if e := (*sasl.Error)(nil); errors.As(err, &e) && e.Code == sasl.CodeBadProt {
				text = "bad protocol / cancel"
			}
			s.refuseLogin(mech, authcid, err, text)
			return
		case done && authzid != "" && authzid != authcid && !slices.Contains(s.conf.Admins, authcid) && !slices.Contains(s.conf.Proxies, authcid):
			s.refuseLogin(mech, authcid, &sasl.Error{Code: sasl.CodeNoAuthz, Text: "not authorized"}, "authentication failure")
			return
		case done:
			if authzid != "" {
				authcid = authzid
			}
			s.welcome(authcid, mech)
			return
		}
	}
}

// challenge sends one and reads the answer to it.
func (s *session) challenge(c []byte) ([]byte, error) {
	s.Raw("+ " + base64.StdEncoding.EncodeToString(c) + "\r\n")
	if err := s.Flush(); err != nil {
		return nil, err
	}
	s.dec.Begin()
	line := s.dec.Line()
	if !s.dec.OK() {
		return nil, s.dec.Err()
	}
	if line == "*" {
		return nil, errCancelled
	}
	b, err := base64.StdEncoding.DecodeString(line)
	if err != nil {
		return nil, &sasl.Error{Code: sasl.CodeBadProt, Text: "bad protocol / cancel"}
	}
	return b, nil
}

// enable is ENABLE, RFC 5161.
func (s *session) enable() {
	s.dec.SP()
	condstore, qresync := false, false
	for n := 0; s.dec.OK(); n++ {
		switch strings.ToUpper(s.dec.Atom()) {
		case "CONDSTORE":
			condstore = true
		case "QRESYNC": // RFC 7162, 3.2.3: brings the other with it
			condstore, qresync = true, true
		}
		if n > 100 || !s.dec.MoreArgs() {
			break
		}
	}
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	var on []string
	if condstore && !s.condstore {
		s.condstore = true
		on = append(on, "CONDSTORE")
	}
	if qresync && !s.qresync {
		s.qresync = true
		on = append(on, "QRESYNC")
	}
	if len(on) > 0 {
		s.Raw("* ENABLED " + strings.Join(on, " ")).CRLF()
	}
	s.OK("Completed")
}
