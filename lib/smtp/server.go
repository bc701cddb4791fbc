package smtp

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Server holds what the sessions of one service have in common. It must not
// change while it serves.
type Server struct {
	Hostname string // myhostname, in greetings and EHLO
	LMTP     bool

	TLS         *tls.Config // nil: no STARTTLS. See lib/tlsconf
	TLSWrapper  bool        // TLS from the first byte (smtps)
	TLSTimeout  time.Duration
	Discard     func(remote net.Addr) []string // smtpd_discard_ehlo_keywords, lower case; may be nil
	DisableVrfy bool

	Size       int64 // message_size_limit; 0: none
	LineLimit  int   // line_length_limit, for commands; 0: 2048
	Recipients int   // smtpd_recipient_limit; 0: 1000
	Overshoot  int   // smtpd_recipient_overshoot_limit; 0: 1000

	SoftErrors   int           // smtpd_soft_error_limit; 0: 10
	HardErrors   int           // smtpd_hard_error_limit; 0: 20
	ErrorSleep   time.Duration // smtpd_error_sleep_time
	JunkCommands int           // smtpd_junk_command_limit; 0: 100
	Timeout      time.Duration // smtpd_timeout, for each read and write; 0: 300 s

	HeloRequired   bool
	StrictRFC821   bool // strict_rfc821_envelopes
	SMTPUTF8       bool
	SoftBounce     bool // 5xx become 4xx
	BareNewline    BareNewlinePolicy
	BareNewlineOK  func(remote net.Addr) bool // smtpd_forbid_bare_newline_exclusions
	BareNewlineRej int                        // smtpd_forbid_bare_newline_reject_code; 0: 550
	ForbidUnauthPL bool                       // smtpd_forbid_unauth_pipelining
}

// BareNewlinePolicy is smtpd_forbid_bare_newline.
type BareNewlinePolicy int

const (
	NormalizeNewline BareNewlinePolicy = iota // yes, normalize: a line end, but never the end of DATA
	AllowNewline                              // no: LF.LF and the like still do not end DATA
	NoteNewline                               // as normalize, and noted
	RejectNewline                             // 550 5.5.2 and goodbye
)

// Serve carries on one session and closes conn. begin makes its Session; it is
// called once, before anything is sent. Serve returns when the session ended.
// When ctx ends, a session that is between messages is told 421 and closed.
func (s *Server) Serve(ctx context.Context, conn net.Conn, begin func(*Conn) Session) {
	panic("not written yet")
}

// Conn is the engine's side of a connection, for the Session to ask.
type Conn struct {
}

// RemoteAddr is the client's address.
func (c *Conn) RemoteAddr() net.Addr { panic("not written yet") }

// LocalAddr is ours.
func (c *Conn) LocalAddr() net.Addr { panic("not written yet") }

// TLS is the state of the secure layer, nil if there is none.
func (c *Conn) TLS() *tls.ConnectionState { panic("not written yet") }

// Helo is the client's name for itself, "" before HELO.
func (c *Conn) Helo() string { panic("not written yet") }

// Extended reports whether the client said EHLO (or LHLO).
func (c *Conn) Extended() bool { panic("not written yet") }

// SetAuthenticated tells the engine that the client is known (XCLIENT); the
// engine does it itself after AUTH.
func (c *Conn) SetAuthenticated(bool) { panic("not written yet") }

// Authenticated reports whether AUTH succeeded.
func (c *Conn) Authenticated() bool { panic("not written yet") }

// Counts are the commands seen, for the line at disconnect:
// " ehlo=1 mail=1 rcpt=0/1 quit=1 commands=3/4".
func (c *Conn) Counts() string { panic("not written yet") }
