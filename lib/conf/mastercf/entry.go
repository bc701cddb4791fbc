package mastercf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"angarium/lib/logical"
)

// Field numbers of an Entry.
const (
	FieldName = iota
	FieldType
	FieldPrivate
	FieldUnprivileged
	FieldChroot
	FieldWakeup
	FieldProcessLimit
	FieldCommand
	Fields // how many an entry has at least
)

// FieldNames are the names that postconf -F shows.
func FieldNames() []string {
	return []string{"service", "type", "private", "unprivileged", "chroot", "wakeup", "process_limit", "command"}
}

// Entry is one entry with its fields as they were written ("-" stays "-"),
// arguments following the command.
type Entry struct {
	Field []string
	Line  int
}

// ReadEntries reads the whole file for postconf.
func ReadEntries(path string, warn func(string)) ([]Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, openError(path, err)
	}
	defer f.Close()
	return readEntries(f, path, warn)
}

func readEntries(r io.Reader, path string, warn func(string)) ([]Entry, error) {
	var entries []Entry
	lines := logical.NewReader(r, path, warn)
	for lines.Next() {
		e, err := ParseEntry(lines.Text(), warn)
		if errors.Is(err, ErrFieldCount) {
			return nil, fmt.Errorf("file %s: line %d: %w", path, lines.Line(), err)
		}
		if err != nil {
			return nil, err
		}
		e.Line = lines.Line()
		entries = append(entries, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, reason(err))
	}
	return entries, nil
}

// ErrFieldCount says that an entry is too short.
var ErrFieldCount = errors.New("bad field count")

// ParseEntry reads one entry.
func ParseEntry(text string, warn func(string)) (Entry, error) {
	e := Entry{Field: logical.Tokens(text, blanks)}
	if len(e.Field) < Fields {
		return e, ErrFieldCount
	}
	if err := e.check(text); err != nil {
		return e, err
	}
	e.normalize(warn)
	return e, nil
}

func (e *Entry) normalize(warn func(string)) {
	e.Field = append(e.Field[:Fields:Fields], arguments(e.Field[Fields:], func(text string) {
		if warn != nil {
			warn("master.cf: " + text)
		}
	})...)
}

// SetField replaces a field; the command is replaced with its arguments.
func (e *Entry) SetField(field int, value string, warn func(string)) error {
	if field == FieldCommand {
		e.Field = append(e.Field[:FieldCommand:FieldCommand], logical.Tokens(value, blanks)...)
		if len(e.Field) < Fields {
			return ErrFieldCount
		}
		e.normalize(warn)
	} else {
		e.Field[field] = value
	}
	return e.check(value)
}

// Overrides are the name=value of the -o options, in their order.
func (e *Entry) Overrides() []string { return overrides(e.Field[Fields:]) }

// SetOverride sets -o name=value wherever it stands, or after the last option.
func (e *Entry) SetOverride(name, value string) {
	args, found := e.Field, false
	i := Fields
	for ; i < len(args) && strings.HasPrefix(args[i], "-") && args[i] != "--"; i++ {
		if args[i] != "-o" {
			continue
		}
		if i+1 == len(args) {
			break // a last -o without a value must not swallow ours
		}
		if i++; strings.HasPrefix(args[i], name+"=") {
			args[i], found = name+"="+value, true
		}
	}
	if !found {
		args = append(args[:i:i], append([]string{"-o", name + "=" + value}, args[i:]...)...)
	}
	e.Field = args
}

// DropOverride removes -o name=value.
func (e *Entry) DropOverride(name string) {
	args := e.Field
	for i := Fields; i < len(args) && strings.HasPrefix(args[i], "-") && args[i] != "--"; i++ {
		if args[i] != "-o" || i+1 == len(args) {
			continue
		}
		if strings.HasPrefix(args[i+1], name+"=") {
			args = append(args[:i:i], args[i+2:]...)
			i--
		} else {
			i++
		}
	}
	e.Field = args
}

// check looks at the fields with a fixed syntax; text is shown in errors.
func (e *Entry) check(text string) error {
	bad := func(field int) error {
		return fmt.Errorf("invalid %s field \"%s\" in \"%s\"", FieldNames()[field], e.Field[field], strings.ReplaceAll(text, "\n", " "))
	}
	switch e.Field[FieldType] {
	case "inet", "unix", "fifo", "pass", "unix-dgram":
	default:
		return bad(FieldType)
	}
	for f := FieldPrivate; f <= FieldChroot; f++ {
		if v := e.Field[f]; v != "y" && v != "n" && v != "-" {
			return bad(f)
		}
	}
	if v := strings.TrimSuffix(e.Field[FieldWakeup], "?"); v != "-" && strings.Trim(v, "0123456789") != "" {
		return bad(FieldWakeup)
	}
	if v := e.Field[FieldProcessLimit]; v != "-" && strings.Trim(v, "0123456789") != "" {
		return bad(FieldProcessLimit)
	}
	return nil
}
