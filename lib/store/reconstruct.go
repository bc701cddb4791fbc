package store

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// Reconstruct verifies a mailbox, whatever its index says, and takes in what
// foreign hands left. It is rule 6 for one who asks.
func (s *Store) Reconstruct(ctx context.Context, name mailbox.Name) error {
	e, err := s.list.get(ctx, name)
	if err != nil {
		return err
	}
	if err := s.mendMeta(&e); err != nil {
		return err
	}
	if err := s.believeMeta(ctx, &e); err != nil {
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
	err = t.verify(ctx)
	m := t.state().meta
	t.end()
	if err != nil {
		return err
	}
	if err := b.hold(); err != nil {
		return err
	}
	defer b.release()
	if err := b.adopt(ctx); err != nil {
		return err
	}
	n := m.entry(e.Name, e.Partition) // what .mailbox says wins over the list
	return s.list.change(ctx, func(tx *sql.Tx) error { return put(ctx, tx, &n) })
}

// believeMeta corrects the list where .mailbox has another uniqueid: a folder was
// restored by hand.
func (s *Store) believeMeta(ctx context.Context, e *Entry) error {
	found, ok := s.scanOne(e.Partition, s.conf.Partitions[e.Partition], filepath.Join(s.conf.Partitions[e.Partition], e.Name.Path()))
	if !ok || found.ID == e.ID {
		return nil
	}
	if _, err := s.list.byID(ctx, found.ID); !errors.Is(err, ErrNotFound) {
		if err != nil {
			return err
		}
		if err := s.renewID(ctx, &found); err != nil { // a copy of another one
			return err
		}
	}
	*e = found
	return s.list.change(ctx, func(tx *sql.Tx) error { return put(ctx, tx, e) })
}

// mendMeta makes a .mailbox that is missing or damaged again, from the list. The
// ceilings are unknown then: they are set far above whatever the index and the
// names have.
func (s *Store) mendMeta(e *Entry) error {
	dir, err := s.dirOf(e.Partition, e.Name)
	if err != nil {
		return err
	}
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, err := readMeta(fd); err == nil || !errors.Is(err, ErrNotFound) && !errors.Is(err, errMeta) {
		return err
	}
	m := e.meta()
	highest, modseq := UID(0), ModSeq(0)
	if names, err := listNames(fd, "cur"); err == nil {
		for _, n := range names {
			if p := parseName(n, tagOf(e.ID)); p.ours {
				highest = max(highest, p.uid)
			}
		}
	}
	if ifd, err := openat(fd, indexName, unix.O_RDONLY, 0); err == nil {
		if h, _, err := readSlots(ifd, e.ID); err == nil {
			highest, modseq = max(highest, h.uidNext), h.modseq
		}
		unix.Close(ifd)
	}
	m.uidCeiling = UID(min(uint64(highest)+4096, 1<<32-1))
	m.modCeiling = max(modseq, ModSeq(s.now().Unix())) + 1<<21
	for _, d := range maildirs {
		if err := unix.Mkdirat(fd, d, 0o700); err != nil && err != unix.EEXIST {
			return sysErr("mkdir "+d, err)
		}
	}
	s.conf.Log.Warnf("%s: %s made again from the list", e.Name, metaName)
	return writeFileAt(s, fd, metaName, m.write)
}

// RebuildList reads every .mailbox into mailboxes.db. Names whose directory is
// gone are taken out of it if prune is set. A directory that was renamed by hand is
// listed under its new name alone; of one that was copied by hand, the copy gets a
// uniqueid of its own.
func (s *Store) RebuildList(ctx context.Context, prune bool) (found int, err error) {
	there := map[mailbox.Name]bool{}
	all, err := s.found(ctx)
	if err != nil {
		return 0, err
	}
	for i := range all {
		there[all[i].Name] = true
	}
	if err := s.partCopies(ctx, all); err != nil {
		return 0, err
	}
	var lost []Entry
	if prune {
		for e, err := range s.List(ctx, Query{Deleted: true}) {
			if err != nil {
				return found, err
			}
			if !there[e.Name] && s.reachable(e.Partition) {
				lost = append(lost, e)
			}
		}
	}
	for len(all) > 0 {
		page := all[:min(1000, len(all))]
		all = all[len(page):]
		err := s.list.change(ctx, func(tx *sql.Tx) error {
			for i := range page {
				if err := freeID(ctx, tx, &page[i], s.now()); err != nil {
					return err
				}
				if err := put(ctx, tx, &page[i]); err != nil {
					s.conf.Log.Warnf("%s: %v", page[i].Name, err)
					continue
				}
				found++
			}
			return nil
		})
		if err != nil {
			return found, err
		}
	}
	return found, s.list.change(ctx, func(tx *sql.Tx) error {
		for i := range lost {
			if err := remove(ctx, tx, &lost[i], s.now()); err != nil {
				return err
			}
		}
		return nil
	})
}

// partCopies gives an id of its own to each of all whose id another one has, and
// to whom the list did not give it.
func (s *Store) partCopies(ctx context.Context, all []Entry) error {
	first := map[ID]int{}
	for i := range all {
		j, twice := first[all[i].ID]
		if !twice {
			first[all[i].ID] = i
			continue
		}
		copied, other := i, j
		if listed, err := s.list.byID(ctx, all[i].ID); err == nil && listed.Name == all[i].Name {
			copied, other = j, i
			first[all[i].ID] = i
		}
		s.conf.Log.Warnf("%s has the uniqueid of %s: it gets one of its own", all[copied].Name, all[other].Name)
		if err := s.renewID(ctx, &all[copied]); err != nil {
			return err
		}
	}
	return nil
}

// freeID takes the name out of the list under which e's directory lay before.
func freeID(ctx context.Context, tx *sql.Tx, e *Entry, now time.Time) error {
	was, err := scanEntry(tx.QueryRowContext(ctx, `SELECT `+columns+` FROM mailboxes WHERE id = ?`, e.ID))
	if errors.Is(err, ErrNotFound) || err == nil && was.Name == e.Name {
		return nil
	}
	if err != nil {
		return err
	}
	return remove(ctx, tx, &was, now)
}

// reachable reports whether a partition's volume is there: what lies on one that
// is not, is not lost.
func (s *Store) reachable(partition string) bool {
	path, ok := s.conf.Partitions[partition]
	return ok && noVolume(path) == nil
}

// AddFound puts mailboxes into the list that lie on a partition, are wanted, and
// are not in it. One whose uniqueid another mailbox has is a copy made by hand,
// and gets an id of its own.
func (s *Store) AddFound(ctx context.Context, wanted func(mailbox.Name) bool) (added []Entry, err error) {
	for e, err := range s.scan(ctx) {
		if err != nil {
			return added, err
		}
		if !wanted(e.Name) {
			continue
		}
		if _, err := s.list.get(ctx, e.Name); !errors.Is(err, ErrNotFound) {
			if err != nil {
				return added, err
			}
			continue
		}
		if other, err := s.list.byID(ctx, e.ID); err == nil {
			s.conf.Log.Warnf("%s has the uniqueid of %s: it gets one of its own", e.Name, other.Name)
			if err := s.renewID(ctx, &e); err != nil {
				return added, err
			}
		}
		err = s.list.change(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO facts VALUES ('uidvalidity', ?1) ON CONFLICT (name) DO UPDATE SET
				value = max(?1, value)`, e.UIDValidity)
			if err != nil {
				return err
			}
			return put(ctx, tx, &e)
		})
		if err != nil {
			return added, err
		}
		added = append(added, e)
	}
	return added, nil
}

// renewID gives a copied mailbox another uniqueid and UIDVALIDITY. Its index
// and names then say nothing, and its messages are taken in as foreign ones.
func (s *Store) renewID(ctx context.Context, e *Entry) error {
	err := s.list.change(ctx, func(tx *sql.Tx) error {
		v, err := nextUIDValidity(ctx, tx, s.now())
		e.ID, e.UIDValidity = newID(), v
		return err
	})
	if err != nil {
		return err
	}
	dir, err := s.dirOf(e.Partition, e.Name)
	if err != nil {
		return err
	}
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, f := range []string{indexName, cacheName, extraName} {
		if err := unix.Unlinkat(fd, f, 0); err != nil && err != unix.ENOENT {
			return sysErr("unlink "+f, err)
		}
	}
	return writeFileAt(s, fd, metaName, e.meta().write)
}
