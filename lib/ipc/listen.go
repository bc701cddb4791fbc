package ipc

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"angarium/lib/unixsock"
)

// Address is where a service listens.
type Address struct {
	Network string `json:"network"`           // tcp4 tcp6 udp4 udp6 unix unixgram fifo
	Addr    string `json:"addr"`              // "127.0.0.1:25", "[::1]:25", or a path
	Mode    uint32 `json:"mode,omitempty"`    // of a path; 0: 0666
	UID     int    `json:"uid,omitempty"`     // owner of a path, if we may set it
	GID     int    `json:"gid,omitempty"`     //
	Backlog int    `json:"backlog,omitempty"` // 0: what the kernel allows
}

// Path reports whether the address is a name in the file system.
func (a Address) Path() bool {
	return a.Network == "unix" || a.Network == "unixgram" || a.Network == "fifo"
}

// Key tells two addresses apart, whatever modes and owners they want.
func (a Address) Key() string { return a.Network + " " + a.Addr }

// Listen opens a for listening: non-blocking, not inherited by programs that we
// run. A socket file in the way is removed if nobody answers there; one with a
// listener is "address in use", as it would be for a port.
//
// It returns a bare descriptor, because what is shared with children must stay
// non-blocking, which os.File doesn't promise.
func Listen(a Address) (fd int, err error) {
	switch a.Network {
	case "tcp4", "tcp6", "udp4", "udp6":
		return listenInet(a)
	case "unix", "unixgram":
		return listenUnix(a)
	case "fifo":
		return listenFIFO(a)
	}
	return -1, fmt.Errorf("unknown network: %s", a.Network)
}

// backlog is the length of the queue of connections that nobody has accepted.
func (a Address) backlog() int {
	if a.Backlog > 0 {
		return a.Backlog
	}
	return 4096 // the kernel takes net.core.somaxconn if that is less
}

func listenInet(a Address) (int, error) {
	ap, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return -1, err
	}
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if ap.Addr().Is6() {
		family = unix.AF_INET6
	}
	if a.Network[:3] == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(ap.Port()), Addr: four(ap.Addr())}
	if family == unix.AF_INET6 {
		// One socket a family, so that [::]:25 and 0.0.0.0:25 can both be asked for.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		sa6 := &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
		if zone := ap.Addr().Zone(); zone != "" {
			if ifi, err := net.InterfaceByName(zone); err == nil {
				sa6.ZoneId = uint32(ifi.Index)
			}
		}
		sa = sa6
	}
	if kind == unix.SOCK_STREAM {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err := unix.Bind(fd, sa); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.Listen(fd, a.backlog()); err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("listen", err)
		}
	}
	return fd, nil
}

func four(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}

func listenUnix(a Address) (int, error) {
	kind := unix.SOCK_STREAM
	if a.Network == "unixgram" {
		kind = unix.SOCK_DGRAM
	}
	if err := removeStale(a.Addr, kind); err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = unixsock.WithShortPath(a.Addr, func(path string) error { return unix.Bind(fd, &unix.SockaddrUnix{Name: path}) })
	if err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	if err := a.dress(); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.Listen(fd, a.backlog()); err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("listen", err)
		}
	}
	return fd, nil
}

// dress gives a path its mode and owner. As an ordinary user we own it anyway.
func (a Address) dress() error {
	mode := a.Mode
	if mode == 0 {
		mode = 0666
	}
	if err := os.Chmod(a.Addr, fs.FileMode(mode)); err != nil {
		return err
	}
	if os.Geteuid() == 0 && (a.UID != 0 || a.GID != 0) {
		return os.Lchown(a.Addr, a.UID, a.GID)
	}
	return nil
}

// removeStale takes away the socket file of a process that is gone. What is not
// a socket is left alone: it isn't ours.
func removeStale(path string, kind int) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSocket == 0 {
		return &fs.PathError{Op: "listen", Path: path, Err: unix.EEXIST}
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	err = unixsock.WithShortPath(path, func(p string) error { return unix.Connect(fd, &unix.SockaddrUnix{Name: p}) })
	if err == nil || errors.Is(err, unix.EAGAIN) { // EAGAIN: its backlog is full, so it lives
		return &fs.PathError{Op: "listen", Path: path, Err: unix.EADDRINUSE}
	}
	return os.Remove(path)
}

// listenFIFO opens a named pipe for reading, and for writing too, so that it
// never reports an end of file between two writers.
func listenFIFO(a Address) (int, error) {
	if fi, err := os.Lstat(a.Addr); err == nil && fi.Mode()&fs.ModeNamedPipe == 0 {
		return -1, &fs.PathError{Op: "listen", Path: a.Addr, Err: unix.EEXIST}
	}
	if err := unix.Mkfifo(a.Addr, 0600); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, &fs.PathError{Op: "mkfifo", Path: a.Addr, Err: err}
	}
	fd, err := unix.Open(a.Addr, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: a.Addr, Err: err}
	}
	if a.Mode == 0 {
		a.Mode = 0622
	}
	if err := a.dress(); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
