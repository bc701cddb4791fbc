package qmgr

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"angarium/lib/agent"
	"angarium/lib/deliver/local"
	"angarium/lib/dsn"
	"angarium/lib/queue"
)

// Feedback is <transport>_destination_concurrency_positive_feedback and its
// like: a number, or one divided by the concurrency (or its square root).
type Feedback struct {
	Value float64
	Over  int // 0: the number; 1: number/concurrency; 2: number/sqrt(concurrency)
}

// entry is recipients of one message for one destination: one delivery.
type entry struct {
	g         *message
	transport string
	hop, dest string
	items     []item
	tag       string       // with fixed
	fixed     error        // the answer is known
	dropped   bool         // it is: thrown away
	same      *entry       // the next one of this message, for this destination
	forwards  []local.Step // to be carried on in new messages
}

// known reports whether the answer is known without an agent.
func (e *entry) known() bool { return e.fixed != nil || e.dropped }

// transport is the state of one.
type transport struct {
	*Transport
	busy   int
	paused bool      // OwnRateDelay
	gone   time.Time // until then it is not to be reached
	dests  map[string]*destination
	// Destinations that have work and may do it: those where a message with few
	// recipients is next, and the others. They are asked in turns.
	small, big ring
	turn       bool
}

// may reports whether another delivery may begin.
func (t *transport) may() bool { return !t.paused && (t.Limit == 0 || t.busy < t.Limit) }

// pop takes the destination whose turn it is, nil if there is none.
func (t *transport) pop() *destination {
	first, second := &t.small, &t.big
	if t.turn {
		first, second = second, first
	}
	t.turn = !t.turn
	if d := first.pop(); d != nil {
		return d
	}
	return second.pop()
}

// destination is a site, or a recipient, that messages wait for.
type destination struct {
	t        *transport
	name     string
	todo     []*entry            // of each message that waits the next one
	last     map[*message]*entry // of messages with several
	busy     int
	waiting  int       // entries of todo and those behind them
	warn     time.Time // of a clog, not before
	window   int       // deliveries that may run; 0: the site is dead
	success  float64
	failure  float64
	cohorts  float64
	why      *dsn.Error // of a dead site
	queued   bool       // in t.ready
	lastDone time.Time
	notUntil time.Time // RateDelay
	timer    *time.Timer
}

// ring is a queue of destinations; each is in it once.
type ring struct {
	list []*destination
	head int
}

func (r *ring) push(d *destination) { r.list = append(r.list, d) }

func (r *ring) pop() *destination {
	if r.head == len(r.list) {
		return nil
	}
	d := r.list[r.head]
	r.list[r.head] = nil
	if r.head++; r.head == len(r.list) {
		r.list, r.head = r.list[:0], 0
	} else if r.head > 64 && r.head > len(r.list)/2 {
		r.list, r.head = append(r.list[:0:0], r.list[r.head:]...), 0
	}
	return d
}

func (m *Manager) tagOf(name string) string {
	if t := m.def(name); t != nil && t.Tag != "" {
		return t.Tag
	}
	return m.c.Prefix + name
}

func (m *Manager) transportOf(name string) *transport {
	t := m.transports[name]
	if t == nil {
		def := m.def(name)
		switch {
		case def == nil:
			def = m.missing(name, name)
		case def.Agent == nil:
			def = m.missing(name, or(def.Builtin, name))
		}
		t = &transport{Transport: def, dests: map[string]*destination{}}
		m.transports[name] = t
	}
	return t
}

// missing stands for a transport that needs no agent, or is no line of master.cf.
func (m *Manager) missing(name, kind string) *Transport {
	def := &Transport{Name: name, Tag: m.tagOf(name)}
	switch kind {
	case "error":
		def.Agent = fixedAgent(func(r *agent.Request) error { return statusText(r.NextHop, 5) })
	case "retry":
		def.Tag = m.c.Prefix + "error"
		def.Agent = fixedAgent(func(r *agent.Request) error { return statusText(r.NextHop, 4) })
	case "discard":
		def.Agent = func(_ context.Context, r *agent.Request) []agent.Result {
			list := make([]agent.Result, len(r.Recipients))
			for i := range list {
				list[i] = agent.Result{Relay: "none", Text: or(r.NextHop, "discarded"), Action: "delivered"}
			}
			return list
		}
	default:
		def.Tag = m.c.Prefix + "error"
		def.Agent = fixedAgent(func(*agent.Request) error {
			m.c.Log.Warnf("connect to transport private/%s: No such file or directory", name)
			return unavailable()
		})
	}
	return def
}

func fixedAgent(f func(r *agent.Request) error) agent.Agent {
	return func(_ context.Context, r *agent.Request) []agent.Result {
		err := f(r)
		list := make([]agent.Result, len(r.Recipients))
		for i := range list {
			list[i] = agent.Result{Err: err, Relay: "none"}
		}
		return list
	}
}

// unavailable is what the sender is told of a transport that can't be reached.
func unavailable() *dsn.Error { return dsn.New(0, "4.3.0", "mail transport unavailable") }

// enqueue lets entries of one message wait for their turns. It needs the lock.
func (m *Manager) enqueue(g *message, list ...*entry) {
	g.pending += len(list)
	for _, e := range list {
		g.held += len(e.items)
		m.recipients += len(e.items)
	}
	for _, e := range list {
		m.enqueue1(e)
	}
	m.dispatch()
}

func (m *Manager) enqueue1(e *entry) {
	name, dest := e.transport, e.dest
	switch {
	case e.known() || e.forwards != nil:
		name, dest = "local", "" // no agent runs; one waiting line is enough
		if e.forwards != nil {
			name = "forward"
		}
		name = "\x00" + name
	case m.c.DeferTransport[name]:
		e.fixed = dsn.New(0, "4.3.2", "deferred transport")
		e.tag = m.c.Prefix + "error"
		name, dest = "\x00local", ""
	}
	t := m.transportOf(name)
	d := t.dests[dest]
	if d == nil {
		d = &destination{t: t, name: dest, window: max(or(t.Initial, 5), 1)}
		if t.Concurrency > 0 {
			d.window = min(d.window, t.Concurrency)
		}
		if name[0] == 0 {
			d.window = 10
		}
		t.dests[dest] = d
	}
	d.add(e)
	m.clog(d)
	d.offer()
}

// add lets e wait: behind those of its own message, else behind all others.
func (d *destination) add(e *entry) {
	d.waiting++
	prev := d.last[e.g]
	if prev != nil {
		prev.same = e
	} else {
		d.todo = append(d.todo, e)
	}
	if prev == nil && e.g.held <= len(e.items) && e.g.next < 0 {
		return // the only one
	}
	if d.last == nil {
		d.last = map[*message]*entry{}
	}
	d.last[e.g] = e
}

// next takes an entry of the message whose turn it is.
func (d *destination) next() *entry {
	e := d.todo[0]
	d.waiting--
	d.todo[0] = nil
	d.todo = d.todo[1:]
	if e.same != nil {
		d.todo = append(d.todo, e.same)
		e.same = nil
	} else if d.last[e.g] == e {
		delete(d.last, e.g)
	}
	if len(d.todo) == 0 {
		d.todo = nil
	}
	return e
}

// offer puts d into the ring if it has work that may be done.
func (d *destination) offer() {
	if d.queued || len(d.todo) == 0 || d.why == nil && d.busy >= d.window {
		return
	}
	if d.why == nil && !d.notUntil.IsZero() {
		return // its timer will offer it
	}
	d.queued = true
	if d.todo[0].g.held <= fewRecipients {
		d.t.small.push(d)
	} else {
		d.t.big.push(d)
	}
}

// fewRecipients make no mailing list.
const fewRecipients = 10

// dispatch starts what may start. It needs the lock.
func (m *Manager) dispatch() {
	if m.draining {
		return
	}
	for _, t := range m.transports {
		for t.may() {
			d := t.pop()
			if d == nil {
				break
			}
			d.queued = false
			if e := m.take(d); e != nil {
				m.deliveries++
				go m.run(d, e)
			}
			d.offer()
		}
	}
}

// take takes the next entry of d and counts it as under way.
func (m *Manager) take(d *destination) *entry {
	if len(d.todo) == 0 || d.why == nil && d.busy >= d.window {
		return nil
	}
	e := d.next()
	if d.why != nil && !e.known() && e.forwards == nil {
		c := *d.why
		c.Code[0] = 4
		c.Remote, c.Text = nil, "delivery temporarily suspended: "+d.why.Error()
		e.fixed, e.tag = &c, m.c.Prefix+"error"
	}
	if m.c.Now().Before(d.t.gone) && !e.known() && e.forwards == nil {
		e.fixed, e.tag = unavailable(), m.c.Prefix+"error"
	}
	d.busy++
	d.t.busy++
	if d.t.RateDelay > 0 && d.why == nil {
		m.pause(d)
	}
	if d.t.OwnRateDelay > 0 {
		d.t.paused = true
		time.AfterFunc(d.t.OwnRateDelay, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			d.t.paused = false
			m.dispatch()
		})
	}
	return e
}

// pause keeps a destination quiet for destination_rate_delay.
func (m *Manager) pause(d *destination) {
	d.notUntil = time.Now().Add(d.t.RateDelay)
	time.AfterFunc(d.t.RateDelay, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		d.notUntil = time.Time{}
		d.offer()
		m.dispatch()
	})
}

// run carries out an entry, and then those that follow it at the same
// destination as long as it is that destination's turn.
func (m *Manager) run(d *destination, e *entry) {
	for e != nil {
		site := m.carry(d, e)
		m.mu.Lock()
		d.busy--
		d.t.busy--
		d.lastDone = time.Now()
		if !e.known() && e.forwards == nil {
			m.feedback(d, site)
		}
		// Others of this transport go first: the destinations take turns.
		d.offer()
		e = nil
		if next := d.t.pop(); next != nil {
			next.queued = false
			if m.draining || !d.t.may() {
				next.offer()
			} else if e = m.take(next); e != nil {
				next.offer()
				d.forget()
				d = next
			}
		}
		if e == nil {
			d.forget()
			m.deliveries--
			m.dispatch()
			m.cond.Broadcast()
		}
		m.mu.Unlock()
	}
}

// maxIdle is how many destinations of a transport are remembered at ease: that
// one was busy a moment ago is a reason to keep its connection.
const maxIdle = 1000

// forget drops destinations about which nothing is to be remembered, once they
// are many.
func (d *destination) forget() {
	if len(d.t.dests) < maxIdle || !d.idle() {
		return
	}
	for name, x := range d.t.dests {
		if x.idle() {
			delete(d.t.dests, name)
		}
	}
}

func (d *destination) idle() bool {
	return d.busy == 0 && len(d.todo) == 0 && d.why == nil && !d.queued && d.notUntil.IsZero()
}

// carry runs the agent and settles every recipient. It returns the failure of
// the site, if that is what it was.
func (m *Manager) carry(d *destination, e *entry) (site *dsn.Error) {
	ctx := context.Background()
	g := e.g
	defer g.done(ctx, e)
	defer func() {
		if p := recover(); p != nil {
			m.died1(g.id, p)
			g.trouble(errors.New("delivery failed"))
		}
	}()
	f, err := g.open()
	if err != nil {
		g.trouble(err)
		return nil
	}
	defer g.release()
	start := m.c.Now()
	if e.forwards != nil {
		m.forward(ctx, e, f, start)
		return nil
	}
	tag := or(e.tag, d.t.Tag)
	log, end := m.c.Log.As(tag).Session()
	defer end()
	var results []agent.Result
	if e.known() {
		results = make([]agent.Result, len(e.items))
		for i := range results {
			results[i] = agent.Result{Err: e.fixed, Relay: relayOf(tag, m.c.Prefix)}
			if e.dropped {
				results[i].Text, results[i].Action = "discarded", "delivered"
			}
		}
	} else {
		results = m.call(ctx, d, e, &agent.Request{
			QueueID: g.id, Sender: g.env.Sender, EnvID: g.env.EnvID, Ret: g.env.Ret, Encoding: g.env.Encoding,
			SMTPUTF8: g.env.SendOpts.SMTPUTF8(), AskUTF8: g.env.SendOpts&queue.UTF8Requested != 0, Message: sized{f, g.size}, NextHop: e.hop, Arrival: g.env.Arrival, Activated: g.active,
			Client: g.env.Client, Seen: g.seen(), Log: log, Recipients: addresses(e.items), More: m.more(d),
			Trace: g.env.Trace != 0, Verify: g.verify(),
		})
	}
	m.mu.Lock()
	last := g.pending == 1 && g.next < 0 && !g.late
	m.mu.Unlock()
	if last {
		for i := range results {
			last = last && results[i].Err == nil && results[i].Onward == nil && e.items[i].group == nil
		}
	}
	if errors.Is(firstError(results), agent.ErrNoTransport) { // then error(8) speaks for it
		var end func()
		m.c.Log.Warnf("connect to transport private/%s: %v", e.transport, errors.Unwrap(firstError(results)))
		m.mu.Lock()
		d.t.gone = m.c.Now().Add(m.c.TransportRetry)
		m.mu.Unlock()
		log, end = m.c.Log.As(m.c.Prefix + "error").Session()
		defer end()
	}
	if len(results) > 0 && results[0].Tag != "" { // a program of another name: postfix/pipe
		log = log.As(results[0].Tag)
	}
	s := settlement{g: g, f: f, log: log, start: start, unmarked: last}
	for i := range e.items {
		s.settle(ctx, e.items[i], results[i])
		if results[i].Site && site == nil {
			site = dsn.From(results[i].Err, "unknown mail transport error")
		}
	}
	s.flush(ctx)
	return site
}

// seen is what XFORWARD tells: what a proxy before us said, else what we saw.
func (g *message) seen() agent.Seen {
	s := agent.Seen{Client: g.env.LogClient, Ident: g.env.LogIdent}
	if s.Client == (agent.Client{}) {
		s.Client = g.env.Client
	}
	switch g.env.Rewrite {
	case "":
	case "local":
		s.Source = "LOCAL"
	default:
		s.Source = "REMOTE"
	}
	return s
}

func firstError(list []agent.Result) error {
	if len(list) == 0 {
		return nil
	}
	return list[0].Err
}

// relayOf is what the log shows for answers without an agent.
func relayOf(tag, prefix string) string {
	if tag == prefix+"local" {
		return "local"
	}
	return "none"
}

func (m *Manager) more(d *destination) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(d.todo) > 0 || time.Since(d.lastDone) < time.Second
}

// call runs the agent; a panic in it ends this delivery only.
func (m *Manager) call(ctx context.Context, d *destination, e *entry, r *agent.Request) (results []agent.Result) {
	defer func() {
		p := recover()
		if p != nil {
			r.Log.Panicf("%s: %v\n%s", r.QueueID, p, debug.Stack())
			m.mu.Lock()
			m.died[r.QueueID]++
			m.mu.Unlock()
		}
		if p == nil && len(results) == len(e.items) {
			return
		}
		err := &dsn.Error{Code: [3]int{4, 3, 0}, Text: "internal error", Err: fmt.Errorf("panic: %v", p)}
		results = make([]agent.Result, len(e.items))
		for i := range results {
			results[i] = agent.Result{Err: err, Relay: "none"}
		}
	}()
	return d.t.Agent(ctx, r)
}

func addresses(items []item) []agent.Recipient {
	list := make([]agent.Recipient, len(items))
	for i := range items {
		list[i] = items[i].Recipient
	}
	return list
}

// feedback adjusts how many deliveries a destination gets at a time; see
// SCHEDULER_README. It needs the lock.
func (m *Manager) feedback(d *destination, site *dsn.Error) {
	t := d.t
	if site == nil {
		d.cohorts = 0
		if d.why != nil {
			d.awake()
			return
		}
		if (t.Concurrency == 0 || d.window < t.Concurrency) && d.window < d.busy+1+or(t.Initial, 5) {
			d.success += t.Positive.at(d.window)
			for h := t.Positive.step(); d.success+t.Positive.at(d.window)/2 >= h; {
				d.window += int(max(h, 1))
				d.success -= max(h, 1)
				d.failure = 0
			}
			if t.Concurrency > 0 && d.window > t.Concurrency {
				d.window = t.Concurrency
			}
		}
		return
	}
	if d.why != nil {
		return
	}
	if t.FailedCohorts > 0 {
		d.cohorts += 1 / float64(d.window)
	}
	if t.FailedCohorts > 0 && d.cohorts >= t.FailedCohorts-1e-9 {
		m.kill(d, site)
		return
	}
	d.failure -= t.Negative.at(d.window)
	for h := t.Negative.step(); d.failure-t.Negative.at(d.window)/2 < 0 && d.window > 1; {
		d.window -= int(max(h, 1))
		d.success = 0
		d.failure += max(h, 1)
	}
	d.window = max(d.window, 1)
}

// kill declares a site dead: what waits for it is deferred at once, until
// MinBackoff has passed.
func (m *Manager) kill(d *destination, why *dsn.Error) {
	d.why, d.window = why, 0
	d.timer = time.AfterFunc(m.c.MinBackoff, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if d.why != nil {
			d.awake()
			d.forget()
			m.dispatch()
		}
	})
	d.offer()
}

// awake gives a dead site a new chance.
func (d *destination) awake() {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.why, d.timer = nil, nil
	d.window = max(or(d.t.Initial, 5), 1)
	if d.t.Concurrency > 0 {
		d.window = min(d.window, d.t.Concurrency)
	}
	d.success, d.failure, d.cohorts = 0, 0, 0
	d.offer()
}

// revive wakes all dead sites: someone asked for a flush.
func (t *transport) revive() {
	t.gone = time.Time{}
	for _, d := range t.dests {
		if d.why != nil {
			d.awake()
		}
	}
}

func (f Feedback) at(window int) float64 {
	v := f.Value
	if v == 0 {
		v = 1
	}
	switch f.Over {
	case 1:
		return v / float64(max(window, 1))
	case 2:
		return v / sqrt(float64(max(window, 1)))
	}
	return v
}

// step is the hysteresis: a whole number of units at a time.
func (f Feedback) step() float64 {
	if f.Over == 0 && f.Value > 1 {
		return f.Value
	}
	return 1
}
