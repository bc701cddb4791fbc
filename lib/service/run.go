package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"angarium/lib/cli"
	"angarium/lib/ipc"
	"angarium/lib/maillog"
)

// child is the process as Run sees it.
type child struct {
	env     *Env
	handler Handler
	control *net.UnixConn // nil by hand

	ctx       context.Context // of the sessions; ends at SIGTERM
	end       context.CancelFunc
	accept    context.Context // ends when nothing new is to be taken
	stopTake  context.CancelFunc
	listeners []listener

	sessions sync.WaitGroup
	active   atomic.Int64
	mu       sync.Mutex
	conns    map[net.Conn]struct{}

	calls   sync.Mutex // one question to master at a time
	answers chan answer
	drain   chan struct{} // closed when master says so, or is gone
}

// listener is what can be told to stop: net.Listener, net.PacketConn, *os.File.
type listener interface{ Close() error }

// Run serves until it is told to end. See the package comment.
func Run(ctx context.Context, c *cli.Cmd, d Daemon) error {
	k := &child{conns: map[net.Conn]struct{}{}, drain: make(chan struct{}), answers: make(chan answer, 1)}
	// Before anything else: a SIGTERM during Setup must end us, not be lost.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGPIPE)
	limitMemory()

	env, err := k.begin(ctx, c, d)
	if err != nil {
		return k.fail(err)
	}
	k.ctx, k.end = context.WithCancel(ctx)
	defer k.end()
	k.accept, k.stopTake = context.WithCancel(k.ctx)
	defer k.stopTake()

	if k.handler, err = d.Setup(k.ctx, env); err != nil {
		return k.fail(err)
	}
	if err := k.listen(); err != nil {
		return k.fail(err)
	}
	if err := dropRights(env); err != nil {
		return k.fail(err)
	}
	ended := make(chan error, 1)
	if r, ok := k.handler.(Runner); ok {
		go func() { ended <- k.runner(r) }()
	}
	k.serve()
	k.tell("ready")
	go k.giveMemoryBack()
	return k.wait(signals, ended)
}

// fail reports why there is no daemon: in the log, by master where there is none yet,
// and on standard error.
func (k *child) fail(err error) error {
	switch {
	case k.env == nil || k.env.Log == nil:
		k.tell("failed " + err.Error())
	case !k.env.ByHand:
		k.env.Log.Fatalf("%v", err)
	}
	return err
}

// tell writes a message to master, if there is one.
func (k *child) tell(message string) {
	if k.control != nil {
		_, _ = k.control.Write([]byte(message))
	}
}

// runner calls Run and keeps its panic from taking the sessions along in silence.
func (k *child) runner(r Runner) (err error) {
	defer func() {
		if p := recover(); p != nil {
			logPanic(k.env.Log, p)
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return r.Run(k.ctx)
}

// wait is the daemon's life: until the last session after a drain, until SIGTERM,
// or until Run returns.
func (k *child) wait(signals <-chan os.Signal, ended <-chan error) error {
	drained := make(chan struct{})
	drain := k.drain
	for {
		select {
		case <-drain:
			drain = nil
			k.stopAccepting()
			go func() {
				if d, ok := k.handler.(Drainer); ok {
					d.Drain(k.ctx)
				}
				k.sessions.Wait()
				close(drained)
			}()
		case <-drained:
			k.end()
			return k.await(ended)
		case s := <-signals:
			if s == syscall.SIGHUP && !k.env.ByHand {
				continue // master tells us what to do about it
			}
			k.stopAccepting()
			k.end()
			k.endSessions()
			return k.await(ended)
		case err := <-ended:
			k.stopAccepting()
			k.end()
			k.endSessions()
			if err != nil {
				return k.fail(err)
			}
			return nil
		}
	}
}

// await gives Run, if there is one, time to come to its end.
func (k *child) await(ended <-chan error) error {
	if _, ok := k.handler.(Runner); !ok {
		return nil
	}
	select {
	case err := <-ended:
		if err != nil && !errors.Is(err, context.Canceled) { // or it was told to end while it waited for something
			return k.fail(err)
		}
	case <-time.After(StopGrace):
	}
	return nil
}

func (k *child) stopAccepting() {
	k.stopTake()
	for _, l := range k.listeners {
		l.Close()
	}
	for _, s := range k.env.Services {
		s.run.open()
	}
}

// endSessions makes reads fail until every session has ended, or the time is up. It
// sets the deadline again and again, because a session may set its own in between.
func (k *child) endSessions() {
	done := make(chan struct{})
	go func() { k.sessions.Wait(); close(done) }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(StopGrace)
	for {
		past := time.Unix(1, 0)
		k.mu.Lock()
		for c := range k.conns {
			_ = c.SetReadDeadline(past)
		}
		k.mu.Unlock()
		select {
		case <-done:
			return
		case <-timeout:
			return
		case <-tick.C:
		}
	}
}

// logPanic writes what happened and where, a line each.
func logPanic(log *maillog.Logger, p any) {
	log.Panicf("%v", p)
	stack := strings.TrimSpace(string(debug.Stack()))
	if _, after, ok := strings.Cut(stack, "runtime/panic.go:"); ok {
		_, stack, _ = strings.Cut(after, "\n") // what lies above is how we came here
	}
	for i, line := range strings.Split(stack, "\n") {
		if i == 60 {
			break
		}
		log.Log(maillog.Crit, "panic: %s", strings.TrimSpace(line))
	}
}

// attach takes the control socket and listens to master.
func (k *child) attach(fd int) error {
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "control")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	k.control = c.(*net.UnixConn)
	go k.hear()
	return nil
}

type answer struct {
	file *os.File
	err  error
}

// hear reads what master says. Its end is a drain: nobody would start a successor,
// but the sessions need not suffer.
func (k *child) hear() {
	var once sync.Once
	drain := func() { once.Do(func() { close(k.drain) }) }
	defer drain()
	b := make([]byte, 4096)
	for {
		n, files, err := ipc.ReceiveFiles(k.control, b)
		if err != nil || n == 0 {
			return
		}
		word, rest, _ := strings.Cut(string(b[:n]), " ")
		switch {
		case word == "drain":
			drain()
		case word == "file" && len(files) == 1:
			k.answers <- answer{file: files[0]}
		case word == "sorry":
			k.answers <- answer{err: fmt.Errorf("%s", rest)}
		}
	}
}

// Open opens a file for reading; where this process may not (it lives in a chroot,
// or has dropped its rights), master opens it and passes the descriptor. Master
// does that only for names that stand in the configuration.
func (e *Env) Open(name string) (*os.File, error) {
	f, err := os.Open(name)
	k := e.child
	if err == nil || k == nil || k.control == nil {
		return f, err
	}
	k.calls.Lock()
	defer k.calls.Unlock()
	k.tell("open " + name)
	select {
	case a := <-k.answers:
		if a.err != nil {
			return nil, fmt.Errorf("open %s: %w", name, a.err)
		}
		return a.file, nil
	case <-time.After(5 * time.Second):
		return nil, err
	}
}
