package smtp

import (
	"bytes"
	"crypto/tls"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"angarium/lib/dsn"
)

// serve is the dialogue, from the greeting to the end.
func (c *Conn) serve(begin func(*Conn) Session) {
	c.where = "CONNECT"
	var state *tls.ConnectionState
	var err error
	if c.srv.TLSWrapper && c.srv.TLS != nil {
		state, err = c.handshake(c.srv.TLS, orDuration(c.srv.TLSTimeout, c.timeout))
		c.tls = state
	}
	c.sess = begin(c)
	c.newlines = c.srv.BareNewline
	if ok := c.srv.BareNewlineOK; ok != nil && c.newlines != AllowNewline && ok(c.remote) {
		c.newlines = AllowNewline
	}
	defer func() {
		c.sess.Reset()
		c.end.After = c.where
		c.sess.End(c.end)
	}()
	if c.srv.TLSWrapper {
		if s, ok := c.sess.(Securer); ok && !s.Secured(c.ctx, state, err).OK() {
			return
		}
		if err != nil {
			c.end = End{Reason: Lost, Err: err}
			return
		}
	}
	if c.greet() == nil {
		_ = c.commands()
	}
	_ = c.flush()
}

// greet sends the banner. A client that talks first is no mail server.
func (c *Conn) greet() error {
	r := c.sess.Connect(c.ctx)
	if early := c.early(); len(early) > 0 && r.OK() {
		c.watched = true
		c.odd(OddPipelining, "CONNECT", string(early))
		if c.srv.ForbidPipelining {
			c.desynchronized()
			return errDesynchronized
		}
	}
	if r.Code == 0 {
		name := " ESMTP"
		if c.srv.LMTP {
			name = " LMTP"
		}
		r = Reply{Code: 220, Text: c.srv.Hostname + name}
	}
	c.denied = !r.OK() && !c.lenient
	c.reply(r)
	return c.flush()
}

// early is what the client has sent before it was greeted, up to 100 octets. Behind
// TLS the first words are the client's.
func (c *Conn) early() []byte {
	if c.srv.TLSWrapper {
		return nil
	}
	conn, ok := c.raw.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	var buf [100]byte
	n := 0
	_ = raw.Read(func(fd uintptr) bool {
		n, _, _ = syscall.Recvfrom(int(fd), buf[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true // whatever came: nobody waits here
	})
	return buf[:max(n, 0)]
}

var errDesynchronized = errors.New("SMTP protocol synchronization")

// desynchronized is smtpd_forbid_unauth_pipelining.
func (c *Conn) desynchronized() {
	c.reply(Reply{554, "5.5.0", "Error: SMTP protocol synchronization"})
	c.closing = true
	c.end.Reason = Pipelined
}

// commands reads and does one command after the other.
func (c *Conn) commands() error {
	limit := min(orInt(c.srv.LineLimit, 2048), bigBuffer/2)
	for !c.closing {
		if c.errors >= orInt(c.srv.HardErrors, 20) {
			c.reply(Reply{421, "4.7.0", c.srv.Hostname + " Error: too many errors"})
			c.end.Reason = TooManyErrors
			return nil
		}
		line := c.pending
		c.pending = nil
		if line == nil {
			var bare, long bool
			var err error
			line, bare, long, err = c.readLine(limit)
			if err != nil {
				return c.lost(err)
			}
			if bare && c.newlines == RejectNewline {
				c.fail(Fail(c.bareNewline(c.where)))
				c.end.Reason = BareNewline
				return nil
			}
			if long {
				c.odd(OddLongLine, "", string(line))
			}
		}
		if !c.do(line) {
			c.errors++
		}
	}
	return nil
}

// lost ends the dialogue because of what reading said.
func (c *Conn) lost(err error) error {
	switch {
	case err == errStopped:
		c.end = End{Reason: Stopped, Err: err}
		c.err = nil
		c.reply(Reply{421, "4.3.2", c.srv.Hostname + " Service shutting down"})
	case isTimeout(err):
		c.end = End{Reason: TimedOut, Err: err}
		c.err = nil
		c.reply(Reply{421, "4.4.2", c.srv.Hostname + " Error: timeout exceeded"})
	default:
		c.end = End{Reason: Lost, Err: err}
	}
	return err
}

// bareNewline is the failure of smtpd_forbid_bare_newline = reject.
func (c *Conn) bareNewline(where string) error {
	c.odd(OddBareNewline, where, "bare <LF> received")
	code := orInt(c.srv.BareNewlineReply, 550)
	return dsn.New(code, "5.5.2", "%s Error: bare <LF> received", c.srv.Hostname)
}

// odd tells the Session what only the log needs.
func (c *Conn) odd(what Oddity, verb, text string) {
	if w, ok := c.sess.(Watcher); ok {
		w.Odd(what, verb, text)
	}
}

// do carries out one line; false: it counts as an error.
func (c *Conn) do(line []byte) bool {
	line = bytes.TrimLeft(line, " \t")
	n := 0
	for n < len(line) && line[n] != ' ' && line[n] != '\t' {
		n++
	}
	if n == 0 {
		return c.fail(Reply{500, "5.5.2", "Error: bad syntax"})
	}
	if !c.srv.NoSMTPUTF8 && !utf8.Valid(line) {
		return c.fail(Reply{500, "5.5.2", "Error: bad UTF-8 syntax"})
	}
	v := c.verb(line[:n])
	if name := verbs[v]; c.srv.LMTP && (name == "HELO" || name == "EHLO") || !c.srv.LMTP && name == "LHLO" {
		v = unknownVerb
	}
	args := string(bytes.Trim(line[n:], " \t"))
	if v == unknownVerb {
		return c.unknown(string(line[:n]), args, line)
	}
	c.where = verbs[v]
	c.counts[v].all++
	ok := c.known(v, args)
	if ok && verbs[v] != "XCLIENT" { // which begins the session anew, and never counts
		c.counts[v].ok++
	}
	return ok
}

// verb finds a command's number; names of any case.
func (c *Conn) verb(name []byte) int {
	for i, v := range verbs[:unknownVerb] {
		if len(name) == len(v) && strings.EqualFold(v, string(name)) {
			return i
		}
	}
	return unknownVerb
}

// unknown is for what the engine does not know: the Session may.
func (c *Conn) unknown(verb, args string, line []byte) bool {
	c.where = "UNKNOWN"
	c.counts[unknownVerb].all++
	forbidden := c.srv.Forbidden
	if forbidden == nil {
		forbidden = nonSMTP
	}
	if forbidden(verb) || isHeader(verb) {
		c.odd(OddNonSMTP, verb, string(line[:min(len(line), 100)]))
		c.reply(Reply{221, "2.7.0", "Error: I can break rules, too. Goodbye."})
		c.closing = true
		return false
	}
	if c.denied {
		return c.deny()
	}
	return c.fail(Reply{500, "5.5.2", "Error: command not recognized"})
}

// nonSMTP is the default of smtpd_forbidden_commands.
func nonSMTP(verb string) bool {
	switch upper(verb) {
	case "CONNECT", "GET", "POST":
		return true
	}
	c := verb[0] | 0x20
	return c < 'a' || c > 'z'
}

// isHeader reports whether a word looks like the start of a message header.
func isHeader(word string) bool {
	i := strings.IndexByte(word, ':')
	return i > 0
}

func (c *Conn) deny() bool {
	name := c.remote.String()
	if n, ok := c.sess.(interface{ ClientName() string }); ok {
		name = n.ClientName()
	}
	return c.fail(Reply{503, "5.7.0", "Error: access denied for " + name})
}

// known carries out a command of the table, after the checks that are the same
// for all.
func (c *Conn) known(v int, args string) bool {
	verb := verbs[v]
	if c.denied && verb != "QUIT" {
		return c.deny()
	}
	if c.srv.TLSRequired && c.tls == nil {
		switch verb {
		case "HELO", "EHLO", "LHLO", "STARTTLS", "NOOP", "QUIT", "XCLIENT":
		default:
			return c.fail(Reply{530, "5.7.0", "Must issue a STARTTLS command first"})
		}
	}
	if c.tooEager(verb) {
		return false
	}
	switch verb {
	case "HELO", "EHLO", "LHLO", "RSET", "NOOP", "VRFY", "ETRN":
		if c.junk > orInt(c.srv.JunkCommands, 100) {
			c.errors++
		}
		c.junk++
	}
	switch verb {
	case "HELO", "EHLO", "LHLO":
		return c.doHelo(verb, args)
	case "MAIL":
		return c.doMail(args)
	case "RCPT":
		return c.doRcpt(args)
	case "DATA":
		return c.doData(args)
	case "BDAT":
		return c.doBdat(args)
	case "RSET":
		return c.doRset(args)
	case "NOOP":
		c.reply(c.words(Reply{250, "2.0.0", "Ok"}))
		return true
	case "VRFY":
		return c.doVrfy(args)
	case "ETRN":
		return c.doEtrn(args)
	case "STARTTLS":
		return c.doStartTLS(args)
	case "AUTH":
		return c.doAuth(args)
	case "QUIT":
		c.reply(c.words(Reply{221, "2.0.0", "Bye"}))
		c.closing = true
		return true
	}
	return c.extend(verb, args)
}

// tooEager notes a client that did not await the answer to a command that must
// be the last of a group (RFC 2920, 3.1), or that pipelines without EHLO.
func (c *Conn) tooEager(verb string) bool {
	if c.r == c.w || c.pending != nil {
		return false
	}
	switch verb {
	case "HELO", "EHLO", "LHLO", "DATA", "NOOP", "VRFY":
	case "QUIT":
		return false
	default:
		if c.extended { // whether or not PIPELINING was offered: the peer looks away
			return false
		}
	}
	if !c.watched {
		c.watched = true
		got := c.buffered()
		c.odd(OddPipelining, verb, string(got[:min(len(got), 100)]))
	}
	if c.srv.ForbidPipelining {
		c.desynchronized()
		return true
	}
	return false
}

// extend lets the Session do XCLIENT and its like.
func (c *Conn) extend(verb, args string) bool {
	if x, ok := c.sess.(Extender); ok {
		if r, known := x.Extend(c.ctx, verb, args); known {
			return c.ok(r, "250", "2.0.0", "Ok")
		}
	}
	return c.fail(Reply{500, "5.5.2", "Error: command not recognized"})
}

// fail answers, and says that it was an error.
func (c *Conn) fail(r Reply) bool {
	c.reply(c.words(r))
	return false
}

// ok answers with r or, if it is zero, with the engine's words. It reports
// whether the answer is positive.
func (c *Conn) ok(r Reply, code, status, text string) bool {
	if r.Code != 0 {
		c.reply(r)
		return r.OK()
	}
	out := c.output()
	*out = append(append(append(append(append(append(*out, code...), ' '), status...), ' '), text...), '\r', '\n')
	c.slowDown()
	return true
}

// reply writes a reply: a line, or several parted by \n.
func (c *Conn) reply(r Reply) {
	last := r.Code == 421 || r.Code == 521
	if f, ok := c.sess.(Footer); ok && r.Code >= 400 {
		r.Text = f.Footer(r)
	}
	if c.srv.SoftBounce {
		r = r.Soft()
	}
	out := c.output()
	for text, more := r.Text, true; more; {
		var line string
		line, text, more = strings.Cut(text, "\n")
		*out = strconv.AppendInt(*out, int64(r.Code), 10)
		if more {
			*out = append(*out, '-')
		} else {
			*out = append(*out, ' ')
		}
		if r.Status != "" {
			*out = append(append(*out, r.Status...), ' ')
		}
		for i := 0; i < len(line); i++ {
			ch := line[i]
			if ch < ' ' || ch == 0x7f {
				ch = '?'
			}
			*out = append(*out, ch)
		}
		*out = append(*out, '\r', '\n')
	}
	if last {
		c.closing = true
	}
	c.slowDown()
}

// slowDown lets a client wait that made many errors: smtpd_error_sleep_time.
func (c *Conn) slowDown() {
	if c.errors < orInt(c.srv.SoftErrors, 10) || c.srv.ErrorSleep <= 0 || c.closing {
		return
	}
	select {
	case <-time.After(c.srv.ErrorSleep):
	case <-c.ctx.Done():
	}
}

// reset ends a transaction.
func (c *Conn) reset() {
	c.sess.Reset()
	c.mail, c.rcpts, c.overshoot, c.bdat = false, 0, 0, bdatNone
}

func (c *Conn) doHelo(verb, args string) bool {
	if args == "" {
		return c.fail(Reply{501, "", "Syntax: " + verb + " hostname"})
	}
	name := Neuter(collapse(args))
	c.reset()
	c.helo, c.extended = name, false
	r := c.sess.Helo(c.ctx, verb, name)
	if r.Code != 0 && !r.OK() {
		c.helo = ""
		return c.fail(r)
	}
	if c.extended = verb != "HELO"; c.extended {
		c.tellDiscarded()
	}
	switch {
	case r.Code != 0:
	case verb == "HELO":
		r = Reply{250, "", c.srv.Hostname}
	default:
		r = Reply{250, "", c.extensions()}
	}
	c.reply(r)
	return true
}

// ehloWords are what smtpd_discard_ehlo_keywords may hold, in the order and with
// the names of Postfix' log.
var ehloWords = [...]string{"8BITMIME", "AUTH", "ETRN", "PIPELINING", "SIZE", "VRFY", "XCLIENT", "XFORWARD", "STARTTLS",
	"ENHANCEDSTATUSCODES", "DSN", "EHLO_MASK_SMTPUTF8", "CHUNKING"}

// tellDiscarded names in the log what is not offered, unless that was asked to be
// silent.
func (c *Conn) tellDiscarded() {
	if c.Discarded("silent-discard") {
		return
	}
	var gone []string
	for _, w := range ehloWords {
		if c.Discarded(strings.ToLower(strings.TrimPrefix(w, "EHLO_MASK_"))) {
			gone = append(gone, w)
		}
	}
	if len(gone) > 0 {
		c.odd(OddDiscarded, "EHLO", strings.Join(gone, " "))
	}
}

// collapse puts one blank between words.
func collapse(s string) string {
	if !strings.ContainsAny(s, " \t") {
		return s
	}
	return strings.Join(strings.Fields(s), " ")
}

// Neuter takes out of a name what would read as something else in a header or a
// log line, as smtpd(8) does.
func Neuter(name string) string {
	bad := func(c byte) bool { return c <= ' ' || c == 0x7f || strings.IndexByte("<>()\\\";@", c) >= 0 }
	for i := 0; i < len(name); i++ {
		if bad(name[i]) {
			b := []byte(name)
			for ; i < len(b); i++ {
				if bad(b[i]) {
					b[i] = '?'
				}
			}
			return string(b)
		}
	}
	return name
}

// extensions is the reply to EHLO, in the order of Postfix 3.7.
func (c *Conn) extensions() string {
	var b strings.Builder
	b.WriteString(c.srv.Hostname)
	put := func(keyword, line string) {
		if !c.Discarded(keyword) {
			b.WriteByte('\n')
			b.WriteString(line)
		}
	}
	put("pipelining", "PIPELINING")
	if c.srv.Size > 0 {
		put("size", "SIZE "+strconv.FormatInt(c.srv.Size, 10))
	} else {
		put("size", "SIZE")
	}
	if !c.srv.DisableVrfy && !c.srv.LMTP {
		put("vrfy", "VRFY")
	}
	if _, ok := c.sess.(Turner); ok {
		put("etrn", "ETRN")
	}
	if c.srv.TLS != nil && c.tls == nil {
		put("starttls", "STARTTLS")
	}
	if a, ok := c.sess.(Authenticator); ok && !c.Discarded("auth") {
		if list := a.Mechanisms(); len(list) > 0 {
			put("auth", "AUTH "+strings.Join(list, " "))
			if c.srv.AuthLegacy {
				put("auth", "AUTH="+strings.Join(list, " "))
			}
		}
	}
	if x, ok := c.sess.(Extender); ok {
		for _, line := range x.Extensions() {
			put("", line)
		}
	}
	put("enhancedstatuscodes", "ENHANCEDSTATUSCODES")
	put("8bitmime", "8BITMIME")
	put("dsn", "DSN")
	if !c.srv.NoSMTPUTF8 {
		put("smtputf8", "SMTPUTF8")
	}
	put("chunking", "CHUNKING")
	return b.String()
}

func (c *Conn) doMail(args string) bool {
	switch {
	case c.srv.HeloRequired && c.helo == "":
		return c.fail(Reply{503, "5.5.1", "Error: send HELO/EHLO first"})
	case c.mail:
		return c.fail(Reply{503, "5.5.1", "Error: nested MAIL command"})
	case c.bdat != bdatNone:
		return c.fail(Reply{503, "5.5.1", "Error: MAIL after BDAT"})
	}
	path, params, ok := cutArg(args, "FROM:")
	if path == "" {
		return c.fail(Reply{501, "5.5.4", "Syntax: MAIL FROM:<address>"})
	}
	m := Mail{Raw: path}
	if ok = ok && !c.bare(path); ok {
		if m.From, ok = parsePath(path, c.srv.StrictRFC821); !ok {
			c.odd(OddAddress, "MAIL", path)
		}
	}
	if !ok {
		return c.fail(Reply{501, "5.1.7", "Bad sender address syntax"})
	}
	if bad := parseMail(&m, params, c.allowed()); bad.Code != 0 {
		return c.fail(bad)
	}
	if c.srv.Size > 0 && m.Size > c.srv.Size {
		r := Reply{552, "5.3.4", "Message size exceeds fixed limit"}
		c.odd(OddTooLarge, "MAIL", r.String()+"; "+m.From.String())
		return c.fail(r)
	}
	r := c.sess.Mail(c.ctx, m)
	c.mail = r.OK()
	return c.ok(r, "250", "2.1.0", "Ok")
}

// cutArg finds path and parameters behind FROM: or TO:. The path is "" if there
// is none, and not ok if it has no end.
func cutArg(args, word string) (path, params string, ok bool) {
	if len(args) < len(word) || !strings.EqualFold(args[:len(word)], word) {
		return "", "", false
	}
	return cutPath(strings.TrimLeft(args[len(word):], " \t"))
}

// bare reports whether an LMTP client left out the angle brackets. SMTP clients
// have always been forgiven that; those of LMTP never did it.
func (c *Conn) bare(path string) bool { return c.srv.LMTP && path[0] != '<' }

// allowed are the extensions that a client may use here.
func (c *Conn) allowed() allowed {
	return allowed{DSN: !c.Discarded("dsn"), UTF8: !c.srv.NoSMTPUTF8 && !c.Discarded("smtputf8")}
}

func (c *Conn) doRcpt(args string) bool {
	switch {
	case !c.mail:
		return c.fail(Reply{503, "5.5.1", "Error: need MAIL command"})
	case c.bdat != bdatNone:
		return c.fail(Reply{503, "5.5.1", "Error: RCPT after BDAT"})
	}
	path, params, ok := cutArg(args, "TO:")
	if path == "" {
		return c.fail(Reply{501, "5.5.4", "Syntax: RCPT TO:<address>"})
	}
	rcpt := Rcpt{Raw: path}
	if ok = ok && !c.bare(path); ok {
		if rcpt.To, ok = parsePath(path, c.srv.StrictRFC821); !ok || rcpt.To.IsNull() {
			c.odd(OddAddress, "RCPT", path)
			ok = false
		}
	}
	if !ok {
		return c.fail(Reply{501, "5.1.3", "Bad recipient address syntax"})
	}
	if bad, notify := parseRcpt(&rcpt, params, c.srv.LMTP, c.allowed()); bad.Code != 0 {
		if notify != "" {
			c.odd(OddNotify, "RCPT", notify)
		}
		return c.fail(bad)
	}
	if c.rcpts >= orInt(c.srv.Recipients, 1000) {
		c.reply(Reply{452, "4.5.3", "Error: too many recipients"})
		c.overshoot++
		return c.overshoot <= orInt(c.srv.Overshoot, 1000)
	}
	r := c.sess.Rcpt(c.ctx, rcpt)
	if r.OK() {
		c.rcpts++
	}
	return c.ok(r, "250", "2.1.5", "Ok")
}

// readyForContent is what DATA and BDAT have in common.
func (c *Conn) readyForContent() Reply {
	switch {
	case c.rcpts > 0:
		return Reply{}
	case !c.mail:
		return Reply{503, "5.5.1", "Error: need RCPT command"}
	}
	return Reply{554, "5.5.1", "Error: no valid recipients"}
}

func (c *Conn) doData(args string) bool {
	if c.bdat != bdatNone {
		return c.fail(Reply{503, "5.5.1", "Error: DATA after BDAT"})
	}
	if r := c.readyForContent(); r.Code != 0 {
		return c.fail(r)
	}
	if args != "" {
		return c.fail(Reply{501, "5.5.4", "Syntax: DATA"})
	}
	if r := c.sess.Data(c.ctx); !r.OK() {
		return c.fail(r)
	}
	c.reply(c.words(Reply{354, "", "End data with <CR><LF>.<CR><LF>"}))
	c.body = body{c: c, chunk: -1}
	c.grow()
	replies := c.sess.Content(c.ctx, &c.body)
	if err := c.body.drain(); err != nil {
		c.where = "DATA (" + strconv.FormatInt(c.body.wire, 10) + " bytes)"
		_ = c.lost(err)
		c.closing = true
		return false
	}
	c.where = "END-OF-MESSAGE"
	return c.delivered(replies)
}

// delivered answers for a message that was read to its end.
func (c *Conn) delivered(replies []Reply) bool {
	if err := c.body.err; err != nil { // whatever the Session made of it
		replies = []Reply{Fail(err)}
	}
	c.body = body{}
	n := 1
	if c.srv.LMTP {
		n = c.rcpts
	}
	good := false
	for i := range n {
		var r Reply
		if len(replies) > 0 {
			r = replies[min(i, len(replies)-1)]
		}
		if c.ok(r, "250", "2.0.0", "Ok") {
			good = true
		}
	}
	c.reset()
	if good {
		c.errors, c.junk = 0, 0
	}
	return good
}

func (c *Conn) doRset(args string) bool {
	if args != "" {
		return c.fail(Reply{501, "5.5.4", "Syntax: RSET"})
	}
	c.reset()
	var r Reply
	if s, ok := c.sess.(Resetter); ok {
		r = s.Rset()
	}
	return c.ok(r, "250", "2.0.0", "Ok")
}

func (c *Conn) doVrfy(args string) bool {
	v, ok := c.sess.(Verifier)
	switch {
	case c.srv.DisableVrfy:
		return c.fail(Reply{502, "5.5.1", "VRFY command is disabled"})
	case args == "":
		suffix := ""
		if !c.srv.NoSMTPUTF8 {
			suffix = " [SMTPUTF8]"
		}
		return c.fail(Reply{501, "5.5.4", "Syntax: VRFY address" + suffix})
	}
	if path, params, ok := cutPath(args); ok && upper(params) == "SMTPUTF8" && c.allowed().UTF8 {
		args = path // RFC 6531, 3.7.4.2
	}
	a, good := parsePath(args, false)
	if !good || a.IsNull() {
		c.odd(OddAddress, "VRFY", args)
		return c.fail(Reply{501, "5.1.3", "Bad recipient address syntax"})
	}
	var r Reply
	if ok {
		r = v.Vrfy(c.ctx, args)
	}
	return c.ok(r, "252", "2.0.0", args)
}

func (c *Conn) doEtrn(args string) bool {
	t, ok := c.sess.(Turner)
	switch {
	case !ok:
		return c.fail(Reply{500, "5.5.2", "Error: command not recognized"})
	case c.srv.HeloRequired && c.helo == "":
		return c.fail(Reply{503, "", "Error: send HELO/EHLO first"})
	case c.mail:
		return c.fail(Reply{503, "", "Error: MAIL transaction in progress"})
	case args == "" || strings.ContainsAny(args, " \t"):
		return c.fail(Reply{500, "", "Syntax: ETRN domain"})
	}
	site := strings.TrimLeft(args, "@#")
	if !ValidDomain(site) {
		return c.fail(Reply{501, "", "Error: invalid parameter syntax"})
	}
	r := t.Etrn(c.ctx, site)
	if r.Code == 0 {
		r = Reply{250, "", "Queuing started"}
	}
	c.reply(r)
	return r.OK()
}

func (c *Conn) doStartTLS(args string) bool {
	switch {
	case args != "":
		return c.fail(Reply{501, "5.5.4", "Syntax: STARTTLS"})
	case c.tls != nil:
		return c.fail(Reply{554, "5.5.1", "Error: TLS already active"})
	case c.srv.TLS == nil || c.Discarded("starttls"):
		return c.fail(Reply{502, "5.5.1", "Error: command not implemented"})
	}
	s, ok := c.sess.(Securer)
	if ok {
		if r := s.StartTLS(c.ctx); !r.OK() {
			return c.fail(r)
		}
	}
	c.ok(Reply{}, "220", "2.0.0", "Ready to start TLS")
	c.reset()
	c.helo, c.authenticated = "", false // it stays ESMTP, as the peer has it
	state, err := c.handshake(c.srv.TLS, orDuration(c.srv.TLSTimeout, c.timeout))
	c.tls = state
	refused := Reply{}
	if ok {
		refused = s.Secured(c.ctx, state, err)
	}
	if err != nil || !refused.OK() {
		c.end = End{Reason: Lost, Err: err}
		c.closing = true
		return false
	}
	return true
}
