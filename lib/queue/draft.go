package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
)

// LineLimit is line_length_limit: longer lines lie in several records.
const LineLimit = 2048

// flushSize is when a draft's buffer is written. A mail of ordinary size fits,
// and then is one write(2).
const flushSize = 24 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, flushSize+LineLimit+64); return &b }}

// Draft is a message that is being written. It is not safe for concurrent use.
type Draft struct {
	q    *Queue
	f    *os.File
	id   string
	dir  Dir
	mode os.FileMode
	raw  bool // the caller makes all records

	buf          *[]byte
	flushed      int64 // octets of the file that are written
	sizes        sizes
	line         []byte // an incomplete line
	section      section
	extra        []Attr            // to stand behind the content
	extraRecords []byte            // records behind the content
	late         []agent.Recipient // and behind those
	wrote        int64             // octets of content
	cont         bool              // the last record goes on in the next one
	err          error
}

type section int

const (
	inEnvelope section = iota
	inContent
	ended
)

// Create begins a message in the incoming directory. Its file exists under the
// queue id at once, so that nobody else gets this id; its mode 0600 tells everyone
// that it does not count yet.
func (q *Queue) Create(ctx context.Context, e Envelope) (*Draft, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := q.now()
	if e.Created.IsZero() {
		e.Created = now
	}
	if e.Arrival.IsZero() {
		e.Arrival = e.Created
	}
	d, err := q.create(Incoming, ModeComplete, now)
	if err != nil {
		return nil, err
	}
	d.sizes.opts = e.SendOpts
	*d.buf = AppendRecord(*d.buf, TypeSize, sizes{}.String())
	*d.buf = e.appendTo(*d.buf, d.id)
	return d, nil
}

// CreateRaw begins a file of records that the caller makes with Record: a
// submission in the maildrop directory. mode is what Commit will give it.
func (q *Queue) CreateRaw(dir Dir, mode os.FileMode) (*Draft, error) {
	d, err := q.create(dir, mode, q.now())
	if err == nil {
		d.raw = true
	}
	return d, err
}

// create makes the file under a name of this process and renames it to the id,
// which contains the inode number.
func (q *Queue) create(dir Dir, mode os.FileMode, now time.Time) (*Draft, error) {
	base := q.path + "/" + string(dir) + "/"
	for try := 0; ; try++ {
		temp := base + strconv.Itoa(now.Nanosecond()/1000+try) + "." + strconv.Itoa(os.Getpid())
		f, err := q.fs.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		switch {
		case errors.Is(err, fs.ErrExist):
			continue // another goroutine in the same microsecond
		case errors.Is(err, fs.ErrNotExist) && try == 0:
			if err := q.makeDirs(temp); err != nil {
				return nil, err
			}
			continue
		case err != nil:
			return nil, err
		}
		return q.adopt(f, temp, dir, mode, now)
	}
}

// adopt gives a new file its id.
func (q *Queue) adopt(f *os.File, temp string, dir Dir, mode os.FileMode, now time.Time) (*Draft, error) {
	drop := func(err error) (*Draft, error) {
		f.Close()
		_ = q.fs.Remove(temp)
		return nil, err
	}
	info, err := fstat(f)
	if err != nil {
		return drop(err)
	}
	id := MakeID(now, info.Inode, q.long)
	name := q.file(dir, id)
	if err := q.rename(temp, name); err != nil {
		return drop(err)
	}
	return &Draft{q: q, f: f, id: id, dir: dir, mode: mode, buf: buffers.Get().(*[]byte)}, nil
}

// ID is the queue id.
func (d *Draft) ID() string { return d.id }

// Recipient adds a recipient. One that comes after content is kept until Commit,
// and stands behind the content in the file.
func (d *Draft) Recipient(r agent.Recipient) error {
	if d.err != nil {
		return d.err
	}
	if d.section != inEnvelope {
		d.late = append(d.late, r)
		return nil
	}
	d.appendRecipient(r)
	return d.room()
}

func (d *Draft) appendRecipient(r agent.Recipient) {
	b := *d.buf
	if r.Notify != 0 {
		b = appendAttr(b, attrNotify, strconv.Itoa(int(r.Notify)))
		d.sizes.qmgr |= int(r.Notify) << 1
	}
	b = appendAttr(b, attrORCPT, r.ORCPT)
	// As in Postfix there is always an original one, though it be the same.
	orig := r.Original
	if orig.IsNull() {
		orig = r.Address
	}
	b = AppendRecord(b, TypeOrigRcpt, orig.String())
	*d.buf = AppendRecord(b, TypeRcpt, r.Address.String())
	d.sizes.rcpts++
}

// SetSender changes the sender, while all of the envelope is still in memory and no
// content has come.
func (d *Draft) SetSender(a address.Address) error {
	if d.err != nil {
		return d.err
	}
	if d.section != inEnvelope || d.flushed > 0 {
		return fmt.Errorf("queue file %s: the envelope is written", d.id)
	}
	out := make([]byte, 0, len(*d.buf)+len(a.Local)+len(a.Domain))
	r := NewReader(bytes.NewReader(*d.buf), 0)
	for {
		t, data, err := r.Read()
		if err == io.EOF {
			*d.buf = append((*d.buf)[:0], out...)
			return nil
		}
		if err != nil {
			return err
		}
		if t == TypeSender {
			data = []byte(a.String())
		}
		out = AppendRecord(out, t, string(data))
	}
}

// Recipients is how many were added.
func (d *Draft) Recipients() int { return d.sizes.rcpts + len(d.late) }

// Attr adds a named attribute before the content.
func (d *Draft) Attr(name, value string) error {
	if d.err != nil {
		return d.err
	}
	if d.section != inEnvelope {
		return fmt.Errorf("queue file %s: attribute after the envelope", d.id)
	}
	*d.buf = appendAttr(*d.buf, name, value)
	return d.room()
}

// ExtraAttr adds an attribute that became known with the content, and overrides one
// of the envelope.
func (d *Draft) ExtraAttr(name, value string) { d.extra = append(d.extra, Attr{name, value}) }

// SetSendOpts sets what became known about SMTPUTF8.
func (d *Draft) SetSendOpts(o SendOpts) { d.sizes.opts = o }

// SendOpts is what Create or SetSendOpts said.
func (d *Draft) SendOpts() SendOpts { return d.sizes.opts }

// Record appends a record as it is. Behind the content, unless the file is one of
// CreateRaw, it is kept until Commit.
func (d *Draft) Record(t Type, data []byte) error {
	if d.err != nil {
		return d.err
	}
	if !d.raw && d.section != inEnvelope {
		d.extraRecords = AppendRecord(d.extraRecords, t, string(data))
		return nil
	}
	b := append(*d.buf, byte(t))
	n := len(data)
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	*d.buf = append(append(b, byte(n)), data...)
	return d.room()
}

// Write adds content, with LF line ends.
func (d *Draft) Write(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	if d.section == inEnvelope {
		d.beginContent()
	}
	total := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			d.partial(p)
			break
		}
		if len(d.line) == 0 && i < LineLimit {
			d.text(TypeNorm, p[:i])
		} else {
			d.partial(p[:i])
			d.text(TypeNorm, d.line)
			d.line = d.line[:0]
		}
		p = p[i+1:]
		if err := d.room(); err != nil {
			return 0, err
		}
	}
	d.wrote += int64(total)
	return total, d.room()
}

// partial takes a part of a line without its end, and writes what passes the limit.
func (d *Draft) partial(p []byte) {
	for len(d.line)+len(p) >= LineLimit {
		n := LineLimit - len(d.line)
		d.line = append(d.line, p[:n]...)
		d.text(TypeCont, d.line)
		d.line, p = d.line[:0], p[n:]
		if d.room() != nil {
			return
		}
	}
	d.line = append(d.line, p...)
}

func (d *Draft) text(t Type, p []byte) {
	b := append(*d.buf, byte(t))
	n := len(p)
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	*d.buf = append(append(b, byte(n)), p...)
	d.cont = t == TypeCont
}

// Written is how many octets of content were written.
func (d *Draft) Written() int64 { return d.wrote }

func (d *Draft) offset() int64 { return d.flushed + int64(len(*d.buf)) }

func (d *Draft) beginContent() {
	*d.buf = append(*d.buf, byte(TypeMessage), 0)
	d.sizes.offset = d.offset()
	d.section = inContent
}

// room writes the buffer if it is full. An error stays: what follows is for nothing.
func (d *Draft) room() error {
	if d.err == nil && len(*d.buf) >= flushSize {
		d.flush()
	}
	return d.err
}

func (d *Draft) flush() {
	if d.err != nil || len(*d.buf) == 0 {
		return
	}
	n, err := d.q.fs.Write(d.f, *d.buf)
	d.flushed += int64(n)
	*d.buf = (*d.buf)[:0]
	d.err = err
}

// finish writes what stands behind the content, and the size record.
func (d *Draft) finish() error {
	if d.section == inEnvelope {
		d.beginContent()
	}
	if d.section == ended {
		return fmt.Errorf("queue file %s: committed twice", d.id)
	}
	if len(d.line) > 0 { // the last line has no end: as in Postfix it gets one
		d.text(TypeCont, d.line)
		d.line = nil
	}
	if d.cont {
		d.text(TypeNorm, nil)
	}
	d.sizes.data = d.offset() - d.sizes.offset
	d.sizes.content = d.sizes.data
	*d.buf = append(*d.buf, byte(TypeExtra), 0)
	for _, a := range d.extra {
		*d.buf = appendAttr(*d.buf, a.Name, a.Value)
	}
	*d.buf = append(*d.buf, d.extraRecords...)
	for _, r := range d.late {
		d.appendRecipient(r)
		if err := d.room(); err != nil {
			return err
		}
	}
	*d.buf = append(*d.buf, byte(TypeEnd), 0)
	size := d.sizes.String()
	if d.flushed == 0 {
		copy((*d.buf)[2:], size)
		d.flush()
	} else if d.flush(); d.err == nil {
		_, d.err = d.q.fs.WriteAt(d.f, []byte(size), 2)
	}
	return d.err
}

// Commit makes the message ours: after nil it survives a power cut, and we may
// say 250. After an error there is nothing of it left.
//
// Order matters: the mode says "complete" only of a file whose content is
// written, and one fsync makes both durable; the directory entry follows, in an
// fsync that messages committed at the same time share.
func (d *Draft) Commit(ctx context.Context) error {
	if !d.raw && d.err == nil {
		d.err = d.finish()
	} else if d.err == nil {
		d.flush()
	}
	if d.err == nil {
		d.err = ctx.Err()
	}
	if d.err == nil {
		d.err = d.q.fs.Chmod(d.f, d.mode)
	}
	if d.err == nil {
		d.err = d.q.fs.Sync(d.f)
	}
	if d.err == nil {
		err := d.q.syncDir(d.dir, d.id)
		// postdrop may create files in maildrop but not read it, and so can't sync it.
		// The fsync of a new file brings its name along on the file systems of Linux.
		if !d.raw || !errors.Is(err, fs.ErrPermission) {
			d.err = err
		}
	}
	if d.err != nil {
		err := d.err
		d.Abort()
		return err
	}
	d.section = ended
	d.release()
	// Synced already: an error of close(2) can take nothing back.
	_ = d.f.Close()
	d.f = nil
	return nil
}

// syncDir syncs the directory in which a message lies.
func (q *Queue) syncDir(dir Dir, id string) error {
	name := q.file(dir, id)
	return q.fs.SyncDir(name[:len(name)-len(id)-1])
}

func (d *Draft) release() {
	if d.buf != nil {
		*d.buf = (*d.buf)[:0]
		buffers.Put(d.buf)
		d.buf = nil
	}
}

// Abort removes an uncommitted message. After Commit or Abort it does nothing.
func (d *Draft) Abort() {
	if d.f == nil {
		return
	}
	if d.err == nil {
		d.err = errors.New("message was aborted")
	}
	// The mode first: if the file can't be removed, it must at least not count.
	_ = d.f.Chmod(0o600)
	_ = d.q.fs.Remove(d.q.file(d.dir, d.id))
	_ = d.f.Close()
	d.f = nil
	d.release()
}

// ErrNoSpace reports whether an error says that the disk or a quota is full.
func ErrNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// Hold moves an unfinished message to the hold directory, where Commit leaves it.
func (d *Draft) Hold() error {
	if d.err != nil {
		return d.err
	}
	if err := d.q.Move(d.id, d.dir, Hold); err != nil {
		return err
	}
	d.dir = Hold
	return nil
}
