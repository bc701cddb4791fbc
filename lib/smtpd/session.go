package smtpd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"angarium/lib/access"
	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/dsn"
	"angarium/lib/maillog"
	"angarium/lib/milter"
	"angarium/lib/smtp"
	"angarium/lib/tlsconf"
)

func itoa(n int) string { return strconv.Itoa(n) }

// session is one client's dialogue: the hooks of smtp.Session.
type session struct {
	d       *Daemon
	c       *Config
	conn    *smtp.Conn
	log     *maillog.Logger
	peer    *peer      // the client, or whom XCLIENT says it is
	caller  *peer      // who is connected
	refusal smtp.Reply // a limit was exceeded at connect
	began   time.Time
	stress  bool
	note    *tlsconf.Note
	tlsText string
	// certText is what the Received header says of the client's certificate.
	certText string

	saslMethod, saslUser string
	helo                 string // XCLIENT may say another than the client
	proto                string // the same
	forward              agent.Client
	forwardIdent         string
	source               string // the same: LOCAL or REMOTE

	sender  *address.Address // nil: no transaction
	mail    smtp.Mail
	rcpt    *address.Address // the one that is being asked about
	first   *address.Address // the first one that was taken
	rcpts   int
	only    string // the recipient, while there is one
	size    int64  // content, in octets, once it is read
	serial  int    // of the transaction, in the session
	letter  Letter
	filters *milter.Session // nil: none
	prepend []string
	discard bool
	hold    bool
	filter  string
	redir   string
	bcc     []string
}

// ClientName is who a refused client is told to be.
func (s *session) ClientName() string { return s.peer.id() }

// noteTLS lets the handshake tell which certificate it showed.
func (s *session) noteTLS(ctx context.Context) context.Context {
	if s.c.Server.TLS == nil {
		return ctx
	}
	s.note = &tlsconf.Note{}
	return tlsconf.WithNote(ctx, s.note)
}

func (s *session) Connect(ctx context.Context) smtp.Reply { return s.greet(ctx, "CONNECT") }

// greet judges the client, at the connection or when XCLIENT says who it is.
func (s *session) greet(ctx context.Context, verb string) smtp.Reply {
	if s.refusal.Code != 0 {
		return s.refusal
	}
	if !s.c.DelayReject {
		if r := s.check(ctx, verb, s.c.Client); r.Code != 0 {
			return r
		}
	}
	if r := s.connectFilters(ctx); r.Code != 0 {
		return r
	}
	return smtp.Reply{Code: 220, Text: s.c.Banner}
}

func (s *session) Helo(ctx context.Context, verb, name string) smtp.Reply {
	s.helo, s.proto = "", ""
	if !s.c.DelayReject {
		if r := s.check(ctx, verb, s.c.Helo); r.Code != 0 {
			return r
		}
	}
	if s.filters != nil {
		return s.filtered(verb, s.filters.Helo(name, s.macro))
	}
	return smtp.Reply{}
}

func (s *session) Mail(ctx context.Context, m smtp.Mail) smtp.Reply {
	if s.over(eventMessage, s.c.Limit.Messages, "Message delivery request") {
		return smtp.Reply{Code: 450, Status: "4.7.1", Text: "Error: too much mail from " + s.peer.address()}
	}
	if s.c.Cleaner != nil {
		if err := s.c.Cleaner.Space(m.Size); err != nil {
			var d *dsn.Error
			if errors.As(err, &d) && d.Err != nil {
				s.log.Warnf("%v", d.Err)
			}
			return smtp.Fail(err)
		}
	}
	if r := s.dash("MAIL", m.From, "5.1.7", "Bad sender address syntax"); r.Code != 0 {
		return r
	}
	s.mail, s.sender, s.size = m, &m.From, m.Size
	s.serial++
	if !s.c.DelayReject {
		if r := s.check(ctx, "MAIL", s.c.Sender); r.Code != 0 {
			s.Reset()
			return r
		}
	}
	if s.filters != nil {
		if r := s.filtered("MAIL", s.filters.Mail(mailArgs(m), s.macro)); r.Code != 0 {
			s.Reset()
			return r
		}
	}
	return smtp.Reply{}
}

func (s *session) Rcpt(ctx context.Context, r smtp.Rcpt) smtp.Reply {
	if s.over(eventRecipient, s.c.Limit.Recipients, "Recipient address") {
		return smtp.Reply{Code: 450, Status: "4.7.1", Text: "Error: too many recipients from " + s.peer.address()}
	}
	if reply := s.dash("RCPT", r.To, "5.1.3", "Bad recipient address syntax"); reply.Code != 0 {
		return reply
	}
	if reply := s.checkRcpt(ctx, "RCPT", r.To); reply.Code != 0 {
		return reply
	}
	if reply := s.filterRcpt(r); reply.Code != 0 {
		return reply
	}
	if s.letter == nil {
		if err := s.begin(ctx); err != nil {
			return s.trouble(err)
		}
	}
	if r.ORCPT == "" { // as it was typed
		raw := r.Raw
		if len(raw) > 2 && raw[0] == '<' && raw[len(raw)-1] == '>' {
			raw = raw[1 : len(raw)-1]
		}
		r.ORCPT = agent.ORCPT(strings.TrimRight(raw, " \t"))
	}
	if err := s.letter.Recipient(ctx, agent.Recipient{Address: r.To, Original: r.To, ORCPT: r.ORCPT, Notify: r.Notify}); err != nil {
		return s.trouble(err)
	}
	if s.rcpts++; s.rcpts == 1 {
		s.first = &r.To
	}
	s.only = r.To.Quoted()
	return smtp.Reply{}
}

// dash refuses an address that begins like a command's option, unless
// allow_min_user is set.
func (s *session) dash(verb string, a address.Address, status, text string) smtp.Reply {
	if s.c.MinUser || !strings.HasPrefix(a.Local, "-") {
		return smtp.Reply{}
	}
	s.log.Warnf("Illegal address syntax from %s in %s command: <%s>", s.peer.id(), verb, a.Quoted())
	return smtp.Reply{Code: 501, Status: status, Text: text}
}

// trouble is the reply for a failure of ours; the log learns what it was.
func (s *session) trouble(err error) smtp.Reply {
	var d *dsn.Error
	if !errors.As(err, &d) {
		d = dsn.From(err, "Error: queue file write error")
	}
	if d.Err != nil && d.Code[0] == 4 {
		s.log.Warnf("%s: %v", s.queueID(), d.Err)
	}
	return smtp.Fail(d)
}

// checkRcpt asks all lists that are due at RCPT, and whether the recipient
// exists.
func (s *session) checkRcpt(ctx context.Context, verb string, to address.Address) smtp.Reply {
	s.rcpt = &to
	defer func() { s.rcpt = nil }()
	lists := make([]*access.List, 0, 5)
	if s.c.DelayReject {
		lists = append(lists, s.c.Client, s.c.Helo, s.c.Sender)
	}
	if s.c.RelayFirst {
		lists = append(lists, s.c.Relay, s.c.Recipient)
	} else {
		lists = append(lists, s.c.Recipient, s.c.Relay)
	}
	if r := s.check(ctx, verb, lists...); r.Code != 0 {
		return r
	}
	if s.c.CheckSender && s.sender != nil && !s.sender.IsNull() {
		if r := s.listed(ctx, verb, *s.sender, false); r.Code != 0 {
			return r
		}
	}
	if s.c.CheckRecipient {
		return s.listed(ctx, verb, to, true)
	}
	return smtp.Reply{}
}

// listed refuses addresses of ours that do not exist.
func (s *session) listed(ctx context.Context, verb string, a address.Address, recipient bool) smtp.Reply {
	if s.c.Recipients == nil {
		return smtp.Reply{}
	}
	err := s.c.Recipients.Listed(ctx, a, recipient)
	if err == nil {
		return smtp.Reply{}
	}
	var d *dsn.Error
	if !errors.As(err, &d) {
		s.log.Warnf("%v", err)
		d = dsn.New(451, "4.3.0", "<%s>: Temporary lookup failure", a)
	}
	return s.refuse(verb, d)
}

// check evaluates lists; a zero Reply lets the command pass.
func (s *session) check(ctx context.Context, verb string, lists ...*access.List) smtp.Reply {
	if s.c.Policy == nil {
		return smtp.Reply{}
	}
	sub := access.Subject{ClientName: s.peer.name, ReverseName: s.peer.reverse, ClientAddr: s.peer.addr, NameFailed: s.peer.failed,
		Helo: s.heloName(), SASLUser: s.saslUser, TLS: s.conn != nil && s.conn.TLS() != nil,
		Pipelining: s.conn != nil && s.conn.Pipelining(), Sender: s.sender, Recipient: s.rcpt,
		Recipients: s.rcpts, Session: asked{s, verb}}
	err, effects := s.c.Policy.Check(ctx, &sub, lists...)
	for _, e := range effects {
		s.effect(verb, e)
	}
	if err == nil {
		return smtp.Reply{}
	}
	return s.refuse(verb, err)
}

// refuse logs a refusal, softened by soft_bounce as the client will see it.
func (s *session) refuse(verb string, err *dsn.Error) smtp.Reply {
	r := smtp.Fail(err)
	if s.c.Server.SoftBounce {
		r = r.Soft()
	}
	s.whatsUp("reject", verb, r.String())
	return r
}

// effect notes what a table asked for; begin and Content act on it.
func (s *session) effect(verb string, e access.Effect) {
	if e.Log != "" {
		s.whatsUp(e.Kind.String(), verb, e.Log)
	}
	switch e.Kind {
	case access.Hold:
		s.hold = true
	case access.Discard:
		s.discard = true
	case access.Filter:
		s.filter = e.Arg
	case access.Redirect:
		s.redir = e.Arg
	case access.BCC:
		s.bcc = append(s.bcc, e.Arg)
	case access.Prepend:
		s.prepend = append(s.prepend, e.Arg)
	}
}

func (s *session) who() Who {
	w := Who{Addr: s.peer.addr, SASLUser: s.saslUser}
	if s.conn != nil && s.conn.TLS() != nil {
		w.Trusted = len(s.conn.TLS().VerifiedChains) > 0
	}
	return w
}

// begin makes the letter: from here the session has a queue id.
func (s *session) begin(ctx context.Context) error {
	local := s.c.Local != nil && s.c.Local(s.who())
	if s.source != "" {
		local = s.source == "LOCAL"
	}
	encoding := ""
	switch s.mail.Body {
	case "8BITMIME":
		encoding = "8bit"
	case "7BIT":
		encoding = "7bit"
	}
	authFrom := ""
	if s.saslMethod != "" {
		authFrom = s.mail.Auth
	}
	server, port := "", ""
	if s.peer.server.IsValid() {
		server, port = s.peer.server.Addr().String(), itoa(int(s.peer.server.Port()))
	}
	l, err := s.c.Cleaner.Begin(ctx, Envelope{
		Arrival: time.Now(), Sender: *s.sender, EnvID: s.mail.EnvID, Ret: s.mail.Ret, Encoding: encoding,
		SMTPUTF8: s.mail.SMTPUTF8, AuthFrom: authFrom, Size: s.mail.Size, Reverse: s.peer.reverse, Server: server, SrvPort: port,
		Client: agent.Client{Name: s.peer.name, Addr: s.peer.address(), Port: s.peer.port, Helo: s.heloName(), Proto: s.protocol(),
			SASLMethod: s.saslMethod, SASLUser: s.saslUser},
		Orig: s.forward, Ident: s.forwardIdent, Local: local, Log: s.log,
		Filters: s.filters, Macro: s.macro,
	})
	if err != nil {
		return err
	}
	s.letter = l
	line := l.ID() + ": client=" + s.peer.id()
	if s.saslMethod != "" {
		line += ", sasl_method=" + s.saslMethod
	}
	if s.saslUser != "" {
		line += ", sasl_username=" + s.saslUser
	}
	if authFrom != "" {
		line += ", sasl_sender=" + maillog.Printable(authFrom)
	}
	if s.forwardIdent != "" {
		line += ", orig_queue_id=" + s.forwardIdent
	}
	if s.forward.Name != "" {
		line += ", orig_client=" + s.forward.Name + "[" + s.forward.Addr + "]"
	}
	s.log.Infof("%s", line)
	return nil
}

func (s *session) Data(ctx context.Context) smtp.Reply {
	if r := s.check(ctx, "DATA", s.c.Data); r.Code != 0 || s.filters == nil {
		return r
	}
	v := s.filters.Data(s.macro)
	s.rcpt = s.first
	defer func() { s.rcpt = nil }()
	return s.filtered("DATA", v)
}

func (s *session) Content(ctx context.Context, body io.Reader) []smtp.Reply {
	return []smtp.Reply{s.content(ctx, body)}
}

func (s *session) content(ctx context.Context, body io.Reader) smtp.Reply {
	w := &keeper{w: io.Discard}
	if !s.discard {
		if err := s.trace(); err != nil {
			return s.trouble(err)
		}
		w.w = s.letter
	}
	n, err := io.Copy(w, body)
	if s.size = n + w.lines; w.err != nil {
		return s.trouble(w.err)
	} else if err != nil { // the client's doing: the engine knows
		if _, chunked := s.conn.Chunked(); !chunked && smtp.Fail(err).Code == 552 {
			s.log.Warnf("%s: queue file size limit exceeded", s.queueID())
		}
		return smtp.Fail(err)
	}
	if r := s.check(ctx, "END-OF-MESSAGE", s.c.EndOfData); r.Code != 0 {
		return r
	}
	id := s.letter.ID()
	if s.discard {
		s.letter.Abort()
	} else {
		if err := s.apply(ctx); err != nil {
			return s.trouble(err)
		}
		if err := s.letter.Commit(ctx); err != nil {
			return s.trouble(err)
		}
	}
	ok := "Ok: queued as " + id
	if _, chunked := s.conn.Chunked(); chunked {
		ok = "Ok: " + strconv.FormatInt(s.size, 10) + " bytes queued as " + id
	}
	return smtp.Reply{Code: 250, Status: "2.0.0", Text: ok}
}

// trace puts our headers on top. Behind DATA what follows may be a line of a mailbox
// file; behind BDAT every octet is content.
func (s *session) trace() error {
	if _, chunked := s.conn.Chunked(); chunked {
		_, err := s.letter.Write(s.received())
		return err
	}
	return s.letter.Trace(s.received())
}

// keeper remembers why writing failed, to tell it from reading.
// It counts the lines: sizes are those of the wire, with CRLF.
type keeper struct {
	w     io.Writer
	lines int64
	err   error
}

func (k *keeper) Write(p []byte) (n int, err error) {
	n, k.err = k.w.Write(p)
	k.lines += int64(bytes.Count(p, []byte{'\n'}))
	return n, k.err
}

// apply does what the access tables asked for.
func (s *session) apply(ctx context.Context) error {
	if s.hold {
		s.letter.Hold()
	}
	for _, a := range s.bcc {
		if err := s.letter.BCC(ctx, a); err != nil {
			return err
		}
	}
	s.bcc = nil
	if s.filter != "" {
		if err := s.letter.Filter(s.filter); err != nil {
			return err
		}
	}
	if s.redir != "" {
		if err := s.letter.Redirect(s.redir); err != nil {
			return err
		}
	}
	s.filter, s.redir = "", ""
	return nil
}

// received are the headers on top: those of PREPEND, then ours, RFC 5321, 4.4.
func (s *session) received() []byte {
	b := make([]byte, 0, 512)
	for _, h := range s.prepend {
		b = append(append(b, h...), '\n')
	}
	helo := s.heloName()
	if helo == "" {
		helo = s.peer.name
	}
	b = append(b, "Received: from "...)
	b = append(b, helo...)
	b = append(b, " ("...)
	b = append(b, s.peer.name...)
	b = append(b, " ["...)
	b = append(b, literal(s.peer.addr)...)
	b = append(b, "])\n"...)
	if s.c.TLSReceived && s.tlsText != "" {
		text := strings.Replace(s.tlsText, " key-exchange ", "\n\t key-exchange ", 1)
		b = append(b, "\t(using "...)
		b = append(b, text...)
		b = append(append(append(b, ")\n\t("...), s.certText...), ")\n"...)
	}
	if s.c.AuthHeader && s.saslUser != "" {
		b = append(b, "\t(Authenticated sender: "...)
		b = append(b, s.saslUser...)
		b = append(b, ")\n"...)
	}
	b = append(b, "\tby "...)
	b = append(b, s.c.MyName...)
	b = append(b, " ("...)
	b = append(b, s.c.Mail...)
	b = append(b, ") with "...)
	b = append(b, s.with()...)
	b = append(b, " id "...)
	b = append(b, s.letter.ID()...)
	if s.rcpts == 1 {
		b = append(b, "\n\tfor <"...)
		b = append(b, s.only...)
		b = append(b, ">; "...)
	} else {
		b = append(b, ";\n\t"...)
	}
	b = time.Now().AppendFormat(b, "Mon, _2 Jan 2006 15:04:05 -0700 (MST)")
	return append(b, '\n')
}

// with is the protocol of the Received header, RFC 3848 and RFC 6531, 4.3.
func (s *session) with() string {
	p := s.protocol()
	if p != "ESMTP" {
		return p
	}
	if s.mail.SMTPUTF8 {
		p = "UTF8SMTP"
	}
	if s.conn.TLS() != nil {
		p += "S"
	}
	if s.saslUser != "" {
		p += "A"
	}
	return p
}

func (s *session) protocol() string {
	switch {
	case s.proto != "":
		return s.proto
	case s.conn != nil && s.conn.Extended():
		return "ESMTP"
	}
	return "SMTP"
}

func (s *session) heloName() string {
	if s.helo != "" || s.conn == nil {
		return s.helo
	}
	return s.conn.Helo()
}

func (s *session) Reset() {
	if s.letter != nil {
		s.letter.Abort()
	}
	if s.filters != nil && s.sender != nil {
		s.filters.Abort()
	}
	s.letter, s.sender, s.mail, s.rcpts, s.only = nil, nil, smtp.Mail{}, 0, ""
	s.size, s.first = 0, nil
	s.prepend, s.discard, s.hold, s.filter, s.redir, s.bcc = nil, false, false, "", "", nil
	s.forward, s.forwardIdent, s.source = agent.Client{}, "", ""
}

func (s *session) Vrfy(ctx context.Context, arg string) smtp.Reply {
	a := address.Parse(strings.Trim(arg, "<>"))
	if r := s.checkRcpt(ctx, "VRFY", a); r.Code != 0 {
		return r
	}
	return smtp.Reply{}
}

// Mechanisms: see smtp.Authenticator.
func (s *session) Mechanisms() []string {
	tls := s.conn.TLS() != nil
	if s.c.Auth == nil || s.c.AuthTLSOnly && !tls || s.c.AuthExempt != nil && s.c.AuthExempt(s.peer.addr) {
		return nil
	}
	return s.offer(tls)
}

// StartTLS: see smtp.Securer.
func (s *session) StartTLS(context.Context) smtp.Reply {
	if s.over(eventTLS, s.c.Limit.NewTLS, "New TLS session") {
		return smtp.Reply{Code: 454, Status: "4.7.0", Text: "Error: too many new TLS sessions from " + s.peer.address()}
	}
	return smtp.Reply{}
}

// Secured: see smtp.Securer.
func (s *session) Secured(_ context.Context, state *tls.ConnectionState, err error) smtp.Reply {
	if err != nil {
		why := "-1"
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			why = "lost connection"
		}
		s.log.Infof("SSL_accept error from %s: %s", s.peer.id(), why)
		if why == "-1" {
			s.log.Warnf("TLS library problem: %v", err)
		}
		return smtp.Reply{}
	}
	s.saslMethod, s.saslUser = "", ""
	s.tlsText = tlsconf.Describe(state, s.note.Leaf, clientCert(state))
	s.certText = certText(s.c.Server.TLS, state)
	if s.c.TLSLog > 0 {
		s.log.Infof("%s TLS connection established from %s: %s", tlsconf.Trust(s.c.Server.TLS, state), s.peer.id(), s.tlsText)
	}
	return smtp.Reply{}
}
