package pop3d

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"angarium/lib/maillog"
	"angarium/lib/pop3"
	"angarium/lib/sasl"
	"angarium/lib/tlsconf"
)

// session is one connection. Before the login drop is nil.
type session struct {
	*Server
	*pop3.Conn
	log   *maillog.Logger
	ip    string
	peer  string // "host [address]" once somebody asked
	stamp string // of APOP; "" without
	user  string // of USER, waiting for PASS
	count int    // logins, for the session id

	drop Maildrop
	gone []bool // deleted by DELE; nil: none
	read []bool // retrieved; nil: none

	retr, top, dele int
	leave           []func() // to call at the end
}

// Serve serves a connection until the client or ctx ends it, and closes it.
func (srv *Server) Serve(ctx context.Context, nc net.Conn, log *maillog.Logger) {
	s := &session{Server: srv, Conn: pop3.NewConn(nc, srv.conf.Timeout), log: log}
	s.ip, _, _ = net.SplitHostPort(nc.RemoteAddr().String())
	defer s.end()
	stop := context.AfterFunc(ctx, func() { _ = nc.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if srv.conf.ImplicitTLS {
		state, err := s.Handshake(ctx, srv.conf.TLS)
		if err != nil {
			log.Log(maillog.Notice, "pop3s failed: %s", s.client(ctx))
			return
		}
		s.logTLS(state)
	}
	s.greet()
	for ctx.Err() == nil {
		cmd, err := s.ReadCommand()
		if errors.Is(err, pop3.ErrTooLong) {
			s.Err("Unrecognized command")
			continue
		}
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() && ctx.Err() == nil {
				s.Err("idle for too long")
				_ = s.Flush()
			}
			return
		}
		if !s.command(ctx, cmd) {
			_ = s.Flush()
			return
		}
	}
	_ = s.Flush()
}

// end is what every session comes to, with QUIT or without.
func (s *session) end() {
	if s.drop != nil {
		_ = s.drop.Close()
	}
	for _, f := range s.leave {
		f()
	}
	s.log.Log(maillog.Notice, "counts: retr=<%d> top=<%d> dele=<%d>", s.retr, s.top, s.dele)
	_ = s.Close()
}

func (s *session) greet() {
	var b strings.Builder
	switch s.conf.Info {
	case "off":
	case "min":
		b.WriteString(s.conf.Host + " ")
	default:
		b.WriteString(s.conf.Host + " " + s.conf.Product + " ")
	}
	b.WriteString("server ready")
	if s.conf.APOP {
		s.stamp = sasl.Stamp(s.conf.Host)
		b.WriteString(" " + s.stamp)
	}
	s.OK(b.String())
}

// client is how the log calls the other side. The name is asked for once, when
// first needed.
func (s *session) client(ctx context.Context) string {
	if s.peer == "" {
		s.peer = "[" + s.ip + "]"
		if s.conf.HostName != nil {
			if name := s.conf.HostName(ctx, s.ip); name != "" {
				s.peer = name + " " + s.peer
			}
		}
	}
	return s.peer
}

func (s *session) logTLS(state tls.ConnectionState) {
	s.log.Log(maillog.Notice, "starttls: %s no authentication", tlsconf.Short(&state))
}

// command does one and reports whether the session goes on.
func (s *session) command(ctx context.Context, cmd pop3.Command) bool {
	arg := strings.TrimLeft(cmd.Arg, " ")
	if cmd.Verb == "PASS" {
		arg = cmd.Arg // a password may begin with a blank (RFC 1939, 7)
	}
	kind := s.kind(cmd.Verb)
	switch {
	case kind == unknown:
		s.Err("Unrecognized command")
		return true
	case kind == bare && arg != "":
		s.Err("Unexpected extra argument")
		return true
	case kind == needed && arg == "":
		s.Err("Missing argument")
		return true
	}
	switch cmd.Verb {
	case "QUIT":
		return s.quit(ctx)
	case "CAPA":
		s.capa()
	case "STLS":
		return s.stls(ctx)
	case "USER":
		s.userCommand(arg)
	case "PASS":
		s.pass(ctx, arg)
	case "APOP":
		s.apop(ctx, arg)
	case "AUTH":
		return s.auth(ctx, arg)
	case "NOOP":
		s.OK("")
	case "STAT":
		s.stat()
	case "LIST", "UIDL":
		s.list(cmd.Verb, arg)
	case "DELE":
		s.deleCommand(arg)
	case "RSET":
		s.gone = nil
		s.OK("")
	case "RETR":
		return s.retrCommand(ctx, arg)
	case "TOP":
		return s.topCommand(ctx, arg)
	}
	return true
}

// Whether a command exists in this state, and its argument.
const (
	unknown = iota
	bare
	needed
	either
)

func (s *session) kind(verb string) int {
	if verb == "QUIT" || verb == "CAPA" {
		return bare
	}
	if s.drop == nil {
		switch verb {
		case "USER", "PASS":
			return needed
		case "APOP":
			if s.conf.APOP {
				return needed
			}
		case "AUTH":
			return either
		case "STLS":
			if s.conf.TLS != nil {
				return bare
			}
		}
		return unknown
	}
	switch verb {
	case "STAT", "NOOP", "RSET":
		return bare
	case "LIST", "UIDL":
		return either
	case "DELE", "RETR", "TOP":
		return needed
	}
	return unknown
}

// cleartext reports whether the password itself may be sent now.
func (s *session) cleartext() bool {
	return s.Secure() || s.conf.Plaintext && !s.conf.TLSRequired
}

// locked reports whether nobody can log in before STLS.
func (s *session) locked() bool { return s.conf.TLSRequired && !s.Secure() }

func (s *session) mechanisms() []string {
	if s.locked() {
		return nil
	}
	o := sasl.Offer{List: s.conf.Mechanisms, Cleartext: s.cleartext(), Secrets: s.conf.Secrets, Scram: s.conf.Scram}
	return o.Mechanisms()
}

// capa is RFC 2449. What it lists depends on the state, and Cyrus shows SASL to
// who is logged in under TLS as well; once is enough.
func (s *session) capa() {
	s.OK("List of capabilities follows")
	if s.drop == nil {
		if mechs := s.mechanisms(); len(mechs) > 0 {
			s.Line("SASL " + strings.Join(mechs, " "))
		}
		if s.conf.TLS != nil && !s.Secure() {
			s.Line("STLS")
		}
	}
	if s.conf.Expire < 0 {
		s.Line("EXPIRE NEVER")
	} else {
		s.Line("EXPIRE " + strconv.Itoa(s.conf.Expire))
	}
	s.Line("LOGIN-DELAY " + strconv.Itoa(int(s.conf.MinPoll.Seconds())))
	s.Line("TOP")
	s.Line("UIDL")
	s.Line("PIPELINING")
	s.Line("RESP-CODES")
	s.Line("AUTH-RESP-CODE")
	if s.drop == nil && s.cleartext() {
		s.Line("USER")
	}
	if s.conf.Info != "min" && s.conf.Info != "off" {
		s.Line("IMPLEMENTATION " + s.conf.Product)
	}
	s.End()
}

// stls is RFC 2595, 4.
func (s *session) stls(ctx context.Context) bool {
	if s.Secure() {
		s.Err("Already successfully executed STLS")
		return true
	}
	state, err := s.StartTLS(ctx, s.conf.TLS, "Begin TLS negotiation now")
	if err != nil {
		s.log.Log(maillog.Notice, "STARTTLS failed: %s", s.client(ctx))
		return false
	}
	s.user = "" // what was learned in clear does not count
	s.logTLS(state)
	return true
}

// sessionID is what the login line and the greeting of the maildrop show.
func (s *session) sessionID() string {
	s.count++
	return fmt.Sprintf("%.128s-%d-%d-%d-%d", s.conf.Prefix, time.Now().Unix(), s.log.Number(), s.count, rand.Uint64())
}

// number finds a message by the number that the client knows.
func (s *session) number(arg string) (i int, ok bool) {
	if arg == "" || strings.Trim(arg, "0123456789") != "" {
		s.Err("Not a number")
		return 0, false
	}
	n, err := strconv.Atoi(arg)
	if err != nil || n < 1 || n > s.drop.Len() || s.deleted(n-1) {
		s.Err("No such message")
		return 0, false
	}
	return n - 1, true
}

func (s *session) deleted(i int) bool { return s.gone != nil && s.gone[i] }

func (s *session) stat() {
	n, size := 0, int64(0)
	for i := range s.drop.Len() {
		if !s.deleted(i) {
			n++
			size += s.drop.Message(i).Size
		}
	}
	s.OKf("%d %d", n, size)
}

func (s *session) list(verb, arg string) {
	line := func(i int) string {
		m := s.drop.Message(i)
		if verb == "UIDL" {
			return fmt.Sprintf("%d %s", i+1, s.uidl(m.UID))
		}
		return fmt.Sprintf("%d %d", i+1, m.Size)
	}
	if arg != "" {
		if n, extra, ok := strings.Cut(arg, " "); ok && extra != "" {
			s.Err("Unexpected extra argument")
		} else if i, ok := s.number(n); ok {
			s.OK(line(i))
		}
		return
	}
	if verb == "UIDL" {
		s.OK("unique-id listing follows")
	} else {
		s.OK("scan listing follows")
	}
	for i := range s.drop.Len() {
		switch {
		case s.deleted(i):
		case verb == "UIDL":
			s.Line(line(i))
		default:
			s.Pair(i+1, s.drop.Message(i).Size)
		}
	}
	s.End()
}

// uidl is a message's unique id in the form of uidl_format. Clients know mail by
// it, so it must stay as it was on the server one comes from.
func (s *session) uidl(uid uint32) string {
	switch v := s.drop.UIDValidity(); s.conf.UIDL {
	case "uidonly":
		return strconv.FormatUint(uint64(uid), 10)
	case "courier":
		return fmt.Sprintf("%d-%d", v, uid)
	case "dovecot":
		return fmt.Sprintf("%08x%08x", uid, v)
	default:
		return fmt.Sprintf("%d.%d", v, uid)
	}
}

func (s *session) deleCommand(arg string) {
	i, ok := s.number(arg)
	if !ok {
		return
	}
	if s.gone == nil {
		s.gone = make([]bool, s.drop.Len())
	}
	s.gone[i] = true
	s.dele++
	s.OK("message deleted")
}

func (s *session) retrCommand(ctx context.Context, arg string) bool {
	i, ok := s.number(arg)
	if !ok {
		return true
	}
	s.retr++
	return s.send(ctx, i, -1)
}

func (s *session) topCommand(ctx context.Context, arg string) bool {
	n, lines, ok := strings.Cut(arg, " ")
	if !ok {
		s.Err("Missing argument")
		return true
	}
	lines, extra, _ := strings.Cut(strings.TrimLeft(lines, " "), " ")
	if extra != "" {
		s.Err("Unexpected extra argument")
		return true
	}
	i, ok := s.number(n)
	if !ok {
		return true
	}
	most, err := strconv.Atoi(lines)
	if err != nil || most < 0 || lines[0] == '+' {
		s.Err("Invalid number of lines")
		return true
	}
	s.top++
	return s.send(ctx, i, most)
}

// send writes a message, the header and some lines of it if lines is not
// negative. Where a message breaks off the connection must, too: else the client
// would take the half for the whole.
func (s *session) send(ctx context.Context, i, lines int) bool {
	body, err := s.drop.Body(ctx, i)
	if err != nil {
		s.log.Log(maillog.Err, "IOERROR: can't open message %d of %s: %v", s.drop.Message(i).UID, s.drop.Name(), err)
		s.Err("[SYS/PERM] Could not read message file")
		return true
	}
	defer body.Close()
	size := body.Size()
	if lines >= 0 {
		if size, err = pop3.Top(body, size, lines); err != nil {
			s.log.Log(maillog.Err, "IOERROR: can't read message %d of %s: %v", s.drop.Message(i).UID, s.drop.Name(), err)
			s.Err("[SYS/PERM] Could not read message file")
			return true
		}
	} else {
		if s.read == nil {
			s.read = make([]bool, s.drop.Len())
		}
		s.read[i] = true
	}
	s.OK("Message follows")
	if err := s.Body(body, size); err != nil {
		s.log.Log(maillog.Err, "IOERROR: can't send message %d of %s: %v", s.drop.Message(i).UID, s.drop.Name(), err)
		return false
	}
	return true
}

// quit enters the UPDATE state (RFC 1939, 6): only now is anything removed.
func (s *session) quit(ctx context.Context) bool {
	if s.drop == nil {
		s.OK("")
		return false
	}
	// What the client was told to be deleted is deleted, even if we are told to stop.
	ctx = context.WithoutCancel(ctx)
	if which := marked(s.read); len(which) > 0 {
		if err := s.drop.Seen(ctx, which); err != nil {
			s.log.Log(maillog.Err, "IOERROR: can't mark messages of %s: %v", s.drop.Name(), err)
		}
	}
	if which := marked(s.gone); len(which) > 0 {
		if err := s.drop.Remove(ctx, which); err != nil {
			s.log.Log(maillog.Err, "IOERROR: can't remove messages of %s: %v", s.drop.Name(), err)
			s.Err("[SYS/TEMP] Some deleted messages were not removed")
			return false
		}
	}
	s.OK("")
	return false
}

func marked(set []bool) []int {
	var which []int
	for i, on := range set {
		if on {
			which = append(which, i)
		}
	}
	return which
}
