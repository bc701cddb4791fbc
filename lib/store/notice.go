package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Rule 11: whoever changes a mailbox tells the watchers of this process, and the
// other processes that have any. Each of those has a datagram socket below
// <configdirectory>/socket/notice. A writer only marks the mailbox in a map; one
// goroutine for each peer sends what is marked and may wait, so that bursts
// coalesce and no delivery waits. A notice is a hint: it may be lost, and a
// watched mailbox is looked at every 15 seconds.

const (
	noticeDir  = "socket/notice"
	noticeSize = 8 << 10 // of a datagram
)

// hub brings notices to watchers.
type hub struct {
	s   *Store
	dir string
	fd  int // of dir

	mu       sync.Mutex
	watchers map[*watcher]struct{}
	byID     map[ID]map[*watcher]struct{}
	sock     *net.UnixConn
	name     string
	polled   time.Time

	senders sync.WaitGroup

	pmu   sync.Mutex
	peers map[string]*peer
	seen  int64 // dir's mtime when peers was made
}

// peer is another process that watches.
type peer struct {
	mu      sync.Mutex
	marked  map[ID]NoticeKind
	running bool
}

func newHub(s *Store) (*hub, error) {
	h := &hub{s: s, dir: filepath.Join(s.conf.ConfigDirectory, noticeDir)}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, err
	}
	fd, err := openat(unix.AT_FDCWD, h.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	h.fd = fd
	h.watchers = map[*watcher]struct{}{}
	h.byID = map[ID]map[*watcher]struct{}{}
	h.peers = map[string]*peer{}
	return h, nil
}

// tell is called after each change.
func (s *Store) tell(id ID, kind NoticeKind) {
	s.hub.local(id, kind)
	s.hub.remote(id, kind)
}

func (h *hub) local(id ID, kind NoticeKind) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.byID[id] {
		w.mark(id, kind)
	}
	if kind&List != 0 { // a new name is nobody's yet
		for w := range h.watchers {
			w.mark(id, kind)
		}
	}
}

func (h *hub) remote(id ID, kind NoticeKind) {
	for name, p := range h.others() {
		p.mu.Lock()
		p.marked[id] |= kind
		if !p.running {
			p.running = true
			h.senders.Go(func() { h.send(name, p) })
		}
		p.mu.Unlock()
	}
}

// others are the peers, listed again when the folder changed.
func (h *hub) others() map[string]*peer {
	h.pmu.Lock()
	defer h.pmu.Unlock()
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil || mtime(&st) == h.seen {
		return h.peers
	}
	names, err := listNames(h.fd, ".")
	if err != nil {
		return h.peers
	}
	h.mu.Lock()
	own := h.name
	h.mu.Unlock()
	peers := map[string]*peer{} // a new map: senders may walk the old one
	for _, n := range names {
		if p := h.peers[n]; p != nil {
			peers[n] = p
		} else if n != own {
			peers[n] = &peer{marked: map[ID]NoticeKind{}}
		}
	}
	h.peers, h.seen = peers, mtime(&st)
	return peers
}

// address is a short way to a socket: an address holds 108 bytes only.
func (h *hub) address(name string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unixgram", Name: fmt.Sprintf("/proc/self/fd/%d/%s", h.fd, name)}
}

// send sends what is marked for p until nothing is.
func (h *hub) send(name string, p *peer) {
	conn, err := net.DialUnix("unixgram", nil, h.address(name))
	if err == nil {
		defer conn.Close()
	}
	for {
		p.mu.Lock()
		var b []byte
		for id, kind := range p.marked {
			if len(b)+len(id)+8 > noticeSize {
				break
			}
			b = fmt.Appendf(b, "%d %s\n", kind, id)
			delete(p.marked, id)
		}
		if len(b) == 0 || err != nil {
			clear(p.marked)
			p.running = false
			p.mu.Unlock()
			if errors.Is(err, unix.ECONNREFUSED) { // its process died
				_ = unix.Unlinkat(h.fd, name, 0)
			}
			return
		}
		p.mu.Unlock()
		_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
		_, err = conn.Write(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil // it is stopped, or very busy: it will look for itself
		}
	}
}

// listen opens our socket, when the first watcher comes. h.mu is held.
func (h *hub) listen() error {
	if h.sock != nil {
		return nil
	}
	name := fmt.Sprintf("%d.%s", os.Getpid(), h.s.nonce)
	conn, err := net.ListenUnixgram("unixgram", h.address(name))
	if err != nil {
		return err
	}
	h.sock, h.name = conn, name
	go h.receive(conn)
	return nil
}

func (h *hub) receive(conn *net.UnixConn) {
	b := make([]byte, noticeSize)
	for {
		n, _, err := conn.ReadFromUnix(b)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(b[:n])) {
			num, id, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if kind, err := strconv.ParseUint(num, 10, 8); ok && err == nil {
				h.local(ID(id), NoticeKind(kind))
			}
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	if h.sock != nil {
		h.sock.Close()
		_ = unix.Unlinkat(h.fd, h.name, 0)
		h.sock = nil
	}
	h.mu.Unlock()
	go func() { // senders may still use the descriptor, and wait for a peer
		h.senders.Wait()
		unix.Close(h.fd)
	}()
}

// watcher is one session's.
type watcher struct {
	h     *hub
	ready chan struct{}

	mu     sync.Mutex // after hub.mu
	ids    []ID
	marked map[ID]NoticeKind
}

var _ Watcher = (*watcher)(nil)

// Watch returns a Watcher of nothing yet; List notices come to every one.
func (s *Store) Watch() Watcher {
	w := &watcher{h: s.hub, ready: make(chan struct{}, 1), marked: map[ID]NoticeKind{}}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.hub.watchers[w] = struct{}{}
	if err := s.hub.listen(); err != nil {
		s.conf.Log.Warnf("no notices from other processes: %v", err)
	}
	return w
}

func (w *watcher) Watch(ids ...ID) {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	w.forget()
	w.ids = ids
	for _, id := range ids {
		if w.h.byID[id] == nil {
			w.h.byID[id] = map[*watcher]struct{}{}
		}
		w.h.byID[id][w] = struct{}{}
	}
}

// forget is called with hub.mu held.
func (w *watcher) forget() {
	for _, id := range w.ids {
		if delete(w.h.byID[id], w); len(w.h.byID[id]) == 0 {
			delete(w.h.byID, id)
		}
	}
	w.ids = nil
}

func (w *watcher) mark(id ID, kind NoticeKind) {
	w.mu.Lock()
	w.marked[id] |= kind
	w.mu.Unlock()
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (w *watcher) Ready() <-chan struct{} { return w.ready }

func (w *watcher) Take() []Notice {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]Notice, 0, len(w.marked))
	for id, kind := range w.marked {
		out = append(out, Notice{id, kind})
	}
	clear(w.marked)
	return out
}

func (w *watcher) Close() error {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	w.forget()
	delete(w.h.watchers, w)
	return nil
}

// pollWatched looks at each watched mailbox every 15 seconds: notices are lost,
// and foreign hands send none.
func (s *Store) pollWatched(ctx context.Context) {
	h := s.hub
	now := s.now()
	h.mu.Lock()
	if d := now.Sub(h.polled); d >= 0 && d < pollEvery {
		h.mu.Unlock()
		return
	}
	h.polled = now
	ids := make([]ID, 0, len(h.byID))
	for id := range h.byID {
		ids = append(ids, id)
	}
	h.mu.Unlock()
	for _, id := range ids {
		s.mu.Lock()
		b := s.boxes[id]
		if b != nil {
			b.refs++
		}
		s.mu.Unlock()
		if b == nil {
			continue
		}
		was := b.state.Load()
		b.lookSoon()
		v, err := b.view(ctx)
		if errors.Is(err, ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			h.local(id, List)
		} else if err == nil && was != nil && was.view != v {
			h.local(id, Messages)
		}
		s.putBox(b)
	}
}
