package maps

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// cidrRule is a line of a cidr_table(5).
type cidrRule struct {
	net    netip.Prefix
	negate bool
	value  string
	skipTo int // for "if": the rule to go on with when it does not match; 0: no "if"
}

type cidrTable []cidrRule

func (t cidrTable) Lookup(_ context.Context, key string) (string, bool, error) {
	addr, err := netip.ParseAddr(strings.Trim(key, "[]"))
	if err != nil {
		return "", false, nil // a name is never inside a network
	}
	addr = addr.Unmap()
	for i := 0; i < len(t); i++ {
		r := &t[i]
		match := r.net.Contains(addr)
		if r.negate { // "not this network" says nothing about the other family
			match = !match && r.net.Addr().Is4() == addr.Is4()
		}
		switch {
		case r.skipTo == 0 && match:
			return r.value, true, nil
		case r.skipTo != 0 && !match:
			i = r.skipTo - 1
		}
	}
	return "", false, nil
}

func parseCIDR(file string, r io.Reader, o Options) (Table, error) {
	var t cidrTable
	var ifs []int
	err := Lines(r, func(number int, line string) error {
		pattern, value := SplitEntry(line)
		warn := func(format string, args ...any) {
			o.warnf("cidr map %s, line %d: %s: skipping this rule", file, number, fmt.Sprintf(format, args...))
		}
		isIf := strings.EqualFold(pattern, "if")
		switch {
		case strings.EqualFold(pattern, "endif"):
			if len(ifs) == 0 {
				warn("endif without if")
				return nil
			}
			t[ifs[len(ifs)-1]].skipTo = len(t)
			ifs = ifs[:len(ifs)-1]
			return nil
		case isIf:
			pattern, value = value, "if"
		}
		negate := strings.HasPrefix(pattern, "!")
		pattern = strings.TrimSpace(strings.TrimLeft(pattern, "!"))
		net, err := ParsePrefix(pattern)
		if err != nil {
			warn("%v", err)
			return nil
		}
		if value == "" {
			warn("no lookup result")
			return nil
		}
		if isIf {
			ifs = append(ifs, len(t))
		}
		t = append(t, cidrRule{net: net, negate: negate, value: value})
		return nil
	})
	for _, i := range ifs {
		o.warnf("cidr map %s: if without endif", file)
		t[i].skipTo = len(t)
	}
	return t, err
}

// ParsePrefix reads an address or network/mask. Bits of the host part must be
// zero, as in cidr_table(5).
func ParsePrefix(s string) (netip.Prefix, error) {
	bare := strings.ReplaceAll(strings.ReplaceAll(s, "[", ""), "]", "")
	if !strings.Contains(bare, "/") {
		a, err := netip.ParseAddr(bare)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("bad address pattern: %q", s)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(bare)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("bad net/mask pattern: %q", s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("non-null host address bits in %q, perhaps you should use %q instead", s, p.Masked().String())
	}
	return p, nil
}
