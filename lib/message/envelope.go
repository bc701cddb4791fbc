package message

import "bytes"

// appendEnvelope writes an ENVELOPE, RFC 3501, section 7.4.2.
func appendEnvelope(a []byte, f *[fieldCount][]byte) []byte {
	a = append(a, '(')
	a = append(appendNString(a, f[fDate]), ' ')
	a = append(appendNString(a, f[fSubject]), ' ')
	at := len(a)
	a = appendAddresses(a, f[fFrom])
	from := [2]int{at, len(a)}
	for _, k := range [...]field{fSender, fReplyTo} {
		a = append(a, ' ')
		at = len(a)
		a = appendAddresses(a, f[k])
		if string(a[at:]) == "NIL" {
			a = append(a[:at], a[from[0]:from[1]]...)
		}
	}
	for _, k := range [...]field{fTo, fCc, fBcc} {
		a = appendAddresses(append(a, ' '), f[k])
	}
	a = appendNString(append(a, ' '), f[fInReplyTo])
	a = appendNString(append(a, ' '), f[fMessageID])
	return append(a, ')')
}

// address is one entry of an address field. A group begins with an entry that
// has Local only and a nil Host, and ends with one that has neither (RFC 3501, 7.4.2).
type address struct {
	Name, Route, Local, Host []byte // nil: NIL
}

func appendAddresses(a, value []byte) []byte {
	start := len(a)
	s := addressScanner{b: value}
	for {
		t, ok := s.next()
		if !ok {
			break
		}
		if len(a) == start {
			a = append(a, '(')
		}
		a = append(appendOrNil(append(a, '('), t.Name), ' ')
		a = append(appendOrNil(a, t.Route), ' ')
		a = append(appendOrNil(a, t.Local), ' ')
		a = append(appendOrNil(a, t.Host), ')')
	}
	if len(a) == start {
		return append(a, "NIL"...)
	}
	return append(a, ')')
}

func appendOrNil(a, s []byte) []byte {
	if s == nil {
		return append(a, "NIL"...)
	}
	return appendString(a, s)
}

// addressScanner reads an address-list (RFC 5322, section 3.4) from whatever
// stands in the field. Like Cyrus it makes something of everything: the phrase
// becomes the name, what has no domain gets "unspecified-domain".
type addressScanner struct {
	b     []byte
	group bool
	count int
}

const maxAddresses = 20_000

func (s *addressScanner) next() (address, bool) {
	if s.count++; s.count > maxAddresses {
		return address{}, false
	}
	for {
		var comment []byte
		phrase, stop := s.word(",:;<@", &comment)
		switch stop {
		case '<':
			t := s.angle()
			if len(phrase) > 0 {
				t.Name = phrase
			}
			s.afterAngle(&t)
			return t, true
		case '@':
			host, _ := s.domain(",;<", &comment)
			t := address{Local: nonNil(phrase), Host: host}
			if len(host) == 0 {
				t.Host = []byte("unspecified-domain")
			}
			if len(comment) > 0 {
				t.Name = comment
			}
			return t, true
		case ':':
			if !s.group {
				s.group = true
				return address{Local: nonNil(phrase)}, true
			}
			continue
		case ';':
			if len(phrase) > 0 {
				s.b = append([]byte{';'}, s.b...)
				return address{Local: phrase, Host: []byte("unspecified-domain")}, true
			}
			if s.group {
				s.group = false
				return address{}, true
			}
			continue
		}
		// "," or the end
		if len(phrase) > 0 {
			t := address{Local: phrase, Host: []byte("unspecified-domain")}
			if len(comment) > 0 {
				t.Name = comment
			}
			return t, true
		}
		if stop == 0 {
			if s.group {
				s.group = false
				return address{}, true
			}
			return address{}, false
		}
	}
}

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// word reads up to one of stops (consumed; 0: the end), with quotes and comments
// taken off and blanks drawn together.
func (s *addressScanner) word(stops string, comment *[]byte) (text []byte, stop byte) {
	var out []byte
	blank := false
	add := func(c byte) {
		if blank && len(out) > 0 {
			out = append(out, ' ')
		}
		blank = false
		out = append(out, c)
	}
	for len(s.b) > 0 {
		c := s.b[0]
		s.b = s.b[1:]
		switch {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			blank = true
		case c == '(':
			*comment = s.comment()
			blank = true
		case c == '"':
			q := scanner{s.b}
			v, ok := q.quoted()
			if !ok { // it never ends: nothing behind it can be trusted
				s.b = nil
				return nil, 0
			}
			s.b = q.b
			if blank && len(out) > 0 {
				out = append(out, ' ')
			}
			blank = false
			out = append(out, v...)
		case c == ';' && !s.group && len(out) > 0 && stops == ",:;<@":
			add(c) // outside a group it is an ordinary character
		case bytes.IndexByte([]byte(stops), c) >= 0:
			return out, c
		default:
			add(c)
		}
	}
	return out, 0
}

// comment reads the rest of a comment, RFC 5322, 3.2.2.
func (s *addressScanner) comment() []byte {
	depth := 1
	var out []byte
	for len(s.b) > 0 {
		c := s.b[0]
		s.b = s.b[1:]
		switch c {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return bytes.TrimSpace(out)
			}
		case '\\':
			if len(s.b) > 0 {
				c = s.b[0]
				s.b = s.b[1:]
			}
		case '\r', '\n':
			continue
		}
		out = append(out, c)
	}
	return bytes.TrimSpace(out)
}

// domain reads what stands behind "@": without blanks and comments, with a
// domain literal as it is.
func (s *addressScanner) domain(stops string, comment *[]byte) (host []byte, stop byte) {
	host = []byte{}
	for len(s.b) > 0 {
		c := s.b[0]
		switch {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			s.b = s.b[1:]
		case c == '(':
			s.b = s.b[1:]
			*comment = s.comment()
		case c == ';' && !s.group, c != ';' && bytes.IndexByte([]byte(stops), c) < 0:
			s.b = s.b[1:]
			host = append(host, c)
		case c == '<': // it belongs to the next address
			return host, c
		default:
			if c == ',' {
				s.b = s.b[1:]
			}
			return host, c
		}
	}
	return host, 0
}

// angle reads the rest of "<@route:local@host>".
func (s *addressScanner) angle() address {
	var t address
	var comment []byte
	if trimmed := bytes.TrimLeft(s.b, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '@' {
		if i := bytes.IndexByte(trimmed, ':'); i > 0 && bytes.IndexByte(trimmed[:i], '>') < 0 {
			t.Route = unfold(nil, trimmed[:i])
			s.b = trimmed[i+1:]
		}
	}
	group := s.group
	s.group = true // ";" ends nothing here, and stops must hold
	local, stop := s.word(">@,", &comment)
	t.Local = nonNil(local)
	if stop == '@' {
		t.Host, stop = s.domain(">,", &comment)
		if stop == '>' {
			s.b = s.b[1:]
		}
	}
	s.group = group
	if len(t.Host) == 0 {
		t.Host = []byte("unspecified-domain")
	}
	return t
}

// afterAngle passes over what stands between ">" and the next address; a
// comment there is the name if there is no other.
func (s *addressScanner) afterAngle(t *address) {
	for len(s.b) > 0 {
		switch c := s.b[0]; c {
		case ' ', '\t', '\r', '\n':
			s.b = s.b[1:]
		case '(':
			s.b = s.b[1:]
			if name := s.comment(); t.Name == nil && len(name) > 0 {
				t.Name = name
			}
		case ',':
			s.b = s.b[1:]
			return
		default:
			return
		}
	}
}
