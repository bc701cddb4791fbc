package postmap

import (
	"bufio"
	"io"
	"strings"
)

// maxLine bounds a key from standard input, in octets.
const maxLine = 1 << 20

// keys calls f for each key of standard input: a line each, or with -h and -b
// the header fields and body lines of a message.
func keys(r io.Reader, f flags, ask func(string) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 32<<10), maxLine)
	if !f.header && !f.body {
		for sc.Scan() {
			if err := ask(sc.Text()); err != nil {
				return err
			}
		}
		return sc.Err()
	}
	field, inHeader := "", true
	flush := func() error {
		if field == "" || !f.header {
			field = ""
			return nil
		}
		key := field
		field = ""
		return ask(key)
	}
	for sc.Scan() {
		line := sc.Text()
		if inHeader {
			switch {
			case field != "" && line != "" && (line[0] == ' ' || line[0] == '\t'):
				field += "\n" + line
				continue
			case isHeader(line):
				if err := flush(); err != nil {
					return err
				}
				field = line
				continue
			}
			inHeader = false
			if err := flush(); err != nil {
				return err
			}
			if !f.body {
				return nil
			}
		}
		if line == "" {
			continue
		}
		if err := ask(line); err != nil {
			return err
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return sc.Err()
}

// isHeader reports whether a line starts a header field, RFC 5322, section 2.2.
func isHeader(line string) bool {
	i := strings.IndexByte(line, ':')
	if i <= 0 {
		return false
	}
	name := strings.TrimRight(line[:i], " \t")
	for j := 0; j < len(name); j++ {
		if name[j] <= ' ' || name[j] >= 127 {
			return false
		}
	}
	return name != ""
}
