package store

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"path/filepath"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// Quota is storage and messages: a root's limits (negative: none), or what is used.
type Quota struct {
	Storage  int64 // octets; IMAP speaks of units of 1,024
	Messages int64
}

// The limits of a quota root are in its .mailbox. What is used below it is a
// record of its own in the root's directory, behind a short lock that nothing
// else is taken under. It counts in the epoch in which it was written; in
// another one, or if it was removed, it is counted again.
//
//	.usage: crc, serial, epoch, octets, messages
//
// Whoever counts reads the headers of indexes that others are about to change. So
// each count has a serial, and whoever changes a mailbox looks afterwards whether
// the usage is still of the count to which he added: if not, nobody knows whether
// that count has seen his change, and the usage is removed, to be counted again.
// He does so while the header is busy, so that the usage is right, too, when a
// process dies: verify removes it.

const (
	usageName = ".usage"
	usageSize = 32
)

// usage is what .usage says.
type usage struct {
	Quota
	serial uint32 // of the count
}

// account is a mailbox's quota root, as one who changes the mailbox sees it.
type account struct {
	t      *txn
	root   mailbox.Name // "": nothing is counted
	dir    string
	limit  Quota
	serial uint32
}

// account finds t's quota root.
func (t *txn) account() (*account, error) {
	a := &account{t: t, root: t.state().meta.quotaRoot}
	if a.root == "" {
		return a, nil
	}
	var err error
	a.limit, a.dir, err = t.b.st.rootOf(a.root)
	if errors.Is(err, ErrNotFound) {
		a.root, err = "", nil // a root that was removed limits nothing
	}
	return a, err
}

// fits reports whether q more is within the limits.
func (a *account) fits(used, q Quota) bool {
	return (a.limit.Storage < 0 || used.Storage+q.Storage <= a.limit.Storage) &&
		(a.limit.Messages < 0 || used.Messages+q.Messages <= a.limit.Messages)
}

// look finds out which count is true now, and whether q fits, unless it may go
// over the limit.
func (a *account) look(q Quota, over bool) error {
	return a.change(func(u *usage) error {
		a.serial = u.serial
		if !over && !a.fits(u.Quota, q) {
			return ErrOverQuota
		}
		return nil
	})
}

// add counts q, before what it stands for is done.
func (a *account) add(q Quota, over bool) error {
	return a.change(func(u *usage) error {
		if !over && !a.fits(u.Quota, q) {
			return ErrOverQuota
		}
		a.serial = u.serial
		u.Storage += q.Storage
		u.Messages += q.Messages
		return nil
	})
}

// check is called after that was done.
func (a *account) check() { a.addSame(Quota{}) }

// giveBack takes q off again.
func (a *account) giveBack(q Quota) { a.addSame(Quota{-q.Storage, -q.Messages}) }

// addSame adds q if the count is still the one that was looked at.
func (a *account) addSame(q Quota) {
	other := false
	err := a.change(func(u *usage) error {
		if other = u.serial != a.serial; !other {
			u.Storage = max(0, u.Storage+q.Storage)
			u.Messages = max(0, u.Messages+q.Messages)
		}
		return nil
	})
	if err == nil && other {
		err = a.t.b.st.forgetUsage(a.root)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		a.t.b.st.conf.Log.Warnf("quota root %s: %v", a.root, err)
	}
}

func (a *account) change(fn func(*usage) error) error {
	if a.root == "" {
		return nil
	}
	return a.t.b.st.withUsage(a.root, a.dir, fn)
}

// forgetUsage makes the usages of some roots be counted again.
func (s *Store) forgetUsage(roots ...mailbox.Name) error {
	for _, root := range roots {
		if root == "" {
			continue
		}
		_, dir, err := s.rootOf(root)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := unix.Unlink(filepath.Join(dir, usageName)); err != nil && err != unix.ENOENT {
			return sysErr("unlink "+usageName, err)
		}
	}
	return nil
}

// rootOf gives a root's limits and directory.
func (s *Store) rootOf(root mailbox.Name) (Quota, string, error) {
	e, err := s.list.get(context.Background(), root)
	if err != nil {
		return Quota{}, "", err
	}
	if !e.IsQuotaRoot {
		return Quota{}, "", ErrNotFound
	}
	dir, err := s.dirOf(e.Partition, root)
	return e.Quota, dir, err
}

// withUsage changes a root's usage under its lock. An error of fn changes nothing.
func (s *Store) withUsage(root mailbox.Name, dir string, fn func(*usage) error) error {
	path := filepath.Join(dir, usageName)
	for {
		fd, err := openat(unix.AT_FDCWD, path, unix.O_RDWR|unix.O_CREAT, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		err = flockWait(fd)
		var a unix.Stat_t
		if err == nil {
			err = unix.Fstat(fd, &a)
		}
		if b, serr := fstatat(unix.AT_FDCWD, path); err == nil && (serr != nil || a.Ino != b.Ino) {
			unix.Close(fd)
			continue // removed, to be counted again, while we waited
		}
		if err == nil {
			err = s.changeUsage(fd, root, fn)
		}
		unix.Close(fd)
		return err
	}
}

func flockWait(fd int) error {
	for {
		switch err := unix.Flock(fd, unix.LOCK_EX); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return sysErr("flock", err)
		}
	}
}

func (s *Store) changeUsage(fd int, root mailbox.Name, fn func(*usage) error) error {
	var b [usageSize]byte
	le := binary.LittleEndian
	n, err := pread(fd, b[:], 0)
	if err != nil {
		return err
	}
	var was, u usage
	if n == usageSize && le.Uint32(b[:]) == crc32.Checksum(b[4:], castagnoli()) && le.Uint64(b[8:]) == s.epoch {
		was = usage{Quota{int64(le.Uint64(b[16:])), int64(le.Uint64(b[24:]))}, le.Uint32(b[4:])}
		u = was
	} else if u.Quota, err = s.countUsage(root); err != nil {
		return err
	} else {
		u.serial = rand.Uint32() | 1
	}
	if err := fn(&u); err != nil {
		return err
	}
	if u == was {
		return nil
	}
	le.PutUint32(b[4:], u.serial)
	le.PutUint64(b[8:], s.epoch)
	le.PutUint64(b[16:], uint64(u.Storage))
	le.PutUint64(b[24:], uint64(u.Messages))
	le.PutUint32(b[:], crc32.Checksum(b[4:], castagnoli()))
	return pwrite(fd, b[:], 0)
}

// countUsage sums up what the headers of all indexes below a root say. It takes
// no lock of a mailbox: what changes meanwhile may be counted or not.
func (s *Store) countUsage(root mailbox.Name) (Quota, error) {
	var u Quota
	for e, err := range s.List(context.Background(), Query{Under: root, Deleted: true}) {
		if err != nil {
			return u, err
		}
		if e.QuotaRoot != root {
			continue
		}
		dir, err := s.dirOf(e.Partition, e.Name)
		if err != nil {
			return u, err
		}
		fd, err := openat(unix.AT_FDCWD, filepath.Join(dir, indexName), unix.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return u, err
		}
		h, _, err := readSlots(fd, e.ID)
		unix.Close(fd)
		if err != nil {
			continue // to be verified, and counted again then
		}
		u.Storage += h.size
		u.Messages += int64(h.live)
	}
	return u, nil
}

// Usage is what is used below a quota root.
func (s *Store) Usage(ctx context.Context, root mailbox.Name) (Quota, error) {
	_, dir, err := s.rootOf(root)
	if err != nil {
		return Quota{}, err
	}
	var used Quota
	err = s.withUsage(root, dir, func(u *usage) error { used = u.Quota; return nil })
	return used, err
}
