package smtpd

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"angarium/lib/address"
	"angarium/lib/dsn"
	"angarium/lib/route"
)

// Table answers one question; an error means that nobody may conclude anything.
type Table interface {
	Lookup(ctx context.Context, key string) (value string, ok bool, err error)
}

// Recipients knows which addresses are ours and exist. A nil table of a class
// means that its addresses are not checked.
type Recipients struct {
	Router         *route.Router
	Local          Table // local_recipient_maps
	VirtualMailbox Table // virtual_mailbox_maps
	Relay          Table // relay_recipient_maps

	// Addresses found in these are known, whatever their class.
	Canonical, RecipientCanonical, VirtualAlias Table
	SenderCanonical                             Table // for senders

	Delimiters string
	LocalCode  int // unknown_local_recipient_reject_code; 0: 550
	AliasCode  int // unknown_virtual_alias_reject_code
	BoxCode    int // unknown_virtual_mailbox_reject_code
	RelayCode  int // unknown_relay_recipient_reject_code
}

// resolve finds the class of an address as it was given.
func (r *Recipients) resolve(ctx context.Context, a address.Address) (route.Result, error) {
	return r.Router.Resolve(ctx, address.Address{}, r.Router.Rewrite(a))
}

// Destination reports whether we are the final destination of an address or
// relay for its domain. An address with a route of the sender's making in it
// (a%b@here) is neither: RFC 5321, 3.6.1.
func (r *Recipients) Destination(ctx context.Context, a address.Address) (bool, error) {
	res, err := r.resolve(ctx, a)
	if err != nil {
		return false, err
	}
	return res.Class != route.Default && !res.Routed, nil
}

// Final reports whether mail for a domain ends here.
func (r *Recipients) Final(ctx context.Context, domain string) (bool, error) {
	res, err := r.resolve(ctx, address.Address{Local: "postmaster", Domain: domain})
	return err == nil && (res.Class == route.Local || res.Class == route.VirtualAlias || res.Class == route.VirtualMailbox), err
}

// Resolve brings an address into the form in which access tables know it.
func (r *Recipients) Resolve(ctx context.Context, a address.Address) (address.Address, error) {
	res, err := r.resolve(ctx, a)
	return res.Recipient, err
}

// Listed refuses an address of ours that does not exist; an error that is no
// *dsn.Error says that a table could not be asked.
func (r *Recipients) Listed(ctx context.Context, a address.Address, recipient bool) error {
	res, err := r.resolve(ctx, a)
	if err != nil {
		return err
	}
	full := res.Recipient // user%here@here is user@here
	if res.Class == route.Local && reserved(full.Local) {
		return nil
	}
	tables := []Table{r.RecipientCanonical, r.Canonical, r.VirtualAlias}
	if !recipient {
		tables[0] = r.SenderCanonical
	}
	for _, t := range tables {
		if ok, err := r.find(ctx, t, full, res.Class == route.Local); ok || err != nil {
			return err
		}
	}
	var t Table
	code, what := 0, ""
	switch res.Class {
	case route.Local:
		t, code, what = r.Local, r.LocalCode, "local recipient"
	case route.VirtualMailbox:
		t, code, what = r.VirtualMailbox, r.BoxCode, "virtual mailbox"
	case route.Relay:
		t, code, what = r.Relay, r.RelayCode, "relay recipient"
	case route.VirtualAlias: // found above, or nowhere
		return unlisted(a, recipient, r.AliasCode, "virtual alias")
	}
	if t == nil {
		return nil
	}
	if ok, err := r.find(ctx, t, full, res.Class == route.Local); ok || err != nil {
		return err
	}
	return unlisted(a, recipient, code, what)
}

// reserved names always exist where mail is local: RFC 5321, 4.5.1, and what
// notices are sent from.
func reserved(local string) bool {
	switch strings.ToLower(local) {
	case "postmaster", "mailer-daemon", "double-bounce":
		return true
	}
	return false
}

func unlisted(a address.Address, recipient bool, code int, what string) error {
	if code == 0 {
		code = 550
	}
	status, class := ".1.0", "Sender"
	if recipient {
		status, class = ".1.1", "Recipient"
	}
	return dsn.New(code, itoa(code/100)+status, "<%s>: %s address rejected: User unknown in %s table", a, class, what)
}

// find tries the forms of an address in the order of Postfix: all of it,
// without extension, the bare name where the domain is ours, and @domain.
func (r *Recipients) find(ctx context.Context, t Table, a address.Address, local bool) (bool, error) {
	if t == nil {
		return false, nil
	}
	user, _, ext := address.SplitExtension(a.Local, r.Delimiters)
	keys := make([]string, 0, 5)
	keys = append(keys, a.String())
	if ext {
		keys = append(keys, user+"@"+a.Domain)
	}
	if local {
		keys = append(keys, a.Local)
		if ext {
			keys = append(keys, user)
		}
	}
	keys = append(keys, "@"+a.Domain)
	for _, k := range keys {
		if _, ok, err := t.Lookup(ctx, strings.ToLower(k)); ok || err != nil {
			return ok, lookupError(k, err)
		}
	}
	return false, nil
}

func lookupError(key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("lookup error for %q: %w", key, err)
}

// literal is an address in a header: RFC 5321, 4.1.3.
func literal(a netip.Addr) string {
	if !a.IsValid() {
		return "unknown"
	}
	if a.Is6() {
		return "IPv6:" + a.String()
	}
	return a.String()
}
