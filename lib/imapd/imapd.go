// Package imapd is the behaviour of the IMAP server: what each command does to a
// session, and in which order and words it answers, as Cyrus 3.6 shows it.
//
// Sequence numbers, and what a client has been told, live here and nowhere else:
// a session keeps the store's View that its client knows, and sends the
// difference to the newest one where the protocol allows it. An expunged message
// is not reported while FETCH, STORE or SEARCH runs (RFC 3501, 7.4.1); as long as
// one is held back nothing newer is told either, so that the numbers stay whole.
//
// It does not know the grammar (imap), how mail is kept (store), how a password
// is proven (sasl) or where settings come from.
package imapd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"angarium/lib/imap"
	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/sasl"
	"angarium/lib/store"
)

// Store is what a session needs of the mail store.
type Store interface {
	store.Directory
	store.Subscriptions
	Stage(context.Context, store.Source) (*store.Draft, error)
	Watch() store.Watcher
}

// Config is what a service line's sessions need to know. The zero value of a
// limit is Cyrus' default.
type Config struct {
	Service string // "imap", "imaps": for the log
	Host    string // servername: in the greeting
	Prefix  string // of session ids: syslog_prefix, else Host
	Product string // "Cyrus IMAP 3.6.1-Angarium": what the greeting calls us
	Version string // the version in ID

	Store    Store
	Verifier sasl.Verifier
	Offer    sasl.Offer // List, Secrets, Scram; Cleartext as by allowplaintext
	// Groups returns the groups of a user, for ACLs; nil: none.
	Groups func(ctx context.Context, user string) []string

	TLS         *tls.Config // nil: no STARTTLS
	Implicit    bool        // TLS from the first octet (imap -s)
	TLSRequired bool        // tls_required: no login without
	Namespace   mailbox.Namespace
	Admins      []string
	Proxies     []string // proxyservers: may act as others, as administrators may

	Timeout          time.Duration // no command for so long: 32 minutes
	LoginPause       time.Duration // before a refusal; negative: none
	IdleTimeout      time.Duration // imapidletimeout; 0: Timeout
	MaxLoginsPerHost int           // 0: any number
	MaxLoginsPerUser int
	MaxMessageSize   int64 // 0: any
	MaxBadLogins     int   // then the connection ends; 3

	IDResponse  bool // answer ID with more than NIL (imapidresponse)
	Munge8Bit   bool // munge8bit: 8-bit octets in an appended message's header become X
	Reject8Bit  bool
	Autocreate  []string    // folders beside a new INBOX
	Protected   []string    // specialuse_protect: `\Sent` and others whose mailboxes only administrators delete
	AutoINBOX   bool        // a user without an INBOX gets one at login,
	NewINBOX    store.Entry // such as this, but for the name
	Unsupported []string    // suppress_capabilities

	// HostName names a client's address, "" if nothing does; nil: addresses only.
	HostName func(ctx context.Context, ip string) string
	// Present notes on the list of who is connected that a session is a user's, and
	// where he is; what it returns takes the note away. May be nil.
	Present func(session int64, host, user, mailbox string) (gone func())

	Limits imap.Limits
	Now    func() time.Time // nil: time.Now
}

// Server serves the sessions of one service line. It is safe for concurrent use.
type Server struct {
	conf    Config
	logins  *Logins
	started int64
}

// Logins counts who is logged in, over all services of a process.
type Logins struct {
	mu    sync.Mutex
	hosts map[string]int
	users map[string]int
	next  uint64
}

// NewLogins begins to count.
func NewLogins() *Logins { return &Logins{hosts: map[string]int{}, users: map[string]int{}} }

// New makes a Server. logins may be shared between services.
func New(conf Config, logins *Logins) (*Server, error) {
	if conf.Store == nil || conf.Verifier == nil {
		return nil, errors.New("imapd: no store or no users")
	}
	if conf.Implicit && conf.TLS == nil {
		return nil, errors.New("imaps: required OpenSSL options not present")
	}
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&conf.Timeout, 32*time.Minute)
	set(&conf.LoginPause, 3*time.Second)
	set(&conf.IdleTimeout, conf.Timeout)
	if conf.MaxBadLogins == 0 {
		conf.MaxBadLogins = 3
	}
	if conf.Now == nil {
		conf.Now = time.Now
	}
	if conf.Product == "" {
		conf.Product = "Cyrus IMAP 3.6.1-Angarium"
	}
	if logins == nil {
		logins = NewLogins()
	}
	return &Server{conf: conf, logins: logins, started: conf.Now().Unix()}, nil
}

// id numbers a session of this process.
func (l *Logins) id() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	return l.next
}

// enter counts a login unless there are too many from the host or of the user;
// why then says of which.
func (l *Logins) enter(host, user string, perHost, perUser int) (leave func(), why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if perHost > 0 && l.hosts[host] >= perHost {
		return nil, "Too many open connections from this host"
	}
	if perUser > 0 && l.users[user] >= perUser {
		return nil, "Too many open connections"
	}
	l.hosts[host]++
	l.users[user]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for m, k := range map[*map[string]int]string{&l.hosts: host, &l.users: user} {
			if (*m)[k]--; (*m)[k] <= 0 {
				delete(*m, k)
			}
		}
	}, ""
}

// Serve speaks with one client until it goes. The caller closes conn.
func (srv *Server) Serve(ctx context.Context, conn net.Conn, log *maillog.Logger) {
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetKeepAlive(true)
	}
	s := newSession(ctx, srv, conn, log)
	defer s.close()
	if srv.conf.Implicit && !s.startTLS() {
		return
	}
	s.greet()
	s.loop()
}
