package postconf

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"angarium/lib/safefile"
)

// rewriter replaces main.cf or master.cf under a temporary name.
type rewriter struct {
	fs   safefile.FS
	path string
	tmp  *os.File
}

// begin creates or takes over the temporary file and waits for others that
// edit at the same time; the peer uses the same name and the same lock. The
// name is fixed, so that a crash leaves one file behind and not many.
func begin(ctx context.Context, path string) (*rewriter, error) {
	r := &rewriter{path: path}
	for {
		f, err := r.fs.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open %s.tmp: %s", path, reason(err))
		}
		if err := safefile.Lock(ctx, f, safefile.Exclusive); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s.tmp: %s", path, reason(err))
		}
		// Whoever held the lock may have renamed the file meanwhile.
		mine, err := f.Stat()
		there, err2 := os.Stat(path + ".tmp")
		if err == nil && err2 == nil && os.SameFile(mine, there) {
			r.tmp = f
			return r, nil
		}
		f.Close()
	}
}

// abort gives up; the old file stays. It does nothing after commit.
func (r *rewriter) abort() {
	if r.tmp != nil {
		r.fs.Remove(r.tmp.Name())
		r.tmp.Close()
	}
}

// commit puts text at path. The rename is the moment: before it the old file
// counts, after it the new one, also after a power cut. The new file has the
// old one's mode, since it may hold secrets.
func (r *rewriter) commit(text []byte) error {
	if err := r.tmp.Truncate(0); err != nil {
		return err
	}
	if _, err := r.fs.WriteAt(r.tmp, text, 0); err != nil {
		return err
	}
	if old, err := os.Stat(r.path); err == nil {
		if err := r.fs.Chmod(r.tmp, old.Mode().Perm()); err != nil {
			return err
		}
	}
	if err := r.fs.Sync(r.tmp); err != nil {
		return err
	}
	if err := r.fs.Rename(r.tmp.Name(), r.path); err != nil {
		return err
	}
	tmp := r.tmp
	r.tmp = nil
	if err := r.fs.Close(tmp); err != nil {
		return err
	}
	return r.fs.SyncDir(filepath.Dir(r.path))
}
