package qmgr

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"angarium/lib/agent"
)

// TestTransportGone: a transport that can't be reached is left alone for
// transport_retry_time, and its mail deferred; then it is tried again.
func TestTransportGone(t *testing.T) {
	h := newHouse(t)
	h.conf.TransportRetry = time.Minute
	h.agent = func(r *agent.Request) []agent.Result {
		return results(r, agent.Result{Err: fmt.Errorf("%w: %w", agent.ErrNoTransport, unavailable()), Relay: "none"})
	}
	h.start()
	tries := func() int { h.mu.Lock(); defer h.mu.Unlock(); return len(h.got) }
	for i := range 3 {
		if i == 2 {
			h.advance(time.Minute + time.Second)
		}
		to := fmt.Sprintf("r%d@far.test", i)
		h.m.Notice(h.post("a@x.test", to))
		if l := h.wait("to=<" + to + ">"); !strings.Contains(l, "postfix/error: ") || !strings.Contains(l, "status=deferred (mail transport unavailable)") {
			t.Errorf("%d: %s", i, l)
		}
		if got, want := tries(), []int{1, 1, 2}[i]; got != want {
			t.Errorf("message %d: %d tries, want %d", i, got, want)
		}
	}
}

// TestClog: mail for one site that fills the active queue is told of, once.
func TestClog(t *testing.T) {
	h := newHouse(t)
	h.conf.ActiveLimit, h.conf.ClogWarn = 50, 5*time.Minute
	h.conf.Transports["smtp"].Concurrency = 2
	stop := make(chan struct{})
	h.conf.Transports["smtp"].Agent = func(_ context.Context, r *agent.Request) []agent.Result {
		<-stop
		return results(r, agent.Result{Relay: "none", Text: "250 2.0.0 Ok"})
	}
	for range 20 {
		h.post("a@x.test", "b@slow.test")
	}
	h.start()
	h.wait("mail for slow.test is using up 11 of ")
	h.wait("you may need to increase the main.cf smtp_destination_concurrency_limit from 2")
	h.wait("to turn off these warnings specify: qmgr_clog_warn_time = 0")
	close(stop)
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	n := 0
	for _, l := range h.log.lines {
		if strings.Contains(l, "is using up") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d warnings", n)
	}
}
