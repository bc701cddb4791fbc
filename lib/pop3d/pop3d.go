// Package pop3d is how a POP3 server behaves: its states, its logins, the
// maildrop as it was at login, and deletion at QUIT only. Its replies and log
// lines are those of Cyrus 3.6, because clients and log readers know them.
//
// It promises that a session which ends without QUIT removes nothing (RFC 1939,
// 6), that one session at a time has a maildrop, and that passwords in clear are
// taken under TLS only unless configured.
//
// It does not know the store, the user database or configuration files: whoever
// starts it brings an Opener, a Verifier and values.
package pop3d

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"sync"
	"time"

	"angarium/lib/sasl"
)

// Config are the settings of a service.
type Config struct {
	Host    string // our name in the greeting
	Product string // "Cyrus POP3 3.6.1-Angarium"
	Info    string // serverinfo: "on" tells host and product, "min" the host, "off" neither
	Prefix  string // of session ids: syslog_prefix, else the host

	Timeout    time.Duration // poptimeout; at least ten minutes (RFC 1939, 3)
	FailPause  time.Duration // failedloginpause
	PlainPause time.Duration // plaintextloginpause
	MinPoll    time.Duration // popminpoll; 0: none
	Padding    int           // poppollpadding
	Expire     int           // popexpiretime in days; negative: never
	UIDL       string        // uidl_format: cyrus, uidonly, courier, dovecot

	TLS         *tls.Config // nil: no STLS
	ImplicitTLS bool        // pop3s: TLS from the first octet
	TLSRequired bool        // tls_required: no login in clear at all
	Plaintext   bool        // allowplaintext: passwords in clear without TLS
	APOP        bool        // allowapop, and the user database keeps secrets
	Mechanisms  []string    // sasl_mech_list; empty: all that work
	Secrets     bool        // the user database keeps secrets
	Scram       []string    // the SCRAM mechanisms that it serves

	MaxPerHost, MaxPerUser int // sessions; 0: any number

	// AuthorizeAs reports whether id may act as another user (proxyservers, admins).
	AuthorizeAs func(id, other string) bool
	// HostName finds the name of the client's address for the log, "" if there is none. nil: never.
	HostName func(ctx context.Context, ip string) string
	// Present is told who is connected, for cyr_info proc. It returns what to call
	// when the session ends. nil: nobody wants to know.
	Present func(session int64, host, user, mailbox string) (gone func())
}

// Why a maildrop can't be opened. Any other error is temporary.
var (
	ErrNotFound = errors.New("mailbox does not exist")
	ErrBusy     = errors.New("mailbox is locked by POP server")
	ErrDenied   = errors.New("permission denied")
)

// Opener opens the INBOX of a user, locked for one POP session: ErrBusy if
// another has it.
type Opener interface {
	Open(ctx context.Context, user string) (Maildrop, error)
	// Name is how the log calls the maildrop of a user, "user.bob".
	Name(user string) string
}

// Maildrop is a mailbox as it was at login. Messages are numbered from 0.
type Maildrop interface {
	Name() string // as the log calls it
	UIDValidity() uint32
	Len() int
	Message(i int) Message
	Body(ctx context.Context, i int) (Body, error)
	// Remove expunges messages.
	Remove(ctx context.Context, which []int) error
	// Seen marks messages as read, if the settings want that.
	Seen(ctx context.Context, which []int) error
	Close() error // and unlock
}

// Message is what LIST and UIDL tell.
type Message struct {
	UID  uint32
	Size int64
}

// Body is a message's content.
type Body interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Server is a service. It is safe for concurrent use.
type Server struct {
	conf   Config
	users  sasl.Verifier
	drops  Opener
	shared *Shared
}

// Shared is what services of a process know together: pop3 and pop3s count as one.
type Shared struct {
	mu    sync.Mutex
	users map[string]int
	hosts map[string]int
	polls map[string]poll
}

// poll is when somebody looked, and how many more looks are free.
type poll struct {
	last time.Time
	used int
}

// NewShared begins to count.
func NewShared() *Shared {
	return &Shared{users: map[string]int{}, hosts: map[string]int{}, polls: map[string]poll{}}
}

// New makes a server. shared may be nil.
func New(conf Config, users sasl.Verifier, drops Opener, shared *Shared) *Server {
	conf.Timeout = max(conf.Timeout, 10*time.Minute)
	if conf.Prefix == "" {
		conf.Prefix = conf.Host
	}
	if conf.Expire == 0 {
		conf.Expire = -1
	}
	if shared == nil {
		shared = NewShared()
	}
	return &Server{conf, users, drops, shared}
}

// enter counts a session, or says which limit it would pass: "host" or "user".
func (sh *Shared) enter(host, user string, perHost, perUser int) (leave func(), limit string) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	switch {
	case perHost > 0 && sh.hosts[host] >= perHost:
		return nil, "host"
	case perUser > 0 && sh.users[user] >= perUser:
		return nil, "user"
	}
	sh.hosts[host]++
	sh.users[user]++
	return func() {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		down(sh.hosts, host)
		down(sh.users, user)
	}, ""
}

func down(m map[string]int, key string) {
	if m[key]--; m[key] <= 0 {
		delete(m, key)
	}
}

// early reports whether user looked less than least ago, once more than padding
// allows: each look fills a slot, each interval empties one.
func (sh *Shared) early(user string, least time.Duration, padding int, now time.Time) bool {
	if least <= 0 {
		return false
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p := sh.polls[user]
	p.used = max(0, p.used-int(now.Sub(p.last)/least))
	if p.used >= max(1, padding) {
		return true
	}
	if len(sh.polls) > 100_000 { // forget whom it no longer matters for
		for u, q := range sh.polls {
			if now.Sub(q.last) > least*time.Duration(max(1, padding)) {
				delete(sh.polls, u)
			}
		}
	}
	sh.polls[user] = poll{now, p.used + 1}
	return false
}
