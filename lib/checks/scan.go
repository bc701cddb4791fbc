// Package checks looks at a letter the way header_checks(5) does: a Scanner parts
// the stream of its lines into headers, those of MIME parts and of enclosed letters
// among them, and body lines; Tables say what is to be done with each.
//
// It promises bounded memory: one header, and the boundaries of the open parts. It
// does not know what carrying out an action means: the cleanup of incoming mail and
// the SMTP client differ there.
package checks

import (
	"bytes"
	"strings"
)

// LineLimit is line_length_limit: of a longer line a piece of this size is looked
// at at a time.
const LineLimit = 2048

// Class tells where a header stands.
type Class int

const (
	Primary   Class = iota // of the letter itself
	Multipart              // of a part, or a Content- header of any place
	Nested                 // of an enclosed letter
)

// Fault is what is wrong with the MIME structure.
type Fault uint8

const (
	FaultNesting Fault = 1 << iota
	Fault8bitHeader
	Fault8bitBody
	FaultDomain
)

// String is the fault in Postfix' words; of several the gravest.
func (f Fault) String() string {
	switch {
	case f&FaultNesting != 0:
		return "MIME nesting exceeds safety limit"
	case f&Fault8bitHeader != 0:
		return "improper use of 8-bit data in message header"
	case f&Fault8bitBody != 0:
		return "improper use of 8-bit data in message body"
	case f&FaultDomain != 0:
		return "invalid message/* or multipart/* encoding domain"
	}
	return ""
}

// Handler takes what a Scanner finds. What it is given is valid during the call.
type Handler interface {
	// Header is a header with its continuation lines, without the last LF.
	Header(class Class, header []byte) error
	// EndHeader comes once, behind the letter's own headers.
	EndHeader() error
	// Body is a body line, or a piece of one if whole is false; offset counts the
	// octets of the body segment before it.
	Body(line []byte, whole bool, offset int64) error
	// Fault is called for each kind of fault that Options asks for, once.
	Fault(f Fault, text string)
}

// Options are limits and wishes of a Scanner; 0 stands for Postfix' default.
type Options struct {
	HeaderSize int   // header_size_limit, octets
	Nesting    int   // mime_nesting_limit
	Boundary   int   // mime_boundary_length_limit, octets
	NoMIME     bool  // disable_mime_input_processing: one header, one body
	Report     Fault // which faults to report
}

type place uint8

const (
	inPrimary place = iota
	inMultipart
	inNested
	inBody
)

type kind uint8

const (
	kindText kind = iota
	kindOther
	kindMultipart
	kindLetter  // message/rfc822
	kindPartial // message/partial, message/external-body
	kindMessage // message/anything else
)

type encoding uint8

const (
	enc7bit encoding = iota
	enc8bit
	encBinary
	encQP
	encBase64
)

var encodings = [...]string{"7bit", "8bit", "binary", "quoted-printable", "base64"}

// domain is which octets an encoding lets through.
func (e encoding) domain() encoding {
	if e > encBinary {
		return enc7bit
	}
	return e
}

// part is an open multipart.
type part struct {
	boundary string
	inside   kind // what its parts are if they do not say
}

// Scanner is the state between two lines. It is not safe for concurrent use.
type Scanner struct {
	opt    Options
	place  place
	kind   kind
	enc    encoding
	header []byte
	cont   bool // the piece before this one has no line end
	parts  []part
	offset int64
	seen   Fault
}

// NewScanner begins a letter.
func NewScanner(o Options) *Scanner {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.HeaderSize, 102400)
	def(&o.Nesting, 100)
	def(&o.Boundary, 2048)
	return &Scanner{opt: o}
}

// Faults are those that were reported.
func (s *Scanner) Faults() Fault { return s.seen }

// Plain reports that no header can come any more, and no fault: who does not care
// for body lines need not ask about them.
func (s *Scanner) Plain() bool {
	return s.place == inBody && len(s.parts) == 0 && (s.opt.Report&Fault8bitBody == 0 || s.seen&Fault8bitBody != 0 || s.enc != enc7bit)
}

// InHeader reports whether the letter's own headers go on.
func (s *Scanner) InHeader() bool { return s.place == inPrimary }

func (s *Scanner) report(h Handler, f Fault, text string) {
	if s.opt.Report&f != 0 && s.seen&f == 0 {
		s.seen |= f
		h.Fault(f, text)
	}
}

// Line takes a line without its LF, or a piece of at most LineLimit octets of a
// longer one; whole says that the line ends here.
func (s *Scanner) Line(text []byte, whole bool, h Handler) error {
	if s.place != inBody {
		done, err := s.headerLine(text, whole, h)
		if done || err != nil {
			return err
		}
	}
	return s.bodyLine(text, whole, h)
}

// headerLine reports whether the line belonged to a header.
func (s *Scanner) headerLine(text []byte, whole bool, h Handler) (bool, error) {
	if len(s.header) > 0 {
		if s.cont || len(text) > 0 && isBlank(text[0]) {
			if len(s.header) < s.opt.HeaderSize {
				if !s.cont {
					s.header = append(s.header, '\n')
				}
				s.header = append(s.header, text...)
			}
			s.cont = !whole
			return true, nil
		}
		if err := s.flush(h); err != nil {
			return false, err
		}
	}
	if n := NameLen(text); n > 0 {
		s.header = append(s.header[:0], text...)
		s.cont = !whole
		return true, nil
	}
	if err := s.endOfHeaders(h); err != nil {
		return false, err
	}
	if len(text) > 0 || !whole { // no header, and no empty line before it either
		blank := s.place == inPrimary
		s.place = inBody
		if blank {
			return false, h.Body(nil, true, s.offset)
		}
		return false, nil
	}
	s.offset = 0
	s.place = inBody
	switch s.kind {
	case kindLetter:
		s.place, s.kind, s.enc = inNested, kindText, enc7bit
	case kindMultipart:
		s.kind, s.enc = kindOther, enc7bit
	}
	return false, nil
}

// flush passes the header that is complete.
func (s *Scanner) flush(h Handler) error {
	if len(s.header) == 0 {
		return nil
	}
	class := Class(s.place)
	if !s.opt.NoMIME {
		colon := bytes.IndexByte(s.header, ':')
		name, value := bytes.TrimRight(s.header[:colon], " \t"), string(s.header[colon+1:])
		switch {
		case equalFold(name, "content-type"):
			s.contentType(h, value)
		case equalFold(name, "content-transfer-encoding"):
			if t := tokens(&value); len(t) > 0 {
				for i, name := range encodings {
					if strings.EqualFold(t[0], name) {
						s.enc = encoding(i)
					}
				}
			}
		}
		if len(name) > 0 && (name[0]|0x20 == 'c' || name[0]|0x20 == 'm') && IsMIME(string(name)) {
			class = Multipart
		}
	}
	if s.opt.Report&Fault8bitHeader != 0 && EightBit(s.header) {
		s.report(h, Fault8bitHeader, string(s.header))
	}
	err := h.Header(class, s.header)
	s.header, s.cont = s.header[:0], false
	return err
}

// IsMIME tells the headers that mime_header_checks judge wherever they stand.
func IsMIME(name string) bool {
	switch strings.ToLower(name) {
	case "content-description", "content-disposition", "content-id", "content-transfer-encoding", "content-type", "mime-version":
		return true
	}
	return false
}

func (s *Scanner) contentType(h Handler, value string) {
	t := tokens(&value)
	if len(t) == 0 {
		s.kind = kindOther
		return
	}
	sub := ""
	if len(t) >= 3 && t[1] == "/" {
		sub = strings.ToLower(t[2])
	}
	switch strings.ToLower(t[0]) {
	case "text":
		s.kind = kindText
	case "message":
		switch sub {
		case "rfc822", "global":
			s.kind = kindLetter
		case "partial", "external-body":
			s.kind = kindPartial
		default:
			s.kind = kindMessage
		}
	case "multipart":
		s.kind = kindMultipart
		inside := kindText
		if sub == "digest" {
			inside = kindLetter
		}
		// Of several boundaries, which are illegal, all count: nothing shall hide
		// behind the one that a reader prefers.
		for value != "" {
			if t = tokens(&value); len(t) < 3 || t[1] != "=" || !strings.EqualFold(t[0], "boundary") {
				continue
			}
			if len(s.parts) > s.opt.Nesting {
				s.report(h, FaultNesting, string(s.header))
				continue
			}
			s.parts = append(s.parts, part{t[2][:min(len(t[2]), s.opt.Boundary)], inside})
		}
	default:
		s.kind = kindOther
	}
}

// endOfHeaders comes before what ends a block of headers.
func (s *Scanner) endOfHeaders(h Handler) error {
	if s.place == inPrimary {
		if err := h.EndHeader(); err != nil {
			return err
		}
	}
	wrong := false
	switch s.kind {
	case kindPartial:
		wrong = s.enc.domain() != enc7bit
	case kindMultipart, kindLetter, kindMessage:
		wrong = s.enc != s.enc.domain()
	}
	if wrong {
		s.report(h, FaultDomain, encodings[s.enc])
	}
	return nil
}

func (s *Scanner) bodyLine(text []byte, whole bool, h Handler) error {
	if s.opt.Report&Fault8bitBody != 0 && s.enc == enc7bit && EightBit(text) {
		s.report(h, Fault8bitBody, string(text))
	}
	if len(s.parts) > 0 && !s.cont && len(text) > 1 && text[0] == '-' && text[1] == '-' {
		s.boundary(text[2:])
	}
	s.cont = !whole
	at := s.offset
	s.offset += int64(len(text))
	return h.Body(text, whole, at)
}

// boundary looks whether a line that began with -- parts something.
func (s *Scanner) boundary(text []byte) {
	for i := len(s.parts) - 1; i >= 0; i-- {
		b := s.parts[i].boundary
		if len(text) < len(b) || string(text[:len(b)]) != b {
			continue
		}
		s.enc = enc7bit
		if bytes.HasPrefix(text[len(b):], []byte("--")) {
			s.parts = s.parts[:i]
			s.place, s.kind = inBody, kindOther
		} else {
			s.place, s.kind = inMultipart, s.parts[i].inside
			s.parts = s.parts[:i+1]
		}
		return
	}
}

// End tells that no line follows.
func (s *Scanner) End(h Handler) error {
	if s.place == inBody {
		return nil
	}
	if err := s.flush(h); err != nil {
		return err
	}
	err := s.endOfHeaders(h)
	s.place = inBody
	return err
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func equalFold(b []byte, s string) bool { return len(b) == len(s) && strings.EqualFold(string(b), s) }

// EightBit reports whether there is an octet above 127.
func EightBit[T string | []byte](s T) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return true
		}
	}
	return false
}

// NameLen is the length of the field name with which a line begins; 0 if it is no
// header. White space before the colon is obsolete (RFC 5322, section 4.5.3) but seen.
func NameLen[T string | []byte](line T) int {
	n := 0
	for n < len(line) && line[n] > ' ' && line[n] < 127 && line[n] != ':' {
		n++
	}
	i := n
	for i < len(line) && isBlank(line[i]) {
		i++
	}
	if i == len(line) || line[i] != ':' {
		return 0
	}
	return n
}

// tokens takes the tokens up to the next semicolon, three at most, off a structured
// value (RFC 2045, section 5.1); quotes and comments are gone.
func tokens(value *string) (list []string) {
	s := *value
	defer func() { *value = s }()
	add := func(t string) {
		if len(list) < 3 {
			list = append(list, t)
		}
	}
	for s != "" {
		switch c := s[0]; {
		case c == ';':
			s = s[1:]
			return list
		case c <= ' ':
			s = s[1:]
		case c == '(':
			s = skipComment(s)
		case c == '"':
			var t string
			t, s = unquote(s)
			add(t)
		case strings.IndexByte(specials, c) >= 0:
			add(s[:1])
			s = s[1:]
		default:
			n := 0
			for n < len(s) && s[n] > ' ' && strings.IndexByte(specials, s[n]) < 0 {
				n++
			}
			add(s[:n])
			s = s[n:]
		}
	}
	return list
}

const specials = "()<>@,;:\\\"/[]?="

func skipComment(s string) string {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return s[i+1:]
			}
		}
	}
	return ""
}

func unquote(s string) (text, rest string) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
			fallthrough
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}
