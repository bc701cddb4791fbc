package smtp

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"angarium/lib/dsn"
)

// errAborted ends BDAT content because the client gave it up (RSET, QUIT, HELO).
var errAborted = errors.New("message given up by the client")

// maxDiscard limits what is thrown away of one chunk before the client is left:
// RFC 3030 gives it no way to hear of the refusal earlier.
const maxDiscard = 1 << 30

// parseBdat reads "BDAT count [LAST]", RFC 3030, 2.
func parseBdat(args string) (n int64, last, ok bool) {
	f := strings.Fields(args)
	if len(f) == 0 || len(f) > 2 || len(f) == 2 && !strings.EqualFold(f[1], "LAST") {
		return 0, false, false
	}
	v, err := strconv.ParseUint(f[0], 10, 63)
	return int64(v), len(f) == 2, err == nil
}

func (c *Conn) badBdat(args string) bool {
	c.odd(OddChunk, "BDAT", strings.TrimRight("BDAT "+args, " "))
	return c.fail(Reply{521, "5.5.4", "Syntax: BDAT count [LAST]"})
}

// doBdat takes a message in chunks. The Session reads all of them in one go:
// the following BDAT commands are read by nextChunk while it waits for more.
func (c *Conn) doBdat(args string) bool {
	if c.Discarded("chunking") {
		return c.fail(Reply{521, "5.5.1", "Error: command not implemented"})
	}
	n, last, ok := parseBdat(args)
	if !ok {
		return c.badBdat(args)
	}
	if n == 0 && !last { // it would cost us work, and the client nothing
		c.odd(OddNoChunk, "BDAT", "")
		return c.skipChunk(n, last, nullChunk)
	}
	if c.bdat == bdatFailed {
		return c.skipChunk(n, last, Reply{551, "5.0.0", fmt.Sprintf("Discarded %d bytes after earlier error", n)})
	}
	if r := c.readyForContent(); r.Code != 0 {
		return c.skipChunk(n, last, r)
	}
	if c.chunkTooBig(0, n) {
		return c.skipChunk(n, last, Reply{552, "5.3.4", "Chunk exceeds message size limit"})
	}
	if r := c.sess.Data(c.ctx); !r.OK() {
		return c.skipChunk(n, last, r)
	}
	c.body = body{c: c, chunk: n, taken: n, last: last}
	c.bdat = bdatOpen
	c.where = "BDAT"
	if n > smallBuffer {
		c.grow()
	}
	replies := c.sess.Content(c.ctx, &c.body)
	if c.body.err == errAborted { // c.pending has the command
		c.body = body{}
		c.sess.Reset()
		c.bdat = bdatFailed
		c.counts[bdatVerb].ok-- // its chunks were counted one by one
		return true
	}
	if c.body.err != nil && c.err != nil || c.body.drain() != nil {
		c.where = "BDAT (" + strconv.FormatInt(c.body.wire, 10) + " bytes)"
		_ = c.lost(c.err)
		c.closing = true
		return false
	}
	if !c.body.last { // refused before the last chunk
		r := Fail(c.body.err)
		if r.Code == 0 && len(replies) > 0 {
			r = replies[0]
		}
		if r.OK() {
			r = Reply{451, "4.3.0", "Error: internal error"}
		}
		c.body = body{}
		c.sess.Reset()
		c.bdat = bdatFailed
		return c.fail(r)
	}
	c.where = "END-OF-MESSAGE"
	return c.delivered(replies)
}

var nullChunk = Reply{551, "5.7.1", "Null BDAT request"}

func (c *Conn) chunkTooBig(size, n int64) bool {
	if c.srv.Size <= 0 || n <= c.srv.Size-size {
		return false
	}
	c.odd(OddChunkSize, "BDAT", "")
	return true
}

// skipChunk throws a chunk away and refuses it.
func (c *Conn) skipChunk(n int64, last bool, r Reply) bool {
	if n > maxDiscard {
		return c.fail(Reply{521, "5.3.4", "Chunk exceeds message size limit"})
	}
	c.body = body{c: c, chunk: n, last: last}
	if err := c.body.drain(); err != nil {
		c.where = "BDAT"
		_ = c.lost(err)
		c.closing = true
		return false
	}
	c.body = body{}
	if last {
		c.reset()
	} else {
		c.bdat = bdatFailed
	}
	return c.fail(r)
}

// Chunked is how many octets of content came so far, if they come by BDAT.
func (c *Conn) Chunked() (octets int64, ok bool) { return c.body.wire, c.bdat == bdatOpen }

// nextChunk answers for the chunk that was read and goes on with the dialogue
// until the next one.
func (c *Conn) nextChunk(b *body) error {
	c.counts[bdatVerb].ok++
	c.reply(Reply{250, "2.0.0", "Ok: " + strconv.FormatInt(b.taken, 10) + " bytes"})
	c.shrink()
	limit := min(orInt(c.srv.LineLimit, 2048), bigBuffer/2)
	for {
		if c.errors >= orInt(c.srv.HardErrors, 20) {
			c.pending = []byte{} // never done: the dialogue ends first
			return errAborted
		}
		line, bare, _, err := c.readLine(limit)
		if err != nil {
			return err
		}
		if bare && c.newlines == RejectNewline {
			return c.bareNewline(c.where)
		}
		word, args, _ := strings.Cut(string(bytes.TrimLeft(line, " \t")), " ")
		switch v := c.verb([]byte(word)); verbs[v] {
		case "BDAT":
			c.where = "BDAT"
			c.counts[v].all++
			n, last, ok := parseBdat(args)
			if !ok {
				c.badBdat(args)
				return errAborted
			}
			b.chunk, b.taken, b.last = n, n, last
			switch {
			case c.chunkTooBig(b.size, n):
				return dsn.New(552, "5.3.4", "Chunk exceeds message size limit")
			case n == 0 && !last: // it would cost us work, and the client nothing
				c.odd(OddNoChunk, "BDAT", "")
				return dsn.New(nullChunk.Code, nullChunk.Status, "%s", nullChunk.Text)
			}
			return nil
		case "RSET", "QUIT", "HELO", "EHLO", "LHLO", "STARTTLS":
			c.pending = bytes.Clone(line)
			return errAborted
		default:
			if !c.do(bytes.Clone(line)) {
				c.errors++
			}
			if c.closing {
				return errAborted
			}
		}
	}
}
