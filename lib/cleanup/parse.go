package cleanup

import (
	"strings"

	"angarium/lib/address"
)

// Found is an address and the part of the text that it was.
type Found struct {
	Address    address.Address
	Start, End int // of the bare address in the text, without angle brackets
}

// Addresses finds the addresses of a header or of a table's value: RFC 5322,
// section 3.4, and what people write instead. Display names, comments, group
// names and source routes are passed over. It never fails: what makes no sense
// yields no address, or an odd one.
func Addresses(s string) []Found {
	p := addressParser{s: s}
	return p.parse()
}

type addressParser struct {
	s    string
	i    int
	list []Found
	// the tokens since the last separator, if no angle bracket came
	start, end int
	open       bool // there is something
}

func (p *addressParser) parse() []Found {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		case '(':
			p.comment()
		case '"':
			p.token(p.quoted)
		case '[':
			p.token(p.literal)
		case '<':
			p.angle()
		case ',', ';':
			p.flush()
			p.i++
		case ':':
			p.colon()
		case '@', '.':
			p.token(func() { p.i++ })
		default:
			p.token(p.atom)
		}
	}
	p.flush()
	return p.list
}

// token takes one token, which goes with those before it.
func (p *addressParser) token(take func()) {
	if !p.open {
		p.open, p.start = true, p.i
	}
	take()
	p.end = p.i
}

func (p *addressParser) atom() {
	for p.i < len(p.s) && strings.IndexByte(" \t\r\n()<>,;:\"[]@.", p.s[p.i]) < 0 {
		if p.s[p.i] == '\\' && p.i+1 < len(p.s) {
			p.i++
		}
		p.i++
	}
	if p.i < len(p.s) && (p.s[p.i] == ')' || p.s[p.i] == '>' || p.s[p.i] == ']') {
		p.i++ // a stray one
	}
}

func (p *addressParser) quoted() { p.until('"') }

func (p *addressParser) literal() { p.until(']') }

// until skips to the closing octet, or to the end of the text.
func (p *addressParser) until(shut byte) {
	for p.i++; p.i < len(p.s); p.i++ {
		switch p.s[p.i] {
		case '\\':
			p.i++
		case shut:
			p.i++
			return
		}
	}
	p.i = min(p.i, len(p.s))
}

func (p *addressParser) comment() {
	depth := 0
	for ; p.i < len(p.s); p.i++ {
		switch p.s[p.i] {
		case '\\':
			p.i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				p.i++
				return
			}
		}
	}
	p.i = min(p.i, len(p.s))
}

// angle takes <address>; what came before it was a display name.
func (p *addressParser) angle() {
	p.open = false
	p.i++
	start := p.i
	for p.i < len(p.s) && p.s[p.i] != '>' {
		switch p.s[p.i] {
		case '"':
			p.quoted()
		case '(':
			p.comment()
		case '\\':
			p.i = min(p.i+2, len(p.s))
		default:
			p.i++
		}
	}
	p.add(start, p.i)
	if p.i < len(p.s) {
		p.i++
	}
	// Anything up to the next separator belongs to nobody.
	p.skipTail()
}

// skipTail passes over what stands between > and the next separator; another <
// is taken for an address.
func (p *addressParser) skipTail() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ',', ';', '<':
			return
		case '(':
			p.comment()
		case '"':
			p.quoted()
		default:
			p.i++
		}
	}
}

// colon ends a group's name.
func (p *addressParser) colon() {
	p.open = false
	p.i++
}

// flush ends an address without brackets.
func (p *addressParser) flush() {
	if p.open {
		p.add(p.start, p.end)
	}
	p.open = false
}

// add appends the address in s[start:end]; an empty one is none.
func (p *addressParser) add(start, end int) {
	for start < end && isBlank(p.s[start]) {
		start++
	}
	for end > start && isBlank(p.s[end-1]) {
		end--
	}
	text := squeeze(p.s[start:end])
	if text == "" {
		return
	}
	if text[0] == '@' && strings.IndexByte(text, ':') < 0 { // a table's "@domain"
		p.list = append(p.list, Found{address.Address{Domain: text[1:]}, start, end})
		return
	}
	a, err := address.ParseQuoted(text)
	if err != nil {
		a = address.Parse(text)
	}
	if !a.IsNull() {
		p.list = append(p.list, Found{a, start, end})
	}
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// squeeze takes comments and white space outside quotes away; inside a bare name
// of several words one blank stays.
func squeeze(s string) string {
	if !strings.ContainsAny(s, " \t\r\n(") {
		return s
	}
	p := addressParser{s: s}
	var b strings.Builder
	blank := false
	for p.i < len(s) {
		from := p.i
		switch c := s[p.i]; {
		case c == '(':
			p.comment()
			continue
		case isBlank(c):
			blank = true
			p.i++
			continue
		case c == '"':
			p.quoted()
		default:
			p.i++
		}
		if blank && b.Len() > 0 {
			last := b.String()[b.Len()-1]
			if c := s[from]; c != '@' && c != '.' && last != '@' && last != '.' {
				b.WriteByte(' ')
			}
		}
		blank = false
		b.WriteString(s[from:p.i])
	}
	return b.String()
}
