package smtp

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/dsn"
	"angarium/lib/unixsock"
)

// ClientOptions are the settings of a Client. The zero value is usable.
type ClientOptions struct {
	LMTP  bool
	Helo  string // our name in HELO, EHLO, LHLO; "": localhost
	Host  string // the server as errors and logs name it: "mx.example.org[192.0.2.1]"
	Plain bool   // smtp_never_send_ehlo
	// ByGreeting is smtp_always_send_ehlo = no: EHLO only where the greeting has
	// the word ESMTP.
	ByGreeting bool

	// Time-outs of each step; 0: those of smtp(8).
	HeloTimeout, MailTimeout, RcptTimeout                  time.Duration // 300 s each
	DataInitTimeout, DataXferTimeout, DataDoneTimeout      time.Duration // 120 s, 180 s, 600 s
	StartTLSTimeout, RsetTimeout, QuitTimeout, AuthTimeout time.Duration // 300 s, 20 s, 300 s, 300 s
	XForwardTimeout                                        time.Duration // 300 s

	Discard   []string          // EHLO keywords to ignore, lower case
	LineLimit int               // smtp_line_length_limit; 0: 998. Longer lines are broken as smtp(8) does; < 0: never
	Warn      func(what string) // about odd answers; may be nil
	BlankCR   bool              // a CR that ends no line becomes a blank: some servers take CR.CRLF for the end of a message
}

// Client is one connection to a mail server. It is not safe for concurrent use.
// Every error of its methods is a *dsn.Error. After an error for which Broken
// reports true only Close is of use.
type Client struct {
	o      ClientOptions
	conn   net.Conn
	in     []byte // what was read and not used
	buf    []byte
	out    []byte
	ext    map[string]string
	greet  string // the name in the greeting
	name   string // and behind EHLO
	sent   int    // transactions before this one
	tls    *tls.ConnectionState
	plain  bool // HELO
	broken bool
	closed bool // 421 was said
	open   bool // the server is in a transaction, RFC 5321, 3.3
}

// NewClient takes over a connection. Nothing is read or written yet.
func NewClient(conn net.Conn, o ClientOptions) *Client {
	if o.Helo == "" {
		o.Helo = "localhost"
	}
	if o.Host == "" && conn.RemoteAddr() != nil {
		o.Host = conn.RemoteAddr().String()
	}
	return &Client{o: o, conn: conn, buf: make([]byte, 2048)}
}

// Dial connects and calls NewClient. The error says "connect to " + o.Host +
// ":port: Connection refused", as smtp(8) does, with status 4.4.1.
func Dial(ctx context.Context, network, addr string, o ClientOptions) (*Client, error) {
	conn, err := unixsock.Dial(ctx, network, addr)
	if err != nil {
		name := o.Host
		if _, port, e := net.SplitHostPort(addr); e == nil && network != "unix" {
			if name == "" {
				name = addr
			} else {
				name += ":" + port
			}
		}
		if name == "" {
			name = addr
		}
		return nil, &dsn.Error{Code: [3]int{4, 4, 1}, Text: "connect to " + name + ": " + ErrorText(err), Err: err}
	}
	return NewClient(conn, o), nil
}

// ErrorText is the plain text of a system error, as strerror(3) has it.
func ErrorText(err error) string {
	var no syscall.Errno
	var t interface{ Timeout() bool }
	switch {
	case errors.As(err, &no):
		s := no.Error()
		return strings.ToUpper(s[:1]) + s[1:]
	case errors.As(err, &t) && t.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "Connection timed out"
	}
	return err.Error()
}

// reply is an answer of the server.
type reply struct {
	code   int
	raw    []string // the lines as they came
	lines  []string // without the code
	status [3]int   // RFC 3463, if it has one
}

// String is the reply in one line, as smtp(8) logs it: "550-no such mailbox 550
// 5.1.1 User unknown".
func (r *reply) String() string { return strings.Join(r.raw, " ") }

// fail makes the reply an error.
func (c *Client) fail(r *reply, phase string) *dsn.Error {
	e := &dsn.Error{Reply: r.code, Code: r.status, Remote: &dsn.Remote{Host: c.o.Host, Reply: r.String(), Phase: phase}}
	if e.Code[0] == 0 {
		e.Code = [3]int{r.code / 100, 0, 0}
	}
	if e.Code[0] != 5 && e.Code[0] != 4 || e.Code[0] != r.code/100 { // nonsense is temporary
		e.Code = [3]int{4, 0, 0}
		if r.code/100 == 5 {
			e.Code[0] = 5
		}
	}
	if r.code == 503 && c.sent > 0 {
		// "Bad sequence of commands" on a connection that was used before is about
		// us, and not about the message: it waits, and the connection is of no
		// further use.
		e.Code = [3]int{4, 5, 0}
		c.closed = true
	}
	return e
}

// turnedAway makes the reply an error of the whole server.
func (c *Client) turnedAway(r *reply) *dsn.Error {
	e := c.fail(r, "")
	e.Text = "host " + c.o.Host + " refused to talk to me: " + r.String()
	c.closed = true
	return e
}

// lost makes a failed read or write an error: "lost connection with x while
// sending RCPT TO".
func (c *Client) lost(ctx context.Context, err error, doing string) *dsn.Error {
	c.broken = true
	text := "lost connection with " + c.o.Host + " while " + doing
	var t interface{ Timeout() bool }
	if errors.As(err, &t) && t.Timeout() && ctx.Err() == nil {
		text = "conversation with " + c.o.Host + " timed out while " + doing
	}
	var p *protocolError
	if errors.As(err, &p) {
		text = "host " + c.o.Host + " broke the protocol (" + p.what + ") while " + doing
		return &dsn.Error{Code: [3]int{4, 5, 0}, Text: text, Err: err}
	}
	return &dsn.Error{Code: [3]int{4, 4, 2}, Text: text, Err: err}
}

type protocolError struct{ what string }

func (p *protocolError) Error() string { return p.what }

// limits on what a server may say.
const (
	maxReplyLine  = 2048 // longer ones are cut
	maxReplyLines = 512
	maxReplyJunk  = 1 << 20 // octets of a cut line
)

// deadline bounds the next step by its time-out and by ctx.
func (c *Client) deadline(ctx context.Context, d, normal time.Duration) {
	t := time.Now().Add(orDuration(d, normal))
	if end, ok := ctx.Deadline(); ok && end.Before(t) {
		t = end
	}
	_ = c.conn.SetDeadline(t)
	if ctx.Err() != nil {
		_ = c.conn.SetDeadline(time.Unix(1, 0))
	}
}

// watch ends waiting when ctx ends.
func (c *Client) watch(ctx context.Context) (stop func() bool) {
	conn := c.conn
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

// line reads one line.
func (c *Client) line() ([]byte, error) {
	scanned := 0
	for {
		if i := bytes.IndexByte(c.in[scanned:], '\n'); i >= 0 {
			l := c.in[:scanned+i]
			c.in = c.in[scanned+i+1:]
			return bytes.TrimSuffix(l, []byte{'\r'}), nil
		}
		scanned = len(c.in)
		if scanned >= maxReplyLine {
			return c.longLine()
		}
		if len(c.in) == 0 || cap(c.in) == len(c.in) {
			c.in = c.buf[:copy(c.buf, c.in)]
		}
		n, err := c.conn.Read(c.in[len(c.in):cap(c.in)])
		c.in = c.in[:len(c.in)+n]
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

// longLine keeps the beginning of a line and throws the rest of it away.
func (c *Client) longLine() ([]byte, error) {
	kept := bytes.Clone(c.in[:maxReplyLine])
	for junk := 0; junk < maxReplyJunk; {
		n, err := c.conn.Read(c.buf)
		if n == 0 && err != nil {
			return nil, err
		}
		if i := bytes.IndexByte(c.buf[:n], '\n'); i >= 0 {
			c.in = c.buf[i+1 : n]
			c.oddity("response longer than " + strconv.Itoa(maxReplyLine) + ": " + printable(string(kept[:30])) + "...")
			return kept, nil
		}
		junk += n
	}
	return nil, &protocolError{"endless reply line"}
}

// read reads a reply, RFC 5321, 4.2.1. Lines that are none are passed over as in
// smtp(8), which finds servers behind talkative firewalls that way; but not where
// several answers are under way, or a wrong one could be taken for the right one.
func (c *Client) read() (*reply, error) {
	r := &reply{}
	for {
		l, err := c.line()
		if err != nil {
			return nil, err
		}
		code, text, more, ok := parseReplyLine(l)
		if !ok {
			if _, pipelining := c.ext["PIPELINING"]; pipelining || len(r.raw) > maxReplyLines {
				return nil, &protocolError{"bad reply: " + strconv.QuoteToASCII(string(l[:min(len(l), 80)]))}
			}
			r.raw = append(r.raw, printable(string(l)))
			continue
		}
		r.code = code
		if len(r.raw) <= maxReplyLines {
			r.raw, r.lines = append(r.raw, printable(string(l))), append(r.lines, text)
		} else if more {
			return nil, &protocolError{"endless reply"}
		}
		if more {
			continue
		}
		first, _, _ := strings.Cut(r.lines[len(r.lines)-1], " ")
		if status, err := dsn.ParseCode(first); err == nil && status[0] == code/100 {
			r.status = status
		}
		if code == 421 || code == 521 {
			c.closed = true
		}
		return r, nil
	}
}

// printable puts ? for what has no place in a log or a notice.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\t':
			return ' '
		case c < ' ' || c == 0x7f || c == utf8.RuneError:
			return '?'
		}
		return c
	}, s)
}

// parseReplyLine takes "250-text", "250 text" or "250".
func parseReplyLine(l []byte) (code int, text string, more, ok bool) {
	if len(l) < 3 {
		return 0, "", false, false
	}
	for _, d := range l[:3] {
		if d < '0' || d > '9' {
			return 0, "", false, false
		}
		code = code*10 + int(d-'0')
	}
	if len(l) == 3 {
		return code, "", false, true
	}
	if l[3] != ' ' && l[3] != '-' {
		return 0, "", false, false
	}
	return code, string(l[4:]), l[3] == '-', true
}

// step sends one command and reads the answer.
func (c *Client) step(ctx context.Context, d, normal time.Duration, cmd, doing string) (*reply, error) {
	defer c.watch(ctx)()
	c.deadline(ctx, d, normal)
	if cmd != "" {
		c.out = append(append(c.out[:0], cmd...), '\r', '\n')
		if _, err := c.conn.Write(c.out); err != nil {
			return nil, c.lost(ctx, err, doing)
		}
	}
	r, err := c.read()
	if err != nil {
		return nil, c.lost(ctx, err, doing)
	}
	return r, nil
}

// Hello reads the greeting and introduces us: EHLO, then HELO if the server
// does not know EHLO; LHLO for LMTP.
func (c *Client) Hello(ctx context.Context) error {
	r, err := c.step(ctx, c.o.HeloTimeout, 300*time.Second, "", "receiving the initial server greeting")
	if err != nil {
		return err
	}
	if r.code/100 != 2 {
		e := c.turnedAway(r)
		e.Err = ErrGreeting
		return e
	}
	words := strings.Fields(strings.Join(r.lines, " "))
	if len(words) > 0 {
		c.greet = words[0]
	}
	c.plain = c.o.Plain || c.o.ByGreeting && !slices.ContainsFunc(words, func(w string) bool { return strings.EqualFold(w, "ESMTP") })
	return c.hello(ctx)
}

// ErrGreeting is wrapped by the error of a server that turned us away before we
// had said a word.
var ErrGreeting = errors.New("unfriendly greeting")

// Names are the server's names in its greeting and behind EHLO or HELO; "": none.
func (c *Client) Names() (greeting, hello string) { return c.greet, c.name }

// verb is how a server with extensions is greeted.
func (c *Client) verb() string {
	if c.o.LMTP {
		return "LHLO"
	}
	return "EHLO"
}

func (c *Client) hello(ctx context.Context) error {
	verb := c.verb()
	if c.plain && !c.o.LMTP {
		verb = "HELO"
	}
	c.ext = nil
	for {
		r, err := c.step(ctx, c.o.HeloTimeout, 300*time.Second, verb+" "+c.o.Helo, "performing the "+verb+" handshake")
		if err != nil {
			return err
		}
		if r.code/100 == 2 {
			if words := strings.Fields(r.lines[0]); len(words) > 0 {
				c.name = words[0]
			}
			if verb != "HELO" {
				c.extensions(r.lines)
			}
			return nil
		}
		if verb == "EHLO" && !c.closed {
			verb = "HELO"
			continue
		}
		return c.turnedAway(r)
	}
}

// extensions keeps the lines behind the first of an EHLO reply.
func (c *Client) extensions(lines []string) {
	c.ext = make(map[string]string, len(lines))
lines:
	for _, l := range lines[1:] {
		name, params, _ := strings.Cut(l, " ")
		name = upper(name)
		if n, p, ok := strings.Cut(name, "="); ok { // old servers
			name, params = n, strings.TrimSpace(p+" "+params)
			if _, known := c.ext[name]; known && name == "AUTH" {
				continue
			}
		}
		for _, d := range c.o.Discard {
			if strings.EqualFold(d, name) {
				continue lines
			}
		}
		params = strings.TrimSpace(params)
		if name == "SIZE" && params != "" && strings.Trim(params, "0123456789") != "" {
			c.oddity("bad EHLO SIZE limit \"" + printable(params) + "\" from ")
		}
		c.ext[name] = params
	}
}

// oddity tells of what is no failure. A text that ends in a blank goes before the
// server's name, others behind it.
func (c *Client) oddity(what string) {
	if c.o.Warn != nil {
		c.o.Warn(what)
	}
}

// Extension is what the server said behind an EHLO keyword (in capitals).
func (c *Client) Extension(name string) (params string, ok bool) {
	params, ok = c.ext[name]
	return params, ok
}

// ErrNoTLS is wrapped by the error of a server that refused STARTTLS; the
// connection is as good as before.
var ErrNoTLS = errors.New("STARTTLS refused")

// StartTLS asks for TLS, shakes hands, and says EHLO again if check, which may
// be nil, likes the state of the secure layer.
func (c *Client) StartTLS(ctx context.Context, conf *tls.Config, check func() error) error {
	r, err := c.step(ctx, c.o.StartTLSTimeout, 300*time.Second, "STARTTLS", "performing the STARTTLS handshake")
	if err != nil {
		return err
	}
	if r.code/100 != 2 {
		e := c.fail(r, "STARTTLS command")
		e.Text = "TLS is required, but host " + c.o.Host + " refused to start TLS: " + r.String()
		e.Err = ErrNoTLS
		return e
	}
	if err := c.Handshake(ctx, conf); err != nil {
		return err
	}
	if check != nil {
		if err := check(); err != nil {
			return err
		}
	}
	return c.hello(ctx)
}

// Handshake begins TLS at once (wrapper mode), before Hello.
func (c *Client) Handshake(ctx context.Context, conf *tls.Config) error {
	c.in = nil // what was sent in clear behind the answer to STARTTLS
	defer c.watch(ctx)()
	c.deadline(ctx, c.o.StartTLSTimeout, 300*time.Second)
	conn := tls.Client(c.conn, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		c.broken = true
		return &dsn.Error{Code: [3]int{4, 7, 5}, Text: "Cannot start TLS: handshake failure", Err: err}
	}
	c.conn = conn
	state := conn.ConnectionState()
	c.tls = &state
	return nil
}

// TLS is the state of the secure layer, nil if there is none.
func (c *Client) TLS() *tls.ConnectionState { return c.tls }

// ClientExchange is the client's side of a SASL mechanism.
type ClientExchange interface {
	// Start names the mechanism; initial is nil if there is no initial response.
	Start() (mech string, initial []byte, err error)
	// Next answers a challenge.
	Next(challenge []byte) (response []byte, err error)
}

// Auth logs in (RFC 4954).
func (c *Client) Auth(ctx context.Context, x ClientExchange) error {
	mech, initial, err := x.Start()
	if err != nil {
		return c.authFailed(err.Error(), err)
	}
	cmd := "AUTH " + mech
	if initial != nil {
		if len(initial) == 0 {
			cmd += " ="
		} else {
			cmd += " " + base64.StdEncoding.EncodeToString(initial)
		}
	}
	for range 100 {
		// A connection that is lost now is so in the words of the step before.
		r, err := c.step(ctx, c.o.AuthTimeout, 300*time.Second, cmd, "performing the "+c.verb()+" handshake")
		if err != nil {
			return err
		}
		switch {
		case r.code/100 == 2:
			return nil
		case r.code/100 != 3:
			e := c.fail(r, "AUTH command")
			e.Text = "SASL authentication failed; server " + c.o.Host + " said: " + r.String()
			return e
		}
		challenge, err := base64.StdEncoding.DecodeString(strings.Join(r.lines, ""))
		if err != nil {
			return c.authFailed("bad protocol / cancel", err)
		}
		response, err := x.Next(challenge)
		if err != nil {
			return c.authFailed("bad protocol / cancel", err)
		}
		cmd = base64.StdEncoding.EncodeToString(response)
	}
	c.broken = true
	return &dsn.Error{Code: [3]int{4, 3, 0}, Text: "SASL authentication failed; authentication protocol loop with server " + c.o.Host}
}

// authFailed is our end of an exchange. The server still waits for an answer: the
// connection is good for QUIT alone.
func (c *Client) authFailed(text string, err error) error {
	c.closed = true
	return &dsn.Error{Code: [3]int{4, 7, 0}, Text: "SASL authentication failed; cannot authenticate to server " + c.o.Host + ": " + text, SASL: text, Err: err}
}

// Message is one transaction.
type Message struct {
	From       address.Address
	Size       int64  // of the content with LF line ends; for SIZE=
	Body       string // "8BITMIME", "7BIT" or ""; sent if the server offers it
	SMTPUTF8   bool   // asked for; sent if the server offers it
	EnvID, Ret string // DSN; sent if the server offers it
	Recipients []Envelope
	XForward   *XForward                // sent if the server offers it; may be nil
	Warn       func(reply, what string) // of a refusal that does not matter; may be nil
	Content    io.Reader                // LF line ends
	Chunking   bool                     // BDAT instead of DATA, if the server offers it
	Probe      bool                     // stop behind RCPT: would the server take it?
	Broke      func(limit int)          // called once if a line had to be broken; may be nil
}

// Envelope is one recipient of a Message.
type Envelope struct {
	To     address.Address
	Notify agent.Notify
	ORCPT  string
}

// Answer is what became of one recipient: Err nil means the server took it,
// and Reply is its last word ("250 2.0.0 Ok: queued as 4F1A23C0").
type Answer struct {
	Err   error // *dsn.Error
	Reply string
}

// Reset says RSET: may the connection be used again?
func (c *Client) Reset(ctx context.Context) error {
	r, err := c.step(ctx, c.o.RsetTimeout, 20*time.Second, "RSET", "sending RSET")
	if err != nil {
		return err
	}
	if r.code/100 != 2 {
		c.closed = true
		return c.fail(r, "RSET command")
	}
	c.open = false
	return nil
}

// InTransaction reports whether the server still holds a transaction that came
// to no end, for instance since it refused every recipient. It wants a Reset
// before the next MAIL.
func (c *Client) InTransaction() bool { return c.open }

// Broken reports whether the connection is of no further use.
func (c *Client) Broken() bool { return c.broken || c.closed }

// Quit says QUIT, does not wait for the answer, and closes.
func (c *Client) Quit(ctx context.Context) error {
	if !c.broken {
		c.deadline(ctx, min(orDuration(c.o.QuitTimeout, 300*time.Second), 10*time.Second), 0)
		_, _ = c.conn.Write([]byte("QUIT\r\n"))
	}
	return c.Close()
}

// Close closes at once.
func (c *Client) Close() error {
	c.broken = true
	return c.conn.Close()
}
