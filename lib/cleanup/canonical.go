package cleanup

import (
	"context"
	"slices"
	"strings"

	"angarium/lib/address"
)

// Class tells where an address stands, as canonical_classes and its kin name it.
type Class uint8

// The classes; a set of them is their sum.
const (
	EnvelopeSender Class = 1 << iota
	EnvelopeRecipient
	HeaderSender
	HeaderRecipient
)

// ParseClasses reads a list such as "envelope_sender, header_sender"; bad is the
// first word that is none.
func ParseClasses(words []string) (set Class, bad string) {
	names := []string{"envelope_sender", "envelope_recipient", "header_sender", "header_recipient"}
	for _, w := range words {
		i := slices.Index(names, w)
		if i < 0 {
			return 0, w
		}
		set |= 1 << i
	}
	return set, ""
}

// Mapping is a table that gives one address for another, where its classes say.
type Mapping struct {
	Table   Table // nil: none
	Classes Class // 0: all
	Name    string
}

func (m Mapping) for_(c Class) bool {
	return m.Table != nil && (m.Classes == 0 || m.Classes&c != 0)
}

// Masquerade hides hosts behind their domains.
type Masquerade struct {
	Domains    []string // masquerade_domains, in their order; "!" before one protects it
	Exceptions []string // masquerade_exceptions: user names
	Classes    Class    // masquerade_classes
}

func (m *Masquerade) apply(a address.Address) address.Address {
	domain := strings.ToLower(a.Domain)
	if domain == "" || slices.Contains(m.Exceptions, strings.ToLower(a.Local)) {
		return a
	}
	for _, d := range m.Domains {
		name := strings.TrimLeft(d, "!")
		hide := (len(d)-len(name))%2 == 0
		if name = strings.ToLower(name); name == "" {
			continue
		}
		if name == domain {
			return a
		}
		if strings.HasSuffix(domain, "."+name) {
			if hide {
				a.Domain = name
			}
			return a
		}
	}
	return a
}

// mapped takes an address through the special table, the common one, and
// masquerading.
func (d *Draft) mapped(ctx context.Context, a address.Address, special Mapping, class Class) (address.Address, error) {
	c := d.c
	for _, m := range [2]Mapping{special, c.c.Canonical} {
		if !m.for_(class) || a.IsNull() {
			continue
		}
		list, found, err := c.mapAddress(ctx, m.Table, m.Name, a, c.c.PropagateCanonical)
		if err != nil {
			return a, err
		}
		if found && len(list) > 1 {
			d.log.Warnf("multi-valued %s entry for %s", m.Name, a)
		}
		if found && len(list) > 0 {
			a = list[0]
		}
	}
	if c.c.Masquerade.Classes&class != 0 {
		a = c.c.Masquerade.apply(a)
	}
	return a, nil
}
