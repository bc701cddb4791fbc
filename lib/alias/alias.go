// Package alias reads what an alias leads to, as aliases(5) and .forward files
// write it: addresses, "|command", /file, :include:/file, separated by commas.
//
// Parsing gives typed values, so that a command or a file can never reach a
// place that sends mail. The package does not look anything up, opens no file
// and does not know who may do what.
package alias

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"angarium/lib/address"
)

// Target is one thing an alias leads to.
type Target interface {
	target()
	String() string
}

type (
	Address struct{ address.Address } // someone's mailbox
	Command struct{ Line string }     // |command
	File    struct{ Name string }     // /file
	Include struct{ Name string }     // :include:/file
)

func (Address) target() {}
func (Command) target() {}
func (File) target()    {}
func (Include) target() {}

func (c Command) String() string { return "|" + c.Line }
func (f File) String() string    { return f.Name }
func (i Include) String() string { return ":include:" + i.Name }

// Limits of what is read: an alias file is an admin's, a .forward is anyone's.
const (
	MaxTargets = 100_000
	maxLine    = 1 << 20
)

// ErrSyntax is an alias that can't be read.
var ErrSyntax = errors.New("bad alias syntax")

// Parse reads the right hand side of an alias.
func Parse(rhs string) ([]Target, error) {
	var list []Target
	for rest := rhs; rest != ""; {
		var item string
		var err error
		if item, rest, err = next(rest); err != nil {
			return nil, err
		}
		if item == "" {
			continue
		}
		t, err := classify(item)
		if err != nil {
			return nil, err
		}
		if len(list) >= MaxTargets {
			return nil, fmt.Errorf("%w: more than %d targets", ErrSyntax, MaxTargets)
		}
		list = append(list, t)
	}
	return list, nil
}

// ParseLines reads an :include: or .forward file: each line is a list as in
// Parse; lines that begin with # are comments.
func ParseLines(r io.Reader) ([]Target, error) {
	var list []Target
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		more, err := Parse(line)
		if err != nil {
			return nil, err
		}
		if list = append(list, more...); len(list) > MaxTargets {
			return nil, fmt.Errorf("%w: more than %d targets", ErrSyntax, MaxTargets)
		}
	}
	return list, sc.Err()
}

// next cuts the text before the first comma that is outside of quotes,
// comments and angle brackets. Comments are dropped; of a phrase with <address>
// only the address is kept.
func next(s string) (item, rest string, err error) {
	var b strings.Builder
	angle := -1 // where in b the address after < begins
	end := -1   // where it ends
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			j := i + 1
			for ; j < len(s) && s[j] != '"'; j++ {
				if s[j] == '\\' {
					j++
				}
			}
			if j >= len(s) {
				return "", "", fmt.Errorf("%w: missing '\"'", ErrSyntax)
			}
			b.WriteString(s[i : j+1])
			i = j
		case c == '\\' && i+1 < len(s):
			b.WriteString(s[i : i+2])
			i++
		case c == '(':
			if i = comment(s, i); i < 0 {
				return "", "", fmt.Errorf("%w: missing ')'", ErrSyntax)
			}
		case c == '<':
			b.WriteByte(' ')
			angle, end = b.Len(), -1
		case c == '>' && angle >= 0:
			end = b.Len()
			b.WriteByte(' ')
		case c == ',' && (angle < 0 || end >= 0):
			return cutAngle(b.String(), angle, end), s[i+1:], nil
		case c == '\n' || c == '\r' || c == '\t':
			b.WriteByte(' ')
		default:
			b.WriteByte(c)
		}
	}
	if angle >= 0 && end < 0 {
		return "", "", fmt.Errorf("%w: missing '>'", ErrSyntax)
	}
	return cutAngle(b.String(), angle, end), "", nil
}

func cutAngle(s string, angle, end int) string {
	if angle >= 0 {
		s = s[angle:end]
	}
	return strings.TrimSpace(s)
}

// comment returns the index of the ) that closes the ( at i, or -1.
func comment(s string, i int) int {
	for depth := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// classify tells what one item is. Quotes around all of it are syntax, so
// "|a b" is a command; quotes around a local part belong to an address.
func classify(item string) (Target, error) {
	text := item
	if n := len(item); n >= 2 && item[0] == '"' && closing(item) == n-1 {
		text = unquote(item[1 : n-1])
	}
	switch {
	case text == "":
		return nil, fmt.Errorf("%w: empty address", ErrSyntax)
	case text[0] == '|':
		line := strings.TrimSpace(text[1:])
		if line == "" {
			return nil, fmt.Errorf("%w: empty command", ErrSyntax)
		}
		return Command{line}, nil
	case text[0] == '/':
		return File{text}, nil
	case len(text) > 9 && strings.EqualFold(text[:9], ":include:"):
		name := strings.TrimSpace(text[9:])
		if len(name) > 1 && name[0] == '"' && name[len(name)-1] == '"' {
			name = name[1 : len(name)-1]
		}
		if !strings.HasPrefix(name, "/") {
			return nil, fmt.Errorf("%w: relative path name: %s", ErrSyntax, text)
		}
		return Include{name}, nil
	case text != item:
		a := address.Parse(text)
		if a.IsNull() {
			return nil, fmt.Errorf("%w: %s", ErrSyntax, item)
		}
		return Address{a}, nil
	case text[0] == '\\': // \user: no further expansion; the mark stays
		a, err := address.ParseQuoted(text[1:])
		if err != nil || a.IsNull() {
			return nil, fmt.Errorf("%w: %s", ErrSyntax, item)
		}
		a.Local = `\` + a.Local
		return Address{a}, nil
	}
	a, err := address.ParseQuoted(text)
	if err != nil || a.IsNull() {
		return nil, fmt.Errorf("%w: %s", ErrSyntax, item)
	}
	return Address{a}, nil
}

// closing is the index of the quote that ends the one at 0.
func closing(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

func unquote(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
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
