package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// Lookup finds a mailbox, with what only its .mailbox says.
func (s *Store) Lookup(ctx context.Context, name mailbox.Name) (found Entry, err error) {
	err = s.find(ctx, name, func(e *Entry) error {
		found = *e
		b, err := s.getBox(ctx, e)
		if err != nil {
			return err
		}
		defer s.putBox(b)
		if err := b.hold(); err != nil {
			return err
		}
		defer b.release()
		if err := b.freshMeta(); err != nil {
			return err
		}
		found.Annotations = maps.Clone(b.state.Load().meta.annotations)
		return nil
	})
	return found, err
}

// find looks a name up and does something with it. Should the mailbox not be
// where the list says, it is just being renamed, which takes a moment, or its
// volume is not there.
func (s *Store) find(ctx context.Context, name mailbox.Name, fn func(*Entry) error) error {
	for try := 1; ; try++ {
		e, err := s.list.get(ctx, name)
		if err != nil {
			return err
		}
		err = fn(&e)
		if !isStale(err) {
			return err
		}
		if try == 3 { // or someone died while he renamed it
			if err := s.finishMoves(ctx); err != nil {
				return err
			}
		}
		if try == 4 {
			if errors.Is(err, ErrNotFound) {
				err = fmt.Errorf("%s: %w", name, errMissing)
			}
			return err
		}
		select {
		case <-time.After(time.Duration(try*try) * 5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isStale reports whether another look into the list may help.
func isStale(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, errMissing) || errors.Is(err, errOther)
}

// Exists finds a mailbox in the list, and touches nothing else.
func (s *Store) Exists(ctx context.Context, name mailbox.Name) (Entry, error) {
	return s.list.get(ctx, name)
}

// Status is what the header of the index knows.
func (s *Store) Status(ctx context.Context, name mailbox.Name) (found Status, err error) {
	err = s.find(ctx, name, func(e *Entry) error {
		b, err := s.getBox(ctx, e)
		if err != nil {
			return err
		}
		defer s.putBox(b)
		found, err = b.status(ctx)
		return err
	})
	return found, err
}

func (b *box) status(ctx context.Context) (Status, error) {
	if err := b.hold(); err != nil {
		return Status{}, err
	}
	defer b.release()
	if b.pollDue() {
		if err := b.poll(ctx); err != nil {
			return Status{}, err
		}
	}
	st, err := b.catchUp(ctx, false)
	if err != nil {
		return Status{}, err
	}
	return st.status(), nil
}

// List gives the entries of a query. No transaction is open while the caller
// looks at one.
func (s *Store) List(ctx context.Context, q Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if q.Owner != "" && q.Under == "" {
			q.Under = mailbox.Inbox(q.Owner)
		}
		after, below := "", "\xff"
		if q.Under != "" {
			e, err := s.list.get(ctx, q.Under)
			if err != nil && !errors.Is(err, ErrNotFound) {
				yield(e, err)
				return
			}
			if err == nil && keyOf(e.Name) > keyOf(q.After) && q.wants(&e) && !yield(e, nil) {
				return
			}
			after, below = keyOf(q.Under)+"\x01", keyOf(q.Under)+"\x02"
		}
		if q.After != "" {
			after = max(after, keyOf(q.After))
		}
		for {
			page, err := s.list.page(ctx, after, below, q.To)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for i := range page {
				if q.wants(&page[i]) && !yield(page[i], nil) {
					return
				}
			}
			if len(page) == 0 {
				return
			}
			after = keyOf(page[len(page)-1].Name)
		}
	}
}

func (q *Query) wants(e *Entry) bool {
	return (q.Deleted || !e.Name.IsDeleted()) && (q.To == nil || e.RightsOf(*q.To).Has(RightLookup)) && (q.Owner == "" || e.Name.Owner() == q.Owner)
}

// Create makes a mailbox. What e leaves empty is taken from the nearest mailbox
// above, or chosen.
func (s *Store) Create(ctx context.Context, e Entry) (Entry, error) {
	if err := e.Name.Check(); err != nil {
		return e, err
	}
	err := s.list.change(ctx, func(tx *sql.Tx) error {
		if _, err := getTx(ctx, tx, e.Name); !errors.Is(err, ErrNotFound) {
			return or(err, ErrExists)
		}
		if err := s.inherit(ctx, tx, &e); err != nil {
			return err
		}
		v, err := nextUIDValidity(ctx, tx, s.now())
		if err != nil {
			return err
		}
		e.UIDValidity, e.Created = v, s.now()
		if err := s.makeMailbox(ctx, tx, &e); err != nil {
			return err
		}
		return put(ctx, tx, &e)
	})
	if err != nil {
		return e, err
	}
	s.tell(e.ID, List)
	return e, nil
}

func or(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func getTx(ctx context.Context, tx *sql.Tx, name mailbox.Name) (Entry, error) {
	return scanEntry(tx.QueryRowContext(ctx, `SELECT `+columns+` FROM mailboxes WHERE key = ?`, keyOf(name)))
}

// inherit fills what the caller left open.
func (s *Store) inherit(ctx context.Context, tx *sql.Tx, e *Entry) error {
	if e.ID == "" {
		e.ID = newID()
	}
	above := Entry{Partition: s.conf.DefaultPartition, ACL: s.conf.DefaultACL}
	if e.Name.IsInbox() {
		above.ACL = ACL{{e.Name.Owner(), AllRights}}
	} else {
		for n, ok := e.Name.Parent(); ok; n, ok = n.Parent() {
			p, err := getTx(ctx, tx, n)
			if err == nil {
				above = p
				break
			}
			if !errors.Is(err, ErrNotFound) {
				return err
			}
		}
	}
	if e.Partition == "" {
		e.Partition = above.Partition
	}
	if e.ACL == nil {
		e.ACL = above.ACL
	}
	if e.IsQuotaRoot {
		e.QuotaRoot = e.Name
	} else if e.QuotaRoot == "" {
		e.QuotaRoot = above.QuotaRoot
	}
	return nil
}

func (e *Entry) meta() *meta {
	return &meta{
		id: e.ID, uidValidity: e.UIDValidity, created: e.Created.Unix(), uidCeiling: 1, modCeiling: 1,
		acl: e.ACL, quotaRoot: e.QuotaRoot, isRoot: e.IsQuotaRoot, quota: e.Quota, specialUse: e.SpecialUse, annotations: e.Annotations,
	}
}

// makeMailbox makes the directory and its .mailbox, durably. A directory that a
// creation left behind, when it was interrupted, is used; one that a deletion
// left behind is emptied first.
func (s *Store) makeMailbox(ctx context.Context, tx *sql.Tx, e *Entry) error {
	dir, err := s.dirOf(e.Partition, e.Name)
	if err != nil {
		return err
	}
	if err := s.mkdirs(s.conf.Partitions[e.Partition], dir); err != nil {
		return err
	}
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if old, _, err := readMeta(fd); err == nil {
		used, err := s.leftover(ctx, tx, fd, e, old)
		if err != nil || used {
			return err
		}
	}
	for _, d := range maildirs {
		if err := unix.Mkdirat(fd, d, 0o700); err != nil && err != unix.EEXIST {
			return sysErr("mkdir "+d, err)
		}
	}
	return writeFileAt(s, fd, metaName, e.meta().write)
}

// leftover deals with a .mailbox that the list does not know. Mail that nobody
// deleted is kept.
func (s *Store) leftover(ctx context.Context, tx *sql.Tx, fd int, e *Entry, old *meta) (used bool, err error) {
	var deleted int64
	err = tx.QueryRowContext(ctx, `SELECT uidvalidity FROM tombstones WHERE name = ?`, e.Name).Scan(&deleted)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, err
	}
	empty, err := dirEmpty(fd, "cur")
	if int64(old.uidValidity) <= deleted || err == nil && empty {
		return false, removeParts(fd)
	}
	s.conf.Log.Warnf("%s was on its partition already, with mail, and is taken back into the list", e.Name)
	e.ID, e.UIDValidity, e.ACL = old.id, old.uidValidity, old.acl
	return true, nil
}

// mkdirs makes dir and what is missing above it, down from a partition's root, durably.
func (s *Store) mkdirs(root, dir string) error {
	if err := noVolume(root); err != nil {
		return err
	}
	return s.makeDirs(root, dir)
}

func (s *Store) makeDirs(root, dir string) error {
	var missing []string
	for d := dir; len(d) > len(root); d = filepath.Dir(d) {
		if _, err := fstatat(unix.AT_FDCWD, d); err == nil {
			break
		}
		missing = append(missing, d)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := unix.Mkdir(missing[i], 0o700); err != nil && err != unix.EEXIST {
			return sysErr("mkdir "+missing[i], err)
		}
		if err := s.syncDirAt(unix.AT_FDCWD, filepath.Dir(missing[i]), "folder"); err != nil {
			return err
		}
	}
	return nil
}

// parts are the files and folders of a mailbox that move with it; .mailbox
// comes last, so that a mailbox that is not whole is none.
var parts = [...]string{
	"cur", "new", "tmp", indexName, cacheName, extraName, expungedDir, usageName, dovecotKeywords, ".pop", ".adopt", metaName,
}

// removeParts empties a mailbox's directory but for the mailboxes below it.
func removeParts(fd int) error {
	if err := unix.Unlinkat(fd, metaName, 0); err != nil && err != unix.ENOENT {
		return sysErr("unlink "+metaName, err)
	}
	for _, p := range parts {
		err := os.RemoveAll(fmt.Sprintf("/proc/self/fd/%d/%s", fd, p))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Delete removes one mailbox, not those below it; with DelayedDelete it moves
// it below DELETED.
func (s *Store) Delete(ctx context.Context, name mailbox.Name) error {
	e, err := s.list.get(ctx, name)
	if err != nil {
		return err
	}
	if s.conf.DelayedDelete && !name.IsDeleted() {
		for at := s.now().Unix(); ; at++ {
			err := s.moveAll(ctx, []move{{e, deletedName(name, at)}}, "")
			if !errors.Is(err, ErrExists) {
				return err
			}
		}
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
	root := t.state().meta.quotaRoot
	err = s.list.change(ctx, func(tx *sql.Tx) error {
		if err := remove(ctx, tx, &e, s.now()); err != nil {
			return err
		}
		return s.forgetUsage(root) // and again below: only one who dies in between needs this
	})
	if err != nil {
		return err
	}
	if err := s.forgetUsage(root); err != nil {
		s.conf.Log.Warnf("quota root %s: %v", root, err)
	}
	if err := s.unmake(b.dir); err != nil {
		return err
	}
	s.dropBox(b)
	if err := removeParts(b.dir); err != nil {
		s.conf.Log.Warnf("%s: %v", b.where(), err) // it is deleted, whatever lies there
	}
	s.pruneDirs(e.Partition, b.where())
	s.tell(e.ID, List|Messages)
	return nil
}

// unmake makes a directory that of no mailbox, for good: a list that is made again
// from the partitions must not have it back.
func (s *Store) unmake(dirfd int) error {
	if err := unix.Unlinkat(dirfd, metaName, 0); err != nil && err != unix.ENOENT {
		return sysErr("unlink "+metaName, err)
	}
	return s.fsync(dirfd, "deleted")
}

// deletedName is where a deleted mailbox waits: DELETED.user.bob.Sent.6721A3F0.
func deletedName(n mailbox.Name, at int64) mailbox.Name {
	d := mailbox.Name(fmt.Sprintf("DELETED.%s.%08X", n.Local(), at))
	if n.Domain() != "" {
		d = mailbox.Name(n.Domain()) + "!" + d
	}
	return d
}

// pruneDirs removes directories that hold nothing any more.
func (s *Store) pruneDirs(partition, dir string) {
	root := filepath.Clean(s.conf.Partitions[partition])
	for strings.HasPrefix(dir, root+"/") && unix.Rmdir(dir) == nil {
		dir = filepath.Dir(dir)
	}
}

// Update changes what an entry says: ACL, special use, quota, annotations. The
// .mailbox file first, then the list: should we die between, reconstruct
// believes the file.
func (s *Store) Update(ctx context.Context, name mailbox.Name, fn func(*Entry) error) error {
	e, err := s.list.get(ctx, name)
	if err != nil {
		return err
	}
	b, err := s.getBox(ctx, &e)
	if err != nil {
		return err
	}
	defer s.putBox(b)
	var n Entry
	err = b.changeMeta(ctx, func(m *meta) error {
		n = e
		m.fill(&n)
		if err := fn(&n); err != nil {
			return err
		}
		if n.IsQuotaRoot {
			n.QuotaRoot = n.Name
		}
		m.acl, m.specialUse, m.annotations = n.ACL, n.SpecialUse, n.Annotations
		m.quotaRoot, m.isRoot, m.quota = n.QuotaRoot, n.IsQuotaRoot, n.Quota
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.list.change(ctx, func(tx *sql.Tx) error { return put(ctx, tx, &n) }); err != nil {
		return err
	}
	if n.IsQuotaRoot && !e.IsQuotaRoot || n.QuotaRoot != e.QuotaRoot {
		if err := s.spreadRoot(ctx, &n, e.QuotaRoot); err != nil {
			return err
		}
	}
	s.tell(e.ID, Access)
	return nil
}

// fill puts what .mailbox says into an entry.
func (m *meta) fill(e *Entry) {
	c := m.clone()
	e.ACL, e.SpecialUse, e.Annotations = c.acl, c.specialUse, c.annotations
	e.QuotaRoot, e.IsQuotaRoot, e.Quota = c.quotaRoot, c.isRoot, c.quota
}

// spreadRoot gives the mailboxes below one that became a quota root, or is none
// any more, their new root. Those with a nearer root keep it.
func (s *Store) spreadRoot(ctx context.Context, e *Entry, was mailbox.Name) error {
	for c, err := range s.List(ctx, Query{Under: e.Name}) {
		if err != nil {
			return err
		}
		if c.Name == e.Name || c.QuotaRoot != was || c.IsQuotaRoot {
			continue
		}
		if err := s.setRoot(ctx, c, e.QuotaRoot); err != nil {
			return err
		}
	}
	return s.forgetUsage(e.Name, e.QuotaRoot, was)
}

func (s *Store) setRoot(ctx context.Context, c Entry, root mailbox.Name) error {
	b, err := s.getBox(ctx, &c)
	if err != nil {
		return err
	}
	defer s.putBox(b)
	if err := b.changeMeta(ctx, func(m *meta) error { m.quotaRoot = root; return nil }); err != nil {
		return err
	}
	c.QuotaRoot = root
	return s.list.change(ctx, func(tx *sql.Tx) error { return put(ctx, tx, &c) })
}

// found is what scan finds, each name once. One that lies on two partitions was being
// moved from one to the other: that in which more has happened is the true one.
func (s *Store) found(ctx context.Context) ([]Entry, error) {
	var all []Entry
	at := map[mailbox.Name]int{}
	for e, err := range s.scan(ctx) {
		if err != nil {
			return nil, err
		}
		i, twice := at[e.Name]
		if !twice {
			at[e.Name] = len(all)
			all = append(all, e)
			continue
		}
		s.conf.Log.Warnf("%s lies on partitions %s and %s", e.Name, all[i].Partition, e.Partition)
		if e.ID != all[i].ID && e.UIDValidity > all[i].UIDValidity || e.ID == all[i].ID && s.lastModSeq(&e) > s.lastModSeq(&all[i]) {
			all[i] = e
		}
	}
	return all, nil
}

func (s *Store) lastModSeq(e *Entry) ModSeq {
	dir, err := s.dirOf(e.Partition, e.Name)
	if err != nil {
		return 0
	}
	fd, err := openat(unix.AT_FDCWD, filepath.Join(dir, indexName), unix.O_RDONLY, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	h, _, _ := readSlots(fd, e.ID)
	return h.modseq
}

// scan reads all .mailbox files of all partitions.
func (s *Store) scan(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for partition, root := range s.conf.Partitions {
			err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					if errors.Is(err, fs.ErrNotExist) {
						return nil
					}
					return err
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if !d.IsDir() || path == root {
					return nil
				}
				if n := d.Name(); n[0] == '.' || n == "cur" || n == "new" || n == "tmp" {
					return fs.SkipDir
				}
				if e, ok := s.scanOne(partition, root, path); ok && !yield(e, nil) {
					return fs.SkipAll
				}
				return nil
			})
			if err != nil {
				yield(Entry{}, err)
				return
			}
		}
	}
}

func (s *Store) scanOne(partition, root, path string) (Entry, bool) {
	fd, err := openat(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return Entry{}, false
	}
	defer unix.Close(fd)
	m, _, err := readMeta(fd)
	if errors.Is(err, ErrNotFound) {
		return Entry{}, false
	}
	rel, rerr := filepath.Rel(root, path)
	if rerr != nil {
		return Entry{}, false
	}
	name, nerr := mailbox.FromPath(rel)
	if err != nil || nerr != nil {
		s.conf.Log.Warnf("%s: %v", path, errors.Join(err, nerr))
		return Entry{}, false
	}
	return m.entry(name, partition), true
}

func (m *meta) entry(name mailbox.Name, partition string) Entry {
	e := Entry{Name: name, Partition: partition, ID: m.id, UIDValidity: m.uidValidity, Created: unixTime(m.created)}
	m.fill(&e)
	return e
}
