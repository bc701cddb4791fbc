package access

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// Hosts is a list of clients such as mynetworks: addresses, networks
// (192.0.2.0/24, [2001:db8::]/32), names, /file names, type:table look-ups, each
// perhaps negated with "!". The first that matches decides.
type Hosts struct {
	items []hostItem
	// parents: a name stands for its subdomains too.
	parents bool
}

type hostItem struct {
	not    bool
	prefix netip.Prefix // valid: a network
	name   string
	table  Table
}

// ParseHosts reads a list. parents makes a name match its subdomains
// (parent_domain_matches_subdomains); open opens tables.
func ParseHosts(words []string, parents bool, open func(spec string) (Table, error)) (*Hosts, error) {
	h := &Hosts{parents: parents}
	return h, h.add(words, false, open, 0)
}

func (h *Hosts) add(words []string, not bool, open func(string) (Table, error), depth int) error {
	for _, w := range words {
		it := hostItem{not: not}
		for strings.HasPrefix(w, "!") {
			w, it.not = strings.TrimSpace(w[1:]), !it.not
		}
		switch {
		case w == "":
			continue
		case strings.HasPrefix(w, "/"):
			if depth > 5 {
				return fmt.Errorf("%s: files that name each other", w)
			}
			more, err := fileWords(w)
			if err != nil {
				return err
			}
			if err := h.add(more, it.not, open, depth+1); err != nil {
				return err
			}
			continue
		case isNetwork(w):
			p, err := parseNetwork(w)
			if err != nil {
				return err
			}
			it.prefix = p
		case strings.Contains(w, ":"):
			t, err := open(w)
			if err != nil {
				return err
			}
			it.table = t
		default:
			it.name = strings.ToLower(w)
		}
		h.items = append(h.items, it)
	}
	return nil
}

func fileWords(name string) ([]string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			out = append(out, Words(line)...)
		}
	}
	return out, nil
}

// isNetwork tells an address from type:table: IPv6 stands in brackets.
func isNetwork(w string) bool {
	return w[0] == '[' || w[0] >= '0' && w[0] <= '9' && strings.Trim(w, "0123456789./") == ""
}

func parseNetwork(w string) (netip.Prefix, error) {
	addr, bits, slash := strings.Cut(strings.NewReplacer("[", "", "]", "").Replace(w), "/")
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("bad net/mask pattern: %q", w)
	}
	if !slash {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(addr + "/" + bits)
	if err != nil || p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("non-null host address bits in %q, perhaps you should use %q instead", w, p.Masked())
	}
	return p, nil
}

// Match reports whether a client is on the list. A nil list matches nobody.
func (h *Hosts) Match(ctx context.Context, name string, a netip.Addr) (bool, error) {
	if h == nil {
		return false, nil
	}
	name = strings.ToLower(name)
	for i := range h.items {
		it := &h.items[i]
		hit := false
		switch {
		case it.prefix.IsValid():
			hit = it.prefix.Contains(a)
		case it.table != nil:
			for _, key := range []string{name, a.String()} {
				_, ok, err := it.table.Lookup(ctx, key)
				if err != nil {
					return false, err
				}
				hit = hit || ok
			}
		case strings.HasPrefix(it.name, "."):
			hit = strings.HasSuffix(name, it.name)
		default:
			hit = name == it.name || h.parents && strings.HasSuffix(name, "."+it.name)
		}
		if hit {
			return !it.not, nil
		}
	}
	return false, nil
}
