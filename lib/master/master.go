// Package master is the parent: it opens the listeners, starts the processes of a
// plan, keeps them alive, and replaces them on reload without a client noticing.
//
// What it promises:
//
//   - A listener stays open from start to stop, whatever happens to the process
//     behind it: clients wait in the backlog, they are never refused.
//   - A child that dies at its start is throttled; one that dies later is started
//     again at once.
//   - Reload reads the configuration first; if that fails, all stays as it was. Each
//     process then gets a successor on the same listeners, and only when that one
//     reports ready is the old one told to take nothing new. A successor that does
//     not come up leaves the old one in its place.
//   - Stop ends the processes together, the one that writes the log last.
//
// All state belongs to one goroutine (loop); everything else sends it events. It
// does not know what the programs do, and of the configuration only what the two
// personalities (postfix.go, cyrus.go) make of it. As it runs as root, it parses
// nothing that a stranger wrote.
package master

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/ipc"
	"angarium/lib/maillog"
	"angarium/lib/plan"
)

// StopTime is how long the children may take to end; then they are killed.
const StopTime = 5 * time.Second

// successorTime is how long a successor may take to report ready.
const successorTime = 60 * time.Second

// Setup is one reading of the configuration.
type Setup struct {
	Plan     *plan.Plan
	Environ  []string            // of the children
	Throttle time.Duration       // service_throttle_time
	LogLast  string              // program that writes the log: first to start, last to end
	MayOpen  func(string) bool   // may a child have this file as a descriptor?
	Jobs     []Job               // commands by the clock
	Keepers  []Keeper            // commands that are kept alive
	Cred     *syscall.Credential // of Jobs and Keepers; nil: ours
}

// Config is what a Master needs to begin.
type Config struct {
	Log *maillog.Logger
	// Load reads the configuration; at the start, and again at each reload.
	Load func(ctx context.Context) (*Setup, error)
	// Started and Reloaded say so in the log; either may be nil.
	Started, Reloaded func()
	// BindFatal: a listener that can't be opened at the start ends the start.
	BindFatal bool
	Cyrus     bool // whose words to use
}

// Master runs one set-up.
type Master struct {
	Config
	setup   *Setup
	sockets map[string]int  // Address.Key -> descriptor
	owned   map[string]bool // paths to remove at the end
	groups  map[string]*group
	byPID   map[int]*child
	jobs    jobs
	events  chan func()
	epoll   int
	knocks  map[int]*group // descriptors watched for a first client
	missing map[string]bool
	noted   map[string]bool
	started bool
	early   []string // warnings from before the start
	ending  bool
}

// group is one process of the plan over time: the one that serves, the successor
// that is coming up, and those that still have sessions.
type group struct {
	key       string
	proc      *plan.Process
	current   *child
	next      *child
	throttled bool
	quick     int // deaths in a row that came soon after the start
	watched   []int
}

// child is one running process.
type child struct {
	pid     int
	path    string
	group   *group
	control *net.UnixConn
	started time.Time
	ready   bool
	stopped bool // we told it to end
}

// New makes a Master and opens its listeners. Nothing runs yet.
func New(ctx context.Context, c Config) (*Master, error) {
	m := &Master{
		Config:  c,
		sockets: map[string]int{},
		owned:   map[string]bool{},
		groups:  map[string]*group{},
		byPID:   map[int]*child{},
		knocks:  map[int]*group{},
		missing: map[string]bool{},
		noted:   map[string]bool{},
		events:  make(chan func(), 64),
	}
	s, err := c.Load(ctx)
	if err != nil {
		return nil, err
	}
	if m.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create", err)
	}
	m.setup = s
	if err := m.openSockets(s.Plan, c.BindFatal); err != nil {
		return nil, err
	}
	return m, nil
}

// Run keeps the set-up alive until ctx ends or a signal says so: SIGTERM and SIGINT
// stop, SIGHUP reloads.
func (m *Master) Run(ctx context.Context, signals <-chan os.Signal) error {
	if m.Started != nil {
		m.Started()
	}
	m.started = true
	for _, text := range m.early {
		m.Log.Warnf("%s", text)
	}
	m.early = nil
	running, ended := context.WithCancel(context.WithoutCancel(ctx))
	defer ended()
	go m.reap(running) // to the end of stop, which waits for the children
	go m.listenForKnocks()
	m.apply(m.setup)
	for {
		select {
		case <-ctx.Done():
			m.stop()
			return ctx.Err()
		case f := <-m.events:
			f()
		case s := <-signals:
			switch s {
			case syscall.SIGHUP:
				m.reload(ctx)
			case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
				if m.Cyrus {
					m.Log.Infof("attempting clean shutdown on signal")
				} else {
					m.Log.Infof("terminating on signal %d", s)
				}
				m.stop()
				return nil
			}
		}
	}
}

// warn logs a warning, but not before the line that says that we have started.
func (m *Master) warn(format string, args ...any) {
	if !m.started {
		m.early = append(m.early, fmt.Sprintf(format, args...))
		return
	}
	m.Log.Warnf(format, args...)
}

// note logs what the plan has to say, each text once.
func (m *Master) note(p *plan.Plan) {
	for _, n := range p.Notes {
		if !m.noted[n] {
			m.noted[n] = true
			m.warn("%s", n)
		}
	}
}

// leaveOut takes processes out of the plan whose program this tree doesn't have. Each
// is reported once; nobody listens for them, so that clients are refused.
func (m *Master) leaveOut(p *plan.Plan) {
	p.Processes = slices.DeleteFunc(p.Processes, func(proc *plan.Process) bool {
		_, err := os.Stat(proc.Path)
		if err == nil {
			delete(m.missing, proc.Path)
			return false
		}
		if !m.missing[proc.Path] {
			m.missing[proc.Path] = true
			m.warn("%s: %s -- services skipped: %s", proc.Path, maillog.Reason(err), lineNames(proc))
		}
		return true
	})
}

// openSockets opens what isn't open, and leaves out of the plan what can't be.
func (m *Master) openSockets(p *plan.Plan, fatal bool) error {
	m.note(p)
	m.leaveOut(p)
	for _, proc := range p.Processes {
		for i := range proc.Lines {
			l := &proc.Lines[i]
			var open []ipc.Socket
			for _, s := range l.Sockets {
				fd, ok := m.sockets[s.Key()]
				if !ok {
					var err error
					if fd, err = ipc.Listen(s.Address); err != nil {
						if fatal {
							return bindError(s, err)
						}
						m.warn("service %s: %v", l.Name, bindError(s, err))
						continue
					}
					m.sockets[s.Key()] = fd
					if s.Path() {
						m.owned[s.Addr] = true
					}
				}
				s.FD = fd
				open = append(open, s)
			}
			l.Sockets = open
		}
	}
	return nil
}

// bindError words a failure as Postfix does: "bind 127.0.0.1 port 25: Address already in use".
func bindError(s ipc.Socket, err error) error {
	if !s.Path() {
		host, port, _ := net.SplitHostPort(s.Addr)
		return fmt.Errorf("bind %s port %s: %s", host, port, maillog.Reason(err))
	}
	return fmt.Errorf("bind: %s: %s", s.Addr, maillog.Reason(err))
}

// makeRoom shuts down old listeners that are in the way of the new plan's: 0.0.0.0:25
// and 127.0.0.1:25 can't both be bound. To close our descriptor would not do, as the
// process that serves it holds it, too, until its successor is there.
func (m *Master) makeRoom(p *plan.Plan) {
	wanted := addresses(p)
	for key, fd := range m.sockets {
		network, addr, _ := strings.Cut(key, " ")
		old, err := netip.ParseAddrPort(addr)
		if err != nil || wanted[key] {
			continue
		}
		for other := range wanted {
			rest, same := strings.CutPrefix(other, network+" ")
			addr, err := netip.ParseAddrPort(rest)
			if same && err == nil && addr.Port() == old.Port() && (addr.Addr().IsUnspecified() || old.Addr().IsUnspecified()) {
				_ = unix.Shutdown(fd, unix.SHUT_RDWR)
			}
		}
	}
}

// addresses are the keys of all listeners of a plan, and the bare names of those that
// are paths.
func addresses(p *plan.Plan) map[string]bool {
	all := map[string]bool{}
	for _, proc := range p.Processes {
		for _, l := range proc.Lines {
			for _, s := range l.Sockets {
				all[s.Key()] = true
				if s.Path() {
					all[s.Addr] = true
				}
			}
		}
	}
	return all
}

// closeSockets closes what the plan has no use for any more.
func (m *Master) closeSockets(p *plan.Plan) {
	wanted := addresses(p)
	for key, fd := range m.sockets {
		if !wanted[key] {
			unix.Close(fd)
			delete(m.sockets, key)
		}
	}
	for path := range m.owned {
		if !wanted[path] {
			os.Remove(path)
			delete(m.owned, path)
		}
	}
}

// apply makes the processes be what the set-up says.
func (m *Master) apply(s *Setup) {
	m.setup = s
	wanted := map[string]bool{}
	m.startWaiting(s)
	procs := slices.Clone(s.Plan.Processes)
	slices.SortStableFunc(procs, func(a, b *plan.Process) int { return m.rank(a) - m.rank(b) })
	for _, p := range procs {
		wanted[p.Key()] = true
		g := m.groups[p.Key()]
		if g == nil {
			g = &group{key: p.Key()}
			m.groups[g.key] = g
		}
		m.unwatch(g)
		g.proc, g.throttled, g.quick = p, false, 0
		m.begin(g)
	}
	for key, g := range m.groups {
		if !wanted[key] {
			m.unwatch(g)
			m.drain(g.current)
			m.drain(g.next)
			delete(m.groups, key)
		}
	}
	m.startJobs(s)
}

// rank starts the log's writer first.
func (m *Master) rank(p *plan.Process) int {
	if p.Program == m.setup.LogLast {
		return 0
	}
	return 1
}

// begin starts g's process, or its successor, or waits for the first client.
func (m *Master) begin(g *group) {
	if m.ending || g.throttled {
		return
	}
	switch {
	case g.current != nil:
		if g.next != nil {
			m.terminate(g.next) // its configuration is old already
		}
		g.next = m.spawn(g)
		m.expect(g, g.next)
	case g.proc.Eager:
		g.current = m.spawn(g)
	default:
		m.watch(g)
	}
}

func lineNames(p *plan.Process) (names string) {
	for i := range p.Lines {
		if l := &p.Lines[i]; p.Own(l) {
			if names != "" {
				names += " "
			}
			names += l.Name + "/" + l.Type
		}
	}
	return names
}

// expect gives a successor its time.
func (m *Master) expect(g *group, c *child) {
	if c == nil {
		return
	}
	time.AfterFunc(successorTime, func() {
		m.events <- func() {
			if g.next == c && !c.ready {
				m.Log.Warnf("process %s pid %d did not come up in %s", c.path, c.pid, successorTime)
				_ = syscall.Kill(c.pid, syscall.SIGKILL)
			}
		}
	})
}

// spawn starts a process for g. nil: it can't be started, which was logged.
func (m *Master) spawn(g *group) *child {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		m.Log.Warnf("%s: socketpair: %v", g.proc.Path, err)
		m.throttle(g)
		return nil
	}
	defer unix.Close(pair[1])
	f := os.NewFile(uintptr(pair[0]), "control")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		m.Log.Warnf("%s: %v", g.proc.Path, err)
		m.throttle(g)
		return nil
	}
	files := []uintptr{0, 1, 2, uintptr(pair[1])}
	h := ipc.Handover{Parent: os.Getpid(), Control: 3, Config: g.proc.Config}
	for _, l := range g.proc.Lines {
		sockets := slices.Clone(l.Sockets)
		for i := range sockets {
			files = append(files, uintptr(sockets[i].FD))
			sockets[i].FD = len(files) - 1
		}
		l.Sockets = sockets
		h.Lines = append(h.Lines, l)
	}
	entry, err := h.Environ()
	if err != nil {
		m.Log.Warnf("%s: %v", g.proc.Path, err)
		m.throttle(g)
		return nil
	}
	start := func() (int, error) {
		return syscall.ForkExec(g.proc.Path, append([]string{g.proc.Program}, g.proc.Args...), &syscall.ProcAttr{
			Env:   append(slices.Clone(m.setup.Environ), entry),
			Files: files,
		})
	}
	pid, err := 0, error(nil)
	if startsOthers(g.proc.Program) {
		pid, err = start()
	} else {
		pid, err = relaxed(start)
	}
	if err != nil {
		conn.Close()
		m.Log.Warnf("%s: fork: %v -- throttling", g.proc.Path, err)
		m.throttle(g)
		return nil
	}
	c := &child{pid: pid, path: g.proc.Path, group: g, control: conn.(*net.UnixConn), started: time.Now()}
	m.byPID[pid] = c
	go m.hear(c)
	return c
}

// hear turns what a child says into events.
func (m *Master) hear(c *child) {
	b := make([]byte, 4096)
	for {
		n, err := c.control.Read(b)
		if err != nil || n == 0 {
			return
		}
		message := string(b[:n])
		m.events <- func() { m.said(c, message) }
	}
}

// said handles one message of a child.
func (m *Master) said(c *child, message string) {
	switch {
	case message == "ready":
		c.ready = true
		g := c.group
		if g.next == c {
			m.drain(g.current)
			g.current, g.next = c, nil
		}
	case len(message) > 5 && message[:5] == "open ":
		m.passFile(c, message[5:])
	case len(message) > 7 && message[:7] == "failed ":
		m.Log.Warnf("process %s pid %d: %s", c.path, c.pid, message[7:]) // it has no log yet
	}
}

// passFile opens a file for a child that may not, if the configuration names it.
// It must be a plain file: opening other things can have effects.
func (m *Master) passFile(c *child, name string) {
	name = filepath.Clean(name)
	if m.setup.MayOpen == nil || !filepath.IsAbs(name) || !m.setup.MayOpen(name) {
		m.Log.Warnf("process %s pid %d asks for %s, which the configuration does not name", c.path, c.pid, name)
		_, _ = c.control.Write([]byte("sorry not in the configuration"))
		return
	}
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		_, _ = c.control.Write([]byte("sorry " + err.Error()))
		return
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		_, _ = c.control.Write([]byte("sorry not a file"))
		return
	}
	_ = ipc.SendFiles(c.control, []byte("file"), f)
}

// drain tells a child to take no new session and to end with its last one.
func (m *Master) drain(c *child) {
	if c == nil || c.stopped {
		return
	}
	c.stopped = true
	if !c.ready {
		_ = syscall.Kill(c.pid, syscall.SIGTERM)
		return
	}
	_, _ = c.control.Write([]byte("drain"))
}

func (m *Master) terminate(c *child) {
	if c != nil {
		c.stopped = true
		_ = syscall.Kill(c.pid, syscall.SIGTERM)
	}
}

// exited handles the end of a process.
func (m *Master) exited(pid int, status syscall.WaitStatus) {
	if m.jobs.exited(m, pid, status) {
		return
	}
	c := m.byPID[pid]
	if c == nil {
		return // an orphan that came to us as pid 1
	}
	delete(m.byPID, pid)
	c.control.Close()
	m.logExit(c, status)
	g := c.group
	switch c {
	case g.next:
		g.next = nil
		if !c.stopped {
			m.Log.Warnf("%s: the new process did not come up -- the old one goes on with the old configuration", c.path)
		}
	case g.current:
		g.current = nil
		if g.next != nil { // died while being replaced
			g.current, g.next = g.next, nil
			return
		}
		if m.groups[g.key] == g && !c.stopped {
			m.again(g, c, status)
		}
	}
}

// logExit words an end as master(8) does.
func (m *Master) logExit(c *child, status syscall.WaitStatus) {
	switch {
	case m.Cyrus && status != 0:
		m.cyrusExit(c, status)
	case status.Signaled() && !(c.stopped && status.Signal() == syscall.SIGTERM):
		m.Log.Warnf("process %s pid %d killed by signal %d", c.path, c.pid, status.Signal())
	case status.Exited() && status.ExitStatus() != 0:
		m.Log.Warnf("process %s pid %d exit status %d", c.path, c.pid, status.ExitStatus())
	}
}

// again starts a process anew: at once, unless it failed before it served anyone or
// keeps dying young.
func (m *Master) again(g *group, c *child, status syscall.WaitStatus) {
	if time.Since(c.started) < 2*time.Second {
		g.quick++
	} else {
		g.quick = 0
	}
	switch {
	case m.Cyrus && status != 0 && !c.ready && g.quick >= cyrusFails:
		m.Log.Log(maillog.Err, "too many failures for service %s, disabling until next SIGHUP", cyrusName(g.proc))
		g.throttled = true
	case !m.Cyrus && status != 0 && !c.ready || g.quick > 4:
		m.Log.Warnf("%s: bad command startup -- throttling", c.path)
		m.throttle(g)
	default:
		m.begin(g)
	}
}

// cyrusFails is how often a service of Cyrus' may fail at once before it is given up.
const cyrusFails = 5

// throttle leaves a group alone for a while.
func (m *Master) throttle(g *group) {
	g.throttled = true
	proc := g.proc
	time.AfterFunc(m.setup.Throttle, func() {
		m.events <- func() {
			if g.throttled && g.proc == proc && m.groups[g.key] == g {
				g.throttled, g.quick = false, 0
				m.begin(g)
			}
		}
	})
}

// reload reads the configuration anew, and changes nothing if that fails.
func (m *Master) reload(ctx context.Context) {
	if m.Cyrus {
		m.Log.Log(maillog.Notice, "got SIGHUP")
	}
	s, err := m.Load(ctx)
	if err != nil {
		m.Log.Errorf("%v -- reload: the old configuration stays in force", err)
		return
	}
	if m.Reloaded != nil {
		m.Reloaded()
	}
	m.makeRoom(s.Plan)
	_ = m.openSockets(s.Plan, false)
	m.closeSockets(s.Plan)
	m.apply(s)
	if m.Cyrus {
		n := 0
		for _, p := range s.Plan.Processes {
			n += len(p.Lines)
		}
		m.Log.Log(maillog.Notice, "Services reconfigured. %d services in %d processes are now in use", n, len(s.Plan.Processes))
	}
}

// stop ends all children, the writer of the log last, and closes the listeners.
func (m *Master) stop() {
	m.ending = true
	m.jobs.stop()
	last := func(c *child) bool { return m.setup.LogLast != "" && filepath.Base(c.path) == m.setup.LogLast }
	for _, c := range m.byPID {
		if !last(c) {
			m.terminate(c)
		}
	}
	deadline := time.After(StopTime)
	others := func() bool {
		for _, c := range m.byPID {
			if !last(c) {
				return true
			}
		}
		return m.jobs.running()
	}
	if !m.until(deadline, others) {
		for _, c := range m.byPID {
			if !last(c) {
				_ = syscall.Kill(c.pid, syscall.SIGKILL)
			}
		}
		m.jobs.kill()
		m.until(time.After(time.Second), others)
	}
	m.closeSockets(&plan.Plan{})
	for _, c := range m.byPID {
		m.terminate(c)
	}
	if !m.until(time.After(time.Second), func() bool { return len(m.byPID) > 0 }) {
		for _, c := range m.byPID {
			_ = syscall.Kill(c.pid, syscall.SIGKILL)
		}
	}
}

// until handles events while busy; false: the time was up.
func (m *Master) until(deadline <-chan time.Time, busy func() bool) bool {
	for busy() {
		select {
		case f := <-m.events:
			f()
		case <-deadline:
			return false
		}
	}
	return true
}
