package queue

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/address"
	"angarium/lib/ipc"
)

// Entry is one message of a queue listing.
type Entry struct {
	Dir        Dir
	ID         string
	Arrival    time.Time
	Size       int64
	Expired    bool   // postsuper -e asked for its return
	Sender     string // as a listing shows it: quoted, MAILER-DAEMON for the null sender
	Recipients []Waiting

	seen map[string]bool // the recipients, once they are many
}

// Waiting is a recipient that is not done, and why, where that is known.
type Waiting struct{ Address, Reason string }

// listProtocol is what showq says first.
const listProtocol = "mail_queue_list_protocol"

// WriteList is the whole service of public/showq: every message of the queue, in
// the attributes that Postfix' postqueue(1) reads. Messages that come, go or move
// meanwhile may be missing or there twice.
func (q *Queue) WriteList(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriterSize(w, 32<<10)
	if _, err := out.Write(ipc.EndAttrs(ipc.AppendAttrs(nil, ipc.Attr{Name: "protocol", Value: listProtocol}))); err != nil {
		return err
	}
	if err := out.Flush(); err != nil { // the other side waits for the greeting
		return err
	}
	var b []byte
	err := q.List(ctx, func(e *Entry) error {
		b = e.appendTo(b[:0])
		_, err := out.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := out.Write(ipc.EndAttrs(nil)); err != nil {
		return err
	}
	return out.Flush()
}

func (e *Entry) appendTo(b []byte) []byte {
	expired := "0"
	if e.Expired {
		expired = "1"
	}
	b = ipc.AppendAttrs(b,
		ipc.Attr{Name: "queue_name", Value: string(e.Dir)},
		ipc.Attr{Name: "queue_id", Value: e.ID},
		ipc.Attr{Name: "time", Value: strconv.FormatInt(e.Arrival.Unix(), 10)},
		ipc.Attr{Name: "size", Value: strconv.FormatInt(e.Size, 10)},
		ipc.Attr{Name: "forced_expire", Value: expired},
		ipc.Attr{Name: "sender", Value: e.Sender})
	for _, r := range e.Recipients {
		b = ipc.AppendAttrs(b, ipc.Attr{Name: "recipient", Value: r.Address}, ipc.Attr{Name: "reason", Value: r.Reason})
	}
	return ipc.EndAttrs(b)
}

// ReadList reads what WriteList, or Postfix' showq(8), wrote.
func ReadList(r io.Reader, yield func(*Entry) error) error {
	in := bufio.NewReader(r)
	hello, err := ipc.ReadAttrs(in)
	if err != nil {
		return err
	}
	if ipc.Get(hello, "protocol") != listProtocol {
		return errors.New("malformed showq server response")
	}
	for {
		var e Entry
		n := 0
		for ; ; n++ {
			a, more, err := ipc.ReadAttr(in)
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return err
			}
			if !more {
				break
			}
			e.take(a)
		}
		if n == 0 {
			return nil
		}
		if e.ID == "" || e.Dir == "" {
			return errors.New("malformed showq server response")
		}
		if err := yield(&e); err != nil {
			return err
		}
	}
}

func (e *Entry) take(a ipc.Attr) {
	switch a.Name {
	case "queue_name":
		e.Dir = Dir(a.Value)
	case "queue_id":
		e.ID = a.Value
	case "time":
		n, _ := strconv.ParseInt(a.Value, 10, 64)
		e.Arrival = time.Unix(n, 0)
	case "size":
		e.Size, _ = strconv.ParseInt(a.Value, 10, 64)
	case "forced_expire":
		e.Expired = a.Value != "0"
	case "sender":
		e.Sender = a.Value
	case "recipient":
		e.Recipients = append(e.Recipients, Waiting{Address: a.Value})
	case "reason":
		if n := len(e.Recipients); n > 0 {
			e.Recipients[n-1].Reason = a.Value
		}
	}
}

// listChunk is how many messages are read side by side.
const listChunk = 64

// chunk is some messages of a directory that are being read.
type chunk struct {
	dir     Dir
	ids     []string
	entries []*Entry
	errs    []error
	ready   sync.WaitGroup
	scan    error // why no chunk follows
}

// List goes through all messages that are in the queue. Files are read by as many
// goroutines as there are processors, ahead of yield.
func (q *Queue) List(ctx context.Context, yield func(*Entry) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	chunks := make(chan *chunk, 2)
	go q.chunks(ctx, chunks)
	for c := range chunks {
		c.ready.Wait()
		for i, e := range c.entries {
			err := c.errs[i]
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrFormat) || e == nil && err == nil {
				continue // gone, being written, or corrupt
			}
			if err == nil {
				err = yield(e)
			}
			if err != nil {
				return err
			}
		}
		if c.scan != nil {
			return c.scan
		}
	}
	return ctx.Err()
}

// chunks scans the directories and reads what is there.
func (q *Queue) chunks(ctx context.Context, out chan<- *chunk) {
	defer close(out)
	root, err := unix.Open(q.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		out <- &chunk{scan: &os.PathError{Op: "open", Path: q.path, Err: err}}
		return
	}
	var under sync.WaitGroup
	defer func() { under.Wait(); unix.Close(root) }()
	send := func(c *chunk) bool {
		c.entries, c.errs = make([]*Entry, len(c.ids)), make([]error, len(c.ids))
		readers := min(runtime.GOMAXPROCS(0), 4)
		for r := range readers {
			under.Add(1)
			c.ready.Go(func() {
				defer under.Done()
				g := glances.Get().(*glance)
				defer glances.Put(g)
				for i := r; i < len(c.ids); i += readers {
					c.entries[i], c.errs[i] = q.guarded(g, root, c.dir, c.ids[i])
				}
			})
		}
		select {
		case out <- c:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for _, d := range []Dir{Maildrop, Active, Incoming, Deferred, Hold} {
		c := &chunk{dir: d}
		for id, err := range q.Scan(d) {
			if err != nil {
				c.scan = err
				send(c)
				return
			}
			if c.ids = append(c.ids, id); len(c.ids) < listChunk {
				continue
			}
			if !send(c) {
				return
			}
			c = &chunk{dir: d}
		}
		if len(c.ids) > 0 && !send(c) {
			return
		}
	}
}

// glance is what it takes to look into a file without an os.File, which costs more
// than the look does: of a long queue many are read.
type glance struct {
	fd   int
	room [walkSize]byte
	log  [walkSize]byte
}

var glances = sync.Pool{New: func() any { return new(glance) }}

// open opens a file of the queue, by its name below root: the way there is long.
func (g *glance) open(root int, name string) (int, error) {
	for {
		fd, err := unix.Openat(root, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, nil
	}
}

// ReadAt makes do with one read: who wants more asks again.
func (g *glance) ReadAt(b []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(g.fd, b, off)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// reasons reads why recipients wait.
func (g *glance) reasons(root int, name string, e *Entry) error {
	fd, err := g.open(root, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	g.fd = fd
	var r io.Reader = io.NewSectionReader(g, 0, 1<<40)
	var room []byte
	// Mostly all of it comes at once, and half of the room is enough for its lines.
	if n, err := g.ReadAt(g.log[:], 0); err == nil && n <= len(g.log)/2 {
		r, room = bytes.NewReader(g.log[:n]), g.log[n:]
	}
	readLog(r, room, func(l LogEntry, err error) bool {
		if err == nil {
			e.add(l.Recipient.Quoted(), l.Reason)
		}
		return err == nil
	})
	return nil
}

// add notes a recipient, once.
func (e *Entry) add(address, reason string) {
	if e.seen == nil {
		for i := range e.Recipients {
			if e.Recipients[i].Address == address {
				return
			}
		}
		if len(e.Recipients) >= 16 {
			e.seen = make(map[string]bool)
			for i := range e.Recipients {
				e.seen[e.Recipients[i].Address] = true
			}
		}
	}
	if e.seen != nil {
		if e.seen[address] {
			return
		}
		e.seen[address] = true
	}
	e.Recipients = append(e.Recipients, Waiting{address, reason})
}

// guarded is entry; a file that makes us panic must cost no more than its own line.
func (q *Queue) guarded(g *glance, root int, d Dir, id string) (e *Entry, err error) {
	defer func() {
		if p := recover(); p != nil {
			e, err = nil, fmt.Errorf("%w: %v", ErrFormat, p)
		}
	}()
	return q.entry(g, root, d, id)
}

// entry reads one message for a listing; nil if it is not complete.
func (q *Queue) entry(g *glance, root int, d Dir, id string) (*Entry, error) {
	name := q.Name(d, id)
	fd, err := g.open(root, name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	info := infoOf(&st)
	if !info.Complete() {
		return nil, nil
	}
	e := &Entry{Dir: d, ID: id, Arrival: info.ModTime, Size: info.Size, Expired: info.Expired()}
	if d == Deferred || d == Active || d == Hold {
		_ = g.reasons(root, q.Name(Defer, id), e) // a listing is not the place to complain
	}
	g.fd = fd
	err = e.read(newWalker(g, 0, g.room[:]))
	e.seen = nil
	if err != nil {
		return nil, err
	}
	return e, nil
}

// read takes what a listing shows from the records of a queue file or a
// submission.
func (e *Entry) read(w *Walker) error {
	end := int64(-1) // where the content ends; unknown in a submission
	text := false
	e.Sender = ""
	sender := false
	for {
		t, data, _, err := w.Next()
		if err != nil {
			return fmt.Errorf("%w: %v", ErrFormat, err)
		}
		switch {
		case text && t != TypeExtra:
		case t == TypeSize:
			if s, err := parseSizes(data); err == nil {
				e.Size, end = s.data, s.offset+s.data
			}
		case t == TypeTime:
			sec, _, _ := strings.Cut(string(data), " ")
			if n, err := strconv.ParseInt(sec, 10, 64); err == nil {
				e.Arrival = time.Unix(n, 0)
			}
		case t == TypeSender && !sender:
			sender = true
			if e.Sender = address.Parse(string(data)).Quoted(); e.Sender == "" {
				e.Sender = "MAILER-DAEMON"
			}
		case t == TypeRcpt:
			e.add(address.Parse(string(data)).Quoted(), "")
		case t == TypeMessage:
			text = true
			if end >= 0 {
				w.Goto(end)
			}
		case t == TypeExtra:
			text = false
		case t == TypeEnd:
			return nil
		}
	}
}
