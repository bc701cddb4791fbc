package message

import (
	"bufio"
	"bytes"
	"io"
)

// To7Bit is a letter for a server that does not take eight bits (RFC 6152, 3):
// parts that say they hold such text become quoted-printable, and containers say
// 7bit. It streams; lines end in LF. What claims to be 7bit, or says nothing,
// passes as it is, and so do headers.
//
// The result is that of Postfix' mime_state(3) with MIME_OPT_DOWNGRADE.
func To7Bit(r io.Reader) io.Reader {
	d := &downgrade{src: r, r: bufio.NewReaderSize(r, 4096)}
	d.begin(false)
	return d
}

// maxField bounds what is looked at of one header field.
const maxField = 60000

type downgrade struct {
	src   io.Reader
	r     *bufio.Reader
	out   bytes.Buffer
	err   error
	stack []string // boundaries, the outermost first

	header bool   // in a header
	field  []byte // the current one, unfolded only in that its lines are together
	ctype  contentType
	digest bool // the default type is message/rfc822
	coded  bool // this part said 8bit or binary

	quote  bool // this body is to become quoted-printable
	middle bool // in a line longer than the buffer
	col    int
}

// Close closes what is read, if it can be closed.
func (d *downgrade) Close() error {
	if c, ok := d.src.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (d *downgrade) Read(p []byte) (int, error) {
	for d.out.Len() == 0 {
		if d.err != nil {
			return 0, d.err
		}
		d.step()
	}
	return d.out.Read(p)
}

// begin starts the header of a part.
func (d *downgrade) begin(digest bool) {
	d.header, d.digest, d.coded, d.quote = true, digest, false, false
	d.field = d.field[:0]
	d.ctype = parseContentType(nil, digest)
}

// step takes one piece of the input, at most a line.
func (d *downgrade) step() {
	line, err := d.r.ReadSlice('\n')
	if err != nil && err != bufio.ErrBufferFull {
		d.err = err
		defer d.endField()
		if len(line) == 0 {
			return
		}
	}
	whole := bytes.HasSuffix(line, []byte{'\n'})
	text := bytes.TrimSuffix(line, []byte{'\n'})
	first := !d.middle
	d.middle = !whole
	switch {
	case first && d.boundary(text):
		d.out.Write(line)
	case d.header:
		d.headerLine(line, text, first)
	case d.quote:
		d.encode(text, whole)
	default:
		d.out.Write(line)
	}
}

// boundary looks for the start of a part. Unfinished inner ones end with it.
func (d *downgrade) boundary(text []byte) bool {
	if len(d.stack) == 0 || len(text) < 3 || text[0] != '-' || text[1] != '-' {
		return false
	}
	for i := len(d.stack) - 1; i >= 0; i-- {
		rest, ok := bytes.CutPrefix(text[2:], []byte(d.stack[i]))
		if !ok {
			continue
		}
		if d.header {
			d.endField()
			d.endHeader()
		}
		if bytes.HasPrefix(rest, []byte("--")) {
			d.stack = d.stack[:i]
			d.header, d.quote = false, false
		} else {
			d.stack = d.stack[:i+1]
			d.begin(false)
		}
		return true
	}
	return false
}

func (d *downgrade) headerLine(line, text []byte, first bool) {
	switch {
	case !first || len(d.field) > 0 && len(text) > 0 && (text[0] == ' ' || text[0] == '\t'):
	case len(text) == 0:
		d.endField()
		d.endHeader()
		d.out.Write(line)
		return
	default:
		d.endField()
		if colon := bytes.IndexByte(text, ':'); colon <= 0 { // no header any more
			d.endHeader()
			if d.quote {
				d.encode(text, line[len(line)-1] == '\n')
			} else {
				d.out.Write(line)
			}
			return
		}
	}
	if len(d.field)+len(line) > maxField {
		d.out.Write(d.field)
		d.field = d.field[:0]
	}
	d.field = append(d.field, line...)
}

// endField takes a complete header field.
func (d *downgrade) endField() {
	if len(d.field) == 0 {
		return
	}
	name, value, _, _, ok := NextField(d.field)
	switch {
	case !ok:
	case bytes.EqualFold(name, []byte("Content-Type")):
		d.ctype = parseContentType(unfold(nil, value), d.digest)
	case bytes.EqualFold(name, []byte("Content-Transfer-Encoding")):
		if e := encodingOf(parseEncoding(value)); e == EightBit || e == Binary {
			d.coded = true
			d.field = d.field[:0] // endHeader says what it is now
			return
		}
	}
	d.out.Write(d.field)
	d.field = d.field[:0]
}

// endHeader says how the body that follows is encoded.
func (d *downgrade) endHeader() {
	d.header = false
	multi := bytes.EqualFold(d.ctype.major, []byte("multipart"))
	letter := bytes.EqualFold(d.ctype.major, []byte("message"))
	switch {
	case !d.coded:
	case multi || letter:
		d.out.WriteString("Content-Transfer-Encoding: 7bit\n")
	default:
		d.out.WriteString("Content-Transfer-Encoding: quoted-printable\n")
		d.quote = true
	}
	switch {
	case multi && len(d.stack) < maxDepth: // mime_nesting_limit
		if b := d.ctype.get("BOUNDARY"); len(b) > 0 {
			d.stack = append(d.stack, string(b))
		}
	case letter && bytes.EqualFold(d.ctype.minor, []byte("rfc822")):
		d.begin(false)
	}
}

// maxQuoted is where a line is broken: 72 and one character, as in Postfix.
const maxQuoted = 72

// encode writes text as quoted-printable, RFC 2045, 6.7; whole: its line ends here.
func (d *downgrade) encode(text []byte, whole bool) {
	const hex = "0123456789ABCDEF"
	for i, c := range text {
		if d.col > maxQuoted {
			d.out.WriteString("=\n")
			d.col = 0
		}
		last := whole && i == len(text)-1
		if c == '=' || c >= 0x7f || c < ' ' && c != '\t' || last && (c == ' ' || c == '\t') {
			d.out.Write([]byte{'=', hex[c>>4], hex[c&15]})
			d.col += 3
		} else {
			d.out.WriteByte(c)
			d.col++
		}
	}
	if whole {
		d.out.WriteByte('\n')
		d.col = 0
	}
}
