package qmgr

import (
	"errors"
	"fmt"
	"runtime/debug"

	"angarium/lib/queue"
)

// errDied is a panic that was caught.
var errDied = errors.New("died")

// guard runs f for a message. A panic ends f, not the process: all other mail
// has nothing to do with it.
//
// What can't be caught (memory gone, a fault of the runtime) kills the process,
// and master starts another. That is counted for no message: hundreds may be on
// their way at such a moment, and a SIGKILL looks the same to whoever comes next.
func (m *Manager) guard(id string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m.died1(id, p)
			err = fmt.Errorf("%w: %v", errDied, p)
		}
	}()
	return f()
}

// died1 logs a panic and counts it for the message.
func (m *Manager) died1(id string, p any) {
	m.c.Log.Panicf("%s: %v\n%s", id, p, debug.Stack())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.died[id]++
}

func (m *Manager) deaths(id string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.died[id]
}

// hold puts a message aside for a person.
func (m *Manager) hold(id string, from queue.Dir) {
	m.c.Log.Warnf("%s: placed on hold: working on it died", id)
	if err := m.c.Queue.Move(id, from, queue.Hold); err != nil && !isGone(err) {
		m.c.Log.Warnf("%s: %v", id, err)
	}
}
