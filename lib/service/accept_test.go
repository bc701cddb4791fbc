package service

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"angarium/lib/maillog"
)

// mind panics for clients that say so, and echoes a line for the others.
type mind struct{}

func (mind) Serve(_ context.Context, s *Session) {
	b := make([]byte, 8)
	n, _ := s.Conn.Read(b)
	if string(b[:n]) == "panic" {
		panic("out of its mind")
	}
	s.Log.Infof("served %s", b[:n])
	_, _ = s.Conn.Write(b[:n])
}

type numbered struct {
	mu    sync.Mutex
	lines map[int64][]string
}

func (l *numbered) Log(_ time.Time, _ maillog.Priority, _ string, num int64, text string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines[num] = append(l.lines[num], text)
	return nil
}

// TestPanicEndsOneSession: the others go on, the place is given back, and the log
// has the stack under the number of the session that died.
func TestPanicEndsOneSession(t *testing.T) {
	sink := &numbered{lines: map[int64][]string{}}
	k := &child{handler: mind{}, conns: map[net.Conn]struct{}{}, ctx: context.Background()}
	s := &Service{Log: maillog.New(sink, "cyrus/imap"), run: newLine(2)}
	dial := func() (client net.Conn, ended chan struct{}) {
		client, server := net.Pipe()
		s.run.take()
		k.sessions.Add(1)
		ended = make(chan struct{})
		go func() { k.session(s, server, false); close(ended) }()
		return client, ended
	}
	good, goodEnd := dial()
	bad, badEnd := dial()
	if _, err := bad.Write([]byte("panic")); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(bad); len(b) > 0 || err != nil {
		t.Errorf("the one that panicked said %q, %v", b, err)
	}
	<-badEnd
	next, nextEnd := dial() // the limit is two: there is a place again
	for _, c := range []net.Conn{good, next} {
		_, _ = c.Write([]byte("hello"))
		if b, _ := io.ReadAll(c); string(b) != "hello" {
			t.Errorf("another session got %q", b)
		}
	}
	<-goodEnd
	<-nextEnd
	if n := k.active.Load(); n != 0 || s.run.active != 0 || len(k.conns) != 0 {
		t.Errorf("%d active, %d places, %d connections", n, s.run.active, len(k.conns))
	}
	panics := 0
	for _, lines := range sink.lines {
		text := strings.Join(lines, "\n")
		if strings.Contains(text, "out of its mind") && strings.Contains(text, "mind.Serve") {
			panics++
		}
	}
	if panics != 1 {
		t.Errorf("%d sessions logged the panic: %v", panics, sink.lines)
	}
}
