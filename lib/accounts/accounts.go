// Package accounts is the embedded user database: who may log in, and how that
// is proven. It stands where sasldb stood, behind sasl_sasldb_path.
//
// It promises that passwords are kept as verifiers only (SCRAM-SHA-256, which
// also serves PLAIN), and in a recoverable form only where the administrator
// wants CRAM-MD5 or APOP: then a key file lies beside the database. A look-up
// costs the same for 10 users and for 100,000, and a wrong name takes as long as
// a wrong password. Several processes may read and write at once, and a crash
// leaves every account as it was before or after the change.
//
// It knows users and realms. It does not know mechanisms on the wire, mailboxes,
// or which protocol is asking.
package accounts

import (
	"context"
	"errors"
	"iter"

	"angarium/lib/sasl"
)

// Options say how names are read.
type Options struct {
	// Realm is that of a user who gives none: imapd.conf's servername,
	// main.cf's smtpd_sasl_local_domain or myhostname.
	Realm string
	// DefaultDomain is cut off: bob@DefaultDomain is bob. "" for none.
	DefaultDomain string
	// KeepCase: names differ by case (username_tolower: no).
	KeepCase bool
	// Iterations of PBKDF2 for passwords that are set from now on; 0: DefaultIterations.
	Iterations int
	// Group is given a new database, with the right to read it; 0: left as it comes.
	Group int
}

// Account is what List and Get show. No passwords.
type Account struct {
	User     string
	Realm    string
	Disabled bool
	// Recoverable: the password itself is kept too, encrypted.
	Recoverable bool
}

// ErrNotFound: there is no such account to delete or disable.
var ErrNotFound = errors.New("user not found")

var (
	_ sasl.Namer          = (*DB)(nil)
	_ sasl.SecretVerifier = (*DB)(nil)
	_ sasl.ScramVerifier  = (*DB)(nil)
)

// Verify implements sasl.Verifier: user may be "bob" or "bob@realm". id is "bob"
// for an account of the default realm, else "bob@realm", in small letters unless
// KeepCase. The error is an *sasl.Error where the client is refused; any other
// error means that nobody may conclude anything.
func (d *DB) Verify(ctx context.Context, user, password string) (id string, err error) {
	return d.verify(ctx, user, password)
}

// All lists the accounts, in no order.
func (d *DB) All(ctx context.Context) iter.Seq2[Account, error] {
	return d.all(ctx)
}
