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

// slowListener has taken a client out of the backlog when it is closed.
type slowListener struct {
	client net.Conn
	closed chan struct{}
	taken  chan struct{}
}

func (l *slowListener) Accept() (net.Conn, error) {
	<-l.closed
	if c := l.client; c != nil {
		l.client = nil
		<-l.taken
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l *slowListener) Close() error   { close(l.closed); return nil }
func (l *slowListener) Addr() net.Addr { return &net.UnixAddr{} }

// TestDrainServesWhoWasTaken: a client that left the backlog just when the process
// was told to take no more is served; the process must not end before.
func TestDrainServesWhoWasTaken(t *testing.T) {
	client, server := net.Pipe()
	l := &slowListener{server, make(chan struct{}), make(chan struct{})}
	s := &Service{Log: maillog.New(&numbered{lines: map[int64][]string{}}, "cyrus/imap"), run: newLine(0)}
	s.run.bound = []bound{{service: s, stream: l}}
	k := &child{handler: mind{}, conns: map[net.Conn]struct{}{}, ctx: context.Background(), env: &Env{Services: []*Service{s}},
		drain: make(chan struct{}), listeners: []listener{l}}
	k.end = func() {}
	k.accept, k.stopTake = context.WithCancel(k.ctx)
	k.serve()
	ended := make(chan error, 1)
	go func() { ended <- k.wait(nil, nil) }()
	close(k.drain)
	<-l.closed
	select {
	case <-ended:
		t.Fatal("the process ended with a client in its hands")
	case <-time.After(50 * time.Millisecond): // as far as a process gets that does not wait
	}
	close(l.taken)
	_ = client.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(client); string(b) != "hello" || err != nil {
		t.Errorf("answer %q, %v", b, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
