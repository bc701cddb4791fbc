package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"

	"angarium/lib/mailbox"
)

// What ctl_cyrusdb and cyr_expire do by the clock: mend the list, copy it, and
// let go of what was kept for a while.

// Forgotten is what Forget did to a mailbox.
type Forgotten struct {
	Seen    int // messages, those that were expunged before included
	Files   int // expunged messages whose file was removed now
	Records int // expunged messages that nobody remembers any more
}

// Forget removes the files of messages that were expunged before a time, and the
// memory of them: clients that were away longer are told of all UIDs that are
// not there (RFC 7162, 3.2.5.2). Rule 9's ten minutes are kept in any case.
//
// Files go first, then their records: one who dies between the two leaves
// records whose files the next call does not find.
func (s *Store) Forget(ctx context.Context, name mailbox.Name, before time.Time) (f Forgotten, err error) {
	if latest := s.now().Add(-minExpunge); before.After(latest) {
		before = latest
	}
	e, err := s.list.get(ctx, name)
	if err != nil {
		return f, err
	}
	b, err := s.getBox(ctx, &e)
	if err != nil {
		return f, err
	}
	defer s.putBox(b)
	if v, err := b.view(ctx); err != nil {
		return f, err
	} else if f.Seen = v.Len() + len(v.gone); len(v.gone) == 0 {
		return f, nil
	}
	if err := b.rename(ctx); err != nil { // what is expunged leaves cur/
		return f, err
	}
	t, err := b.lock(ctx, true)
	if err != nil {
		return f, err
	}
	defer t.end()
	return f, t.forget(before, &f)
}

func (t *txn) forget(before time.Time, f *Forgotten) error {
	v := t.state().view
	h := t.hdr
	var keep []Message
	for _, m := range v.gone {
		if m.Flags&flagMoved == 0 || !time.Unix(m.Saved, 0).Before(before) {
			keep = append(keep, m)
			continue
		}
		if m.Flags&flagSwept == 0 {
			switch err := unix.Unlinkat(t.b.dir, expungedDir+"/"+m.fileName(t.b.tag), 0); err {
			case nil:
				f.Files++
			case unix.ENOENT:
			default:
				return sysErr("unlink", err)
			}
		}
		h.history = max(h.history, m.ModSeq)
		f.Records++
	}
	if f.Records == 0 {
		return nil
	}
	if err := t.b.st.fault("forget"); err != nil {
		return err
	}
	return t.replaceIndex(h, v.snapshot, keep)
}

// DeletedAt is when a mailbox below DELETED was deleted; its name says so.
func DeletedAt(n mailbox.Name) (time.Time, bool) {
	parts := n.Parts()
	last := parts[len(parts)-1]
	if !n.IsDeleted() || len(last) != 8 {
		return time.Time{}, false
	}
	at, err := strconv.ParseUint(last, 16, 32)
	return time.Unix(int64(at), 0), err == nil
}

// Recover opens the store as Open does, but first sets a damaged mailboxes.db
// aside, so that it is made again from the .mailbox files; and, if no other
// process has the store open, it removes what deliveries left that died.
func Recover(ctx context.Context, conf Config) (*Store, error) {
	path := filepath.Join(conf.ConfigDirectory, "mailboxes.db")
	bad, err := damagedDatabase(ctx, path)
	if err != nil {
		return nil, err
	}
	if bad != "" {
		aside := fmt.Sprintf("%s.damaged-%d", path, time.Now().Unix())
		conf.Log.Errorf("mailboxes.db is damaged (%s): it is now %s, and made again", bad, aside)
		if err := os.Rename(path, aside); err != nil {
			return nil, err
		}
	}
	s, err := Open(ctx, conf)
	if err != nil {
		return nil, err
	}
	if err := s.emptyStages(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// damagedDatabase tells what is wrong with a database, if anything is.
func damagedDatabase(ctx context.Context, path string) (bad string, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	db, err := sql.Open("sqlite", listDSN(path))
	if err != nil {
		return "", err
	}
	defer db.Close()
	var text string
	err = db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&text)
	const corrupt, notADatabase = 11, 26 // https://sqlite.org/rescode.html
	var e *sqlite.Error
	switch {
	case errors.As(err, &e) && (e.Code()&0xff == corrupt || e.Code()&0xff == notADatabase):
		return e.Error(), nil
	case err != nil:
		return "", fmt.Errorf("mailboxes.db: %w", err)
	case text != "ok":
		return text, nil
	}
	return "", nil
}

// emptyStages removes all that lies in .stage, if nobody else can be at work there.
func (s *Store) emptyStages() error {
	unlock, err := s.lockEpoch()
	if err != nil {
		return err
	}
	defer unlock()
	if unix.Flock(int(s.users.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		// Where the lock could not be had, ours may be lost: take it again.
		return unix.Flock(int(s.users.Fd()), unix.LOCK_SH)
	}
	for _, path := range s.conf.Partitions {
		stage := filepath.Join(path, stageDir)
		entries, err := os.ReadDir(stage)
		if err != nil {
			continue // a volume that is not there was reported by Open
		}
		for _, e := range entries {
			if err := os.Remove(filepath.Join(stage, e.Name())); err != nil {
				s.conf.Log.Warnf("%v", err)
			}
		}
	}
	return unix.Flock(int(s.users.Fd()), unix.LOCK_SH)
}

// Checkpoint brings what lies in the list's log into mailboxes.db. If it changed
// since the last time, a copy goes into <configdirectory>/db.backup1, and the
// copy of the time before becomes db.backup2.
func (s *Store) Checkpoint(ctx context.Context) error {
	db, err := s.list.open(ctx)
	if err != nil {
		return err
	}
	var busy, inLog, moved int
	if err := db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`).Scan(&busy, &inLog, &moved); err != nil {
		return err
	}
	first, second := filepath.Join(s.conf.ConfigDirectory, "db.backup1"), filepath.Join(s.conf.ConfigDirectory, "db.backup2")
	name := filepath.Join(first, "mailboxes.db")
	if now, err := os.Stat(s.list.path); err != nil {
		return err
	} else if then, err := os.Stat(name); err == nil && !now.ModTime().After(then.ModTime()) {
		return nil
	}
	if err := os.RemoveAll(second); err != nil {
		return err
	}
	if err := os.Rename(first, second); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Mkdir(first, 0o700); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `VACUUM INTO ?`, name)
	return err
}
