package smtp

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"angarium/lib/agent"
	"angarium/lib/dsn"
)

// Send transfers a message, pipelined where the server allows, and answers for
// each recipient, in order.
//
// A transaction that an earlier Send left open is ended with RSET before.
func (c *Client) Send(ctx context.Context, m *Message) []Answer {
	t := &transfer{c: c, m: m, answers: make([]Answer, len(m.Recipients))}
	defer c.watch(ctx)()
	var err error
	if c.open {
		err = c.Reset(ctx)
	}
	if err == nil {
		err = t.run(ctx)
		c.sent++
	}
	if err != nil {
		for i := range t.answers {
			if a := &t.answers[i]; a.Err == nil && a.Reply == "" {
				a.Err = err
			}
		}
	}
	return t.answers
}

// transfer is one message under way.
type transfer struct {
	c        *Client
	m        *Message
	answers  []Answer
	accepted []int // recipients that the server took at RCPT
}

// maxGroup is how many bytes of commands are sent before answers are read: more
// could block both sides (RFC 2920, 3.1 talks of the TCP window).
const maxGroup = 8 << 10

// run returns an error that is everybody's who has no answer of his own.
func (t *transfer) run(ctx context.Context) error {
	c := t.c
	mail, err := t.mailCommand()
	if err != nil {
		return err
	}
	if err := t.forward(ctx); err != nil {
		return err
	}
	if t.m.Probe {
		return t.stepwise(ctx, mail, false)
	}
	_, pipelining := c.ext["PIPELINING"]
	chunking := false
	if t.m.Chunking {
		_, chunking = c.ext["CHUNKING"]
	}
	if pipelining {
		return t.pipelined(ctx, mail, chunking)
	}
	return t.stepwise(ctx, mail, chunking)
}

// XForward is what the server may log of the client that a message came from. ""
// is unknown, and not told.
type XForward struct{ Name, Addr, Port, Proto, Helo, Ident, Source string }

// forward says XFORWARD, in two lines as smtp(8) does. A server that does not like
// it gets the message all the same.
func (t *transfer) forward(ctx context.Context) error {
	params, ok := t.c.ext["XFORWARD"]
	if !ok || t.m.XForward == nil {
		return nil
	}
	x, known := t.m.XForward, strings.Fields(strings.ToUpper(params))
	for _, line := range []struct {
		what, doing string
		attrs       [][2]string
	}{
		{"XFORWARD name/address command", "sending XFORWARD name/address", [][2]string{{"NAME", x.Name}, {"ADDR", x.Addr}, {"PORT", x.Port}}},
		{"XFORWARD helo/protocol command", "sending XFORWARD protocol/helo_name", [][2]string{{"PROTO", x.Proto}, {"HELO", x.Helo}, {"IDENT", x.Ident}, {"SOURCE", x.Source}}},
	} {
		cmd := "XFORWARD"
		for _, a := range line.attrs {
			if a[1] != "" && slices.Contains(known, a[0]) {
				cmd += " " + a[0] + "=" + xtext(a[1])
			}
		}
		if cmd == "XFORWARD" {
			continue
		}
		r, err := t.c.step(ctx, t.c.o.XForwardTimeout, fiveMinutes, cmd, line.doing)
		if err != nil {
			return err
		}
		if r.code/100 != 2 && t.m.Warn != nil {
			t.m.Warn(r.String(), line.what)
		}
	}
	return nil
}

// mailCommand makes MAIL with what the server understands.
func (t *transfer) mailCommand() (string, error) {
	c, m := t.c, t.m
	var b strings.Builder
	b.WriteString("MAIL FROM:<" + m.From.Quoted() + ">")
	if limit, ok := c.ext["SIZE"]; ok {
		n, err := strconv.ParseInt(limit, 10, 64)
		if err == nil && n > 0 && m.Size > n {
			return "", dsn.New(552, "5.3.4", "message size %d exceeds size limit %d of server %s", m.Size, n, c.o.Host)
		}
		if m.Size > 0 && n > 0 {
			b.WriteString(" SIZE=" + strconv.FormatInt(m.Size, 10))
		}
	}
	if _, ok := c.ext["8BITMIME"]; ok && m.Body != "" {
		b.WriteString(" BODY=" + m.Body)
	}
	if _, ok := c.ext["SMTPUTF8"]; ok && m.SMTPUTF8 {
		b.WriteString(" SMTPUTF8")
	}
	if _, ok := c.ext["DSN"]; ok {
		if m.EnvID != "" {
			b.WriteString(" ENVID=" + xtext(m.EnvID))
		}
		if m.Ret != "" {
			b.WriteString(" RET=" + m.Ret)
		}
	}
	return b.String(), nil
}

// rcptCommand makes RCPT.
func (t *transfer) rcptCommand(e *Envelope) string {
	cmd := "RCPT TO:<" + e.To.Quoted() + ">"
	if _, ok := t.c.ext["DSN"]; !ok {
		return cmd
	}
	if e.ORCPT != "" {
		if kind, addr, ok := strings.Cut(e.ORCPT, ";"); ok {
			if strings.EqualFold(kind, "utf-8") {
				cmd += " ORCPT=" + kind + ";" + uxtext(addr)
			} else {
				cmd += " ORCPT=" + kind + ";" + xtext(addr)
			}
		}
	}
	if e.Notify != 0 {
		cmd += " NOTIFY=" + notifyWords(e.Notify)
	}
	return cmd
}

func notifyWords(n agent.Notify) string {
	if n&agent.NotifyNever != 0 {
		return "NEVER"
	}
	var words []string
	for _, w := range []struct {
		bit  agent.Notify
		word string
	}{{agent.NotifySuccess, "SUCCESS"}, {agent.NotifyFailure, "FAILURE"}, {agent.NotifyDelay, "DELAY"}} {
		if n&w.bit != 0 {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, ",")
}

const (
	sendingMail  = "sending MAIL FROM"
	sendingRcpt  = "sending RCPT TO"
	sendingData  = "sending DATA command"
	sendingBody  = "sending message body"
	sendingDot   = "sending end of data -- message may be sent more than once"
	mailPhase    = "MAIL FROM command"
	rcptPhase    = "RCPT TO command"
	dataPhase    = "DATA command"
	endPhase     = "end of DATA command"
	bdatPhase    = "BDAT command"
	fiveMinutes  = 300 * time.Second
	defaultInit  = 120 * time.Second
	defaultXfer  = 180 * time.Second
	defaultDone  = 600 * time.Second
	bodyBuffer   = 32 << 10
	normalLength = 998
)

// stepwise waits for each answer.
func (t *transfer) stepwise(ctx context.Context, mail string, chunking bool) error {
	c := t.c
	r, err := c.step(ctx, c.o.MailTimeout, fiveMinutes, mail, sendingMail)
	if err != nil {
		return err
	}
	if r.code/100 != 2 {
		return c.fail(r, mailPhase)
	}
	c.open = true
	for i := range t.m.Recipients {
		r, err := c.step(ctx, c.o.RcptTimeout, fiveMinutes, t.rcptCommand(&t.m.Recipients[i]), sendingRcpt)
		if err != nil {
			return err
		}
		t.rcptReply(i, r)
	}
	if len(t.accepted) == 0 || t.m.Probe {
		return nil
	}
	if chunking {
		return t.chunks(ctx)
	}
	if r, err = c.step(ctx, c.o.DataInitTimeout, defaultInit, "DATA", sendingData); err != nil {
		return err
	}
	if r.code != 354 {
		return c.fail(r, dataPhase)
	}
	return t.content(ctx)
}

// rcptReply notes the answer for one recipient.
func (t *transfer) rcptReply(i int, r *reply) {
	if r.code/100 == 2 {
		t.accepted = append(t.accepted, i)
		if t.m.Probe {
			t.answers[i].Reply = r.String()
		}
		return
	}
	t.answers[i] = Answer{Err: t.c.fail(r, rcptPhase), Reply: r.String()}
}

// pipelined sends MAIL, all RCPT and DATA in groups, RFC 2920.
func (t *transfer) pipelined(ctx context.Context, mail string, chunking bool) error {
	c := t.c
	c.out = append(append(c.out[:0], mail...), '\r', '\n')
	rcpts := t.m.Recipients
	sent, read := 0, 0
	var refused *dsn.Error // MAIL was not taken
	asked := false         // DATA is on its way
	for first := true; ; first = false {
		for sent < len(rcpts) && len(c.out) < maxGroup {
			c.out = append(append(c.out, t.rcptCommand(&rcpts[sent])...), '\r', '\n')
			sent++
		}
		if sent == len(rcpts) && !chunking && len(c.out) < maxGroup {
			c.out = append(c.out, "DATA\r\n"...)
			asked = true
		}
		c.deadline(ctx, c.o.MailTimeout, fiveMinutes)
		if _, err := c.conn.Write(c.out); err != nil {
			return c.lost(ctx, err, sendingMail)
		}
		c.out = c.out[:0]
		if first {
			r, err := c.read()
			if err != nil {
				return c.lost(ctx, err, sendingMail)
			}
			if r.code/100 != 2 {
				refused = c.fail(r, mailPhase)
			} else {
				c.open = true
			}
		}
		for ; read < sent; read++ {
			c.deadline(ctx, c.o.RcptTimeout, fiveMinutes)
			r, err := c.read()
			switch {
			case err != nil && refused != nil:
				c.broken = true
				return refused
			case err != nil:
				return c.lost(ctx, err, sendingRcpt)
			case refused == nil:
				t.rcptReply(read, r)
			}
		}
		if read == len(rcpts) && (asked || chunking || refused != nil) {
			break
		}
	}
	if chunking {
		if refused != nil {
			return refused
		}
		if len(t.accepted) == 0 {
			return nil
		}
		return t.chunks(ctx)
	}
	return t.dataReply(ctx, refused, asked)
}

// dataReply reads the answer to a pipelined DATA.
func (t *transfer) dataReply(ctx context.Context, refused *dsn.Error, asked bool) error {
	c := t.c
	if !asked {
		return refused
	}
	c.deadline(ctx, c.o.DataInitTimeout, defaultInit)
	r, err := c.read()
	switch {
	case err != nil && refused != nil:
		c.broken = true
		return refused
	case err != nil:
		return c.lost(ctx, err, sendingData)
	case r.code == 354 && (refused != nil || len(t.accepted) == 0):
		// The server wants a message that nobody would get. RFC 2920, 3.1:
		// an empty one, which it must refuse.
		return t.sendNothing(ctx, refused)
	case refused != nil:
		return refused
	case len(t.accepted) == 0:
		return nil
	case r.code != 354:
		return c.fail(r, dataPhase)
	}
	return t.content(ctx)
}

func (t *transfer) sendNothing(ctx context.Context, refused *dsn.Error) error {
	c := t.c
	c.deadline(ctx, c.o.DataDoneTimeout, defaultDone)
	_, err := c.conn.Write([]byte(".\r\n"))
	if err == nil {
		n := 1
		if c.o.LMTP {
			n = len(t.accepted)
		}
		for ; n > 0 && err == nil; n-- {
			_, err = c.read()
		}
	}
	if err != nil {
		c.broken = true
	}
	if refused == nil {
		return nil
	}
	return refused
}

// content sends the message after 354 and takes the last answers.
func (t *transfer) content(ctx context.Context) error {
	c := t.c
	w := newStuffer(&c.o)
	defer w.release()
	defer t.tell(w)
	buf := bodyBuffers.Get().(*[bodyBuffer]byte)
	defer bodyBuffers.Put(buf)
	for {
		n, rerr := t.m.Content.Read(buf[:])
		w.write(buf[:n])
		if rerr != nil && rerr != io.EOF {
			// Half a message must not be delivered: the connection ends
			// without the dot.
			_ = c.Close()
			return &dsn.Error{Code: [3]int{4, 3, 0}, Text: "queue file read error", Err: rerr}
		}
		if rerr == io.EOF {
			w.finish()
		}
		if len(w.out) >= bodyBuffer || rerr == io.EOF {
			c.deadline(ctx, c.o.DataXferTimeout, defaultXfer)
			if _, err := c.conn.Write(w.out); err != nil {
				return c.bodyLost(ctx, err)
			}
			w.out = w.out[:0]
		}
		if rerr == io.EOF {
			break
		}
	}
	return t.finalReplies(ctx, endPhase)
}

// bodyLost looks whether a server that closed while we were sending said why.
func (c *Client) bodyLost(ctx context.Context, err error) error {
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Second))
	if r, rerr := c.read(); rerr == nil && r.code >= 400 {
		c.broken = true
		return c.fail(r, sendingBody)
	}
	return c.lost(ctx, err, sendingBody)
}

// finalReplies reads the answer to the whole message, in LMTP one for each
// recipient that was taken.
func (t *transfer) finalReplies(ctx context.Context, phase string) error {
	c := t.c
	var r *reply
	for n, i := range t.accepted {
		if n == 0 || c.o.LMTP {
			c.deadline(ctx, c.o.DataDoneTimeout, defaultDone)
			var err error
			if r, err = c.read(); err != nil {
				return c.lost(ctx, err, sendingDot)
			}
		}
		t.answers[i] = Answer{Reply: r.String()}
		if r.code/100 != 2 {
			t.answers[i].Err = c.fail(r, phase)
		}
	}
	c.open = false
	return nil
}

// tell says that lines were broken.
func (t *transfer) tell(w *stuffer) {
	if w.broke && t.m.Broke != nil {
		t.m.Broke(w.limit)
	}
}

// chunks sends the message as BDAT, RFC 3030. Line ends become CRLF there, too.
func (t *transfer) chunks(ctx context.Context) error {
	c := t.c
	w := newStuffer(&c.o)
	defer w.release()
	defer t.tell(w)
	w.plain = true
	buf := bodyBuffers.Get().(*[bodyBuffer]byte)
	defer bodyBuffers.Put(buf)
	for {
		n, rerr := t.m.Content.Read(buf[:])
		if rerr != nil && rerr != io.EOF {
			_ = c.Close()
			return &dsn.Error{Code: [3]int{4, 3, 0}, Text: "queue file read error", Err: rerr}
		}
		w.write(buf[:n])
		last := rerr == io.EOF
		if last {
			w.finish()
		}
		if !last && len(w.out) < 4*bodyBuffer {
			continue
		}
		cmd := "BDAT " + strconv.Itoa(len(w.out))
		if last {
			cmd += " LAST"
		}
		c.deadline(ctx, c.o.DataXferTimeout, defaultXfer)
		c.out = append(append(c.out[:0], cmd...), '\r', '\n')
		c.out = append(c.out, w.out...)
		if _, err := c.conn.Write(c.out); err != nil {
			return c.bodyLost(ctx, err)
		}
		w.out = w.out[:0]
		if last {
			return t.finalReplies(ctx, bdatPhase)
		}
		r, err := c.read()
		if err != nil {
			return c.lost(ctx, err, sendingBody)
		}
		if r.code/100 != 2 {
			return c.fail(r, bdatPhase)
		}
	}
}

// stuffer turns LF lines into the wire's form: CRLF, a dot before a dot, and
// lines broken at the limit, the continuation beginning with a blank, as
// smtp(8) does with smtp_line_length_limit.
type stuffer struct {
	out    []byte
	limit  int
	col    int // octets of the current line sent
	plain  bool
	blanks bool // for CR
	inLine bool
	broke  bool // a line was too long
}

// What a letter on its way needs is borrowed: a busy client would otherwise keep
// the garbage collector busy, too.
var (
	bodyBuffers = sync.Pool{New: func() any { return new([bodyBuffer]byte) }}
	stuffers    = sync.Pool{New: func() any { return &stuffer{out: make([]byte, 0, bodyBuffer+bodyBuffer/8)} }}
)

func newStuffer(o *ClientOptions) *stuffer {
	limit := o.LineLimit
	if limit == 0 {
		limit = normalLength
	}
	s := stuffers.Get().(*stuffer)
	*s = stuffer{limit: limit, blanks: o.BlankCR, out: s.out[:0]}
	return s
}

// release ends the use of s; an outgrown buffer is not kept.
func (s *stuffer) release() {
	if cap(s.out) <= 4*bodyBuffer {
		stuffers.Put(s)
	}
}

func (s *stuffer) write(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		line := p
		if i >= 0 {
			line = p[:i]
		}
		s.text(line)
		if i < 0 {
			return
		}
		s.newline()
		p = p[i+1:]
	}
}

func (s *stuffer) newline() {
	s.out = append(s.out, '\r', '\n')
	s.inLine, s.col = false, 0
}

func (s *stuffer) text(line []byte) {
	for len(line) > 0 {
		if !s.inLine {
			if line[0] == '.' && !s.plain {
				s.out = append(s.out, '.')
			}
			s.inLine = true
		}
		n := len(line)
		if s.limit > 0 && s.col+n > s.limit {
			n = s.limit - s.col
			if n <= 0 {
				s.out = append(s.out, '\r', '\n', ' ')
				s.col = 1
				s.broke = true
				continue
			}
		}
		s.out = append(s.out, line[:n]...)
		if s.blanks {
			blankCR(s.out[len(s.out)-n:])
		}
		s.col += n
		line = line[n:]
	}
}

func blankCR(b []byte) {
	for i := bytes.IndexByte(b, '\r'); i >= 0; i = bytes.IndexByte(b, '\r') {
		b[i] = ' '
		b = b[i+1:]
	}
}

// finish ends the last line and, in DATA, the message.
func (s *stuffer) finish() {
	if s.inLine {
		s.newline()
	}
	if !s.plain {
		s.out = append(s.out, '.', '\r', '\n')
	}
}
