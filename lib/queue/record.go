package queue

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Type is the type of a record, one octet. See queue(5).
type Type byte

// The types that Postfix 3.7 writes.
const (
	TypeSize     Type = 'C' // sizes and offsets, fixed width, first in the file
	TypeTime     Type = 'T' // arrival
	TypeFullName Type = 'F'
	TypeInspect  Type = 'I' // obsolete inspector transport
	TypeFilter   Type = 'L' // content filter; in the envelope only
	TypeSender   Type = 'S'
	TypeDone     Type = 'D' // a recipient that is done
	TypeRcpt     Type = 'R'
	TypeOrigRcpt Type = 'O'
	TypeCanceled Type = '/' // a recipient that a milter took away
	TypeWarn     Type = 'W'
	TypeAttr     Type = 'A' // name=value
	TypeKilled   Type = 'K'
	TypeRedirect Type = '>'
	TypeFlags    Type = 'f'
	TypeDelay    Type = 'd'
	TypeMessage  Type = 'M' // the content begins
	TypeCont     Type = 'L' // a part of a line that goes on in the next record; in the content only
	TypeNorm     Type = 'N' // a line, or its last part
	TypeDeleted  Type = 'w' // padding
	TypeExtra    Type = 'X' // the content ends
	TypeRRTo     Type = 'r'
	TypeErrTo    Type = 'e'
	TypePriority Type = 'P'
	TypeVerp     Type = 'V'
	TypePointer  Type = 'p' // the next record is elsewhere in the file
	TypeDSNRet   Type = '<'
	TypeDSNEnvID Type = 'i'
	TypeDSNOrcpt Type = 'o'
	TypeDSNNote  Type = 'n'
	TypeMilter   Type = 'm'
	TypeEnd      Type = 'E'
)

// MaxRecord is the longest record that a Reader takes: what Postfix' programs
// agree on is line_length_limit (2048) for text, far less for the rest, but a
// header may come as one attribute.
const MaxRecord = 1 << 20

// ErrFormat is wrapped by every error about what stands in a file, as opposed to
// a failure to read it.
var ErrFormat = errors.New("malformed queue file")

// AppendRecord appends one record: the type, the length in groups of seven bits,
// least first, with the high bit set where another follows, and the data.
func AppendRecord(b []byte, t Type, data string) []byte {
	b = append(b, byte(t))
	n := len(data)
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	b = append(b, byte(n))
	return append(b, data...)
}

// headSize is the room that the type and length of a record of n octets take.
func headSize(n int) int {
	size := 2
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

// A Reader reads records from a stream and knows their offsets. It neither
// follows pointers nor knows which order makes sense.
type Reader struct {
	r      *bufio.Reader
	next   int64 // offset of the record to be read next
	buf    []byte
	offset int64
}

// NewReader reads records from r, the first of which lies at offset.
func NewReader(r io.Reader, offset int64) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 4096), next: offset}
}

// Offset is where the record returned last begins.
func (r *Reader) Offset() int64 { return r.offset }

// Next is where the record after it begins.
func (r *Reader) Next() int64 { return r.next }

// Read returns the next record; its data is valid until the next call. The end
// of the stream between two records is io.EOF, within one io.ErrUnexpectedEOF (then
// data has the length that the record claimed).
func (r *Reader) Read() (Type, []byte, error) {
	t, err := r.r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	r.offset = r.next
	n, head, err := readLength(r.r)
	if err != nil {
		return 0, nil, err
	}
	if cap(r.buf) < n {
		if n > r.r.Size() && n > 64<<10 {
			return r.readLong(Type(t), n, head)
		}
		r.buf = make([]byte, max(n, 256))
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		return Type(t), r.buf, short(err)
	}
	r.next += int64(head + n)
	return Type(t), r.buf, nil
}

// readLong takes memory only as data arrives: a length is but a claim.
func (r *Reader) readLong(t Type, n, head int) (Type, []byte, error) {
	data, err := io.ReadAll(io.LimitReader(r.r, int64(n)))
	if err != nil {
		return 0, nil, err
	}
	if len(data) < n {
		return 0, nil, io.ErrUnexpectedEOF
	}
	r.buf = data
	r.next += int64(head + n)
	return t, data, nil
}

// readLength reads the length of a record, and returns how many octets it and
// the type took.
func readLength(r io.ByteReader) (n, head int, err error) {
	head = 1
	for shift := 0; ; shift += 7 {
		c, err := r.ReadByte()
		if err != nil {
			return 0, 0, short(err)
		}
		head++
		n |= int(c&0x7f) << shift
		if n > MaxRecord || shift > 28 {
			return 0, 0, fmt.Errorf("%w: record too long", ErrFormat)
		}
		if c&0x80 == 0 {
			return n, head, nil
		}
	}
}

func short(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
