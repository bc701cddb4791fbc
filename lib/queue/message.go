package queue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/safefile"
)

// Walker reads the records of a queue file by position. Unless it is Raw it follows
// pointers and passes over padding, which milters leave behind. Walkers of one file
// are independent of each other.
type Walker struct {
	Raw    bool
	r      io.ReaderAt
	buf    []byte
	lo, hi int   // unread part of buf
	base   int64 // offset of buf[0]
	jumps  int
}

const (
	walkSize = 8 << 10
	maxJumps = 100_000 // a file whose pointers form a ring must not hold us
)

// NewWalker reads records of r from offset off on.
func NewWalker(r io.ReaderAt, off int64) *Walker {
	return newWalker(r, off, make([]byte, walkSize))
}

func newWalker(r io.ReaderAt, off int64, room []byte) *Walker {
	return &Walker{r: r, buf: room, base: off}
}

// Pos is where the next record lies.
func (w *Walker) Pos() int64 { return w.base + int64(w.lo) }

// Goto makes the record at off the next one.
func (w *Walker) Goto(off int64) {
	if d := off - w.base; d >= 0 && d <= int64(w.hi) {
		w.lo = int(d)
		return
	}
	w.base, w.lo, w.hi = off, 0, 0
}

// fill makes n unread octets available; io.EOF if there are none at all.
func (w *Walker) fill(n int) error {
	if w.hi-w.lo >= n {
		return nil
	}
	copy(w.buf, w.buf[w.lo:w.hi])
	w.base += int64(w.lo)
	w.lo, w.hi = 0, w.hi-w.lo
	for w.hi < n {
		if w.hi == len(w.buf) { // a long record: grow as data arrives
			w.buf = append(w.buf, make([]byte, len(w.buf))...)
		}
		m, err := w.r.ReadAt(w.buf[w.hi:], w.base+int64(w.hi))
		w.hi += m
		if m == 0 {
			if err == io.EOF && w.hi > 0 {
				return io.ErrUnexpectedEOF
			}
			if err == nil {
				err = io.ErrNoProgress
			}
			return err
		}
	}
	return nil
}

// Next returns a record, where it lies, and its data, which is valid until the
// next call. io.EOF is the end of the file.
func (w *Walker) Next() (t Type, data []byte, at int64, err error) {
	for {
		if t, data, at, err = w.raw(); err != nil {
			return
		}
		if w.Raw {
			return
		}
		switch t {
		case TypeDeleted:
			continue
		case TypePointer:
			off, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
			if w.jumps++; err != nil || off < 0 || w.jumps > maxJumps {
				return 0, nil, 0, fmt.Errorf("%w: bad pointer %.40q", ErrFormat, data)
			}
			if off != 0 {
				w.Goto(off)
			}
			continue
		}
		return
	}
}

func (w *Walker) raw() (t Type, data []byte, at int64, err error) {
	at = w.Pos()
	if err = w.fill(2); err != nil {
		return
	}
	t = Type(w.buf[w.lo])
	n, head := int(w.buf[w.lo+1]&0x7f), 2
	for shift := 7; w.buf[w.lo+head-1]&0x80 != 0; shift += 7 {
		if err = w.fill(head + 1); err != nil {
			return 0, nil, 0, short(err)
		}
		n |= int(w.buf[w.lo+head]&0x7f) << shift
		head++
		if n > MaxRecord || shift > 21 {
			return 0, nil, 0, fmt.Errorf("%w: record too long at offset %d", ErrFormat, at)
		}
	}
	if err = w.fill(head + n); err != nil {
		return 0, nil, 0, short(err)
	}
	data = w.buf[w.lo+head : w.lo+head+n]
	w.lo += head + n
	return
}

// Message is an open message of the queue. Its readers are independent of each
// other and safe for concurrent use.
type Message struct {
	Envelope
	f     *os.File
	q     *Queue // nil if the message came as a descriptor
	id    string
	dir   Dir
	sizes sizes
	start int64 // where the record after the size record lies

	count sync.Once
	size  int64
}

// OpenMessage opens a message and reads its envelope. Errors wrap ErrFormat
// where the file is no message.
func (q *Queue) OpenMessage(dir Dir, id string) (*Message, error) {
	if !ValidID(id) {
		return nil, fmt.Errorf("bad queue id: %q", id)
	}
	f, err := q.fs.OpenFile(q.file(dir, id), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	m, err := ReadMessage(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	m.q, m.id, m.dir = q, id, dir
	return m, nil
}

// ReadMessage uses a queue file that is open already, for an agent that got it as
// a descriptor. It owns f when it succeeds.
func ReadMessage(f *os.File) (*Message, error) {
	m := &Message{f: f}
	room := rooms.Get().(*[]byte)
	defer rooms.Put(room)
	w := newWalker(f, 0, *room)
	t, data, _, err := w.Next()
	if err != nil || t != TypeSize {
		return nil, m.bad(err, "no size record at the beginning")
	}
	if m.sizes, err = parseSizes(data); err != nil {
		return nil, fmt.Errorf("queue file %s: %w", f.Name(), err)
	}
	m.SendOpts = m.sizes.opts
	m.start = w.Pos()
	if err := m.readEnvelope(w); err != nil {
		return nil, err
	}
	if m.Arrival.IsZero() {
		return nil, m.bad(nil, "no arrival time")
	}
	return m, nil
}

// bad tells what is wrong with the file; an err other than its end is a failure
// to read, which says nothing about the file.
func (m *Message) bad(err error, text string) error {
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, ErrFormat) {
		return err
	}
	if err != nil && errors.Is(err, ErrFormat) {
		return fmt.Errorf("queue file %s: %w", m.f.Name(), err)
	}
	return fmt.Errorf("queue file %s: %w: %s", m.f.Name(), ErrFormat, text)
}

// readEnvelope takes everything but recipients from both sections.
func (m *Message) readEnvelope(w *Walker) error {
	sender := false
	extracted := false
	for n := 0; ; {
		t, data, _, err := w.Next()
		if err != nil {
			return m.bad(err, "unexpected end of file")
		}
		switch t {
		case TypeMessage:
			w.Goto(m.sizes.offset + m.sizes.data)
			if t, _, _, err = w.Next(); err != nil || t != TypeExtra {
				return m.bad(err, "no end of the content")
			}
			extracted = true
		case TypeEnd:
			if !extracted || !sender {
				return m.bad(nil, "no sender, or no content")
			}
			return nil
		case TypeSender:
			if sender {
				continue // the first one counts, as for Postfix' queue manager
			}
			sender = true
			fallthrough
		default:
			if t != TypeRcpt && t != TypeDone && t != TypeOrigRcpt {
				if n += len(data); n > maxEnvelopeBytes && t != TypeAttr {
					return m.bad(nil, "envelope too large")
				}
			}
			if t == TypeAttr && isRecipientAttr(data) {
				continue
			}
			if _, err := m.take(t, data); err != nil {
				return m.bad(err, "")
			}
		}
	}
}

func isRecipientAttr(data []byte) bool {
	return bytes.HasPrefix(data, []byte(attrORCPT+"=")) || bytes.HasPrefix(data, []byte(attrNotify+"="))
}

// ID is the queue id; empty if the message came as a descriptor.
func (m *Message) ID() string { return m.id }

// Dir is where the message was opened.
func (m *Message) Dir() Dir { return m.dir }

// ForReading opens the queue file once more, to be passed to an agent in another
// process. That may be the recipient's own, so the descriptor must not be good for
// a change: what is done is marked here and nowhere else.
func (m *Message) ForReading() (*os.File, error) {
	if m.q == nil {
		return nil, errors.New("the message came as a descriptor")
	}
	f, err := m.q.fs.OpenFile(m.q.file(Active, m.id), os.O_RDONLY, 0) // where it moved to be delivered
	if errors.Is(err, fs.ErrNotExist) {
		f, err = m.q.fs.OpenFile(m.q.file(m.dir, m.id), os.O_RDONLY, 0)
	}
	return f, err
}

// Close closes the file. No reader may be in use any more.
func (m *Message) Close() error { return m.f.Close() }

// Lock tries to take the lock that Postfix' programs take while they deliver
// from or change a queue file; safefile.ErrLocked if someone else has it.
func (m *Message) Lock() error { return safefile.TryLock(m.f, safefile.Exclusive) }

// Stat looks at the open file.
func (m *Message) Stat() (Info, error) { return fstat(m.f) }

// DataSize is the size that the log, queue listings and SIZE= show: of the
// content with the heads of its records, which is close to its size with CRLF.
func (m *Message) DataSize() int64 { return m.sizes.data }

// RecipientCount is how many recipients the message had at the beginning, done
// ones included.
func (m *Message) RecipientCount() int { return m.sizes.rcpts }

// Recipients returns up to limit recipients that are not done, from a position on:
// 0, or what the last call returned as next. At the end next is -1.
func (m *Message) Recipients(from int64, limit int) (list []agent.Recipient, next int64, err error) {
	if from == 0 {
		from = m.start
	}
	room := rooms.Get().(*[]byte)
	defer rooms.Put(room)
	w := newWalker(m.f, from, *room)
	var r agent.Recipient
	for len(list) < limit {
		t, data, at, err := w.Next()
		if err != nil {
			return list, from, m.bad(err, "unexpected end of file")
		}
		switch t {
		case TypeMessage:
			w.Goto(m.sizes.offset + m.sizes.data)
		case TypeEnd:
			return list, -1, nil
		case TypeAttr:
			name, value, _ := bytes.Cut(data, []byte("="))
			switch string(name) {
			case attrORCPT:
				r.ORCPT = string(value)
			case attrNotify:
				n, _ := strconv.Atoi(string(value))
				r.Notify = agent.Notify(n & 15)
			}
		case TypeOrigRcpt:
			r.Original = address.Parse(string(data))
		case TypeDSNOrcpt:
			r.ORCPT = string(data)
		case TypeRcpt:
			r.Address, r.Offset = address.Parse(string(data)), at
			list = append(list, r)
			r = agent.Recipient{}
			from = w.Pos()
		case TypeDone, TypeCanceled:
			r = agent.Recipient{}
		}
	}
	return list, from, nil
}

// MarkDone says that nothing more is to be done for a recipient: in place, by one
// octet, so that a crash leaves it done or not.
func (m *Message) MarkDone(r agent.Recipient) error {
	var old [1]byte
	if _, err := m.f.ReadAt(old[:], r.Offset); err != nil {
		return err
	}
	switch Type(old[0]) {
	case TypeDone:
		return nil
	case TypeRcpt:
		_, err := m.f.WriteAt([]byte{byte(TypeDone)}, r.Offset)
		return err
	}
	return fmt.Errorf("queue file %s: %w: no recipient at offset %d", m.f.Name(), ErrFormat, r.Offset)
}

// ClearWarn takes away the time of the delay warning, once it was sent.
func (m *Message) ClearWarn() error {
	w := newWalker(m.f, m.start, make([]byte, 4<<10))
	for {
		t, data, at, err := w.Next()
		switch {
		case err != nil:
			return m.bad(err, "unexpected end of file")
		case t == TypeMessage || t == TypeEnd:
			return nil
		case t == TypeWarn:
			if _, err := m.f.WriteAt(fmt.Appendf(nil, "%*d", len(data), 0), at+int64(headSize(len(data)))); err != nil {
				return err
			}
		}
	}
}
