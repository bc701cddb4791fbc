package ipc

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Attr is a name and a value, as Postfix' programs exchange them. On the wire
// both end in a NUL, and one more NUL ends a list.
type Attr struct{ Name, Value string }

// maxAttr bounds a name or a value from the other side.
const maxAttr = 100_000

// AppendAttrs appends attributes without the end of the list. A NUL in a value
// would begin another attribute; it becomes "?".
func AppendAttrs(b []byte, attrs ...Attr) []byte {
	for _, a := range attrs {
		b = append(appendText(b, a.Name), 0)
		b = append(appendText(b, a.Value), 0)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", "?")
	}
	return append(b, s...)
}

// EndAttrs appends the end of a list.
func EndAttrs(b []byte) []byte { return append(b, 0) }

// ReadAttr reads one attribute; more is false at the end of a list.
func ReadAttr(r *bufio.Reader) (a Attr, more bool, err error) {
	if a.Name, err = readText(r); err != nil || a.Name == "" {
		return Attr{}, false, err
	}
	if a.Value, err = readText(r); err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return a, true, err
}

// ReadAttrs reads a list to its end. io.EOF: there was none.
func ReadAttrs(r *bufio.Reader) ([]Attr, error) {
	var list []Attr
	for {
		a, more, err := ReadAttr(r)
		if err == io.EOF && len(list) > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil || !more {
			return list, err
		}
		if list = append(list, a); len(list) > maxAttr {
			return nil, fmt.Errorf("too many attributes")
		}
	}
}

// Get is the value of a name in a list, "" if it is not there.
func Get(list []Attr, name string) string {
	for _, a := range list {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}

func readText(r *bufio.Reader) (string, error) {
	var long []byte
	for {
		part, err := r.ReadSlice(0)
		if err == bufio.ErrBufferFull && len(long) < maxAttr {
			long = append(long, part...)
			continue
		}
		if err == bufio.ErrBufferFull {
			return "", fmt.Errorf("attribute too long")
		}
		if err != nil {
			if len(part)+len(long) > 0 && err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		return string(append(long, part[:len(part)-1]...)), nil
	}
}
