package qmgr

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/deliver/bounce"
	"angarium/lib/deliver/local"
	"angarium/lib/dsn"
	"angarium/lib/maillog"
	"angarium/lib/queue"
	"angarium/lib/route"
)

// sink keeps log lines.
type sink struct {
	mu    sync.Mutex
	lines []string
}

func (s *sink) Log(_ time.Time, _ maillog.Priority, tag string, _ int64, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, tag+": "+text)
	return nil
}

func (s *sink) find(part string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		if strings.Contains(l, part) {
			return l
		}
	}
	return ""
}

// house is a queue with a manager on it and a clock that the test turns.
type house struct {
	t    *testing.T
	q    *queue.Queue
	log  *sink
	m    *Manager
	conf Config

	mu    sync.Mutex
	now   time.Time
	got   []string // "recipient via transport:nexthop"
	agent func(r *agent.Request) []agent.Result
}

func newHouse(t *testing.T) *house {
	h := &house{t: t, log: &sink{}, now: time.Now()}
	q, err := queue.Open(t.TempDir(), queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h.q = q
	tr := func(name string) *Transport {
		return &Transport{Name: name, Tag: "postfix/" + name, Recipients: 50, Concurrency: 20, FailedCohorts: 1,
			Agent: func(_ context.Context, r *agent.Request) []agent.Result { return h.deliver(name, r) }}
	}
	begin := func(ctx context.Context, sender address.Address, _ bool) (bounce.Draft, error) {
		return h.draft(ctx, sender)
	}
	lo := tr("local")
	lo.Expands, lo.Recipients = true, 1
	h.conf = Config{
		Queue: q, Log: maillog.New(h.log, "postfix/qmgr"), Prefix: "postfix/", Now: h.clock,
		Resolver:   resolver{},
		Transports: map[string]*Transport{"smtp": tr("smtp"), "lmtp": tr("lmtp"), "local": lo},
		Bounce:     bounce.New(bounce.Config{Hostname: "here.test", Notify: map[string]bool{"2bounce": true}, Now: h.clock}, begin),
		Forward: func(ctx context.Context, _ *queue.Message, sender, via address.Address) (bounce.Draft, error) {
			d, err := h.draft(ctx, sender)
			if err == nil {
				fmt.Fprintf(d, "Delivered-To: %s\n", via)
			}
			return d, err
		},
		QueueRunDelay: time.Hour,
	}
	return h
}

func (h *house) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *house) advance(d time.Duration) {
	h.mu.Lock()
	h.now = h.now.Add(d)
	h.mu.Unlock()
}

func (h *house) deliver(name string, r *agent.Request) []agent.Result {
	h.mu.Lock()
	f := h.agent
	for _, rc := range r.Recipients {
		text := rc.Address.String()
		if rc.Target != "" {
			text += " to " + rc.Target
		}
		h.got = append(h.got, text+" via "+name+":"+r.NextHop)
	}
	h.mu.Unlock()
	if f != nil {
		if list := f(r); list != nil {
			return list
		}
	}
	return results(r, agent.Result{Relay: "mx.far.test[192.0.2.1]:25", Text: "250 2.0.0 Ok", Action: "relayed"})
}

func results(r *agent.Request, res agent.Result) []agent.Result {
	list := make([]agent.Result, len(r.Recipients))
	for i := range list {
		list[i] = res
	}
	return list
}

type resolver struct{}

func (resolver) Resolve(_ context.Context, _, a address.Address) (route.Result, error) {
	r := route.Result{Transport: "smtp", NextHop: a.Domain, Recipient: a}
	if a.Domain == "here.test" {
		r.Transport = "local"
	}
	if a.Domain == "broken.test" {
		return r, io.ErrUnexpectedEOF
	}
	return r, nil
}

type draft struct {
	*queue.Draft
	h *house
}

func (d draft) Recipient(_ context.Context, r agent.Recipient) error { return d.Draft.Recipient(r) }
func (d draft) Commit(ctx context.Context) error {
	err := d.Draft.Commit(ctx)
	if err == nil && d.h.m != nil {
		d.h.m.Notice(d.ID())
	}
	return err
}

func (h *house) draft(ctx context.Context, sender address.Address) (bounce.Draft, error) {
	d, err := h.q.Create(ctx, queue.Envelope{Arrival: h.clock(), Sender: sender})
	return draft{d, h}, err
}

// post puts a message into incoming.
func (h *house) post(from string, to ...string) string {
	h.t.Helper()
	return h.postEnv(queue.Envelope{Arrival: h.clock(), Sender: address.Parse(from)}, 0, to...)
}

func (h *house) postEnv(e queue.Envelope, n agent.Notify, to ...string) string {
	h.t.Helper()
	d, err := h.q.Create(context.Background(), e)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, a := range to {
		if err := d.Recipient(agent.Recipient{Address: address.Parse(a), Notify: n}); err != nil {
			h.t.Fatal(err)
		}
	}
	io.WriteString(d, "Subject: hello\n\nbody\n")
	if err := d.Commit(context.Background()); err != nil {
		h.t.Fatal(err)
	}
	return d.ID()
}

// start runs the manager until the test ends, or until stop is called.
func (h *house) start() (stop func()) {
	h.m = New(h.conf)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				h.t.Error(err)
			}
		case <-time.After(30 * time.Second):
			h.t.Error("Run did not end")
		}
	})
	h.t.Cleanup(stop)
	return stop
}

// wait waits until a line of the log holds part.
func (h *house) wait(part string) string {
	h.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if l := h.log.find(part); l != "" {
			return l
		}
	}
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	h.t.Fatalf("no log line with %q in:\n%s", part, strings.Join(h.log.lines, "\n"))
	return ""
}

func (h *house) where(id string) string {
	d, _ := h.q.Find(id, queue.Incoming, queue.Active, queue.Deferred, queue.Hold, queue.Corrupt)
	return string(d)
}

func TestDelivery(t *testing.T) {
	h := newHouse(t)
	h.start()
	id := h.post("a@x.test", "b@far.test", "c@far.test", "d@other.test")
	h.m.Notice(id)
	h.wait(id + ": removed")
	if l, want := h.log.find("(queue active)"), "postfix/qmgr: "+id+": from=<a@x.test>, size="; !strings.HasPrefix(l, want) || !strings.HasSuffix(l, ", nrcpt=3 (queue active)") {
		t.Errorf("queue active line: %s", l)
	}
	if l, want := h.log.find("to=<b@far.test>"), "postfix/smtp: "+id+": to=<b@far.test>, relay=mx.far.test[192.0.2.1]:25, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 Ok)"; l != want {
		t.Errorf("got  %s\nwant %s", l, want)
	}
	slices.Sort(h.got)
	if got, want := strings.Join(h.got, "; "), "b@far.test via smtp:far.test; c@far.test via smtp:far.test; d@other.test via smtp:other.test"; got != want {
		t.Errorf("got %s", got)
	}
	if h.where(id) != "" {
		t.Errorf("still in %s", h.where(id))
	}
}

// TestDefer: temporary, permanent and good answers in one message; then its
// second life, in which only the deferred recipient is tried.
func TestDefer(t *testing.T) {
	h := newHouse(t)
	fail := true
	h.agent = func(r *agent.Request) []agent.Result {
		list := results(r, agent.Result{Relay: "mx[192.0.2.1]:25", Text: "250 2.0.0 Ok"})
		for i, rc := range r.Recipients {
			h.mu.Lock()
			late := fail
			h.mu.Unlock()
			switch {
			case rc.Address.Local == "late" && late:
				list[i].Err = &dsn.Error{Code: [3]int{4, 2, 2}, Remote: &dsn.Remote{Host: "mx[192.0.2.1]", Reply: "450 4.2.2 full", Phase: "RCPT TO command"}}
			case rc.Address.Local == "no":
				list[i].Err = dsn.New(550, "5.1.1", "no such user")
			}
		}
		return list
	}
	h.start()
	id := h.post("a@x.test", "good@far.test", "late@far.test", "no@far.test")
	h.m.Notice(id)
	h.wait("sender non-delivery notification: ")
	h.wait("status=deferred (host mx[192.0.2.1] said: 450 4.2.2 full (in reply to RCPT TO command))")
	h.wait("to=<a@x.test>") // the notice arrived
	for end := time.Now().Add(30 * time.Second); h.where(id) != "deferred" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	st, err := h.q.Stat(queue.Deferred, id)
	if err != nil {
		t.Fatal(err)
	}
	if d := st.ModTime.Sub(h.clock()); d < 299*time.Second || d > 301*time.Second {
		t.Errorf("next try in %v, want minimal_backoff_time", d)
	}
	h.mu.Lock()
	fail, h.got = false, nil
	h.mu.Unlock()
	h.m.Trigger('D') // not due
	time.Sleep(50 * time.Millisecond)
	if h.where(id) != "deferred" {
		t.Fatal("tried before its time")
	}
	h.advance(302 * time.Second)
	h.m.Trigger('D')
	h.wait(id + ": removed")
	if got := strings.Join(h.got, "; "); got != "late@far.test via smtp:far.test" {
		t.Errorf("second try: %s", got)
	}
}

func TestExpiry(t *testing.T) {
	h := newHouse(t)
	h.agent = func(r *agent.Request) []agent.Result {
		if r.Recipients[0].Address.Domain == "dead.test" {
			return results(r, agent.Result{Err: dsn.New(0, "4.4.1", "connect to dead.test[192.0.2.9]:25: Connection refused"), Site: true})
		}
		return nil
	}
	h.conf.Transports["smtp"].Initial = 1
	h.start()
	id := h.postEnv(queue.Envelope{Arrival: h.clock().Add(-6 * 24 * time.Hour), Sender: address.Parse("a@x.test")}, 0, "b@dead.test")
	h.m.Notice(id)
	h.wait(id + ": from=<a@x.test>, status=expired, returned to sender")
	h.wait(id + ": removed")
	h.wait("to=<a@x.test>")
	// The site is dead now: what comes next is deferred without a try.
	next := h.post("a@x.test", "c@dead.test")
	h.m.Notice(next)
	if l := h.wait("to=<c@dead.test>"); !strings.Contains(l, "status=deferred (delivery temporarily suspended: connect to dead.test[192.0.2.9]:25: Connection refused)") {
		t.Error(l)
	}
	h.m.Trigger('A') // flush: try again
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && h.where(next) != "deferred"; {
		time.Sleep(time.Millisecond)
	}
}

func TestNothingKnownDefers(t *testing.T) {
	h := newHouse(t)
	h.start()
	id := h.post("a@x.test", "b@broken.test")
	h.m.Notice(id)
	h.wait("to=<b@broken.test>, relay=none, delay=0, delays=0/0/0/0, dsn=4.3.0, status=deferred (address resolver failure)")
	_ = id
}

// TestFairness: one slow site with many messages, one fast one with few.
func TestFairness(t *testing.T) {
	h := newHouse(t)
	block := make(chan struct{})
	h.agent = func(r *agent.Request) []agent.Result {
		if r.Recipients[0].Address.Domain == "slow.test" {
			<-block
		}
		return nil
	}
	h.start()
	h.m.c.Transports["smtp"].Limit = 10
	for range 60 {
		h.m.Notice(h.post("a@x.test", "b@slow.test"))
	}
	id := h.post("a@x.test", "b@fast.test")
	h.m.Notice(id)
	h.wait(id + ": removed")
	close(block)
}

// TestRestart: what was active when a process died is tried again, but not the
// recipients that were marked.
func TestRestart(t *testing.T) {
	h := newHouse(t)
	id := h.post("a@x.test", "b@far.test", "c@far.test")
	if err := h.q.Move(id, queue.Incoming, queue.Active); err != nil {
		t.Fatal(err)
	}
	f, err := h.q.OpenMessage(queue.Active, id)
	if err != nil {
		t.Fatal(err)
	}
	list, _, err := f.Recipients(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.MarkDone(list[0]); err != nil {
		t.Fatal(err)
	}
	f.Close()
	// a flush had taken it early
	if err := h.q.SetTry(queue.Active, id, h.clock().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.wait(id + ": removed")
	if got := strings.Join(h.got, "; "); got != "c@far.test via smtp:far.test" {
		t.Errorf("tried %s", got)
	}
	later := h.post("a@x.test", "d@far.test") // as another system left it in incoming
	if err := h.q.SetTry(queue.Incoming, later, h.clock().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	h.m.Trigger('F')
	h.wait(later + ": removed")
}

type table map[string]string

func (t table) Lookup(_ context.Context, key string) (string, bool, error) {
	v, ok := t[key]
	return v, ok, nil
}

func TestLocal(t *testing.T) {
	h := newHouse(t)
	h.conf.Local = local.NewExpander(local.Config{
		Aliases:          []local.Alias{{Table: table{"staff": "bob, amy, x@far.test", "postmaster": "root", "root": "bob"}}},
		MailboxTransport: "lmtp:unix:/run/lmtp",
		Resolve: func(_ context.Context, a address.Address) (address.Address, bool, error) {
			if a.Domain == "" {
				a.Domain = "here.test"
			}
			return a, a.Domain == "here.test", nil
		},
	})
	h.start()
	id := h.post("a@x.test", "postmaster@here.test")
	h.m.Notice(id)
	h.wait(id + ": removed")
	if l := h.log.find("orig_to=<postmaster@here.test>"); !strings.HasPrefix(l, "postfix/lmtp: "+id+": to=<bob@here.test>, orig_to=<postmaster@here.test>, relay=") {
		t.Error(l)
	}
	id = h.post("a@x.test", "staff@here.test")
	h.m.Notice(id)
	h.wait(id + ": removed")
	l := h.wait(id + ": to=<staff@here.test>, relay=local, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (forwarded as ")
	h.wait("to=<x@far.test>, orig_to=<staff@here.test>")
	_ = l
	for _, who := range []string{"bob", "amy"} {
		if l := h.log.find(id + ": to=<" + who + "@here.test>, orig_to=<staff@here.test>"); l == "" {
			t.Errorf("no line for %s", who)
		}
	}
}

// TestDrain: Run ends after the delivery on the wire, and leaves the rest.
func TestDrain(t *testing.T) {
	h := newHouse(t)
	begun, block := make(chan struct{}), make(chan struct{})
	h.agent = func(*agent.Request) []agent.Result {
		close(begun)
		<-block
		return nil
	}
	stop := h.start()
	id := h.post("a@x.test", "b@far.test")
	h.m.Notice(id)
	<-begun
	go func() { time.Sleep(20 * time.Millisecond); close(block) }()
	stop()
	if h.log.find(id+": removed") == "" {
		t.Error("the delivery on the wire was not finished")
	}
}

func TestPanicDefers(t *testing.T) {
	h := newHouse(t)
	h.agent = func(*agent.Request) []agent.Result { panic("oops") }
	h.start()
	id := h.post("a@x.test", "b@far.test")
	h.m.Notice(id)
	h.wait("status=deferred (internal error)")
	for end := time.Now().Add(30 * time.Second); h.where(id) != "deferred" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	h.advance(time.Hour)
	for end := time.Now().Add(30 * time.Second); h.where(id) != "hold" && time.Now().Before(end); {
		h.m.Trigger('D') // a scan passes over a message that is not quite done with
		time.Sleep(10 * time.Millisecond)
	}
	h.wait(id + ": placed on hold")
	if h.where(id) != "hold" {
		t.Errorf("it is in %q", h.where(id))
	}
}

func TestAppendDelay(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		want string
	}{
		{0, "0"}, {4 * time.Millisecond, "0"}, {6 * time.Millisecond, "0.01"}, {20 * time.Millisecond, "0.02"}, {700 * time.Millisecond, "0.7"},
		{584 * time.Millisecond, "0.58"}, {1400 * time.Millisecond, "1.4"}, {1960 * time.Millisecond, "2"}, {12300 * time.Millisecond, "12"}, {123 * time.Second, "123"}, {-time.Second, "0"},
	} {
		if got := string(AppendDelay(nil, c.d)); got != c.want {
			t.Errorf("%v: %s, want %s", c.d, got, c.want)
		}
	}
}

// TestEnvelopeActions: what access tables and content_filter wrote into the
// queue file is done, wherever in the file it stands.
func TestEnvelopeActions(t *testing.T) {
	for _, c := range []struct {
		name    string
		e       queue.Envelope
		late    queue.Type // a record behind the content
		value   string
		nexthop string
		want    string
	}{
		{name: "filter", e: queue.Envelope{Filter: "lmtp:[127.0.0.1]:10026"}, want: "b@far.test via lmtp:[127.0.0.1]:10026; c@here.test via lmtp:[127.0.0.1]:10026"},
		{name: "filter without a next hop", e: queue.Envelope{Filter: "lmtp:"}, want: "b@far.test via lmtp:far.test; c@here.test via lmtp:here.test"},
		{name: "default_filter_nexthop", e: queue.Envelope{Filter: "lmtp"}, nexthop: "scan.test", want: "b@far.test via lmtp:scan.test; c@here.test via lmtp:scan.test"},
		{name: "redirect", e: queue.Envelope{Redirect: "r@other.test", Filter: "lmtp:x"}, want: "r@other.test via smtp:other.test"},
		{name: "late redirect", late: queue.TypeRedirect, value: "r@other.test", want: "r@other.test via smtp:other.test"},
		{name: "the last filter counts", e: queue.Envelope{Filter: "lmtp:one"}, late: queue.TypeFilter, value: "lmtp:two", want: "b@far.test via lmtp:two; c@here.test via lmtp:two"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			h.conf.FilterNextHop = c.nexthop
			h.start()
			c.e.Arrival, c.e.Sender = h.clock(), address.Parse("a@x.test")
			d, err := h.q.Create(context.Background(), c.e)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range []string{"b@far.test", "c@here.test"} {
				if err := d.Recipient(agent.Recipient{Address: address.Parse(a)}); err != nil {
					t.Fatal(err)
				}
			}
			io.WriteString(d, "Subject: hello\n\nbody\n")
			if c.late != 0 {
				if err := d.Record(c.late, []byte(c.value)); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.Commit(context.Background()); err != nil {
				t.Fatal(err)
			}
			h.m.Notice(d.ID())
			h.wait(d.ID() + ": removed")
			slices.Sort(h.got)
			if got := strings.Join(h.got, "; "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestSoftBounce: with soft_bounce what would go back to the sender waits.
func TestSoftBounce(t *testing.T) {
	h := newHouse(t)
	h.conf.SoftBounce = true
	h.agent = func(r *agent.Request) []agent.Result {
		return results(r, agent.Result{Err: dsn.New(550, "5.1.1", "no such user"), Relay: "mx[192.0.2.1]:25"})
	}
	h.start()
	id := h.post("a@x.test", "b@far.test")
	h.m.Notice(id)
	h.wait("dsn=4.1.1, status=SOFTBOUNCE (no such user)")
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && h.where(id) != "deferred"; {
		time.Sleep(time.Millisecond)
	}
	if h.where(id) != "deferred" {
		t.Errorf("is in %q", h.where(id))
	}
}

// TestDiedTwice: a message whose routing panics is tried again, then held; others
// are not touched by it.
func TestDiedTwice(t *testing.T) {
	h := newHouse(t)
	h.conf.Resolver = deadly{}
	h.start()
	bad, good := h.post("a@x.test", "b@deadly.test"), h.post("a@x.test", "b@far.test")
	h.m.Notice(bad)
	h.m.Notice(good)
	h.wait(good + ": removed")
	for end := time.Now().Add(30 * time.Second); h.where(bad) != "deferred" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	h.m.TryNow(bad)
	h.wait(bad + ": placed on hold")
	for end := time.Now().Add(30 * time.Second); h.where(bad) != "hold" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if h.where(bad) != "hold" {
		t.Errorf("is in %q", h.where(bad))
	}
}

type deadly struct{ resolver }

func (d deadly) Resolve(ctx context.Context, s, a address.Address) (route.Result, error) {
	if a.Domain == "deadly.test" {
		panic("cannot stand this")
	}
	return d.resolver.Resolve(ctx, s, a)
}

// TestEndDies: a panic behind the last recipient, in the notice to the sender.
func TestEndDies(t *testing.T) {
	h := newHouse(t)
	h.agent = func(r *agent.Request) []agent.Result {
		return results(r, agent.Result{Err: dsn.New(550, "5.1.1", "no")})
	}
	h.conf.Bounce = bounce.New(bounce.Config{Hostname: "here.test", Now: h.clock}, func(context.Context, address.Address, bool) (bounce.Draft, error) {
		panic("no notice")
	})
	h.start()
	id := h.post("a@x.test", "b@far.test")
	h.m.Notice(id)
	h.wait(id + ": placed on hold")
	for end := time.Now().Add(30 * time.Second); h.where(id) != "hold" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if h.where(id) != "hold" {
		t.Errorf("is in %q", h.where(id))
	}
}

// TestFlushSite: only what waits for the site is tried, and one id alone if asked.
func TestFlushSite(t *testing.T) {
	h := newHouse(t)
	h.agent = func(r *agent.Request) []agent.Result {
		return results(r, agent.Result{Err: dsn.New(0, "4.4.1", "connect to it: Connection refused")})
	}
	h.start()
	var ids []string
	for _, to := range []string{"a@one.test", "b@two.test", "c@ONE.test"} {
		ids = append(ids, h.post("a@x.test", to))
		h.m.Notice(ids[len(ids)-1])
	}
	deferred := func(id string) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); h.where(id) != "deferred"; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s is in %q", id, h.where(id))
			}
		}
	}
	for _, id := range ids {
		deferred(id)
	}
	h.mu.Lock()
	h.got, h.agent = nil, nil
	h.mu.Unlock()
	h.m.FlushSite("one.test")
	h.wait(ids[0] + ": removed")
	h.wait(ids[2] + ": removed")
	if h.where(ids[1]) != "deferred" {
		t.Errorf("mail for another site is in %q", h.where(ids[1]))
	}
	h.m.TryNow(ids[1])
	h.wait(ids[1] + ": removed")
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.got) != 3 {
		t.Errorf("tried %v", h.got)
	}
}
