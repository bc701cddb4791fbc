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
	list, _ := addresses(s, 1<<30)
	return list
}

// addresses reads at most limit tokens, and tells where it stopped.
func addresses(s string, limit int) ([]Found, int) {
	p := addressParser{s: s, left: limit}
	return p.parse(), p.i
}

type addressParser struct {
	s     string
	i     int
	list  []Found
	words []word // since the last separator, if no angle bracket came
	gap   bool   // white space or a comment since the last token
	left  int    // tokens that may be read yet
}

type word struct{ start, end int }

func (p *addressParser) parse() []Found {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.gap = true
			p.i++
			continue
		}
		if p.left--; p.left < 0 {
			break
		}
		switch p.s[p.i] {
		case '(':
			p.comment()
			p.gap = true
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
			if len(p.words) == 0 && strings.HasPrefix(p.s[p.i:], ":include:") {
				p.i += len(":include:")
				p.token(p.atom)
				p.words[0].start -= len(":include:")
				break
			}
			p.words = p.words[:0] // it was a group's name
			p.i++
		case '@', '.':
			p.token(func() { p.i++ })
		default:
			p.token(p.atom)
		}
	}
	p.flush()
	return p.list
}

// token takes one token, which goes on with the word before it unless there is
// space between two of them that are neither @ nor dot.
func (p *addressParser) token(take func()) {
	start := p.i
	take()
	n := len(p.words)
	if n > 0 && (!p.gap || glues(p.s[start]) || glues(p.s[p.words[n-1].end-1])) {
		p.words[n-1].end = p.i
	} else {
		p.words = append(p.words, word{start, p.i})
	}
	p.gap = false
}

func glues(c byte) bool { return c == '@' || c == '.' }

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
	p.words = p.words[:0]
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

// flush ends addresses without brackets. Several words are several addresses: so
// Postfix reads them, too.
func (p *addressParser) flush() {
	for _, w := range p.words {
		p.add(w.start, w.end)
	}
	p.words, p.gap = p.words[:0], false
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
