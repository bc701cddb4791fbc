package queue

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

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

// List goes through all messages that are in the queue.
func (q *Queue) List(ctx context.Context, yield func(*Entry) error) error {
	for _, d := range []Dir{Maildrop, Active, Incoming, Deferred, Hold} {
		for id, err := range q.Scan(d) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			e, err := q.entry(d, id)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrFormat) || e == nil && err == nil {
				continue // gone, being written, or corrupt
			}
			if err != nil {
				return err
			}
			if err := yield(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry reads one message for a listing; nil if it is not complete.
func (q *Queue) entry(d Dir, id string) (*Entry, error) {
	f, err := os.Open(q.file(d, id))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := fstat(f)
	if err != nil {
		return nil, err
	}
	if !info.Complete() {
		return nil, nil
	}
	e := &Entry{Dir: d, ID: id, Arrival: info.ModTime, Size: info.Size, Expired: info.Expired()}
	seen := map[string]bool{}
	if d == Deferred || d == Active || d == Hold {
		for l, err := range q.ReadLog(Defer, id) {
			if err != nil {
				break // a listing is not the place to complain
			}
			r := l.Recipient.Quoted()
			if !seen[r] {
				seen[r] = true
				e.Recipients = append(e.Recipients, Waiting{r, l.Reason})
			}
		}
	}
	if err := e.read(NewWalker(f, 0), seen); err != nil {
		return nil, err
	}
	return e, nil
}

// read takes what a listing shows from the records of a queue file or a
// submission.
func (e *Entry) read(w *Walker, seen map[string]bool) error {
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
			if r := address.Parse(string(data)).Quoted(); !seen[r] {
				seen[r] = true
				e.Recipients = append(e.Recipients, Waiting{Address: r})
			}
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
