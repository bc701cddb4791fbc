// Package lmtpd is the behaviour of the LMTP server: it takes a message once
// and puts it into the mailboxes of its recipients.
//
// What it promises: one answer for each recipient, and 250 only for mail that
// survives a power cut; the message is stored as it came, but for line ends and
// the header fields put on top of it, which are the same for all recipients,
// so that they can share one file. The words are those of Cyrus' lmtpd.
//
// It does not know sockets, configuration files or how a mailbox is kept. It
// trusts who may connect: its listener is a socket of the machine's own.
package lmtpd

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"angarium/lib/address"
	"angarium/lib/dsn"
	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/smtp"
	"angarium/lib/store"
)

// Store is what lmtpd needs of the mail store.
type Store interface {
	store.Deliverer
	Exists(context.Context, mailbox.Name) (store.Entry, error)
}

// Config is what a server needs to know.
type Config struct {
	Hostname string // servername
	Prefix   string // of session ids: syslog_prefix, else the host name
	Version  string // behind "Cyrus" in the greeting and in Received
	Store    Store
	// Namespace tells how the folder of user+folder is written. Its User is set
	// for each recipient.
	Namespace mailbox.Namespace
	Downcase  bool                // lmtp_downcase_rcpt
	PostUser  string              // postuser: PostUser+folder is a shared mailbox
	Permanent bool                // lmtp_over_quota_perm_failure
	MaxSize   int64               // maxmessagesize; 0: none
	Timeout   time.Duration       // of a read; 0: five minutes
	Seen      *Duplicates         // nil: duplicates are delivered
	Now       func() time.Time    // nil: time.Now
	PreAuth   func(net.Conn) bool // may this client deliver? nil: yes
}

// Server serves LMTP sessions.
type Server struct {
	conf   Config
	engine *smtp.Server
	count  atomic.Uint64
}

// New makes a server.
func New(conf Config) *Server {
	if conf.Now == nil {
		conf.Now = time.Now
	}
	return &Server{
		conf: conf,
		engine: &smtp.Server{
			Hostname: conf.Hostname, LMTP: true, Size: conf.MaxSize, Timeout: conf.Timeout,
			Recipients: 10000,
			// The client is a mail server, ours or another's. That it has many recipients
			// whom we do not know, or keeps its connection with NOOP and RSET, is no error
			// of its own: Cyrus counts nothing, and a 421 would delay the next message.
			HardErrors: math.MaxInt32, SoftErrors: math.MaxInt32, JunkCommands: math.MaxInt32,
		},
	}
}

// Serve carries on one session and closes conn.
func (s *Server) Serve(ctx context.Context, conn net.Conn, log *maillog.Logger) {
	s.engine.Serve(ctx, conn, func(c *smtp.Conn) smtp.Session {
		return &session{srv: s, c: c, log: log, id: s.sessionID(), known: s.conf.PreAuth == nil || s.conf.PreAuth(conn)}
	})
}

// sessionID is Cyrus': "prefix-time-pid-number-random".
func (s *Server) sessionID() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%.128s-%d-%d-%d-%d", cmp.Or(s.conf.Prefix, s.conf.Hostname), s.conf.Now().Unix(), os.Getpid(), s.count.Add(1), binary.LittleEndian.Uint64(b[:])>>1)
}

// session is one connection.
type session struct {
	srv   *Server
	c     *smtp.Conn
	log   *maillog.Logger
	id    string
	known bool // may deliver

	from  string
	rcpts []recipient
}

type recipient struct {
	address string
	target  store.Target
}

func (s *session) Connect(context.Context) smtp.Reply {
	return smtp.Reply{Code: 220, Text: s.srv.conf.Hostname + " Cyrus LMTP " + s.srv.conf.Version + " server ready"}
}

func (s *session) Helo(context.Context, string, string) smtp.Reply {
	size := "SIZE"
	if n := s.srv.conf.MaxSize; n > 0 {
		size = fmt.Sprintf("SIZE %d", n)
	}
	lines := []string{s.srv.conf.Hostname, "8BITMIME", "ENHANCEDSTATUSCODES", "PIPELINING", size, "IGNOREQUOTA", "Ok SESSIONID=<" + s.id + ">"}
	return smtp.Reply{Code: 250, Text: strings.Join(lines, "\n")}
}

func (s *session) Mail(_ context.Context, m smtp.Mail) smtp.Reply {
	if !s.known {
		return smtp.Reply{Code: 430, Text: "Authentication required"}
	}
	s.from = m.From.Quoted()
	s.rcpts = nil
	return smtp.Replyf(250, "2.1.0", "ok")
}

// Vrfy tells nothing, as Cyrus does.
func (s *session) Vrfy(context.Context, string) smtp.Reply {
	return smtp.Replyf(252, "2.3.3", "try RCPT to attempt delivery")
}

// unknown is the answer of Cyrus, three lines of which only the last has a status.
const unknown = "Mailbox unknown.  Either there is no mailbox associated with this\n" +
	"name or you do not have authorization to see it.\n5.1.1 User unknown"

func (s *session) Rcpt(ctx context.Context, r smtp.Rcpt) smtp.Reply {
	e, err := s.srv.Find(ctx, r.To)
	switch {
	case errors.Is(err, store.ErrNotFound) || errors.Is(err, mailbox.ErrBad):
		return smtp.Reply{Code: 550, Text: unknown}
	case err != nil:
		s.log.Errorf("verify of %s: %v", r.To, err)
		return smtp.Replyf(451, "4.3.0", "System I/O error")
	}
	s.rcpts = append(s.rcpts, recipient{r.To.Quoted(), store.Target{Name: e.Name, Found: e, OverQuota: r.IgnoreQuota}})
	return smtp.Replyf(250, "2.1.5", "ok")
}

// Find is the mailbox of a recipient: user, user+folder or +shared. A folder
// that is not there, or into which nobody may post, means the INBOX. Whoever has
// no mailbox is store.ErrNotFound or mailbox.ErrBad.
func (s *Server) Find(ctx context.Context, to address.Address) (store.Entry, error) {
	conf := &s.conf
	local, domain := to.Local, strings.ToLower(to.Domain)
	user, folder, plus := strings.Cut(local, "+")
	if conf.Downcase {
		user = strings.ToLower(user)
	}
	ns := conf.Namespace
	if plus && user == strings.ToLower(conf.PostUser) {
		ns.Admin = true // the name as administrators write it
		name, err := ns.Internal(folder)
		if err != nil {
			return store.Entry{}, err
		}
		return s.mayPost(ctx, name)
	}
	userid := user
	if ns.Virtual != mailbox.VirtualOff && domain != "" {
		userid += "@" + domain
	}
	inbox := ns.Inbox(userid)
	if err := inbox.Check(); err != nil || user == "" {
		return store.Entry{}, store.ErrNotFound
	}
	e, err := conf.Store.Exists(ctx, inbox)
	if err != nil {
		return e, err
	}
	if plus && folder != "" {
		if ns.UnixSep {
			folder = strings.NewReplacer(".", "^", "/", ".").Replace(folder)
		}
		name := inbox.Child(folder)
		if name.Check() == nil {
			if f, err := s.mayPost(ctx, name); err == nil {
				return f, nil
			}
		}
	}
	return e, nil
}

// mayPost finds a mailbox and asks for the right p: whoever sends mail is "anyone".
func (s *Server) mayPost(ctx context.Context, name mailbox.Name) (store.Entry, error) {
	e, err := s.conf.Store.Exists(ctx, name)
	if err == nil && !e.RightsOf(store.User{}).Has(store.RightPost) {
		err = store.ErrNotFound
	}
	return e, err
}

func (s *session) Data(context.Context) smtp.Reply { return smtp.Reply{} }

func (s *session) Reset() { s.from, s.rcpts = "", nil }

// Rset names the session, as Cyrus does.
func (s *session) Rset() smtp.Reply {
	return smtp.Replyf(250, "2.0.0", "Ok SESSIONID=<"+s.id+">")
}

func (s *session) End(smtp.End) {}

// Content takes the message: once to disk, then a link for each recipient.
func (s *session) Content(ctx context.Context, body io.Reader) []smtp.Reply {
	conf := &s.srv.conf
	m, err := peek(body)
	if err != nil {
		return []smtp.Reply{smtp.Fail(err)}
	}
	now := conf.Now()
	src := store.Source{
		Reader: io.MultiReader(strings.NewReader(s.trace(m, now)), m), Limit: conf.MaxSize, Partition: s.rcpts[0].target.Found.Partition, Internal: now,
	}
	defer m.free()
	draft, err := conf.Store.Stage(ctx, src)
	if err != nil {
		if r := (*dsn.Error)(nil); !errors.As(err, &r) {
			err = s.failure("", err)
		}
		return []smtp.Reply{smtp.Fail(err)}
	}
	defer draft.Abort()
	return s.deliver(ctx, draft, m)
}

// deliver answers for each recipient. One who has the message already is told
// the same as the others.
func (s *session) deliver(ctx context.Context, draft *store.Draft, m *peeked) []smtp.Reply {
	errs := make([]error, len(s.rcpts))
	var targets []store.Target
	var index []int
	for i, r := range s.rcpts {
		if s.srv.conf.Seen.Has(m.id, m.date, r.target.Name) || doubled(targets, r.target.Name) {
			s.log.Infof("dupelim: eliminated duplicate message to %s id %s date %s (delivery)", r.target.Name, m.id, m.date)
			continue
		}
		targets, index = append(targets, r.target), append(index, i)
	}
	for k, err := range s.srv.conf.Store.Deliver(ctx, draft, targets) {
		errs[index[k]] = err
	}
	replies := make([]smtp.Reply, len(errs))
	for i, err := range errs {
		name := s.rcpts[i].target.Name
		if err != nil {
			replies[i] = smtp.Fail(s.failure(name, err))
			continue
		}
		replies[i] = smtp.Reply{Code: 250, Status: "2.1.5", Text: "Success SESSIONID=<" + s.id + ">"}
	}
	for _, i := range index {
		if errs[i] == nil {
			s.srv.conf.Seen.Mark(m.id, m.date, s.rcpts[i].target.Name)
			s.log.Infof("Delivered: %s to mailbox: %s", m.id, s.rcpts[i].target.Name)
		}
	}
	return replies
}

// doubled reports whether a transaction names a mailbox twice: bob and bob+inbox.
func doubled(targets []store.Target, name mailbox.Name) bool {
	for i := range targets {
		if targets[i].Name == name {
			return true
		}
	}
	return false
}

// failure puts an error of the store into the words of Cyrus. What is not known
// to be permanent is temporary.
func (s *session) failure(name mailbox.Name, err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return &dsn.Error{Reply: 550, Code: [3]int{5, 1, 1}, Text: "User unknown", Err: err}
	case errors.Is(err, store.ErrOverQuota) && s.srv.conf.Permanent:
		return &dsn.Error{Reply: 552, Code: [3]int{5, 2, 2}, Text: "Over quota SESSIONID=<" + s.id + ">", Err: err}
	case errors.Is(err, store.ErrOverQuota):
		return &dsn.Error{Reply: 452, Code: [3]int{4, 2, 2}, Text: "Over quota SESSIONID=<" + s.id + ">", Err: err}
	case errors.Is(err, store.ErrTooBig):
		return &dsn.Error{Reply: 552, Code: [3]int{5, 2, 3}, Text: "Message too large SESSIONID=<" + s.id + ">", Err: err}
	case store.IsFull(err):
		s.log.Errorf("no space to deliver to %s: %v", name, err)
		return &dsn.Error{Reply: 451, Code: [3]int{4, 3, 1}, Text: "cannot create temporary file: no space left on device", Err: err}
	}
	s.log.Errorf("delivery to %s: %v", name, err)
	return &dsn.Error{Reply: 451, Code: [3]int{4, 3, 0}, Text: "System I/O error SESSIONID=<" + s.id + ">", Err: err}
}

// trace is the header fields put on top.
func (s *session) trace(m *peeked, now time.Time) string {
	date := now.Format("Mon, 02 Jan 2006 15:04:05 -0700")
	var b strings.Builder
	fmt.Fprintf(&b, "Return-Path: <%s>\r\n", s.from)
	fmt.Fprintf(&b, "Received: from %s (%s)\r\n\t by %s (Cyrus %s) with LMTPA;\r\n\t %s\r\n",
		or(s.c.Helo(), "unknown"), client(s.c.RemoteAddr()), s.srv.conf.Hostname, s.srv.conf.Version, date)
	fmt.Fprintf(&b, "X-Cyrus-Session-Id: %s\r\nX-Sieve: CMU Sieve 3.0\r\n", s.id)
	if m.id == "" {
		m.id = fmt.Sprintf("<cmu-lmtpd-%d-%d-%d@%s>", os.Getpid(), now.Unix(), s.srv.count.Add(1), s.srv.conf.Hostname)
		fmt.Fprintf(&b, "Message-ID: %s\r\n", m.id)
	}
	if m.date == "" {
		fmt.Fprintf(&b, "Date: %s\r\n", date)
	}
	return b.String()
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// client is the other side as Received shows it.
func client(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return "[unix socket]"
	}
	if t.IP.IsLoopback() {
		return "localhost [" + t.IP.String() + "]"
	}
	if t.IP.To4() == nil {
		return "[IPv6:" + t.IP.String() + "]"
	}
	return "[" + t.IP.String() + "]"
}
