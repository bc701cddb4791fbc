package accounts

import (
	"context"
	"errors"
	"iter"

	"angarium/lib/sasl"
)

// DefaultIterations is the least that RFC 7677, 4 allows.
const DefaultIterations = 4096

// DB is an open database. It is safe for concurrent use.
type DB struct{ path string }

var errTodo = errors.New("accounts: not yet")

// Open opens the database at path for reading; Set creates it.
func Open(path string, opt Options) (*DB, error) { return &DB{path}, nil }

// Close gives the descriptors back.
func (d *DB) Close() error { return nil }

// Secrets reports whether recoverable passwords are kept: whether CRAM-MD5 and
// APOP can work.
func (d *DB) Secrets() bool { return false }

// EnableSecrets makes the key file, so that passwords set from now on are kept
// in a recoverable form too.
func (d *DB) EnableSecrets() error { return errTodo }

// Set creates the account or changes its password. An empty realm is the default one.
func (d *DB) Set(ctx context.Context, user, realm, password string) error { return errTodo }

// Disable locks an account out, or lets it in again.
func (d *DB) Disable(ctx context.Context, user, realm string, disabled bool) error { return errTodo }

// Delete removes an account.
func (d *DB) Delete(ctx context.Context, user, realm string) error { return errTodo }

// Get finds an account.
func (d *DB) Get(ctx context.Context, user, realm string) (Account, bool, error) {
	return Account{}, false, errTodo
}

// Secret implements sasl.SecretVerifier.
func (d *DB) Secret(ctx context.Context, user string) (secret, id string, err error) {
	return "", "", errTodo
}

// Scram implements sasl.ScramVerifier.
func (d *DB) Scram(ctx context.Context, hash, user string) (sasl.ScramKeys, string, error) {
	return sasl.ScramKeys{}, "", errTodo
}

func (d *DB) verify(ctx context.Context, user, password string) (string, error) { return "", errTodo }

func (d *DB) all(ctx context.Context) iter.Seq2[Account, error] {
	return func(yield func(Account, error) bool) { yield(Account{}, errTodo) }
}
