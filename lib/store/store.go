package store

import (
	"context"
	"io"
	"iter"
	"time"

	"angarium/lib/mailbox"
	"angarium/lib/maillog"
)

// Config is what a store needs to know. Only the three first are required.
type Config struct {
	ConfigDirectory  string
	Partitions       map[string]string // name -> path
	DefaultPartition string

	Log *maillog.Logger // may be nil

	// DelayedDelete keeps deleted mailboxes below DELETED (delete_mode: delayed).
	DelayedDelete bool
	// ExpungeKeep is how long an expunged message's file is kept, at least ten
	// minutes; negative: until cyr_expire (expunge_mode: delayed).
	ExpungeKeep time.Duration
	// DefaultACL is what new shared mailboxes get (defaultacl).
	DefaultACL ACL
	AutoQuota int64 // autocreate_quota in octets for INBOXes made by Create; <=0: none

	MaxOpen int // descriptors that idle mailboxes may hold; 0: 2,000

	// For tests.
	Now    func() time.Time        // nil: time.Now
	Fault  func(step string) error // called between the steps of each commit
	BootID string                  // "": the kernel's
	Manual bool                    // no background goroutine: the test calls Tend
}

// Store is the mail of one machine. It is safe for concurrent use.
type Store struct {
	conf Config
}

var (
	_ Directory     = (*Store)(nil)
	_ Deliverer     = (*Store)(nil)
	_ Subscriptions = (*Store)(nil)
)

// Open opens the store and makes what is not there yet.
func Open(ctx context.Context, conf Config) (*Store, error) { return nil, ErrBusy }

// Close ends the background work, writes what waits to be written, and notes an
// orderly stop.
func (s *Store) Close() error { return nil }

// Partition is a partition's path, "" if there is none of this name.
func (s *Store) Partition(name string) string { return s.conf.Partitions[name] }

// Watch returns a Watcher of nothing yet.
func (s *Store) Watch() Watcher { return nil }

// Draft is a message on its way into mailboxes: written, synced, but nobody's yet.
type Draft struct {
	Size int64
	GUID [16]byte
}

// Abort drops the draft. It does nothing once it was delivered.
func (d *Draft) Abort() {}

func (s *Store) Open(ctx context.Context, name mailbox.Name, as User) (Mailbox, error) {
	return nil, ErrNotFound
}
func (s *Store) Lookup(context.Context, mailbox.Name) (Entry, error)  { return Entry{}, ErrNotFound }
func (s *Store) Status(context.Context, mailbox.Name) (Status, error) { return Status{}, ErrNotFound }
func (s *Store) List(context.Context, Query) iter.Seq2[Entry, error] {
	return func(func(Entry, error) bool) {}
}
func (s *Store) Create(context.Context, Entry) (Entry, error) { return Entry{}, ErrBusy }
func (s *Store) Delete(context.Context, mailbox.Name) error   { return ErrNotFound }
func (s *Store) Rename(ctx context.Context, from, to mailbox.Name, partition string) error {
	return ErrNotFound
}
func (s *Store) Update(context.Context, mailbox.Name, func(*Entry) error) error { return ErrNotFound }
func (s *Store) Usage(ctx context.Context, root mailbox.Name) (Quota, error) {
	return Quota{}, ErrNotFound
}
func (s *Store) Subscribed(ctx context.Context, userid string) ([]mailbox.Name, error) {
	return nil, nil
}
func (s *Store) Subscribe(ctx context.Context, userid string, name mailbox.Name, on bool) error {
	return nil
}
func (s *Store) Stage(context.Context, Source) (*Draft, error)     { return nil, io.ErrUnexpectedEOF }
func (s *Store) Deliver(context.Context, *Draft, []Target) []error { return nil }
