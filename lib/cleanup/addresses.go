package cleanup

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/checks"
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
	return d.recipient(ctx, agent.Recipient{Address: address.Parse(value), Notify: agent.NotifyNever}, true)
}

// bccFrom adds the copies that a table wants for an address: one, whatever else
// its value says.
func (d *Draft) bccFrom(ctx context.Context, t Table, name string, a address.Address) error {
	value, err := d.c.find(ctx, t, name, a)
	if err != nil {
		return d.tableFailed(err)
	}
	return d.bcc(ctx, value)
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
	if r.ORCPT == "" && !bcc {
		// What the sender will see in a notice, unless he said it himself.
		r.ORCPT = agent.ORCPT(r.Original.String())
	}
	a, err := d.mapped(ctx, c.complete(r.Address, true), c.c.RecipientCanonical, EnvelopeRecipient)
	if err != nil {
		return d.tableFailed(err)
	}
	if r.Address = a; bcc {
		r.Original = a
	}
	if !bcc {
		d.rcpt = a.String()
	}
	if err := d.expand(ctx, r); err != nil || bcc || c.c.RecipientBcc == nil {
		return err
	}
	return d.bccFrom(ctx, c.c.RecipientBcc, "recipient_bcc_maps", a)
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
	original := r.Original.String()
	if d.c.c.NoOriginal { // it is kept, but makes no second recipient
		original = ""
	}
	key := strings.ToLower(r.ORCPT + "\n" + strconv.Itoa(int(r.Notify)) + "\n" + original + "\n" + r.Address.String())
	if _, dup := d.seen[key]; dup {
		return nil
	}
	if len(d.seen) < d.c.c.DuplicateLimit {
		if d.seen == nil {
			d.seen = make(map[string]struct{})
		}
		d.seen[key] = struct{}{}
	}
	if checks.EightBit(r.Address.Local) || checks.EightBit(r.Address.Domain) {
		d.sendOpt(queue.UTF8Recipient)
	}
	if d.milters != nil { // who may take it away again
		d.rcpts = append(d.rcpts, r)
		return nil
	}
	return d.failed(d.q.Recipient(r))
}

// virtual expands an address until no table entry changes anything. The first
// result takes the place of its key, the others follow at the end: so Postfix orders
// recipients. An address may stand in its own expansion once, and then stays.
func (c *Cleanup) virtual(ctx context.Context, a address.Address) ([]address.Address, error) {
	list := []address.Address{a}
	var stays map[string]bool
	for i := 0; i < len(list); i++ {
		if len(list) > c.c.ExpansionLimit {
			return nil, &expansionError{fmt.Sprintf("unreasonable virtual_alias_maps map expansion size for %s", a)}
		}
		for depth := 0; ; depth++ {
			key := strings.ToLower(list[i].String())
			if stays[key] {
				break
			}
			if depth >= c.c.RecursionLimit {
				return nil, &expansionError{fmt.Sprintf("unreasonable virtual_alias_maps map nesting for %s", a)}
			}
			to, found, err := c.mapAddress(ctx, c.c.VirtualAlias, "virtual_alias_maps", list[i], c.c.PropagateVirtual)
			if err != nil {
				return nil, err
			}
			if !found {
				break
			}
			if stays == nil {
				stays = make(map[string]bool)
			}
			stays[key] = false
			for j, t := range to {
				s := t.String()
				if len(s) > c.c.LengthLimit {
					return nil, &expansionError{fmt.Sprintf("unreasonable virtual_alias_maps result %.300s...", s)}
				}
				if strings.EqualFold(key, s) {
					stays[key] = true
				}
				if j > 0 {
					list = append(list, t)
				}
			}
			list[i] = to[0]
		}
	}
	return list, nil
}

// expansionError is a limit of virtual aliases.
type expansionError struct{ text string }

func (e *expansionError) Error() string { return e.text }

// find looks an address up: as it is, without its extension, and so on; "" if no
// key is there.
func (c *Cleanup) find(ctx context.Context, t Table, name string, a address.Address) (string, error) {
	value, _, _, err := c.lookup(ctx, t, name, a)
	return value, err
}

// split takes the extension off a local part.
func (c *Cleanup) split(local string) (user, detail string, ok bool) {
	if c.c.OwnerPlain {
		if i := strings.IndexAny(local, c.c.Delimiters); i > 0 {
			if l := strings.ToLower(local); strings.HasPrefix(l, "owner-") || strings.HasSuffix(l, "-request") {
				return local[:i], local[i+1:], true
			}
		}
	}
	return address.SplitExtension(local, c.c.Delimiters)
}

// lookup tries user+ext@domain, user@domain; for our own domains user+ext and
// user; then @domain. ext is what the key left unmatched, with its delimiter.
func (c *Cleanup) lookup(ctx context.Context, t Table, name string, a address.Address) (value, ext string, ok bool, err error) {
	user, detail, split := c.split(a.Local)
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
			return "", "", false, &tableError{name, a, err}
		}
		if ok {
			return value, k.ext, true, nil
		}
	}
	return "", "", false, nil
}

// mapAddress is a look-up whose result is a list of addresses.
func (c *Cleanup) mapAddress(ctx context.Context, t Table, name string, a address.Address, propagate bool) ([]address.Address, bool, error) {
	value, ext, ok, err := c.lookup(ctx, t, name, a)
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

// tableError says that a table could not be asked about an address.
type tableError struct {
	name string
	addr address.Address
	err  error
}

func (e *tableError) Error() string {
	return e.name + " map lookup problem for " + e.addr.String()
}

func (e *tableError) Unwrap() error { return e.err }
