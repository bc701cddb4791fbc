package message

import (
	"encoding/binary"
	"hash/crc32"
	"strconv"
	"sync"
)

// render makes the Summary of a message that was read to its end, in one piece
// of memory.
func (p *Parser) render() *Summary {
	buf := make([]byte, 0, 2*len(p.arena)+len(p.cached)+16*len(p.nodes)+128)
	cut := func(from int) []byte { return buf[from:len(buf):len(buf)] }
	s := &Summary{Sent: p.sent, Zone: p.zone, Complete: p.complete}
	at := len(buf)
	buf = append(buf, p.text(p.nodes[0].envelope)...)
	s.Envelope = cut(at)
	at = len(buf)
	buf = p.appendBody(buf, 0, false)
	s.Body = cut(at)
	at = len(buf)
	buf = p.appendBody(buf, 0, true)
	s.BodyStructure = cut(at)
	at = len(buf)
	buf = append(buf, p.cached...)
	s.Header = cut(at)
	at = len(buf)
	buf = p.packParts(buf, 0, 0)
	s.parts = cut(at)
	return s
}

func (p *Parser) text(s span) []byte { return p.arena[s.from:s.to] }

// appendBody writes BODY or BODYSTRUCTURE of a part, RFC 3501, section 7.4.2.
func (p *Parser) appendBody(b []byte, i int, ext bool) []byte {
	n := &p.nodes[i]
	b = append(b, '(')
	if n.kind == Multipart {
		for c, k := n.first, 0; k < n.count; c, k = p.nodes[c].next, k+1 {
			b = p.appendBody(b, c, ext)
		}
		if n.count == 0 { // the grammar wants one
			b = append(b, `("TEXT" "PLAIN" ("CHARSET" "us-ascii") NIL NIL "7BIT" 0 0`...)
			if ext {
				b = append(b, " NIL NIL NIL NIL"...)
			}
			b = append(b, ')')
		}
		b = append(b, ' ')
	}
	b = append(b, p.text(n.fields)...)
	if n.kind != Multipart {
		b = append(b, ' ')
		b = strconv.AppendInt(b, n.end-n.body, 10)
	}
	if n.kind == Message {
		b = append(b, ' ')
		if n.count > 0 {
			b = append(b, p.text(p.nodes[n.first].envelope)...)
			b = p.appendBody(append(b, ' '), n.first, ext)
		} else { // nested deeper than we look
			b = append(b, `(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL) ("TEXT" "PLAIN" ("CHARSET" "us-ascii") NIL NIL "7BIT" 0 0`...)
			if ext {
				b = append(b, " NIL NIL NIL NIL"...)
			}
			b = append(b, ')')
		}
	}
	if n.kind == Text || n.kind == Message {
		b = append(b, ' ')
		b = strconv.AppendInt(b, n.lines, 10)
	}
	if ext {
		b = append(b, p.text(n.ext)...)
	}
	return append(b, ')')
}

var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// Append encodes s behind b: version, CRC32C of the rest, then flags, date, zone
// and the five texts with their lengths.
func (s *Summary) Append(b []byte) []byte {
	start := len(b)
	b = append(b, Version, 0, 0, 0, 0)
	flags := byte(0)
	if s.Complete {
		flags = 1
	}
	b = append(b, flags)
	b = binary.AppendVarint(b, s.Sent)
	b = binary.AppendVarint(b, int64(s.Zone))
	texts := [...][]byte{s.Envelope, s.Body, s.BodyStructure, s.Header, s.parts}
	for _, t := range texts {
		b = binary.AppendUvarint(b, uint64(len(t)))
	}
	for _, t := range texts {
		b = append(b, t...)
	}
	binary.LittleEndian.PutUint32(b[start+1:], crc32.Checksum(b[start+5:], castagnoli()))
	return b
}

// Decode is the inverse of Append. The result points into b.
func Decode(b []byte) (Summary, error) {
	if len(b) < 6 || b[0] != Version || binary.LittleEndian.Uint32(b[1:]) != crc32.Checksum(b[5:], castagnoli()) {
		return Summary{}, ErrDamaged
	}
	s := Summary{Complete: b[5]&1 != 0}
	b = b[6:]
	for i := range 2 {
		v, n := binary.Varint(b)
		if n <= 0 {
			return Summary{}, ErrDamaged
		}
		b = b[n:]
		if i == 0 {
			s.Sent = v
		} else {
			s.Zone = int32(v)
		}
	}
	var lengths [5]uint64
	for i := range lengths {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<30 {
			return Summary{}, ErrDamaged
		}
		lengths[i] = v
		b = b[n:]
	}
	for i, t := range [...]*[]byte{&s.Envelope, &s.Body, &s.BodyStructure, &s.Header, &s.parts} {
		n := lengths[i]
		if n > uint64(len(b)) {
			return Summary{}, ErrDamaged
		}
		*t, b = b[:n:n], b[n:]
	}
	if len(b) != 0 || len(s.parts) == 0 || len(s.Envelope) == 0 {
		return Summary{}, ErrDamaged
	}
	return s, nil
}
