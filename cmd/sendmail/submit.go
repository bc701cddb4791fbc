package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"angarium/lib/cleanup"
	"angarium/lib/conf/queueconf"
	"angarium/lib/ipc"
	"angarium/lib/queue"
)

// submit hands the message on standard input to postdrop. If anything is wrong the
// end record is not written, and postdrop forgets the message.
func (s *call) submit(args []string) error {
	sender, name, err := s.from()
	if err != nil {
		return err
	}
	s.shownFrom = sender
	if err := s.maySubmit(); err != nil {
		return err
	}
	rcpts := recipients(args)
	switch {
	case s.verp != "" && sender == "":
		return fmt.Errorf("%s: -V option requires non-null sender address", s.who())
	case len(rcpts) == 0 && !s.extract:
		return fmt.Errorf("%s: Recipient addresses must be specified on the command line or via the -t option", s.who())
	}
	p, err := s.startPostdrop()
	if err != nil {
		return err
	}
	w := &writer{out: p.in, buf: s.envelope(nil, sender, name, rcpts)}
	if s.verify {
		w.probe(s.probeFrom(sender), rcpts)
	} else if err := s.content(w); err != nil {
		p.giveUp()
		return fmt.Errorf("%s: error reading input: %s", s.who(), plain(err))
	}
	if s.extract && len(rcpts)+len(w.rcpts) == 0 {
		p.giveUp()
		return fmt.Errorf("%s: No recipient addresses found in message header", s.who())
	}
	w.record(queue.TypeExtra, nil)
	for _, r := range w.rcpts {
		w.buf = s.recipient(w.buf, r)
	}
	w.record(queue.TypeEnd, nil)
	w.flush() // where it fails, postdrop has said why
	if err := s.finish(p); err != nil {
		return err
	}
	if s.verify || s.verbose > 0 {
		s.c.Printf("Mail Delivery Status Report will be mailed to <%s>.\n", sender)
	}
	return nil
}

// maySubmit asks authorized_submit_users.
func (s *call) maySubmit() error {
	if user, ok := queueconf.Authorized(s.conf, "authorized_submit_users", s.uid); !ok {
		return s.fatal("User %s(%d) is not allowed to submit mail", user, s.uid)
	}
	return nil
}

func (s *call) probeFrom(sender string) string {
	if sender == "" {
		return "<>"
	}
	return sender
}

// postdrop is the running program. It is started without os/exec, whose care for
// many processes costs as much as the rest of this program.
type postdrop struct {
	path string
	pid  int
	in   *os.File
	out  *bufio.Reader
	from *os.File // under out
}

func (s *call) startPostdrop() (*postdrop, error) {
	p := &postdrop{path: filepath.Join(s.conf.String("command_directory"), "postdrop")}
	var to, from [2]int
	if err := syscall.Pipe2(to[:], syscall.O_CLOEXEC); err != nil {
		return nil, err
	}
	if err := syscall.Pipe2(from[:], syscall.O_CLOEXEC); err != nil {
		return nil, err
	}
	p.in, p.from = os.NewFile(uintptr(to[1]), "postdrop"), os.NewFile(uintptr(from[0]), "postdrop")
	p.out = bufio.NewReader(p.from)
	stderr := os.Stderr
	if f, ok := s.c.Stderr.(*os.File); ok {
		stderr = f
	}
	pid, err := syscall.ForkExec(p.path, []string{p.path, "-r"}, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{uintptr(to[0]), uintptr(from[1]), stderr.Fd()},
	})
	syscall.Close(to[0])
	syscall.Close(from[1])
	if err != nil {
		p.in.Close()
		p.from.Close()
		s.log.Fatalf("execvp %s: %s", p.path, plain(err))
		s.log.Warnf("command \"%s -r\" exited with status 1", p.path)
		return nil, fmt.Errorf("%s: unable to execute %s -r: Application error", s.who(), p.path)
	}
	p.pid = pid
	return p, nil
}

// wait reads what is left of postdrop's output, and waits for its end.
func (p *postdrop) wait() (status syscall.WaitStatus) {
	_, _ = io.Copy(io.Discard, p.out)
	p.from.Close()
	for {
		if _, err := syscall.Wait4(p.pid, &status, 0, nil); err != syscall.EINTR {
			return status
		}
	}
}

// giveUp lets postdrop see an end of input without an end record.
func (p *postdrop) giveUp() {
	p.in.Close()
	p.wait()
}

// finish reads what postdrop has to say.
func (s *call) finish(p *postdrop) error {
	p.in.Close()
	hello, herr := ipc.ReadAttrs(p.out)
	end, eerr := ipc.ReadAttrs(p.out)
	exit := p.wait()
	if herr == nil && eerr == nil && ipc.Get(hello, "protocol") == "postdrop_protocol" {
		status, err := strconv.Atoi(ipc.Get(end, "status"))
		if err == nil && status == 0 {
			return nil
		}
		if err == nil {
			if exit.ExitStatus() != 0 {
				s.log.Warnf("mail_stream_cleanup: close error")
			}
			return fmt.Errorf("%s: %s", s.who(), problem(status))
		}
	}
	if herr == nil { // it had begun
		s.log.Warnf("mail_stream_cleanup: close error")
		return fmt.Errorf("%s: queue file write error", s.who())
	}
	command := p.path + " -r"
	if exit.Exited() && exit.ExitStatus() != 0 {
		s.log.Warnf("command \"%s\" exited with status %d", command, exit.ExitStatus())
	}
	return fmt.Errorf("%s: unable to execute %s: Application error", s.who(), command)
}

// problem puts the status that postdrop or cleanup(8) report, a mask, into words.
func problem(status int) string {
	for _, p := range []struct {
		bit  int
		text string
	}{
		{1, "internal protocol error"}, {4, "message file too big"}, {8, "message content rejected"},
		{16, "too many hops"}, {2, "queue file write error"}, {64, "no recipients specified"},
	} {
		if status&p.bit != 0 {
			return p.text
		}
	}
	return "unknown error " + strconv.Itoa(status)
}

// writer collects records for postdrop.
type writer struct {
	out   io.Writer
	buf   []byte
	rcpts []string // found in the header
	err   error
}

func (w *writer) record(t queue.Type, data []byte) {
	b := append(w.buf, byte(t))
	n := len(data)
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	w.buf = append(append(b, byte(n)), data...)
	if len(w.buf) > 32<<10 {
		w.flush()
	}
}

func (w *writer) flush() {
	if w.err == nil {
		_, w.err = w.out.Write(w.buf)
	}
	w.buf = w.buf[:0]
}

// probe is the content for -bv: no message, but something to write a report about.
func (w *writer) probe(sender string, rcpts []string) {
	w.record(queue.TypeNorm, []byte("From: "+sender))
	w.record(queue.TypeNorm, []byte("Subject: probe"))
	w.record(queue.TypeCont, []byte("To:"))
	for i, r := range rcpts {
		comma := ","
		if i == len(rcpts)-1 {
			comma = ""
		}
		w.record(queue.TypeNorm, []byte("\t"+r+comma))
	}
}

// content copies the message, up to its end or a lone dot.
func (s *call) content(w *writer) error {
	in := bufio.NewReaderSize(s.c.Stdin, 64<<10)
	h := &header{w: w, done: !s.extract}
	stripCR := s.conf.String("sendmail_fix_line_endings")
	mailbox := true // lines that begin a message in a mailbox file may come first
	whole := true   // the last record ended its line
	for w.err == nil {
		line, ended, err := readLine(in)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if ended && len(line) > 0 && line[len(line)-1] == '\r' {
			if stripCR == "strict" { // as the first line is, so are they all
				stripCR = "always"
			}
			if stripCR == "always" {
				line = line[:len(line)-1]
			}
		} else if ended && stripCR == "strict" {
			stripCR = "never"
		}
		if mailbox && whole && ended {
			if bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From ")) {
				continue
			}
			mailbox = false
		}
		if !s.keepDots && whole && ended && len(line) == 1 && line[0] == '.' {
			break
		}
		h.line(line, ended, whole)
		whole = ended
	}
	h.end()
	return nil
}

// readLine returns a line without its end, or a part of one that is longer than a
// record.
func readLine(in *bufio.Reader) (line []byte, ended bool, err error) {
	peek, err := in.Peek(queue.LineLimit + 1)
	if len(peek) == 0 {
		return nil, false, err
	}
	if i := bytes.IndexByte(peek, '\n'); i >= 0 {
		_, _ = in.Discard(i + 1)
		return peek[:i], true, nil
	}
	n := min(len(peek), queue.LineLimit)
	_, _ = in.Discard(n)
	return peek[:n], false, nil
}

// header passes lines on and, where -t asks for it, collects the recipients that
// the header names: of Resent- fields only, if there are any (RFC 5322, section
// 3.6.6 puts these first for who sends a message on).
type header struct {
	w        *writer
	done     bool
	field    []byte // the current field, lines joined
	resent   bool
	to, reto []string
}

// maxField bounds what is collected of one field.
const maxField = 1 << 20

func (h *header) line(line []byte, ended, whole bool) {
	if !h.done {
		switch {
		case !whole || len(line) > 0 && (line[0] == ' ' || line[0] == '\t') && len(h.field) > 0:
			if whole {
				h.field = append(h.field, '\n')
			}
			if len(h.field) < maxField {
				h.field = append(h.field, line...)
			}
		case isHeader(line):
			h.flush()
			h.field = append(h.field[:0], line...)
		default:
			h.end()
			if len(line) > 0 {
				h.w.record(queue.TypeNorm, nil)
			}
		}
	}
	t := queue.TypeNorm
	if !ended {
		t = queue.TypeCont
	}
	h.w.record(t, line)
}

// end ends the header.
func (h *header) end() {
	if h.done {
		return
	}
	h.flush()
	h.done = true
	h.w.rcpts = h.to
	if h.resent {
		h.w.rcpts = h.reto
	}
}

func (h *header) flush() {
	name, value, ok := bytes.Cut(h.field, []byte(":"))
	h.field = h.field[:0]
	if !ok {
		return
	}
	field := strings.ToLower(strings.TrimRight(string(name), " \t"))
	base, resent := strings.CutPrefix(field, "resent-")
	h.resent = h.resent || resent
	switch base {
	case "to", "cc", "bcc":
	case "apparently-to":
		if resent {
			return
		}
	default:
		return
	}
	for _, f := range cleanup.Addresses(string(value)) {
		if resent {
			h.reto = append(h.reto, f.Address.String())
		} else {
			h.to = append(h.to, f.Address.String())
		}
	}
}

func isHeader(line []byte) bool {
	i := 0
	for i < len(line) && line[i] > ' ' && line[i] < 127 && line[i] != ':' {
		i++
	}
	return i > 0 && bytes.HasPrefix(bytes.TrimLeft(line[i:], " \t"), []byte(":"))
}
