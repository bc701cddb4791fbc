package postconf

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockTemporary creates or takes over the temporary file and waits for others
// that edit at the same time. The name is fixed, so that a crash leaves one
// file behind and not many.
func lockTemporary(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open %s: %s", path, reason(err))
		}
		if err := lock(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %s", path, reason(err))
		}
		// Whoever held the lock may have renamed the file meanwhile.
		mine, err := f.Stat()
		there, err2 := os.Stat(path)
		if err == nil && err2 == nil && os.SameFile(mine, there) {
			return f, nil
		}
		f.Close()
	}
}

// lock is what the peer does: a write lock by fcntl on the whole file.
func lock(f *os.File) error {
	return unix.FcntlFlock(f.Fd(), unix.F_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK})
}

// commit writes text into tmp and puts it at path. The rename is the moment:
// before it the old file counts, after it the new one, also after a power cut.
func commit(tmp *os.File, path string, text []byte) error {
	if err := tmp.Truncate(0); err != nil {
		return err
	}
	if _, err := tmp.WriteAt(text, 0); err != nil {
		return err
	}
	if old, err := os.Stat(path); err == nil {
		if err := tmp.Chmod(old.Mode().Perm()); err != nil {
			return err
		}
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
