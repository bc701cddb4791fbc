// Package pop3 speaks the Post Office Protocol (RFC 1939, 2449, 5034) as a
// server: it reads commands within limits, writes replies, and does the
// dot-stuffing of multi-line ones.
//
// It promises that no buffer is held while a client is idle: a waiting
// connection has a few octets of its own, the larger buffers come from a pool
// and go back with the last octet. Replies to pipelined commands leave together.
//
// It does not know users, mailboxes or what a command does: lib/pop3d does.
package pop3

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits on what a client sends. RFC 2449, 4 gives commands 255 octets; the
// responses of AUTH are longer.
const (
	MaxLine = 8192
	maxJunk = 64 << 10 // of a line that is too long anyway
)

var (
	// ErrTooLong is a line that is longer than MaxLine. It was read and dropped.
	ErrTooLong = errors.New("line too long")
	// ErrCancelled is the client's "*" in place of a SASL response.
	ErrCancelled = errors.New("cancelled")
	// ErrBase64 is a SASL response that is not in base64.
	ErrBase64 = errors.New("invalid base64")
)

const (
	smallIn = 96 // most commands fit; all that an idle client costs
	outSize = 64 << 10
)

var (
	inPool  = sync.Pool{New: func() any { return new([MaxLine]byte) }}
	outPool = sync.Pool{New: func() any { return new([outSize]byte) }}
)

// Conn is the server's side of a connection. One goroutine uses it.
type Conn struct {
	net.Conn // plain, or TLS once that was started
	timeout  time.Duration

	small  [smallIn]byte
	big    *[MaxLine]byte // nil, or where in lies
	in     []byte         // what was read and not used yet
	out    *[outSize]byte // nil, or what waits to be written
	n      int            // of out
	err    error          // of writing: all that follows is dropped
	secure bool
}

// NewConn wraps a connection. timeout is how long a client may be silent, and
// how long it may take to read a piece of a reply.
func NewConn(c net.Conn, timeout time.Duration) *Conn {
	_, secure := c.(*tls.Conn)
	return &Conn{Conn: c, timeout: timeout, secure: secure}
}

// Secure reports whether the connection is encrypted.
func (c *Conn) Secure() bool { return c.secure }

// Command is a line from the client. Arg is the rest of it, as it is.
type Command struct {
	Verb string // in capitals
	Arg  string
}

// ReadCommand writes out what waits and returns the next command. Its error is
// ErrTooLong, after which one may go on, or that of the connection.
func (c *Conn) ReadCommand() (Command, error) {
	line, err := c.readLine()
	if err != nil {
		return Command{}, err
	}
	verb, arg, _ := strings.Cut(line, " ")
	return Command{strings.ToUpper(verb), arg}, nil
}

// ReadResponse sends a SASL challenge and returns the client's response.
func (c *Conn) ReadResponse(challenge []byte) ([]byte, error) {
	c.puts("+ ")
	c.puts(base64.StdEncoding.EncodeToString(challenge))
	c.puts("\r\n")
	line, err := c.readLine()
	if err != nil {
		return nil, err
	}
	if line == "*" {
		return nil, ErrCancelled
	}
	return Decode(line)
}

// Decode reads a SASL response. The initial one may be "=", which is empty.
func Decode(line string) ([]byte, error) {
	if line == "=" {
		return []byte{}, nil
	}
	b, err := base64.StdEncoding.DecodeString(line)
	if err != nil || strings.ContainsAny(line, "\r\n") {
		return nil, ErrBase64
	}
	return append([]byte{}, b...), nil
}

// readLine returns a line without its end, CRLF or LF.
func (c *Conn) readLine() (string, error) {
	for {
		if i := bytes.IndexByte(c.in, '\n'); i >= 0 {
			line := string(bytes.TrimSuffix(c.in[:i], []byte("\r")))
			c.use(i + 1)
			return line, nil
		}
		if len(c.in) == MaxLine {
			return "", c.skip()
		}
		if err := c.fill(); err != nil {
			return "", err
		}
	}
}

// skip drops the rest of a line that is too long.
func (c *Conn) skip() error {
	for total := 0; total < maxJunk; {
		if i := bytes.IndexByte(c.in, '\n'); i >= 0 {
			c.use(i + 1)
			return ErrTooLong
		}
		total += len(c.in)
		c.in = c.in[:0]
		if err := c.fill(); err != nil {
			return err
		}
	}
	return io.ErrShortBuffer // this is no client
}

// use takes n octets off the input, and gives the big buffer back after the last.
func (c *Conn) use(n int) {
	c.in = c.in[n:]
	if len(c.in) == 0 {
		c.release()
	}
}

func (c *Conn) release() {
	if c.big != nil {
		inPool.Put(c.big)
		c.big = nil
	}
	c.in = nil
}

// fill reads more behind what is there. It flushes first, because it may wait.
func (c *Conn) fill() error {
	if err := c.Flush(); err != nil {
		return err
	}
	buf := c.small[:]
	if c.big != nil {
		buf = c.big[:]
	}
	n := copy(buf, c.in) // to the front; it may overlap
	if n == len(buf) && c.big == nil {
		c.big = inPool.Get().(*[MaxLine]byte)
		copy(c.big[:], buf[:n])
		buf = c.big[:]
	}
	c.in = buf[:n]
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	m, err := c.Conn.Read(buf[n:])
	c.in = buf[:n+m]
	if m > 0 {
		return nil
	}
	return err
}

// StartTLS answers with text and goes over to TLS. What the client sent before
// the handshake, in clear behind its STLS, is dropped: somebody else may have put
// it there.
func (c *Conn) StartTLS(ctx context.Context, conf *tls.Config, text string) (tls.ConnectionState, error) {
	c.OK(text)
	if err := c.Flush(); err != nil {
		return tls.ConnectionState{}, err
	}
	c.release()
	return c.Handshake(ctx, conf)
}

// Handshake goes over to TLS at once (pop3s).
func (c *Conn) Handshake(ctx context.Context, conf *tls.Config) (tls.ConnectionState, error) {
	ctx, stop := context.WithTimeout(ctx, min(c.timeout, time.Minute))
	defer stop()
	_ = c.SetDeadline(time.Time{})
	t := tls.Server(c.Conn, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, err
	}
	c.Conn, c.secure = t, true
	return t.ConnectionState(), nil
}

// OK writes "+OK" and the text, if there is any.
func (c *Conn) OK(text string) { c.reply("+OK", text) }

// OKf is OK with a format.
func (c *Conn) OKf(format string, args ...any) { c.OK(fmt.Sprintf(format, args...)) }

// Err writes "-ERR" and the text.
func (c *Conn) Err(text string) { c.reply("-ERR", text) }

// Errf is Err with a format.
func (c *Conn) Errf(format string, args ...any) { c.Err(fmt.Sprintf(format, args...)) }

func (c *Conn) reply(status, text string) {
	c.puts(status)
	if text != "" {
		c.puts(" ")
		c.puts(text)
	}
	c.puts("\r\n")
}

// Line writes a line of a multi-line reply; it must not begin with a dot.
func (c *Conn) Line(text string) {
	c.puts(text)
	c.puts("\r\n")
}

// Pair writes the line of LIST: two numbers.
func (c *Conn) Pair(n int, size int64) {
	var b [48]byte
	line := strconv.AppendInt(b[:0], int64(n), 10)
	line = append(line, ' ')
	line = strconv.AppendInt(line, size, 10)
	c.write(append(line, '\r', '\n'))
}

// End ends a multi-line reply.
func (c *Conn) End() { c.puts(".\r\n") }

func (c *Conn) puts(s string) {
	for len(s) > 0 && c.err == nil {
		n := copy(c.room(1), s)
		c.n += n
		s = s[n:]
	}
}

func (c *Conn) write(b []byte) {
	for len(b) > 0 && c.err == nil {
		n := copy(c.room(1), b)
		c.n += n
		b = b[n:]
	}
}

// room is the free part of the output buffer, at least least octets of it.
func (c *Conn) room(least int) []byte {
	if c.out == nil {
		c.out = outPool.Get().(*[outSize]byte)
	}
	if outSize-c.n < least {
		c.send()
	}
	return c.out[c.n:]
}

// send writes the buffer out and keeps it.
func (c *Conn) send() {
	if c.err == nil && c.n > 0 {
		c.err = c.SetWriteDeadline(time.Now().Add(c.timeout))
		if c.err == nil {
			_, c.err = c.Conn.Write(c.out[:c.n])
		}
	}
	c.n = 0
}

// Flush writes out what waits, and gives the buffer back.
func (c *Conn) Flush() error {
	if c.out != nil {
		c.send()
		outPool.Put(c.out)
		c.out = nil
	}
	return c.err
}

// Close gives the buffers back and closes the connection.
func (c *Conn) Close() error {
	c.release()
	if c.out != nil {
		outPool.Put(c.out)
		c.out, c.n = nil, 0
	}
	return c.Conn.Close()
}

// Body writes the first size octets of r as the lines of a reply, and its end.
// Octets are read where they are sent from. A line ends at LF, with or without
// CR, as old clients see it; so a dot after a bare LF is doubled, too. An error
// of r leaves the reply without its end: the connection must be closed then.
func (c *Conn) Body(r io.ReaderAt, size int64) error {
	const piece = outSize / 2 // room for the dots
	bol, cr := true, false    // at the beginning of a line; behind a CR
	for off := int64(0); off < size && c.err == nil; {
		room := c.room(4 << 10)
		part := room[:min(int64(len(room)), piece, size-off)]
		n, err := r.ReadAt(part, off)
		if n < len(part) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		off += int64(n)
		part = part[:n]
		last := part[n-1]
		if bol && part[0] == '.' || bytes.Contains(part, []byte("\n.")) {
			c.stuff(bytes.Clone(part), bol)
		} else {
			c.n += n
		}
		bol = last == '\n'
		cr = last == '\r'
	}
	switch {
	case bol:
	case cr:
		c.puts("\n")
	default:
		c.puts("\r\n")
	}
	c.End()
	return c.err
}

// stuff writes text with the dots at the beginnings of lines doubled.
func (c *Conn) stuff(text []byte, bol bool) {
	if bol && text[0] == '.' {
		c.puts(".")
	}
	for {
		i := bytes.Index(text, []byte("\n."))
		if i < 0 {
			c.write(text)
			return
		}
		c.write(text[:i+2])
		c.puts(".")
		text = text[i+2:]
	}
}

// Top finds where the header, the blank line after it, and then the first lines of the
// body of r end.
func Top(r io.ReaderAt, size int64, lines int) (end int64, err error) {
	buf := outPool.Get().(*[outSize]byte)
	defer outPool.Put(buf)
	header, blank := true, true // blank: nothing but CR on this line so far
	piece := 4 << 10            // most headers fit
	for off := int64(0); off < size; {
		n, err := r.ReadAt(buf[:min(int64(piece), size-off)], off)
		if n == 0 {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		for i, b := range buf[:n] {
			switch {
			case b == '\n' && header && blank:
				header = false
				if lines == 0 {
					return off + int64(i) + 1, nil
				}
			case b == '\n' && header:
				blank = true
			case b == '\n':
				if lines--; lines == 0 {
					return off + int64(i) + 1, nil
				}
			case b != '\r':
				blank = false
			}
		}
		off += int64(n)
		piece = outSize
	}
	return size, nil
}
