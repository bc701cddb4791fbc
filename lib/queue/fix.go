package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FixOptions say what Fix shall do.
type FixOptions struct {
	Purge bool // remove what a dead writer left more than a day ago
	Names bool // put files where their names belong, and give them names with their inode
	Long  bool // long names, too, must contain the inode

	Warn func(format string, args ...any)
	Info func(format string, args ...any)
}

// TempAge is when an incomplete file is surely nobody's any more.
const TempAge = 24 * time.Hour

// fixMark ends a name that is new but may still be another file's old one. Only
// when all files have such names are the marks taken off; a run that was
// interrupted is finished by the next.
const fixMark = "#FIX"

// Fix makes the tree fit names, hashing and inodes again, after a restore from
// backup or a change of hash_queue_names. The mail system should be down: a
// message in delivery would lose its name. It returns how many messages got
// another name.
func (q *Queue) Fix(dirs []Dir, opt FixOptions) (renamed int, err error) {
	marked := false
	// Logs first: where a message gets another name, its logs must be at their places.
	dirs = slices.Clone(dirs)
	slices.SortStableFunc(dirs, func(a, b Dir) int { return rank(a) - rank(b) })
	for _, d := range dirs {
		opt.Info("queue: %s", d)
		err := q.walk(q.path+"/"+string(d), opt.Names, func(path string, e dirent) error {
			n, err := q.fix(d, path, e, opt)
			renamed += n
			marked = marked || n > 0 || strings.HasSuffix(e.name, fixMark)
			return err
		})
		if err != nil {
			return renamed, err
		}
	}
	if !marked {
		return renamed, nil
	}
	for _, d := range append(dirs, Bounce, Defer, Trace) {
		err := q.walk(q.path+"/"+string(d), false, func(path string, e dirent) error {
			id, ok := strings.CutSuffix(e.name, fixMark)
			if !ok || !ValidID(id) {
				return nil
			}
			return q.put(path, d, id)
		})
		if err != nil {
			return renamed, err
		}
	}
	return renamed, nil
}

func rank(d Dir) int {
	if d == Bounce || d == Defer || d == Trace {
		return 0
	}
	return 1
}

// walk visits all files below a directory, and may remove subdirectories of one
// letter that are empty.
func (q *Queue) walk(dir string, tidy bool, visit func(path string, e dirent) error) error {
	entries, err := readDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := dir + "/" + e.name
		if e.dir {
			if len(e.name) != 1 {
				continue
			}
			if err := q.walk(path, tidy, visit); err != nil {
				return err
			}
			if tidy {
				_ = os.Remove(path) // stays if it is not empty
			}
			continue
		}
		if err := visit(path, e); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// atPlace reports whether a directory entry alone shows that nothing is to be done:
// the file is where its name belongs, and its name has its inode; and it is none of
// those that a dead writer leaves. Nearly all files of a queue are so.
func (q *Queue) atPlace(d Dir, path string, e dirent, opt FixOptions) bool {
	switch d {
	case Deferred, Active, Hold, Corrupt:
		return ValidID(e.name) && q.rightID(e.name, e.inode, opt.Long) == e.name && q.file(d, e.name) == path
	case Bounce, Defer, Trace:
		return ValidID(e.name) && q.file(d, e.name) == path
	}
	return false
}

// fix looks at one file. It returns 1 if it gave a message another name.
func (q *Queue) fix(d Dir, path string, e dirent, opt FixOptions) (int, error) {
	name := e.name
	if q.atPlace(d, path, e, opt) {
		return 0, nil
	}
	if strings.HasSuffix(name, fixMark) {
		return 0, nil
	}
	rel := strings.TrimPrefix(path, q.path+"/")
	info, err := stat(path)
	if err != nil {
		return 0, err
	}
	message := d == Maildrop || d == Incoming || d == Active || d == Deferred || d == Hold || d == Corrupt
	if opt.Purge && q.now().Sub(info.ModTime) > TempAge && info.Mode.IsRegular() && leftOver(d, name, info) {
		opt.Info("removed file %s", rel)
		return 0, q.fs.Remove(path)
	}
	if !ValidID(name) {
		if d != Flush {
			opt.Warn("bogus file name: %s", rel)
		}
		return 0, nil
	}
	if !opt.Names && !opt.Long {
		return 0, nil
	}
	if message {
		if to := q.rightID(name, info.Inode, opt.Long); to != name {
			opt.Info("renamed file %s as %s", rel, string(d)+"/"+to+fixMark)
			if err := q.put(path, d, to+fixMark); err != nil {
				return 0, err
			}
			for _, l := range []Dir{Bounce, Defer, Trace} {
				if err := q.put(q.file(l, name), l, to+fixMark); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return 0, err
				}
			}
			return 1, nil
		}
	}
	if want := q.file(d, name); want != path {
		opt.Info("renamed file %s as %s", rel, q.Name(d, name))
		return 0, q.put(path, d, name)
	}
	return 0, nil
}

// leftOver reports whether a file is what a writer leaves that died: one that has
// no id yet, or is not complete.
func leftOver(d Dir, name string, info Info) bool {
	if d != Incoming && d != Maildrop {
		return false
	}
	usec, pid, dot := strings.Cut(name, ".")
	if dot {
		return strings.Trim(usec, "0123456789") == "" && strings.Trim(pid, "0123456789") == ""
	}
	return ValidID(name) && !info.Complete()
}

// put renames a file to where an id belongs.
func (q *Queue) put(path string, d Dir, id string) error { return q.rename(path, q.file(d, id)) }

// rightID is the id that a file of this inode should have. Long ids need no inode
// to be unique, but become short ones where those are configured.
func (q *Queue) rightID(id string, inode uint64, long bool) string {
	i, isLong := longTimePart(id)
	if have, ok := Inode(id); ok && have == inode && isLong == q.long {
		return id
	}
	switch {
	case isLong && q.long && !long:
		return id
	case isLong && q.long:
		return id[:i+1] + string(appendBase(nil, inode, 51, 1))
	case isLong:
		return hashKey(id) + strings.ToUpper(strconv.FormatUint(inode, 16))
	case len(id) > 5:
		if have, ok := Inode(id); ok && have == inode {
			return id // a short one where long ones are configured now is fine
		}
		return id[:5] + strings.ToUpper(strconv.FormatUint(inode, 16))
	}
	return fmt.Sprintf("%05X%X", 0, inode)
}

// Hold puts a message on hold; false if it is in none of dirs.
func (q *Queue) Hold(id string, dirs ...Dir) (bool, error) {
	return q.moveAny(id, Hold, time.Time{}, dirs)
}

// Release lets a held message go: it is tried again now.
func (q *Queue) Release(id string, dirs ...Dir) (bool, error) {
	return q.moveAny(id, Deferred, q.now(), dirs)
}

// Requeue sends a message through cleanup again, as if it were submitted now. What
// is known about its delivery is forgotten.
func (q *Queue) Requeue(id string, dirs ...Dir) (bool, error) {
	ok, err := q.moveAny(id, Maildrop, q.now(), dirs)
	if ok {
		for _, l := range []Dir{Bounce, Defer, Trace} {
			if err := q.RemoveLog(l, id); err != nil {
				return true, err
			}
		}
	}
	return ok, err
}

// moveAny moves a message from the first of dirs where it is, and sets when it is
// due unless that is zero.
func (q *Queue) moveAny(id string, to Dir, due time.Time, dirs []Dir) (bool, error) {
	for _, d := range dirs {
		if d == to {
			continue
		}
		err := q.Move(id, d, to)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		if !due.IsZero() {
			err = q.SetTry(to, id, due)
		}
		if errors.Is(err, fs.ErrNotExist) { // qmgr was faster
			err = nil
		}
		return true, err
	}
	return false, nil
}

// Expire asks that a message be returned at its next try; false if it is in none
// of dirs.
func (q *Queue) Expire(id string, dirs ...Dir) (bool, error) {
	for _, d := range dirs {
		info, err := q.Stat(d, id)
		if err == nil {
			err = os.Chmod(q.file(d, id), info.Mode.Perm()|ModeExpired)
		}
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}

// Delete removes a message and its logs; false if it is in none of dirs. It does
// not ask whether someone delivers it at this moment.
func (q *Queue) Delete(id string, dirs ...Dir) (bool, error) {
	for _, d := range dirs {
		if _, err := q.Stat(d, id); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return false, err
		}
		err := q.Remove(d, id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return err == nil, err
	}
	return false, nil
}
