package smtp

import (
	"bytes"
	"io"

	"angarium/lib/dsn"
)

// unstuff turns the wire's form of a message (RFC 5321, 4.5.2) into lines that
// end in LF, and finds its end. The zero value stands at the start of DATA,
// where the CRLF before the first line is that of the command.
//
// Only CRLF.CRLF is the end. A bare LF ends a line; a dot alone on a line that
// begins or ends with a bare LF is dropped, as Postfix' "normalize" does it:
// some servers take it for the end, and what they would do with the rest must
// not depend on it (CVE-2023-51764).
type unstuff struct {
	state dataState
	bare  bool // a bare LF was seen
}

type dataState uint8

const (
	afterCRLF dataState = iota // at the begin of a line
	afterLF                    // the same, after a bare LF
	inLine
)

// decode reads src and writes to dst, which may be src itself: there is never
// more output than input. It stops at the end of the message (end), at the end
// of dst, or where it must see more (then some bytes of src stay unread: at
// most two).
func (u *unstuff) decode(dst, src []byte) (nd, ns int, end bool) {
	for ns < len(src) && nd < len(dst) {
		if u.state != inLine {
			if src[ns] == '.' {
				rest := src[ns+1:]
				switch {
				case len(rest) == 0 || rest[0] == '\r' && len(rest) == 1:
					return nd, ns, false
				case rest[0] == '\n':
					u.bare = true
					u.state = afterLF
					ns += 2
					continue
				case rest[0] == '\r' && rest[1] == '\n':
					ns += 3
					if u.state == afterCRLF {
						return nd, ns, true
					}
					u.state = afterCRLF
					continue
				}
				ns++
			}
			u.state = inLine
		}
		line := src[ns:]
		i := bytes.IndexByte(line, '\n')
		switch {
		case i < 0:
			if line[len(line)-1] == '\r' {
				line = line[:len(line)-1]
			}
			if len(line) == 0 {
				return nd, ns, false
			}
			n := copy(dst[nd:], line)
			nd, ns = nd+n, ns+n
		case i > 0 && line[i-1] == '\r':
			n := copy(dst[nd:], line[:i-1])
			nd, ns = nd+n, ns+n
			if n < i-1 || nd == len(dst) {
				return nd, ns, false
			}
			dst[nd] = '\n'
			nd, ns = nd+1, ns+2
			u.state = afterCRLF
		default:
			n := copy(dst[nd:], line[:i+1])
			nd, ns = nd+n, ns+n
			if n < i+1 {
				return nd, ns, false
			}
			u.bare = true
			u.state = afterLF
		}
	}
	return nd, ns, false
}

// newlines turns CRLF into LF: what BDAT chunks need (RFC 3030).
func (u *unstuff) newlines(dst, src []byte) (nd, ns int) {
	for ns < len(src) && nd < len(dst) {
		line := src[ns:]
		i := bytes.IndexByte(line, '\n')
		switch {
		case i < 0:
			if line[len(line)-1] == '\r' {
				line = line[:len(line)-1]
			}
			if len(line) == 0 {
				return nd, ns
			}
			n := copy(dst[nd:], line)
			nd, ns = nd+n, ns+n
		case i > 0 && line[i-1] == '\r':
			n := copy(dst[nd:], line[:i-1])
			nd, ns = nd+n, ns+n
			if n < i-1 || nd == len(dst) {
				return nd, ns
			}
			dst[nd] = '\n'
			nd, ns = nd+1, ns+2
		default:
			n := copy(dst[nd:], line[:i+1])
			nd, ns = nd+n, ns+n
			if n == i+1 {
				u.bare = true
			}
		}
	}
	return nd, ns
}

// body is the content of one message, as a Session reads it.
type body struct {
	c     *Conn
	u     unstuff
	chunk int64 // BDAT: what is left of the chunk; -1: DATA
	taken int64 // BDAT: the length of the chunk
	last  bool  // BDAT: no chunk follows
	held  bool  // BDAT: a CR that ended a chunk and was not given out yet
	open  bool  // BDAT: the last line has no end yet
	end   bool
	err   error // what the session must not overlook
	wire  int64 // octets read
	size  int64 // octets given out
	noted bool
}

// errTooBig is for content over the size limit.
func errTooBig() error {
	return dsn.New(552, "5.3.4", "Error: message file too big")
}

// Read gives out content, LF line ends.
func (b *body) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if b.err != nil {
			return 0, b.err
		}
		if b.end {
			return 0, io.EOF
		}
		step := b.step
		if b.chunk >= 0 {
			step = b.chunkStep
		}
		if n, err := step(p); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// WriteTo hands over content; that of DATA in the connection's own buffer.
func (b *body) WriteTo(w io.Writer) (total int64, err error) {
	var chunks []byte
	if b.chunk >= 0 {
		big := bigBuffers.Get().(*[bigBuffer]byte)
		defer bigBuffers.Put(big)
		chunks = big[:]
	}
	for b.err == nil && !b.end {
		var n int
		buf := chunks
		if chunks != nil {
			n, err = b.chunkStep(buf)
		} else {
			buf = b.c.buffered()
			n, err = b.step(buf)
		}
		if n > 0 && b.err == nil {
			if _, err := w.Write(buf[:n]); err != nil {
				return total, err
			}
			total += int64(n)
		}
	}
	return total, b.err
}

// step decodes what is buffered into dst (which may be that buffer), or reads
// more and returns 0.
func (b *body) step(dst []byte) (int, error) {
	c := b.c
	n, used, end := b.u.decode(dst, c.buffered())
	c.r += used
	b.wire += int64(used)
	b.end = end
	if err := b.account(n); err != nil {
		return 0, err
	}
	if used == 0 {
		return 0, b.more()
	}
	return n, nil
}

// chunkStep is step for BDAT; dst is never the connection's buffer.
func (b *body) chunkStep(dst []byte) (int, error) {
	c := b.c
	if b.chunk == 0 {
		if b.last {
			return b.finish(dst)
		}
		b.err = c.nextChunk(b)
		return 0, b.err
	}
	src := c.buffered()
	if int64(len(src)) > b.chunk {
		src = src[:b.chunk]
	}
	switch {
	case len(src) == 0:
		return 0, b.more()
	case b.held:
		b.held = false
		if src[0] != '\n' {
			return b.put(dst, '\r')
		}
		b.use(1)
		return b.put(dst, '\n')
	case src[0] == '\r' && len(src) == 1: // is LF behind it?
		if b.chunk > 1 {
			return 0, b.more()
		}
		b.held = true
		b.use(1)
		return 0, nil
	}
	n, used := b.u.newlines(dst, src)
	b.use(used)
	if n > 0 {
		b.open = dst[n-1] != '\n'
	}
	return n, b.account(n)
}

func (b *body) put(dst []byte, ch byte) (int, error) {
	dst[0] = ch
	b.open = ch != '\n'
	return 1, b.account(1)
}

// finish ends BDAT content: what was held, and an end for the last line.
func (b *body) finish(dst []byte) (int, error) {
	switch {
	case b.held:
		b.held = false
		return b.put(dst, '\r')
	case b.open:
		b.wire += 2 // as if the client had ended it
		return b.put(dst, '\n')
	}
	b.end = true
	return 0, io.EOF
}

func (b *body) use(n int) {
	b.c.r += n
	b.wire += int64(n)
	b.chunk -= int64(n)
}

// more waits for the client.
func (b *body) more() error {
	b.c.grow()
	if err := b.c.fill(); err != nil {
		b.err = err
		return err
	}
	return nil
}

// account checks what was decoded against the limits.
func (b *body) account(n int) error {
	b.size += int64(n)
	s := b.c.srv
	if s.Size > 0 && b.size > s.Size && b.err == nil {
		b.err = errTooBig()
	}
	if b.u.bare && !b.noted {
		b.noted = true
		switch b.c.newlines {
		case RejectNewline:
			b.err = b.c.bareNewline("END-OF-MESSAGE")
		case NoteNewline:
			b.c.odd(OddNewlineNote, "END-OF-MESSAGE", "")
		}
	}
	return b.err
}

// drain reads to the end of the message, so that the dialogue can go on. It
// returns an error if the connection is lost.
func (b *body) drain() error {
	c := b.c
	for !b.end {
		if c.err != nil {
			return c.err
		}
		if b.chunk >= 0 {
			for b.chunk > 0 {
				if len(c.buffered()) == 0 {
					if err := c.fill(); err != nil {
						return err
					}
				}
				b.use(int(min(b.chunk, int64(len(c.buffered())))))
			}
			return nil // the next BDAT, if any, is the dialogue's business
		}
		buf := c.buffered()
		_, used, end := b.u.decode(buf, buf)
		c.r += used
		b.wire += int64(used)
		if end {
			b.end = true
		} else if used == 0 {
			c.grow()
			if err := c.fill(); err != nil {
				return err
			}
		}
	}
	return nil
}
