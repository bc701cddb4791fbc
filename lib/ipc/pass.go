package ipc

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/unixsock"
)

// maxFiles is how many descriptors one message may carry.
const maxFiles = 8

// SendFiles writes b (at least one byte) and the open files in one message. The
// files stay open here.
func SendFiles(c *net.UnixConn, b []byte, files ...*os.File) error {
	fds := make([]int, 0, len(files))
	for _, f := range files {
		// Control, not Fd: Fd would make the shared description block.
		rc, err := f.SyscallConn()
		if err != nil {
			return err
		}
		if err := rc.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return err
		}
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = c.Write(b[n:])
	}
	return err
}

// ReceiveFiles reads into b once, and the files that came with those bytes. The
// caller closes them. Unix stream sockets don't keep message bounds: what was
// sent with a file is read with it or after it, never before.
func ReceiveFiles(c *net.UnixConn, b []byte) (n int, files []*os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return n, nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, nil, err
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // credentials or the like
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return n, files, nil
}

// Cred is who is at the other end of a unix socket, as the kernel says.
type Cred struct{ PID, UID, GID int }

// Peer asks the kernel who opened the other end of c.
func Peer(c *net.UnixConn) (Cred, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return Cred{}, err
	}
	var u *unix.Ucred
	var e error
	if err := rc.Control(func(fd uintptr) {
		u, e = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Cred{}, err
	}
	if e != nil {
		return Cred{}, os.NewSyscallError("getsockopt", e)
	}
	return Cred{PID: int(u.Pid), UID: int(u.Uid), GID: int(u.Gid)}, nil
}

// Dial connects to a unix socket whose path may be longer than an address holds.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	c, err := unixsock.Dial(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// Trigger knocks at a service: it connects to path (a unix socket or a named
// pipe), writes request and goes away. Nobody answers a knock.
func Trigger(ctx context.Context, path string, request []byte) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeNamedPipe != 0 {
		return knockFIFO(path, request)
	}
	c, err := Dial(ctx, path)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	} else {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	_, err = c.Write(request)
	return err
}

// knockFIFO doesn't wait for a reader: a service that isn't there has nothing to do.
func knockFIFO(path string, request []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, request)
	if errors.Is(err, unix.EAGAIN) {
		return nil // full of knocks already
	}
	return err
}
