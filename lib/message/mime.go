package message

import (
	"bytes"
	"slices"
	"strconv"
)

// contentType is a Content-Type field, RFC 2045, section 5.1.
type contentType struct {
	major, minor []byte
	params       []param
	ascii        bool // not given: text/plain; charset=us-ascii
}

type param struct{ name, value []byte }

// maxParams bounds the parameters of one field that we look at.
const maxParams = 100

// parseContentType reads the field's value; what can't be read counts as missing.
func parseContentType(value []byte, digest bool) contentType {
	s := scanner{value}
	s.blanks()
	major := s.token()
	s.blanks()
	if len(major) > 0 && s.take('/') {
		s.blanks()
		minor := s.token()
		s.blanks()
		if len(minor) > 0 && (len(s.b) == 0 || s.b[0] == ';') {
			return contentType{major: major, minor: minor, params: s.params()}
		}
	}
	if digest && len(value) == 0 {
		return contentType{major: []byte("MESSAGE"), minor: []byte("RFC822")}
	}
	return contentType{major: []byte("TEXT"), minor: []byte("PLAIN"), ascii: true}
}

// get finds a parameter by its name in capitals.
func (t contentType) get(name string) []byte {
	for _, p := range t.params {
		if equalFold(p.name, name) {
			return bytes.TrimRight(p.value, " \t")
		}
	}
	return nil
}

func (t contentType) appendParams(a []byte) []byte {
	if t.ascii {
		return append(a, `("CHARSET" "us-ascii")`...)
	}
	return appendParams(a, t.params)
}

func appendParams(a []byte, params []param) []byte {
	if len(params) == 0 {
		return append(a, "NIL"...)
	}
	a = append(a, '(')
	for i, p := range params {
		if i > 0 {
			a = append(a, ' ')
		}
		a = append(appendUpper(a, p.name), ' ')
		a = appendString(a, p.value)
	}
	return append(a, ')')
}

// scanner reads the pieces of a structured field.
type scanner struct{ b []byte }

func (s *scanner) take(c byte) bool {
	if len(s.b) == 0 || s.b[0] != c {
		return false
	}
	s.b = s.b[1:]
	return true
}

// blanks passes over white space, folds and comments (RFC 5322, 3.2.2).
func (s *scanner) blanks() {
	depth := 0
	for len(s.b) > 0 {
		switch c := s.b[0]; {
		case c == '(':
			depth++
		case depth > 0 && c == ')':
			depth--
		case depth > 0 && c == '\\' && len(s.b) > 1:
			s.b = s.b[1:]
		case depth > 0, c == ' ', c == '\t', c == '\r', c == '\n':
		default:
			return
		}
		s.b = s.b[1:]
	}
}

// token reads an RFC 2045 token; octets above 127 are let through.
func (s *scanner) token() []byte {
	i := 0
	for i < len(s.b) && s.b[i] > ' ' && s.b[i] != 127 && bytes.IndexByte([]byte(`()<>@,;:\"/[]?=`), s.b[i]) < 0 {
		i++
	}
	t := s.b[:i]
	s.b = s.b[i:]
	return t
}

// quoted reads the rest of a quoted string; ok is false if it never ends.
func (s *scanner) quoted() (value []byte, ok bool) {
	plain := true
	for i := 0; i < len(s.b); i++ {
		switch s.b[i] {
		case '"':
			value = s.b[:i]
			s.b = s.b[i+1:]
			if plain {
				return value, true
			}
			out := make([]byte, 0, len(value))
			for j := 0; j < len(value); j++ {
				switch {
				case value[j] == '\r' || value[j] == '\n':
					continue
				case value[j] == '\\' && j+1 < len(value):
					j++
				}
				out = append(out, value[j])
			}
			return out, true
		case '\\':
			i++
			plain = false
		case '\r', '\n':
			plain = false
		}
	}
	s.b = nil
	return nil, false
}

// value reads a parameter's value. One without quotes goes on to the next
// semicolon, blanks and all: "name=a b.txt" is common and means what it says.
func (s *scanner) value() []byte {
	if s.take('"') {
		v, _ := s.quoted()
		i := bytes.IndexByte(s.b, ';')
		if i < 0 {
			i = len(s.b)
		}
		s.b = s.b[i:]
		return v
	}
	i := bytes.IndexByte(s.b, ';')
	if i < 0 {
		i = len(s.b)
	}
	v := s.b[:i]
	s.b = s.b[i:]
	if j := bytes.IndexByte(v, '('); j >= 0 {
		v = v[:j]
	}
	v = bytes.TrimRight(v, " \t\r\n")
	if bytes.IndexByte(v, '\n') >= 0 {
		v = unfold(nil, v)
	}
	return v
}

// params reads ";name=value" to the end, and joins the pieces of RFC 2231,
// section 3 ("name*0=", "name*1=").
func (s *scanner) params() []param {
	var list []param
	for len(list) < maxParams {
		i := bytes.IndexByte(s.b, ';')
		if i < 0 {
			break
		}
		s.b = s.b[i+1:]
		s.blanks()
		name := s.token()
		s.blanks()
		if len(name) == 0 || !s.take('=') {
			continue
		}
		s.blanks()
		value := s.value()
		if len(value) == 0 {
			continue
		}
		if i := bytes.IndexByte(name, '*'); i > 0 && i+1 < len(name) && '0' <= name[i+1] && name[i+1] <= '9' {
			base := name[:i:i]
			if name[len(name)-1] == '*' {
				base = append(base, '*')
			}
			if j := lastPiece(list, name[:i]); j >= 0 && name[i+1] != '0' {
				list[j].value = append(slices.Clip(list[j].value), value...)
				continue
			}
			name = base
		}
		list = append(list, param{name, value})
	}
	return list
}

// lastPiece finds the parameter that the next piece of base belongs to.
func lastPiece(list []param, base []byte) int {
	for i := len(list) - 1; i >= 0; i-- {
		if bytes.EqualFold(bytes.TrimSuffix(list[i].name, []byte{'*'}), base) {
			return i
		}
	}
	return -1
}

// parseEncoding returns the Content-Transfer-Encoding as it is told to clients.
func parseEncoding(value []byte) []byte {
	s := scanner{value}
	s.blanks()
	t := s.token()
	s.blanks()
	if len(t) == 0 || len(s.b) > 0 {
		return []byte("7BIT")
	}
	return t
}

func encodingOf(t []byte) Encoding {
	switch {
	case equalFold(t, "7BIT"):
		return SevenBit
	case equalFold(t, "8BIT"):
		return EightBit
	case equalFold(t, "BINARY"):
		return Binary
	case equalFold(t, "QUOTED-PRINTABLE"):
		return QuotedPrintable
	case equalFold(t, "BASE64"):
		return Base64
	}
	return Unknown
}

// appendDisposition writes a Content-Disposition (RFC 2183) for BODYSTRUCTURE.
func appendDisposition(a, value []byte) []byte {
	s := scanner{value}
	s.blanks()
	t := s.token()
	s.blanks()
	if len(t) == 0 || len(s.b) > 0 && s.b[0] != ';' {
		return append(a, "NIL"...)
	}
	a = append(appendUpper(append(a, '('), t), ' ')
	return append(appendParams(a, s.params()), ')')
}

// appendLanguages writes a Content-Language (RFC 3282) for BODYSTRUCTURE.
func appendLanguages(a, value []byte) []byte {
	s := scanner{value}
	start := len(a)
	for {
		s.blanks()
		t := s.token()
		if len(t) == 0 {
			break
		}
		if len(a) == start {
			a = append(a, '(')
		} else {
			a = append(a, ' ')
		}
		a = appendUpper(a, t)
		s.blanks()
		if !s.take(',') {
			break
		}
	}
	if len(a) == start {
		return append(a, "NIL"...)
	}
	return append(a, ')')
}

// appendNString writes a field's value, unfolded, or NIL if there is no field.
func appendNString(a, value []byte) []byte {
	if value == nil {
		return append(a, "NIL"...)
	}
	if !quotable(value) || value[0] == ' ' || value[0] == '\t' {
		trimmed := bytes.TrimLeft(value, " \t\r\n")
		if quotable(trimmed) {
			return append(append(append(a, '"'), trimmed...), '"')
		}
		return appendString(a, unfold(make([]byte, 0, len(value)), value))
	}
	return append(append(append(a, '"'), value...), '"')
}

// quotable tells what Cyrus sends as a quoted string; the rest goes as a literal.
func quotable(b []byte) bool {
	if len(b) == 0 || len(b) >= 1024 {
		return false
	}
	for _, c := range b {
		if c >= 127 || c < ' ' && c != '\t' || c == '"' || c == '\\' || c == '%' {
			return false
		}
	}
	return true
}

// appendString writes an IMAP string.
func appendString(a, s []byte) []byte {
	if len(s) == 0 {
		return append(a, `""`...)
	}
	if quotable(s) {
		return append(append(append(a, '"'), s...), '"')
	}
	a = append(a, '{')
	a = strconv.AppendInt(a, int64(len(s)), 10)
	a = append(a, '}', '\r', '\n')
	// RFC 3501, section 9: CHAR8 excludes NUL, so no literal may carry one.
	if bytes.IndexByte(s, 0) < 0 {
		return append(a, s...)
	}
	for _, c := range s {
		if c == 0 {
			c = '?'
		}
		a = append(a, c)
	}
	return a
}

// appendUpper writes an IMAP string in capitals.
func appendUpper(a, s []byte) []byte {
	at := len(a)
	a = appendString(a, s)
	for i := at; i < len(a); i++ {
		if c := a[i]; 'a' <= c && c <= 'z' {
			a[i] = c - ('a' - 'A')
		}
	}
	return a
}
