package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"angarium/lib/mailbox"
)

// Rule 14: mailboxes.db is the list of mailboxes, with what is asked of all of
// them at once. It is made again from the .mailbox files when it is lost; until
// that is complete no name is ever "not found", for mail would bounce.
//
// The table grants tells which mailboxes others than their owner may look up, so that
// nobody has to go through all of them for one user's LIST.
//
// The key of a name has 0x01 for each dot, so that children follow their parent
// in the order of keys.
type mailboxList struct {
	s    *Store
	path string

	mu sync.Mutex // opens db
	db *database

	writing sync.Mutex // before the lock on the generation
}

// database is mailboxes.db while it has its name.
type database struct {
	*sql.DB
	ino          uint64
	byName, byID *sql.Stmt
	gen          *os.File
	cache        entryCache
}

func (d *database) close() error {
	return errors.Join(d.DB.Close(), d.gen.Close())
}

const schema = `
PRAGMA journal_mode=WAL;
CREATE TABLE IF NOT EXISTS mailboxes (
	key TEXT PRIMARY KEY, name TEXT NOT NULL, id TEXT NOT NULL UNIQUE, partition TEXT NOT NULL, uidvalidity INTEGER NOT NULL,
	created INTEGER NOT NULL, acl TEXT NOT NULL, specialuse TEXT NOT NULL, quotaroot TEXT NOT NULL, isroot INTEGER NOT NULL,
	storage INTEGER NOT NULL, messages INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tombstones (name TEXT PRIMARY KEY, uidvalidity INTEGER NOT NULL, deleted INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS moves (source TEXT PRIMARY KEY, target TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grants (id TEXT, key TEXT, PRIMARY KEY (id, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
`

const columns = `name, id, partition, uidvalidity, created, acl, specialuse, quotaroot, isroot, storage, messages`

func keyOf(n mailbox.Name) string {
	domain, local := n.Domain(), n.Local()
	if domain != "" {
		domain += "!"
	}
	return domain + strings.ReplaceAll(local, ".", "\x01")
}

// open returns the database, opened anew if its file was replaced or removed:
// nobody may write into one that has no name any more.
func (l *mailboxList) open(ctx context.Context) (*database, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st, err := fstatat(unix.AT_FDCWD, l.path)
	if err == nil && l.db != nil && st.Ino == l.db.ino {
		return l.db, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if l.db != nil {
		_ = l.db.close()
		l.db = nil
	}
	db, err := l.reopen(ctx)
	if err != nil {
		return nil, fmt.Errorf("mailboxes.db: %w", err)
	}
	l.db = db
	return db, nil
}

func listDSN(path string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?_pragma=busy_timeout(30000)&_pragma=synchronous(FULL)&_txlock=immediate"
}

// reopen opens the database, or makes it, one process after the other.
func (l *mailboxList) reopen(ctx context.Context) (*database, error) {
	lock, err := openat(unix.AT_FDCWD, l.path+".lock", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return nil, err
	}
	defer unix.Close(lock)
	if err := flockWait(lock); err != nil {
		return nil, err
	}
	if _, err := fstatat(unix.AT_FDCWD, l.path); errors.Is(err, fs.ErrNotExist) {
		// A log without its database belongs to the one that is lost.
		_ = os.Remove(l.path + "-wal")
		_ = os.Remove(l.path + "-shm")
		// Who may pass through the folder to a socket must not read the names of
		// all mailboxes: SQLite itself would make a file for everybody to read.
		fd, err := openat(unix.AT_FDCWD, l.path, unix.O_RDWR|unix.O_CREAT, 0o600)
		if err != nil {
			return nil, err
		}
		unix.Close(fd)
	}
	dsn := listDSN(l.path)
	if l.s.conf.Sync != nil { // a test sees to syncs, but can't to SQLite's
		dsn = strings.Replace(dsn, "FULL", "OFF", 1)
	}
	conn, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	conn.SetMaxOpenConns(8)
	conn.SetMaxIdleConns(4)
	gen, err := os.OpenFile(l.path+".gen", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		conn.Close()
		return nil, err
	}
	db := &database{DB: conn, gen: gen}
	if err := l.prepare(ctx, db); err != nil {
		_ = db.close()
		return nil, err
	}
	return db, nil
}

func (l *mailboxList) prepare(ctx context.Context, db *database) error {
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return err
	}
	if err := l.complete(ctx, db.DB); err != nil {
		return err
	}
	var err error
	if db.byName, err = db.PrepareContext(ctx, `SELECT `+columns+` FROM mailboxes WHERE key = ?`); err != nil {
		return err
	}
	if db.byID, err = db.PrepareContext(ctx, `SELECT `+columns+` FROM mailboxes WHERE id = ?`); err != nil {
		return err
	}
	st, err := fstatat(unix.AT_FDCWD, l.path)
	db.ino = st.Ino
	return err
}

// complete makes sure that the list holds what the partitions hold: a new
// database is filled from the .mailbox files before anyone may ask it.
func (l *mailboxList) complete(ctx context.Context, db *sql.DB) error {
	var done int
	const isComplete = `SELECT value FROM facts WHERE name = 'complete'`
	err := db.QueryRowContext(ctx, isComplete).Scan(&done)
	if err == nil && done >= listVersion || err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	tx, err := db.BeginTx(ctx, nil) // immediate: one process does it, the others wait
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err = tx.QueryRowContext(ctx, isComplete).Scan(&done); err == nil {
		if done >= listVersion {
			return nil
		}
		if err := upgradeList(ctx, tx); err != nil {
			return err
		}
		return tx.Commit()
	}
	n, err := l.s.fillFrom(ctx, tx)
	if err != nil {
		return err
	}
	if n > 0 {
		l.s.conf.Log.Warnf("mailboxes.db was missing: %d mailboxes found on the partitions", n)
	}
	return tx.Commit()
}

// listVersion is the value of the fact "complete". Lists of version 1 had no grants.
const listVersion = 2

func upgradeList(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT `+columns+` FROM mailboxes`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var all []Entry
	for rows.Next() {
		e, err := scanEntry(rows)
		if err != nil {
			return err
		}
		if len(e.granted()) > 0 {
			all = append(all, e)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for i := range all {
		if err := putGrants(ctx, tx, &all[i]); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `UPDATE facts SET value = ? WHERE name = 'complete'`, listVersion)
	return err
}

// granted are those whom the ACL lets look the mailbox up, but for its owner, who
// needs no telling.
func (e *Entry) granted() (ids []string) {
	owner := e.Name.Owner()
	for _, a := range e.ACL {
		if a.Rights.Has(RightLookup) && a.ID[0] != '-' && (a.ID != owner || owner == "") {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

func putGrants(ctx context.Context, x execer, e *Entry) error {
	key := keyOf(e.Name)
	for _, id := range e.granted() {
		if _, err := x.ExecContext(ctx, `INSERT OR IGNORE INTO grants VALUES (?, ?)`, id, key); err != nil {
			return err
		}
	}
	return nil
}

// dropGrants forgets what an entry, as it was, granted.
func dropGrants(ctx context.Context, x execer, e *Entry) error {
	for _, id := range e.granted() {
		if _, err := x.ExecContext(ctx, `DELETE FROM grants WHERE id = ? AND key = ?`, id, keyOf(e.Name)); err != nil {
			return err
		}
	}
	return nil
}

// fillFrom reads every .mailbox into the list.
func (s *Store) fillFrom(ctx context.Context, tx *sql.Tx) (n int, err error) {
	known, err := s.knownPartitions()
	if err != nil {
		return 0, err
	}
	for name, path := range s.conf.Partitions {
		if err := noVolume(path); err != nil && known[name] {
			return 0, fmt.Errorf("partition %s: %w", name, err)
		}
	}
	highest := int64(0)
	all, err := s.found(ctx)
	if err != nil {
		return 0, err
	}
	for i := range all {
		e := &all[i]
		if err := put(ctx, tx, e); err != nil {
			// Two with one id: a folder was copied by hand. reconstruct gives
			// the copy an id of its own.
			s.conf.Log.Warnf("%s: %v", e.Name, err)
			continue
		}
		highest = max(highest, int64(e.UIDValidity))
		n++
	}
	if n > 0 {
		// What was deleted may have had greater ones: the list that knew is lost.
		highest = max(highest, s.now().Unix()) + lostValidities
	}
	for name, value := range map[string]int64{"complete": listVersion, "uidvalidity": highest} {
		_, err := tx.ExecContext(ctx, `INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)`, name, value)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// lostValidities is how many mailboxes may have been made ahead of the clock, one
// UIDVALIDITY each, and deleted.
const lostValidities = 4096

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// put makes the list say what e says.
func put(ctx context.Context, x execer, e *Entry) error {
	switch was, err := scanEntry(x.QueryRowContext(ctx, `SELECT `+columns+` FROM mailboxes WHERE key = ?`, keyOf(e.Name))); {
	case err == nil:
		if err := dropGrants(ctx, x, &was); err != nil {
			return err
		}
	case !errors.Is(err, ErrNotFound):
		return err
	}
	_, err := x.ExecContext(ctx, `INSERT INTO mailboxes (key, `+columns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (key) DO UPDATE SET name=excluded.name, id=excluded.id, partition=excluded.partition, uidvalidity=excluded.uidvalidity,
		created=excluded.created, acl=excluded.acl, specialuse=excluded.specialuse, quotaroot=excluded.quotaroot,
		isroot=excluded.isroot, storage=excluded.storage, messages=excluded.messages`,
		keyOf(e.Name), e.Name, e.ID, e.Partition, e.UIDValidity, e.Created.Unix(), e.ACL.String(),
		strings.Join(e.SpecialUse, " "), e.QuotaRoot, e.IsQuotaRoot, e.Quota.Storage, e.Quota.Messages)
	if err != nil {
		return err
	}
	return putGrants(ctx, x, e)
}

type scanner interface{ Scan(...any) error }

func scanEntry(row scanner) (e Entry, err error) {
	var acl, use string
	var created int64
	err = row.Scan(&e.Name, &e.ID, &e.Partition, &e.UIDValidity, &created, &acl, &use, &e.QuotaRoot, &e.IsQuotaRoot, &e.Quota.Storage, &e.Quota.Messages)
	if errors.Is(err, sql.ErrNoRows) {
		return e, ErrNotFound
	}
	e.Created = time.Unix(created, 0)
	e.ACL = ParseACL(acl)
	e.SpecialUse = strings.Fields(use)
	return e, err
}

// get finds a mailbox by its name.
func (l *mailboxList) get(ctx context.Context, name mailbox.Name) (Entry, error) {
	return l.cached(ctx, entryKey{name: name}, func(db *database) *sql.Row {
		return db.byName.QueryRowContext(ctx, keyOf(name))
	})
}

func (l *mailboxList) byID(ctx context.Context, id ID) (Entry, error) {
	return l.cached(ctx, entryKey{id: id}, func(db *database) *sql.Row {
		return db.byID.QueryRowContext(ctx, id)
	})
}

// cached answers from memory if the list has not changed since.
func (l *mailboxList) cached(ctx context.Context, key entryKey, query func(*database) *sql.Row) (Entry, error) {
	db, err := l.open(ctx)
	if err != nil {
		return Entry{}, err
	}
	gen, calm := db.generation()
	if calm {
		if e, ok := db.cache.get(key, gen); ok {
			return e, nil
		}
	}
	e, err := scanEntry(query(db))
	if err == nil && calm {
		if now, calm := db.generation(); calm && now == gen {
			db.cache.put(key, gen, e)
		}
	}
	return e, err
}

// page is up to a thousand entries with keys after one and below another; with a
// user, of those that his ACL entries name.
func (l *mailboxList) page(ctx context.Context, after, below string, to *User) ([]Entry, error) {
	db, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	query, args := `SELECT `+columns+` FROM mailboxes WHERE key > ? AND key < ? ORDER BY key LIMIT 1000`, []any{after, below}
	if to != nil {
		ids := to.identifiers()
		// The cross join makes SQLite begin with the grants.
		query = `SELECT ` + columns + ` FROM (SELECT DISTINCT key AS k FROM grants WHERE key > ? AND key < ? AND id IN (?` +
			strings.Repeat(", ?", len(ids)-1) + `) ORDER BY key LIMIT 1000) CROSS JOIN mailboxes ON key = k ORDER BY key`
		for _, id := range ids {
			args = append(args, id)
		}
	}
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Entry
	for rows.Next() {
		e, err := scanEntry(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, rows.Err()
}

// change runs fn in one transaction that is durable when change returns nil.
func (l *mailboxList) change(ctx context.Context, fn func(*sql.Tx) error) error {
	db, err := l.open(ctx)
	if err != nil {
		return err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	done, err := db.changing()
	if err != nil {
		return err
	}
	defer done()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// remove takes a name out and remembers its UIDVALIDITY.
func remove(ctx context.Context, tx *sql.Tx, e *Entry, now time.Time) error {
	was, err := getTx(ctx, tx, e.Name)
	if err == nil {
		err = dropGrants(ctx, tx, &was)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM mailboxes WHERE key = ?`, keyOf(e.Name)); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO tombstones VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET
		uidvalidity = max(uidvalidity, excluded.uidvalidity), deleted = excluded.deleted`, e.Name, e.UIDValidity, now.Unix())
	return err
}

// nextUIDValidity gives one that is greater than any that was ever given.
func nextUIDValidity(ctx context.Context, tx *sql.Tx, now time.Time) (uint32, error) {
	var v int64
	err := tx.QueryRowContext(ctx, `INSERT INTO facts VALUES ('uidvalidity', ?1) ON CONFLICT (name) DO UPDATE SET
		value = max(?1, value + 1) RETURNING value`, now.Unix()).Scan(&v)
	return uint32(v), err
}

func (l *mailboxList) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.db == nil {
		return nil
	}
	err := l.db.close()
	l.db = nil
	return err
}

func newList(s *Store) *mailboxList {
	return &mailboxList{s: s, path: filepath.Join(s.conf.ConfigDirectory, "mailboxes.db")}
}
