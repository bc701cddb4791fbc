package safefile

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked says that someone else holds the lock.
var ErrLocked = errors.New("resource temporarily unavailable")

// How tells what kind of lock is wanted.
type How int

// The kinds of lock.
const (
	Exclusive How = iota
	Shared
)

// TryLock takes a flock(2) lock without waiting: Postfix' way for queue files
// and its pid files. It belongs to the open file, so two goroutines that share
// one descriptor do not exclude each other. Closing the file gives it back.
func TryLock(f *os.File, how How) error {
	op := unix.LOCK_EX
	if how == Shared {
		op = unix.LOCK_SH
	}
	return lockError(f, retry(func() error { return unix.Flock(int(f.Fd()), op|unix.LOCK_NB) }))
}

// Lock waits for a flock(2) lock until ctx ends. It asks again and again, with
// pauses of up to 50 ms, so that no thread hangs in the kernel.
func Lock(ctx context.Context, f *os.File, how How) error {
	return wait(ctx, func() error { return TryLock(f, how) })
}

// Unlock gives a flock(2) lock back.
func Unlock(f *os.File) error {
	return retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) })
}

// TryLockRange takes an fcntl(2) lock on the whole file without waiting: the way
// of mailbox files (mailbox_delivery_lock = fcntl). It belongs to the open file
// description (F_OFD_SETLK) but conflicts with other programs' plain ones.
func TryLockRange(f *os.File, how How) error {
	typ := int16(unix.F_WRLCK)
	if how == Shared {
		typ = unix.F_RDLCK
	}
	lk := unix.Flock_t{Type: typ, Whence: io.SeekStart}
	err := retry(func() error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk) })
	return lockError(f, err)
}

// LockRange waits for an fcntl(2) lock until ctx ends.
func LockRange(ctx context.Context, f *os.File, how How) error {
	return wait(ctx, func() error { return TryLockRange(f, how) })
}

func lockError(f *os.File, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.EACCES):
		return ErrLocked
	}
	return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
}

func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func wait(ctx context.Context, try func() error) error {
	pause := time.Millisecond
	for {
		err := try()
		if err != ErrLocked {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 50*time.Millisecond)
	}
}
