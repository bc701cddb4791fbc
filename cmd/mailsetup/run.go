package mailsetup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/cli"
	"angarium/lib/conf/cyrusconf"
	"angarium/lib/conf/mastercf"
)

// startTime is how long the listeners may take to answer.
const startTime = 10 * time.Second

// run keeps both halves of the server in the foreground and shows the log,
// until a signal comes or one of them ends.
func (s *setup) run(ctx context.Context, c *cli.Cmd) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	addrs, err := s.listeners()
	if err != nil {
		return err
	}
	if err := free(addrs); err != nil {
		return err
	}
	logFile, err := os.OpenFile(s.Log+"/mail.log", os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	if _, err := logFile.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	shown := make(chan struct{})
	ended := make(chan struct{})
	defer func() { close(ended); <-shown }() // the last lines, too
	go func() { follow(logFile, c.Stdout, ended); close(shown) }()
	mta, err := start(s.Bin, "postfix", "-c", s.Postfix, "start-fg")
	if err != nil {
		return err
	}
	defer mta.end()
	store, err := start(s.Bin, "cyrmaster", "-C", s.ImapdConf, "-M", s.CyrusConf, "-p", s.ConfigDirectory+"/master.pid")
	if err != nil {
		return err
	}
	defer store.end()
	if err := s.waitForListeners(ctx, addrs, mta, store); err != nil {
		return err
	}
	readme, err := os.ReadFile(s.Readme)
	if err != nil {
		return err
	}
	c.Printf("%s\nThe log follows; Ctrl-C ends.\n\n", readme)
	select {
	case <-ctx.Done():
		return nil
	case <-mta.done:
		return fmt.Errorf("postfix ended: %v", mta.err)
	case <-store.done:
		return fmt.Errorf("cyrmaster ended: %v", store.err)
	}
}

// child is a program that we started.
type child struct {
	*exec.Cmd
	done chan struct{}
	err  error
}

// start runs a program in a process group of its own, so that Ctrl-C reaches us
// alone, and lets it end when we are killed.
func start(bin, name string, args ...string) (*child, error) {
	c := &child{Cmd: exec.Command(filepath.Join(bin, name), args...), done: make(chan struct{})}
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.Start(); err != nil {
		return nil, err
	}
	go func() {
		c.err = c.Wait()
		close(c.done)
	}()
	return c, nil
}

// end asks the program to stop and waits until it has.
func (c *child) end() {
	c.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(startTime):
		c.Process.Kill()
		<-c.done
	}
}

// follow copies what is appended to the log, until ended is closed and the rest
// is copied.
func follow(log io.Reader, to io.Writer, ended <-chan struct{}) {
	for {
		last := false
		select {
		case <-ended:
			last = true
		case <-time.After(100 * time.Millisecond):
		}
		if _, err := io.Copy(to, log); err != nil || last {
			return
		}
	}
}

// listeners are the host:port lines of the files as they are, which an
// administrator may have changed.
func (s *setup) listeners() ([]string, error) {
	lines, err := mastercf.Load(s.Postfix+"/master.cf", mastercf.Options{})
	if err != nil {
		return nil, err
	}
	cyrus, err := cyrusconf.Load(s.CyrusConf)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, l := range lines {
		if l.Type == "inet" {
			out = append(out, l.Name)
		}
	}
	for _, l := range cyrus.Services {
		out = append(out, l.String("listen", ""))
	}
	return slices.DeleteFunc(out, func(addr string) bool {
		host, _, err := net.SplitHostPort(addr)
		return err != nil || net.ParseIP(host) == nil
	}), nil
}

// free fails if somebody else listens at one of the addresses: else we should
// take that server's answers for ours.
func free(addrs []string) error {
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%s is in use: does the server run already? Another one takes --port-base N (make run RUN=DIR PORT_BASE=N)", addr)
		}
		if err != nil {
			return err
		}
		l.Close()
	}
	return nil
}

// waitForListeners returns when every address is listened at: clients wait from
// then on, even if the program that serves them is still to start. Nothing
// connects, so the log begins with the first client.
func (s *setup) waitForListeners(ctx context.Context, addrs []string, children ...*child) error {
	deadline := time.Now().Add(startTime)
	for _, addr := range addrs {
		for {
			there, err := listening(addr)
			if err != nil {
				return fmt.Errorf("%s: %w", addr, err)
			}
			if there {
				break
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			for _, c := range children {
				select {
				case <-c.done:
					return fmt.Errorf("%s ended: %v", filepath.Base(c.Path), c.err)
				default:
				}
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("nobody listens at %s (see %s/mail.log)", addr, s.Log)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

// listening reports whether somebody listens at an address of this host. The
// kernel tells: with SO_REUSEADDR a name can be bound unless a listener has it,
// and who only binds is in no listener's way.
func listening(addr string) (bool, error) {
	tcp, err := net.ResolveTCPAddr("tcp", addr) // ports have names, too
	if err != nil {
		return false, err
	}
	ip, port := tcp.AddrPort().Addr().Unmap(), tcp.Port
	family, name := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: port, Addr: ip.As16()})
	if ip.Is4() {
		family, name = unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: ip.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return false, err
	}
	err = unix.Bind(fd, name)
	if err == unix.EADDRINUSE {
		return true, nil
	}
	return false, err
}
