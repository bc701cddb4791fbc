// Package maps opens look-up tables by the names that main.cf gives them:
// "hash:/etc/aliases", "pcre:/etc/postfix/checks", "socketmap:unix:/run/x:name".
//
//	hash btree lmdb dbm cdb     name.cdb, made by postmap or postalias
//	texthash regexp pcre cidr   text files, read whole
//	inline static fail environ  no file
//	unionmap pipemap randmap    made of others
//	unix                        passwd.byname, group.byname
//	socketmap tcp               another process answers
//
// It promises to tell "not there" from "could not ask": a table that is broken
// or silent gives an error, never a miss, so that mail waits instead of
// bouncing. A changed file is seen within a second. It knows keys and values,
// not addresses: in which order the parts of an address are tried is the
// business of route, alias and access.
package maps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"
)

// Table answers one question. Not finding the key is an answer; err means the
// table could not be asked, and then nobody may conclude anything.
type Table interface {
	Lookup(ctx context.Context, key string) (value string, ok bool, err error)
}

// Options shape what Open returns.
type Options struct {
	// KeepCase looks keys up as they are; otherwise they are folded to lower
	// case, but not for pattern tables, which fold by their own flags.
	KeepCase bool
	// Warn hears of lines that are skipped and of servers that do not answer,
	// without "warning: "; nil: nobody does.
	Warn func(format string, args ...any)
	// Timeout bounds one question to another process; 0: 100 s.
	Timeout time.Duration
	// Whole reads a database into memory, for many questions at once.
	Whole bool
	// IncludeValue reads values as names of files, base64 (postmap -F).
	IncludeValue bool
}

func (o Options) warnf(format string, args ...any) {
	if o.Warn != nil {
		o.Warn(format, args...)
	}
}

func (o Options) timeout() time.Duration {
	if o.Timeout > 0 {
		return o.Timeout
	}
	return 100 * time.Second
}

// OpenError is returned by Lookup when the table's file can't be opened.
type OpenError struct {
	File string
	Err  error
}

func (e *OpenError) Error() string {
	return fmt.Sprintf("open database %s: %s", e.File, Strerror(e.Err))
}

func (e *OpenError) Unwrap() error { return e.Err }

// Strerror is the error of the system in strerror(3)'s words, as the old
// programs log it.
func Strerror(err error) string {
	var no syscall.Errno
	switch {
	case errors.As(err, &no):
		return upperFirst(no.Error())
	case errors.Is(err, fs.ErrNotExist):
		return "No such file or directory"
	case errors.Is(err, fs.ErrPermission):
		return "Permission denied"
	}
	return err.Error()
}

// errApplication is what a table of type fail: says, in Postfix' words.
type errApplication struct{}

func (errApplication) Error() string { return "Application error" }

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// Open opens the table "type:name". It fails for a name that can't be a table;
// a file that is missing is an error of each Lookup, until it is there.
func Open(spec string, o Options) (Table, error) {
	kind, name, ok := strings.Cut(spec, ":")
	if kind == "proxy" || kind == "proxywrite" { // we open directly: no process is between
		return Open(name, o)
	}
	if !ok || kind == "" || name == "" {
		return nil, fmt.Errorf("open dictionary: expecting \"type:name\" form instead of %q", spec)
	}
	var t Table
	var err error
	switch kind {
	case "hash", "btree", "lmdb", "dbm", "cdb", "sdbm":
		t = newDB(name, o.Whole)
	case "texthash":
		t = &textFile{file: name, opt: o, parse: parseTexthash}
	case "regexp", "pcre":
		t = &textFile{file: name, opt: o, parse: patternParser(kind)}
		return t, nil
	case "cidr":
		t = &textFile{file: name, opt: o, parse: parseCIDR}
	case "inline":
		t, err = newInline(name)
	case "static":
		t, err = newStatic(name)
		return t, err
	case "nis":
		t, err = newNIS(o)
	case "internal":
		t = memory{}
	case "fail":
		t = failing{errApplication{}}
	case "environ":
		return environ{}, nil
	case "unix":
		t, err = newUnix(name)
	case "unionmap", "pipemap", "randmap":
		t, err = newCombined(kind, name, o)
		return t, err
	case "socketmap":
		t, err = newSocketmap(name, o)
	case "tcp":
		t = newTCP(name, o)
	default:
		return nil, fmt.Errorf("unsupported dictionary type: %s", kind)
	}
	if err != nil {
		return nil, err
	}
	if !o.KeepCase {
		t = folded{t}
	}
	return t, nil
}

// OpenList opens several tables as one: the first that has the key answers. An
// empty list is a table without keys.
func OpenList(specs []string, o Options) (Table, error) {
	var l list
	for _, spec := range specs {
		t, err := Open(spec, o)
		if err != nil {
			return nil, err
		}
		l = append(l, t)
	}
	if len(l) == 1 {
		return l[0], nil
	}
	return l, nil
}

// Failing is a table that can't be asked, for err's reason.
func Failing(err error) Table { return failing{err} }

// OpenAny is Open for daemons: a table that can't be had, for instance since we
// do not know its type, is one whose every look-up fails, with a warning now. It
// costs those a delay whose mail needs it, and not the service.
func OpenAny(spec string, o Options) Table {
	t, err := Open(spec, o)
	if err == nil {
		return t
	}
	if o.Warn != nil {
		o.Warn("%s is unavailable. %v", spec, err)
	}
	return Failing(fmt.Errorf("%s is unavailable. %w", spec, err))
}

// OpenListAny is OpenList of OpenAny.
func OpenListAny(specs []string, o Options) Table {
	if len(specs) == 1 {
		return OpenAny(specs[0], o)
	}
	l := make(list, len(specs))
	for i, spec := range specs {
		l[i] = OpenAny(spec, o)
	}
	return l
}

type list []Table

func (l list) Lookup(ctx context.Context, key string) (string, bool, error) {
	for _, t := range l {
		if v, ok, err := t.Lookup(ctx, key); ok || err != nil {
			return v, ok, err
		}
	}
	return "", false, nil
}

type folded struct{ Table }

func (t folded) Lookup(ctx context.Context, key string) (string, bool, error) {
	return t.Table.Lookup(ctx, strings.ToLower(key))
}
