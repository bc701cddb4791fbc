package qmgr

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"angarium/lib/agent"
)

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// TestSlowSiteInList: recipients at a site that does not answer stand in front of
// the others of a list, and are more than are in memory at a time.
func TestSlowSiteInList(t *testing.T) {
	h := newHouse(t)
	h.conf.Chunk, h.conf.RefillDelay = 100, time.Millisecond
	release := make(chan struct{})
	var fast atomic.Int32
	h.agent = func(r *agent.Request) []agent.Result {
		if r.NextHop == "slow.test" {
			<-release
		} else {
			fast.Add(int32(len(r.Recipients)))
		}
		return nil
	}
	var to []string
	for n := range 1000 {
		to = append(to, fmt.Sprintf("u%d@slow.test", n))
	}
	for n := range 300 {
		to = append(to, fmt.Sprintf("u%d@fast.test", n))
	}
	h.start()
	id := h.post("a@x.test", to...)
	h.m.Notice(id)
	until(t, "delivery of all others", func() bool { return fast.Load() == 300 })
	close(release)
	h.wait(id + ": removed")
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.got) != len(to) {
		t.Errorf("%d deliveries of %d", len(h.got), len(to))
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if h.m.recipients != 0 {
		t.Errorf("%d recipients are still counted", h.m.recipients)
	}
}

// TestRecipientLimit: however long the lists, only so many recipients are in memory.
func TestRecipientLimit(t *testing.T) {
	h := newHouse(t)
	h.conf.Chunk, h.conf.Recipients, h.conf.MinRecipients, h.conf.RefillDelay = 100, 150, 2, time.Millisecond
	h.conf.Feeders = 1
	most := 0
	h.agent = func(r *agent.Request) []agent.Result {
		h.m.mu.Lock()
		defer h.m.mu.Unlock()
		most = max(most, h.m.recipients)
		return nil
	}
	var ids []string
	for m := range 10 {
		var to []string
		for n := range 400 {
			to = append(to, fmt.Sprintf("u%d@s%d.test", n, (m+n)%7))
		}
		ids = append(ids, h.post("a@x.test", to...))
	}
	h.start()
	for _, id := range ids {
		h.wait(id + ": removed")
	}
	if limit := 150 + 10*100; most > limit || most < 100 {
		t.Errorf("%d recipients in memory", most)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.got) != 4000 {
		t.Errorf("%d deliveries", len(h.got))
	}
}

// TestHugeList: one letter to the site of a list, or to one of many users here,
// does not wait for the list.
func TestHugeList(t *testing.T) {
	for _, c := range []struct{ name, domain string }{{"one site", "far.test"}, {"many destinations", "here.test"}} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			begun, release := make(chan struct{}, 1), make(chan struct{})
			var count, at atomic.Int32
			h.agent = func(r *agent.Request) []agent.Result {
				select {
				case begun <- struct{}{}:
				default:
				}
				<-release
				n := count.Add(1)
				if strings.HasPrefix(r.Recipients[0].Address.Local, "small") {
					at.Store(n)
				}
				return nil
			}
			for _, tr := range h.conf.Transports {
				tr.Limit, tr.Concurrency, tr.Recipients = 1, 1, min(tr.Recipients, 2)
			}
			h.start()
			var to []string
			for n := range 400 {
				to = append(to, fmt.Sprintf("u%d@%s", n, c.domain))
			}
			list := h.post("a@x.test", to...)
			h.m.Notice(list)
			<-begun
			small := h.post("a@x.test", "small@"+c.domain)
			h.m.Notice(small)
			h.wait(small + ": from=")
			until(t, "entry that waits", func() bool {
				h.m.mu.Lock()
				defer h.m.mu.Unlock()
				g := h.m.active[small]
				return g != nil && g.held > 0
			})
			close(release)
			h.wait(small + ": removed")
			h.wait(list + ": removed")
			if n := at.Load(); n < 1 || n > 5 {
				t.Errorf("it was delivery %d: %q", n, h.got[:min(len(h.got), 30)])
			}
		})
	}
}
