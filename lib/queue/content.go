package queue

import (
	"fmt"
	"io"
	"sync"

	"angarium/lib/agent"
)

var _ agent.Message = (*Message)(nil)

// ContentReader reads the content of a message. It is not safe for concurrent use; each
// goroutine takes its own from Content.
type ContentReader struct {
	m    *Message
	w    *Walker
	room *[]byte
	rest []byte // of the line begun
	end  bool   // rest is to be followed by LF
	err  error
}

const contentRoom = 32 << 10

var rooms = sync.Pool{New: func() any { b := make([]byte, contentRoom); return &b }}

// Content reads header and body from the start, lines ending in LF. What it
// returns is a *ContentReader.
func (m *Message) Content() io.Reader { return m.OpenContent() }

// OpenContent is Content, for those who want lines.
func (m *Message) OpenContent() *ContentReader { return &ContentReader{m: m} }

// Line returns the next part of a line; complete tells whether the line ends
// behind it. The part is valid until the next call. Not to be mixed with Read.
func (c *ContentReader) Line() (part []byte, complete bool, err error) {
	if c.err != nil {
		return nil, false, c.err
	}
	if c.w == nil {
		c.room = rooms.Get().(*[]byte)
		c.w = newWalker(c.m.f, c.m.sizes.offset, *c.room)
	}
	t, data, at, err := c.w.Next()
	switch {
	case err != nil:
		c.err = c.m.bad(err, "unexpected end of file")
	case t == TypeNorm:
		return data, true, nil
	case t == TypeCont:
		return data, false, nil
	case t == TypeExtra:
		c.err = io.EOF
	default:
		c.err = fmt.Errorf("queue file %s: %w: record type %q at offset %d in the content", c.m.f.Name(), ErrFormat, byte(t), at)
	}
	rooms.Put(c.room)
	c.w, c.room = nil, nil
	return nil, false, c.err
}

// Close gives the reader's room back before the end of the content.
func (c *ContentReader) Close() error {
	if c.w != nil {
		rooms.Put(c.room)
		c.w, c.room = nil, nil
	}
	if c.err == nil {
		c.err, c.rest, c.end = io.EOF, nil, false
	}
	return nil
}

func (c *ContentReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		switch {
		case len(c.rest) > 0:
			m := copy(p[n:], c.rest)
			c.rest = c.rest[m:]
			n += m
		case c.end:
			p[n] = '\n'
			n++
			c.end = false
		default:
			if c.rest, c.end, err = c.Line(); err != nil {
				if n > 0 && err == io.EOF {
					err = nil
				}
				return n, err
			}
		}
	}
	return n, nil
}

// Size is the length of the content in octets, with LF line ends. The first call
// reads the content; DataSize is close to it and costs nothing.
func (m *Message) Size() int64 {
	m.count.Do(func() {
		c := m.OpenContent()
		for {
			part, complete, err := c.Line()
			if err != nil {
				return
			}
			m.size += int64(len(part))
			if complete {
				m.size++
			}
		}
	})
	return m.size
}
