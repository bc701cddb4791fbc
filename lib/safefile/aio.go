package safefile

import (
	"encoding/binary"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring lets the kernel do fsyncs for us, so that no thread of ours waits in one:
// io_submit(2) with IOCB_CMD_FSYNC, and an eventfd on which Go's poller waits. The
// outcome is that of fsync(2) on the same descriptor, errors included. Where the
// kernel or a sandbox has none of it there is no ring, and threads wait as ever.
type ring struct {
	ctx    uintptr
	event  *os.File
	reap   []ioEvent
	places [MaxSyncs]place
}

// place is one fsync under way, by the number of its slot.
type place struct {
	cb   ioControl
	list [1]*ioControl
	done chan error
}

// ioControl is struct iocb, and ioEvent struct io_event, of linux/aio_abi.h.
type ioControl struct {
	data    uint64
	_       [2]uint32 // aio_key, aio_rw_flags
	opcode  uint16
	_       uint16 // aio_reqprio
	fd      uint32
	_       [4]uint64 // aio_buf, aio_nbytes, aio_offset, aio_reserved2
	flags   uint32
	eventFD uint32
}

type ioEvent struct {
	data, obj uint64
	res, res2 int64
}

const (
	ioFsync       = 2 // IOCB_CMD_FSYNC
	ioEventFDFlag = 1 // IOCB_FLAG_RESFD
)

// newRing returns nil where this does not work.
func newRing() *ring {
	r := &ring{reap: make([]ioEvent, MaxSyncs)}
	if _, _, e := syscall.RawSyscall(unix.SYS_IO_SETUP, MaxSyncs, uintptr(unsafe.Pointer(&r.ctx)), 0); e != 0 {
		return nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_, _, _ = syscall.RawSyscall(unix.SYS_IO_DESTROY, r.ctx, 0, 0)
		return nil
	}
	r.event = os.NewFile(uintptr(fd), "eventfd")
	for i := range r.places {
		p := &r.places[i]
		p.done = make(chan error, 1)
		p.cb = ioControl{data: uint64(i), opcode: ioFsync, flags: ioEventFDFlag, eventFD: uint32(fd)}
		p.list[0] = &p.cb
	}
	go r.run()
	return r
}

// run gives each fsync that has ended its answer. It lives as long as the process.
func (r *ring) run() {
	var count [8]byte
	for {
		if _, err := r.event.Read(count[:]); err != nil {
			return // cannot be: nobody closes it
		}
		for left := binary.NativeEndian.Uint64(count[:]); left > 0; {
			var now unix.Timespec
			n, _, e := syscall.RawSyscall6(unix.SYS_IO_GETEVENTS, r.ctx, 0, uintptr(len(r.reap)),
				uintptr(unsafe.Pointer(&r.reap[0])), uintptr(unsafe.Pointer(&now)), 0)
			if e == unix.EINTR {
				continue
			}
			if e != 0 || n == 0 {
				break
			}
			for _, ev := range r.reap[:n] {
				var err error
				if ev.res < 0 {
					err = syscall.Errno(-ev.res)
				}
				r.places[ev.data].done <- err
			}
			left -= min(left, uint64(n))
		}
	}
}

// sync syncs f in the slot of that number. ok is false if the kernel did not
// take the request; then nothing was done.
func (r *ring) sync(slot int, f *os.File) (err error, ok bool) {
	c, err := f.SyscallConn()
	if err != nil {
		return nil, false
	}
	p := &r.places[slot]
	err = c.Control(func(fd uintptr) {
		p.cb.fd = uint32(fd)
		n, _, e := syscall.RawSyscall(unix.SYS_IO_SUBMIT, r.ctx, 1, uintptr(unsafe.Pointer(&p.list[0])))
		ok = e == 0 && n == 1
	})
	if err != nil || !ok {
		return nil, false
	}
	if err = <-p.done; err != nil {
		err = &os.PathError{Op: "fsync", Path: f.Name(), Err: err}
	}
	return err, true
}
