// Package qmgr is the queue manager: it decides when which message is tried,
// hands recipients to delivery agents, and does with the answers what has to be
// done: mark, defer, return, remove.
//
//	incoming --\                 /-> destination A: entry entry ...  \
//	            > active --resolve-> destination B: entry            > agents -> answers
//	deferred --/                 \-> ...                             /
//
// Messages in the active queue are in memory, at most ActiveLimit of them, with
// their recipients in chunks; everything else costs a directory entry. New
// messages are announced (Notice) or found by a scan; deferred ones by a scan
// every QueueRunDelay, their mtime being the next try.
//
// Within a transport the destinations take turns, and each has its own number
// of parallel deliveries, which grows while deliveries succeed and shrinks to
// nothing for a while when the site fails (Postfix' concurrency feedback). At a
// destination the messages take turns, and those with few recipients have every
// second turn of a transport. So a slow site delays nobody else, nor does a huge
// list, whose recipients are read as others leave, or after a while in any case.
//
// It promises that a recipient is marked done only after an agent took
// responsibility or a bounce is logged, so that a crash at any moment loses
// nothing and repeats at most the deliveries that were on the wire. It does not
// know any protocol, nor how addresses are resolved.
package qmgr

import (
	"context"
	"errors"
	"sync"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/deliver/bounce"
	"angarium/lib/deliver/local"
	"angarium/lib/maillog"
	"angarium/lib/queue"
	"angarium/lib/route"
)

// Resolver tells where a recipient goes; lib/route has one.
type Resolver interface {
	Resolve(ctx context.Context, sender, rcpt address.Address) (route.Result, error)
}

// Forwarder starts a message that carries m on to other recipients. The draft
// begins with m's content behind a Delivered-To: for each address in via.
type Forwarder func(ctx context.Context, m *queue.Message, sender, via address.Address) (bounce.Draft, error)

// Transport is a line of master.cf that delivers.
type Transport struct {
	Name    string // "smtp", "relay", "lmtp"
	Tag     string // of its log lines, "postfix/smtp", "postfix/relay/smtp"
	Agent   agent.Agent
	Builtin string // without Agent: "error", "retry", "discard"; empty: by Name
	Limit   int    // parallel deliveries (maxproc); 0: no limit
	Expands bool   // local(8): recipients go through Config.Local first

	Concurrency        int // <transport>_destination_concurrency_limit; 0: no limit
	Initial            int // <transport>_initial_destination_concurrency
	Positive, Negative Feedback
	FailedCohorts      float64       // <transport>_destination_concurrency_failed_cohort_limit
	Recipients         int           // <transport>_destination_recipient_limit; 1: recipients are destinations
	RateDelay          time.Duration // <transport>_destination_rate_delay
	OwnRateDelay       time.Duration // <transport>_transport_rate_delay
}

// Config is what the manager needs.
type Config struct {
	Queue    *queue.Queue
	Log      *maillog.Logger // postfix/qmgr
	Prefix   string          // of tags, "postfix/"
	Resolver Resolver
	// Transports by name, and Outside for names that are not among them: programs
	// with processes of their own. nil, or a nil answer: mail for it is deferred.
	Transports map[string]*Transport
	Outside    func(name string) *Transport
	Local      *local.Expander
	Bounce     *bounce.Bouncer
	Forward    Forwarder
	Pickup     func(ctx context.Context, id string) error // takes a file from maildrop; nil: nobody

	ActiveLimit    int           // qmgr_message_active_limit; 0: 20000
	Chunk          int           // recipients of a message in memory at a time; 0: 1000
	Recipients     int           // of all messages, qmgr_message_recipient_limit; 0: 20000
	MinRecipients  int           // each message may have some, qmgr_message_recipient_minimum; 0: 10
	RefillDelay    time.Duration // default_recipient_refill_delay; 0: 5 s
	QueueRunDelay  time.Duration // queue_run_delay; 0: 300 s
	MinBackoff     time.Duration // minimal_backoff_time; 0: 300 s
	MaxBackoff     time.Duration // maximal_backoff_time; 0: 4000 s
	Lifetime       time.Duration // maximal_queue_lifetime; 0: 5 d
	BounceLifetime time.Duration // bounce_queue_lifetime; 0: 5 d
	// TransportRetry is transport_retry_time: a transport that could not be reached
	// is left alone for so long, and its mail deferred; 0: 60 s.
	TransportRetry time.Duration
	ClogWarn       time.Duration // qmgr_clog_warn_time; 0: never
	DeferTransport map[string]bool
	Rewrite        func(address.Address) address.Address // completes the address of REDIRECT; may be nil
	SoftBounce     bool                                  // soft_bounce: what would go back stays
	FilterNextHop  string                                // default_filter_nexthop

	// Resolve at once: how many goroutines read and route messages; 0: 4.
	Feeders int
	Now     func() time.Time // nil: time.Now
}

// Manager runs the queue. Make it with New, start it with Run.
type Manager struct {
	c     Config
	wake  chan struct{} // for the feeders: something may be there
	drain chan struct{}

	outside sync.Map // *Transport by name, from Config.Outside

	mu         sync.Mutex
	cond       *sync.Cond // deliveries ended
	active     map[string]*message
	transports map[string]*transport
	sites      []string    // to be flushed; the first one is under way
	notices    []candidate // what cleanup announced, and postqueue -i asked for
	wantScan   scanFlags
	died       map[string]int // messages during whose delivery an agent panicked
	deliveries int
	feeding    int
	openFiles  int
	recipients int // in memory
	draining   bool
	jobs       sync.WaitGroup
}

type scanFlags int

const (
	scanIncoming scanFlags = 1 << iota
	scanDeferred
	scanMaildrop
	flushDeferred // try also what is not due, and forget dead sites
)

// maxNotices bounds the ids kept of new mail; beyond, a scan finds them.
const maxNotices = 20000

// maxOpen bounds the queue files that wait open between reading and delivery.
const maxOpen = 500

func or[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// New returns a manager for c.
func New(c Config) *Manager {
	c.ActiveLimit = or(c.ActiveLimit, 20000)
	c.Chunk = or(c.Chunk, 1000)
	c.Recipients, c.MinRecipients = or(c.Recipients, 20000), or(c.MinRecipients, 10)
	c.RefillDelay = or(c.RefillDelay, 5*time.Second)
	c.QueueRunDelay = or(c.QueueRunDelay, 300*time.Second)
	c.MinBackoff = or(c.MinBackoff, 300*time.Second)
	c.MaxBackoff = or(c.MaxBackoff, 4000*time.Second)
	c.Lifetime = or(c.Lifetime, 5*24*time.Hour)
	c.BounceLifetime = min(or(c.BounceLifetime, c.Lifetime), c.Lifetime)
	c.TransportRetry = or(c.TransportRetry, time.Minute)
	c.Feeders = or(c.Feeders, 4)
	if c.Now == nil {
		c.Now = time.Now
	}
	m := &Manager{c: c, wake: make(chan struct{}, c.Feeders), drain: make(chan struct{}),
		active: map[string]*message{}, transports: map[string]*transport{}, died: map[string]int{}}
	m.cond = sync.NewCond(&m.mu)
	return m
}

// Notice says that a message is new in incoming.
func (m *Manager) Notice(id string) {
	if !queue.ValidID(id) {
		return
	}
	m.mu.Lock()
	if len(m.notices) < maxNotices {
		m.notices = append(m.notices, candidate{queue.Incoming, id, true})
	} else {
		m.wantScan |= scanIncoming
		m.cond.Broadcast()
	}
	m.mu.Unlock()
	m.poke()
}

// Trigger does what a byte written to public/qmgr or public/pickup asks for.
func (m *Manager) Trigger(request byte) {
	var f scanFlags
	switch request {
	case 'I': // new mail
		f = scanIncoming
	case 'D': // deferred mail
		f = scanDeferred
	case 'W': // the clock
		f = scanIncoming | scanMaildrop
	case 'P': // pickup; ours
		f = scanMaildrop
	case 'A': // everything: forget dead sites
		f = flushDeferred | scanDeferred | scanIncoming
	case 'F': // flush
		f = flushDeferred | scanDeferred | scanIncoming | scanMaildrop
	default:
		return
	}
	m.want(f)
}

func (m *Manager) want(f scanFlags) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wantScan |= f
	m.cond.Broadcast()
	if f&flushDeferred != 0 {
		for _, t := range m.transports {
			t.revive()
		}
		m.dispatch()
	}
}

// poke wakes a feeder.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run manages the queue until ctx ends or Drain was called. It then takes no
// new work, lets deliveries on the wire finish, and returns.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.restart(); err != nil {
		return err
	}
	m.want(scanIncoming | scanMaildrop | scanDeferred)
	done := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			m.stop()
		case <-m.drain:
		}
		close(done)
	}()
	for range m.c.Feeders {
		m.jobs.Add(1)
		go func() {
			defer m.jobs.Done()
			m.feed(ctx)
		}()
	}
	m.jobs.Add(2)
	go func() {
		defer m.jobs.Done()
		m.scanner(ctx, scanIncoming|scanDeferred|flushDeferred, m.scan)
	}()
	go func() { // apart, since a full active queue must not stop people from posting
		defer m.jobs.Done()
		m.scanner(ctx, scanMaildrop, m.scanMaildrop)
	}()
	tick := time.NewTicker(m.c.QueueRunDelay)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.want(scanIncoming | scanDeferred | scanMaildrop)
		case <-done:
			m.jobs.Wait()
			m.mu.Lock()
			for m.deliveries > 0 {
				m.cond.Wait()
			}
			m.mu.Unlock()
			return nil
		}
	}
}

// stop lets nothing new begin.
func (m *Manager) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.draining {
		m.draining = true
		close(m.drain)
		m.cond.Broadcast()
	}
}

// Drain ends Run once the deliveries on the wire have finished.
func (m *Manager) Drain(ctx context.Context) {
	m.stop()
	stop := context.AfterFunc(ctx, func() { m.mu.Lock(); m.cond.Broadcast(); m.mu.Unlock() })
	defer stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.deliveries > 0 && ctx.Err() == nil {
		m.cond.Wait()
	}
}

// restart takes back what a process before us had in the active queue: we do
// not know how far it came, but what it finished is marked.
func (m *Manager) restart() error {
	for id, err := range m.c.Queue.Scan(queue.Active) {
		if err != nil {
			return err
		}
		// A message that a flush took early has a next try that is still to come.
		if err := m.c.Queue.SetTry(queue.Active, id, m.c.Now()); err != nil && !isGone(err) {
			return err
		}
		if err := m.c.Queue.Move(id, queue.Active, queue.Incoming); err != nil && !isGone(err) {
			return err
		}
	}
	return nil
}

// def is the definition of a transport; nil: there is none.
func (m *Manager) def(name string) *Transport {
	if t := m.c.Transports[name]; t != nil {
		return t
	}
	if m.c.Outside == nil || name == "" || name[0] == 0 || name == "error" || name == "retry" || name == "discard" {
		return nil
	}
	if t, ok := m.outside.Load(name); ok {
		return t.(*Transport)
	}
	t := m.c.Outside(name)
	m.outside.Store(name, t)
	return t
}

func isGone(err error) bool { return errors.Is(err, errGone) }
