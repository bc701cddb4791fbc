// Package route decides where mail for an address goes: through which transport
// (a line of master.cf) and to which next hop. It is what Postfix keeps in
// trivial-rewrite(8), with the same order of questions, and it only decides:
// nothing is sent, and no mailbox is looked at.
//
//	rewrite   joe -> joe@$myorigin, joe@host -> joe@host.$mydomain, a!b -> b@a
//	resolve   strip @domain while it is ours; then the class of the domain
//	          (local, virtual alias, virtual mailbox, relay, default) names the
//	          transport; relayhost, transport_maps and relocated_maps may change it
//
// It promises that a table which cannot be asked yields an error and never an
// answer, so that nobody bounces mail because a server was down. It does not
// know where tables come from, nor what a transport does.
package route

import (
	"context"
	"net/netip"
	"strings"

	"angarium/lib/address"
)

// Table answers one question; an error means that nobody may conclude anything.
type Table interface {
	Lookup(ctx context.Context, key string) (value string, ok bool, err error)
}

// Domains tells whether a domain is on a list such as mydestination.
type Domains interface {
	Match(ctx context.Context, domain string) (bool, error)
}

// Class is the address class of a recipient; see ADDRESS_CLASS_README.
type Class int

const (
	Default        Class = iota // somewhere else
	Local                       // mydestination, inet_interfaces, proxy_interfaces
	VirtualAlias                // virtual_alias_domains
	VirtualMailbox              // virtual_mailbox_domains
	Relay                       // relay_domains
)

func (c Class) String() string {
	return [...]string{"default", "local", "virtual alias", "virtual mailbox", "relay"}[c]
}

// Config holds what main.cf says. Nil tables and lists are empty ones.
type Config struct {
	MyHostname, MyOrigin, MyDomain string
	RemoteHeaderRewriteDomain      string

	AppendAtMyOrigin  bool // append_at_myorigin
	AppendDotMyDomain bool // append_dot_mydomain
	SwapBangPath      bool // swap_bangpath
	PercentHack       bool // allow_percent_hack
	ResolveDequoted   bool // resolve_dequoted_address
	ResolveNullDomain bool // resolve_null_domain
	ResolveNumeric    bool // resolve_numeric_domain
	AllowMinUser      bool // allow_min_user
	ShowUnknownTable  bool // show_user_unknown_table_name

	RecipientDelimiter string
	EmptyRecipient     string // empty_address_recipient

	MyDestination         Domains
	OwnAddresses          []netip.Addr // inet_interfaces and proxy_interfaces
	VirtualAliasDomains   Domains
	VirtualMailboxDomains Domains
	RelayDomains          Domains

	LocalTransport   string // local_transport, "local:$myhostname"
	VirtualTransport string
	RelayTransport   string
	DefaultTransport string
	RelayHost        string

	TransportMaps          Table
	TransportParents       bool // parent_domain_matches_subdomains holds transport_maps
	RelocatedMaps          Table
	SenderRelayhostMaps    Table  // sender_dependent_relayhost_maps
	SenderTransportMaps    Table  // sender_dependent_default_transport_maps
	EmptyAddressMapsLookup string // key for the null sender in those two, "<>"

	// Warn gets configuration slips ("do not list domain x in BOTH ..."); may be nil.
	Warn func(format string, args ...any)
}

// Result is where a recipient goes.
type Result struct {
	Transport string // "smtp", "lmtp", "local", "error"...
	NextHop   string
	Recipient address.Address // as the transport gets it
	Class     Class
	Routed    bool // the local part still holds @, % or ! (RESOLVE_FLAG_ROUTED)
	Bad       bool // no valid address: bounce it (RESOLVE_FLAG_ERROR)
}

// Router resolves addresses. It is safe for concurrent use.
type Router struct{ c Config }

// New returns a router for c.
func New(c Config) *Router {
	if c.EmptyRecipient == "" {
		c.EmptyRecipient = "MAILER-DAEMON"
	}
	if c.EmptyAddressMapsLookup == "" {
		c.EmptyAddressMapsLookup = "<>"
	}
	for p, v := range map[*string]string{
		&c.LocalTransport: "local:" + c.MyHostname, &c.VirtualTransport: "virtual",
		&c.RelayTransport: "relay", &c.DefaultTransport: "smtp",
	} {
		if *p == "" {
			*p = v
		}
	}
	return &Router{c}
}

// Rewrite brings an address from this machine into standard form.
func (r *Router) Rewrite(a address.Address) address.Address {
	return r.rewrite(a, r.c.MyOrigin, r.c.MyDomain, r.c.AppendAtMyOrigin, r.c.AppendDotMyDomain)
}

// RewriteRemote does the same for headers of mail from strangers: their bare
// names get remote_header_rewrite_domain, and nothing if that is empty.
func (r *Router) RewriteRemote(a address.Address) address.Address {
	d := r.c.RemoteHeaderRewriteDomain
	return r.rewrite(a, d, d, d != "", d != "")
}

// RewriteAs is Rewrite for this machine's own origin, else RewriteRemote with
// another domain for bare names.
func (r *Router) RewriteAs(a address.Address, domain string) address.Address {
	if domain == r.c.MyOrigin {
		return r.Rewrite(a)
	}
	return r.rewrite(a, domain, domain, domain != "", domain != "")
}

func (r *Router) rewrite(a address.Address, origin, domain string, at, dot bool) address.Address {
	if a.IsNull() {
		return a
	}
	if a.Domain == "" {
		if strings.HasPrefix(a.Local, "@") { // a source route without an address
			return a
		}
		a = r.unhack(a)
	}
	if a.Domain == "" && at && origin != "" {
		a.Domain = origin
	}
	if a.Domain != "" && dot && domain != "" && !strings.ContainsAny(a.Domain, ".[") {
		a.Domain += "." + domain
	}
	a.Domain = trimDot(a.Domain)
	return a
}

// unhack turns site!user and user%site, without a domain, into user@site.
func (r *Router) unhack(a address.Address) address.Address {
	if i := strings.IndexByte(a.Local, '!'); r.c.SwapBangPath && i > 0 && i < len(a.Local)-1 {
		return address.Address{Local: a.Local[i+1:], Domain: a.Local[:i]}
	}
	if i := strings.LastIndexByte(a.Local, '%'); r.c.PercentHack && i > 0 && i < len(a.Local)-1 {
		return address.Address{Local: a.Local[:i], Domain: a.Local[i+1:]}
	}
	return a
}

// trimDot takes one final dot off, but leaves nonsense alone so that a
// diagnostic shows it.
func trimDot(d string) string {
	if len(d) > 1 && strings.HasSuffix(d, ".") && !strings.HasSuffix(d, "..") {
		return d[:len(d)-1]
	}
	return d
}

// Resolve tells where mail from sender to rcpt goes.
func (r *Router) Resolve(ctx context.Context, sender, rcpt address.Address) (Result, error) {
	if rcpt.IsNull() {
		rcpt = address.Parse(r.c.EmptyRecipient)
	}
	rcpt, local, err := r.strip(ctx, rcpt)
	if err != nil {
		return Result{}, err
	}
	res := Result{Recipient: rcpt}
	if local {
		err = r.resolveLocal(ctx, &res)
	} else {
		err = r.resolveRemote(ctx, sender, &res)
	}
	if err != nil || res.Bad {
		return res, err
	}
	if res.Class != VirtualAlias {
		if err := r.transportMap(ctx, &res); err != nil {
			return Result{}, err
		}
	}
	if err := r.relocated(ctx, &res); err != nil {
		return Result{}, err
	}
	if !r.c.AllowMinUser && strings.HasPrefix(res.Recipient.Local, "-") {
		res.Bad = true
	}
	return res, nil
}

// strip takes local domains off the address, one after the other, as long as
// what is left still routes somewhere (user%far.test@here.test).
func (r *Router) strip(ctx context.Context, a address.Address) (_ address.Address, local bool, err error) {
	saved := ""
	for n := 0; n < 100; n++ {
		a.Domain = trimDot(a.Domain)
		if a.Domain == "" && r.c.ResolveNullDomain {
			a.Local = strings.TrimSuffix(a.Local, "@")
		}
		if a.Domain != "" {
			ours, err := r.IsLocal(ctx, a.Domain)
			if err != nil {
				return a, false, err
			}
			if !ours {
				return a, false, nil
			}
			saved, a.Domain = a.Domain, ""
		}
		next := a
		if r.c.ResolveDequoted {
			next = address.Parse(a.Local)
		}
		if next.Domain == "" {
			next = r.unhack(next)
		}
		if next.Domain == "" {
			break
		}
		a = r.Rewrite(next)
	}
	if saved == "" {
		saved = r.c.MyHostname
	}
	return address.Address{Local: a.Local, Domain: saved}, true, nil
}

// IsLocal tells whether mail for a domain, or for an address literal, stays here.
func (r *Router) IsLocal(ctx context.Context, domain string) (bool, error) {
	if ip, ok := literal(domain); ok {
		for _, own := range r.c.OwnAddresses {
			if own.Unmap() == ip {
				return true, nil
			}
		}
	}
	return match(ctx, r.c.MyDestination, domain)
}

// literal reads [192.0.2.1] and [ipv6:2001:db8::1].
func literal(d string) (netip.Addr, bool) {
	if len(d) < 3 || d[0] != '[' || d[len(d)-1] != ']' {
		return netip.Addr{}, false
	}
	d = d[1 : len(d)-1]
	if len(d) > 5 && strings.EqualFold(d[:5], "ipv6:") {
		d = d[5:]
	}
	ip, err := netip.ParseAddr(d)
	return ip.Unmap(), err == nil
}

func match(ctx context.Context, l Domains, domain string) (bool, error) {
	if l == nil {
		return false, nil
	}
	return l.Match(ctx, domain)
}

func (r *Router) warn(format string, args ...any) {
	if r.c.Warn != nil {
		r.c.Warn(format, args...)
	}
}

func (r *Router) resolveLocal(ctx context.Context, res *Result) error {
	res.Class = Local
	res.NextHop = res.Recipient.Domain
	res.choose(r.c.LocalTransport)
	for _, other := range []struct {
		list Domains
		name string
	}{{r.c.VirtualAliasDomains, "virtual_alias_domains"}, {r.c.VirtualMailboxDomains, "virtual_mailbox_domains"}} {
		if both, err := match(ctx, other.list, res.Recipient.Domain); err != nil {
			return err
		} else if both {
			r.warn("do not list domain %s in BOTH mydestination and %s", res.Recipient.Domain, other.name)
		}
	}
	return nil
}

func (r *Router) resolveRemote(ctx context.Context, sender address.Address, res *Result) error {
	domain := res.Recipient.Domain
	if res.Recipient.Local == "" || !r.validDomain(domain) {
		res.Bad = true
		return nil
	}
	res.Routed = strings.ContainsAny(res.Recipient.Local, "@!%")
	alias, err := match(ctx, r.c.VirtualAliasDomains, domain)
	if err != nil {
		return err
	}
	mailbox, err := match(ctx, r.c.VirtualMailboxDomains, domain)
	if err != nil {
		return err
	}
	switch {
	case alias:
		if mailbox {
			r.warn("do not list domain %s in BOTH virtual_alias_domains and virtual_mailbox_domains", domain)
		}
		res.Class, res.Transport = VirtualAlias, "error"
		res.NextHop = "5.1.1 User unknown"
		if r.c.ShowUnknownTable {
			res.NextHop += " in virtual alias table"
		}
		return nil
	case mailbox:
		res.Class, res.NextHop = VirtualMailbox, domain
		if relay, err := match(ctx, r.c.RelayDomains, domain); err == nil && relay {
			r.warn("do not list domain %s in BOTH virtual_mailbox_domains and relay_domains", domain)
		}
		res.choose(r.c.VirtualTransport)
		return nil
	}
	return r.resolveOffHost(ctx, sender, res)
}

func (r *Router) resolveOffHost(ctx context.Context, sender address.Address, res *Result) error {
	domain := res.Recipient.Domain
	relay, err := match(ctx, r.c.RelayDomains, domain)
	if err != nil {
		return err
	}
	transport := r.c.RelayTransport
	if relay {
		res.Class = Relay
	} else {
		transport = r.c.DefaultTransport
		v, ok, err := r.bySender(ctx, r.c.SenderTransportMaps, sender)
		if err != nil {
			return err
		}
		if ok && !strings.EqualFold(v, "DUNNO") {
			transport = v
		}
	}
	res.NextHop = domain
	v, ok, err := r.bySender(ctx, r.c.SenderRelayhostMaps, sender)
	switch {
	case err != nil:
		return err
	case ok && !strings.EqualFold(v, "DUNNO"):
		res.NextHop = v
	case r.c.RelayHost != "" && !ok:
		res.NextHop = r.c.RelayHost
	}
	res.choose(transport)
	return nil
}

// bySender asks for the sender as sender_dependent_relayhost_maps(5) says:
// user+detail@domain, user@domain, @domain.
func (r *Router) bySender(ctx context.Context, t Table, sender address.Address) (string, bool, error) {
	if t == nil {
		return "", false, nil
	}
	if sender.IsNull() {
		return t.Lookup(ctx, r.c.EmptyAddressMapsLookup)
	}
	for _, key := range r.addressKeys(sender, true) {
		if v, ok, err := t.Lookup(ctx, key); ok || err != nil {
			return v, ok, err
		}
	}
	return "", false, nil
}

// addressKeys are the whole address, it without its extension, and @domain.
func (r *Router) addressKeys(a address.Address, atDomain bool) []string {
	keys := []string{a.String()}
	if user, _, ok := address.SplitExtension(a.Local, r.c.RecipientDelimiter); ok {
		keys = append(keys, address.Address{Local: user, Domain: a.Domain}.String())
	}
	if atDomain && a.Domain != "" {
		keys = append(keys, "@"+a.Domain)
	}
	return keys
}

// choose takes "transport:nexthop" from main.cf: an explicit next hop wins.
func (res *Result) choose(value string) {
	transport, hop, _ := strings.Cut(value, ":")
	res.Transport = transport
	if hop != "" {
		res.NextHop = hop
	} else if transport == "error" || transport == "retry" {
		res.NextHop = "Address is undeliverable"
	}
}

// transportMap follows transport(5): the address, without extension, the
// domain, its parents, and "*" at last.
func (r *Router) transportMap(ctx context.Context, res *Result) error {
	t := r.c.TransportMaps
	if t == nil {
		return nil
	}
	keys := r.addressKeys(res.Recipient, false)
	keys = append(keys, res.Recipient.Domain)
	if _, isIP := literal(res.Recipient.Domain); !isIP {
		keys = append(keys, parents(res.Recipient.Domain, r.c.TransportParents)...)
	}
	keys = append(keys, "*")
	for _, key := range keys {
		v, ok, err := t.Lookup(ctx, key)
		if err != nil {
			return err
		}
		if ok {
			res.override(v)
			return nil
		}
	}
	return nil
}

// override applies a value of a transport table; empty parts change nothing,
// but a new transport without a next hop goes to the recipient's domain.
func (res *Result) override(value string) {
	transport, hop, _ := strings.Cut(strings.TrimSpace(value), ":")
	if transport != "" {
		res.Transport = transport
		res.NextHop = res.Recipient.Domain
		if transport == "error" || transport == "retry" {
			res.NextHop = "Address is undeliverable"
		}
	}
	if hop != "" {
		res.NextHop = hop
	}
}

// parents of a.b.c are .b.c and .c, without the dot in the old style.
func parents(domain string, old bool) []string {
	var keys []string
	for i := strings.IndexByte(domain, '.'); i >= 0; {
		if old {
			keys = append(keys, domain[i+1:])
		} else {
			keys = append(keys, domain[i:])
		}
		next := strings.IndexByte(domain[i+1:], '.')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return keys
}

// relocated asks relocated_maps, in the order of relocated(5).
func (r *Router) relocated(ctx context.Context, res *Result) error {
	t := r.c.RelocatedMaps
	if t == nil {
		return nil
	}
	keys := r.addressKeys(res.Recipient, false)
	if res.Class == Local || strings.EqualFold(res.Recipient.Domain, r.c.MyOrigin) {
		user, _, _ := address.SplitExtension(res.Recipient.Local, r.c.RecipientDelimiter)
		keys = append(keys, user)
	}
	keys = append(keys, "@"+res.Recipient.Domain)
	for _, key := range keys {
		v, ok, err := t.Lookup(ctx, key)
		if err != nil {
			return err
		}
		if ok {
			res.Transport = "error"
			res.NextHop = "5.1.6 User has moved to " + v
			return nil
		}
	}
	return nil
}

// validDomain is what a next hop may look like: a host name, or a literal.
func (r *Router) validDomain(d string) bool {
	if d == "" || len(d) > 255 {
		return false
	}
	if d[0] == '[' {
		_, ok := literal(d)
		return ok
	}
	if ip, err := netip.ParseAddr(d); err == nil {
		return r.c.ResolveNumeric && ip.IsValid()
	}
	for label := range strings.SplitSeq(d, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := 0; i < len(label); i++ {
			if !isHostByte(label[i]) {
				return false
			}
		}
	}
	return strings.Trim(d, "0123456789.") != ""
}

func isHostByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c >= 0x80
}
