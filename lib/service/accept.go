package service

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"angarium/lib/ipc"
)

// stressTime is how long a line stays under stress after it was full, and how
// long master(8) waits before it says so again.
const stressTime = 1000 * time.Second

// line is what Run keeps about a Service: its free places.
type line struct {
	limit int

	mu     sync.Mutex
	free   *sync.Cond
	active int
	ending bool
	warned time.Time
	used   bool

	bound []bound
}

func newLine(limit int) *line {
	l := &line{limit: limit}
	l.free = sync.NewCond(&l.mu)
	return l
}

// take waits for a place. full: the line has none left now. warn: nobody was told lately.
// While the process drains, limits are not for the one client that was accepted already.
func (l *line) take() (full, warn bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.limit > 0 && l.active >= l.limit && !l.ending {
		l.free.Wait()
	}
	l.active++
	l.used = true
	full = l.limit > 0 && l.active >= l.limit
	if now := time.Now(); full && now.Sub(l.warned) > stressTime {
		l.warned, warn = now, true
	}
	return full, warn
}

func (l *line) give() {
	l.mu.Lock()
	l.active--
	l.mu.Unlock()
	l.free.Signal()
}

// open lets everyone in who waits.
func (l *line) open() {
	l.mu.Lock()
	l.ending = true
	l.mu.Unlock()
	l.free.Broadcast()
}

// wasUsed is for wake-up times with a question mark.
func (l *line) wasUsed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used
}

// bound is a listener and who it is for.
type bound struct {
	service *Service
	stream  net.Listener
	packets *net.UnixConn // or nil
	udp     *net.UDPConn  // or nil
	fifo    *os.File      // or nil
}

// listen makes Go listeners of the descriptors. It comes before the rights are
// dropped only because nothing afterwards should be able to fail.
func (k *child) listen() error {
	for _, s := range k.env.Services {
		for _, sock := range s.Sockets {
			syscall.CloseOnExec(sock.FD)
			if err := k.bind(s, sock); err != nil {
				return fmt.Errorf("%s: %w", sock.Addr, err)
			}
		}
	}
	return nil
}

func (k *child) bind(s *Service, sock ipc.Socket) error {
	f := os.NewFile(uintptr(sock.FD), sock.Addr)
	b := bound{service: s}
	switch sock.Network {
	case "fifo":
		b.fifo = f
		k.listeners = append(k.listeners, f)
		s.run.bound = append(s.run.bound, b)
		return nil
	case "unixgram", "udp4", "udp6":
		c, err := net.FilePacketConn(f)
		f.Close()
		if err != nil {
			return err
		}
		if u, ok := c.(*net.UnixConn); ok {
			b.packets = u
		} else {
			b.udp = c.(*net.UDPConn)
		}
		k.listeners = append(k.listeners, c)
	default:
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return err
		}
		b.stream = l
		k.listeners = append(k.listeners, l)
		if k.env.ByHand {
			k.env.Log.Infof("listening on %s", l.Addr())
		}
	}
	s.run.bound = append(s.run.bound, b)
	return nil
}

// serve starts a goroutine for each listener and each clock. Those that take
// something out of a socket count as sessions: a process that drains must not end
// between the taking and the serving, or a client is cut off and a line lost.
func (k *child) serve() {
	for _, s := range k.env.Services {
		if s.Dead != nil {
			go k.mourn(s)
			continue
		}
		for _, b := range s.run.bound {
			switch {
			case b.stream != nil:
				k.sessions.Go(func() { k.acceptLoop(s, b.stream) })
			case b.packets != nil:
				k.sessions.Go(func() { k.packetLoop(s, b.packets) })
			case b.udp != nil:
				k.sessions.Go(func() { k.udpLoop(s, b.udp) })
			case b.fifo != nil:
				go k.fifoLoop(s, b.fifo)
			}
		}
		if w, ok := k.handler.(Waker); ok && s.Wakeup > 0 {
			go k.clock(s, w)
		}
	}
}

// mourn tells of a dead line, again and again after service_throttle_time, as the
// process does that master starts anew for each such line of a real Postfix.
func (k *child) mourn(s *Service) {
	every := time.Minute
	if s.Conf != nil {
		every = max(s.Conf.Duration("service_throttle_time"), time.Second)
	}
	for {
		s.Log.Fatalf("%v", s.Dead)
		select {
		case <-k.accept.Done():
			return
		case <-time.After(every):
		}
	}
}

// acceptLoop takes clients one by one. The place is taken after the client, so
// that a line with two listeners doesn't reserve one for each; one client a listener
// may so be out of the backlog while it waits, which it can't tell.
func (k *child) acceptLoop(s *Service, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			// EINVAL: master has shut the listener down, to make room for another.
			if k.accept.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EINVAL) {
				return
			}
			// Out of descriptors, mostly. Clients stay in the backlog meanwhile.
			s.Log.Warnf("accept connection: %v", err)
			select {
			case <-k.accept.Done():
				return
			case <-time.After(time.Second):
			}
			continue
		}
		full, warn := s.run.take()
		if warn {
			k.warnFull(s)
		}
		k.sessions.Add(1)
		go k.session(s, conn, full)
	}
}

// warnFull says what master(8) says.
func (k *child) warnFull(s *Service) {
	log := s.Log
	if k.env.Main != nil {
		log = log.As(k.env.Main.String("syslog_name") + "/master")
	}
	log.Warnf("service \"%s\" (%s) has reached its process limit \"%d\": new clients may experience noticeable delays", s.Name, s.Sockets[0].Addr, s.Limit)
	log.Warnf("to avoid this condition, increase the process count in master.cf or reduce the service time per client")
	log.Warnf("see http://www.postfix.org/STRESS_README.html for examples of stress-adapting configuration settings")
}

// session runs one connection from accept to close.
func (k *child) session(s *Service, conn net.Conn, full bool) {
	log, done := s.Log.Session()
	k.active.Add(1)
	defer func() {
		if p := recover(); p != nil {
			logPanic(log, p)
		}
		conn.Close()
		k.mu.Lock()
		delete(k.conns, conn)
		k.mu.Unlock()
		done()
		k.active.Add(-1)
		s.run.give()
		k.sessions.Done()
	}()
	if s.Type == "pass" {
		passed, err := receiveConn(conn)
		if err != nil {
			log.Warnf("receive client connection: %v", err)
			return
		}
		conn.Close()
		conn = passed
	}
	k.mu.Lock()
	k.conns[conn] = struct{}{}
	k.mu.Unlock()
	k.handler.Serve(k.ctx, &Session{Service: s, Conn: conn, Log: log, Stress: full})
}

// receiveConn gets the client that another program (postscreen) passes on.
func receiveConn(c net.Conn) (net.Conn, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a unix socket")
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, files, err := ipc.ReceiveFiles(u, make([]byte, 1))
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		for _, f := range files {
			f.Close()
		}
		return nil, errors.New("no descriptor came along")
	}
	defer files[0].Close()
	return net.FileConn(files[0])
}

// maxPacket is the longest datagram we take.
const maxPacket = 64 << 10

// packetLoop reads datagrams until none is waiting, then lets the handler flush.
func (k *child) packetLoop(s *Service, c *net.UnixConn) {
	h, ok := k.handler.(PacketHandler)
	if !ok {
		return
	}
	flusher, _ := k.handler.(PacketFlusher)
	rc, err := c.SyscallConn()
	if err != nil {
		return
	}
	b := make([]byte, maxPacket)
	for {
		n, err := 0, error(nil)
		waited := false
		readErr := rc.Read(func(fd uintptr) bool {
			n, _, err = syscall.Recvfrom(int(fd), b, syscall.MSG_DONTWAIT)
			if err != syscall.EAGAIN {
				return true
			}
			if !waited && flusher != nil {
				flusher.FlushPackets()
			}
			waited = true
			return false
		})
		if readErr != nil {
			if flusher != nil {
				flusher.FlushPackets()
			}
			return
		}
		if err != nil {
			continue
		}
		k.packet(h, s, b[:n], nil)
	}
}

func (k *child) udpLoop(s *Service, c *net.UDPConn) {
	h, ok := k.handler.(PacketHandler)
	if !ok {
		return
	}
	b := make([]byte, maxPacket)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			if k.accept.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		k.packet(h, s, b[:n], from)
	}
}

// packet keeps a panic from ending the process.
func (k *child) packet(h PacketHandler, s *Service, b []byte, from net.Addr) {
	defer func() {
		if p := recover(); p != nil {
			logPanic(s.Log, p)
		}
	}()
	h.ServePacket(k.ctx, s, b, from)
}

func (k *child) fifoLoop(s *Service, f *os.File) {
	w, ok := k.handler.(Waker)
	if !ok {
		return
	}
	b := make([]byte, 4096)
	for {
		n, err := f.Read(b)
		if err != nil {
			return
		}
		k.wake(w, s, b[:n])
	}
}

// clock wakes a line up, the first time at once, as master(8) does.
func (k *child) clock(s *Service, w Waker) {
	tick := time.NewTicker(s.Wakeup)
	defer tick.Stop()
	for {
		if !s.WakeupUsed || s.run.wasUsed() {
			k.wake(w, s, []byte{'W'})
		}
		select {
		case <-k.accept.Done():
			return
		case <-tick.C:
		}
	}
}

func (k *child) wake(w Waker, s *Service, request []byte) {
	defer func() {
		if p := recover(); p != nil {
			logPanic(s.Log, p)
		}
	}()
	w.Wake(k.ctx, s, request)
}
