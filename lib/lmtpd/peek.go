package lmtpd

import (
	"bytes"
	"io"
	"sync"
)

// peeked is a message whose beginning was read, so that the fields on top of it
// can depend on its header. Reading it gives CRLF line ends: the engine gives
// LF, one for each CRLF of the wire.
type peeked struct {
	r        io.Reader
	buf      *[]byte
	have     []byte // of the beginning, not given out yet
	err      error  // what r said at the end of have
	cr       bool   // a CR was given out, its LF is next
	id, date string // Message-ID and Date of the header, "" if it has none
}

// peekSize is how much of a header is looked at: what Postfix takes for one.
const peekSize = 64 << 10

var peekBuffers = sync.Pool{New: func() any { b := make([]byte, peekSize); return &b }}

// peek reads up to the end of the header.
func peek(r io.Reader) (*peeked, error) {
	m := &peeked{r: r, buf: peekBuffers.Get().(*[]byte)}
	buf, n := *m.buf, 0
	for n < len(buf) && m.err == nil {
		var k int
		k, m.err = r.Read(buf[n:])
		from := max(0, n-1)
		n += k
		if bytes.Contains(buf[from:n], []byte("\n\n")) || buf[0] == '\n' {
			break
		}
	}
	m.have = buf[:n]
	if m.err != nil && m.err != io.EOF {
		m.free()
		return nil, m.err
	}
	m.read(m.have)
	return m, nil
}

// free gives the buffer back.
func (m *peeked) free() {
	if m.buf != nil {
		peekBuffers.Put(m.buf)
		m.buf, m.have = nil, nil
	}
}

// read finds the two fields. The first of a name counts.
func (m *peeked) read(header []byte) {
	for len(header) > 0 {
		line, rest, _ := bytes.Cut(header, []byte("\n"))
		if len(line) == 0 {
			return
		}
		for len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') { // folded
			var more []byte
			more, rest, _ = bytes.Cut(rest, []byte("\n"))
			line = append(append(bytes.Clone(line), ' '), bytes.TrimSpace(more)...)
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		header = rest
		if !ok {
			continue
		}
		text := string(bytes.TrimSpace(value))
		switch name = bytes.TrimSpace(name); {
		case m.id == "" && bytes.EqualFold(name, []byte("Message-ID")):
			m.id = clip(text)
		case m.date == "" && bytes.EqualFold(name, []byte("Date")):
			m.date = clip(text)
		}
	}
}

// clip keeps a stranger from filling the log and the list of duplicates.
func clip(s string) string { return s[:min(len(s), 998)] }

// Read gives the message with CRLF for each LF.
func (m *peeked) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		if m.cr {
			b[n] = '\n'
			n++
			m.cr = false
			continue
		}
		if len(m.have) == 0 {
			if n > 0 {
				return n, nil
			}
			if err := m.more(); err != nil {
				return 0, err
			}
			continue
		}
		i := bytes.IndexByte(m.have, '\n')
		if i == 0 {
			b[n] = '\r'
			n++
			m.have, m.cr = m.have[1:], true
			continue
		}
		if i < 0 {
			i = len(m.have)
		}
		k := copy(b[n:], m.have[:i])
		n += k
		m.have = m.have[k:]
	}
	return n, nil
}

func (m *peeked) more() error {
	if m.err != nil {
		return m.err
	}
	k, err := m.r.Read((*m.buf)[:32<<10])
	m.have, m.err = (*m.buf)[:k], err
	if k == 0 {
		return err
	}
	return nil
}
