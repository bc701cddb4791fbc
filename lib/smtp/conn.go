package smtp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// An idle connection keeps the small buffer inside Conn; while a long line or
// content is read it borrows a big one.
const (
	smallBuffer = 256
	bigBuffer   = 32 << 10
)

var (
	bigBuffers = sync.Pool{New: func() any { return new([bigBuffer]byte) }}
	outBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}
)

// errStopped ends a session because its context ended.
var errStopped = errors.New("server is going down")

// wire is a connection with buffers that are held only while in use.
type wire struct {
	nc      net.Conn // with TLS, where there is TLS
	raw     net.Conn // without; deadlines are set here
	ctx     context.Context
	timeout time.Duration

	small    [smallBuffer]byte
	big      *[bigBuffer]byte // nil: small is in use
	r, w     int              // unread bytes of the buffer in use
	deadline time.Time        // when the read deadline was set
	out      *[]byte          // replies not sent yet; nil: none
	err      error            // what ended reading
}

func (c *wire) buf() []byte {
	if c.big != nil {
		return c.big[:]
	}
	return c.small[:]
}

// buffered are the bytes read and not used.
func (c *wire) buffered() []byte { return c.buf()[c.r:c.w] }

// grow borrows a big buffer.
func (c *wire) grow() {
	if c.big != nil {
		return
	}
	c.big = bigBuffers.Get().(*[bigBuffer]byte)
	c.w = copy(c.big[:], c.small[c.r:c.w])
	c.r = 0
}

// shrink gives the big buffer back if what is left fits in the small one.
func (c *wire) shrink() {
	if c.big == nil || c.w-c.r > smallBuffer {
		return
	}
	c.w = copy(c.small[:], c.big[c.r:c.w])
	c.r = 0
	bigBuffers.Put(c.big)
	c.big = nil
}

// discard forgets what was read and not used.
func (c *wire) discard() { c.r, c.w = 0, 0 }

// release gives back all buffers at the end.
func (c *wire) release() {
	c.discard()
	c.shrink()
	if c.out != nil {
		*c.out = (*c.out)[:0]
		outBuffers.Put(c.out)
		c.out = nil
	}
}

// fill reads at least one more byte. Replies go out first: this is the only
// place where we wait for the client, so pipelined commands are answered in one
// write.
func (c *wire) fill() error {
	if c.err != nil {
		return c.err
	}
	if err := c.flush(); err != nil {
		return err
	}
	if c.r == c.w {
		c.r, c.w = 0, 0
	} else if c.w == len(c.buf()) {
		if c.r == 0 {
			c.grow()
		} else {
			c.w = copy(c.buf(), c.buf()[c.r:c.w])
			c.r = 0
		}
	}
	if c.w == len(c.buf()) {
		return io.ErrShortBuffer // nobody asks for more than a buffer
	}
	c.extend()
	n, err := c.nc.Read(c.buf()[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	if c.ctx.Err() != nil {
		err = errStopped
	}
	c.err = err
	return err
}

// extend renews the read deadline. It is not moved for less than a 64th of the
// time-out: each move costs a visit to the runtime's timers.
func (c *wire) extend() {
	now := time.Now()
	if now.Sub(c.deadline) > c.timeout/64 {
		c.deadline = now
		_ = c.raw.SetReadDeadline(now.Add(c.timeout))
	}
	if c.ctx.Err() != nil {
		_ = c.raw.SetReadDeadline(now)
	}
}

// wake ends a read that waits. It may be called from another goroutine.
func (c *wire) wake() { _ = c.raw.SetReadDeadline(time.Unix(1, 0)) }

// flush sends the replies gathered so far.
func (c *wire) flush() error {
	if c.out == nil {
		return nil
	}
	out := c.out
	c.out = nil
	_ = c.raw.SetWriteDeadline(time.Now().Add(c.timeout))
	_, err := c.nc.Write(*out)
	*out = (*out)[:0]
	if cap(*out) <= 8<<10 {
		outBuffers.Put(out)
	}
	if err != nil {
		c.err = err
	}
	return err
}

// output is where replies gather.
func (c *wire) output() *[]byte {
	if c.out == nil {
		c.out = outBuffers.Get().(*[]byte)
	}
	return c.out
}

// readLine returns one command line without its end, which is LF or CRLF. It is
// valid until the next read. Of a longer line than limit (with a CR
// at its end) only the begin is returned, and the rest is thrown away.
func (c *wire) readLine(limit int) (line []byte, bare, long bool, err error) {
	c.shrink()
	for scanned := 0; ; {
		b := c.buffered()
		if i := bytes.IndexByte(b[scanned:], '\n'); i >= 0 && scanned+i <= limit {
			line = b[:scanned+i]
			c.r += scanned + i + 1
			if n := len(line); n > 0 && line[n-1] == '\r' {
				return line[:n-1], false, false, nil
			}
			return line, true, false, nil
		}
		if len(b) > limit {
			line = bytes.Clone(b[:limit])
			return line, false, true, c.skipLine()
		}
		scanned = len(b)
		if err := c.fill(); err != nil {
			return nil, false, false, err
		}
	}
}

// skipLine throws away all up to and with LF.
func (c *wire) skipLine() error {
	for {
		if i := bytes.IndexByte(c.buffered(), '\n'); i >= 0 {
			c.r += i + 1
			return nil
		}
		c.discard()
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// handshake puts TLS on the connection; what was sent in clear and not read is
// forgotten (CVE-2011-0411).
func (c *wire) handshake(conf *tls.Config, timeout time.Duration) (*tls.ConnectionState, error) {
	if err := c.flush(); err != nil {
		return nil, err
	}
	c.discard()
	c.shrink()
	conn := tls.Server(c.nc, conf)
	_ = c.raw.SetDeadline(time.Now().Add(timeout))
	c.deadline = time.Time{}
	if err := conn.HandshakeContext(c.ctx); err != nil {
		return nil, err
	}
	_ = c.raw.SetDeadline(time.Time{})
	c.nc = conn
	state := conn.ConnectionState()
	return &state, nil
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
