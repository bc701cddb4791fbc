// Package cyrusconf reads cyrus.conf(5): what cyrmaster runs at its start, serves,
// does by the clock, and keeps alive.
//
// It promises to load what Cyrus 2.2 to 3.6 loads, and to complain in Cyrus' words
// with file and line. It does not know what the commands do.
package cyrusconf

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// DefaultPath is where the file lies unless -M says otherwise.
const DefaultPath = "/etc/cyrus.conf"

// Config is a cyrus.conf.
type Config struct {
	Start    []Entry
	Services []Entry
	Events   []Entry
	Daemons  []Entry
	Warnings []string // with file and line
}

// Entry is one line of a section: a name and key=value arguments.
type Entry struct {
	Name string
	Line int

	keys, values []string
}

// String is the value of key, or fallback if the line doesn't give one. Keys are
// found whatever their case.
func (e *Entry) String(key, fallback string) string {
	for i, k := range e.keys {
		if strings.EqualFold(k, key) {
			return e.values[i]
		}
	}
	return fallback
}

// Int is the value of key as a number, as atoi(3) would see it: Cyrus takes
// "10 " and "10x" as 10, and "x" as 0.
func (e *Entry) Int(key string, fallback int) int {
	s := strings.TrimSpace(e.String(key, ""))
	if e.String(key, "\x00") == "\x00" {
		return fallback
	}
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || end == 0 && (s[end] == '-' || s[end] == '+')) {
		end++
	}
	n, _ := strconv.Atoi(s[:end])
	return n
}

// Bool is the value of key as a switch: 1, y, yes, t, true, on.
func (e *Entry) Bool(key string, fallback bool) bool {
	s := strings.ToLower(e.String(key, ""))
	switch {
	case s == "":
		return fallback
	case s[0] == '1' || s[0] == 'y' || s[0] == 't' || s == "on":
		return true
	}
	return false
}

// Words is the command split at blanks, as Cyrus splits it: there is no quoting.
func (e *Entry) Words() []string { return strings.Fields(e.String("cmd", "")) }

// Load reads the file ("": DefaultPath).
func Load(path string) (*Config, error) {
	if path == "" {
		path = DefaultPath
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("can't open configuration file %s: %w", path, cause(err))
	}
	defer f.Close()
	return Parse(f, path)
}

// cause is the system's word for an error: the message names the file already.
func cause(err error) error {
	if pe, ok := err.(*os.PathError); ok {
		return pe.Err
	}
	return err
}

// maxLine is how long a line may be; Cyrus reads 4095 bytes.
const maxLine = 64 << 10

// Parse reads a configuration; name is for messages.
func Parse(r io.Reader, name string) (*Config, error) {
	c := &Config{}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	var section *[]Entry
	depth, n := 0, 0
	for lines.Scan() {
		n++
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		if depth == 0 {
			word := alnum(text)
			rest := strings.TrimSpace(text[len(word):])
			if !strings.HasPrefix(rest, "{") {
				c.Warnings = append(c.Warnings, fmt.Sprintf("configuration file %s: line %d is in no section", name, n))
				continue
			}
			depth = 1
			switch strings.ToUpper(word) {
			case "START":
				section = &c.Start
			case "SERVICES":
				section = &c.Services
			case "EVENTS":
				section = &c.Events
			case "DAEMON":
				section = &c.Daemons
			default:
				section = nil
				c.Warnings = append(c.Warnings, fmt.Sprintf("configuration file %s: unknown section %s on line %d", name, word, n))
			}
			continue
		}
		if text[0] == '}' {
			depth, section = 0, nil
			continue
		}
		if section == nil {
			continue
		}
		e, err := parseEntry(text, name, n)
		if err != nil {
			return nil, err
		}
		*section = append(*section, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("configuration file %s: %w on line %d", name, err, n+1)
	}
	return c, nil
}

// maxArguments is how many key=value pairs a line may have, as in Cyrus.
const maxArguments = 64

func parseEntry(text, name string, n int) (Entry, error) {
	e := Entry{Name: alnum(text), Line: n}
	rest := text[len(e.Name):]
	if e.Name == "" || rest != "" && !blank(rest[0]) {
		return e, fmt.Errorf("configuration file %s: bad character '%c' in name on line %d", name, rest[0], n)
	}
	for {
		rest = strings.TrimLeft(rest, " \t\r")
		if rest == "" || rest[0] == '#' {
			return e, nil
		}
		key := alnum(rest)
		rest = rest[len(key):]
		if key == "" || rest == "" || rest[0] != '=' {
			bad := byte('\n')
			if rest != "" {
				bad = rest[0]
			}
			return e, fmt.Errorf("configuration file %s: bad character '%c' in argument on line %d", name, bad, n)
		}
		rest = rest[1:]
		var value string
		if rest != "" && rest[0] == '"' {
			end := strings.IndexByte(rest[1:], '"')
			if end < 0 {
				return e, fmt.Errorf("configuration file %s: missing \" on line %d", name, n)
			}
			value, rest = rest[1:1+end], rest[2+end:]
		} else {
			value = rest
			if end := strings.IndexAny(rest, " \t\r"); end >= 0 {
				value = rest[:end]
			}
			rest = rest[len(value):]
		}
		if len(e.keys) == maxArguments {
			return e, fmt.Errorf("configuration file %s: too many arguments on line %d", name, n)
		}
		e.keys, e.values = append(e.keys, key), append(e.values, value)
	}
}

// alnum is the leading run of letters and digits.
func alnum(s string) string {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < '0' || c > '9' && c < 'A' || c > 'Z' && c < 'a' || c > 'z' {
			return s[:i]
		}
	}
	return s
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }
