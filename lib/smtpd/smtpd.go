// Package smtpd is the behaviour of the SMTP server: who may send what to whom,
// what stands in the Received header, and what stands in the log. The dialogue
// itself is lib/smtp's, the restriction lists are judged by lib/access.
//
//	connection -> Daemon.Serve -> session: the hooks of smtp.Session
//	   may this recipient come in?   access lists, Recipients
//	   first good recipient          Cleaner.Begin: the queue id exists from here
//	   content                       Received, then all of it into the Letter
//	   Letter.Commit                 ours; only now is it said
//
// It promises that without a word from the administrator nobody relays, and
// that an address which can't be looked up is deferred and never taken or
// refused on suspicion. It trusts nothing that the client says. It does not know
// the queue: it hands the message to a Cleaner, which cmd/smtpd brings.
package smtpd

import (
	"context"
	"io"
	"net"
	"net/netip"
	"time"

	"angarium/lib/access"
	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/maillog"
	"angarium/lib/milter"
	"angarium/lib/sasl"
	"angarium/lib/smtp"
)

// Cleaner takes messages; lib/cleanup is one.
type Cleaner interface {
	// Begin starts a message; its id is known at once.
	Begin(ctx context.Context, e Envelope) (Letter, error)
	// Space reports an error (452 4.3.1) if a message of this size has no room.
	Space(size int64) error
}

// Letter is a message on its way in. Errors are *dsn.Errors for the client.
type Letter interface {
	ID() string
	Recipient(ctx context.Context, r agent.Recipient) error
	// Trace writes the headers on top, before the content of DATA: its first line is
	// then looked at for itself (see cleanup.Draft). With BDAT they are content.
	Trace(headers []byte) error
	io.Writer                         // content, LF line ends
	Commit(ctx context.Context) error // after nil it is ours
	Abort()                           // nothing, after Commit

	Hold()
	Filter(spec string) error   // "transport:nexthop"
	Redirect(addr string) error // all mail goes there instead
	BCC(ctx context.Context, addr string) error
}

// Envelope is what is known when the first recipient is taken.
type Envelope struct {
	Arrival  time.Time
	Sender   address.Address
	EnvID    string
	Ret      string
	Encoding string // "7bit", "8bit", ""
	SMTPUTF8 bool
	AuthFrom string // MAIL ... AUTH=, of a client that logged in
	Size     int64
	Client   agent.Client
	Reverse  string // the client's reverse name, not confirmed
	Server   string // address and port at which it called
	SrvPort  string
	Orig     agent.Client // XFORWARD: what to log instead; zero: Client
	Ident    string       // XFORWARD IDENT: the other side's queue id
	Local    bool         // headers may be completed: local_header_rewrite_clients
	Log      *maillog.Logger
	Filters  *milter.Session // nil: none; they are to see the content
	Macro    milter.Lookup   // what the session knows
}

// Config is one service line: smtp, submission, smtps.
type Config struct {
	Server  *smtp.Server // the engine's settings
	Stress  *smtp.Server // those under stress; nil: the same
	Service string       // name of the line, for limits' warnings: "smtp"
	Banner  string       // smtpd_banner
	MyName  string       // myhostname
	Mail    string       // mail_name, "Postfix"

	Policy      *access.Policy
	Client      *access.List // smtpd_client_restrictions
	Helo        *access.List
	Sender      *access.List
	Relay       *access.List
	Recipient   *access.List
	Data        *access.List
	EndOfData   *access.List
	Etrn        *access.List
	DelayReject bool // smtpd_delay_reject
	RelayFirst  bool // smtpd_relay_before_recipient_restrictions

	MinUser        bool // allow_min_user
	CheckRecipient bool // smtpd_reject_unlisted_recipient
	CheckSender    bool // smtpd_reject_unlisted_sender
	Recipients     *Recipients
	Local          func(Who) bool // local_header_rewrite_clients

	// Footer is the template for a refusal ("550 5.1.1 ..."), smtpd_reject_footer and
	// its maps; "" adds nothing. Expand replaces its $names. nil: no footers.
	Footer func(ctx context.Context, refusal string) string
	Expand func(template string, lookup func(name string) (string, bool)) string

	Resolver    Resolver // nil: every client is unknown[address]
	Cleaner     Cleaner
	Flush       func(ctx context.Context, site string) smtp.Reply // ETRN; nil: not offered
	TLSLog      int                                               // smtpd_tls_loglevel
	TLSReceived bool                                              // smtpd_tls_received_header

	Auth          sasl.Verifier // nil: no AUTH
	AuthList      []string      // mechanisms; empty: all that work
	AuthCleartext bool          // PLAIN and LOGIN without TLS
	AuthTLSOnly   bool          // smtpd_tls_auth_only
	AuthHeader    bool          // smtpd_sasl_authenticated_header
	AuthExempt    func(netip.Addr) bool

	XClient  func(name string, a netip.Addr) bool // smtpd_authorized_xclient_hosts
	XForward func(name string, a netip.Addr) bool // smtpd_authorized_xforward_hosts

	// Milters finds the mail filters for a client; nil: none.
	Milters func(context.Context, netip.Addr) *milter.Config
	Macro   milter.Lookup // macros that do not depend on the session

	Limits *Limits // shared by the services of a process; nil: none
	Limit  LimitConfig
}

// Who is a client whose mail may be completed like that of a local writer.
type Who struct {
	Addr     netip.Addr
	SASLUser string
	Trusted  bool // its certificate was verified
}

// Resolver finds out who a client is.
type Resolver interface {
	PTR(ctx context.Context, a netip.Addr) ([]string, error)
	Addrs(ctx context.Context, host string) ([]netip.Addr, error)
}

// Daemon serves the sessions of one service line.
type Daemon struct{ c Config }

// New returns a Daemon. The configuration must not change afterwards.
func New(c Config) *Daemon {
	if c.Stress == nil {
		c.Stress = c.Server
	}
	if c.Mail == "" {
		c.Mail = "Postfix"
	}
	return &Daemon{c: c}
}

// Serve carries on one session and closes conn; log is the session's own.
func (d *Daemon) Serve(ctx context.Context, conn net.Conn, log *maillog.Logger, stress bool) {
	s := &session{d: d, c: &d.c, log: log, began: time.Now(), stress: stress}
	s.peer = d.peer(ctx, conn, log)
	s.caller = s.peer
	log.Infof("connect from %s", s.peer.id())
	srv := d.c.Server
	if stress {
		srv = d.c.Stress
	}
	release, refusal := d.c.Limits.enter(&d.c, s.peer, log)
	defer release()
	s.refusal = refusal
	defer func() {
		if s.filters != nil {
			s.filters.Close()
		}
	}()
	srv.Serve(s.noteTLS(ctx), conn, func(c *smtp.Conn) smtp.Session {
		s.conn = c
		return s
	})
}
