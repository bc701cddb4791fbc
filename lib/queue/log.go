package queue

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strconv"
	"strings"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/safefile"
)

// LogEntry tells what became of one recipient. Such entries lie in the bounce,
// defer and trace directories in a file by the message's id, as text.
type LogEntry struct {
	Recipient address.Address
	Original  address.Address // if it is another
	Offset    int64           // of the recipient in the queue file
	ORCPT     string
	Notify    agent.Notify
	Status    string // "4.4.1"
	Action    string // "delayed", "failed", "delivered", "relayed", "expanded", "deliverable"...
	DiagType  string // "smtp", "x-unix"
	DiagText  string // the other side's words
	MTAType   string // "dns"
	MTAName   string // the other side's name
	Reason    string // for a person; ends up in notices and queue listings
}

// maxLogLine bounds what is read back of one line.
const maxLogLine = 100_000

// AppendLog adds entries to the log of a message in Bounce, Defer or Trace. It is
// one write under a lock, so entries are never mixed; it is not synced, since the
// recipient is still in the queue file until its done mark, which isn't either.
func (q *Queue) AppendLog(ctx context.Context, d Dir, id string, entries ...LogEntry) error {
	if !ValidID(id) {
		return fmt.Errorf("bad queue id: %q", id)
	}
	name := q.file(d, id)
	const flags = os.O_RDWR | os.O_APPEND | os.O_CREATE
	f, err := q.fs.OpenFile(name, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) && q.makeDirs(name) == nil {
		f, err = q.fs.OpenFile(name, flags, 0o600)
	}
	if err != nil {
		return err
	}
	var b []byte
	for i := range entries {
		b = entries[i].appendTo(b)
	}
	err = safefile.Lock(ctx, f, safefile.Exclusive)
	if err == nil {
		_, err = q.fs.Write(f, b)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func (e *LogEntry) appendTo(b []byte) []byte {
	line := func(name, value string) {
		if value != "" {
			b = fmt.Appendf(b, "%s=%s\n", name, oneLine(value))
		}
	}
	shown := e.Recipient.Quoted()
	if shown == "" {
		shown = "MAILER-DAEMON"
	}
	b = fmt.Appendf(b, "\n<%s>: %s\n", oneLine(shown), oneLine(e.Reason))
	line("recipient", shown)
	if !e.Original.IsNull() && e.Original != e.Recipient {
		line("original_recipient", e.Original.Quoted())
	}
	if e.Offset > 0 {
		line("offset", strconv.FormatInt(e.Offset, 10))
	}
	line(attrORCPT, e.ORCPT)
	if e.Notify != 0 {
		line(attrNotify, strconv.Itoa(int(e.Notify)))
	}
	line("status", e.Status)
	line("action", e.Action)
	line("diag_type", e.DiagType)
	line("diag_text", e.DiagText)
	line("mta_type", e.MTAType)
	line("mta_mname", e.MTAName)
	line("reason", e.Reason)
	return append(b, '\n')
}

// oneLine keeps a stranger's words from forming lines of their own.
func oneLine(s string) string {
	if strings.IndexFunc(s, isControl) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if isControl(r) {
			return ' '
		}
		return r
	}, s)
}

func isControl(r rune) bool { return r < ' ' || r == 127 }

// ReadLog goes through the log of a message. No log is an empty one.
func (q *Queue) ReadLog(d Dir, id string) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		if !ValidID(id) {
			return
		}
		f, err := os.Open(q.file(d, id))
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			yield(LogEntry{}, err)
			return
		}
		defer f.Close()
		readLog(f, nil, yield)
	}
}

// readLog reads paragraphs of name=value. Lines of another shape are for people,
// or come from older releases; names we don't know are passed over.
func readLog(r io.Reader, room []byte, yield func(LogEntry, error) bool) {
	in := bufio.NewScanner(r)
	in.Buffer(room, maxLogLine)
	var e LogEntry
	seen := false
	for in.Scan() {
		line := in.Text()
		if line == "" {
			if seen && !yield(e, nil) {
				return
			}
			e, seen = LogEntry{}, false
			continue
		}
		if line[0] == '<' {
			continue
		}
		if name, value, ok := strings.Cut(line, "="); ok {
			e.take(name, value)
			seen = true
		}
	}
	if err := in.Err(); err != nil {
		yield(LogEntry{}, err)
		return
	}
	if seen {
		yield(e, nil)
	}
}

func (e *LogEntry) take(name, value string) {
	addr := func() address.Address {
		a, err := address.ParseQuoted(value)
		if err != nil {
			return address.Parse(value)
		}
		return a
	}
	switch name {
	case "recipient":
		e.Recipient = addr()
	case "original_recipient":
		e.Original = addr()
	case "offset":
		e.Offset, _ = strconv.ParseInt(value, 10, 64)
	case attrORCPT:
		e.ORCPT = value
	case attrNotify:
		n, _ := strconv.Atoi(value)
		e.Notify = agent.Notify(n & 15)
	case "status":
		e.Status = value
	case "action":
		e.Action = value
	case "diag_type":
		e.DiagType = value
	case "diag_text":
		e.DiagText = value
	case "mta_type":
		e.MTAType = value
	case "mta_mname":
		e.MTAName = value
	case "reason":
		e.Reason = value
	}
}

// HasLog reports whether a message has a log of this kind.
func (q *Queue) HasLog(d Dir, id string) bool {
	_, err := q.Stat(d, id)
	return err == nil
}

// RemoveLog removes the log of a message, if there is one.
func (q *Queue) RemoveLog(d Dir, id string) error {
	err := q.fs.Remove(q.file(d, id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// FlushLog is the name of the file in the Flush directory that lists which
// messages wait for a site: the domain in small letters, with an underscore for
// whatever is no letter or digit.
func FlushLog(site string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, site)
}
