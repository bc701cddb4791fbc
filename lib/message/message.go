// Package message reads what lies in a mailbox: the MIME structure of a message
// with the offset of each part, and the few answers that clients ask for again
// and again.
//
// A Parser goes through the octets once, as they arrive or as they lie, and
// makes a Summary: ENVELOPE, BODY and BODYSTRUCTURE in the form in which IMAP
// sends them, the common header fields as they stand in the message, and a table
// of parts, so that BODY[1.2] is one pread and a FETCH of envelopes is a copy.
// The store keeps Summaries in its cache (Append, Decode).
//
// It promises to find some structure in anything (broken MIME, bare LF, NULs,
// 8-bit headers, boundaries that never come) in memory that does not grow with
// the message, and never to alter an octet. It does not know mailboxes, UIDs or
// flags, nor whether a message is wanted.
package message

import "errors"

// Version is the form that Append writes. Decode refuses others, and the cache
// is then made again from the message.
const Version = 1

// ErrDamaged says that a cached summary can't be trusted.
var ErrDamaged = errors.New("message: damaged summary")

// Summary is what a mailbox remembers of a message. The slices of one that came
// from Decode point into the bytes it was given.
type Summary struct {
	Envelope      []byte // RFC 3501, 7.4.2: "(...)" as IMAP sends it
	Body          []byte // BODY, without extensions
	BodyStructure []byte // BODYSTRUCTURE
	Header        []byte // the fields for which Cached is true, raw, in their order
	Complete      bool   // Header has all of them; false: they were too long to keep
	Sent          int64  // Unix time of Date:, 0 if there is none or it says nothing
	Zone          int32  // seconds east of UTC in Date:

	parts []byte // part table, packed; see parts.go
}

// Cached reports whether a header field's lines are kept in Summary.Header. The
// name's case does not matter. The list is what mail programs ask for when they
// draw a mailbox: a field that is on it and not in Header is not in the message.
func Cached(name []byte) bool { return known(name).cached() }
