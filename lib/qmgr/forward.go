package qmgr

import (
	"context"
	"errors"
	"io"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/deliver/local"
	"angarium/lib/dsn"
	"angarium/lib/queue"
)

// forwardEntry is the part of an alias that leaves this machine, or has a
// sender of its own: it goes on in new messages.
func (m *Manager) forwardEntry(g *message, it item, steps []local.Step) *entry {
	return &entry{g: g, items: []item{it}, forwards: steps}
}

// forward submits one message for each sender.
func (m *Manager) forward(ctx context.Context, e *entry, f *queue.Message, start time.Time) {
	it := e.items[0]
	gr := it.group
	it.group = nil // its members have all answered
	s := settlement{g: e.g, f: f, start: start}
	log, end := m.c.Log.As(m.tagOf("local")).Session()
	defer end()
	s.log = log
	if e.g.verify() {
		s.forwards(ctx, it, e.forwards)
		return
	}
	for steps := e.forwards; len(steps) > 0; {
		sender := steps[0].Sender
		var rcpts []agent.Recipient
		var rest []local.Step
		for _, st := range steps {
			if st.Sender == sender {
				rcpts = append(rcpts, st.Recipient)
			} else {
				rest = append(rest, st)
			}
		}
		steps = rest
		id, err := m.submit(ctx, f, sender, it.Recipient, rcpts)
		if err != nil {
			s.settle(ctx, it, agent.Result{Err: dsn.From(err, "mail forwarding failed"), Relay: "local"})
			s.flush(ctx)
			return
		}
		s.line(it.Recipient, agent.Result{Relay: "local"}, "2.0.0", "sent", "forwarded as "+id)
	}
	if gr != nil && gr.expanded != "" {
		s.expanded(ctx, gr)
	}
	s.finished(it, true)
}

// expanded notes for the sender that an alias was followed.
func (s *settlement) expanded(ctx context.Context, gr *group) {
	e := logEntry(gr.top, agent.Result{Action: gr.expanded})
	e.Reason = "delivery via local: alias expanded"
	s.write(ctx, queue.Trace, []settled{{item{Recipient: gr.top}, e}})
}

// forwards tells what a probe would be forwarded to.
func (s *settlement) forwards(ctx context.Context, it item, steps []local.Step) {
	gr := &group{top: it.Recipient, left: len(steps)}
	for _, st := range steps {
		s.settle(ctx, item{st.Recipient, gr}, agent.Result{Relay: "local", Text: "forwards to " + st.Recipient.Address.String()})
	}
	s.flush(ctx)
}

// submit makes a message with f's content for other recipients.
func (m *Manager) submit(ctx context.Context, f *queue.Message, sender address.Address, via agent.Recipient, to []agent.Recipient) (string, error) {
	if m.c.Forward == nil {
		return "", errors.New("no cleanup service")
	}
	d, err := m.c.Forward(ctx, f, sender, via.Address)
	if err != nil {
		return "", err
	}
	defer d.Abort()
	for _, r := range to {
		if r.Original.IsNull() {
			r.Original = via.Address
		}
		r.Notify = r.Notify.WithoutSuccess() // reported as "expanded"
		if err := d.Recipient(ctx, r); err != nil {
			return "", err
		}
	}
	if _, err := io.Copy(d, f.Content()); err != nil {
		return "", err
	}
	if err := d.Commit(ctx); err != nil {
		return "", err
	}
	return d.ID(), nil
}

// onward follows an agent that passed a recipient on: a .forward file was
// found, or none, and then the mail goes to mailbox_transport.
func (s *settlement) onward(ctx context.Context, it item, res agent.Result) {
	g := s.g
	gr := it.group
	if gr == nil {
		gr = &group{top: it.Recipient, left: 1}
	}
	p := planner{g: g, f: s.f}
	var steps []local.Step
	hops := 0
	for _, o := range res.Onward {
		r := it.Recipient
		r.Target, r.User = "", ""
		if o.Hop == "" {
			if r.Address = o.To; g.m.c.Rewrite != nil {
				r.Address = g.m.c.Rewrite(o.To)
			}
			steps = append(steps, local.Step{Recipient: r, Forward: true, Sender: g.env.Sender})
			continue
		}
		if !o.To.IsNull() {
			r.Address = o.To
		}
		p.hop(item{r, gr}, o.Hop)
		hops++
	}
	if len(steps) > 0 && it.Notify&agent.NotifySuccess != 0 && !g.verify() {
		gr.expanded = "expanded" // by a .forward file
	}
	g.m.mu.Lock()
	gr.then = append(gr.then, steps...)
	gr.left += hops
	g.m.enqueue(g, p.entries...)
	g.m.mu.Unlock()
	it.group = gr
	if res.Err != nil { // for good: a part of what the file asks for
		res.Onward = nil
		s.settle(ctx, it, res)
		return
	}
	here := res.Text != "" // it was also delivered where it is
	if here {
		s.line(it.Recipient, res, "2.0.0", "sent", res.Text)
	}
	s.leave(it, here)
}
