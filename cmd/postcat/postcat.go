// Package postcat shows queue files. See postcat(1).
package postcat

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/queueconf"
	"angarium/lib/queue"
)

const usage = "usage: %s [-b (body text)] [-c config_dir] [-d (decimal record type)] [-e (envelope records)] [-h (header text)] [-q (access queue)] [-v] [file(s)...]"

// show is what to print of a file, and how.
type show struct {
	body, envelope, header bool
	decimal, offset, raw   bool
	verbose                bool
	from                   int64
	warn                   func(format string, args ...any)
}

// Main is postcat(1).
func Main(_ context.Context, c *cli.Cmd) error {
	s := show{warn: c.Warnf}
	dir, access := "", false
	for {
		letter, arg, ok, err := c.Getopt("+bc:dehoqrs:v")
		if err != nil {
			c.Stderr.Write([]byte(c.Name + ": " + err.Error() + "\n"))
			return cli.Exit(1, usage, c.Name)
		}
		if !ok {
			break
		}
		switch letter {
		case 'b':
			s.body = true
		case 'c':
			dir = arg
		case 'd':
			s.decimal = true
		case 'e':
			s.envelope = true
		case 'h':
			s.header = true
		case 'o':
			s.offset = true
		case 'q':
			access = true
		case 'r':
			s.raw = true
		case 's':
			if s.from, err = strconv.ParseInt(arg, 10, 64); err != nil || s.from < 0 {
				return cli.Exit(1, "bad offset: %s", arg)
			}
		case 'v':
			s.verbose = true
		}
	}
	if !s.body && !s.envelope && !s.header {
		s.body, s.envelope, s.header = true, true, true
	}
	conf, err := maincf.Load(maincf.Dir(dir))
	if err != nil {
		return err
	}
	out := bufio.NewWriter(c.Stdout)
	if err := run(c, conf, s, access, out); err != nil {
		out.Flush() // what was printed before stays
		return err
	}
	return out.Flush()
}

func run(c *cli.Cmd, conf *maincf.Config, s show, access bool, out *bufio.Writer) error {
	files := c.Operands()
	if access {
		q, err := queueconf.Open(conf)
		if err != nil {
			return err
		}
		for _, id := range files {
			if err := s.queued(q, id, out); err != nil {
				return err
			}
		}
		return nil
	}
	if len(files) == 0 {
		text, err := io.ReadAll(c.Stdin)
		if err != nil {
			return err
		}
		return s.print(bytes.NewReader(text), "stdin", out)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("open %s: %s", name, plain(err))
		}
		err = s.print(f, name, out)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// plain is an error without Go's "open name: ", worded as the C library does.
func plain(err error) string {
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// queued shows a message wherever it lies.
func (s show) queued(q *queue.Queue, id string, out *bufio.Writer) error {
	if !queue.ValidID(id) {
		return fmt.Errorf("bad mail queue ID: %s", id)
	}
	for _, d := range []queue.Dir{queue.Maildrop, queue.Incoming, queue.Active, queue.Deferred, queue.Hold, queue.Saved} {
		name := q.Name(d, id)
		f, err := os.Open(q.Path() + "/" + name)
		if err != nil {
			continue
		}
		defer f.Close()
		return s.print(f, name, out)
	}
	return fmt.Errorf("open queue file %s: No such file or directory", id)
}

// envelopeTypes are the records that may begin a queue file.
const envelopeTypes = "MCTcFILSDROWVA>KBrfeEpwZ"

// where in the file a record stands.
type where int

const (
	envelope where = iota
	header
	body
)

// print shows one file.
func (s show) print(r io.ReaderAt, name string, out *bufio.Writer) error {
	w := queue.NewWalker(r, s.from)
	w.Raw = true // pointers are shown, and followed here
	at := envelope
	text := false // within the content
	begun := true // at the beginning of a line
	var first [1]byte
	if n, _ := r.ReadAt(first[:], 0); n > 0 && s.from == 0 {
		if strings.IndexByte(envelopeTypes, first[0]) < 0 {
			s.warn("%s: input is not a valid queue file", name)
			return nil
		}
		if s.envelope {
			fmt.Fprintf(out, "*** ENVELOPE RECORDS %s ***\n", name)
		}
	}
	for jumps := 0; ; {
		t, data, offset, err := w.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return errors.New("record read error")
		}
		if text {
			if begun {
				at = part(at, t, data)
			}
			begun = t == queue.TypeNorm || s.splits()
		}
		switch {
		case t == queue.TypeMessage:
			s.line(out, s.envelope, t, offset, "*** MESSAGE CONTENTS "+name+" ***")
			text, at, begun = true, header, true
		case t == queue.TypeExtra:
			s.line(out, s.envelope, t, offset, "*** HEADER EXTRACTED "+name+" ***")
			text, at = false, envelope
		case t == queue.TypeEnd:
			s.line(out, s.envelope, t, offset, "*** MESSAGE FILE END "+name+" ***")
			if !s.raw {
				return nil
			}
		case t == queue.TypePointer && !s.raw:
			if s.verbose {
				s.line(out, s.envelope, t, offset, typeName(t, text)+": "+string(data))
			}
			target, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
			if jumps++; err != nil || target < 0 || jumps > 100_000 {
				return errors.New("bad pointer record, or input is not seekable")
			}
			if target > 0 {
				w.Goto(target)
			}
		case t == queue.TypeDeleted && !s.raw && !s.verbose:
		case text && (t == queue.TypeNorm || t == queue.TypeCont):
			s.content(out, at, t, offset, data)
		default:
			s.record(out, text, at, t, offset, data)
		}
	}
}

// part tells whether a record of the content belongs to header or body. The line
// that ends the header is the body's.
func part(at where, t queue.Type, data []byte) where {
	if at != header || t != queue.TypeNorm && t != queue.TypeCont {
		return at
	}
	if len(data) > 0 && (data[0] == ' ' || data[0] == '\t') || isHeader(data) {
		return header
	}
	return body
}

// splits reports whether each record of a long line is printed, and looked at, as
// a line. That the second one then may begin the body is Postfix' quirk.
func (s show) splits() bool { return s.verbose || s.offset || s.decimal }

func isHeader(line []byte) bool {
	i := 0
	for i < len(line) && line[i] > ' ' && line[i] < 127 && line[i] != ':' {
		i++
	}
	return i > 0 && bytes.HasPrefix(bytes.TrimLeft(line[i:], " \t"), []byte(":"))
}

// line prints a line of the envelope.
func (s show) line(out *bufio.Writer, wanted bool, t queue.Type, offset int64, text string) {
	if wanted {
		s.prefix(out, t, offset)
		out.WriteString(text)
		out.WriteByte('\n')
	}
}

func (s show) prefix(out *bufio.Writer, t queue.Type, offset int64) {
	if s.offset {
		fmt.Fprintf(out, "%9d ", offset)
	}
	if s.decimal {
		fmt.Fprintf(out, "%3d ", t)
	}
}

func (s show) content(out *bufio.Writer, at where, t queue.Type, offset int64, data []byte) {
	if at == header && !s.header || at == body && !s.body {
		return
	}
	s.prefix(out, t, offset)
	if s.verbose {
		out.WriteString(typeName(t, true))
		out.WriteString(": ")
	}
	out.Write(data)
	if t == queue.TypeNorm || s.splits() {
		out.WriteByte('\n')
	}
}

func (s show) record(out *bufio.Writer, text bool, at where, t queue.Type, offset int64, data []byte) {
	wanted := s.envelope
	if text {
		wanted = at == header && s.header || at == body && s.body
	}
	name, value := typeName(t, text), string(data)
	switch t {
	case queue.TypeTime, queue.TypeWarn:
		value = when(value)
	case queue.TypeAttr:
		if v, ok := strings.CutPrefix(value, "create_time="); ok {
			name, value = "create_time", when(v)
		}
	}
	s.line(out, wanted, t, offset, name+": "+value)
}

// when shows a time, given in seconds, maybe with microseconds behind.
func when(value string) string {
	sec, _, _ := strings.Cut(strings.TrimSpace(value), " ")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return value
	}
	return time.Unix(n, 0).Format("Mon Jan _2 15:04:05 2006")
}

// typeName is the name of a record type. 'L' has two meanings.
func typeName(t queue.Type, text bool) string {
	if t == queue.TypeCont && text {
		return "unterminated_text"
	}
	names := map[queue.Type]string{
		queue.TypeSize: "message_size", queue.TypeTime: "message_arrival_time", 'c': "queue_file_create_time",
		queue.TypeFullName: "sender_fullname", queue.TypeInspect: "content_inspector", queue.TypeFilter: "content_filter",
		queue.TypeSender: "sender", queue.TypeDone: "done_recipient", queue.TypeRcpt: "recipient",
		queue.TypeOrigRcpt: "original_recipient", queue.TypeCanceled: "canceled_recipient", queue.TypeWarn: "warning_message_time",
		queue.TypeAttr: "named_attribute", queue.TypePointer: "pointer_record", queue.TypeKilled: "killed_record",
		queue.TypeMessage: "message_content", queue.TypeNorm: "regular_text", queue.TypeDeleted: "padding",
		queue.TypeExtra: "extracted_info", queue.TypeRRTo: "return_receipt", queue.TypeErrTo: "errors_to",
		queue.TypePriority: "priority", queue.TypeVerp: "verp_delimiters", queue.TypeEnd: "message_end",
		queue.TypeRedirect: "redirect_to", queue.TypeFlags: "flags", queue.TypeDSNRet: "dsn_return_flags",
		queue.TypeDSNEnvID: "dsn_envelope_id", queue.TypeDSNOrcpt: "dsn_original_recipient", queue.TypeDSNNote: "dsn_notify_flags",
	}
	if name, ok := names[t]; ok {
		return name
	}
	return "unknown_record_type"
}
