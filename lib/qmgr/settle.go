package qmgr

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"angarium/lib/agent"
	"angarium/lib/deliver/local"
	"angarium/lib/dsn"
	"angarium/lib/maillog"
	"angarium/lib/queue"
)

func sqrt(x float64) float64 { return math.Sqrt(x) }

// sized tells agents the size that Postfix tells, without reading the content.
type sized struct {
	*queue.Message
	size int64
}

func (s sized) Size() int64 { return s.size }

func (g *message) verify() bool { return g.env.Trace&(queue.TraceUserVerify|queue.TraceMTAVerify) != 0 }

// settlement does what has to be done with the answers of one delivery.
type settlement struct {
	g        *message
	f        *queue.Message
	log      *maillog.Logger
	start    time.Time
	unmarked bool // the message is removed at once: marks would be thrown away
	bounced  []settled
	deferred []settled
	traced   []settled
}

type settled struct {
	it    item
	entry queue.LogEntry
}

// settle is for answers that did not come from an agent.
func (g *message) settle(ctx context.Context, f *queue.Message, it item, res agent.Result, program string, start time.Time, unmarked bool) {
	log, end := g.m.c.Log.As(g.m.c.Prefix + program).Session()
	defer end()
	s := settlement{g: g, f: f, log: log, start: start, unmarked: unmarked}
	s.settle(ctx, it, res)
	s.flush(ctx)
}

func (s *settlement) settle(ctx context.Context, it item, res agent.Result) {
	g := s.g
	if len(res.Onward) > 0 && (res.Err == nil || dsn.Permanent(res.Err)) {
		s.onward(ctx, it, res)
		return
	}
	soft := g.m.c.SoftBounce && !g.verify() && dsn.Permanent(res.Err)
	if soft {
		d := *dsn.From(res.Err, "internal error")
		d.Code[0] = 4
		res.Err = &d
	}
	e := logEntry(it.Recipient, res)
	status := "sent"
	switch {
	case g.verify():
		if status = "deliverable"; res.Err != nil {
			status = "undeliverable"
		}
		e.Action = status
	case res.Err == nil:
	case dsn.Permanent(res.Err):
		status = "bounced"
	default:
		status = "deferred"
	}
	text := res.Text
	if res.Err != nil {
		text = e.Reason
	}
	shown := status
	if soft {
		shown = "SOFTBOUNCE"
	}
	s.line(it.Recipient, res, e.Status, shown, text)
	if cause := errors.Unwrap(res.Err); cause != nil && status == "deferred" && e.Reason == "internal error" {
		g.m.c.Log.Warnf("%s: %v", g.id, cause)
	}
	if s.wantsTrace(it, res, status) {
		t := e
		if t.Reason = text; res.Relay != "" && res.Relay != "none" {
			t.Reason = "delivery via " + res.Relay + ": " + text
		}
		if res.Err == nil {
			t.DiagText, t.DiagType = "", ""
			if host, reply := hostOf(res.Relay), text; host != "" {
				t.MTAType, t.MTAName, t.DiagType, t.DiagText = "dns", host, "smtp", reply
			}
		}
		s.traced = append(s.traced, settled{it, t})
	}
	switch status {
	case "bounced":
		s.bounced = append(s.bounced, settled{it, e})
	case "deferred":
		s.deferred = append(s.deferred, settled{it, e})
	default:
		s.finished(it, true)
	}
}

// wantsTrace: probes and sendmail -v tell everything, else the sender's wish for
// success counts, where nobody behind us will fulfil it.
func (s *settlement) wantsTrace(it item, res agent.Result, status string) bool {
	if s.g.env.Trace&(queue.TraceUserVerify|queue.TraceRecord) != 0 {
		return true
	}
	return status == "sent" && res.Action != "" && it.Notify&agent.NotifySuccess != 0
}

// hostOf is the server's name in "mx.example.org[192.0.2.1]:25"; "" for "local".
func hostOf(relay string) string {
	host, _, ok := strings.Cut(relay, "[")
	if !ok {
		return ""
	}
	return host
}

// logEntry is what is remembered of a result.
func logEntry(r agent.Recipient, res agent.Result) queue.LogEntry {
	e := queue.LogEntry{
		Recipient: r.Address, Original: r.Original, Offset: r.Offset, ORCPT: r.ORCPT, Notify: r.Notify,
		Action: res.Action, Status: or(res.Status, "2.0.0"),
	}
	if res.Err == nil {
		return e
	}
	err := dsn.From(res.Err, "internal error")
	e.Status, e.Reason = err.Status(), err.Error()
	if e.Action = "delayed"; err.Code[0] == 5 {
		e.Action = "failed"
	}
	if err.Remote != nil {
		e.MTAType, e.MTAName = "dns", hostOf(err.Remote.Host)
		e.DiagType, e.DiagText = "smtp", strings.TrimRight(err.Remote.Reply, " ")
	} else if err.SASL != "" {
		e.DiagType, e.DiagText = "x-sasl", err.SASL
	} else if err.Unix != "" {
		e.DiagType, e.DiagText = "x-unix", strings.TrimRight(err.Unix, " ")
	}
	return e
}

// finished says that nothing more is to be done for an item.
func (s *settlement) finished(it item, ok bool) {
	if it.group != nil {
		s.leave(it, ok)
		return
	}
	if s.unmarked {
		return
	}
	if err := s.f.MarkDone(it.Recipient); err != nil {
		s.g.m.c.Log.Warnf("%s: %v", s.g.id, err)
	}
}

// flush writes the logs, in one go for each, and only then marks those
// recipients: a crash must not lose the reason of a bounce.
func (s *settlement) flush(ctx context.Context) {
	if len(s.traced) > 0 {
		s.write(ctx, queue.Trace, s.traced)
	}
	if len(s.bounced) > 0 {
		if s.write(ctx, queue.Bounce, s.bounced) {
			for _, x := range s.bounced {
				s.finished(x.it, false)
			}
		} else {
			s.late(s.bounced)
		}
	}
	if len(s.deferred) > 0 {
		s.write(ctx, queue.Defer, s.deferred)
		s.late(s.deferred)
	}
}

func (s *settlement) write(ctx context.Context, dir queue.Dir, list []settled) bool {
	entries := make([]queue.LogEntry, len(list))
	for i := range list {
		entries[i] = list[i].entry
	}
	s.g.m.mu.Lock()
	s.g.logs = true
	s.g.m.mu.Unlock()
	err := s.g.m.c.Queue.AppendLog(ctx, dir, s.g.id, entries...)
	if err != nil {
		s.g.m.c.Log.Warnf("%s: %s log: %v", s.g.id, dir, err)
	}
	return err == nil
}

// late leaves recipients for another try.
func (s *settlement) late(list []settled) {
	for _, x := range list {
		if x.it.group == nil {
			s.g.m.mu.Lock()
			s.g.late = true
			s.g.m.mu.Unlock()
			continue
		}
		s.g.m.mu.Lock()
		x.it.group.late = append(x.it.group.late, x.it.Recipient)
		s.g.m.mu.Unlock()
		s.leave(x.it, false)
	}
}

// leave counts a member of a group as answered. After the last one the
// recipient that the group stands for is settled: what goes elsewhere is
// forwarded, together with members that must wait, for a new try of all would
// reach the lucky ones twice. If nobody was reached yet, all of it waits.
func (s *settlement) leave(it item, ok bool) {
	gr, m := it.group, s.g.m
	if !s.last(gr, ok) {
		return
	}
	if gr.expanded != "" {
		s.expanded(context.Background(), gr)
	}
	if err := s.f.MarkDone(gr.top); err != nil {
		m.c.Log.Warnf("%s: %v", s.g.id, err)
	}
}

// last counts an answer for a group, and reports whether nothing is left to do
// for it.
func (s *settlement) last(gr *group, ok bool) bool {
	m := s.g.m
	m.mu.Lock()
	defer m.mu.Unlock()
	gr.left--
	if ok {
		gr.ok++
	}
	if gr.left > 0 {
		return false
	}
	steps := gr.then
	for _, r := range gr.late {
		if gr.ok == 0 || r.Target != "" { // a command can't be named in an envelope
			s.g.late = true
			return false
		}
		steps = append(steps, local.Step{Recipient: r, Forward: true, Sender: s.g.env.Sender})
	}
	if len(steps) > 0 {
		m.enqueue(s.g, m.forwardEntry(s.g, item{gr.top, gr}, steps))
		return false
	}
	return true
}

// line logs one recipient's fate, as pflogsumm and many others read it.
func (s *settlement) line(r agent.Recipient, res agent.Result, code, status, text string) {
	now := s.g.m.c.Now()
	b := make([]byte, 0, 256+len(text))
	b = append(b, s.g.id...)
	b = append(b, ": to=<"...)
	b = append(b, r.Address.Quoted()...)
	if !r.Original.IsNull() && !strings.EqualFold(r.Original.String(), r.Address.String()) {
		b = append(b, ">, orig_to=<"...)
		b = append(b, r.Original.Quoted()...)
	}
	b = append(b, ">, relay="...)
	b = append(b, or(res.Relay, "none")...)
	if res.Reuse > 1 {
		b = append(b, ", conn_use="...)
		b = strconv.AppendInt(b, int64(res.Reuse), 10)
	}
	b = append(b, ", delay="...)
	b = AppendDelay(b, now.Sub(s.g.env.Arrival))
	b = append(b, ", delays="...)
	b = AppendDelay(b, s.g.active.Sub(s.g.env.Arrival))
	b = append(b, '/')
	b = AppendDelay(b, now.Sub(s.g.active)-res.Setup-res.Transmit)
	b = append(b, '/')
	b = AppendDelay(b, res.Setup)
	b = append(b, '/')
	b = AppendDelay(b, res.Transmit)
	b = append(b, ", dsn="...)
	b = append(b, code...)
	b = append(b, ", status="...)
	b = append(b, status...)
	b = append(b, " ("...)
	b = append(b, text...)
	b = append(b, ')')
	s.log.Infof("%s", b)
}

// AppendDelay writes seconds as Postfix' log does: two significant digits, at
// most two behind the point, no zeros at the end.
func AppendDelay(b []byte, d time.Duration) []byte {
	if d < 0 {
		d = 0
	}
	unit := 10 * time.Millisecond
	switch {
	case d >= 10*time.Second:
		unit = time.Second
	case d >= time.Second:
		unit = 100 * time.Millisecond
	}
	d = (d + unit/2) / unit * unit
	b = strconv.AppendInt(b, int64(d/time.Second), 10)
	if rest := int64(d % time.Second / (10 * time.Millisecond)); rest > 0 && unit < time.Second {
		b = append(b, '.', byte('0'+rest/10))
		if rest%10 != 0 {
			b = append(b, byte('0'+rest%10))
		}
	}
	return b
}
