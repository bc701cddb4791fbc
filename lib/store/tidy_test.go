package store

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"angarium/lib/mailbox"
)

// TestDeadRename: a process dies while it renames a mailbox; one that has the store open
// since before finishes it when it misses the mailbox.
func TestDeadRename(t *testing.T) {
	for _, half := range []bool{false, true} {
		f := newFixture(t)
		e := f.create("user.bob.a")
		must(t, f.deliver("user.bob.a", letter(1)))
		reader, err := Open(bg, f.conf)
		must(t, err)
		other, err := Open(bg, f.conf)
		must(t, err)
		must(t, other.list.change(bg, func(tx *sql.Tx) error { return note(bg, tx, "user.bob.a", "user.bob.b") }))
		if half { // .mailbox is still at the old name
			must(t, os.MkdirAll(f.path("user.bob.b"), 0o700))
			must(t, os.Rename(f.path("user.bob.a", "cur"), f.path("user.bob.b", "cur")))
			must(t, os.Rename(f.path("user.bob.a", metaName), f.path("user.bob.b", metaName)))
		} else {
			must(t, other.moveDirs(e, "user.bob.b"))
		}
		must(t, other.Close())
		if half {
			_, err = reader.Open(bg, "user.bob.a", User{})
		} else {
			err = f.deliver("user.bob.a", letter(2)) // which has it open
		}
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("the old name: %v", err)
		}
		must(t, reader.Close())
		m := f.mailbox("user.bob.b")
		equal(t, "messages", f.view(m).Len(), 1)
		equal(t, "text", f.body(m, 1), letter(1))
	}
}

// TestTidy: what the dead left in tmp/ and beside our files goes after its time, and not
// before; nothing else does.
func TestTidy(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	f.append(m, letter(1))
	temp, ours := f.path("user.bob", "tmp", "1.2.host"), f.path("user.bob", metaName+tempMark+"dead.1")
	f.write(temp, "half a lett")
	f.write(ours, "half")
	there := func(path string) bool { _, err := os.Stat(path); return err == nil }
	look := func(d time.Duration) [2]bool {
		f.pass(d)
		f.view(m)
		return [2]bool{there(temp), there(ours)}
	}
	// An hour and a moment: cur/ is listed, and our own file is too old.
	f.now.Add(int64(-time.Minute))
	equal(t, "soon", look(time.Second), [2]bool{true, true})
	equal(t, "after an hour", look(ourTempLife+2*time.Minute), [2]bool{true, false})
	equal(t, "after a day", look(24*time.Hour), [2]bool{true, false})
	equal(t, "after two", look(24*time.Hour), [2]bool{false, false})
	equal(t, "the letter", f.body(m, 1), letter(1))
	if !there(f.path("user.bob", metaName)) {
		t.Error("and .mailbox, too")
	}
}

// TestExpungedFolder: .expunged is no more when nothing is left in it.
func TestExpungedFolder(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	u := f.append(m, letter(1))
	_, err := m.Expunge(bg, SetOf(u))
	must(t, err)
	f.pass(6 * time.Second)
	equal(t, "kept", len(f.files("user.bob", expungedDir)), 1)
	f.pass(time.Hour)
	if _, err := os.Stat(f.path("user.bob", expungedDir)); err == nil {
		t.Error("it is still there")
	}
	u = f.append(m, letter(2))
	_, err = m.Expunge(bg, SetOf(u))
	must(t, err)
	f.pass(6 * time.Second)
	equal(t, "made again", len(f.files("user.bob", expungedDir)), 1)
}

// TestStaleCopy: what one who died left on the partition to which a mailbox is moved does
// not become part of it.
func TestStaleCopy(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	must(t, f.deliver("user.bob", letter(1)))
	stale := filepath.Join(f.dir, "spool2", mailbox.Name("user.bob").Path())
	must(t, os.MkdirAll(filepath.Join(stale, "cur"), 0o700))
	f.write(filepath.Join(stale, "cur", "1700000000.stale.host:2,S"), letter(9))
	must(t, os.MkdirAll(filepath.Join(stale, expungedDir), 0o700))
	must(t, f.Rename(bg, "user.bob", "user.bob", "two"))
	files, err := os.ReadDir(filepath.Join(stale, "cur"))
	must(t, err)
	if _, err := os.Stat(filepath.Join(stale, expungedDir)); len(files) != 1 || err == nil {
		t.Errorf("%v, %v", files, err)
	}
	m := f.mailbox("user.bob")
	f.pass(time.Hour)
	equal(t, "uids", uids(f.view(m)), []UID{1})
}

// TestOtherCur: a cur/ that is not the one the index knows is looked through when the
// mailbox is opened, though its mtime is the same (rule 5).
func TestOtherCur(t *testing.T) {
	f := newFixture(t)
	m := f.populate("user.bob")
	f.pass(10 * time.Second)
	n := f.view(m).Len()
	m.Close()
	f.close()
	cur := f.path("user.bob", "cur")
	info, err := os.Stat(cur)
	must(t, err)
	must(t, os.Rename(cur, cur+".old"))
	must(t, os.Mkdir(cur, 0o700))
	files, err := os.ReadDir(cur + ".old")
	must(t, err)
	for _, e := range files[1:] { // a backup that lacks one
		must(t, os.Link(filepath.Join(cur+".old", e.Name()), filepath.Join(cur, e.Name())))
	}
	must(t, os.Chtimes(cur, info.ModTime(), info.ModTime()))
	f.open()
	st, err := f.Status(bg, "user.bob")
	must(t, err)
	equal(t, "messages", st.Messages, n-1)
}
