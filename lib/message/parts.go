package message

import "encoding/binary"

// Kind tells what a part is made of.
type Kind uint8

// What a part can be.
const (
	Leaf      Kind = iota // a body that is no text
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

// Part is a part of a message: where it lies and how it is encoded.
type Part struct {
	Header, HeaderLen int64 // its header with the empty line
	Body, BodyLen     int64
	Kind              Kind
	Encoding          Encoding

	children int
	at       int // in the packed table, behind this row
}

// The table has a row for each part, a parent before its children: a byte (kind
// and encoding), then as uvarints the header's distance from the start of the
// parent's body, the header's length, the body's length, the children's number.

func (p *Parser) packParts(b []byte, i int, base int64) []byte {
	n := &p.nodes[i]
	b = append(b, byte(n.kind)|byte(n.encoding)<<4)
	b = binary.AppendUvarint(b, uint64(max(n.header-base, 0)))
	b = binary.AppendUvarint(b, uint64(n.body-n.header))
	b = binary.AppendUvarint(b, uint64(n.end-n.body))
	b = binary.AppendUvarint(b, uint64(n.count))
	for c, k := n.first, 0; k < n.count; c, k = p.nodes[c].next, k+1 {
		b = p.packParts(b, c, n.body)
	}
	return b
}

// row reads the row at an offset of the table.
func (s *Summary) row(at int, base int64) (Part, bool) {
	if at >= len(s.parts) {
		return Part{}, false
	}
	t := Part{Kind: Kind(s.parts[at] & 15), Encoding: Encoding(s.parts[at] >> 4)}
	at++
	var v [4]uint64
	for i := range v {
		x, n := binary.Uvarint(s.parts[at:])
		if n <= 0 || x > 1<<62 {
			return Part{}, false
		}
		v[i] = x
		at += n
	}
	t.Header, t.HeaderLen, t.BodyLen, t.children, t.at = base+int64(v[0]), int64(v[1]), int64(v[2]), int(v[3]), at
	t.Body = t.Header + t.HeaderLen
	return t, true
}

// skip returns the offset behind a part's children.
func (s *Summary) skip(t Part) (int, bool) {
	at := t.at
	for range t.children {
		c, ok := s.row(at, 0)
		if !ok {
			return 0, false
		}
		if at, ok = s.skip(c); !ok {
			return 0, false
		}
	}
	return at, true
}

// child is the k-th part of t, from 1.
func (s *Summary) child(t Part, k uint32) (Part, bool) {
	if k < 1 || uint64(k) > uint64(t.children) {
		return Part{}, false
	}
	at := t.at
	for ; k > 1; k-- {
		c, ok := s.row(at, 0)
		if !ok {
			return Part{}, false
		}
		if at, ok = s.skip(c); !ok {
			return Part{}, false
		}
	}
	return s.row(at, t.Body)
}

// Part finds a part by its number, RFC 3501, section 6.4.5: {1, 2} is BODY[1.2].
// The empty path is the message itself.
func (s *Summary) Part(path []uint32) (Part, bool) {
	t, ok := s.row(0, 0)
	root := true // t is a message's outermost part, which has no number of its own
	for _, k := range path {
		if !ok {
			return Part{}, false
		}
		if !root && t.Kind == Message {
			if t, ok = s.child(t, 1); !ok {
				return Part{}, false
			}
			root = true
		}
		switch {
		case t.Kind == Multipart && t.children > 0:
			t, ok = s.child(t, k)
		case !root || k != 1:
			return Part{}, false
		}
		root = false
	}
	return t, ok
}

// Message finds the message that is the part with that number: its header and
// its body (HEADER and TEXT). The empty path is the message itself.
func (s *Summary) Message(path []uint32) (Part, bool) {
	t, ok := s.Part(path)
	if !ok || len(path) == 0 {
		return t, ok
	}
	if t.Kind != Message {
		return Part{}, false
	}
	return s.child(t, 1)
}

// HeaderLen is the length of the message's header with the empty line.
func (s *Summary) HeaderLen() int64 {
	t, _ := s.row(0, 0)
	return t.HeaderLen
}

// Walk calls fn for every part, a parent before its children, until fn is false.
func (s *Summary) Walk(fn func(t Part, depth int) bool) {
	s.walk(0, 0, 0, fn)
}

func (s *Summary) walk(at int, base int64, depth int, fn func(Part, int) bool) (int, bool) {
	t, ok := s.row(at, base)
	if !ok || depth > maxDepth || !fn(t, depth) {
		return 0, false
	}
	at = t.at
	for range t.children {
		if at, ok = s.walk(at, t.Body, depth+1, fn); !ok {
			return 0, false
		}
	}
	return at, true
}
