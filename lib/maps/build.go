package maps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"angarium/lib/cdb"
	"angarium/lib/safefile"
)

// ErrDuplicate is returned by Builder.Add for a key that is there already.
var ErrDuplicate = errors.New("duplicate entry")

// BuildOptions shape a new database.
type BuildOptions struct {
	KeepCase bool        // do not fold keys (postmap -f)
	NUL      bool        // a NUL behind each key and value (postmap -N)
	Replace  bool        // the last value of a key wins (postmap -r)
	Mode     os.FileMode // permissions; 0: 0644
}

// Builder makes or changes a database of a type that lives in name.cdb. It
// holds the records in memory and becomes true at Commit, by one rename.
type Builder struct {
	file string // name.cdb
	old  string // the file that the old format would have, "" for cdb
	opt  BuildOptions

	records []record
	index   map[string]int
	deleted int
}

type record struct {
	key, value string
	gone       bool
}

// CanBuild reports whether postmap can make tables of this type.
func CanBuild(kind string) bool {
	switch kind {
	case "hash", "btree", "lmdb", "dbm", "cdb", "sdbm":
		return true
	}
	return false
}

// Create starts a new database in place of any that is there.
func Create(kind, name string, o BuildOptions) *Builder {
	b := &Builder{file: name + ".cdb", opt: o, index: map[string]int{}}
	switch kind {
	case "hash", "btree":
		b.old = name + ".db"
	case "lmdb":
		b.old = name + ".lmdb"
	case "dbm", "sdbm":
		b.old = name + ".pag"
	}
	return b
}

// Edit starts with the records of the database that is there (postmap -i, -d).
func Edit(kind, name string, o BuildOptions) (*Builder, error) {
	b := Create(kind, name, o)
	err := each(b.file, func(key, value string) bool {
		if _, ok := b.index[key]; !ok {
			b.index[key] = len(b.records)
		}
		b.records = append(b.records, record{key: key, value: value})
		return true
	})
	return b, err
}

// Len is the number of records.
func (b *Builder) Len() int { return len(b.records) - b.deleted }

// Add adds a record; a key that is there already is ErrDuplicate, and the first
// value stays, unless Replace says otherwise.
func (b *Builder) Add(key, value string) error {
	if !b.opt.KeepCase {
		key = strings.ToLower(key)
	}
	return b.AddRaw(key, value)
}

// AddRaw adds a record whose key is not folded.
func (b *Builder) AddRaw(key, value string) error {
	if i, ok := b.index[key]; ok {
		if !b.opt.Replace {
			return ErrDuplicate
		}
		b.records[i].value = value
		return nil
	}
	b.index[key] = len(b.records)
	b.records = append(b.records, record{key: key, value: value})
	return nil
}

// Delete removes a key and reports whether it was there.
func (b *Builder) Delete(key string) bool {
	if !b.opt.KeepCase {
		key = strings.ToLower(key)
	}
	i, ok := b.index[key]
	if ok {
		delete(b.index, key)
		b.records[i].gone = true
		b.deleted++
	}
	return ok
}

// Commit writes the database, durably, in one step. It also touches the file of
// the old format, because Makefiles and scripts look at its time.
func (b *Builder) Commit() error {
	mode := b.opt.Mode
	if mode == 0 {
		mode = 0o644
	}
	tmp := b.file + ".tmp"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE, mode)
	if err != nil {
		return &OpenError{tmp, err}
	}
	defer f.Close()
	// Two postmaps at once: the second waits here, then finds its file renamed
	// away and makes another.
	if err := safefile.Lock(context.Background(), f, safefile.Exclusive); err != nil {
		return fmt.Errorf("lock %s: %w", tmp, err)
	}
	if now, err := os.Stat(tmp); err != nil || !sameFile(f, now) {
		return b.Commit()
	}
	if err := b.write(f, mode); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, b.file); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(b.file)); err != nil {
		return err
	}
	return b.touchOld(mode)
}

func sameFile(f *os.File, info os.FileInfo) bool {
	mine, err := f.Stat()
	return err == nil && os.SameFile(mine, info)
}

func (b *Builder) write(f *os.File, mode os.FileMode) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	w, err := cdb.NewWriter(f)
	if err != nil {
		return err
	}
	end := ""
	if b.opt.NUL {
		end = "\x00"
	}
	for _, r := range b.records {
		if r.gone {
			continue
		}
		if err := w.Add(r.key+end, r.value+end); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Sync()
}

func (b *Builder) touchOld(mode os.FileMode) error {
	if b.old == "" {
		return nil
	}
	info, err := os.Stat(b.file)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(b.old, os.O_WRONLY|os.O_CREATE, mode)
	if err != nil {
		return &OpenError{b.old, err}
	}
	f.Close()
	return os.Chtimes(b.old, info.ModTime(), info.ModTime())
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ErrNoSequence is returned by Each for a table that can't be listed.
var ErrNoSequence = errors.New("sequence operation is not supported")

// Each calls f for every record of a table, in the order of the table.
func Each(spec string, o Options, f func(key, value string) bool) error {
	kind, name, _ := strings.Cut(spec, ":")
	switch {
	case kind == "proxy":
		return Each(name, o, f)
	case CanBuild(kind):
		return each(name+".cdb", f)
	}
	t, err := Open(spec, o)
	if err != nil {
		return err
	}
	if ft, ok := t.(folded); ok {
		t = ft.Table
	}
	if tf, ok := t.(*textFile); ok {
		if t, err = tf.fresh(); err != nil {
			return err
		}
	}
	m, ok := t.(memory)
	if !ok {
		return ErrNoSequence
	}
	for k, v := range m {
		if !f(k, v) {
			break
		}
	}
	return nil
}

func each(file string, f func(key, value string) bool) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return &OpenError{file, err}
	}
	r, err := cdb.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return &OpenError{file, err}
	}
	return r.Each(func(k, v []byte) bool {
		return f(string(bytes.TrimSuffix(k, []byte{0})), string(bytes.TrimSuffix(v, []byte{0})))
	})
}
