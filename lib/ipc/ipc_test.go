package ipc

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestHandover(t *testing.T) {
	h := Handover{Parent: os.Getppid(), Control: 3, Config: "/etc/postfix", Lines: []Line{{
		Name: "smtp", Type: "inet", Command: "smtpd", Overrides: []string{"a=b c"}, Limit: 7,
		Sockets: []Socket{{Address{Network: "tcp4", Addr: "127.0.0.1:25"}, 4}},
	}}}
	entry, err := h.Environ()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvHandover, strings.TrimPrefix(entry, EnvHandover+"="))
	got, ok, err := Inherited()
	if err != nil || !ok || !reflect.DeepEqual(got, h) {
		t.Errorf("%+v %t %v", got, ok, err)
	}
	if os.Getenv(EnvHandover) != "" {
		t.Error("a grandchild would see it, too")
	}
	h.Parent++
	entry, _ = h.Environ()
	t.Setenv(EnvHandover, strings.TrimPrefix(entry, EnvHandover+"="))
	if _, ok, err := Inherited(); ok || err != nil {
		t.Errorf("another process's handover was believed: %t %v", ok, err)
	}
}

// accept makes a listener of what Listen returns, as service does.
func accept(t *testing.T, fd int) net.Listener {
	t.Helper()
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestListenInet(t *testing.T) {
	fd, err := Listen(Address{Network: "tcp4", Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	l := accept(t, fd)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := Listen(Address{Network: "tcp4", Addr: l.Addr().String()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener: %v", err)
	}
	if _, err := Listen(Address{Network: "tcp4", Addr: "no address"}); err == nil {
		t.Error("bad address accepted")
	}
}

func TestListenUnix(t *testing.T) {
	// Deeper than a socket address is long.
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30))
	if err := os.MkdirAll(dir, 0755); err != nil {
		t.Fatal(err)
	}
	a := Address{Network: "unix", Addr: filepath.Join(dir, "s"), Mode: 0640}
	fd, err := Listen(a)
	if err != nil {
		t.Fatal(err)
	}
	l := accept(t, fd)
	if fi, err := os.Stat(a.Addr); err != nil || fi.Mode().Perm() != 0640 {
		t.Errorf("mode: %v %v", fi.Mode(), err)
	}
	if _, err := Listen(a); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a listener was taken from a living process: %v", err)
	}
	c, err := Dial(context.Background(), a.Addr)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := Peer(c)
	if err != nil || cred.UID != os.Getuid() || cred.PID != os.Getpid() {
		t.Errorf("peer: %+v %v", cred, err)
	}
	c.Close()
	l.Close() // the file stays, as after a crash
	if _, err := os.Lstat(a.Addr); err != nil {
		t.Fatal("the socket file is gone; nothing stale to test")
	}
	fd, err = Listen(a)
	if err != nil {
		t.Fatalf("a stale socket is in the way: %v", err)
	}
	unix.Close(fd)
	if err := os.Remove(a.Addr); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.Addr, []byte("mail"), 0600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(a); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("a file was taken for a socket: %v", err)
	}
	if b, _ := os.ReadFile(a.Addr); string(b) != "mail" {
		t.Error("a file was removed")
	}
}

func TestFiles(t *testing.T) {
	fd, err := Listen(Address{Network: "unix", Addr: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	l := accept(t, fd)
	c, err := Dial(context.Background(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	name := filepath.Join(t.TempDir(), "letter")
	if err := os.WriteFile(name, []byte("hello"), 0600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := SendFiles(c, []byte("deliver this"), f, f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	b := make([]byte, 100)
	n, files, err := ReceiveFiles(s.(*net.UnixConn), b)
	if err != nil || string(b[:n]) != "deliver this" || len(files) != 2 {
		t.Fatalf("%q %d files %v", b[:n], len(files), err)
	}
	got, err := io.ReadAll(files[1])
	if err != nil || string(got) != "hello" {
		t.Errorf("%q %v", got, err)
	}
	flags, err := unix.FcntlInt(files[0].Fd(), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Error("a passed file would reach programs that we run")
	}
	for _, f := range files {
		f.Close()
	}
	if err := SendFiles(c, []byte("nothing else")); err != nil {
		t.Fatal(err)
	}
	if n, files, err = ReceiveFiles(s.(*net.UnixConn), b); err != nil || n != 12 || len(files) != 0 {
		t.Errorf("%d %d %v", n, len(files), err)
	}
}

func TestTrigger(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	if err := Trigger(ctx, filepath.Join(dir, "none"), []byte("W")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody there: %v", err)
	}
	fd, err := Listen(Address{Network: "unix", Addr: filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	l := accept(t, fd)
	if err := Trigger(ctx, l.Addr().String(), []byte("WD")); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "WD" {
		t.Errorf("%q %v", b, err)
	}
	fifo := Address{Network: "fifo", Addr: filepath.Join(dir, "f")}
	if fd, err = Listen(fifo); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "fifo")
	defer f.Close()
	if fi, err := os.Stat(fifo.Addr); err != nil || fi.Mode().Perm() != 0622 {
		t.Errorf("mode of the pipe: %v %v", fi.Mode(), err)
	}
	if err := Trigger(ctx, fifo.Addr, []byte("F")); err != nil {
		t.Fatal(err)
	}
	_ = f.SetReadDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 8)
	if n, err := f.Read(b); err != nil || string(b[:n]) != "F" {
		t.Errorf("%q %v", b[:n], err)
	}
}
