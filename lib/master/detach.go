package master

import (
	"errors"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"angarium/lib/cli"
)

// envReady names the descriptor on which a master in the background says that it
// came up.
const envReady = "ANGARIUM_READY"

// background starts this program again without a terminal, and returns when that
// process has said that it is up. A Go program can't fork, so it executes itself.
func background(c *cli.Cmd, failed string) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{c.Path}, c.Args...)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	pid, err := syscall.ForkExec(self, args, &syscall.ProcAttr{
		Env:   append(os.Environ(), envReady+"=3"),
		Files: []uintptr{null.Fd(), null.Fd(), 2, uintptr(pipe[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	unix.Close(pipe[1])
	if err != nil {
		return err
	}
	b := make([]byte, 16)
	for {
		n, err := unix.Read(pipe[0], b)
		if err == unix.EINTR {
			continue
		}
		if n > 0 && b[0] == 'o' {
			return nil
		}
		break
	}
	var status syscall.WaitStatus
	_, _ = syscall.Wait4(pid, &status, 0, nil)
	if status.Exited() && status.ExitStatus() != 0 {
		return cli.Exit(status.ExitStatus(), "") // it has said why
	}
	return errors.New(failed)
}

// inBackground reports whether background started us.
func inBackground() bool { return os.Getenv(envReady) != "" }

// ready tells the one that waits in the foreground.
func ready() {
	fd, err := strconv.Atoi(os.Getenv(envReady))
	if err != nil {
		return
	}
	os.Unsetenv(envReady)
	_, _ = unix.Write(fd, []byte("ok"))
	_ = unix.Close(fd)
}

// closeStray keeps descriptors that someone left open from reaching our children.
func closeStray() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// detach lets go of the terminal: a daemon's messages are in the log.
func detach(keepStdout bool) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	for fd := range 3 {
		if fd > 0 && keepStdout {
			continue
		}
		_ = unix.Dup3(int(null.Fd()), fd, 0)
	}
}
