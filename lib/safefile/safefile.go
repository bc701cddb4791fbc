// Package safefile changes files so that a power cut leaves the state before or
// the state after, and tells its caller truly which.
//
// Its idea is one value, FS, through which all changes go: it bounds how many
// fsyncs are under way at once (each may hold a thread, and a Go process dies at
// 10,000 of them), lets waiters for the same directory share one fsync, and has a
// hook by which a test makes any step fail.
//
// It promises that every error reaches the caller, and that a failed fsync is
// never tried again: the kernel has marked the pages clean by then, and a second
// call would lie. It does not know what the files mean.
package safefile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// MaxSyncs is how many fsyncs of one FS may be under way at a time.
const MaxSyncs = 64

// Op names a step for the hook.
type Op string

// The steps a Hook is asked about.
const (
	OpOpen   Op = "open"
	OpWrite  Op = "write"
	OpSync   Op = "sync" // of a file
	OpDir    Op = "syncdir"
	OpRename Op = "rename"
	OpLink   Op = "link"
	OpRemove Op = "remove"
	OpChmod  Op = "chmod"
	OpTimes  Op = "times"
	OpClose  Op = "close"
)

// A Hook is called before each step with the name of the file. An error it
// returns becomes the outcome of the step, which then is not done; a panic or an
// exit stands for a crash there.
type Hook func(op Op, name string) error

// FS changes files. The zero value and nil are ready for use, without a hook.
type FS struct {
	Hook Hook // nil outside tests; not to be changed while in use

	once sync.Once
	slot chan int // the numbers of free slots
	used atomic.Int64
	ring func() *ring

	mu   sync.Mutex
	dirs map[string]*sharedDir
}

// sharedDir is a directory that SyncDir callers use at this moment.
type sharedDir struct {
	Dir
	users int
}

func (s *FS) ask(op Op, name string) error {
	if s == nil || s.Hook == nil {
		return nil
	}
	if err := s.Hook(op, name); err != nil {
		return &os.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

// OpenFile is os.OpenFile.
func (s *FS) OpenFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	if err := s.ask(OpOpen, name); err != nil {
		return nil, err
	}
	return os.OpenFile(name, flag, perm)
}

// Write appends all of p to f.
func (s *FS) Write(f *os.File, p []byte) (int, error) {
	if err := s.ask(OpWrite, f.Name()); err != nil {
		return 0, err
	}
	return f.Write(p)
}

// WriteAt writes all of p at off.
func (s *FS) WriteAt(f *os.File, p []byte, off int64) (int, error) {
	if err := s.ask(OpWrite, f.Name()); err != nil {
		return 0, err
	}
	return f.WriteAt(p, off)
}

// Close closes f; some file systems report a failed write only here.
func (s *FS) Close(f *os.File) error {
	if err := s.ask(OpClose, f.Name()); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// Chmod changes the mode of an open file.
func (s *FS) Chmod(f *os.File, mode os.FileMode) error {
	if err := s.ask(OpChmod, f.Name()); err != nil {
		return err
	}
	return f.Chmod(mode)
}

// Chtimes sets both times of a file.
func (s *FS) Chtimes(name string, t time.Time) error {
	if err := s.ask(OpTimes, name); err != nil {
		return err
	}
	return os.Chtimes(name, t, t)
}

// Rename is rename(2). It is not durable before a SyncDir of the new directory.
func (s *FS) Rename(from, to string) error {
	if err := s.ask(OpRename, to); err != nil {
		return err
	}
	if err := unix.Rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// Link is link(2): unlike Rename it never overwrites.
func (s *FS) Link(from, to string) error {
	if err := s.ask(OpLink, to); err != nil {
		return err
	}
	return os.Link(from, to)
}

// Remove removes a file, never a directory.
func (s *FS) Remove(name string) error {
	if err := s.ask(OpRemove, name); err != nil {
		return err
	}
	if err := unix.Unlink(name); err != nil {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// ringAfter is how many fsyncs a process does before it sets up a ring: it costs
// more than a program does that ends after one letter.
const ringAfter = 16

// fsync syncs f when fewer than MaxSyncs are under way.
func (s *FS) fsync(f *os.File) error {
	if s == nil {
		return f.Sync()
	}
	s.once.Do(func() {
		s.slot = make(chan int, MaxSyncs)
		for i := range MaxSyncs {
			s.slot <- i
		}
		s.ring = sync.OnceValue(newRing)
	})
	slot := <-s.slot
	defer func() { s.slot <- slot }()
	if s.used.Load() >= ringAfter || s.used.Add(1) >= ringAfter {
		if r := s.ring(); r != nil {
			if err, ok := r.sync(slot, f); ok {
				return err
			}
		}
	}
	return f.Sync()
}

// Sync makes the content of f durable. After an error nobody may believe in any
// of it: give the file up, and do not call again.
func (s *FS) Sync(f *os.File) error {
	if err := s.ask(OpSync, f.Name()); err != nil {
		return err
	}
	return s.fsync(f)
}

// SyncDir returns after an fsync of the directory that began after the call, so
// that every change of its entries made before the call is durable. Callers that
// wait for the same directory share the next one.
func (s *FS) SyncDir(name string) error {
	if s == nil {
		d, err := s.OpenDir(name)
		if err != nil {
			return err
		}
		defer d.Close()
		return d.Sync()
	}
	s.mu.Lock()
	d := s.dirs[name]
	if d == nil {
		f, err := os.Open(name)
		if err != nil {
			s.mu.Unlock()
			return err
		}
		d = &sharedDir{Dir: Dir{fs: s, f: f}}
		if s.dirs == nil {
			s.dirs = make(map[string]*sharedDir)
		}
		s.dirs[name] = d
	}
	d.users++
	s.mu.Unlock()

	err := d.Sync()

	s.mu.Lock()
	if d.users--; d.users == 0 {
		delete(s.dirs, name)
		d.Close()
	}
	s.mu.Unlock()
	return err
}

// Dir is an open directory whose waiters share fsyncs.
type Dir struct {
	fs *FS
	f  *os.File

	mu      sync.Mutex
	running bool
	next    *round // the fsync that has not begun yet, if someone waits for it
}

// round is one fsync and those who wait for it.
type round struct {
	done chan struct{}
	err  error
}

// OpenDir opens a directory.
func (s *FS) OpenDir(name string) (*Dir, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return &Dir{fs: s, f: f}, nil
}

// NewDir uses a directory that is open already, and owns it from now on.
func (s *FS) NewDir(f *os.File) *Dir { return &Dir{fs: s, f: f} }

// File is the open directory, for locks and *at(2) calls.
func (d *Dir) File() *os.File { return d.f }

// Close closes the directory; nobody may wait in Sync.
func (d *Dir) Close() error { return d.f.Close() }

// Sync returns after an fsync that began after the call. Who comes while one is
// running waits for the next one, all of them for the same one.
func (d *Dir) Sync() error {
	d.mu.Lock()
	r := d.next
	if r == nil {
		r = &round{done: make(chan struct{})}
		d.next = r
	}
	lead := !d.running
	d.running = true
	d.mu.Unlock()
	if lead {
		d.lead()
	}
	<-r.done
	return r.err
}

// lead runs the next fsync, and leaves those that came meanwhile to a goroutine:
// whoever leads has waited long enough itself.
func (d *Dir) lead() {
	d.mu.Lock()
	r := d.next
	d.next = nil
	if r == nil {
		d.running = false
		d.mu.Unlock()
		return
	}
	d.mu.Unlock()
	if err := d.fs.ask(OpDir, d.f.Name()); err != nil {
		r.err = err
	} else {
		r.err = d.fs.fsync(d.f)
	}
	close(r.done)
	d.mu.Lock()
	more := d.next != nil
	if !more {
		d.running = false
	}
	d.mu.Unlock()
	if more {
		go d.lead()
	}
}

// WriteFile replaces a file as a whole: fill writes a new one beside it, which is
// synced, renamed over the name, and the directory synced. On an error the old
// file is still there, except that after an error of the last step either may be.
func (s *FS) WriteFile(name string, perm os.FileMode, fill func(io.Writer) error) (err error) {
	f, err := s.createTemp(name, perm)
	if err != nil {
		return err
	}
	temp := f.Name()
	defer func() {
		if temp != "" {
			f.Close()
			os.Remove(temp)
		}
	}()
	if err := fill(&writer{s, f}); err != nil {
		return err
	}
	if err := s.Chmod(f, perm); err != nil { // whatever the umask took off
		return err
	}
	if err := s.Sync(f); err != nil {
		return err
	}
	if err := s.Close(f); err != nil {
		return err
	}
	if err := s.Rename(temp, name); err != nil {
		return err
	}
	temp = ""
	return s.SyncDir(filepath.Dir(name))
}

// createTemp makes a file beside name that no other process or call uses.
func (s *FS) createTemp(name string, perm os.FileMode) (*os.File, error) {
	for n := time.Now().UnixNano(); ; n++ {
		f, err := s.OpenFile(fmt.Sprintf("%s.%d.%d.tmp", name, os.Getpid(), n), os.O_RDWR|os.O_CREATE|os.O_EXCL, perm&^0o077)
		if !errors.Is(err, os.ErrExist) {
			return f, err
		}
	}
}

type writer struct {
	s *FS
	f *os.File
}

func (w *writer) Write(p []byte) (int, error) { return w.s.Write(w.f, p) }
