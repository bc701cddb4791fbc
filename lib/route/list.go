package route

import (
	"bufio"
	"context"
	"os"
	"strings"
)

// List is a domain list as mydestination, relay_domains and
// virtual_alias_domains hold it: names, /file names, type:table look-ups, each
// perhaps negated with "!". The first that matches decides.
type List struct{ items []listItem }

type listItem struct {
	not   bool
	name  string // lower case; or
	table Table
}

// ParseList reads patterns. open opens a type:table; old makes a name match
// its subdomains too (parent_domain_matches_subdomains).
func ParseList(patterns []string, old bool, open func(spec string) (Table, error)) (*List, error) {
	l := &List{}
	return l, l.add(patterns, old, open, 0)
}

func (l *List) add(patterns []string, old bool, open func(string) (Table, error), depth int) error {
	for _, p := range patterns {
		item := listItem{}
		for strings.HasPrefix(p, "!") {
			item.not, p = !item.not, p[1:]
		}
		switch {
		case strings.HasPrefix(p, "/") && depth < 8:
			words, err := readWords(p)
			if err != nil {
				return err
			}
			sub := &List{}
			if err := sub.add(words, old, open, depth+1); err != nil {
				return err
			}
			item.table = listTable{sub}
		case strings.ContainsRune(p, ':') && !strings.HasPrefix(p, "["):
			t, err := open(p)
			if err != nil {
				return err
			}
			item.table = domainTable{t, old}
		default:
			item.name = strings.ToLower(p)
			if old && !strings.HasPrefix(p, ".") && !strings.HasPrefix(p, "[") {
				item.table = subdomains{item.name}
				item.name = ""
			}
		}
		l.items = append(l.items, item)
	}
	return nil
}

// Match implements Domains. A nil list matches nothing.
func (l *List) Match(ctx context.Context, domain string) (bool, error) {
	if l == nil {
		return false, nil
	}
	domain = strings.ToLower(domain)
	for _, item := range l.items {
		hit := item.name == domain
		if item.table != nil {
			_, ok, err := item.table.Lookup(ctx, domain)
			if err != nil {
				return false, err
			}
			hit = ok
		} else if strings.HasPrefix(item.name, ".") {
			hit = strings.HasSuffix(domain, item.name)
		}
		if hit {
			return !item.not, nil
		}
	}
	return false, nil
}

// Empty reports whether nothing can match.
func (l *List) Empty() bool { return l == nil || len(l.items) == 0 }

func readWords(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var words []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := sc.Text()
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		words = append(words, strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' })...)
	}
	return words, nil
}

type listTable struct{ *List }

func (t listTable) Lookup(ctx context.Context, key string) (string, bool, error) {
	ok, err := t.Match(ctx, key)
	return "", ok, err
}

type subdomains struct{ name string }

func (s subdomains) Lookup(_ context.Context, key string) (string, bool, error) {
	ok := key == s.name || strings.HasSuffix(key, "."+s.name)
	return "", ok, nil
}

// domainTable asks for the domain and, in the way the list has it, its parents.
type domainTable struct {
	Table
	old bool
}

func (t domainTable) Lookup(ctx context.Context, key string) (string, bool, error) {
	if v, ok, err := t.Table.Lookup(ctx, key); ok || err != nil || !t.old {
		return v, ok, err
	}
	for _, k := range parents(key, true) {
		if v, ok, err := t.Table.Lookup(ctx, k); ok || err != nil {
			return v, ok, err
		}
	}
	return "", false, nil
}
