package postmap

import (
	"errors"
	"strings"
)

var (
	errPair  = errors.New("need name:value pair")
	errLocal = errors.New("name must be local")
)

// token is a word of RFC 822: kind 'w' an atom, 'q' a quoted string, 'c' a
// comment, 'd' a domain literal, else the special character itself.
type token struct {
	kind byte
	text string // as it is written again
	bare string // without quotes
}

// tokens parts a line of aliases(5), and puts the words into out. An unfinished quote
// is closed at the end.
func tokens(out []token, s string) []token {
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == ' ' || c >= '\t' && c <= '\r':
			i++
		case c == '"':
			end := closing(s, i, '"')
			out = append(out, token{'q', `"` + s[i+1:end] + `"`, unquote(s[i+1 : end])})
			i = end + 1
		case c == '(':
			end := commentEnd(s, i)
			out = append(out, token{'c', s[i:end], s[i:end]})
			i = end
		case c == '[':
			end := min(closing(s, i, ']')+1, len(s))
			out = append(out, token{'d', s[i:end], s[i:end]})
			i = end
		case strings.IndexByte("<>@,;:.", c) >= 0:
			out = append(out, token{c, s[i : i+1], s[i : i+1]})
			i++
		default:
			start := i
			for i < len(s) && s[i] > ' ' && strings.IndexByte(`<>@,;:.()[]"`, s[i]) < 0 {
				if s[i] == '\\' {
					i++
				}
				i++
			}
			i = min(i, len(s))
			word := unquote(s[start:i])
			out = append(out, token{'w', word, word})
			if i == start { // a stray ")" or "]"
				out[len(out)-1] = token{'w', string(c), string(c)}
				i++
			}
		}
	}
	return out
}

// closing is the place of the unescaped end character, or len(s).
func closing(s string, i int, end byte) int {
	for i++; i < len(s) && s[i] != end; i++ {
		if s[i] == '\\' {
			i++
		}
	}
	return min(i, len(s))
}

func commentEnd(s string, i int) int {
	depth := 0
	for ; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

func unquote(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// joined writes tokens as one line, each separated from the next as sendmail's
// aliases have it.
func joined(ts []token) string {
	if len(ts) == 1 {
		return ts[0].text
	}
	var b strings.Builder
	size := 0
	for i := range ts {
		size += len(ts[i].text) + 1
	}
	b.Grow(size)
	for i, t := range ts {
		if i > 0 {
			prev := ts[i-1].kind
			word := t.kind == 'w' || t.kind == 'q' || t.kind == 'c' || t.kind == '<'
			after := prev == 'w' || prev == 'q' || prev == 'c' || prev == 'd' || prev == '>'
			if prev == ',' || word && after {
				b.WriteByte(' ')
			}
		}
		b.WriteString(t.text)
	}
	return b.String()
}

// aliasEntry reads "name: value, value". room is for the words: big tables have many.
func aliasEntry(room *[]token, line string) (key, value string, err error) {
	ts := tokens((*room)[:0], line)
	*room = ts
	colon := -1
	for i, t := range ts {
		if t.kind == ',' {
			break
		}
		if t.kind == ':' {
			colon = i
			break
		}
	}
	if colon < 1 || colon+1 >= len(ts) {
		return "", "", errPair
	}
	name := ts[:colon]
	for i, t := range name {
		if t.kind == '@' {
			return "", "", errLocal
		}
		name[i].text = t.bare
	}
	return joined(name), joined(ts[colon+1:]), nil
}
