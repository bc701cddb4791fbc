package cleanup

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/queue"
)

// complete gives a bare name a domain.
func (c *Cleanup) complete(a address.Address, local bool) address.Address {
	domain := c.c.Origin
	if !local {
		domain = c.c.RemoteDomain
	}
	if domain == "" {
		return a
	}
	return c.c.Rewrite(a, domain)
}

// Recipient adds a recipient: completed, mapped, expanded, and only once. A
// recipient may come after content.
func (d *Draft) Recipient(ctx context.Context, r agent.Recipient) error {
	return d.recipient(ctx, r, false)
}

// bcc adds a recipient that a setting asks for, and of whom nobody shall hear.
func (d *Draft) bcc(ctx context.Context, value string) error {
	if value == "" {
		return nil
	}
	a := d.c.complete(address.Parse(value), true)
	return d.recipient(ctx, agent.Recipient{Address: a, Notify: agent.NotifyNever}, true)
}

func (d *Draft) recipient(ctx context.Context, r agent.Recipient, bcc bool) error {
	if d.err != nil {
		return d.err
	}
	if r.Original.IsNull() {
		r.Original = r.Address
	}
	if d.env.Plain {
		return d.add(r)
	}
	c := d.c
	if r.Address.IsNull() {
		r.Address = c.c.EmptyRecipient
	}
	a := c.complete(r.Address, true)
	if r.ORCPT == "" && !bcc {
		// What the sender will see in a notice, unless he said it himself.
		if r.ORCPT = "rfc822;" + a.String(); eightBit(a.String()) {
			r.ORCPT = "utf-8;" + a.String()
		}
	}
	a, err := c.canonical(ctx, a, c.c.RecipientCanonical)
	if err != nil {
		return d.tableFailed(err)
	}
	if c.c.RecipientBcc != nil && !bcc {
		value, err := c.find(ctx, c.c.RecipientBcc, a)
		if err != nil {
			return d.tableFailed(err)
		}
		if err := d.bcc(ctx, value); err != nil {
			return err
		}
	}
	r.Address = a
	return d.expand(ctx, r)
}

// expand adds what the virtual aliases make of a recipient.
func (d *Draft) expand(ctx context.Context, r agent.Recipient) error {
	if d.c.c.VirtualAlias == nil {
		return d.add(r)
	}
	list, err := d.c.virtual(ctx, r.Address)
	if err != nil {
		return d.tableFailed(err)
	}
	for _, a := range list {
		r.Address = a
		if err := d.add(r); err != nil {
			return err
		}
	}
	return nil
}

// add writes a recipient unless the same one is there; the filter remembers no
// more than duplicate_filter_limit.
func (d *Draft) add(r agent.Recipient) error {
	key := strings.ToLower(r.ORCPT + "\n" + strconv.Itoa(int(r.Notify)) + "\n" + r.Original.String() + "\n" + r.Address.String())
	if _, dup := d.seen[key]; dup {
		return nil
	}
	if len(d.seen) < d.c.c.DuplicateLimit {
		if d.seen == nil {
			d.seen = make(map[string]struct{})
		}
		d.seen[key] = struct{}{}
	}
	if eightBit(r.Address.Local) || eightBit(r.Address.Domain) {
		d.sendOpt(queue.UTF8Recipient)
	}
	return d.failed(d.q.Recipient(r))
}

// canonical maps an address by the special table, then by the common one.
func (c *Cleanup) canonical(ctx context.Context, a address.Address, special Table) (address.Address, error) {
	for _, t := range [2]Table{special, c.c.Canonical} {
		if t == nil || a.IsNull() {
			continue
		}
		list, found, err := c.mapAddress(ctx, t, a, c.c.PropagateCanonical)
		if err != nil {
			return a, err
		}
		if found && len(list) > 0 {
			a = list[0]
		}
	}
	return a, nil
}

// virtual expands an address until no table entry changes anything, in the order
// of the entries. An address may stand in its own expansion, and then stays.
func (c *Cleanup) virtual(ctx context.Context, a address.Address) ([]address.Address, error) {
	x := expansion{c: c, seen: map[string]bool{}}
	if err := x.add(ctx, a, 0); err != nil {
		return nil, fmt.Errorf("%w for %s", err, a)
	}
	return x.done, nil
}

type expansion struct {
	c     *Cleanup
	seen  map[string]bool // what was looked up: true while its entries are being added
	done  []address.Address
	steps int
}

func (x *expansion) add(ctx context.Context, a address.Address, depth int) error {
	c := x.c
	if depth > c.c.RecursionLimit {
		return errors.New("unreasonable virtual_alias_maps map nesting")
	}
	if x.steps++; x.steps > 2*c.c.ExpansionLimit || len(x.done) >= c.c.ExpansionLimit {
		return errors.New("unreasonable virtual_alias_maps map expansion size")
	}
	key := strings.ToLower(a.String())
	if open, seen := x.seen[key]; open {
		return errors.New("unreasonable virtual_alias_maps map nesting") // a ring
	} else if seen {
		return nil
	}
	list, found, err := c.mapAddress(ctx, c.c.VirtualAlias, a, c.c.PropagateVirtual)
	if err != nil {
		return err
	}
	if !found {
		x.done = append(x.done, a)
		return nil
	}
	x.seen[key] = true
	for _, to := range list {
		if strings.EqualFold(key, to.String()) {
			x.done = append(x.done, to)
		} else if err := x.add(ctx, to, depth+1); err != nil {
			return err
		}
	}
	x.seen[key] = false
	return nil
}

// find looks an address up: as it is, without its extension, and so on; "" if no
// key is there.
func (c *Cleanup) find(ctx context.Context, t Table, a address.Address) (string, error) {
	value, _, _, err := c.lookup(ctx, t, a)
	return value, err
}

// lookup tries user+ext@domain, user@domain; for our own domains user+ext and
// user; then @domain. ext is what the key left unmatched, with its delimiter.
func (c *Cleanup) lookup(ctx context.Context, t Table, a address.Address) (value, ext string, ok bool, err error) {
	user, detail, split := address.SplitExtension(a.Local, c.c.Delimiters)
	rest := ""
	if split {
		rest = a.Local[len(user):len(a.Local)-len(detail)] + detail
	}
	type try struct{ key, ext string }
	tries := make([]try, 0, 5)
	tries = append(tries, try{a.String(), ""})
	if split {
		tries = append(tries, try{address.Address{Local: user, Domain: a.Domain}.String(), rest})
	}
	if a.Domain != "" {
		if strings.EqualFold(a.Domain, c.c.Origin) || c.c.Local(a.Domain) {
			tries = append(tries, try{a.Local, ""})
			if split {
				tries = append(tries, try{user, rest})
			}
		}
		tries = append(tries, try{"@" + a.Domain, ""})
	}
	for _, k := range tries {
		value, ok, err = t.Lookup(ctx, strings.ToLower(k.key))
		if err != nil {
			return "", "", false, fmt.Errorf("map lookup problem for %s: %w", a, err)
		}
		if ok {
			return value, k.ext, true, nil
		}
	}
	return "", "", false, nil
}

// mapAddress is a look-up whose result is a list of addresses.
func (c *Cleanup) mapAddress(ctx context.Context, t Table, a address.Address, propagate bool) ([]address.Address, bool, error) {
	value, ext, ok, err := c.lookup(ctx, t, a)
	if err != nil || !ok {
		return nil, false, err
	}
	var list []address.Address
	for _, found := range Addresses(value) {
		to := found.Address
		if to.Local == "" && to.Domain != "" { // "@other.domain" keeps the user
			to.Local = a.Local
		} else if propagate && ext != "" {
			to.Local += ext
		}
		list = append(list, c.complete(to, true))
	}
	if len(list) == 0 {
		return nil, false, fmt.Errorf("unreasonable result %.100q for %s", value, a)
	}
	return list, true, nil
}
