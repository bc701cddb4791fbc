// Package client is a small IMAP client for tools and tests that must say
// anything and hear everything: it sends a command as it is given and returns the
// answer in tokens. It knows the shape of responses (RFC 3501, section 9:
// atoms, strings, lists, codes), not their meaning.
//
// It promises limits on what a server can make it keep. It does not know how to
// prove who one is, nor TLS: the caller brings a connection.
package client

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// MaxLiteral bounds a literal, and MaxLine the rest of a response.
const (
	MaxLiteral = 64 << 20
	MaxLine    = 16 << 20
	maxDepth   = 100
)

// Client is a connection on which commands run one after the other.
type Client struct {
	r   *bufio.Reader
	w   io.Writer
	tag int

	// Greeting is the first response.
	Greeting Response
}

// New reads the greeting of a server.
func New(conn io.ReadWriter) (*Client, error) {
	c := &Client{r: bufio.NewReader(conn), w: conn}
	var err error
	c.Greeting, err = c.Read()
	return c, err
}

// Response is one line of a server, with the literals in it.
type Response struct {
	Tag    string  // "*", "+", or a command's
	Values []Value // what follows; of OK, NO, BAD, BYE and PREAUTH only the word
	Code   []Value // what stood in brackets
	Text   string  // the human part
}

// Kind is the first word, in capitals: OK, LIST, FETCH. Of "* 5 EXISTS" it is
// EXISTS.
func (r *Response) Kind() string {
	for _, v := range r.Values {
		if v.List == nil && !v.Quoted {
			if _, err := strconv.Atoi(v.Text); err != nil {
				return strings.ToUpper(v.Text)
			}
		}
	}
	return ""
}

// Value is an atom, a string, NIL or a list.
type Value struct {
	Text   string
	Quoted bool    // a quoted string or a literal: "NIL" in it is a word
	List   []Value // not nil: a list
}

// IsNil reports whether the value is NIL.
func (v Value) IsNil() bool { return !v.Quoted && v.List == nil && strings.EqualFold(v.Text, "NIL") }

// Error is the answer to a command that was refused.
type Error struct{ Response }

func (e *Error) Error() string { return e.Kind() + " " + e.Text }

// Part is a piece of a command: a string is sent as it stands, a Literal as one.
type (
	Part    any
	Literal []byte
)

// Do sends a command and returns the untagged responses, and the final one. The
// error is an *Error if that is not OK. Literals wait for the server's "+".
func (c *Client) Do(parts ...Part) (untagged []Response, final Response, err error) {
	c.tag++
	tag := "c" + strconv.Itoa(c.tag)
	var line bytes.Buffer
	line.WriteString(tag + " ")
	for _, p := range parts {
		lit, ok := p.(Literal)
		if !ok {
			fmt.Fprint(&line, p)
			continue
		}
		fmt.Fprintf(&line, "{%d}\r\n", len(lit))
		if _, err := c.w.Write(line.Bytes()); err != nil {
			return untagged, final, err
		}
		line.Reset()
		for {
			r, err := c.Read()
			if err != nil {
				return untagged, final, err
			}
			if r.Tag == "+" {
				break
			}
			if r.Tag == tag {
				return untagged, r, &Error{r}
			}
			untagged = append(untagged, r)
		}
		line.Write(lit)
	}
	line.WriteString("\r\n")
	if _, err := c.w.Write(line.Bytes()); err != nil {
		return untagged, final, err
	}
	for {
		r, err := c.Read()
		if err != nil {
			return untagged, final, err
		}
		if r.Tag == tag {
			if r.Kind() != "OK" {
				err = &Error{r}
			}
			return untagged, r, err
		}
		untagged = append(untagged, r)
	}
}

// Send writes a line as it stands: the answer to a "+".
func (c *Client) Send(line string) error {
	_, err := io.WriteString(c.w, line+"\r\n")
	return err
}

var errSyntax = errors.New("imap: response not understood")

// Read reads one response.
func (c *Client) Read() (r Response, err error) {
	p := parser{r: c.r}
	defer func() {
		if e, ok := recover().(parseError); ok {
			err = e.error
		}
	}()
	r.Tag = p.atom()
	if r.Tag == "+" {
		r.Text = p.rest()
		return r, nil
	}
	p.expect(' ')
	for {
		v := p.value(0)
		r.Values = append(r.Values, v)
		if len(r.Values) == 1 {
			switch strings.ToUpper(v.Text) {
			case "OK", "NO", "BAD", "BYE", "PREAUTH":
				p.status(&r)
				return r, nil
			}
		}
		if p.peek() == '\r' || p.peek() == '\n' {
			p.rest()
			return r, nil
		}
		p.expect(' ')
	}
}

// parser reads one response; parseError is how it ends early.
type parser struct {
	r    *bufio.Reader
	used int
}

type parseError struct{ error }

func (p *parser) peek() byte {
	b, err := p.r.Peek(1)
	if err != nil {
		panic(parseError{err})
	}
	return b[0]
}

func (p *parser) next() byte {
	c := p.peek()
	_, _ = p.r.Discard(1)
	if p.used++; p.used > MaxLine {
		panic(parseError{errSyntax})
	}
	return c
}

func (p *parser) expect(c byte) {
	if p.next() != c {
		panic(parseError{errSyntax})
	}
}

func (p *parser) rest() string {
	var b strings.Builder
	for {
		c := p.next()
		if c == '\n' {
			return strings.TrimSuffix(b.String(), "\r")
		}
		b.WriteByte(c)
	}
}

// status reads "[CODE args] text".
func (p *parser) status(r *Response) {
	if p.peek() != ' ' {
		p.rest()
		return
	}
	p.next()
	if p.peek() == '[' {
		p.next()
		for p.peek() != ']' {
			if p.peek() == ' ' {
				p.next()
				continue
			}
			r.Code = append(r.Code, p.value(0))
		}
		p.next()
		if p.peek() == ' ' {
			p.next()
		}
	}
	r.Text = p.rest()
}

// atom reads up to a blank or a bracket of the grammar. The section behind BODY
// belongs to it, whatever stands there.
func (p *parser) atom() string {
	var b strings.Builder
	inside := false
	for {
		c := p.peek()
		if c == '\r' || c == '\n' || !inside && (c == ' ' || c == '(' || c == ')' || c == '"' || c == '{' || c == ']') {
			break
		}
		if c == '[' {
			inside = b.Len() > 0
		}
		if c == ']' {
			inside = false
		}
		b.WriteByte(p.next())
	}
	if b.Len() == 0 {
		panic(parseError{errSyntax})
	}
	return b.String()
}

func (p *parser) value(depth int) Value {
	switch c := p.peek(); c {
	case '(':
		if depth > maxDepth {
			panic(parseError{errSyntax})
		}
		p.next()
		list := []Value{}
		for p.peek() != ')' {
			if p.peek() == ' ' {
				p.next()
				continue
			}
			list = append(list, p.value(depth+1))
		}
		p.next()
		return Value{List: list}
	case '"':
		p.next()
		var b strings.Builder
		for {
			c := p.next()
			if c == '"' {
				return Value{Text: b.String(), Quoted: true}
			}
			if c == '\\' {
				c = p.next()
			}
			b.WriteByte(c)
		}
	case '~', '{':
		if c == '~' {
			p.next()
		}
		return Value{Text: p.literal(), Quoted: true}
	}
	return Value{Text: p.atom()}
}

func (p *parser) literal() string {
	p.expect('{')
	n := 0
	for p.peek() != '}' {
		c := p.next()
		if c < '0' || c > '9' || n > MaxLiteral {
			panic(parseError{errSyntax})
		}
		n = n*10 + int(c-'0')
	}
	p.next()
	if p.peek() == '\r' {
		p.next()
	}
	p.expect('\n')
	if n > MaxLiteral {
		panic(parseError{errSyntax})
	}
	var b strings.Builder
	if _, err := io.CopyN(&b, p.r, int64(n)); err != nil {
		panic(parseError{err})
	}
	return b.String()
}
