package maps

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// Lines reads a table's text: logical lines with their first line's number.
// Lines that are empty or start with # do not count, also inside of a logical
// line; one that starts with white space continues the line before. See
// postmap(1).
func Lines(r io.Reader, f func(number int, line string) error) error {
	br := bufio.NewReaderSize(r, 32<<10)
	var logical []byte
	start, number := 0, 0
	flush := func() error {
		if start == 0 {
			return nil
		}
		line := strings.TrimRight(string(logical), " \t\r\n")
		n := start
		logical, start = logical[:0], 0
		return f(n, line)
	}
	for {
		part, err := readLine(br)
		if err == io.EOF {
			return flush()
		}
		if err != nil {
			return err
		}
		number++
		trimmed := bytes.TrimLeft(part, " \t\r\n\v\f")
		switch {
		case len(trimmed) == 0 || trimmed[0] == '#':
			continue
		case (part[0] == ' ' || part[0] == '\t') && start != 0:
			logical = append(logical, part...)
		default:
			if err := flush(); err != nil {
				return err
			}
			start, logical = number, append(logical, part...)
		}
	}
}

// maxText bounds a physical line of a table.
const maxText = 1 << 20

var errLongLine = errors.New("line too long")

// readLine returns a line without its line feed, valid until the next call.
func readLine(br *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		part, err := br.ReadSlice('\n')
		if err == nil && out == nil {
			return part[:len(part)-1], nil
		}
		out = append(out, part...)
		if len(out) > maxText {
			return nil, errLongLine
		}
		switch err {
		case nil:
			return out[:len(out)-1], nil
		case bufio.ErrBufferFull:
			continue
		case io.EOF:
			if len(out) > 0 {
				return out, nil
			}
		}
		return nil, err
	}
}

// SplitEntry parts "key value" at the white space behind the key; quoted
// stretches of the key may hold blanks.
func SplitEntry(line string) (key, value string) {
	quoted := false
	i := 0
	for ; i < len(line); i++ {
		c := line[i]
		if c == '\\' && quoted {
			i++
			continue
		}
		if c == '"' {
			quoted = !quoted
		}
		if !quoted && isSpace(c) {
			break
		}
	}
	if i > len(line) {
		i = len(line)
	}
	return line[:i], strings.TrimSpace(line[i:])
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// textFile is a table that is read whole from a text file, and again when that
// changed.
type textFile struct {
	file  string
	opt   Options
	parse func(file string, r io.Reader, o Options) (Table, error)

	mu     sync.Mutex
	table  Table
	info   os.FileInfo
	looked time.Time
}

func (t *textFile) Lookup(ctx context.Context, key string) (string, bool, error) {
	table, err := t.fresh()
	if err != nil {
		return "", false, err
	}
	return table.Lookup(ctx, key)
}

func (t *textFile) fresh() (Table, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.table != nil && now.Sub(t.looked) < recheck {
		return t.table, nil
	}
	f, err := os.Open(t.file)
	if err != nil {
		if t.table != nil && os.IsPermission(err) {
			return t.table, nil
		}
		return nil, &OpenError{t.file, err}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, &OpenError{t.file, err}
	}
	t.looked = now
	if t.table != nil && os.SameFile(info, t.info) && info.ModTime().Equal(t.info.ModTime()) && info.Size() == t.info.Size() {
		return t.table, nil
	}
	table, err := t.parse(t.file, f, t.opt)
	if err != nil {
		return nil, &OpenError{t.file, err}
	}
	t.table, t.info = table, info
	return table, nil
}

// memory is a table in memory.
type memory map[string]string

func (m memory) Lookup(_ context.Context, key string) (string, bool, error) {
	v, ok := m[key]
	return v, ok, nil
}

func parseTexthash(file string, r io.Reader, o Options) (Table, error) {
	m := memory{}
	err := Lines(r, func(number int, line string) error {
		key, value, err := Entry(line, o)
		if err != nil {
			o.warnf("%s, line %d: %v", file, number, err)
			return nil
		}
		if strings.HasSuffix(key, ":") {
			o.warnf("%s, line %d: record is in \"key: value\" format; is this an alias file?", file, number)
		}
		if _, ok := m[key]; ok {
			o.warnf("%s, line %d: duplicate entry: %q", file, number, key)
			return nil
		}
		m[key] = value
		return nil
	})
	return m, err
}

// ErrFormat is a line without a value.
var ErrFormat = errors.New("expected format: key whitespace value")

// Entry reads one line of a table as postmap does: the key folded unless told
// otherwise, the value read from files if it names some.
func Entry(line string, o Options) (key, value string, err error) {
	key, value = SplitEntry(line)
	if key == "" || value == "" {
		return "", "", ErrFormat
	}
	if !o.KeepCase {
		key = strings.ToLower(key)
	}
	if o.IncludeValue {
		value, err = includeFiles(value)
	}
	return key, value, err
}

// includeFiles is the value of postmap -F: the named files, one after the
// other, in base64.
func includeFiles(names string) (string, error) {
	var all []byte
	for _, name := range strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", &OpenError{name, err}
		}
		all = append(all, data...)
		if len(data) > 0 && data[len(data)-1] != '\n' {
			all = append(all, '\n')
		}
	}
	return base64.StdEncoding.EncodeToString(all), nil
}
