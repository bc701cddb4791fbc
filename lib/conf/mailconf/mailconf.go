// Package mailconf reads the parts of main.cf that several daemons share: how
// addresses are routed, and how letters are made fit for the queue. It opens the
// tables they name. It knows which parameters these are and no more.
package mailconf

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	"angarium/lib/address"
	"angarium/lib/cleanup"
	"angarium/lib/conf/maincf"
	"angarium/lib/maillog"
	"angarium/lib/maps"
	"angarium/lib/route"
)

// Table opens the tables that a parameter lists, as one; nil if there are none.
// One that can't be opened fails when it is asked.
func Table(conf *maincf.Config, name string, log *maillog.Logger) (maps.Table, error) {
	return open(conf.List(name), log)
}

func open(specs []string, log *maillog.Logger) (maps.Table, error) {
	if len(specs) == 0 {
		return nil, nil
	}
	return maps.OpenListAny(specs, maps.Options{Warn: log.Warnf}), nil
}

// table keeps a nil out of interfaces.
func table[T any](conf *maincf.Config, name string, log *maillog.Logger, set func(maps.Table) T) (T, error) {
	t, err := Table(conf, name, log)
	var none T
	if err != nil || t == nil {
		return none, err
	}
	return set(t), nil
}

// Domains reads a domain list such as mydestination.
func Domains(conf *maincf.Config, name string, log *maillog.Logger) (*route.List, error) {
	old := slices.Contains(conf.List("parent_domain_matches_subdomains"), name)
	return route.ParseList(conf.List(name), old, func(spec string) (route.Table, error) {
		return maps.OpenAny(spec, maps.Options{Warn: log.Warnf}), nil
	})
}

// OwnAddresses are those of inet_interfaces and proxy_interfaces.
func OwnAddresses(conf *maincf.Config) []netip.Addr {
	var list []netip.Addr
	for _, name := range append(conf.List("inet_interfaces"), conf.List("proxy_interfaces")...) {
		switch name {
		case "all", "loopback-only":
			addrs, _ := net.InterfaceAddrs()
			for _, a := range addrs {
				if n, ok := a.(*net.IPNet); ok {
					if ip, ok := netip.AddrFromSlice(n.IP); ok && (name == "all" || ip.IsLoopback()) {
						list = append(list, ip.Unmap())
					}
				}
			}
		case "localhost":
			list = append(list, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback())
		default:
			if ip, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
				list = append(list, ip.Unmap())
			}
		}
	}
	return list
}

// Router makes the router that trivial-rewrite(8) would be.
func Router(conf *maincf.Config, log *maillog.Logger) (*route.Router, error) {
	c := route.Config{
		MyHostname: conf.String("myhostname"), MyOrigin: conf.String("myorigin"), MyDomain: conf.String("mydomain"),
		RemoteHeaderRewriteDomain: conf.String("remote_header_rewrite_domain"),
		AppendAtMyOrigin:          conf.Bool("append_at_myorigin"), AppendDotMyDomain: conf.Bool("append_dot_mydomain"),
		SwapBangPath: conf.Bool("swap_bangpath"), PercentHack: conf.Bool("allow_percent_hack"),
		ResolveDequoted: conf.Bool("resolve_dequoted_address"), ResolveNullDomain: conf.Bool("resolve_null_domain"),
		ResolveNumeric: conf.Bool("resolve_numeric_domain"), AllowMinUser: conf.Bool("allow_min_user"),
		ShowUnknownTable:   conf.Bool("show_user_unknown_table_name"),
		RecipientDelimiter: conf.String("recipient_delimiter"), EmptyRecipient: conf.String("empty_address_recipient"),
		OwnAddresses:   OwnAddresses(conf),
		LocalTransport: conf.String("local_transport"), VirtualTransport: conf.String("virtual_transport"),
		RelayTransport: conf.String("relay_transport"), DefaultTransport: conf.String("default_transport"),
		RelayHost:              conf.String("relayhost"),
		EmptyAddressMapsLookup: conf.String("empty_address_relayhost_maps_lookup_key"),
		TransportParents:       slices.Contains(conf.List("parent_domain_matches_subdomains"), "transport_maps"),
		Warn:                   log.Warnf,
	}
	for name, p := range map[string]*route.Domains{
		"mydestination": &c.MyDestination, "virtual_alias_domains": &c.VirtualAliasDomains,
		"virtual_mailbox_domains": &c.VirtualMailboxDomains, "relay_domains": &c.RelayDomains,
	} {
		l, err := Domains(conf, name, log)
		if err != nil {
			return nil, err
		}
		*p = l
	}
	for name, p := range map[string]*route.Table{
		"transport_maps": &c.TransportMaps, "relocated_maps": &c.RelocatedMaps,
		"sender_dependent_relayhost_maps":         &c.SenderRelayhostMaps,
		"sender_dependent_default_transport_maps": &c.SenderTransportMaps,
	} {
		t, err := table(conf, name, log, func(t maps.Table) route.Table { return t })
		if err != nil {
			return nil, err
		}
		*p = t
	}
	return route.New(c), conf.Err()
}

// NoMappings is no_address_mappings of receive_override_options: recipients stay
// as they are, and there are no more of them.
func NoMappings(c *cleanup.Config) {
	c.Canonical, c.SenderCanonical, c.RecipientCanonical, c.VirtualAlias = nil, nil, nil, nil
	c.SenderBcc, c.RecipientBcc, c.AlwaysBcc = nil, nil, ""
}

// Cleanup reads what cleanup(8) would.
func Cleanup(conf *maincf.Config, r *route.Router, log *maillog.Logger) (cleanup.Config, error) {
	propagate := conf.List("propagate_unmatched_extensions")
	c := cleanup.Config{
		Hostname: conf.String("myhostname"), Origin: conf.String("myorigin"), LogTag: conf.String("syslog_name") + "/cleanup",
		Rewrite:   r.RewriteAs,
		AlwaysBcc: conf.String("always_bcc"), EmptyRecipient: address.Parse(conf.String("empty_address_recipient")), Delimiters: conf.String("recipient_delimiter"),
		PropagateCanonical: slices.Contains(propagate, "canonical"), PropagateVirtual: slices.Contains(propagate, "virtual"),
		HeaderSizeLimit: conf.Int("header_size_limit"), HopLimit: conf.Int("hopcount_limit"),
		SizeLimit: conf.Size("message_size_limit"), MinFree: conf.Size("queue_minfree"),
		DuplicateLimit: conf.Int("duplicate_filter_limit"), ExpansionLimit: conf.Int("virtual_alias_expansion_limit"),
		RecursionLimit: conf.Int("virtual_alias_recursion_limit"),
		DropHeaders:    conf.List("message_drop_headers"), AddMissing: conf.Bool("always_add_missing_headers"),
		Undisclosed: conf.String("undisclosed_recipients_header"), RemoteDomain: conf.String("remote_header_rewrite_domain"),
		DelayWarning: conf.Duration("delay_warning_time"),
		Notify:       cleanup.NewNotifier(conf.QueueDir() + "/public/" + conf.String("queue_service_name")).Notify,
	}
	for name, p := range map[string]*cleanup.Table{
		"canonical_maps": &c.Canonical, "sender_canonical_maps": &c.SenderCanonical,
		"recipient_canonical_maps": &c.RecipientCanonical, "virtual_alias_maps": &c.VirtualAlias,
		"sender_bcc_maps": &c.SenderBcc, "recipient_bcc_maps": &c.RecipientBcc,
	} {
		t, err := table(conf, name, log, func(t maps.Table) cleanup.Table { return t })
		if err != nil {
			return c, err
		}
		*p = t
	}
	local, err := Domains(conf, "mydestination", log)
	if err != nil {
		return c, err
	}
	c.Local = func(domain string) bool {
		ok, err := local.Match(context.Background(), domain)
		return ok && err == nil
	}
	return c, conf.Err()
}
