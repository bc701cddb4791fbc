// Package store keeps the users' mail: a Maildir tree with an index beside
// each mailbox. Three truths: a message's content is its file; its state (UID,
// flags, modseq) is the index; a mailbox's description is its .mailbox file.
// File names are a slow copy of the state, good enough to rebuild it.
//
//	<partition>/user/bob/          INBOX of bob (user.bob)
//	    cur/ new/ tmp/             one file a message: cur/<seconds>.U<uid>.<tag>,S=<octets>:2,<flags>
//	    .mailbox                   what it is: text, replaced by rename
//	    .index .cache .extra       state; derived summaries; what names can't say
//	    .expunged/                 until the grace time is over
//	<partition>/.stage/            messages being written
//	<configdirectory>/mailboxes.db the list: SQLite
//	<configdirectory>/epoch        tells whether the machine went down under us
//
// What it promises: a message whose Append or Deliver returned nil survives a
// power cut, and so do Create, Delete, Rename and Update. Change and Expunge
// survive the death of the process at once, a power cut after a second. No UID
// is ever given twice under one UIDVALIDITY, and UIDNEXT and HIGHESTMODSEQ never
// go back. Any number of processes of one machine may work on a store.
//
// Rights are evaluated here and enforced by those who talk to users. Sequence
// numbers, and what a client was told, live in imapd.
package store

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"angarium/lib/mailbox"
	"angarium/lib/message"
)

type (
	// UID numbers a message within its mailbox.
	UID uint32
	// ModSeq numbers the changes of a mailbox, RFC 7162.
	ModSeq uint64
	// ID is a mailbox's uniqueid. It survives Rename; IMAP calls it MAILBOXID.
	ID string
)

// Flags are the system flags of a message.
type Flags uint32

// The system flags. The bits above are the store's own and not in a View.
const (
	FlagAnswered Flags = 1 << iota
	FlagFlagged
	FlagDeleted
	FlagSeen
	FlagDraft

	SystemFlags = FlagAnswered | FlagFlagged | FlagDeleted | FlagSeen | FlagDraft
)

// Message is a message as of one ModSeq. It has no pointers, so a million of them cost
// the garbage collector nothing.
type Message struct {
	UID             UID
	Flags           Flags
	Named           uint32    // the letters last written into the file's name
	Keywords        [2]uint64 // bits; their names are View.Keywords
	ModSeq, Created ModSeq
	Size            int64    // octets, CRLF
	Internal, Saved int64    // Unix seconds: INTERNALDATE, SAVEDATE
	GUID            [16]byte // of the content: EMAILID

	cache uint64 // where .cache has its summary; see cache.go
}

// HasKeyword reports whether bit i of the keywords is set.
func (m *Message) HasKeyword(i int) bool { return m.Keywords[i>>6]&(1<<(i&63)) != 0 }

// Status is what STATUS and SELECT ask of a mailbox.
type Status struct {
	UIDValidity   uint32
	UIDNext       UID
	HighestModSeq ModSeq
	Messages      int
	Unseen        int
	Deleted       int
	Recent        int // as of now, for a session that would claim them
	Size          int64
	FirstUnseen   int // position of the first unseen message, -1: none. Views only
}

// View is a mailbox as of one ModSeq: immutable, in UID order, shared. A session keeps
// the View it told its client; a sequence number is a position in it plus one.
type View interface {
	Status() Status
	Len() int
	At(i int) Message
	Find(UID) (i int, ok bool)       // where it is, or would be
	Keywords() []string              // bit i's name
	Since(old View) iter.Seq[Change] // in UID order; skips what both share
}

// ChangeKind tells what happened to a message between two Views.
type ChangeKind uint8

// The kinds of Change.
const (
	New ChangeKind = iota
	Changed
	Gone
)

// Change is a difference between two Views.
type Change struct {
	Kind     ChangeKind
	Old, Now int     // positions in the old and in the new view; -1 where there is none
	Message  Message // as it is now; of a Gone one, as it was
}

// Mailbox is a mailbox opened by one user.
type Mailbox interface {
	ID() ID
	Name() mailbox.Name                                                       // as it was opened
	View(context.Context) (View, error)                                       // newest; one fstatat when nothing changed
	Vanished(ctx context.Context, since ModSeq, among UIDSet) (UIDSet, error) // may name too many, never too few
	Body(context.Context, UID) (Body, error)                                  // also of one expunged minutes ago
	Summaries(context.Context, UIDSet) iter.Seq2[Summarized, error]           // those that are there, in UID order
	Append(context.Context, ...*Draft) ([]Message, error)                     // all or none; durable; quota checked inside
	Change(context.Context, UIDSet, FlagOp) (failed UIDSet, err error)
	Expunge(context.Context, UIDSet) (UIDSet, error) // what it removed; the caller chose those with \Deleted
	CopyTo(ctx context.Context, to Mailbox, uids UIDSet, move bool) ([]Pair, error)
	// Recent is the UID up to which messages are not \Recent any more. With claim,
	// all that are there now count as seen by some session from now on.
	Recent(ctx context.Context, claim bool) (UID, error)
	// LockPOP takes the lock that keeps a second POP session out: ErrBusy.
	LockPOP(context.Context) (release func(), err error)
	Rights(context.Context) (Rights, error) // of the user who opened it, as of now
	Close() error
}

// Summarized is one message's summary.
type Summarized struct {
	UID     UID
	Summary message.Summary
}

// Pair is a copied message: its UID there and here.
type Pair struct{ From, To UID }

// FlagMode is what Change does with the flags it is given.
type FlagMode uint8

// STORE +FLAGS, -FLAGS and FLAGS.
const (
	AddFlags FlagMode = iota
	RemoveFlags
	SetFlags
)

// FlagOp is one change of flags.
type FlagOp struct {
	Mode     FlagMode
	Flags    Flags
	Keywords []string
	// Conditional: messages whose ModSeq is above UnchangedSince fail.
	Conditional    bool
	UnchangedSince ModSeq
}

// Body is a message's content: size known, parts by offset.
type Body interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// User is who asks. The zero User is anonymous and has the rights of "anyone" only.
type User struct {
	ID     string // "bob", "bob@example.org"
	Admin  bool
	Groups []string
}

// Entry is a mailbox as the list knows it, and what its .mailbox says besides.
type Entry struct {
	Name        mailbox.Name
	ID          ID
	Partition   string
	UIDValidity uint32
	ACL         ACL
	SpecialUse  []string // `\Sent`
	QuotaRoot   mailbox.Name
	Created     time.Time
	// The rest is known to Lookup and Update, not to List.
	Quota       Quota // limits, if this mailbox is a quota root
	IsQuotaRoot bool
	Annotations map[string]string // entry name -> value; "/shared/comment"; a user's are "/private/bob/comment"
}

// Query selects entries of the list, in the order of their names: children follow
// their parent.
type Query struct {
	Under   mailbox.Name // this one and what is below; "": all
	Owner   string       // only mailboxes of this user; "": any
	Deleted bool         // also the DELETED hierarchy
	// To: only mailboxes of which the ACL itself tells this user; those he owns may
	// be left out. It costs no more than what is found.
	To    *User
	After mailbox.Name // begin behind this name
}

// Directory is the list of mailboxes.
type Directory interface {
	Open(ctx context.Context, name mailbox.Name, as User) (Mailbox, error)
	Lookup(context.Context, mailbox.Name) (Entry, error)  // ErrNotFound
	Status(context.Context, mailbox.Name) (Status, error) // without reading the messages' records
	List(context.Context, Query) iter.Seq2[Entry, error]  // holds no transaction between entries
	Create(context.Context, Entry) (Entry, error)         // Name is needed; the rest is chosen where it is empty
	Delete(context.Context, mailbox.Name) error           // this one only, not what is below
	// Rename also moves what is below. RENAME of an INBOX moves its messages only
	// (RFC 3501, 6.3.5). A partition that is not "" is where they go.
	Rename(ctx context.Context, from, to mailbox.Name, partition string) error
	Update(context.Context, mailbox.Name, func(*Entry) error) error // ACL, annotations, special use, quota
	Usage(ctx context.Context, root mailbox.Name) (used Quota, err error)
}

// Subscriptions are names a user wants to see, kept in a text file of his.
type Subscriptions interface {
	Subscribed(ctx context.Context, userid string) ([]mailbox.Name, error) // sorted
	Subscribe(ctx context.Context, userid string, name mailbox.Name, on bool) error
}

// Target is one recipient's mailbox of a delivery.
type Target struct {
	// Found is what Exists said of the mailbox a moment ago; the zero Entry: look
	// it up.
	Found     Entry
	Name      mailbox.Name
	Flags     Flags
	Keywords  []string
	OverQuota bool // deliver though the quota is used up (IGNOREQUOTA)
}

// Deliverer is what lmtpd needs.
type Deliverer interface {
	Stage(context.Context, Source) (*Draft, error)
	Deliver(context.Context, *Draft, []Target) []error // one file, a link per target; an answer each, nil: durable
}

// Source is a message about to be written.
type Source struct {
	Reader    io.Reader    // CRLF line ends; bare LF and CR are stored as they are
	Limit     int64        // ErrTooBig beyond; 0: none
	Partition string       // where it will probably go; "": the default one
	Near      mailbox.Name // or: the partition of this mailbox
	Internal  time.Time    // INTERNALDATE; zero: now
	Flags     Flags        // for Append
	Keywords  []string
}

// Notice says that something about a mailbox may have changed. It is a hint: ask
// for the View.
type Notice struct {
	ID   ID
	Kind NoticeKind
}

// NoticeKind is a set of what may have changed.
type NoticeKind uint8

// The kinds of Notice.
const (
	Messages NoticeKind = 1 << iota
	List                // created, deleted, renamed
	Access              // ACL, quota, metadata
)

// Watcher tells a session of changes: IDLE and NOTIFY. It never blocks a writer.
type Watcher interface {
	Watch(...ID) // these, and no others any more
	Ready() <-chan struct{}
	Take() []Notice
	Close() error
}

// What callers may ask for with errors.Is. Whatever is none of these is a
// failure of the machine and temporary.
var (
	ErrNotFound  = errors.New("mailbox does not exist")
	ErrExists    = errors.New("mailbox already exists")
	ErrBadName   = mailbox.ErrBad
	ErrOverQuota = errors.New("over quota")
	ErrGone      = errors.New("message does not exist") // never there, or expunged and swept
	ErrTooBig    = errors.New("message too big")
	ErrKeywords  = errors.New("too many keywords in mailbox")
	ErrBusy      = errors.New("mailbox is locked")
	ErrPartition = errors.New("no such partition")
	ErrHasChild  = errors.New("mailbox has children")
	ErrReserved  = errors.New("reserved mailbox name")
)
