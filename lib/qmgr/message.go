package qmgr

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/deliver/bounce"
	"angarium/lib/deliver/local"
	"angarium/lib/dsn"
	"angarium/lib/queue"
	"angarium/lib/route"
)

func pull(seq iter.Seq2[string, error]) (func() (string, error, bool), func()) {
	return iter.Pull2(seq)
}

// message is one in the active queue. What is below the line is guarded by
// Manager.mu; the rest changes only while nobody else has the message.
type message struct {
	m       *Manager
	id      string
	active  time.Time
	env     *queue.Envelope
	size    int64
	expired bool // postsuper -e
	loop    *loopCheck
	logs    bool // there may be bounce or trace logs

	// ---
	file    *queue.Message
	users   int   // of file
	next    int64 // where to read on; -1: all recipients were read
	pending int   // entries under way, and one while recipients are read
	held    int   // recipients in memory
	reading bool
	refill  *time.Timer // reads on although nobody left
	late    bool        // a recipient is deferred
	loaded  bool        // the file is in the active directory
}

// item is a recipient on its way to an agent.
type item struct {
	agent.Recipient
	group *group // of what an alias led to; nil: stands for itself
}

// group is a recipient that became several. It is done when all of them are.
type group struct {
	top  agent.Recipient
	left int
	ok   int
	late []agent.Recipient // deferred members
	then []local.Step      // what goes on in new messages once the others have answered
	// expanded is what the sender is told of an alias, if he asked to be told of
	// success: "expanded" or "delivered".
	expanded string
}

// load opens the file and takes it into the active directory.
func (g *message) load(from queue.Dir) error {
	q := g.m.c.Queue
	f, err := q.OpenMessage(from, g.id)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && !st.Complete() {
		err = errSkip
	}
	if err == nil {
		err = q.Move(g.id, from, queue.Active)
	}
	if err != nil {
		f.Close()
		return err
	}
	g.file, g.expired = f, st.Expired()
	env := f.Envelope
	g.env, g.size = &env, f.DataSize()
	if from != queue.Incoming {
		_ = q.RemoveLog(queue.Defer, g.id) // reasons of the last try
	}
	g.m.mu.Lock()
	g.m.openFiles++
	g.loaded = true
	g.m.mu.Unlock()
	g.m.c.Log.Infof("%s: from=<%s>, size=%d, nrcpt=%d (queue active)", g.id, g.env.Sender.Quoted(), g.size, f.RecipientCount())
	return nil
}

// open gives the queue file to a user of it; each must release it.
func (g *message) open() (*queue.Message, error) {
	g.m.mu.Lock()
	if g.file != nil {
		g.users++
		g.m.mu.Unlock()
		return g.file, nil
	}
	g.m.mu.Unlock()
	f, err := g.m.c.Queue.OpenMessage(queue.Active, g.id)
	if err != nil {
		return nil, err
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.users++
	if g.file != nil { // somebody was faster
		f.Close()
		return g.file, nil
	}
	g.file = f
	g.m.openFiles++
	return f, nil
}

// release ends one use. The file stays open while there is room for it: the
// next entry of the message, or its end, will want it.
func (g *message) release() {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.users--
	if g.users == 0 && g.m.openFiles > maxOpen {
		g.close()
	}
}

// close needs the lock.
func (g *message) close() {
	if g.file != nil {
		g.file.Close()
		g.file = nil
		g.m.openFiles--
	}
}

// begin reads and routes the first recipients. pending holds one for us.
func (g *message) begin(ctx context.Context) {
	g.m.mu.Lock()
	g.reading = true
	g.m.mu.Unlock()
	g.read(ctx)
	g.done(ctx, nil)
}

// portion is how many recipients may be read now; it needs the lock.
func (g *message) portion() int {
	room := g.m.c.Recipients - g.m.recipients
	return min(max(room, g.m.c.MinRecipients-g.held, 0), g.m.c.Chunk)
}

// readOn reads more recipients beside the deliveries. It needs the lock.
func (g *message) readOn(ctx context.Context) {
	g.reading = true
	g.pending++
	g.m.deliveries++
	go func() {
		g.read(ctx)
		g.done(ctx, nil)
		g.m.mu.Lock()
		defer g.m.mu.Unlock()
		g.m.deliveries--
		g.m.cond.Broadcast()
	}()
}

// refillLater makes sure that recipients behind those of a slow site are not
// read only when that has answered. It needs the lock.
func (g *message) refillLater(ctx context.Context) {
	g.refill = time.AfterFunc(g.m.c.RefillDelay, func() {
		g.m.mu.Lock()
		defer g.m.mu.Unlock()
		switch {
		case g.next < 0 || g.reading || g.m.draining: // a read sets it anew
		case g.m.recipients < g.m.c.Recipients:
			g.readOn(ctx)
		default:
			g.refillLater(ctx)
		}
	})
}

// read takes the next chunk of recipients, resolves them, and queues entries.
func (g *message) read(ctx context.Context) {
	f, err := g.open()
	if err != nil {
		g.trouble(err)
		return
	}
	defer g.release()
	defer func() {
		if p := recover(); p != nil {
			g.m.died1(g.id, p)
			g.trouble(errors.New("routing failed"))
		}
	}()
	g.m.mu.Lock()
	n := max(g.portion(), 1)
	g.m.mu.Unlock()
	list, next, err := f.Recipients(g.next, n)
	if err != nil {
		g.trouble(err)
	}
	if g.env.Redirect != "" && len(list) > 0 {
		list, next = g.redirect(list), -1
	}
	plan := planner{g: g, f: f}
	for i := range list {
		plan.add(ctx, &list[i])
	}
	if err != nil {
		next = -1
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	if g.next = next; next >= 0 {
		g.refillLater(ctx)
	}
	g.m.enqueue(g, plan.entries...)
}

// redirect turns the first recipient into the one to whom REDIRECT of access(5)
// sends the whole message; the others get nothing.
func (g *message) redirect(list []agent.Recipient) []agent.Recipient {
	r := &list[0]
	if r.Original.IsNull() {
		r.Original = r.Address
	}
	r.Address = address.Parse(g.env.Redirect)
	if g.m.c.Rewrite != nil {
		r.Address = g.m.c.Rewrite(r.Address)
	}
	return list[:1]
}

// trouble is a queue file that can't be read: the message waits. One that is
// gone was taken away by postsuper.
func (g *message) trouble(err error) {
	if !isGone(err) {
		g.m.c.Log.Warnf("%s: %v", g.id, err)
	}
	g.m.mu.Lock()
	g.late, g.next = true, -1
	g.m.mu.Unlock()
}

// planner groups recipients with the same destination into entries.
type planner struct {
	g       *message
	f       *queue.Message
	entries []*entry
	open    map[string]*entry // by transport and destination
}

// add decides about one recipient.
func (p *planner) add(ctx context.Context, r *agent.Recipient) {
	m := p.g.m
	if m.c.Bounce != nil && m.c.Bounce.IsDoubleBounce(r.Address) {
		p.g.settle(ctx, p.f, item{Recipient: *r}, agent.Result{Relay: "none", Text: "undeliverable postmaster notification discarded"}, "qmgr", m.c.Now(), false)
		return
	}
	if p.g.env.Filter != "" && p.g.env.Redirect == "" && !p.g.verify() {
		p.filter(item{Recipient: *r})
		return
	}
	res, err := m.c.Resolver.Resolve(ctx, p.g.env.Sender, r.Address)
	switch {
	case err != nil:
		m.c.Log.Warnf("%s: address resolver: %v", p.g.id, err)
		res = route.Result{Transport: "retry", NextHop: "4.3.0 address resolver failure"}
	case res.Bad:
		res = route.Result{Transport: "error", NextHop: "5.1.3 bad address syntax"}
	default:
		r.Address = keepOriginal(r, res.Recipient)
	}
	t := m.def(res.Transport)
	if t != nil && t.Expands && m.c.Local != nil && err == nil {
		p.expand(ctx, r, res)
		return
	}
	p.put(item{Recipient: *r}, res.Transport, res.NextHop)
}

// filter sends a recipient to the content filter of the message, whatever its
// address says.
func (p *planner) filter(it item) {
	transport, hop := cutHop(p.g.env.Filter)
	if hop == "" {
		hop = or(p.g.m.c.FilterNextHop, it.Address.Domain)
	}
	p.put(it, transport, hop)
}

// keepOriginal remembers what the recipient was called before it got its new
// address, for the log and for notices.
func keepOriginal(r *agent.Recipient, a address.Address) address.Address {
	if r.Original.IsNull() && a != r.Address {
		r.Original = r.Address
	}
	return a
}

// expand lets lib/deliver/local decide, and queues what it says.
func (p *planner) expand(ctx context.Context, r *agent.Recipient, res route.Result) {
	m := p.g.m
	if p.g.loop == nil {
		p.g.loop = &loopCheck{}
	}
	steps, err := m.c.Local.Expand(ctx, p.g.env.Sender, *r, func(a address.Address) bool { return p.g.loop.has(p.f, a) })
	if err != nil {
		e := dsn.From(err, "local recipient lookup failure")
		m.c.Log.Warnf("%s: %s: %v", p.g.id, e.Text, or(e.Err, err))
		p.entries = append(p.entries, &entry{g: p.g, items: []item{{Recipient: *r}}, fixed: e, tag: m.tagOf(res.Transport)})
		return
	}
	if len(steps) == 0 {
		p.put(item{Recipient: *r}, "retry", "4.3.0 alias expansion gave nothing")
		return
	}
	expanded := ""
	if r.Notify&agent.NotifySuccess != 0 && !p.g.verify() {
		expanded = steps[0].Expanded
	}
	if len(steps) == 1 && !steps[0].Forward && expanded == "" {
		p.step(item{Recipient: steps[0].Recipient}, steps[0], res)
		return
	}
	gr := &group{top: *r, expanded: expanded}
	for _, s := range steps {
		if s.Forward {
			gr.then = append(gr.then, s)
			continue
		}
		gr.left++
		p.step(item{s.Recipient, gr}, s, res)
	}
	if gr.left == 0 {
		p.entries = append(p.entries, m.forwardEntry(p.g, item{*r, gr}, gr.then))
	}
}

func (p *planner) step(it item, s local.Step, res route.Result) {
	switch {
	case s.Discard:
		p.entries = append(p.entries, &entry{g: p.g, items: []item{it}, dropped: true, tag: p.g.m.tagOf(res.Transport)})
	case s.Err != nil:
		e := &entry{g: p.g, items: []item{it}, fixed: s.Err, tag: p.g.m.tagOf(res.Transport)}
		p.entries = append(p.entries, e)
	case s.Hop != "" && it.User == "" && it.Target == "":
		p.hop(it, s.Hop)
	default:
		p.put(it, res.Transport, s.Hop)
	}
}

// hop queues for "transport:nexthop"; without a next hop it is our own name for
// mailbox_transport and the like.
func (p *planner) hop(it item, value string) {
	transport, hop := cutHop(value)
	if hop == "" {
		hop = it.Address.Domain
	}
	p.put(it, transport, hop)
}

func cutHop(value string) (transport, hop string) {
	for i := 0; i < len(value); i++ {
		if value[i] == ':' {
			return value[:i], value[i+1:]
		}
	}
	return value, ""
}

// put adds the item to an entry for its destination.
func (p *planner) put(it item, transport, hop string) {
	limit, dest := 1, hop
	t := p.g.m.def(transport)
	if t != nil {
		limit = t.Recipients
	}
	if limit == 1 || transport == "local" || it.Target != "" {
		dest = it.Address.String()
		limit = 1
	}
	if limit <= 1 {
		p.entries = append(p.entries, &entry{g: p.g, transport: transport, hop: hop, dest: dest, items: []item{it}})
		return
	}
	key := transport + "\x00" + hop
	e := p.open[key]
	if e == nil || limit > 0 && len(e.items) >= limit {
		e = &entry{g: p.g, transport: transport, hop: hop, dest: dest}
		p.entries = append(p.entries, e)
		if p.open == nil {
			p.open = map[string]*entry{}
		}
		p.open[key] = e
	}
	e.items = append(e.items, it)
}

// done says that an entry has its answers or, without one, that recipients were
// read. When half of those in memory are gone the next ones are read; when all
// are, the message ends.
func (g *message) done(ctx context.Context, e *entry) {
	g.m.mu.Lock()
	g.pending--
	if e == nil {
		g.reading = false
	} else {
		g.held -= len(e.items)
		g.m.recipients -= len(e.items)
	}
	if g.next >= 0 && !g.reading && !g.m.draining && (g.pending == 0 || g.held <= g.m.c.Chunk/2 && g.portion() > g.m.c.Chunk/4) {
		if g.refill != nil {
			g.refill.Stop()
		}
		g.readOn(ctx)
	}
	end := g.pending == 0 && g.next < 0
	g.m.mu.Unlock()
	if end {
		g.end(ctx)
	}
}

// end is finish, for a message whose end may kill: it is held, since its next
// end would be the same.
func (g *message) end(ctx context.Context) {
	err := g.m.guard(g.id, func() error { g.finish(ctx); return nil })
	if err == nil {
		return
	}
	g.m.hold(g.id, queue.Active)
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.close()
	delete(g.m.active, g.id)
	g.m.cond.Broadcast()
}

// finish does what is left when every recipient has an answer.
func (g *message) finish(ctx context.Context) {
	err := g.report(ctx)
	if err == nil && g.late && g.tooOld() {
		err = g.expire(ctx)
	} else if err == nil && g.late {
		g.warn(ctx)
	}
	if err != nil {
		g.m.c.Log.Warnf("%s: %v", g.id, err)
		g.late = true
	}
	g.m.mu.Lock()
	g.close()
	g.m.mu.Unlock()
	g.m.mu.Lock()
	died := g.m.died[g.id]
	if !g.late || died > 1 {
		delete(g.m.died, g.id)
	}
	g.m.mu.Unlock()
	switch {
	case g.late && died > 1:
		g.m.c.Log.Warnf("%s: placed on hold: its delivery died %d times", g.id, died)
		err = g.m.c.Queue.Move(g.id, queue.Active, queue.Hold)
	case g.late:
		now := g.m.c.Now()
		err = g.m.c.Queue.Defer(g.id, now.Add(g.backoff(now)))
	case g.logs:
		err = g.m.c.Queue.Remove(queue.Active, g.id)
	default:
		err = g.m.c.Queue.RemoveOnly(queue.Active, g.id)
	}
	switch {
	case err != nil && !isGone(err):
		g.m.c.Log.Warnf("%s: %v", g.id, err)
	case err == nil && !g.late:
		g.m.c.Log.Infof("%s: removed", g.id)
	}
	g.m.mu.Lock()
	delete(g.m.active, g.id)
	g.m.cond.Broadcast()
	notices := len(g.m.notices) > 0
	g.m.mu.Unlock()
	if notices {
		g.m.poke()
	}
}

// backoff is how long to wait: as long as the message is old, within limits.
func (g *message) backoff(now time.Time) time.Duration {
	return min(max(now.Sub(g.env.Arrival), g.m.c.MinBackoff), g.m.c.MaxBackoff)
}

func (g *message) tooOld() bool {
	life := g.m.c.Lifetime
	if g.env.Sender.IsNull() {
		life = g.m.c.BounceLifetime
	}
	return g.expired || !g.m.c.Now().Before(g.env.Arrival.Add(life))
}

// report writes home about what failed for good, and about what was asked for.
func (g *message) report(ctx context.Context) error {
	q := g.m.c.Queue
	if !g.logs {
		return nil
	}
	if q.HasLog(queue.Bounce, g.id) {
		if err := g.notify(ctx, bounce.Failed, queue.Bounce); err != nil {
			return err
		}
		if err := q.RemoveLog(queue.Bounce, g.id); err != nil {
			return err
		}
	}
	if !q.HasLog(queue.Trace, g.id) {
		return nil
	}
	kind := bounce.Success
	if g.env.Trace&(queue.TraceUserVerify|queue.TraceRecord) != 0 {
		kind = bounce.Verify
	}
	if err := g.notify(ctx, kind, queue.Trace); err != nil {
		return err
	}
	return q.RemoveLog(queue.Trace, g.id)
}

// expire gives up: the reasons of the last try go home.
func (g *message) expire(ctx context.Context) error {
	g.m.c.Log.Infof("%s: from=<%s>, status=%s, returned to sender", g.id, g.env.Sender.Quoted(), map[bool]string{true: "force-expired", false: "expired"}[g.expired])
	if err := g.notify(ctx, bounce.Failed, queue.Defer); err != nil {
		return err
	}
	g.late = false
	return nil
}

// warn tells the sender once that the message is late.
func (g *message) warn(ctx context.Context) {
	if g.env.Warn.IsZero() || g.m.c.Now().Before(g.env.Warn) {
		return
	}
	if err := g.notify(ctx, bounce.Delayed, queue.Defer); err != nil {
		g.m.c.Log.Warnf("%s: %v", g.id, err)
		return
	}
	f, err := g.open()
	if err == nil {
		err = f.ClearWarn()
		g.release()
	}
	if err != nil {
		g.m.c.Log.Warnf("%s: %v", g.id, err)
	}
}

// notify sends a notice made of one of the message's logs.
func (g *message) notify(ctx context.Context, kind bounce.Kind, dir queue.Dir) error {
	if g.m.c.Bounce == nil {
		return errors.New("no bounce service")
	}
	n := &bounce.Notice{
		Kind: kind, QueueID: g.id, Sender: g.env.Sender, EnvID: g.env.EnvID, Ret: g.env.Ret,
		SMTPUTF8: g.env.SendOpts&queue.UTF8Requested != 0, Arrival: g.env.Arrival,
		Entries: g.m.c.Queue.ReadLog(dir, g.id),
	}
	if f, err := g.open(); err == nil {
		n.Message = f
		defer g.release()
	}
	sent, err := g.m.c.Bounce.Send(context.WithoutCancel(ctx), n)
	log := g.m.c.Log.As(g.m.c.Prefix + "bounce")
	for _, s := range sent {
		log.Infof("%s: %s: %s", g.id, s.What, s.ID)
	}
	if err != nil {
		return fmt.Errorf("notice to the sender: %w", err)
	}
	if len(sent) == 0 && kind == bounce.Failed && g.m.c.Bounce.IsDoubleBounce(g.env.Sender) {
		log.Warnf("%s: undeliverable postmaster notification discarded", g.id)
	}
	return nil
}

// statusText takes the words of the error transport, "5.1.1 text".
func statusText(text string, class int) *dsn.Error {
	code := [3]int{class, 0, 0}
	for i := 0; i < len(text); i++ {
		if text[i] != ' ' {
			continue
		}
		if c, err := dsn.ParseCode(text[:i]); err == nil {
			if c[0] == 2 || c[0] != class {
				c[0] = class
			}
			code, text = c, text[i+1:]
		}
		break
	}
	return &dsn.Error{Code: code, Text: text}
}
