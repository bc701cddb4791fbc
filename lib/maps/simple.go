package maps

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
)

type failing struct{ err error }

func (t failing) Lookup(context.Context, string) (string, bool, error) { return "", false, t.err }

type static string

func (t static) Lookup(context.Context, string) (string, bool, error) { return string(t), true, nil }

func newStatic(name string) (Table, error) {
	if strings.HasPrefix(name, "{") {
		inner, rest, ok := braced(name)
		if !ok || rest != "" {
			return nil, fmt.Errorf("bad static:{} syntax: %q", "static:"+name)
		}
		return static(inner), nil
	}
	return static(name), nil
}

type environ struct{}

func (environ) Lookup(_ context.Context, key string) (string, bool, error) {
	v, ok := os.LookupEnv(key)
	return v, ok, nil
}

// braced takes "{text}" from the start of s; the text's outer white space goes.
func braced(s string) (inner, rest string, ok bool) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return strings.TrimSpace(s[1:i]), s[i+1:], true
			}
		}
	}
	return "", "", false
}

// group reads "{ item, item, {item with blanks} }".
func group(spec string) ([]string, error) {
	if !strings.HasPrefix(spec, "{") {
		return nil, fmt.Errorf("missing '{' in %q", spec)
	}
	inner, rest, ok := braced(spec)
	if !ok || rest != "" {
		return nil, fmt.Errorf("missing '}' in %q", spec)
	}
	var items []string
	for {
		inner = strings.TrimLeft(inner, ", \t\r\n")
		if inner == "" {
			return items, nil
		}
		if inner[0] == '{' {
			var item string
			if item, inner, ok = braced(inner); !ok {
				return nil, fmt.Errorf("missing '}' in %q", spec)
			}
			items = append(items, item)
			continue
		}
		end, depth := 0, 0
		for ; end < len(inner); end++ {
			if c := inner[end]; c == '{' {
				depth++
			} else if c == '}' {
				depth--
			} else if depth == 0 && strings.IndexByte(", \t\r\n", c) >= 0 {
				break
			}
		}
		items, inner = append(items, inner[:end]), inner[end:]
	}
}

func newInline(name string) (Table, error) {
	items, err := group(name)
	if err != nil {
		return nil, fmt.Errorf("%w; need \"inline:{name=value...}\"", err)
	}
	m := memory{}
	for _, item := range items {
		key, value, ok := strings.Cut(item, "=")
		if !ok {
			return nil, fmt.Errorf("missing '=' after attribute name: \"inline:%s\"; need \"inline:{name=value...}\"", name)
		}
		m[strings.ToLower(strings.TrimSpace(key))] = strings.TrimSpace(value)
	}
	if len(m) == 0 {
		return nil, fmt.Errorf("empty table: \"inline:%s\"; need \"inline:{name=value...}\"", name)
	}
	return m, nil
}

// combined is a table made of others: unionmap joins all answers, pipemap
// feeds each with the answer before.
type combined struct {
	tables []Table
	pipe   bool
}

func (t combined) Lookup(ctx context.Context, key string) (string, bool, error) {
	var all []string
	for _, part := range t.tables {
		v, ok, err := part.Lookup(ctx, key)
		switch {
		case err != nil:
			return "", false, err
		case t.pipe && !ok:
			return "", false, nil
		case t.pipe:
			key = v
		case ok:
			all = append(all, v)
		}
	}
	if t.pipe {
		return key, true, nil
	}
	return strings.Join(all, ","), len(all) > 0, nil
}

type random []string

func (t random) Lookup(context.Context, string) (string, bool, error) {
	return t[rand.IntN(len(t))], true, nil
}

func newCombined(kind, name string, o Options) (Table, error) {
	items, err := group(name)
	if err == nil && len(items) == 0 {
		err = fmt.Errorf("empty table: \"%s:%s\"", kind, name)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; need \"%s:{type:name...}\"", err, kind)
	}
	if kind == "randmap" {
		return random(items), nil
	}
	c := combined{pipe: kind == "pipemap"}
	for _, item := range items {
		t, err := Open(item, o)
		if err != nil {
			return nil, err
		}
		c.tables = append(c.tables, t)
	}
	return c, nil
}

// newNIS is an empty table on a machine that belongs to no NIS domain, as most
// do: Debian's alias_maps names one by default. We can't ask a real one.
func newNIS(o Options) (Table, error) {
	name, err := os.ReadFile("/proc/sys/kernel/domainname")
	if d := strings.TrimSpace(string(name)); err == nil && d != "" && d != "(none)" {
		return nil, errors.New("unsupported dictionary type: nis")
	}
	if o.Warn != nil {
		o.Warn("dict_nis_init: NIS domain name not set - NIS lookups disabled")
	}
	return memory{}, nil
}
