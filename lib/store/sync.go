package store

import (
	"sync"

	"golang.org/x/sys/unix"
)

// maxSyncs is how many fsyncs may block at a time: each holds a thread, and a
// Go process dies at 10,000 of them.
const maxSyncs = 64

// dirSync lets those who wait for one directory share fsyncs: each is served
// by one that began after it came.
type dirSync struct {
	mu      sync.Mutex
	running bool
	next    *syncRun
}

type syncRun struct {
	done chan struct{}
	err  error
}

// wait returns after a run of sync that began after the call.
func (d *dirSync) wait(sync func() error) error {
	d.mu.Lock()
	if d.next == nil {
		d.next = &syncRun{done: make(chan struct{})}
	}
	run := d.next
	if d.running {
		d.mu.Unlock()
		<-run.done
		return run.err
	}
	d.running = true
	for {
		// run is what the ones before us, or we ourselves, waited for.
		now := d.next
		d.next = nil
		d.mu.Unlock()
		now.err = sync()
		close(now.done)
		d.mu.Lock()
		if d.next == nil {
			d.running = false
			d.mu.Unlock()
			return run.err
		}
		if now == run {
			// Others came meanwhile: they get a goroutine of their own, so
			// that we need not serve strangers for ever.
			go d.serve(sync)
			d.mu.Unlock()
			return run.err
		}
	}
}

// serve goes on with running set, until nobody waits.
func (d *dirSync) serve(sync func() error) {
	d.mu.Lock()
	for d.next != nil {
		now := d.next
		d.next = nil
		d.mu.Unlock()
		now.err = sync()
		close(now.done)
		d.mu.Lock()
	}
	d.running = false
	d.mu.Unlock()
}

// fsync is fsync(2) in the bounded pool. A failed one is never tried again:
// the kernel has marked the pages clean by then, and a second call would lie.
func (s *Store) fsync(fd int, what string) error { return s.flush(fd, what, "fsync", unix.Fsync) }

// fdatasync leaves out what is not needed to read the file.
func (s *Store) fdatasync(fd int, what string) error {
	return s.flush(fd, what, "fdatasync", unix.Fdatasync)
}

// syncFS syncs all of the file system that a file lies on.
func (s *Store) syncFS(fd int, what string) error { return s.flush(fd, what, "syncfs", unix.Syncfs) }

func (s *Store) flush(fd int, what, op string, call func(int) error) error {
	if err := s.fault("fsync " + what); err != nil {
		return err
	}
	if s.conf.Sync != nil {
		return s.conf.Sync(what, fd, op == "syncfs")
	}
	s.syncs <- struct{}{}
	defer func() { <-s.syncs }()
	if err := call(fd); err != nil {
		return sysErr(op+" "+what, err)
	}
	return nil
}

// nameOf is what a sync of the directory is called that has made a file's name durable.
func nameOf(file string) string { return "name of " + file }

// syncDirAt makes the entries of a directory below dirfd durable.
func (s *Store) syncDirAt(dirfd int, name, what string) error {
	fd, err := openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return s.fsync(fd, what)
}

func openat(dirfd int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, mode)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, sysErr("open "+name, err)
		}
		return fd, nil
	}
}

func fstatat(dirfd int, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return st, sysErr("stat "+name, err)
		}
		return st, nil
	}
}

func mtime(st *unix.Stat_t) int64 { return st.Mtim.Nano() }
