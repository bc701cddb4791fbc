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
// What is about to move is noted in the list first, durably; then the directories
// move; then the names in the list, and the note goes. Whoever opens the store
// and finds a note finishes the move.
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
	var all []Entry
	for c, err := range s.List(ctx, Query{Under: from}) {
		if err != nil {
			return err
		}
		n := c.Name.Rename(from, to)
		if err := n.Check(); err != nil {
			return err
		}
		if _, err := s.list.get(ctx, n); !errors.Is(err, ErrNotFound) {
			return or(err, ErrExists)
		}
		all = append(all, c)
	}
	for _, c := range all {
		if err := s.moveOne(ctx, c, c.Name.Rename(from, to), partition); err != nil {
			return err
		}
	}
	return nil
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

// moveOne gives one mailbox another name.
func (s *Store) moveOne(ctx context.Context, e Entry, to mailbox.Name, partition string) error {
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
	err = s.list.change(ctx, func(tx *sql.Tx) error {
		if _, err := getTx(ctx, tx, to); !errors.Is(err, ErrNotFound) {
			return or(err, ErrExists)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO moves VALUES (?, ?)`, e.Name, to)
		return err
	})
	if err != nil {
		return err
	}
	if to.IsDeleted() {
		t.giveBack(Quota{t.hdr.size, int64(t.hdr.live)})
	}
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
	if err := s.syncDirAt(unix.AT_FDCWD, dst); err != nil {
		return err
	}
	if err := s.syncDirAt(unix.AT_FDCWD, from); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.pruneDirs(e.Partition, from)
	return nil
}

// moveEntry makes the new name true.
func (s *Store) moveEntry(ctx context.Context, e Entry, to mailbox.Name) error {
	n := e
	n.Name = to
	switch {
	case to.IsDeleted():
		n.QuotaRoot, n.IsQuotaRoot = "", false
	case e.QuotaRoot == e.Name:
		n.QuotaRoot = to
	}
	if n.QuotaRoot != e.QuotaRoot || n.IsQuotaRoot != e.IsQuotaRoot {
		if err := s.moveRoot(n); err != nil {
			return err
		}
	}
	return s.list.change(ctx, func(tx *sql.Tx) error {
		if err := remove(ctx, tx, &e, s.now()); err != nil {
			return err
		}
		if err := put(ctx, tx, &n); err != nil {
			return err
		}
		if n.QuotaRoot == to { // those below follow their root
			_, err := tx.ExecContext(ctx, `UPDATE mailboxes SET quotaroot = ? WHERE quotaroot = ?`, to, e.Name)
			if err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM moves WHERE source = ?`, e.Name)
		return err
	})
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
		return s.list.change(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM moves WHERE source = ?`, from)
			return err
		})
	}
	if err != nil {
		return err
	}
	// A living process may be at it: it holds the lock of whichever directory
	// has the mailbox now.
	for _, n := range []mailbox.Name{from, to} {
		dir, err := s.dirOf(e.Partition, n)
		if err != nil {
			return err
		}
		fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil {
			return nil
		}
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
	if err := s.mkdirs(s.conf.Partitions[partition], dst); err != nil {
		return err
	}
	for _, p := range parts {
		if err := copyTree(filepath.Join(from, p), filepath.Join(dst, p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := syncFS(dst); err != nil {
		return err
	}
	s.dropBox(b)
	n := e
	n.Partition = partition
	if err := s.list.change(ctx, func(tx *sql.Tx) error { return put(ctx, tx, &n) }); err != nil {
		return err
	}
	if err := removeParts(b.dir); err != nil {
		s.conf.Log.Warnf("%s: %v", from, err)
	}
	s.pruneDirs(e.Partition, from)
	s.tell(e.ID, List|Messages)
	return nil
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
