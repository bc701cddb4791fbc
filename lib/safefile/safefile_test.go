package safefile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"angarium/lib/safefile"
)

// Each step of a replacement fails once, and is the last one once: the file is the
// old one or the new one, never anything between.
func TestWriteFileInterrupted(t *testing.T) {
	for _, dies := range []bool{false, true} {
		for step := 1; ; step++ {
			name := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(name, []byte("old"), 0o644); err != nil {
				t.Fatal(err)
			}
			n, hit := 0, false
			fs := &safefile.FS{Hook: func(safefile.Op, string) error {
				if n++; n < step {
					return nil
				}
				if n == step {
					hit = true
				}
				if dies {
					panic("died")
				}
				if n == step {
					return syscall.EIO
				}
				return nil
			}}
			err := func() (err error) {
				defer func() {
					if recover() != nil {
						err = errors.New("died")
					}
				}()
				return fs.WriteFile(name, 0o644, func(w io.Writer) error {
					_, err := io.WriteString(w, "new text")
					return err
				})
			}()
			got, rerr := os.ReadFile(name)
			if rerr != nil || string(got) != "old" && string(got) != "new text" {
				t.Errorf("step %d: %q %v", step, got, rerr)
			}
			if err == nil && string(got) != "new text" {
				t.Errorf("step %d: said it was written, and is %q", step, got)
			}
			if files, _ := os.ReadDir(filepath.Dir(name)); !dies && len(files) != 1 {
				t.Errorf("step %d: %d files", step, len(files))
			}
			if !hit {
				if step < 6 || err != nil {
					t.Fatalf("%d steps, %v", step-1, err)
				}
				break
			}
		}
	}
}

// Whoever waits gets an fsync that began after his change, and many share one.
func TestSyncDirShares(t *testing.T) {
	dir := t.TempDir()
	var began, syncs atomic.Int64
	fs := &safefile.FS{}
	fs.Hook = func(op safefile.Op, _ string) error {
		if op == safefile.OpDir {
			began.Store(time.Now().UnixNano())
			syncs.Add(1)
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
				t.Error(err)
			}
			changed := time.Now().UnixNano()
			if err := fs.SyncDir(dir); err != nil {
				t.Error(err)
			}
			if last := began.Load(); last < changed {
				t.Errorf("the last sync began %d ns before the change", changed-last)
			}
		})
	}
	wg.Wait()
	if n := syncs.Load(); n >= 100 {
		t.Errorf("%d syncs for 200 changes", n)
	}
}

// An error reaches all who waited for that fsync, and nobody after it.
func TestSyncErrorIsNotRetried(t *testing.T) {
	var calls atomic.Int64
	fs := &safefile.FS{Hook: func(op safefile.Op, _ string) error {
		if op == safefile.OpDir && calls.Add(1) == 1 {
			return syscall.EIO
		}
		return nil
	}}
	d, err := fs.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("the failure was lost: %v", err)
	}
	if calls.Load() != 1 {
		t.Errorf("tried %d times", calls.Load())
	}
	if err := d.Sync(); err != nil {
		t.Errorf("a later change pays for it: %v", err)
	}
}

func TestLocks(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	open := func() *os.File {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	for kind, try := range map[string]func(*os.File, safefile.How) error{"flock": safefile.TryLock, "fcntl": safefile.TryLockRange} {
		a, b := open(), open()
		if err := try(a, safefile.Exclusive); err != nil {
			t.Fatal(err)
		}
		if err := try(b, safefile.Shared); err != safefile.ErrLocked {
			t.Errorf("%s: a second lock: %v", kind, err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		if err := safefile.Lock(ctx, b, safefile.Exclusive); kind == "flock" && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: waited and got %v", kind, err)
		}
		cancel()
		a.Close()
		if err := try(b, safefile.Exclusive); err != nil {
			t.Errorf("%s: after it was given back: %v", kind, err)
		}
	}
}

// After some fsyncs the kernel does them for us; each caller gets its own outcome.
func TestManySyncs(t *testing.T) {
	dir := t.TempDir()
	fs := &safefile.FS{}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var wg sync.WaitGroup
	for i := range 4 * safefile.MaxSyncs {
		wg.Go(func() {
			f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
			if err != nil {
				t.Error(err)
				return
			}
			if i%2 == 0 {
				if err := fs.Sync(f); err != nil {
					t.Error(err)
				}
			} else if err := fs.Sync(w); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("fsync of a pipe: %v", err)
			}
			f.Close()
			if err := fs.Sync(f); !errors.Is(err, os.ErrClosed) {
				t.Errorf("fsync of a closed file: %v", err)
			}
		})
	}
	wg.Wait()
}
