package message

import (
	"bytes"
	"encoding/base64"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/transform"
)

// Charset finds an encoding by its MIME name. ok is false for one we don't know;
// nil stands for UTF-8 and US-ASCII.
func Charset(name string) (e encoding.Encoding, ok bool) {
	name = strings.ToLower(strings.TrimSpace(name))
	if name, _, _ = strings.Cut(name, "*"); len(name) > 60 { // RFC 2231, 5: a language may follow
		return nil, false
	}
	switch name {
	case "", "us-ascii", "ascii", "utf-8", "utf8", "ansi_x3.4-1968":
		return nil, true
	case "utf-7", "unicode-1-1-utf-7": // ianaindex has no decoder
		return nil, false
	}
	if e, err := htmlindex.Get(name); err == nil {
		if canonical, _ := htmlindex.Name(e); canonical == "replacement" {
			return nil, false
		}
		return e, true
	}
	if e, err := ianaindex.MIME.Encoding(name); err == nil && e != nil {
		return e, true
	}
	return nil, false
}

// decodeCharset turns octets of a charset into UTF-8. What is in no known
// charset, and is not UTF-8, is taken for Windows-1252, as web browsers do.
func decodeCharset(name string, b []byte) []byte {
	e, _ := Charset(name)
	if e == nil {
		if utf8.Valid(b) {
			return b
		}
		e = charmap.Windows1252
	}
	out, err := e.NewDecoder().Bytes(b)
	if err != nil {
		return b
	}
	return out
}

// DecodeWords turns a header field's value into UTF-8 text: unfolded, with the
// encoded words of RFC 2047 decoded. Blanks between two of them go.
func DecodeWords(value []byte) []byte {
	if !bytes.Contains(value, []byte("=?")) {
		return decodeCharset("", unfold(make([]byte, 0, len(value)), value))
	}
	text := unfold(make([]byte, 0, len(value)), value)
	out := make([]byte, 0, len(text))
	after := false // an encoded word has just ended
	for len(text) > 0 {
		i := bytes.Index(text, []byte("=?"))
		if i < 0 {
			break
		}
		decoded, rest, ok := decodeWord(text[i:])
		if !ok {
			out = append(out, decodeCharset("", text[:i+2])...)
			text, after = text[i+2:], false
			continue
		}
		if !after || len(bytes.TrimSpace(text[:i])) > 0 {
			out = append(out, decodeCharset("", text[:i])...)
		}
		out = append(out, decoded...)
		text, after = rest, true
	}
	return append(out, decodeCharset("", text)...)
}

// decodeWord decodes the "=?charset?q?text?=" that b begins with.
func decodeWord(b []byte) (decoded, rest []byte, ok bool) {
	i := bytes.IndexByte(b[2:], '?')
	if i < 1 || i > 80 {
		return nil, nil, false
	}
	charset := string(b[2 : 2+i])
	b = b[3+i:]
	if len(b) < 2 || b[1] != '?' {
		return nil, nil, false
	}
	kind := b[0] | 32
	b = b[2:]
	end := bytes.Index(b, []byte("?="))
	if end < 0 || kind != 'q' && kind != 'b' {
		return nil, nil, false
	}
	text, rest := b[:end], b[end+2:]
	var raw []byte
	if kind == 'q' {
		raw = decodeQ(text)
	} else {
		raw = decodeBase64(text)
	}
	return decodeCharset(charset, raw), rest, true
}

func decodeQ(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '_':
			out = append(out, ' ')
		case c == '=' && i+2 < len(text) && unhex(text[i+1]) < 16 && unhex(text[i+2]) < 16:
			out = append(out, unhex(text[i+1])<<4|unhex(text[i+2]))
			i += 2
		default:
			out = append(out, c)
		}
	}
	return out
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// decodeBase64 decodes what it can.
func decodeBase64(text []byte) []byte {
	clean := make([]byte, 0, len(text)+3)
	for _, c := range text {
		if isBase64(c) {
			clean = append(clean, c)
		}
	}
	if len(clean)%4 == 1 {
		clean = clean[:len(clean)-1]
	}
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(clean)))
	n, _ := base64.RawStdEncoding.Decode(out, clean)
	return out[:n]
}

func isBase64(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '+' || c == '/'
}

// Decoder takes a Content-Transfer-Encoding off. Like mail programs it makes the
// best of what is broken and never fails by itself.
func Decoder(r io.Reader, e Encoding) io.Reader {
	switch e {
	case Base64:
		return &base64Reader{r: r}
	case QuotedPrintable:
		return &qpReader{r: r}
	}
	return r
}

// base64Reader passes over everything that is not of the alphabet, and goes on
// behind padding.
type base64Reader struct {
	r     io.Reader
	buf   [4096]byte
	space [3 * (4096/4 + 2)]byte // what buf can be at most, and the rest of a group
	out   []byte                 // of space
	tail  []byte                 // of a group of four
	err   error
}

func (d *base64Reader) Read(b []byte) (int, error) {
	for len(d.out) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.r.Read(d.buf[:])
		d.err = err
		d.out = d.space[:0]
		for _, c := range d.buf[:n] {
			switch {
			case isBase64(c):
				d.tail = append(d.tail, c)
				if len(d.tail) == 4 {
					d.group()
				}
			case c == '=' && len(d.tail) > 1:
				d.group()
			}
		}
		if err != nil && len(d.tail) > 1 {
			d.group()
		}
	}
	n := copy(b, d.out)
	d.out = d.out[n:]
	return n, nil
}

func (d *base64Reader) group() {
	end := len(d.out)
	n, _ := base64.RawStdEncoding.Decode(d.out[end:end+3], d.tail)
	d.out = d.out[:end+n]
	d.tail = d.tail[:0]
}

// qpReader decodes quoted-printable, RFC 2045, 6.7.
type qpReader struct {
	r   io.Reader
	buf [4096]byte
	in  []byte
	out []byte
	err error
}

func (d *qpReader) Read(b []byte) (int, error) {
	for len(d.out) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		left := copy(d.buf[:], d.in)
		n, err := d.r.Read(d.buf[left:])
		d.err = err
		d.in = d.buf[:left+n]
		d.out = d.decode(d.out[:0])
	}
	n := copy(b, d.out)
	d.out = d.out[n:]
	return n, nil
}

// decode takes what can be decided from in: an "=" near the end waits for more,
// and so does white space, which is none of the text at the end of a line (rule 3).
func (d *qpReader) decode(out []byte) []byte {
	in := d.in
	for len(in) > 0 {
		i := bytes.IndexAny(in, "=\n")
		if i < 0 {
			n := len(bytes.TrimRight(in, " \t\r"))
			if d.err != nil {
				out, in = append(out, bytes.TrimRight(in, " \t")...), nil
			} else if n == 0 && len(in) == len(d.buf) { // no end in sight
				out, in = append(out, in...), nil
			} else {
				out, in = append(out, in[:n]...), in[n:]
			}
			break
		}
		if in[i] == '\n' {
			text, crlf := bytes.CutSuffix(in[:i], []byte{'\r'})
			out = append(out, bytes.TrimRight(text, " \t")...)
			if crlf {
				out = append(out, '\r')
			}
			out, in = append(out, '\n'), in[i+1:]
			continue
		}
		out, in = append(out, in[:i]...), in[i:]
		var ok bool
		if out, in, ok = d.escape(out, in); !ok {
			break
		}
	}
	d.in = in
	return out
}

// escape takes the "=" at the start of in and what belongs to it: two digits, or
// the end of a line, of which only the part before it counts. It reports false
// if more must be read first.
func (d *qpReader) escape(out, in []byte) (_, rest []byte, ok bool) {
	if len(in) >= 3 && unhex(in[1]) < 16 && unhex(in[2]) < 16 {
		return append(out, unhex(in[1])<<4|unhex(in[2])), in[3:], true
	}
	after := bytes.TrimLeft(in[1:], " \t")
	if rest, ok := bytes.CutPrefix(bytes.TrimPrefix(after, []byte{'\r'}), []byte{'\n'}); ok {
		return out, rest, true
	}
	undecided := len(in) < 3 || len(after) == 0 || len(after) == 1 && after[0] == '\r'
	if undecided && d.err == nil && len(in) < len(d.buf) {
		return out, in, false
	}
	if len(after) == 0 && d.err != nil {
		return out, nil, true
	}
	return append(out, '='), in[1:], true
}

// Matcher looks for a text without regard to case and line ends, as SEARCH does.
type Matcher struct {
	pattern []byte // folded UTF-8
	ascii   bool
	buf     []byte
}

// NewMatcher takes the text, which is UTF-8.
func NewMatcher(text string) *Matcher {
	m := &Matcher{pattern: fold(nil, []byte(text)), ascii: true}
	for _, c := range m.pattern {
		m.ascii = m.ascii && c < utf8.RuneSelf
	}
	return m
}

// Match reports whether text, in UTF-8, contains what is looked for.
func (m *Matcher) Match(text []byte) bool {
	m.buf = fold(m.buf[:0], text)
	return bytes.Contains(m.buf, m.pattern)
}

// MatchReader looks into a stream of UTF-8.
func (m *Matcher) MatchReader(r io.Reader) (bool, error) {
	if len(m.pattern) == 0 {
		return true, nil
	}
	var chunk [8192]byte
	kept := 0
	m.buf = m.buf[:0]
	for {
		n, err := io.ReadAtLeast(r, chunk[kept:], 1)
		n += kept
		kept = 0
		for k := 1; k < utf8.UTFMax && k <= n && err == nil; k++ { // a rune that the chunk cuts waits
			if utf8.RuneStart(chunk[n-k]) {
				if !utf8.FullRune(chunk[n-k : n]) {
					kept = k
				}
				break
			}
		}
		m.buf = fold(m.buf, chunk[:n-kept])
		if bytes.Contains(m.buf, m.pattern) {
			return true, nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		copy(chunk[:], chunk[n-kept:n])
		if over := len(m.buf) - (len(m.pattern) - 1); over > 0 {
			m.buf = append(m.buf[:0], m.buf[over:]...)
		}
	}
}

// fold appends text in a form in which neither case nor the kind and number of
// blanks makes a difference, so that a phrase is found across the end of a line.
func fold(out, text []byte) []byte {
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			if n := len(out); n > 0 && out[n-1] == ' ' {
				continue
			}
			c = ' '
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(text[i:])
			if r != utf8.RuneError || n > 1 {
				out = utf8.AppendRune(out, unicode.ToLower(unicode.ToUpper(r)))
				i += n - 1
				continue
			}
		}
		out = append(out, c)
	}
	return out
}

// MatchHeader looks through a raw header: names and decoded values.
func (m *Matcher) MatchHeader(header []byte) bool {
	for b := header; ; {
		name, value, raw, rest, ok := NextField(b)
		if !ok {
			return false
		}
		b = rest
		text := make([]byte, 0, len(raw))
		if name != nil {
			text = append(append(text, name...), ": "...)
		}
		if m.Match(append(text, DecodeWords(value)...)) {
			return true
		}
	}
}

// MatchBody looks through the texts of a message, decoded, and through the
// headers of messages within it. Parts that are no text are passed over.
func (m *Matcher) MatchBody(s *Summary, r io.ReaderAt) (found bool, err error) {
	s.Walk(func(t Part, depth int) bool {
		switch {
		case t.Kind == Text:
			found, err = m.matchPart(t, r)
		case t.Kind == Message && t.children > 0:
			inner, ok := s.child(t, 1)
			if !ok {
				return true
			}
			header, e := readHeader(r, inner)
			err = e
			found = e == nil && m.MatchHeader(header)
		}
		return !found && err == nil
	})
	return found, err
}

// readHeader reads a part's header, or the start of a monstrous one.
func readHeader(r io.ReaderAt, t Part) ([]byte, error) {
	b := make([]byte, min(t.HeaderLen, maxHeader))
	if n, err := r.ReadAt(b, t.Header); n < len(b) {
		return nil, err
	}
	return b, nil
}

func (m *Matcher) matchPart(t Part, r io.ReaderAt) (bool, error) {
	header, err := readHeader(r, t)
	if err != nil {
		return false, err
	}
	var field []byte
	for b := header; ; {
		name, value, _, rest, ok := NextField(b)
		if !ok {
			break
		}
		b = rest
		if known(name) == fContentType {
			field = value
		}
	}
	charset := string(parseContentType(field, false).get("CHARSET"))
	var text io.Reader = Decoder(io.NewSectionReader(r, t.Body, t.BodyLen), t.Encoding)
	e, ok := Charset(charset)
	switch {
	case e != nil && !(m.ascii && asciiBased(charset)):
		text = transform.NewReader(text, e.NewDecoder())
	case e == nil && !m.ascii:
		if !ok || charset == "" || !strings.HasPrefix(strings.ToLower(charset), "utf") {
			return m.matchUnknown(text)
		}
	}
	return m.MatchReader(text)
}

// matchUnknown looks into a text of no known charset.
func (m *Matcher) matchUnknown(text io.Reader) (bool, error) {
	b, err := io.ReadAll(io.LimitReader(text, 4<<20))
	if err != nil {
		return false, err
	}
	return m.Match(decodeCharset("", b)), nil
}

// asciiBased tells of charsets in which ASCII octets mean ASCII everywhere.
func asciiBased(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "iso-8859-") || strings.HasPrefix(name, "windows-125") || strings.HasPrefix(name, "koi8-") || strings.HasPrefix(name, "euc-")
}
