package smtp

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"angarium/lib/smtp"
)

// session is a connection to one place.
type session struct {
	conn   net.Conn
	client *smtp.Client
	began  time.Time
	used   int // deliveries over it
	timer  *time.Timer

	verified bool // the server is known by its certificate
}

// quitTime is how long a farewell may take to be written.
const quitTime = 5 * time.Second

func (s *session) quit() {
	ctx, cancel := context.WithTimeout(context.Background(), quitTime)
	defer cancel()
	_ = s.client.Quit(ctx)
}

// alive tells whether the server still listens: a closed connection, or one on
// which it said something (421) unasked, is not for use.
func (s *session) alive() bool {
	sc, ok := s.conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN
	})
	return err == nil && quiet
}

// cache keeps idle connections for a short time, by address.
type cache struct {
	limit time.Duration

	mu     sync.Mutex
	idle   map[string][]*session
	closed bool
}

// take returns an idle connection to p, the one used last, or nil.
func (c *cache) take(p place) *session {
	for {
		c.mu.Lock()
		list := c.idle[p.key]
		if len(list) == 0 {
			c.mu.Unlock()
			return nil
		}
		s := list[len(list)-1]
		c.idle[p.key] = list[:len(list)-1]
		if len(list) == 1 {
			delete(c.idle, p.key)
		}
		c.mu.Unlock()
		if s.timer.Stop() && s.alive() {
			return s
		}
		s.client.Close()
	}
}

func (c *cache) put(p place, s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		go s.quit()
		return
	}
	c.idle[p.key] = append(c.idle[p.key], s)
	s.timer = time.AfterFunc(c.limit, func() {
		if c.drop(p, s) {
			s.quit()
		}
	})
}

// drop takes s out, if it is still there.
func (c *cache) drop(p place, s *session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.idle[p.key]
	for i, x := range list {
		if x == s {
			if c.idle[p.key] = append(list[:i], list[i+1:]...); len(list) == 1 {
				delete(c.idle, p.key)
			}
			return true
		}
	}
	return false
}

func (c *cache) close() {
	c.mu.Lock()
	c.closed = true
	idle := c.idle
	c.idle = map[string][]*session{}
	c.mu.Unlock()
	for _, list := range idle {
		for _, s := range list {
			s.timer.Stop()
			s.quit()
		}
	}
}
