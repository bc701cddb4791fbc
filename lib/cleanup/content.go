package cleanup

import (
	"bytes"
	"io"
	"strings"

	"angarium/lib/checks"
	"angarium/lib/dsn"
	"angarium/lib/maillog"
	"angarium/lib/queue"
)

// Write takes content with LF line ends. Headers are looked at one by one; the body
// passes through as it comes where no setting wants to see its lines.
func (d *Draft) Write(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	d.size += int64(len(p) + bytes.Count(p, []byte{'\n'}))
	if d.c.c.SizeLimit > 0 && d.size > d.c.c.SizeLimit {
		d.log.Warnf("%s: queue file size limit exceeded", d.q.ID())
		d.err = dsn.New(552, "5.3.4", "Error: message file too big")
		return 0, d.err
	}
	for rest := p; len(rest) > 0; {
		if len(d.line) == 0 && d.passes() {
			if d.refused != nil || d.discard {
				break
			}
			if _, err := d.out().Write(rest); err != nil {
				return 0, d.failed(err)
			}
			break
		}
		n, err := d.takeLine(rest)
		if err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// passes reports whether nobody wants to see the lines to come.
func (d *Draft) passes() bool {
	c := &d.c.c
	return d.scan.Plain() && (c.Checks.Body == nil || d.judged) && c.StripChars == "" && (c.RejectChars == "" || d.judged) && !d.first
}

// takeLine takes a line off p, or a piece of one, and tells how much that is.
func (d *Draft) takeLine(p []byte) (n int, err error) {
	i := bytes.IndexByte(p, '\n')
	if i >= 0 && len(d.line) == 0 && i < checks.LineLimit {
		return i + 1, d.lineOf(p[:i], true)
	}
	n = len(p)
	if i >= 0 {
		n = i
	}
	n = min(n, checks.LineLimit-len(d.line))
	d.line = append(d.line, p[:n]...)
	whole := n == i && len(d.line) < checks.LineLimit
	switch {
	case whole:
		n++
	case len(d.line) < checks.LineLimit:
		return n, nil
	}
	err = d.lineOf(d.line, whole)
	d.line = d.line[:0]
	return n, err
}

// lineOf passes a line, or a piece of one, to the scanner.
func (d *Draft) lineOf(text []byte, whole bool) error {
	h := (*handler)(d)
	if d.first {
		if isMailboxLine(text) {
			text = append([]byte("X-Mailbox-Line: "), text...)
		} else if d.first = false; len(text) > 0 && (text[0] == ' ' || text[0] == '\t') {
			// It does not go on with the header that we wrote above it.
			if err := d.scan.Line(nil, true, h); err != nil {
				return err
			}
		}
	}
	c := &d.c.c
	if c.RejectChars != "" && !d.judged && containsAny(text, c.RejectChars) {
		d.reject("content", text, "5.7.1", "disallowed character")
		return nil
	}
	if c.StripChars != "" && containsAny(text, c.StripChars) {
		d.stripped = d.stripped[:0]
		for _, b := range text {
			if strings.IndexByte(c.StripChars, b) < 0 {
				d.stripped = append(d.stripped, b)
			}
		}
		text = d.stripped
	}
	return d.scan.Line(text, whole, h)
}

// Trace writes headers that the caller puts on top of a letter from the network,
// before any other Write. The letter's own first line is then looked at for itself:
// it can't continue the header above it, and a line of a mailbox file ("From x",
// maybe with > before it) is made a header.
func (d *Draft) Trace(headers []byte) error {
	_, err := d.Write(headers)
	d.first = true
	return err
}

func isMailboxLine(line []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From "))
}

// endOfInput ends the content.
func (d *Draft) endOfInput() {
	if len(d.line) > 0 {
		if err := d.lineOf(d.line, true); err != nil {
			return
		}
		d.line = nil
	}
	if d.scan.End((*handler)(d)) != nil || d.err != nil {
		return
	}
	if f := d.scan.Faults(); f != 0 {
		d.refuse(dsn.New(550, "5.6.0", "%s", f))
	}
}

// refuse keeps the first reason why the letter will not be taken; more of it is
// read, and not kept.
func (d *Draft) refuse(e *dsn.Error) {
	if d.refused == nil {
		d.refused = e
	}
}

// out is where content goes: into the queue file, or first to the filters.
func (d *Draft) out() io.Writer {
	if d.spool != nil {
		return d.spool
	}
	return d.q
}

func (d *Draft) put(s string) error {
	if d.err != nil || d.refused != nil || d.discard || s == "" {
		return d.err
	}
	if _, err := d.out().Write([]byte(s)); err != nil {
		return d.failed(err)
	}
	return nil
}

// handler is the Draft as the scanner sees it.
type handler Draft

func (h *handler) Header(class checks.Class, header []byte) error {
	d := (*Draft)(h)
	if d.err != nil {
		return d.err
	}
	if d.c.c.Checks.Headers() && !d.judged {
		key := normal(header)
		act, err := d.c.c.Checks.ForHeader(d.ctx, class, key, d.warnf)
		if err != nil {
			return d.lookupFailed(err)
		}
		if act.Verb != checks.Dunno {
			instead, keep := d.act(act, "header", []byte(key))
			if !keep {
				return d.err
			}
			if act.Verb == checks.Replace {
				header = instead
			}
			if act.Verb == checks.Replace && checks.IsMIME(string(header[:checks.NameLen(header)])) {
				class = checks.Multipart
			}
		}
	}
	return d.header(class, header)
}

// normal is a header as tables know it: without blanks before the colon.
func normal(header []byte) string {
	n := checks.NameLen(header)
	return string(header[:n]) + strings.TrimLeft(string(header[n:]), " \t")
}

func (h *handler) EndHeader() error { return (*Draft)(h).endHeader() }

func (h *handler) Body(line []byte, whole bool, offset int64) error {
	d := (*Draft)(h)
	if d.err != nil {
		return d.err
	}
	if d.c.c.Checks.Body != nil && !d.judged {
		act, err := d.c.c.Checks.ForBody(d.ctx, line, offset, d.warnf)
		if err != nil {
			return d.lookupFailed(err)
		}
		if act.Verb != checks.Dunno {
			var keep bool
			if line, keep = d.act(act, "body", line); !keep {
				return d.err
			}
		}
	}
	if d.refused != nil || d.discard {
		return nil
	}
	if _, err := d.out().Write(line); err != nil {
		return d.failed(err)
	}
	if whole {
		return d.put("\n")
	}
	return nil
}

func (h *handler) Fault(f checks.Fault, text string) {
	d := (*Draft)(h)
	d.log.Infof("%s: reject: mime-error %s: %s from %s; from=<%s> to=<%s>", d.q.ID(), f, clip(text, 100), d.origin(), d.env.Sender, d.rcpt)
}

func (d *Draft) warnf(format string, args ...any) { d.log.Warnf(format, args...) }

// lookupFailed is the answer when one of the checks' tables could not be asked.
func (d *Draft) lookupFailed(err error) error {
	d.log.Warnf("%s: %v", d.q.ID(), err)
	e := dsn.New(451, "4.3.0", "Error: queue file write error")
	e.Err = err
	d.refuse(e)
	return nil
}

// clip makes text of strangers fit for the log: at most n octets.
func clip(s string, n int) string { return maillog.Printable(s[:min(len(s), n)]) }

// origin is the client as the log shows it; "local" where there is none.
func (d *Draft) origin() string {
	c := d.env.LogClient
	if c.Addr == "" {
		c = d.env.Client
	}
	if c.Addr == "" {
		return "local"
	}
	return c.Name + "[" + c.Addr + "]"
}

// actLog writes a line about a check; see features L12.
func (d *Draft) actLog(action, what string, content []byte, text string) {
	c := d.env.LogClient
	if c.Addr == "" {
		c = d.env.Client
	}
	var b strings.Builder
	b.WriteString(d.q.ID() + ": " + action + ": " + what + " " + clip(string(content), 200) + " from " + d.origin() + "; from=<" + d.env.Sender.String() + ">")
	if d.rcpt != "" {
		b.WriteString(" to=<" + d.rcpt + ">")
	}
	if c.Proto != "" {
		b.WriteString(" proto=" + c.Proto)
	}
	if c.Helo != "" {
		b.WriteString(" helo=<" + c.Helo + ">")
	}
	if text != "" {
		b.WriteString(": " + maillog.Printable(text))
	}
	d.log.Infof("%s", b.String())
}

// reject refuses the letter: text may begin with a status code, else status counts.
func (d *Draft) reject(what string, content []byte, status, text string) {
	if code, rest, ok := strings.Cut(text, " "); ok {
		if _, err := dsn.ParseCode(code); err == nil {
			status, text = code, strings.TrimLeft(rest, " \t")
		}
	}
	if status[0] != '4' && status[0] != '5' {
		d.log.Warnf("bad DSN action in %s %s -- need 4.x.x or 5.x.x", status, text)
		status = "4" + status[1:]
	}
	reply := 550
	if status[0] == '4' {
		reply = 451
	}
	d.judged = true
	d.refuse(dsn.New(reply, status, "%s", text))
	d.actLog("reject", what, content, status+" "+text)
}

// act carries out what a table said about a header or a body line. It returns what
// is to stand there instead; keep is false where nothing is.
func (d *Draft) act(a checks.Action, what string, content []byte) (_ []byte, keep bool) {
	log := func() { d.actLog(strings.ToLower(string(a.Verb)), what, content, a.Text) }
	switch a.Verb {
	case checks.Ignore:
		return nil, false
	case checks.Strip:
		log()
		return nil, false
	case checks.Reject:
		text := a.Text
		if text == "" {
			text = "message content rejected"
		}
		d.reject(what, content, "5.7.1", text)
	case checks.Warn:
		d.actLog("warning", what, content, a.Text)
	case checks.Info:
		log()
	case checks.Pass:
		log()
		d.judged = true
	case checks.Filter:
		d.filter = a.Text
		log()
	case checks.Discard:
		log()
		d.discard, d.judged = true, true
	case checks.Hold:
		if !d.hold && !d.discard {
			log()
			d.hold = true
		}
	case checks.Redirect:
		log()
		d.redir, d.judged = a.Text, true
	case checks.BCC:
		log()
		d.bccs = append(d.bccs, a.Text)
	case checks.Prepend:
		log()
		_ = d.put(a.Text + "\n") // Header and Body look at d.err
	case checks.Replace:
		log()
		return []byte(a.Text), true
	}
	return content, d.err == nil
}

// header does what is to be done for one header, and writes it.
func (d *Draft) header(class checks.Class, h []byte) error {
	colon := bytes.IndexByte(h, ':')
	name := strings.ToLower(strings.TrimRight(string(h[:colon]), " \t"))
	if name == "content-transfer-encoding" {
		switch strings.ToLower(strings.TrimSpace(string(h[colon+1:]))) {
		case "8bit", "binary":
			d.env.Encoding = "8bit"
		}
	}
	if class == checks.Primary {
		d.note(name, h[colon+1:])
		if !d.env.Plain && d.c.drop[name] {
			return d.err
		}
	}
	if checks.EightBit(h) {
		d.sendOpt(queue.UTF8Header)
	}
	if class == checks.Primary {
		if kind := addressHeader(name); kind != notAddresses && !d.env.Plain && d.rewrites() {
			return d.rewriteHeader(h, colon+1, kind)
		}
	}
	if d.refused != nil || d.discard {
		return nil
	}
	if _, err := d.out().Write(h); err != nil {
		return d.failed(err)
	}
	return d.put("\n")
}

// containsAny looks for octets; bytes.ContainsAny would look for characters.
func containsAny(text []byte, octets string) bool {
	for i := 0; i < len(octets); i++ {
		if bytes.IndexByte(text, octets[i]) >= 0 {
			return true
		}
	}
	return false
}
