package imap

import (
	"io"
	"strconv"
	"sync"
)

// Encoder writes responses. It borrows its buffer when something is written and
// gives it back at Flush, so that an idle connection has none. The first error
// stays; a connection that fails is noticed at Flush.
type Encoder struct {
	w   io.Writer
	buf []byte
	err error
}

const outSize = 64 << 10

var outs = sync.Pool{New: func() any { return new([outSize]byte) }}

// NewEncoder writes to w.
func NewEncoder(w io.Writer) *Encoder { return &Encoder{w: w} }

// Reset goes on with another destination.
func (e *Encoder) Reset(w io.Writer) { e.w = w }

// Flush sends what is buffered.
func (e *Encoder) Flush() error {
	e.send()
	if f, ok := e.w.(interface{ Flush() error }); ok && e.err == nil {
		e.err = f.Flush()
	}
	if e.buf != nil {
		outs.Put((*[outSize]byte)(e.buf[:outSize]))
		e.buf = nil
	}
	return e.err
}

// Err is the first failure to write.
func (e *Encoder) Err() error { return e.err }

// Buffered tells how much waits for Flush.
func (e *Encoder) Buffered() int { return len(e.buf) }

func (e *Encoder) send() {
	if len(e.buf) > 0 && e.err == nil {
		_, e.err = e.w.Write(e.buf)
	}
	e.buf = e.buf[:0]
}

// room makes sure that n octets fit; n is at most outSize.
func (e *Encoder) room(n int) {
	if e.buf == nil {
		e.buf = outs.Get().(*[outSize]byte)[:0]
	}
	if cap(e.buf)-len(e.buf) < n {
		e.send()
	}
}

// Raw writes s as it stands.
func (e *Encoder) Raw(s string) *Encoder {
	for len(s) > outSize/2 {
		e.room(outSize / 2)
		e.buf = append(e.buf, s[:outSize/2]...)
		s = s[outSize/2:]
	}
	e.room(len(s))
	e.buf = append(e.buf, s...)
	return e
}

// Bytes writes b as it stands.
func (e *Encoder) Bytes(b []byte) *Encoder {
	if len(b) > outSize/2 {
		e.room(0)
		e.send()
		if e.err == nil {
			_, e.err = e.w.Write(b)
		}
		return e
	}
	e.room(len(b))
	e.buf = append(e.buf, b...)
	return e
}

// Byte writes one octet.
func (e *Encoder) Byte(c byte) *Encoder {
	e.room(1)
	e.buf = append(e.buf, c)
	return e
}

// Number writes a number.
func (e *Encoder) Number(n uint64) *Encoder {
	e.room(20)
	e.buf = strconv.AppendUint(e.buf, n, 10)
	return e
}

// CRLF ends a line.
func (e *Encoder) CRLF() *Encoder { return e.Raw("\r\n") }

// Space lends room in the buffer for up to n octets (64 KB at most) to be read
// into; Used says how many came.
func (e *Encoder) Space(n int) []byte {
	e.room(min(n, outSize))
	free := e.buf[len(e.buf):cap(e.buf)]
	return free[:min(n, len(free))]
}

// Used takes the first n octets of Space as written.
func (e *Encoder) Used(n int) { e.buf = e.buf[:len(e.buf)+n] }

// From writes n octets of r at off: into the buffer by large reads, so that a
// small body and what surrounds it are one write. If r is shorter than it said,
// zeros fill the promise, as the length has been sent; the error tells.
func (e *Encoder) From(r io.ReaderAt, off, n int64) error {
	var failed error
	for n > 0 && e.err == nil {
		b := e.Space(int(min(n, outSize)))
		if len(b) < 4096 && int64(len(b)) < n {
			e.send()
			continue
		}
		got := len(b)
		if failed == nil {
			got, failed = r.ReadAt(b, off)
			if got == len(b) {
				failed = nil
			}
		}
		if failed != nil {
			clear(b[got:])
			got = len(b)
		}
		e.Used(got)
		off += int64(got)
		n -= int64(got)
	}
	return failed
}

// AString writes s as an atom if it can be one, else as String does.
func (e *Encoder) AString(s string) *Encoder {
	if s == "" || len(s) > 1000 || equalFold(s, "NIL") {
		return e.String(s)
	}
	for i := 0; i < len(s); i++ {
		if !isAtom(s[i]) {
			return e.String(s)
		}
	}
	return e.Raw(s)
}

// String writes a quoted string, or a literal if it must be one.
func (e *Encoder) String(s string) *Encoder {
	plain := len(s) < 1024
	for i := 0; plain && i < len(s); i++ {
		c := s[i]
		plain = c >= ' ' && c < 127 && c != '"' && c != '\\'
	}
	if !plain {
		return e.LiteralHeader(int64(len(s))).Raw(s)
	}
	return e.Byte('"').Raw(s).Byte('"')
}

// LiteralHeader writes "{n}" and the line end.
func (e *Encoder) LiteralHeader(n int64) *Encoder {
	return e.Byte('{').Number(uint64(n)).Raw("}\r\n")
}

func equalFold(s, upper string) bool {
	if len(s) != len(upper) {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != upper[i] {
			return false
		}
	}
	return true
}
