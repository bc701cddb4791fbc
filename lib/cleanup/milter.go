package cleanup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/checks"
	"angarium/lib/dsn"
	"angarium/lib/milter"
)

// Milters are the filters that see a letter before it is ours: those of the SMTP
// session, which have heard of the envelope already, or nil.
type Milters struct {
	Session *milter.Session
	Lookup  milter.Lookup // macros that the session knows; "i" is known here
}

// spool keeps content until the filters have seen it: in memory while it is small,
// else in a file of the queue's disk that has no name any more.
type spool struct {
	dir  string
	buf  bytes.Buffer
	file *os.File
	size int64
}

const spoolMemory = 256 << 10 // octets

func (s *spool) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	if s.file == nil && s.buf.Len()+len(p) <= spoolMemory {
		return s.buf.Write(p)
	}
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "milter.")
		if err != nil {
			return 0, err
		}
		_ = os.Remove(f.Name())
		if s.file = f; s.buf.Len() > 0 {
			if _, err := f.Write(s.buf.Bytes()); err != nil {
				return 0, err
			}
			s.buf = bytes.Buffer{}
		}
	}
	return s.file.Write(p)
}

// from reads from an offset on.
func (s *spool) from(at int64) io.Reader {
	if s.file != nil {
		return io.NewSectionReader(s.file, at, s.size-at)
	}
	return bytes.NewReader(s.buf.Bytes()[min(at, s.size):])
}

func (s *spool) close() {
	if s.file != nil {
		s.file.Close()
	}
}

// letter is a spooled letter as filters see and change it.
type letter struct {
	d       *Draft
	headers []string // with continuation lines, LF at the end
	old     *spool
	body    int64 // where the body begins in old, its empty line included
	fresh   *spool
}

// readLetter parts the headers from the body.
func readLetter(d *Draft, s *spool) (*letter, error) {
	l := &letter{d: d, old: s}
	r := bufio.NewReader(s.from(0))
	for {
		line, err := r.ReadString('\n')
		if err != nil && err != io.EOF {
			return nil, err
		}
		text := strings.TrimSuffix(line, "\n")
		if text == "" {
			return l, nil
		}
		if (text[0] == ' ' || text[0] == '\t') && len(l.headers) > 0 {
			l.headers[len(l.headers)-1] += line
		} else if checks.NameLen(text) > 0 {
			l.headers = append(l.headers, line)
		} else {
			return l, nil
		}
		l.body += int64(len(line))
	}
}

// content is the body with its empty line.
func (l *letter) content() io.Reader {
	if l.fresh != nil {
		return io.MultiReader(strings.NewReader("\n"), l.fresh.from(0))
	}
	return l.old.from(l.body)
}

// Each: see milter.Content. Our own header on top is not shown, nor the empty line.
func (l *letter) Each(header func(name, value string) error, eoh func() error, body func([]byte) error) error {
	for i, h := range l.headers {
		if i == 0 {
			continue
		}
		n := checks.NameLen(h)
		value := strings.TrimSuffix(h[strings.IndexByte(h, ':')+1:], "\n")
		if err := header(h[:n], value); err != nil {
			return err
		}
	}
	if err := eoh(); err != nil {
		return err
	}
	r := bufio.NewReader(l.content())
	if c, err := r.ReadByte(); err == nil && c != '\n' {
		_ = r.UnreadByte()
	}
	for {
		part, err := r.ReadSlice('\n')
		if n := len(part); n > 0 && part[n-1] == '\n' {
			part = append(part[:n-1:n-1], '\r', '\n')
		}
		if len(part) > 0 {
			if err := body(part); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// made is a header of a filter's: one blank where it has none.
func made(name, value string) string {
	if !strings.HasPrefix(value, " ") && !strings.HasPrefix(value, "\t") {
		value = " " + value
	}
	return name + ":" + strings.ReplaceAll(value, "\r", "") + "\n"
}

func (l *letter) AddHeader(name, value string) error {
	if h, ok := l.judged(made(name, value)); ok {
		l.headers = append(l.headers, h)
	}
	return nil
}

func (l *letter) InsertHeader(index int, name, value string) error {
	if h, ok := l.judged(made(name, value)); ok {
		l.headers = slices.Insert(l.headers, min(index, len(l.headers)), h)
	}
	return nil
}

func (l *letter) ChangeHeader(index int, name, value string) error {
	for i, n := 1, 0; i < len(l.headers); i++ {
		if !strings.EqualFold(l.headers[i][:checks.NameLen(l.headers[i])], name) {
			continue
		}
		if n++; n < index {
			continue
		}
		if value == "" {
			l.headers = slices.Delete(l.headers, i, i+1)
		} else if h, ok := l.judged(made(name, value)); ok {
			l.headers[i] = h
		}
		return nil
	}
	if value != "" {
		return l.AddHeader(name, value)
	}
	return nil
}

// judged asks milter_header_checks about a header that a filter makes.
func (l *letter) judged(h string) (string, bool) {
	d := l.d
	if d.c.c.MilterChecks.Header == nil {
		return h, true
	}
	text := strings.TrimSuffix(h, "\n")
	a, err := d.c.c.MilterChecks.ForHeader(d.ctx, checks.Primary, text, d.warnf)
	if err != nil {
		_ = d.lookupFailed(err)
		return h, true
	}
	if a.Verb == checks.Dunno || a.Verb == checks.Prepend {
		return h, true
	}
	out, keep := d.act(a, "milter-header", []byte(text))
	return string(out) + "\n", keep
}

func (l *letter) ReplaceBody(piece []byte) error {
	if l.fresh == nil {
		l.fresh = &spool{dir: l.d.c.spoolDir()}
	}
	_, err := l.fresh.Write(bytes.ReplaceAll(piece, []byte("\r\n"), []byte("\n")))
	return err
}

func parseMilter(addr string) address.Address {
	text := strings.TrimSpace(addr)
	text = strings.TrimSuffix(strings.TrimPrefix(text, "<"), ">")
	a, err := address.ParseQuoted(text)
	if err != nil {
		return address.Parse(text)
	}
	return a
}

func (l *letter) AddRecipient(addr, _ string) error {
	return l.d.recipient(l.d.ctx, agent.Recipient{Address: parseMilter(addr)}, true)
}

// DeleteRecipient takes away what a recipient was expanded to, too.
func (l *letter) DeleteRecipient(addr string) error {
	a := l.d.c.complete(parseMilter(addr), true).String()
	l.d.rcpts = slices.DeleteFunc(l.d.rcpts, func(r agent.Recipient) bool {
		return strings.EqualFold(l.d.c.complete(r.Original, true).String(), a) || strings.EqualFold(r.Address.String(), a)
	})
	return nil
}

func (l *letter) ChangeFrom(addr, _ string) error {
	a := l.d.c.complete(parseMilter(addr), true)
	l.d.env.Sender = a
	return l.d.q.SetSender(a)
}

func (c *Cleanup) spoolDir() string { return c.q.Path() + "/incoming" }

// filterLetter gives the spooled letter to the filters and then writes it, changed as
// they wish, into the queue file.
func (d *Draft) filterLetter(ctx context.Context) error {
	s := d.spool
	defer s.close()
	l, err := readLetter(d, s)
	if err != nil {
		return d.failed(err)
	}
	d.spool = nil
	if d.refused == nil && !d.discard {
		m, v := d.milters, milter.Verdict{}
		event := "END-OF-MESSAGE"
		if m.Session == nil {
			m.Session = d.c.c.Milters.Begin()
			defer m.Session.Close()
			event, v = d.emulate(ctx, m.Session)
		}
		if v.Kind == milter.Hold {
			d.milterSaid(v, event)
			v = milter.Verdict{}
		}
		if v.Kind == milter.Pass {
			event = "END-OF-MESSAGE"
			v = m.Session.Message(l, l, d.macros, d.macros)
		}
		d.milterSaid(v, event)
	}
	if l.fresh != nil {
		defer l.fresh.close()
	}
	if d.refused != nil || d.discard || d.err != nil {
		return d.err
	}
	list := d.rcpts
	d.milters = nil
	for _, r := range list {
		if err := d.q.Recipient(r); err != nil {
			return d.failed(err)
		}
	}
	for _, h := range l.headers {
		if err := d.put(h); err != nil {
			return err
		}
	}
	if _, err := io.Copy(d.q, l.content()); err != nil {
		return d.failed(err)
	}
	return nil
}

// emulate tells the filters of mail that no client brought what they would have heard.
func (d *Draft) emulate(ctx context.Context, s *milter.Session) (string, milter.Verdict) {
	v := s.Connect(ctx, milter.Client{Name: "localhost", Addr: "127.0.0.1"}, d.macros)
	if v.Kind == milter.Pass {
		v = s.Helo(d.c.c.Hostname, d.macros)
	}
	if v.Kind != milter.Pass {
		return "CONNECT", v
	}
	if v = s.Mail([]string{"<" + d.env.Sender.Quoted() + ">"}, d.macros); v.Kind != milter.Pass {
		return "MAIL", v
	}
	for _, r := range d.rcpts {
		if v = s.Rcpt([]string{"<" + r.Address.Quoted() + ">"}, d.macros); v.Kind != milter.Pass {
			if v.Kind == milter.Refuse { // who can't refuse one recipient waits with all
				v.Text = "451 4.7.1 Service unavailable - try again later"
			}
			return "RCPT", v
		}
	}
	return "DATA", s.Data(d.macros)
}

// macros adds what is known here to what the session knows.
func (d *Draft) macros(name string) (string, bool) {
	if name == "i" || name == "{i}" {
		return d.q.ID(), true
	}
	if d.milters != nil && d.milters.Lookup != nil {
		return d.milters.Lookup(name)
	}
	switch name {
	case "{mail_addr}":
		return d.env.Sender.Quoted(), true
	case "{client_name}", "{client_ptr}":
		return "localhost", true
	case "{client_addr}":
		return "127.0.0.1", true
	case "_":
		return "localhost [127.0.0.1]", true
	}
	if d.c.c.MilterMacros != nil {
		return d.c.c.MilterMacros(name)
	}
	return "", false
}

// milterSaid carries out a verdict, and logs it.
func (d *Draft) milterSaid(v milter.Verdict, event string) {
	action, text := "milter-reject", ""
	switch v.Kind {
	case milter.Pass:
		return
	case milter.Hold:
		if d.hold {
			return
		}
		d.hold = true
		action, text = "milter-hold", "milter triggers HOLD action"
	case milter.Discard:
		d.discard = true
		action, text = "milter-discard", "milter triggers DISCARD action"
	case milter.Disconnect:
		d.refuse(dsn.New(421, "4.7.0", "Server closing connection"))
		text = "4.7.0 Server closing connection"
	case milter.Refuse:
		e := MilterError(v.Text)
		d.refuse(e)
		text = e.Status() + " " + strings.ReplaceAll(e.Text, "\n", " ")
	}
	c := d.env.LogClient
	if c.Addr == "" {
		c = d.env.Client
	}
	name, addr := c.Name, c.Addr
	if addr == "" {
		name, addr = "localhost", "127.0.0.1"
	}
	line := fmt.Sprintf("%s: %s: %s from %s[%s]: %s; from=<%s>", d.q.ID(), action, event, name, addr, text, d.env.Sender)
	if d.rcpt != "" {
		line += " to=<" + d.rcpt + ">"
	}
	if c.Proto != "" {
		line += " proto=" + c.Proto
	}
	if c.Helo != "" {
		line += " helo=<" + c.Helo + ">"
	}
	d.log.Infof("%s", line)
}

// MilterError is the reply that a filter makes up, "550 5.7.1 text", as an error.
func MilterError(reply string) *dsn.Error {
	code, status := 451, ""
	var lines []string
	for line := range strings.SplitSeq(strings.ReplaceAll(reply, "\r", ""), "\n") {
		if len(line) < 4 {
			continue
		}
		code, _ = strconv.Atoi(line[:3])
		first, rest, _ := strings.Cut(line[4:], " ")
		if _, err := dsn.ParseCode(first); err == nil {
			status = first
		} else {
			rest = line[4:]
		}
		lines = append(lines, rest)
	}
	if status == "" {
		status = strconv.Itoa(code/100) + ".7.1"
	}
	return dsn.New(code, status, "%s", strings.Join(lines, "\n"))
}
