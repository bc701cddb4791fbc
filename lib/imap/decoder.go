package imap

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// Limits bound what a client may send. The zero value of each means its default.
type Limits struct {
	Word    int   // octets of an atom, quoted string or short literal; 131,072 (maxword, maxquoted)
	Line    int64 // octets of a whole command, strings in literals included, but not the messages of APPEND; 4 MB
	Depth   int   // parentheses, NOT and OR within each other in SEARCH; 100
	Keys    int   // SEARCH keys; 5,000
	Items   int   // members of a list: FETCH items, flags, header names; 5,000
	SetSize int   // ranges in a sequence set; 50,000
}

func (l *Limits) defaults() {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(&l.Word, 128<<10)
	set(&l.Depth, 100)
	set(&l.Keys, 5000)
	set(&l.Items, 5000)
	set(&l.SetSize, 50_000)
	if l.Line == 0 {
		l.Line = 4 << 20
	}
}

// What is wrong with a command. Everything else that Err returns, but for a
// *BadError, is trouble with the connection.
var (
	ErrMissing = errors.New("missing required argument")
	ErrExtra   = errors.New("unexpected extra arguments")
	ErrTag     = errors.New("invalid tag")
	ErrLong    = errors.New("word too long")     // and nothing will be understood from here on
	ErrBig     = errors.New("literal too large") // of a string
)

// BadError is a command that the grammar does not know, in the words for BAD.
type BadError struct{ Text string }

func (e *BadError) Error() string { return e.Text }

// Decoder reads commands. Its methods are rules of the grammar; each reads what
// it is named for and returns it. The first failure stays (Err), and from then
// on every method returns zero values: a command is read to its end and then
// looked at once. Skip passes over the rest of a failed one.
//
// A Decoder that waits for a command holds no buffer but a few octets of its
// own; a longer command borrows one.
type Decoder struct {
	// Continue is called before a synchronizing literal is read: it sends "+".
	Continue func() error

	r       io.Reader
	limits  Limits
	small   [256]byte
	buf     []byte
	pos     int
	end     int
	line    int64 // octets of this command so far
	literal int64 // octets of an open literal not read yet
	started bool  // something of this command was read
	eol     bool  // its line end was read
	err     error
}

// NewDecoder reads from r.
func NewDecoder(r io.Reader, limits Limits) *Decoder {
	limits.defaults()
	d := &Decoder{r: r, limits: limits}
	d.buf = d.small[:]
	return d
}

const bufferSize = 16 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// SetLimits changes the limits for the commands that follow: who has logged in
// may say more than who has not.
func (d *Decoder) SetLimits(limits Limits) {
	limits.defaults()
	d.limits = limits
}

// Reset goes on with another source (STARTTLS): what was buffered is dropped, so
// that nothing sent in clear is taken for a command under TLS.
func (d *Decoder) Reset(r io.Reader) {
	d.drop()
	d.r, d.pos, d.end = r, 0, 0
}

// Buffered tells how many octets have arrived and were not read: whether the
// next command is here already.
func (d *Decoder) Buffered() int { return d.end - d.pos }

// drop gives the borrowed buffer back.
func (d *Decoder) drop() {
	if len(d.buf) == bufferSize {
		buffers.Put((*[bufferSize]byte)(d.buf))
		d.buf = d.small[:]
	}
}

// Begin makes ready for the next command.
func (d *Decoder) Begin() {
	d.line, d.started, d.eol, d.literal = 0, false, false, 0
	if _, fatal := d.fatal(); !fatal {
		d.err = nil
	}
	if d.pos == d.end {
		d.drop()
		d.pos, d.end = 0, 0
	}
}

// fatal tells whether the failure is one of the connection.
func (d *Decoder) fatal() (error, bool) {
	var bad *BadError
	switch e := d.err; {
	case e == nil, e == ErrMissing, e == ErrExtra, e == ErrTag, e == ErrBig, errors.As(e, &bad):
		return nil, false
	}
	return d.err, true
}

// Err is what went wrong with this command first.
func (d *Decoder) Err() error { return d.err }

// OK reports whether nothing went wrong yet.
func (d *Decoder) OK() bool { return d.err == nil }

// Fail notes a failure, unless there is one already.
func (d *Decoder) Fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

// Bad notes a failure in the words for BAD.
func (d *Decoder) Bad(format string, args ...any) {
	if d.err == nil {
		d.err = &BadError{fmt.Sprintf(format, args...)}
	}
}

// fill reads at least one octet more.
func (d *Decoder) fill() bool {
	if d.pos < d.end {
		return true
	}
	d.pos, d.end = 0, 0
	if d.started && len(d.buf) == len(d.small) {
		d.buf = buffers.Get().(*[bufferSize]byte)[:]
	}
	n, err := d.r.Read(d.buf)
	d.end = n
	if n > 0 {
		d.started = true
		return true
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	d.Fail(err)
	return false
}

// peek returns the next octet; 0 if there is none.
func (d *Decoder) peek() byte {
	if d.err != nil || !d.fill() {
		return 0
	}
	return d.buf[d.pos]
}

// next takes the octet that peek saw.
func (d *Decoder) next() {
	d.pos++
	if d.line++; d.line > d.limits.Line {
		d.Fail(ErrLong)
	}
}

// atEnd reports whether the line ends here.
func (d *Decoder) atEnd() bool {
	c := d.peek()
	return c == '\r' || c == '\n'
}

// CRLF reads the end of the command. A line may end in LF alone.
func (d *Decoder) CRLF() {
	if d.err != nil {
		return
	}
	for d.peek() == ' ' { // Cyrus takes blanks at the end, and clients send them
		d.next()
	}
	if d.peek() == '\r' {
		d.next()
	}
	if d.peek() != '\n' {
		d.Fail(ErrExtra)
		return
	}
	d.next()
	d.eol = true
}

// Skip passes over the rest of a command that failed, with the literals that
// follow unasked. It returns an error if the connection is at its end.
func (d *Decoder) Skip() error {
	if err, fatal := d.fatal(); fatal {
		return err
	}
	was := d.err
	d.err = nil
	if d.literal > 0 {
		d.discard()
	}
	var tail [24]byte // the end of the line, where a literal would be announced
	n := 0
	for !d.eol && d.err == nil {
		c := d.peek()
		if d.err != nil {
			break
		}
		d.next()
		if c != '\n' {
			if n == len(tail) {
				copy(tail[:], tail[1:])
				n--
			}
			tail[n] = c
			n++
			continue
		}
		size, nonSync, ok := literalSuffix(strings.TrimSuffix(string(tail[:n]), "\r"))
		n = 0
		if !ok || !nonSync {
			d.eol = true
			break
		}
		d.literal = size
		d.discard()
	}
	if d.err != nil {
		return d.err
	}
	d.err = was
	return nil
}

// discard reads an open literal to its end. A message that nobody wants does
// not count as part of the line.
func (d *Decoder) discard() {
	for d.literal > 0 && d.err == nil && d.fill() {
		n := int(min(int64(d.end-d.pos), d.literal))
		d.pos += n
		d.literal -= int64(n)
	}
}

// literalSuffix reads the "{123+}" that ends a line. A size is a number of 32
// bits (RFC 3501, section 9), and APPENDLIMIT says so too.
func literalSuffix(line string) (size int64, nonSync, ok bool) {
	i := strings.LastIndexByte(line, '{')
	if i < 0 || !strings.HasSuffix(line, "}") {
		return 0, false, false
	}
	num, nonSync := strings.CutSuffix(line[i+1:len(line)-1], "+")
	if num == "" || len(num) > 10 {
		return 0, false, false
	}
	for _, c := range []byte(num) {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		size = size*10 + int64(c-'0')
	}
	return size, nonSync, size < 1<<32
}

// Take reads the octet c if it is next.
func (d *Decoder) Take(c byte) bool {
	if d.peek() != c || d.err != nil {
		return false
	}
	d.next()
	return true
}

// Peek reports whether c is next.
func (d *Decoder) Peek(c byte) bool { return d.peek() == c && d.err == nil }

// PeekDigit reports whether a number is next.
func (d *Decoder) PeekDigit() bool {
	c := d.peek()
	return '0' <= c && c <= '9' && d.err == nil
}

// SP reads the blank before an argument.
func (d *Decoder) SP() {
	if d.err != nil {
		return
	}
	if !d.Take(' ') || d.atEnd() {
		d.Fail(ErrMissing)
	}
}

// MoreArgs reads a blank if something follows it.
func (d *Decoder) MoreArgs() bool {
	if d.err != nil || d.atEnd() {
		return false
	}
	if !d.Take(' ') {
		d.Fail(ErrExtra)
		return false
	}
	return !d.atEnd() && d.err == nil
}

// run reads octets while ok is true of them.
func (d *Decoder) run(ok func(byte) bool) []byte {
	var word []byte
	for d.err == nil && d.fill() {
		b := d.buf[d.pos:d.end]
		n := 0
		for n < len(b) && ok(b[n]) {
			n++
		}
		d.pos += n
		d.line += int64(n)
		if len(word)+n > d.limits.Word || d.line > d.limits.Line {
			d.Fail(ErrLong)
			return nil
		}
		if word == nil && n < len(b) {
			return b[:n:n] // valid until the next read
		}
		word = append(word, b[:n]...)
		if n < len(b) {
			return word
		}
	}
	return word
}

func isAtom(c byte) bool {
	return c > ' ' && c < 127 && c != '(' && c != ')' && c != '{' && c != '%' && c != '*' && c != '"' && c != '\\'
}

// isAString is isAtom and what Cyrus takes besides: "]", and 8-bit octets.
func isAString(c byte) bool { return isAtom(c) || c >= 128 }

// Tag reads a command's tag. An empty line has none.
func (d *Decoder) Tag() string {
	t := string(d.run(func(c byte) bool { return isAtom(c) && c != '+' && c != ']' }))
	if t == "" || !d.Peek(' ') {
		d.Fail(ErrTag)
		return ""
	}
	return t
}

// Word reads a keyword of the protocol, in capitals.
func (d *Decoder) Word() string {
	return upper(d.run(func(c byte) bool { return isAtom(c) && c != '[' && c != ']' && c != '<' }))
}

func upper(b []byte) string {
	var buf [32]byte
	if len(b) > len(buf) {
		return strings.ToUpper(string(b))
	}
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		buf[i] = c
	}
	return string(buf[:len(b)])
}

// Atom reads an atom.
func (d *Decoder) Atom() string {
	if d.err != nil {
		return ""
	}
	s := string(d.run(isAtom))
	if s == "" {
		d.Fail(ErrMissing)
	}
	return s
}

// AString reads an atom, a quoted string or a literal.
func (d *Decoder) AString() string {
	switch d.peek() {
	case '"', '{':
		return d.String()
	}
	if d.err != nil {
		return ""
	}
	s := string(d.run(isAString))
	if s == "" {
		d.Fail(ErrMissing)
	}
	return s
}

// Mailbox reads a mailbox name, as it stands.
func (d *Decoder) Mailbox() string { return d.AString() }

// Pattern reads a mailbox name with wildcards, as LIST has it.
func (d *Decoder) Pattern() string {
	switch d.peek() {
	case '"', '{':
		return d.String()
	}
	if d.err != nil {
		return ""
	}
	s := string(d.run(func(c byte) bool { return isAString(c) || c == '%' || c == '*' }))
	if s == "" {
		d.Fail(ErrMissing)
	}
	return s
}

// NString reads a string or NIL.
func (d *Decoder) NString() (s string, isNil bool) {
	if c := d.peek(); c == '"' || c == '{' {
		return d.String(), false
	}
	s = d.AString()
	return s, strings.EqualFold(s, "NIL")
}

// String reads a quoted string or a literal.
func (d *Decoder) String() string {
	switch {
	case d.Take('"'):
		return d.quoted()
	case d.Peek('{'):
		if size := d.Literal(); d.err == nil {
			return d.literalString(size)
		}
		return ""
	}
	d.Fail(ErrMissing)
	return ""
}

func (d *Decoder) quoted() string {
	var out []byte
	for d.err == nil {
		part := d.run(func(c byte) bool { return c != '"' && c != '\\' && c != '\r' && c != '\n' && c != 0 })
		c := d.peek()
		if c == '"' && out == nil {
			s := string(part)
			d.next()
			return s
		}
		out = append(out, part...)
		switch c {
		case '"':
			d.next()
			return string(out)
		case '\\':
			d.next()
			if c = d.peek(); c == '\r' || c == '\n' || c == 0 {
				d.Fail(ErrMissing)
				return ""
			}
			out = append(out, c)
			d.next()
		default:
			d.Fail(ErrMissing)
			return ""
		}
		if len(out) > d.limits.Word {
			d.Fail(ErrLong)
		}
	}
	return ""
}

// literalString reads a literal that is kept: so it counts as part of the
// command, which may be made of thousands of them.
func (d *Decoder) literalString(size int64) string {
	d.line += size
	b := make([]byte, size)
	if _, err := io.ReadFull(d.LiteralReader(), b); err != nil {
		d.Fail(err)
		return ""
	}
	if strings.IndexByte(string(b), 0) >= 0 {
		d.Bad("Invalid literal")
		return ""
	}
	return string(b)
}

// LiteralHeader reads "{123}" or "{123+}" and the line end behind it, and
// nothing else: the caller decides whether to let a synchronizing literal come
// (Accept) or to refuse it.
func (d *Decoder) LiteralHeader() (size int64, nonSync bool) {
	d.Take('~') // literal8 (RFC 3516)
	if !d.Take('{') {
		d.Fail(ErrMissing)
		return 0, false
	}
	num := string(d.run(func(c byte) bool { return c != '}' && c > ' ' && c < 127 }))
	if !d.Take('}') {
		d.Bad("Invalid literal")
		return 0, false
	}
	size, nonSync, ok := literalSuffix("{" + num + "}")
	if !ok {
		d.Bad("Literal size not a number")
		return 0, false
	}
	d.Take('\r')
	if !d.Take('\n') {
		d.Bad("junk after literal")
		return 0, false
	}
	if nonSync {
		d.literal = size
	} else {
		d.eol = true // nothing more comes unless we ask for it
	}
	return size, nonSync
}

// Accept asks for a synchronizing literal of that size.
func (d *Decoder) Accept(size int64) {
	if d.err != nil {
		return
	}
	if d.Continue != nil {
		if err := d.Continue(); err != nil {
			d.Fail(err)
			return
		}
	}
	d.literal, d.eol = size, false
}

// Literal reads a literal's header for a string, and asks for what follows. A
// string that is too long, or too much for the command, fails: it is never asked
// for, and Skip passes over it if it comes unasked.
func (d *Decoder) Literal() int64 {
	size, nonSync := d.LiteralHeader()
	switch {
	case d.err != nil:
	case size > int64(d.limits.Word) || d.line+size > d.limits.Line:
		d.Fail(ErrBig)
	case !nonSync:
		d.Accept(size)
	}
	return size
}

// LiteralReader streams the literal whose header was read.
func (d *Decoder) LiteralReader() io.Reader { return literalReader{d} }

type literalReader struct{ d *Decoder }

func (l literalReader) Read(b []byte) (int, error) {
	d := l.d
	if d.literal == 0 {
		return 0, io.EOF
	}
	if len(b) == 0 {
		return 0, nil
	}
	if d.err != nil {
		return 0, d.err
	}
	b = b[:min(int64(len(b)), d.literal)]
	if d.pos == d.end && len(b) >= 1024 { // large pieces go where they belong at once
		n, err := d.r.Read(b)
		d.literal -= int64(n)
		if n > 0 {
			return n, nil
		}
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		d.Fail(err)
		return 0, err
	}
	if !d.fill() {
		if d.err == io.EOF {
			d.err = io.ErrUnexpectedEOF
		}
		return 0, d.err
	}
	n := copy(b, d.buf[d.pos:d.end])
	d.pos += n
	d.literal -= int64(n)
	return n, nil
}

// Number reads a number of 32 bits.
func (d *Decoder) Number() uint32 {
	n := d.Number64()
	if n > 1<<32-1 {
		d.Bad("Invalid number")
		return 0
	}
	return uint32(n)
}

// Number64 reads a number of 63 bits, such as a mod-sequence (RFC 7162, 7).
func (d *Decoder) Number64() uint64 {
	if d.err != nil {
		return 0
	}
	b := d.run(func(c byte) bool { return '0' <= c && c <= '9' })
	if len(b) == 0 {
		d.Fail(ErrMissing)
		return 0
	}
	if len(b) > 19 {
		d.Bad("Invalid number")
		return 0
	}
	n := uint64(0)
	for _, c := range b {
		n = n*10 + uint64(c-'0')
	}
	if n > 1<<63-1 {
		d.Bad("Invalid number")
		return 0
	}
	return n
}

// List reads "(a b c)", calling member for each; it may be empty.
func (d *Decoder) List(member func()) {
	if !d.Take('(') {
		d.Fail(ErrMissing)
		return
	}
	for n := 0; d.err == nil && !d.Take(')'); n++ {
		if n > d.limits.Items {
			d.Bad("Too many items in list")
			return
		}
		if n > 0 && !d.Take(' ') {
			d.Fail(ErrNoClose)
			return
		}
		if n > 0 && d.Peek(')') {
			continue
		}
		member()
	}
}

// ErrNoClose is a list that does not end.
var ErrNoClose = &BadError{"Missing close parenthesis"}

// Line reads a whole line, as IDLE and AUTHENTICATE have them.
func (d *Decoder) Line() string {
	s := strings.TrimSuffix(string(d.run(func(c byte) bool { return c != '\n' })), "\r")
	if d.err == nil {
		d.next()
		d.eol = true
	}
	return s
}

// SkipLiteral passes over what is left of the open literal.
func (d *Decoder) SkipLiteral() { d.discard() }
