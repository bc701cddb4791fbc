package smtpd

import (
	"net/netip"
	"sync"
	"time"

	"angarium/lib/maillog"
	"angarium/lib/smtp"
)

// LimitConfig is what one client may do: the smtpd_client_* limits. 0: no limit.
type LimitConfig struct {
	Connections int           // smtpd_client_connection_count_limit
	Rate        int           // smtpd_client_connection_rate_limit
	Messages    int           // smtpd_client_message_rate_limit
	Recipients  int           // smtpd_client_recipient_rate_limit
	Auth        int           // smtpd_client_auth_rate_limit
	NewTLS      int           // smtpd_client_new_tls_session_rate_limit
	Unit        time.Duration // anvil_rate_time_unit
	Exempt      func(name string, a netip.Addr) bool
}

// Limits counts what clients do; it is anvil(8), in-process.
type Limits struct {
	mu      sync.Mutex
	clients map[clientKey]*clientCount
	max     [maxima]maximum
}

type clientKey struct {
	service string
	addr    netip.Addr
}

type event int

const (
	eventConnect event = iota
	eventMessage
	eventRecipient
	eventAuth
	eventTLS
	events
)

type clientCount struct {
	open  int
	since time.Time // the rates count from here
	rate  [events]int
}

// NewLimits returns empty counters.
func NewLimits() *Limits { return &Limits{clients: make(map[clientKey]*clientCount)} }

// enter counts a connection; release must be called at its end.
func (l *Limits) enter(c *Config, p *peer, log *maillog.Logger) (release func(), refusal smtp.Reply) {
	if l == nil || c.Limit.Exempt != nil && c.Limit.Exempt(p.name, p.addr) {
		return func() {}, smtp.Reply{}
	}
	key := clientKey{c.Service, p.addr}
	l.mu.Lock()
	n := l.get(key, c.Limit.Unit)
	n.open++
	n.rate[eventConnect]++
	open, rate := n.open, n.rate[eventConnect]
	l.note(maxOf(eventConnect), rate, key, c.Limit.Unit)
	l.note(maxOpen, open, key, 0)
	l.note(maxClients, len(l.clients), clientKey{}, 0)
	l.mu.Unlock()
	release = func() {
		l.mu.Lock()
		n.open--
		if n.open == 0 && time.Since(n.since) > c.Limit.Unit {
			delete(l.clients, key)
		}
		l.mu.Unlock()
	}
	tooMany := smtp.Reply{Code: 421, Status: "4.7.0", Text: c.MyName + " Error: too many connections from " + p.address()}
	switch {
	case c.Limit.Connections > 0 && open > c.Limit.Connections:
		log.Warnf("Connection concurrency limit exceeded: %d from %s for service %s", open, p.id(), c.Service)
		return release, tooMany
	case c.Limit.Rate > 0 && rate > c.Limit.Rate:
		log.Warnf("Connection rate limit exceeded: %d from %s for service %s", rate, p.id(), c.Service)
		return release, tooMany
	}
	return release, smtp.Reply{}
}

// get finds a client's counters and starts them anew when their time is over.
// Clients that are gone are dropped here, too, now and then.
func (l *Limits) get(key clientKey, unit time.Duration) *clientCount {
	now := time.Now()
	n := l.clients[key]
	if n == nil {
		if len(l.clients)%1024 == 1023 {
			for k, v := range l.clients {
				if v.open == 0 && now.Sub(v.since) > unit {
					delete(l.clients, k)
				}
			}
		}
		n = &clientCount{since: now}
		l.clients[key] = n
	}
	if now.Sub(n.since) > unit {
		n.since, n.rate = now, [events]int{}
	}
	return n
}

// over counts an event and reports whether it was one too many.
func (s *session) over(e event, limit int, what string) bool {
	l, c := s.c.Limits, s.c
	if l == nil || limit <= 0 || c.Limit.Exempt != nil && c.Limit.Exempt(s.peer.name, s.peer.addr) {
		return false
	}
	l.mu.Lock()
	key := clientKey{c.Service, s.peer.addr}
	n := l.get(key, c.Limit.Unit)
	n.rate[e]++
	rate := n.rate[e]
	l.note(maxOf(e), rate, key, c.Limit.Unit)
	l.mu.Unlock()
	if rate <= limit {
		return false
	}
	s.log.Warnf("%s rate limit exceeded: %d from %s for service %s", what, rate, s.peer.id(), c.Service)
	return true
}
