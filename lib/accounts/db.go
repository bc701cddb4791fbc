package accounts

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"angarium/lib/sasl"
)

// DefaultIterations is a millisecond or two of work (RFC 7677, 4 asks for 4096 at
// least). A login costs it once per process and password; see cache.
const DefaultIterations = 10000

// Limits on names and passwords, far above what anybody uses.
const (
	maxName     = 512
	maxPassword = 1024
)

// DB is an open database. It is safe for concurrent use.
type DB struct {
	opt   Options
	table *table
	key   keyFile
	cache cache
	busy  chan struct{} // bounds the verifications at work, so that guessing can't starve the rest
}

// Open opens the database at path; the file itself may appear later, when the
// first account is set. The folder is kept open, so that the database is found
// after a chroot, too.
func Open(path string, opt Options) (*DB, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if opt.Iterations == 0 {
		opt.Iterations = DefaultIterations
	}
	d := &DB{
		opt:   opt,
		table: &table{dir: dir, name: filepath.Base(path), path: path, least: minBuckets, group: opt.Group},
		key:   keyFile{dir: dir, name: filepath.Base(path) + ".key"},
		busy:  make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	d.cache.init()
	if err := d.table.refresh(); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Close gives the descriptors back.
func (d *DB) Close() error { return d.table.close() }

// Secrets reports whether recoverable passwords are kept: whether CRAM-MD5 and
// APOP can work.
func (d *DB) Secrets() bool {
	key, err := d.key.load()
	return err == nil && key != nil
}

// Create makes the file, without accounts, if there is none: its owner and mode
// are then those that all later changes keep.
func (d *DB) Create() error {
	h, err := d.table.lock()
	if err != nil {
		return err
	}
	return h.f.Close()
}

// EnableSecrets makes the key file, so that passwords set from now on are kept
// in a recoverable form too.
func (d *DB) EnableSecrets() error { return d.key.create(d.table) }

// Set creates the account or changes its password. An empty realm is the default one.
func (d *DB) Set(ctx context.Context, user, realm, password string) error {
	return d.set(ctx, user, realm, password, true)
}

// SetVerifier is Set without a recoverable form, whatever the key file says.
func (d *DB) SetVerifier(ctx context.Context, user, realm, password string) error {
	return d.set(ctx, user, realm, password, false)
}

func (d *DB) set(_ context.Context, user, realm, password string, recoverable bool) error {
	user, realm, err := d.names(user, realm)
	if err != nil {
		return err
	}
	if password == "" || len(password) > maxPassword || strings.ContainsAny(password, "\x00\r\n") {
		return errors.New("bad password")
	}
	verifier := newVerifier(password, d.opt.Iterations)
	secret := ""
	if recoverable {
		if secret, err = d.key.seal(user+"@"+realm, password); err != nil {
			return err
		}
	}
	return d.table.update(user, realm, func(r *record) error {
		r.deleted, r.verifier, r.secret = false, verifier, secret
		return nil
	})
}

// Disable locks an account out, or lets it in again.
func (d *DB) Disable(ctx context.Context, user, realm string, disabled bool) error {
	return d.change(user, realm, func(r *record) { r.disabled = disabled })
}

// Delete removes an account.
func (d *DB) Delete(ctx context.Context, user, realm string) error {
	return d.change(user, realm, func(r *record) {
		*r = record{user: r.user, realm: r.realm, deleted: true}
	})
}

func (d *DB) change(user, realm string, f func(*record)) error {
	user, realm, err := d.names(user, realm)
	if err != nil {
		return err
	}
	return d.table.update(user, realm, func(r *record) error {
		if r.deleted {
			return ErrNotFound
		}
		f(r)
		return nil
	})
}

// Get finds an account.
func (d *DB) Get(ctx context.Context, user, realm string) (Account, bool, error) {
	user, realm, err := d.names(user, realm)
	if err != nil {
		return Account{}, false, nil
	}
	r, _, err := d.table.get(user, realm)
	if err != nil || r.deleted {
		return Account{}, false, err
	}
	return r.account(), true, nil
}

// names brings a name given by an administrator into the form it is kept in.
func (d *DB) names(user, realm string) (string, string, error) {
	if name, at, ok := cutLast(user, "@"); ok && realm == "" {
		user, realm = name, at
	}
	if realm == "" {
		realm = d.opt.Realm
	}
	if !d.opt.KeepCase {
		user = strings.ToLower(user)
	}
	realm = strings.ToLower(realm)
	if !goodName(user) || user == "" || !goodName(realm) || strings.Contains(realm, "@") {
		return "", "", fmt.Errorf("bad user name")
	}
	return user, realm, nil
}

func goodName(s string) bool {
	if len(s) > maxName {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 127 {
			return false
		}
	}
	return true
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// Name implements sasl.Namer.
func (d *DB) Name(user string) string {
	_, _, id := d.places(user)
	return id
}

// places tells where an account is kept that a client calls user: under which
// name, and in which realms to look. id is "" for what can't be a name.
func (d *DB) places(user string) (name string, realms []string, id string) {
	if !goodName(user) {
		return "", nil, ""
	}
	if !d.opt.KeepCase {
		user = strings.ToLower(user)
	}
	realm, domain := strings.ToLower(d.opt.Realm), strings.ToLower(d.opt.DefaultDomain)
	name, at, ok := cutLast(user, "@")
	at = strings.ToLower(at)
	if ok && at != realm && at != domain {
		return name, []string{at}, name + "@" + at
	}
	return name, []string{realm, domain}, name
}

// find looks an account up by the name that a client gave. The version changes
// with every change of the account. Not found is a deleted record.
func (d *DB) find(user string) (r record, id string, ver version, err error) {
	r.deleted = true
	name, realms, id := d.places(user)
	for i, realm := range realms {
		if i > 0 && realm == "" {
			break
		}
		r, ver, err = d.table.get(name, realm)
		if err != nil || !r.deleted {
			break
		}
	}
	return r, id, ver, err
}

// Answers in the words of the SASL library. Which of them it was goes to the log only.
func noUser() error {
	return &sasl.Error{Code: sasl.CodeBadAuth, What: "user not found", Text: "checkpass failed"}
}

func badPassword() error { return &sasl.Error{Code: sasl.CodeBadAuth, Text: "checkpass failed"} }

// trouble is a failure of ours: the client should try again later.
func trouble(err error) error { return &sasl.Error{Code: sasl.CodeFail, Err: err} }

func (d *DB) verify(ctx context.Context, user, password string) (string, error) {
	r, id, ver, err := d.find(user)
	if err != nil {
		return "", trouble(err)
	}
	if len(password) > maxPassword {
		password = "" // no account has it
	}
	mac := d.cache.mac(id, password)
	ok := !r.deleted && d.cache.has(id, ver, mac)
	if !ok {
		v := r.verifier
		if r.deleted || v.salt == nil {
			v = decoy(d.opt.Iterations) // an unknown user takes as long
		}
		select {
		case d.busy <- struct{}{}:
		case <-ctx.Done():
			return "", trouble(ctx.Err())
		}
		ok = v.check(password) && !r.deleted
		<-d.busy
		if ok {
			d.cache.put(id, ver, mac)
		}
	}
	switch {
	case r.deleted:
		return "", noUser()
	case !ok || password == "":
		return "", badPassword()
	case r.disabled:
		return "", &sasl.Error{Code: sasl.CodeDisabled, Text: "checkpass failed"}
	}
	return id, nil
}

// Secret implements sasl.SecretVerifier.
func (d *DB) Secret(ctx context.Context, user string) (secret, id string, err error) {
	r, id, _, err := d.find(user)
	if err != nil {
		return "", "", trouble(err)
	}
	switch {
	case r.deleted:
		return "", "", &sasl.Error{Code: sasl.CodeNoUser, Text: "no secret in database"}
	case r.secret == "":
		return "", "", &sasl.Error{Code: sasl.CodeNoUser, Text: "no secret in database"}
	}
	if secret, err = d.key.open(r.user+"@"+r.realm, r.secret); err != nil {
		return "", "", trouble(err)
	}
	if r.disabled {
		return "", "", &sasl.Error{Code: sasl.CodeDisabled}
	}
	return secret, id, nil
}

// Scram implements sasl.ScramVerifier.
func (d *DB) Scram(ctx context.Context, hash, user string) (sasl.ScramKeys, string, error) {
	if hash != "SCRAM-SHA-256" {
		return sasl.ScramKeys{}, "", &sasl.Error{Code: sasl.CodeNoMech, Text: hash}
	}
	r, id, _, err := d.find(user)
	if err != nil {
		return sasl.ScramKeys{}, "", trouble(err)
	}
	v := r.verifier
	if r.deleted || r.disabled || v.salt == nil {
		// The same name gets the same salt each time, as a real account would.
		v, id = decoy(d.opt.Iterations), ""
		v.salt = d.cache.mac("salt", user)[:16]
	}
	return sasl.ScramKeys{Salt: v.salt, Iterations: v.iterations, StoredKey: v.stored, ServerKey: v.server}, id, nil
}

func (d *DB) all(context.Context) iter.Seq2[Account, error] {
	return func(yield func(Account, error) bool) {
		for r, err := range d.table.all() {
			if !yield(r.account(), err) || err != nil {
				return
			}
		}
	}
}

// verifier is what RFC 5802, 3 keeps in place of a password.
type verifier struct {
	iterations           int
	salt, stored, server []byte
}

func newVerifier(password string, iterations int) verifier {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	return derive(password, salt, iterations)
}

func derive(password string, salt []byte, iterations int) verifier {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		panic(err) // a key length out of range: ours is a constant
	}
	mac := func(text string) []byte {
		m := hmac.New(sha256.New, salted)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	return verifier{iterations, salt, stored[:], mac("Server Key")}
}

// decoy is a verifier that nothing satisfies.
func decoy(iterations int) verifier {
	return verifier{iterations, make([]byte, 16), make([]byte, sha256.Size), make([]byte, sha256.Size)}
}

func (v verifier) check(password string) bool {
	return hmac.Equal(derive(password, v.salt, v.iterations).stored, v.stored)
}

// cache remembers which passwords were right a moment ago, so that clients that
// log in for every look at their mail do not cost a derivation each. It holds
// no password, only its MAC under a key that dies with the process, and an
// entry is good for one version of the account: a change counts at once.
type cache struct {
	key  [32]byte
	mu   sync.Mutex
	good map[string]remembered
}

type remembered struct {
	ver version
	mac [sha256.Size]byte
}

const cacheSize = 1 << 14

func (c *cache) init() { _, _ = rand.Read(c.key[:]) }

func (c *cache) mac(id, password string) []byte {
	m := hmac.New(sha256.New, c.key[:])
	m.Write([]byte(id + "\x00" + password))
	return m.Sum(nil)
}

func (c *cache) has(id string, ver version, mac []byte) bool {
	c.mu.Lock()
	e, ok := c.good[id]
	c.mu.Unlock()
	return ok && e.ver == ver && hmac.Equal(e.mac[:], mac)
}

func (c *cache) put(id string, ver version, mac []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.good == nil {
		c.good = map[string]remembered{}
	}
	if len(c.good) >= cacheSize {
		for other := range c.good { // any one
			delete(c.good, other)
			break
		}
	}
	c.good[id] = remembered{ver, [sha256.Size]byte(mac)}
}
