package store

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
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
// another one it is counted again.
//
//	.usage: crc, 0, epoch, octets, messages

const (
	usageName = ".usage"
	usageSize = 32
)

// reserve counts q under t's quota root, unless that goes beyond the limit. The
// function it returns takes it back.
func (t *txn) reserve(q Quota, over bool) (undo func(), err error) {
	root := t.state().meta.quotaRoot
	if root == "" {
		return func() {}, nil
	}
	limit, dir, err := t.b.st.rootOf(root)
	if errors.Is(err, ErrNotFound) {
		return func() {}, nil // a root that was removed limits nothing
	}
	if err != nil {
		return nil, err
	}
	err = t.b.st.withUsage(root, dir, func(u *Quota) error {
		if !over && (limit.Storage >= 0 && u.Storage+q.Storage > limit.Storage || limit.Messages >= 0 && u.Messages+q.Messages > limit.Messages) {
			return ErrOverQuota
		}
		u.Storage += q.Storage
		u.Messages += q.Messages
		return nil
	})
	if err != nil {
		return nil, err
	}
	return func() { t.giveBack(q) }, nil
}

// giveBack takes q off the usage.
func (t *txn) giveBack(q Quota) {
	root := t.state().meta.quotaRoot
	if root == "" {
		return
	}
	_, dir, err := t.b.st.rootOf(root)
	if err == nil {
		err = t.b.st.withUsage(root, dir, func(u *Quota) error {
			u.Storage = max(0, u.Storage-q.Storage)
			u.Messages = max(0, u.Messages-q.Messages)
			return nil
		})
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		t.b.st.conf.Log.Warnf("quota root %s: %v", root, err)
	}
}

// recountQuota makes the usage be counted again: a verify found other messages.
func (t *txn) recountQuota() error {
	root := t.state().meta.quotaRoot
	if root == "" {
		return nil
	}
	_, dir, err := t.b.st.rootOf(root)
	if err != nil {
		return err
	}
	if err := unix.Unlink(filepath.Join(dir, usageName)); err != nil && err != unix.ENOENT {
		return sysErr("unlink "+usageName, err)
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
func (s *Store) withUsage(root mailbox.Name, dir string, fn func(*Quota) error) error {
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

func (s *Store) changeUsage(fd int, root mailbox.Name, fn func(*Quota) error) error {
	var b [usageSize]byte
	var u Quota
	le := binary.LittleEndian
	n, err := pread(fd, b[:], 0)
	if err != nil {
		return err
	}
	if n == usageSize && le.Uint32(b[:]) == crc32.Checksum(b[4:], castagnoli()) && le.Uint64(b[8:]) == s.epoch {
		u = Quota{int64(le.Uint64(b[16:])), int64(le.Uint64(b[24:]))}
	} else if u, err = s.countUsage(root); err != nil {
		return err
	}
	was := u
	if err := fn(&u); err != nil {
		return err
	}
	if u == was && n == usageSize && le.Uint64(b[8:]) == s.epoch {
		return nil
	}
	le.PutUint64(b[8:], s.epoch)
	le.PutUint64(b[16:], uint64(u.Storage))
	le.PutUint64(b[24:], uint64(u.Messages))
	le.PutUint32(b[:], crc32.Checksum(b[4:], castagnoli()))
	return pwrite(fd, b[:], 0)
}

// countUsage sums up what the headers of all indexes below a root say. It takes
// no lock of a mailbox: what arrives meanwhile may be counted or not.
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
		h, err := readHeader(fd, e.ID)
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
	err = s.withUsage(root, dir, func(u *Quota) error { used = *u; return nil })
	return used, err
}
