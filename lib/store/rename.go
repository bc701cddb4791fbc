package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

func unixTime(s int64) time.Time { return time.Unix(s, 0) }

// Rename gives a mailbox and those below it another name, or another partition.
//
// All that is about to move is noted in the list first, durably; then, one mailbox
// after the other, the directories move and the names in the list, and the note
// goes. Whoever opens the store, or misses a mailbox, and finds notes of one who died
// finishes what they tell of. When a move fails, what was moved goes back.
//
// A mailbox that moves, or goes, is locked until that is durable, against rule 2: what
// is delivered to it meanwhile would be promised to a place that may not be there after
// a power cut. There are a handful of syncs, once in its life.
func (s *Store) Rename(ctx context.Context, from, to mailbox.Name, partition string) error {
	if err := to.Check(); err != nil {
		return err
	}
	e, err := s.list.get(ctx, from)
	if err != nil {
		return err
	}
	if from == to {
		if partition == "" || partition == e.Partition {
			return ErrExists
		}
		return s.changePartition(ctx, e, partition)
	}
	if to.Under(from) && !from.IsInbox() {
		return ErrBadName
	}
	if _, err := s.list.get(ctx, to); !errors.Is(err, ErrNotFound) {
		return or(err, ErrExists)
	}
	if from.IsInbox() && !to.IsInbox() {
		return s.renameInbox(ctx, e, to, partition)
	}
	var all []move
	for c, err := range s.List(ctx, Query{Under: from, Deleted: true}) {
		if err != nil {
			return err
		}
		n := c.Name.Rename(from, to)
		if err := n.Check(); err != nil {
			return err
		}
		all = append(all, move{c, n})
	}
	return s.moveAll(ctx, all, partition)
}

// move is a mailbox and its next name.
type move struct {
	Entry
	to mailbox.Name
}

// moveAll gives some mailboxes other names: all or none.
func (s *Store) moveAll(ctx context.Context, all []move, partition string) error {
	lock, err := s.lockMoves(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unix.Close(lock)
	err = s.list.change(ctx, func(tx *sql.Tx) error {
		for _, m := range all {
			if _, err := getTx(ctx, tx, m.to); !errors.Is(err, ErrNotFound) {
				return or(err, ErrExists)
			}
			if err := note(ctx, tx, m.Name, m.to); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, m := range all {
		if err := s.moveOne(ctx, m, partition); err != nil {
			s.moveBack(all[:i+1], all[i+1:])
			return err
		}
	}
	return nil
}

// lockMoves takes the lock that tells that someone alive is about to do what the
// notes in the list say.
func (s *Store) lockMoves(how int) (fd int, err error) {
	fd, err = openat(unix.AT_FDCWD, s.list.path+".moves", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return -1, err
	}
	for {
		switch err := unix.Flock(fd, how); err {
		case nil:
			return fd, nil
		case unix.EINTR:
		default:
			unix.Close(fd)
			return -1, sysErr("flock", err)
		}
	}
}

// note remembers that a mailbox is about to move.
func note(ctx context.Context, tx *sql.Tx, from, to mailbox.Name) error {
	_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO moves VALUES (?, ?)`, from, to)
	return err
}

func forgetNote(ctx context.Context, tx *sql.Tx, from mailbox.Name) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM moves WHERE source = ?`, from)
	return err
}

// moveBack undoes moves of which the last failed, and forgets those that were not
// begun. What can't be undone now will be finished when the store is opened next.
func (s *Store) moveBack(begun, others []move) {
	ctx := context.Background()
	last := begun[len(begun)-1]
	err := s.list.change(ctx, func(tx *sql.Tx) error {
		for _, m := range others {
			if err := forgetNote(ctx, tx, m.Name); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = s.undoMove(ctx, last)
	}
	for i := len(begun) - 2; i >= 0 && err == nil; i-- {
		var e Entry
		if e, err = s.list.get(ctx, begun[i].to); err != nil {
			break
		}
		back := move{e, begun[i].Name}
		err = s.list.change(ctx, func(tx *sql.Tx) error { return note(ctx, tx, back.Name, back.to) })
		if err == nil {
			err = s.moveOne(ctx, back, begun[i].Partition)
		}
	}
	if err == nil {
		err = s.followRoots(ctx, begun[0].Name) // back in the other order, they found none
	}
	if err != nil {
		s.conf.Log.Errorf("undoing the renaming of %s to %s: %v", begun[0].Name, begun[0].to, err)
	}
}

// undoMove takes back a move that failed somewhere on the way. A mailbox is where
// its .mailbox is.
func (s *Store) undoMove(ctx context.Context, m move) error {
	e, err := s.list.get(ctx, m.Name)
	if err != nil {
		return err
	}
	e.Name = m.to
	dir, err := s.dirOf(e.Partition, m.to)
	if err != nil {
		return err
	}
	if _, err := fstatat(unix.AT_FDCWD, dir); err == nil {
		if err := s.moveDirs(e, m.Name); err != nil {
			return err
		}
	}
	return s.list.change(ctx, func(tx *sql.Tx) error { return forgetNote(ctx, tx, m.Name) })
}

// renameInbox moves the messages of an INBOX to a new mailbox and leaves the
// INBOX, and what is below it, where they are (RFC 3501, 6.3.5).
func (s *Store) renameInbox(ctx context.Context, e Entry, to mailbox.Name, partition string) error {
	if _, err := s.Create(ctx, Entry{Name: to, Partition: partition}); err != nil {
		return err
	}
	src, err := s.Open(ctx, e.Name, User{})
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := s.Open(ctx, to, User{})
	if err != nil {
		return err
	}
	defer dst.Close()
	_, err = src.CopyTo(ctx, dst, UIDSet{{1, 1<<32 - 1}}, true)
	return err
}

// moveOne gives one mailbox another name, which was noted.
func (s *Store) moveOne(ctx context.Context, m move, partition string) error {
	e, to := m.Entry, m.to
	if partition != "" && partition != e.Partition {
		if err := s.changePartition(ctx, e, partition); err != nil {
			return err
		}
		e.Partition = partition
	}
	b, err := s.getBox(ctx, &e)
	if err != nil {
		return err
	}
	defer s.putBox(b)
	t, err := b.lock(ctx, false)
	if err != nil {
		return err
	}
	defer t.end()
	if err := s.fault("move"); err != nil {
		return err
	}
	s.dropBox(b) // sessions find out that it went; new ones open it under its new name
	if err := s.moveDirs(e, to); err != nil {
		return err
	}
	if err := s.fault("moved"); err != nil {
		return err
	}
	if err := s.moveEntry(ctx, e, to); err != nil {
		return err
	}
	s.tell(e.ID, List|Messages)
	return nil
}

// moveDirs moves what belongs to the mailbox, part by part: below it there may
// be others, which stay. It can be called again after half of it was done.
func (s *Store) moveDirs(e Entry, to mailbox.Name) error {
	from, err := s.dirOf(e.Partition, e.Name)
	if err != nil {
		return err
	}
	dst, err := s.dirOf(e.Partition, to)
	if err != nil {
		return err
	}
	if err := s.mkdirs(s.conf.Partitions[e.Partition], dst); err != nil {
		return err
	}
	for _, p := range parts {
		err := unix.Rename(filepath.Join(from, p), filepath.Join(dst, p))
		if err != nil && err != unix.ENOENT {
			return sysErr("rename "+p, err)
		}
	}
	// A rename is one change to a file system's journal: with the names here those
	// over there are gone for good.
	if err := s.syncDirAt(unix.AT_FDCWD, dst, "moved to"); err != nil {
		return err
	}
	s.pruneDirs(e.Partition, from)
	return nil
}

// moveEntry makes the new name true.
func (s *Store) moveEntry(ctx context.Context, e Entry, to mailbox.Name) error {
	n := e
	n.Name = to
	var err error
	switch {
	case to.IsDeleted():
		n.QuotaRoot, n.IsQuotaRoot = "", false
	case e.IsQuotaRoot:
		n.QuotaRoot = to
	default: // what is above was moved before
		if n.QuotaRoot, err = s.rootAbove(ctx, to); err != nil {
			return err
		}
	}
	if n.QuotaRoot != e.QuotaRoot || n.IsQuotaRoot != e.IsQuotaRoot {
		if err := s.moveRoot(n); err != nil {
			return err
		}
	}
	err = s.list.change(ctx, func(tx *sql.Tx) error {
		if err := remove(ctx, tx, &e, s.now()); err != nil {
			return err
		}
		if err := put(ctx, tx, &n); err != nil {
			return err
		}
		if err := s.forgetUsage(e.QuotaRoot); err != nil { // for one who dies before the next does
			return err
		}
		return forgetNote(ctx, tx, e.Name)
	})
	if err != nil {
		return err
	}
	return s.forgetUsage(e.QuotaRoot, n.QuotaRoot)
}

// rootAbove is the quota root of what is next above a name.
func (s *Store) rootAbove(ctx context.Context, name mailbox.Name) (mailbox.Name, error) {
	for n, ok := name.Parent(); ok; n, ok = n.Parent() {
		e, err := s.list.get(ctx, n)
		if err == nil {
			return e.QuotaRoot, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return "", err
		}
	}
	return "", nil
}

// followRoots gives the mailboxes at and below a name the quota root that is next
// above them.
func (s *Store) followRoots(ctx context.Context, under mailbox.Name) error {
	for e, err := range s.List(ctx, Query{Under: under}) {
		if err != nil {
			return err
		}
		if e.IsQuotaRoot {
			continue
		}
		root, err := s.rootAbove(ctx, e.Name)
		if err != nil {
			return err
		}
		if root != e.QuotaRoot {
			if err := s.setRoot(ctx, e, root); err != nil {
				return err
			}
			if err := s.forgetUsage(root, e.QuotaRoot); err != nil {
				return err
			}
		}
	}
	return nil
}

// moveRoot writes the quota root that comes with the new name into .mailbox.
func (s *Store) moveRoot(n Entry) error {
	dir, err := s.dirOf(n.Partition, n.Name)
	if err != nil {
		return err
	}
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	m, _, err := readMeta(fd)
	if err != nil {
		return err
	}
	m.quotaRoot, m.isRoot = n.QuotaRoot, n.IsQuotaRoot
	return writeFileAt(s, fd, metaName, m.write)
}

// finishMoves does what a process that died in the middle of Rename left.
func (s *Store) finishMoves(ctx context.Context) error {
	lock, err := s.lockMoves(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil // someone alive is at it
	}
	if err != nil {
		return err
	}
	defer unix.Close(lock)
	db, err := s.list.open(ctx)
	if err != nil {
		return err
	}
	rows, err := db.QueryContext(ctx, `SELECT source, target FROM moves`)
	if err != nil {
		return err
	}
	var from, to []mailbox.Name
	for rows.Next() {
		var f, t mailbox.Name
		if err := rows.Scan(&f, &t); err != nil {
			rows.Close()
			return err
		}
		from, to = append(from, f), append(to, t)
	}
	rows.Close()
	for i := range from {
		if err := s.finishMove(ctx, from[i], to[i]); err != nil {
			s.conf.Log.Errorf("finishing the renaming of %s to %s: %v", from[i], to[i], err)
		}
	}
	return rows.Err()
}

func (s *Store) finishMove(ctx context.Context, from, to mailbox.Name) error {
	e, err := s.list.get(ctx, from)
	if errors.Is(err, ErrNotFound) {
		return s.list.change(ctx, func(tx *sql.Tx) error { return forgetNote(ctx, tx, from) })
	}
	if err != nil {
		return err
	}
	if err := s.moveDirs(e, to); err != nil {
		return err
	}
	return s.moveEntry(ctx, e, to)
}

// changePartition copies a mailbox to another partition, then changes the list,
// then removes it here. The lock is held all the time: deliveries wait.
func (s *Store) changePartition(ctx context.Context, e Entry, partition string) error {
	from, err := s.dirOf(e.Partition, e.Name)
	if err != nil {
		return err
	}
	dst, err := s.dirOf(partition, e.Name)
	if err != nil {
		return err
	}
	b, err := s.getBox(ctx, &e)
	if err != nil {
		return err
	}
	defer s.putBox(b)
	t, err := b.lock(ctx, false)
	if err != nil {
		return err
	}
	defer t.end()
	if err := s.copyParts(from, partition, dst); err != nil {
		return err
	}
	s.dropBox(b)
	n := e
	n.Partition = partition
	if err := s.list.change(ctx, func(tx *sql.Tx) error { return put(ctx, tx, &n) }); err != nil {
		return err
	}
	if err := s.fault("listed"); err != nil {
		return err
	}
	if err := errors.Join(s.unmake(b.dir), removeParts(b.dir)); err != nil {
		s.conf.Log.Warnf("%s: %v", from, err)
	}
	s.pruneDirs(e.Partition, from)
	s.tell(e.ID, List|Messages)
	return nil
}

// copyParts copies a mailbox, .mailbox last, and after the rest is durable: who dies
// before that leaves nothing that could be taken for one.
func (s *Store) copyParts(from, partition, dst string) error {
	if err := s.mkdirs(s.conf.Partitions[partition], dst); err != nil {
		return err
	}
	fd, err := openat(unix.AT_FDCWD, dst, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := removeParts(fd); err != nil { // what one who died left here
		return err
	}
	for _, p := range parts {
		if p == metaName {
			if err := s.syncFS(fd, "copy"); err != nil {
				return err
			}
		}
		if err := s.fault("copy"); err != nil {
			return err
		}
		if err := copyTree(filepath.Join(from, p), filepath.Join(dst, p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := s.syncFS(fd, nameOf("copy")); err != nil {
		return err
	}
	return s.fault("copied")
}

// copyTree copies a file, or a folder of files, with the mtimes that are internal dates.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		if d.IsDir() {
			if err := os.Mkdir(dst, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			return nil
		}
		return copyFile(path, dst)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("copy to %s: %w", to, err)
	}
	return os.Chtimes(to, st.ModTime(), st.ModTime())
}
