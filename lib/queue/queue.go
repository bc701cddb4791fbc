// Package queue keeps messages on their way, in the files and directories of
// Postfix 3.7, so that a spool can be taken over from Postfix while it is
// stopped, and handed back.
//
//	maildrop/  raw submissions of postdrop        bounce/  why recipients bounced
//	incoming/  being written, or new              defer/   why they wait
//	active/    being delivered                    trace/   reports asked for
//	deferred/  waiting (hashed: deferred/4/4F..)  flush/   which wait for a site
//	hold/      until a person decides             corrupt/ not to be understood
//
// A file is a sequence of records (queue(5)): envelope, content, and what was
// extracted from the content. A message is in exactly one directory, since it
// moves with rename(2), and a crash leaves it in the one before or after.
//
// A message becomes ours at one instant, in Draft.Commit: the mode 0700 marks it
// complete, then file and directory are synced. What was not committed (mode 0600)
// is nobody's, and is removed when its writer is surely dead.
//
// The package does not know routes, aliases or SMTP, nor when to try what.
package queue

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"angarium/lib/safefile"
)

// File modes that mean something. Postfix' maildrop files are also readable by
// others, since pickup is not their owner.
const (
	ModeComplete = 0o700
	ModeExpired  = 0o010 // postsuper -e: to be returned at the next try
	ModeMaildrop = 0o744
)

// Options are the settings of a queue. The zero value is Postfix' with hashing
// of deferred and defer at one level.
type Options struct {
	FS        *safefile.FS     // nil: one of its own
	HashNames []string         // hash_queue_names; nil: deferred, defer
	HashDepth int              // hash_queue_depth; 0: 1
	LongIDs   bool             // enable_long_queue_ids
	Now       func() time.Time // nil: time.Now
}

// Queue is an open queue directory. It is safe for concurrent use, also by
// several processes.
type Queue struct {
	path   string
	fs     *safefile.FS
	hashed []string
	depth  int
	long   bool
	now    func() time.Time
}

// Open uses the queue below path. It looks at nothing yet: the directories are
// made by `postfix check`, or by Create where they are missing.
func Open(path string, opt Options) (*Queue, error) {
	if path == "" {
		return nil, errors.New("no queue directory")
	}
	q := &Queue{path: path, fs: opt.FS, hashed: opt.HashNames, depth: opt.HashDepth, long: opt.LongIDs, now: opt.Now}
	if q.fs == nil {
		q.fs = new(safefile.FS)
	}
	if q.hashed == nil {
		q.hashed = []string{string(Deferred), string(Defer)}
	}
	if q.depth == 0 {
		q.depth = 1
	}
	if q.now == nil {
		q.now = time.Now
	}
	return q, nil
}

// Path is the queue directory.
func (q *Queue) Path() string { return q.path }

// Hashed reports whether a directory has subdirectories.
func (q *Queue) Hashed(d Dir) bool { return slices.Contains(q.hashed, string(d)) }

// Name is the path of a message's file, relative to Path.
func (q *Queue) Name(d Dir, id string) string {
	b := make([]byte, 0, 64)
	b = append(b, d...)
	b = append(b, '/')
	if q.Hashed(d) {
		b = hashed(b, id, q.depth)
	}
	return string(append(b, id...))
}

func (q *Queue) file(d Dir, id string) string { return q.path + "/" + q.Name(d, id) }

// Move takes a message to another directory; fs.ErrNotExist if it is not there.
// The move is not synced: after a power cut the message is in either, and in both
// it is ours.
func (q *Queue) Move(id string, from, to Dir) error {
	if !ValidID(id) {
		return fmt.Errorf("bad queue id: %q", id)
	}
	a, b := q.file(from, id), q.file(to, id)
	return q.rename(a, b)
}

// rename makes the new name's directory if that is what is missing.
func (q *Queue) rename(from, to string) error {
	err := q.fs.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := stat(from); serr == nil && q.makeDirs(to) == nil {
			err = q.fs.Rename(from, to)
		}
	}
	return err
}

// makeDirs makes the directories in which a file shall lie, of the mode that
// Postfix gives them.
func (q *Queue) makeDirs(file string) error {
	return os.MkdirAll(filepath.Dir(file), 0o700)
}

// Defer puts a message from the active directory aside until next.
func (q *Queue) Defer(id string, next time.Time) error {
	if err := q.SetTry(Active, id, next); err != nil {
		return err
	}
	return q.Move(id, Active, Deferred)
}

// SetTry sets when a message is to be tried: its mtime.
func (q *Queue) SetTry(d Dir, id string, next time.Time) error {
	return q.fs.Chtimes(q.file(d, id), next)
}

// Remove ends a message: its logs first, since an id may come again (it holds
// the inode) and a new message must not find the old one's logs.
func (q *Queue) Remove(d Dir, id string) error {
	if !ValidID(id) {
		return fmt.Errorf("bad queue id: %q", id)
	}
	for _, l := range []Dir{Bounce, Defer, Trace} {
		if err := q.RemoveLog(l, id); err != nil {
			return err
		}
	}
	return q.fs.Remove(q.file(d, id))
}

// RemoveOnly ends a message of which the caller knows that it has no logs.
func (q *Queue) RemoveOnly(d Dir, id string) error {
	if !ValidID(id) {
		return fmt.Errorf("bad queue id: %q", id)
	}
	return q.fs.Remove(q.file(d, id))
}

// Info is what the directory knows about a file.
type Info struct {
	ModTime time.Time // the next try
	Mode    os.FileMode
	Size    int64 // of the file
	Inode   uint64
	Links   uint64
}

// Complete reports whether the message was committed.
func (i Info) Complete() bool { return i.Mode.IsRegular() && i.Mode.Perm()&0o700 == ModeComplete }

// Expired reports whether postsuper -e or -f was asked for it.
func (i Info) Expired() bool { return i.Mode.Perm()&ModeExpired != 0 }

// Stat looks at a message without opening it.
func (q *Queue) Stat(d Dir, id string) (Info, error) { return stat(q.file(d, id)) }

// Find returns the first of dirs where the message is.
func (q *Queue) Find(id string, dirs ...Dir) (Dir, bool) {
	if !ValidID(id) {
		return "", false
	}
	for _, d := range dirs {
		if _, err := q.Stat(d, id); err == nil {
			return d, true
		}
	}
	return "", false
}

// Scan goes through the ids of a directory in no order, reading it in pieces, so
// that a million messages cost no memory. What is no queue id is passed over.
// Files that come, go or move meanwhile may be seen or not.
func (q *Queue) Scan(d Dir) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		depth := 0
		if q.Hashed(d) {
			depth = q.depth
		}
		q.scan(q.path+"/"+string(d), depth, yield)
	}
}

// scan yields the ids that lie depth levels of one-letter subdirectories below
// dir. Files at the wrong level, left over from another hash_queue_depth, are the
// business of postsuper -s.
func (q *Queue) scan(dir string, depth int, yield func(string, error) bool) bool {
	f, err := os.Open(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return true
		}
		return yield("", err)
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(256)
		for _, e := range entries {
			name := e.Name()
			if len(name) == 1 && e.IsDir() {
				if depth > 0 && !q.scan(dir+"/"+name, depth-1, yield) {
					return false
				}
				continue
			}
			if depth == 0 && ValidID(name) && !e.IsDir() && !yield(name, nil) {
				return false
			}
		}
		if err == io.EOF {
			return true
		}
		if err != nil {
			return yield("", err)
		}
	}
}
