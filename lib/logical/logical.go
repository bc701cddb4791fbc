// Package logical knows the handwriting that main.cf, master.cf and their
// relatives share: logical lines, words with {} groups, name = value.
//
// A logical line starts with text in the first column and goes on over the
// lines that begin with white space; empty lines and comments, which start with
// "#" as their first text, may stand anywhere and do not end it. The package
// does not know what the lines mean, and never expands $name.
package logical

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Blanks are the characters that C's isspace knows.
const Blanks = " \t\n\v\f\r"

// CommaBlanks separate the items of a list.
const CommaBlanks = ", \t\r\n"

// Braces are the characters that Tokens and Extract pair.
const Braces = "{}"

// Reader yields logical lines.
type Reader struct {
	src   *bufio.Reader
	path  string
	warn  func(string)
	buf   []byte
	part  []byte
	lines int
	first int
	err   error
}

// NewReader reads from r; path is its name in warnings, which go to warn
// (nil: nowhere).
func NewReader(r io.Reader, path string, warn func(string)) *Reader {
	return &Reader{src: bufio.NewReader(r), path: path, warn: warn}
}

// Next advances to the next logical line; false at the end or at an error.
func (r *Reader) Next() bool {
	for r.gather() {
		if !space(r.buf[0]) {
			return true
		}
		// Text that continues nothing is dropped, not obeyed: Postfix does the
		// same, since postconf -e could not edit such a file.
		if r.warn != nil {
			text, dots := r.buf, ""
			if len(text) > 30 {
				text, dots = text[:30], "..."
			}
			r.warn(fmt.Sprintf("%s: logical line must not start with whitespace: \"%s%s\"", r.path, text, dots))
		}
	}
	return false
}

// gather joins the physical lines of one logical line into buf.
func (r *Reader) gather() bool {
	r.buf = r.buf[:0]
	for r.err == nil {
		line, err := r.physical()
		if err != nil && err != io.EOF {
			r.err = err
			return false
		}
		if i := firstText(line); i < len(line) && line[i] != '#' {
			if len(r.buf) == 0 {
				r.first = r.lines
			}
			r.buf = append(r.buf, line...)
		}
		if err == io.EOF {
			r.err = err
			break
		}
		if len(r.buf) > 0 {
			next, _ := r.src.Peek(1)
			if len(next) == 0 || next[0] != '#' && !space(next[0]) {
				break
			}
		}
	}
	return len(r.buf) > 0
}

// physical reads one line without its newline.
func (r *Reader) physical() ([]byte, error) {
	r.part = r.part[:0]
	for {
		piece, err := r.src.ReadSlice('\n')
		r.part = append(r.part, piece...)
		if err == bufio.ErrBufferFull {
			continue
		}
		if n := len(r.part); n > 0 {
			r.lines++
			if r.part[n-1] == '\n' {
				r.part = r.part[:n-1]
			}
		}
		return r.part, err
	}
}

// Text is the logical line, without newlines. It ends at a NUL, as C would have it.
func (r *Reader) Text() string {
	text, _, _ := bytes.Cut(r.buf, []byte{0})
	return string(text)
}

// Line is the number of the line on which the logical line starts.
func (r *Reader) Line() int { return r.first }

// Err is the read error that ended the lines, if any.
func (r *Reader) Err() error {
	if r.err == io.EOF {
		return nil
	}
	return r.err
}

func space(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func firstText(b []byte) int {
	i := 0
	for i < len(b) && space(b[i]) {
		i++
	}
	return i
}

// Token splits the first word off s: separators before it are skipped, those
// inside {} do not count. ok is false when none is left.
func Token(s, separators string) (word, rest string, ok bool) {
	s = strings.TrimLeft(s, separators)
	if s == "" {
		return "", "", false
	}
	level := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '{':
			level++
		case c == '}':
			if level > 0 {
				level--
			}
		case level == 0 && strings.IndexByte(separators, c) >= 0:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", true
}

// Tokens are all words of s.
func Tokens(s, separators string) []string {
	var words []string
	for {
		word, rest, ok := Token(s, separators)
		if !ok {
			return words
		}
		words, s = append(words, word), rest
	}
}

// Errors of Extract, in Postfix's words.
var (
	errNoClose = errors.New("missing '}'")
	errAfter   = errors.New("syntax error after '}'")
)

// Extract takes the text out of "{text}" and trims blanks inside the braces.
// With an error it still returns the text that there is.
func Extract(s string) (string, error) {
	if s == "" || s[0] != '{' {
		return s, nil
	}
	level := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '{':
			level++
		case '}':
			level--
		}
		if level == 0 {
			var err error
			if strings.Trim(s[i+1:], Blanks) != "" {
				err = fmt.Errorf("%w in \"%s\"", errAfter, s)
			}
			return strings.Trim(s[1:i], Blanks), err
		}
	}
	return strings.Trim(s[1:], Blanks), fmt.Errorf("%w in \"%s\"", errNoClose, s)
}

// Errors of NameValue, in Postfix's words.
var (
	ErrNoName   = errors.New("missing attribute name")
	ErrNoEquals = errors.New("missing '=' after attribute name")
)

// NameValue splits "name = value"; blanks around both are trimmed.
func NameValue(s string) (name, value string, err error) {
	s = strings.TrimLeft(s, Blanks)
	end := strings.IndexAny(s, Blanks+"=")
	switch {
	case s == "" || end == 0:
		return "", "", ErrNoName
	case end < 0:
		return "", "", ErrNoEquals
	}
	name, s = s[:end], strings.TrimLeft(s[end:], Blanks)
	if s == "" || s[0] != '=' {
		return "", "", ErrNoEquals
	}
	return name, strings.Trim(s[1:], Blanks), nil
}
