package imapdconf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Load reads the file ("": DefaultPath) and what it includes. Its errors are in
// the words of the old programs, which put "fatal error: " before them.
func Load(file string) (*Config, error) {
	if file == "" {
		file = DefaultPath
	}
	r := &reader{seen: map[string]bool{}, keys: map[string]bool{}}
	if err := r.file(file); err != nil {
		return nil, err
	}
	return r.config()
}

// Parse reads a configuration from in; name is for messages and the folder of
// relative @include lines.
func Parse(in io.Reader, name string) (*Config, error) {
	r := &reader{seen: map[string]bool{name: true}, keys: map[string]bool{}}
	if err := r.read(in, name); err != nil {
		return nil, err
	}
	return r.config()
}

type reader struct {
	lines []line
	seen  map[string]bool // files
	keys  map[string]bool
}

// config checks what concerns the whole.
func (r *reader) config() (*Config, error) {
	c := view(r.lines, "")
	if c.String("configdirectory") == "" {
		return nil, errors.New("configdirectory option not specified in configuration file")
	}
	for _, b := range []byte(c.String("defaultpartition")) {
		if !alnum(b) {
			return nil, errors.New("defaultpartition option contains non-alnum character")
		}
	}
	return c, nil
}

func (r *reader) file(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("can't open configuration file %s: %s", name, cause(err))
	}
	defer f.Close()
	if r.seen[name] {
		return fmt.Errorf("configuration file %s included twice", name)
	}
	r.seen[name] = true
	return r.read(f, name)
}

// cause is the bare reason, in the words of strerror(3).
func cause(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		s := errno.Error()
		return strings.ToUpper(s[:1]) + s[1:]
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

func (r *reader) read(in io.Reader, name string) error {
	br := bufio.NewReader(in)
	var whole strings.Builder // a line and what continues it
	for num := 1; ; num++ {
		text, err := br.ReadString('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("can't read configuration file %s: %s", name, cause(err))
		}
		last := err == io.EOF
		if part, ok := strings.CutSuffix(text, "\\\n"); ok {
			whole.WriteString(part)
			continue
		}
		whole.WriteString(strings.TrimSuffix(text, "\n"))
		if err := r.line(strings.TrimSpace(whole.String()), name, num); err != nil {
			return err
		}
		if last {
			return nil
		}
		whole.Reset()
	}
}

func alnum(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
}

func (r *reader) line(text, name string, num int) error {
	if text == "" || text[0] == '#' {
		return nil
	}
	i := 0
	if text[0] == '@' {
		i++
	}
	start := i
	for i < len(text) && (alnum(text[i]) || text[i] == '-' || text[i] == '_') {
		i++
	}
	if i == start || i == len(text) || text[i] != ':' {
		return fmt.Errorf("invalid option name on line %d of configuration file %s", num, name)
	}
	l := line{name, num, strings.ToLower(text[:i]), strings.TrimSpace(text[i+1:])}
	switch {
	case l.value == "":
		return fmt.Errorf("empty option value on line %d of configuration file", num)
	case l.key == "@include":
		file := l.value
		if _, err := os.Stat(file); err != nil && !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(name), file) // Cyrus knows only its working directory
		}
		return r.file(file)
	case strings.HasPrefix(l.key, "@"):
		return fmt.Errorf("invalid directive on line %d of configuration file %s", num, name)
	case r.keys[l.key]:
		return fmt.Errorf("option '%s' was specified twice in config file (second occurrence on line %d)", l.key, num)
	}
	r.keys[l.key] = true
	if o, ok := Lookup(l.key); ok {
		if err := check(o, l); err != nil {
			return err
		}
	} else if o, ok := prefixed(l.key, nil); ok {
		if err := check(o, l); err != nil {
			return err
		}
	}
	r.lines = append(r.lines, l)
	return nil
}

// check refuses a value that the type does not have.
func check(o Option, l line) error {
	v := l.value
	bad := func(v string) error { return fmt.Errorf("invalid value '%s' for %s in line %d", v, o.Name, l.num) }
	switch o.Type {
	case Int:
		if _, ok := parseInt(o, v); !ok {
			return fmt.Errorf("non-integer value for %s in line %d", o.Name, l.num)
		}
	case Switch:
		if _, ok := parseSwitch(v); !ok {
			return fmt.Errorf("non-switch value for %s in line %d", o.Name, l.num)
		}
	case Duration:
		if _, err := ParseDuration(v, o.Unit); err != nil {
			return fmt.Errorf("unparsable duration '%s' for %s in line %d", v, o.Name, l.num)
		}
	case Enum, Choice:
		if word(o, v) == "" {
			return bad(enumWord(o, v))
		}
	case Bits:
		for _, w := range strings.Fields(v) {
			if word(o, w) == "" {
				return bad(w)
			}
		}
	}
	return nil
}

// Canonical is a good value as cyr_info shows it.
func Canonical(o Option, v string) string {
	switch o.Type {
	case Int:
		n, _ := parseInt(o, v)
		return fmt.Sprint(n)
	case Switch:
		if on, _ := parseSwitch(v); on {
			return "yes"
		}
		return "no"
	case Enum, Choice:
		return word(o, v)
	case Bits:
		return bits(o, v)
	}
	return v
}

// bits lists the words that v switches on, under all of their names, in the order
// of the definition.
func bits(o Option, v string) string {
	var on []string
	for _, group := range strings.Fields(o.Words) {
		names := strings.Split(group, "|")
		for _, w := range strings.Fields(v) {
			if word(o, w) == names[0] {
				on = append(on, names...)
				break
			}
		}
	}
	return strings.Join(on, " ")
}

// enumWord reads the words for on and off.
func enumWord(o Option, v string) string {
	if o.Type == Enum {
		switch v {
		case "1", "yes", "t", "true":
			return "on"
		case "0", "no", "f", "false":
			return "off"
		}
	}
	return v
}

// word is the proper name of one of an option's words, "" if it has none such.
func word(o Option, v string) string {
	v = enumWord(o, v)
	for _, names := range strings.Fields(o.Words) {
		for _, name := range strings.Split(names, "|") {
			if name == v {
				proper, _, _ := strings.Cut(names, "|")
				return proper
			}
		}
	}
	return ""
}

// parseSwitch looks at the first letters only, as Cyrus does.
func parseSwitch(v string) (on, ok bool) {
	switch {
	case v == "":
	case strings.ContainsRune("0nf", rune(v[0])) || strings.HasPrefix(v, "of"):
		return false, true
	case strings.ContainsRune("1yt", rune(v[0])) || strings.HasPrefix(v, "on"):
		return true, true
	}
	return false, false
}

// parseInt reads decimal, 0x and 0 notation. An option that counts octets takes
// K, M and G behind the number as later versions of Cyrus do.
func parseInt(o Option, v string) (int64, bool) {
	neg := false
	if v != "" && (v[0] == '-' || v[0] == '+') {
		neg, v = v[0] == '-', v[1:]
	}
	base := int64(10)
	switch {
	case len(v) > 2 && (v[:2] == "0x" || v[:2] == "0X"):
		base, v = 16, v[2:]
	case len(v) > 1 && v[0] == '0':
		base, v = 8, v[1:]
	}
	shift := 0
	if o.Unit == 'B' && len(v) > 1 && base == 10 {
		if i := strings.IndexByte("kmgKMG", v[len(v)-1]); i >= 0 {
			shift, v = 10*(i%3+1), v[:len(v)-1]
		}
	}
	if v == "" {
		return 0, false
	}
	var n int64
	for _, b := range []byte(v) {
		d := int64(strings.IndexByte("0123456789abcdef", b|0x20))
		if b >= '0' && b <= '9' {
			d = int64(b - '0')
		}
		if d < 0 || d >= base || n > math.MaxInt32 {
			return 0, false
		}
		n = n*base + d
	}
	if n <<= shift; neg {
		n = -n
	}
	return n, true
}

// ParseDuration reads "1h30m"; unit is that of a bare number: d, h, m or s.
func ParseDuration(v string, unit byte) (time.Duration, error) {
	bad := fmt.Errorf("unparsable duration '%s'", v)
	rest, neg := strings.CutPrefix(v, "-")
	if rest == "" {
		return 0, bad
	}
	if b := rest[len(rest)-1]; b >= '0' && b <= '9' {
		if unit == 0 {
			unit = 's'
		}
		rest += string(unit)
	}
	var total, n int64
	digit := false
	for _, b := range []byte(rest) {
		if b >= '0' && b <= '9' {
			if n = n*10 + int64(b-'0'); n > math.MaxInt32 {
				return 0, bad
			}
			digit = true
			continue
		}
		if !digit {
			return 0, bad
		}
		switch b {
		case 'd':
			n *= 24 * 3600
		case 'h':
			n *= 3600
		case 'm':
			n *= 60
		case 's':
		default:
			return 0, bad
		}
		if total += n; total > math.MaxInt32 {
			return 0, bad
		}
		n, digit = 0, false
	}
	if neg {
		total = -total
	}
	return time.Duration(total) * time.Second, nil
}
