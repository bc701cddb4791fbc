package qmgr

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"angarium/lib/agent"
	"angarium/lib/queue"
)

var errGone = fs.ErrNotExist

// candidate is a message to be made active.
type candidate struct {
	dir queue.Dir
	id  string
	new bool // announced by its maker: it can't have logs yet
}

// feed makes announced messages active, one after the other, while there is
// room. Several feeders run, so that one slow table does not stop all.
func (m *Manager) feed(ctx context.Context) {
	for {
		m.mu.Lock()
		for !m.draining && len(m.notices) > 0 && m.room() {
			next := m.notices[0]
			m.notices = m.notices[1:]
			if len(m.notices) == 0 {
				m.notices = nil
			}
			m.feeding++
			more := len(m.notices) > 0
			m.mu.Unlock()
			if more {
				m.poke() // another feeder may help
			}
			m.activate(ctx, next)
			m.mu.Lock()
			m.feeding--
		}
		stop := m.draining
		m.mu.Unlock()
		if stop {
			return
		}
		select {
		case <-m.wake:
		case <-m.drain:
			return
		}
	}
}

// room reports whether another message fits into the active queue.
func (m *Manager) room() bool { return len(m.active)+m.feeding < m.c.ActiveLimit }

// scanner looks through some of the directories when asked to.
func (m *Manager) scanner(ctx context.Context, mine scanFlags, scan func(context.Context, scanFlags)) {
	for {
		m.mu.Lock()
		for m.wantScan&mine == 0 && !m.draining {
			m.cond.Wait()
		}
		want := m.wantScan & mine
		m.wantScan &^= mine
		stop := m.draining
		m.mu.Unlock()
		if stop {
			return
		}
		scan(ctx, want)
	}
}

// scan goes through incoming and deferred in turns, one message of each, so
// that a large backlog of old mail does not hold up what is new, or the other
// way round.
func (m *Manager) scan(ctx context.Context, want scanFlags) {
	var sources []*source
	if want&scanIncoming != 0 {
		sources = append(sources, m.source(queue.Incoming, want&flushDeferred != 0))
	}
	if want&scanDeferred != 0 {
		sources = append(sources, m.source(queue.Deferred, want&flushDeferred != 0))
	}
	for _, s := range sources {
		defer s.stop()
	}
	for len(sources) > 0 {
		for i := 0; i < len(sources); i++ {
			if !m.waitRoom() {
				return
			}
			id, ok := sources[i].next()
			if !ok {
				sources = append(sources[:i], sources[i+1:]...)
				i--
				continue
			}
			m.activate(ctx, candidate{dir: sources[i].dir, id: id})
			m.mu.Lock()
			m.feeding--
			m.mu.Unlock()
		}
	}
}

// waitRoom waits until the active queue takes another message and reserves the
// place; false: we are ending.
func (m *Manager) waitRoom() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for !m.room() && !m.draining {
		m.cond.Wait()
	}
	if m.draining {
		return false
	}
	m.feeding++
	return true
}

// activate opens a message, takes it into the active queue, resolves its first
// recipients and lets deliveries begin.
func (m *Manager) activate(ctx context.Context, c candidate) {
	m.mu.Lock()
	if other, busy := m.active[c.id]; busy {
		loaded := other.loaded
		m.mu.Unlock()
		if _, err := m.c.Queue.Stat(c.dir, c.id); err == nil && loaded {
			m.c.Log.Warnf("%s: skipped, still being delivered", c.id)
		}
		return
	}
	msg := &message{m: m, id: c.id, active: m.c.Now(), pending: 1, logs: !c.new}
	m.active[c.id] = msg
	m.mu.Unlock()
	err := m.guard(c.id, func() error { return msg.load(c.dir) })
	if err == nil {
		msg.begin(ctx)
		return
	}
	m.mu.Lock()
	delete(m.active, c.id)
	m.mu.Unlock()
	switch {
	case errors.Is(err, errSkip), isGone(err):
	case errors.Is(err, errDied): // reading it is what kills
		dir, _ := m.c.Queue.Find(c.id, queue.Active, c.dir)
		m.hold(c.id, dir)
	case errors.Is(err, queue.ErrFormat):
		m.c.Log.Warnf("saving corrupt file \"%s\" from queue \"%s\" to queue \"%s\": %v", c.id, c.dir, queue.Corrupt, err)
		if err := m.c.Queue.Move(c.id, c.dir, queue.Corrupt); err != nil && !isGone(err) {
			m.c.Log.Warnf("%s: move to corrupt: %v", c.id, err)
		}
	default:
		m.c.Log.Warnf("%s: %v", c.id, err)
	}
}

// errSkip is a file that is not for us now.
var errSkip = errors.New("not now")

// source reads ids from a directory, as far as they are due.
type source struct {
	dir  queue.Dir
	next func() (string, bool)
	stop func()
}

func (m *Manager) source(dir queue.Dir, all bool) *source {
	next, stop := pull(m.c.Queue.Scan(dir))
	now := m.c.Now()
	return &source{dir: dir, stop: stop, next: func() (string, bool) {
		for {
			id, err, ok := next()
			if !ok {
				return "", false
			}
			if err != nil {
				m.c.Log.Warnf("scan %s: %v", dir, err)
				return "", false
			}
			if all && dir == queue.Deferred {
				return id, true
			}
			st, err := m.c.Queue.Stat(dir, id)
			if err == nil && st.Complete() && (all || !st.ModTime.After(now.Add(time.Second))) {
				return id, true
			}
		}
	}}
}

func (m *Manager) scanMaildrop(ctx context.Context, _ scanFlags) {
	if m.c.Pickup == nil {
		return
	}
	for id, err := range m.c.Queue.Scan(queue.Maildrop) {
		if err != nil {
			m.c.Log.Warnf("scan maildrop: %v", err)
			return
		}
		m.mu.Lock()
		stop := m.draining
		m.mu.Unlock()
		if stop {
			return
		}
		err = m.guard(id, func() error { return m.c.Pickup(ctx, id) })
		if err != nil && !isGone(err) {
			m.c.Log.Warnf("maildrop/%s: %v", id, err)
		}
		if errors.Is(err, errDied) && m.deaths(id) > 1 {
			_ = m.c.Queue.Move(id, queue.Maildrop, queue.Corrupt)
		}
	}
}

// TryNow tries a message at once, wherever it waits: postqueue -i.
func (m *Manager) TryNow(id string) {
	dir, ok := m.c.Queue.Find(id, queue.Deferred, queue.Incoming)
	if !ok {
		return
	}
	if err := m.c.Queue.SetTry(dir, id, m.c.Now()); err != nil {
		return
	}
	m.mu.Lock()
	for _, t := range m.transports {
		t.revive()
	}
	m.notices = append(m.notices, candidate{dir: dir, id: id})
	m.mu.Unlock()
	m.poke()
}

// maxSites bounds the sites that wait for a flush: more of them cost a scan each,
// and strangers may ask (ETRN).
const maxSites = 100

// FlushSite tries the deferred messages that have a recipient at a domain, due or
// not: ETRN, postqueue -s. It does not wait for them.
func (m *Manager) FlushSite(domain string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Contains(m.sites, domain) || len(m.sites) >= maxSites || m.draining {
		return
	}
	m.sites = append(m.sites, domain)
	if len(m.sites) == 1 {
		m.jobs.Add(1)
		go m.flushSites()
	}
}

func (m *Manager) flushSites() {
	defer m.jobs.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.sites) > 0 && !m.draining {
		site := m.sites[0]
		for _, t := range m.transports {
			t.revive()
		}
		m.mu.Unlock()
		m.flushSite(site)
		m.mu.Lock()
		m.sites = m.sites[1:]
	}
	m.sites = nil
}

func (m *Manager) flushSite(site string) {
	for id, err := range m.c.Queue.Scan(queue.Deferred) {
		if err != nil {
			m.c.Log.Warnf("scan deferred: %v", err)
			return
		}
		wanted := false
		_ = m.guard(id, func() error { wanted = m.waitsFor(id, site); return nil })
		if !wanted || m.c.Queue.SetTry(queue.Deferred, id, m.c.Now()) != nil {
			continue
		}
		m.mu.Lock()
		stop := m.draining
		m.notices = append(m.notices, candidate{dir: queue.Deferred, id: id})
		m.mu.Unlock()
		if stop {
			return
		}
		m.poke()
	}
}

// waitsFor reports whether a deferred message has a recipient at a domain.
func (m *Manager) waitsFor(id, site string) bool {
	f, err := m.c.Queue.OpenMessage(queue.Deferred, id)
	if err != nil {
		return false
	}
	defer f.Close()
	for from := int64(0); from >= 0; {
		var list []agent.Recipient
		if list, from, err = f.Recipients(from, m.c.Chunk); err != nil {
			return false
		}
		for i := range list {
			if strings.EqualFold(list[i].Address.Domain, site) {
				return true
			}
		}
	}
	return false
}
