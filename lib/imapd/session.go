package imapd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"time"

	"angarium/lib/imap"
	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/store"
	"angarium/lib/tlsconf"
)

// session is one connection.
type session struct {
	*imap.Encoder
	ctx  context.Context
	srv  *Server
	conf *Config
	conn *wire
	dec  *imap.Decoder
	log  *maillog.Logger
	id   string // SESSIONID
	ip   string
	host *string // of ip, with a blank; nil: not looked up yet

	tls        bool
	compressed bool // COMPRESS is active
	user       store.User
	loggedIn   bool
	ns         mailbox.Namespace
	badLogins  int
	leave      func()
	gone       func() // takes the session off the list of who is connected
	condstore  bool   // told of mod-sequences from now on
	qresync    bool
	box        *selected // nil: none

	tag     string
	command string
	bye     bool // over after this command
}

// wire is the connection with its time limits. A client that is slow to take
// what it asked for gets as long as one that is slow to ask.
type wire struct {
	net.Conn
	timeout time.Duration
}

func (w *wire) Read(b []byte) (int, error) {
	if err := w.SetReadDeadline(time.Now().Add(w.timeout)); err != nil {
		return 0, err
	}
	return w.Conn.Read(b)
}

func (w *wire) Write(b []byte) (int, error) {
	if err := w.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return 0, err
	}
	return w.Conn.Write(b)
}

// strangers are the limits before the login: enough for any password or SASL
// response, so that connections which nobody has to answer for cost little.
func strangers(l imap.Limits) imap.Limits {
	least := func(n, most int) int {
		if n == 0 || n > most {
			return most
		}
		return n
	}
	l.Word, l.Line = least(l.Word, 16<<10), int64(least(int(l.Line), 64<<10))
	return l
}

func newSession(ctx context.Context, srv *Server, conn net.Conn, log *maillog.Logger) *session {
	s := &session{ctx: ctx, srv: srv, conf: &srv.conf, log: log, conn: &wire{conn, srv.conf.Timeout}}
	s.Encoder = imap.NewEncoder(s.conn)
	s.dec = imap.NewDecoder(s.conn, strangers(srv.conf.Limits))
	s.dec.Continue = func() error {
		s.Raw("+ go ahead\r\n")
		return s.Flush()
	}
	s.id = fmt.Sprintf("%.128s-%d-%d-%d-%d", cmp.Or(srv.conf.Prefix, srv.conf.Host), srv.conf.Now().Unix(), os.Getpid(), srv.logins.id(), rand.Uint64())
	s.ip = "local"
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		s.ip = a.IP.String()
	}
	return s
}

// peer names the client for the log, "host [address]". It is asked for first when
// somebody logs in, so that no greeting waits for the DNS.
func (s *session) peer() string {
	if s.host == nil {
		name := ""
		switch {
		case s.ip == "127.0.0.1", s.ip == "::1", s.ip == "local":
			name = "localhost "
		case s.conf.HostName != nil:
			if name = s.conf.HostName(s.ctx, s.ip); name != "" {
				name += " "
			}
		}
		s.host = &name
	}
	return *s.host + "[" + s.ip + "]"
}

// present notes on the list of who is connected where the session is now.
func (s *session) present() {
	if s.conf.Present == nil || !s.loggedIn {
		return
	}
	name := ""
	if s.box != nil {
		name = string(s.box.name)
	}
	s.gone = s.conf.Present(s.log.Number(), s.peer(), s.user.ID, name)
}

// close gives back what the session holds.
func (s *session) close() {
	s.deselect()
	if s.leave != nil {
		s.leave()
	}
	if s.gone != nil {
		s.gone()
	}
	_ = s.Flush()
	_ = s.conn.Close() // under TLS: say so before the connection goes (RFC 8446, 6.1)
}

// deselect leaves the mailbox, without telling the client.
func (s *session) deselect() {
	if s.box != nil {
		_ = s.box.Close()
		s.box = nil
	}
}

func (s *session) greet() {
	s.Raw("* OK [CAPABILITY " + s.capabilities() + "] " + s.conf.Host + " " + s.conf.Product + " server ready\r\n")
	_ = s.Flush()
}

// startTLS shakes hands. What the client sent before is not taken for a command.
func (s *session) startTLS() bool {
	inner := s.conn.Conn
	c := tls.Server(inner, s.conf.TLS)
	_ = inner.SetDeadline(time.Now().Add(time.Minute))
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		s.log.Infof("%s TLS negotiation failed: %s", strings.ToUpper(s.conf.Service), s.peer())
		return false
	}
	_ = inner.SetDeadline(time.Time{})
	s.conn.Conn = c
	s.dec.Reset(s.conn)
	s.tls = true
	state := c.ConnectionState()
	s.log.Log(maillog.Notice, "starttls: %s no authentication", tlsconf.Short(&state))
	return true
}

// loop reads and does commands until the end.
func (s *session) loop() {
	for !s.bye {
		if s.dec.Buffered() == 0 {
			if s.Flush() != nil {
				return
			}
		}
		s.dec.Begin()
		s.one()
		if s.Err() != nil {
			return
		}
		if !s.dec.OK() && s.dec.Buffered() == 0 && s.Flush() != nil {
			return // the refusal of a long literal is of use while it is being sent
		}
		if err := s.dec.Skip(); err != nil {
			s.end(err)
			return
		}
	}
}

// one reads and does one command.
func (s *session) one() {
	s.tag = s.dec.Tag()
	if err := s.dec.Err(); err != nil {
		if err == imap.ErrTag {
			s.Raw("* BAD Invalid tag\r\n")
		}
		return
	}
	s.dec.SP()
	s.command = s.dec.Word()
	if s.dec.Err() == imap.ErrMissing || s.dec.OK() && s.command == "" {
		s.dec.Fail(imap.ErrMissing)
		s.BAD("Null command")
		return
	}
	if !s.dec.OK() {
		return
	}
	c, ok := commands(s.command)
	switch {
	case !ok && !s.loggedIn:
		s.refuse("Please login first")
	case !ok:
		s.refuse("Unrecognized command")
	case c.state >= authenticated && !s.loggedIn:
		s.refuse("Please login first")
	case c.state == chosen && s.box == nil:
		s.refuse("Please select a mailbox first")
	case c.state == chosen && s.box.lost && s.command != "CHECK" && s.command != "CLOSE" && s.command != "UNSELECT":
		s.NO("Mailbox does not exist")
		s.dec.Fail(errAnswered)
	default:
		c.run(s)
		s.grammar()
	}
}

// refuse answers BAD; Skip then passes over the arguments.
func (s *session) refuse(text string) {
	s.BAD(text)
	s.dec.Fail(errAnswered)
}

// grammar answers a command whose words were wrong. The command itself has then
// done nothing and said nothing.
func (s *session) grammar() {
	err := s.dec.Err()
	name := s.command[:1] + strings.ToLower(s.command[1:])
	var bad *imap.BadError
	switch {
	case err == nil:
	case err == imap.ErrMissing:
		s.BAD("Missing required argument to " + name)
	case err == imap.ErrExtra && s.command == "LOGIN":
		s.BAD("Unexpected extra arguments to LOGIN") // in capitals, unlike the rest
	case err == imap.ErrExtra:
		s.BAD("Unexpected extra arguments to " + name)
	case err == imap.ErrBig:
		s.NO("[TOOBIG] Literal too large")
	case err == error(imap.ErrSet):
		s.BAD("Invalid sequence in " + name)
	case err == error(imap.ErrNoClose):
		s.BAD("Missing close parenthesis in " + name)
	case err == errAnswered:
	case errors.As(err, &bad):
		s.BAD(bad.Text)
	}
}

// errAnswered marks a command that was refused in words of its own before its
// arguments were all read.
var errAnswered = &imap.BadError{Text: "answered"}

// end says why we hang up, if there is anyone left to hear it.
func (s *session) end(err error) {
	var timeout net.Error
	switch {
	case s.ctx.Err() != nil:
		s.Raw("* BYE Server shutting down\r\n")
	case errors.As(err, &timeout) && timeout.Timeout():
		s.Raw("* BYE idle for too long\r\n")
	case err == imap.ErrLong:
		s.Raw("* BYE Word too long\r\n")
	case err == io.EOF, err == io.ErrUnexpectedEOF:
		return
	default:
		return
	}
	_ = s.Flush()
}

// OK, NO and BAD end a command.
func (s *session) OK(text string) { s.Raw(s.tag).Raw(" OK ").Raw(text).CRLF() }

// NO refuses a command that was understood.
func (s *session) NO(text string) { s.Raw(s.tag).Raw(" NO ").Raw(text).CRLF() }

// BAD refuses one that was not.
func (s *session) BAD(text string) { s.Raw(s.tag).Raw(" BAD ").Raw(text).CRLF() }

// fail answers NO in the words for an error of the store.
func (s *session) fail(err error) { s.NO(s.errorText(err)) }

// errorText is what the client may read of an error. What it is not told goes
// to the log.
func (s *session) errorText(err error) string {
	for _, e := range [...]struct {
		err  error
		text string
	}{
		{store.ErrNotFound, "Mailbox does not exist"},
		{store.ErrExists, "Mailbox already exists"},
		{store.ErrBadName, "Invalid mailbox name"},
		{store.ErrReserved, "Invalid mailbox name"},
		{store.ErrOverQuota, "[OVERQUOTA] Over quota"},
		{store.ErrTooBig, "[TOOBIG] Message size exceeds fixed limit"},
		{store.ErrHasChild, "[HASCHILDREN] Mailbox has inferior hierarchical names"},
		{store.ErrKeywords, "[LIMIT] Too many user flags in mailbox"},
		{store.ErrBusy, "[INUSE] Mailbox is locked"},
		{store.ErrPartition, "Invalid partition"},
		{store.ErrGone, "[EXPUNGEISSUED] Some of the messages no longer exist"},
		{errDenied, "Permission denied"},
		{errUnsupported, "Operation is not supported on mailbox"},
	} {
		if errors.Is(err, e.err) {
			return e.text
		}
	}
	if s.ctx.Err() == nil {
		s.log.Errorf("%s: %s: %v", s.command, s.user.ID, err)
	}
	return "[UNAVAILABLE] System I/O error"
}

var (
	errDenied      = errors.New("permission denied")
	errUnsupported = errors.New("not supported")
)

// state is what a command needs.
type state uint8

const (
	always        state = iota
	authenticated       // a login
	chosen              // a mailbox
)

type command struct {
	state state
	run   func(*session)
}

// commands finds a command by its name in capitals.
func commands(name string) (command, bool) {
	switch name {
	case "CAPABILITY":
		return command{always, (*session).capability}, true
	case "NOOP":
		return command{always, (*session).noop}, true
	case "LOGOUT":
		return command{always, (*session).logout}, true
	case "ID":
		return command{always, (*session).ident}, true
	case "STARTTLS":
		return command{always, (*session).starttls}, true
	case "LOGIN":
		return command{always, (*session).login}, true
	case "AUTHENTICATE":
		return command{always, (*session).authenticate}, true
	}
	if c, ok := mailboxCommands(name); ok {
		return command{authenticated, c}, true
	}
	if c, ok := messageCommands(name); ok {
		return command{chosen, c}, true
	}
	return command{}, false
}

func mailboxCommands(name string) (func(*session), bool) {
	switch name {
	case "COMPRESS":
		return (*session).compress, true
	case "ENABLE":
		return (*session).enable, true
	case "NAMESPACE":
		return (*session).namespace, true
	case "SELECT", "EXAMINE":
		return (*session).selectMailbox, true
	case "CREATE":
		return (*session).create, true
	case "DELETE":
		return (*session).delete, true
	case "RENAME":
		return (*session).rename, true
	case "SUBSCRIBE", "UNSUBSCRIBE":
		return (*session).subscribe, true
	case "LIST":
		return (*session).list, true
	case "LSUB":
		return (*session).lsub, true
	case "STATUS":
		return (*session).status, true
	case "APPEND":
		return (*session).appendMessages, true
	case "IDLE":
		return (*session).idle, true
	case "GETACL":
		return (*session).getACL, true
	case "SETACL":
		return (*session).setACL, true
	case "DELETEACL":
		return (*session).deleteACL, true
	case "MYRIGHTS":
		return (*session).myRights, true
	case "LISTRIGHTS":
		return (*session).listRights, true
	case "GETQUOTA":
		return (*session).getQuota, true
	case "GETQUOTAROOT":
		return (*session).getQuotaRoot, true
	case "SETQUOTA":
		return (*session).setQuota, true
	}
	return nil, false
}

func messageCommands(name string) (func(*session), bool) {
	switch name {
	case "CHECK":
		return (*session).check, true
	case "CLOSE":
		return (*session).closeMailbox, true
	case "UNSELECT":
		return (*session).unselect, true
	case "EXPUNGE":
		return (*session).expunge, true
	case "SEARCH":
		return func(s *session) { s.search(false) }, true
	case "SORT":
		return func(s *session) { s.sort(false) }, true
	case "THREAD":
		return func(s *session) { s.thread(false) }, true
	case "FETCH":
		return func(s *session) { s.fetch(false) }, true
	case "STORE":
		return func(s *session) { s.store(false) }, true
	case "COPY":
		return func(s *session) { s.copy(false, false) }, true
	case "MOVE":
		return func(s *session) { s.copy(false, true) }, true
	case "UID":
		return (*session).uid, true
	}
	return nil, false
}

// uid reads the command behind UID, RFC 3501, 6.4.8.
func (s *session) uid() {
	s.dec.SP()
	word := s.dec.Word()
	if !s.dec.OK() {
		return
	}
	if word != "" {
		s.command = word
	}
	switch word {
	case "FETCH":
		s.fetch(true)
	case "STORE":
		s.store(true)
	case "SEARCH":
		s.search(true)
	case "SORT":
		s.sort(true)
	case "THREAD":
		s.thread(true)
	case "COPY":
		s.copy(true, false)
	case "MOVE":
		s.copy(true, true)
	case "EXPUNGE":
		s.uidExpunge()
	default:
		s.dec.Bad("Unrecognized UID subcommand")
	}
}
