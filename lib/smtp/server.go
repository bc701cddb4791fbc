package smtp

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Server holds what the sessions of one service have in common. It must not
// change while it serves.
type Server struct {
	Hostname string // myhostname, in greetings and EHLO
	LMTP     bool

	TLS         *tls.Config   // nil: no STARTTLS. See lib/tlsconf
	TLSWrapper  bool          // TLS from the first byte (smtps)
	TLSRequired bool          // 530 until STARTTLS
	TLSTimeout  time.Duration // smtpd_starttls_timeout; 0: Timeout

	Discard     func(remote net.Addr) []string // smtpd_discard_ehlo_keywords, lower case; may be nil
	DisableVrfy bool

	Size       int64 // message_size_limit; 0: none
	LineLimit  int   // line_length_limit, for commands; 0: 2048, at most 16384
	Recipients int   // smtpd_recipient_limit; 0: 1000
	Overshoot  int   // smtpd_recipient_overshoot_limit; 0: 1000

	SoftErrors   int           // smtpd_soft_error_limit; 0: 10
	HardErrors   int           // smtpd_hard_error_limit; 0: 20
	ErrorSleep   time.Duration // smtpd_error_sleep_time
	JunkCommands int           // smtpd_junk_command_limit; 0: 100
	Timeout      time.Duration // smtpd_timeout, for each read and write; 0: 300 s

	HeloRequired     bool
	StrictRFC821     bool                   // strict_rfc821_envelopes
	NoSMTPUTF8       bool                   // smtputf8_enable = no
	SoftBounce       bool                   // 5xx become 4xx
	AuthLegacy       bool                   // broken_sasl_auth_clients: "AUTH=" too
	Forbidden        func(verb string) bool // smtpd_forbidden_commands; nil: CONNECT GET POST and what begins with no letter
	BareNewline      BareNewlinePolicy
	BareNewlineOK    func(remote net.Addr) bool // smtpd_forbid_bare_newline_exclusions; may be nil
	BareNewlineReply int                        // smtpd_forbid_bare_newline_reject_code; 0: 550
	ForbidPipelining bool                       // smtpd_forbid_unauth_pipelining
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
// called once, before anything is sent (with TLSWrapper: after the handshake).
// Serve returns when the session ended. When ctx ends, a client that we wait
// for is told 421 and left; hooks that run are awaited.
func (s *Server) Serve(ctx context.Context, conn net.Conn, begin func(*Conn) Session) {
	c := &Conn{srv: s, remote: conn.RemoteAddr(), local: conn.LocalAddr()}
	c.nc, c.raw, c.ctx, c.timeout = conn, conn, ctx, orDuration(s.Timeout, 300*time.Second)
	defer func() {
		c.release()
		_ = c.nc.Close()
	}()
	defer context.AfterFunc(ctx, c.wake)()
	c.serve(begin)
}

func orDuration(d, other time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return other
}

func orInt(n, other int) int {
	if n > 0 {
		return n
	}
	return other
}

// Conn is the engine's side of a connection, for the Session to ask.
type Conn struct {
	wire
	srv           *Server
	sess          Session
	remote, local net.Addr
	tls           *tls.ConnectionState
	helo          string
	where         string // the last command, for the log
	denied        bool   // refused at the greeting: nothing but QUIT
	lenient       bool   // see Ask
	extended      bool
	authenticated bool
	mail          bool // a transaction has begun
	closing       bool // the last reply was the last
	watched       bool // improper pipelining was noted
	bdat          bdatState
	newlines      BareNewlinePolicy
	discardKnown  bool
	discarded     []string // smtpd_discard_ehlo_keywords
	rcpts         int
	overshoot     int
	errors        int
	junk          int
	body          body
	pending       []byte // a command that ended BDAT content, to be done next
	counts        [len(verbs)]struct{ ok, all int32 }
	end           End
}

type bdatState uint8

const (
	bdatNone   bdatState = iota
	bdatOpen             // chunks are being taken
	bdatFailed           // the rest is thrown away until LAST or RSET
)

// RemoteAddr is the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// LocalAddr is ours.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// TLS is the state of the secure layer, nil if there is none.
func (c *Conn) TLS() *tls.ConnectionState { return c.tls }

// Helo is the client's name for itself, "" before HELO.
func (c *Conn) Helo() string { return c.helo }

// SetHelo replaces that name, and whether it came with EHLO (XCLIENT).
func (c *Conn) SetHelo(name string, extended bool) { c.helo, c.extended = name, extended }

// Extended reports whether the client said EHLO (or LHLO).
func (c *Conn) Extended() bool { return c.extended }

// Authenticated reports whether AUTH succeeded.
func (c *Conn) Authenticated() bool { return c.authenticated }

// Deny refuses all further commands but QUIT: the client turned out to be one that
// is not wanted (XCLIENT).
func (c *Conn) Deny() { c.denied = true }

// Ask makes the session answer each command for itself though the greeting refused
// the client: it is called by Connect, where every command will be refused alike.
func (c *Conn) Ask() { c.lenient = true }

// SetAuthenticated tells the engine that the client is known (XCLIENT); the
// engine does it itself after AUTH.
func (c *Conn) SetAuthenticated(yes bool) { c.authenticated = yes }

// Pipelining reports whether the client did not await an answer where it has to
// (RFC 2920, 3.1).
func (c *Conn) Pipelining() bool { return c.watched }

// Discarded reports whether an EHLO keyword (lower case) is not offered here.
func (c *Conn) Discarded(keyword string) bool {
	if !c.discardKnown {
		c.discardKnown = true
		if c.srv.Discard != nil {
			c.discarded = c.srv.Discard(c.remote)
		}
	}
	return slices.Contains(c.discarded, keyword)
}

// verbs in the order in which the log counts them.
var verbs = [...]string{"HELO", "EHLO", "LHLO", "XCLIENT", "XFORWARD", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT",
	"RSET", "NOOP", "VRFY", "ETRN", "QUIT", "UNKNOWN"}

const (
	unknownVerb = len(verbs) - 1
	bdatVerb    = 10
)

// Counts are the commands seen, for the line at disconnect:
// " ehlo=1 mail=1 rcpt=0/1 quit=1 commands=3/4".
func (c *Conn) Counts() string {
	var out []byte
	var ok, all int32
	put := func(name string, ok, all int32) {
		out = append(out, ' ')
		out = append(out, name...)
		out = append(out, '=')
		out = strconv.AppendInt(out, int64(ok), 10)
		if ok != all || all == 0 {
			out = append(out, '/')
			out = strconv.AppendInt(out, int64(all), 10)
		}
	}
	for i, n := range c.counts {
		ok += n.ok
		all += n.all
		if n.all > 0 {
			put(strings.ToLower(verbs[i]), n.ok, n.all)
		}
	}
	put("commands", ok, all)
	return string(out)
}
