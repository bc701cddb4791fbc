package maps

import (
	"bytes"
	"context"
	"io"
	"os"
	"sync"
	"time"

	"angarium/lib/cdb"
)

// recheck is how long a table trusts that its file is still the one it opened.
const recheck = time.Second

// smallDB is the size up to which a database is kept in memory; a larger one is
// read where it lies, so that ten programs do not hold ten copies.
const smallDB = 256 << 10

// db serves the tables that postmap makes. hash:, btree: and the others are
// names of old formats; all of them are name.cdb here.
type db struct {
	file  string
	whole bool // in memory, whatever its size

	mu     sync.Mutex
	r      *cdb.Reader
	f      *os.File // nil: in memory
	info   os.FileInfo
	looked time.Time
	nul    nulState
}

// Some tables hold a NUL behind each key and value. Which kind this is shows
// when the first key is found.
type nulState int

const (
	nulUnknown nulState = iota
	nulNever
	nulAlways
)

func newDB(name string, whole bool) *db { return &db{file: name + ".cdb", whole: whole} }

func (t *db) Lookup(_ context.Context, key string) (string, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.fresh(); err != nil {
		return "", false, err
	}
	if t.nul != nulNever {
		v, ok, err := t.r.Get(key + "\x00")
		if err != nil {
			return "", false, err
		}
		if ok {
			t.nul = nulAlways
			if n := len(v); n > 0 && v[n-1] == 0 {
				v = v[:n-1]
			}
			return v, true, nil
		}
	}
	if t.nul != nulAlways {
		v, ok, err := t.r.Get(key)
		if ok {
			t.nul = nulNever
		}
		return v, ok, err
	}
	return "", false, nil
}

// fresh opens the file, or opens it again when another stands in its place.
func (t *db) fresh() error {
	now := time.Now()
	if t.r != nil && now.Sub(t.looked) < recheck {
		return nil
	}
	info, err := os.Stat(t.file)
	if err != nil {
		if t.r != nil && os.IsPermission(err) {
			return nil // the rights to look were given up; what is open stays good
		}
		return &OpenError{t.file, err}
	}
	t.looked = now
	if t.r != nil && os.SameFile(info, t.info) && info.ModTime().Equal(t.info.ModTime()) {
		return nil
	}
	f, err := os.Open(t.file)
	if err != nil {
		if t.r != nil && os.IsPermission(err) {
			return nil
		}
		return &OpenError{t.file, err}
	}
	if info, err = f.Stat(); err != nil {
		f.Close()
		return &OpenError{t.file, err}
	}
	var r io.ReaderAt = f
	if t.whole || info.Size() <= smallDB {
		data, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			return &OpenError{t.file, err}
		}
		f, r, info = nil, bytes.NewReader(data), sized{info, int64(len(data))}
	}
	c, err := cdb.NewReader(r, info.Size())
	if err != nil {
		if f != nil {
			f.Close()
		}
		return &OpenError{t.file, err}
	}
	if t.f != nil {
		t.f.Close()
	}
	if s, ok := info.(sized); ok {
		info = s.FileInfo
	}
	t.r, t.f, t.info, t.nul = c, f, info, nulUnknown
	return nil
}

// sized is a FileInfo with the length that was really read.
type sized struct {
	os.FileInfo
	n int64
}

func (s sized) Size() int64 { return s.n }
