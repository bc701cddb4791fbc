// Package mailconf reads the parts of main.cf that several daemons share: how
// addresses are routed, and how letters are made fit for the queue. It opens the
// tables they name. It knows which parameters these are and no more.
package mailconf

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"angarium/lib/address"
	"angarium/lib/checks"
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
	none := cleanup.Mapping{}
	c.Canonical, c.SenderCanonical, c.RecipientCanonical, c.VirtualAlias = none, none, none, nil
	c.SenderBcc, c.RecipientBcc, c.AlwaysBcc, c.Masquerade = nil, nil, "", cleanup.Masquerade{}
}

// NoChecks is no_header_body_checks of receive_override_options.
func NoChecks(c *cleanup.Config) {
	c.Checks, c.MIME.Report, c.RejectChars = checks.Tables{}, 0, ""
}

// Overrides obeys the receive_override_options of an smtpd or pickup line.
func Overrides(c *cleanup.Config, options []string) {
	for _, o := range options {
		switch strings.ToLower(o) {
		case "no_address_mappings":
			NoMappings(c)
		case "no_header_body_checks":
			NoChecks(c)
		case "no_milters":
			c.Milters = nil
		}
	}
}

// Cleanup reads what cleanup(8) would.
func Cleanup(conf *maincf.Config, r *route.Router, log *maillog.Logger) (cleanup.Config, error) {
	var err error
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
		DelayWarning: conf.Duration("delay_warning_time"), LengthLimit: conf.Int("virtual_alias_address_length_limit"),
		TokenLimit: conf.Int("header_address_token_limit"), NoOriginal: !conf.Bool("enable_original_recipient"), OwnerPlain: !conf.Bool("owner_request_special"),
		ColumnFrom: conf.String("header_from_format") == "obsolete",
		Masquerade: cleanup.Masquerade{Domains: conf.List("masquerade_domains"), Exceptions: lower(conf.List("masquerade_exceptions"))},
		Notify:     cleanup.NewNotifier(conf.QueueDir() + "/public/" + conf.String("queue_service_name")).Notify,
	}
	for name, p := range map[string]*cleanup.Table{
		"canonical_maps": &c.Canonical.Table, "sender_canonical_maps": &c.SenderCanonical.Table,
		"recipient_canonical_maps": &c.RecipientCanonical.Table, "virtual_alias_maps": &c.VirtualAlias,
		"sender_bcc_maps": &c.SenderBcc, "recipient_bcc_maps": &c.RecipientBcc,
	} {
		t, err := table(conf, name, log, func(t maps.Table) cleanup.Table { return t })
		if err != nil {
			return c, err
		}
		*p = t
	}
	if err := classes(conf, &c); err != nil {
		return c, err
	}
	if c.Milters, err = Milters(conf, conf.List("non_smtpd_milters"), log); err != nil {
		return c, err
	}
	c.MilterMacros = MilterMacros(conf)
	c.MilterChecks.HeaderName = "milter_header_checks"
	if c.MilterChecks.Header, err = table(conf, "milter_header_checks", log, func(t maps.Table) checks.Table { return t }); err != nil {
		return c, err
	}
	if err := contentChecks(conf, &c, log); err != nil {
		return c, err
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

func lower(list []string) []string {
	for i := range list {
		list[i] = strings.ToLower(list[i])
	}
	return list
}

// classes reads which addresses are rewritten.
func classes(conf *maincf.Config, c *cleanup.Config) error {
	for name, p := range map[string]*cleanup.Mapping{"canonical": &c.Canonical, "sender_canonical": &c.SenderCanonical, "recipient_canonical": &c.RecipientCanonical} {
		p.Name = name + "_maps"
	}
	for name, p := range map[string]*cleanup.Class{
		"canonical_classes": &c.Canonical.Classes, "sender_canonical_classes": &c.SenderCanonical.Classes,
		"recipient_canonical_classes": &c.RecipientCanonical.Classes, "masquerade_classes": &c.Masquerade.Classes,
	} {
		set, bad := cleanup.ParseClasses(conf.List(name))
		switch { // those of one side only know the addresses of that side
		case name == "sender_canonical_classes" && set&^(cleanup.EnvelopeSender|cleanup.HeaderSender) != 0,
			name == "recipient_canonical_classes" && set&^(cleanup.EnvelopeRecipient|cleanup.HeaderRecipient) != 0:
			bad = conf.String(name)
		}
		if bad != "" {
			return fmt.Errorf("unknown %s value \"%s\" in \"%s\"", name, bad, conf.String(name))
		}
		*p = set
	}
	if len(c.Masquerade.Domains) == 0 {
		c.Masquerade.Classes = 0
	}
	return nil
}

// contentChecks reads what is looked at in the content.
func contentChecks(conf *maincf.Config, c *cleanup.Config, log *maillog.Logger) error {
	c.Checks = checks.Tables{
		HeaderName: "header_checks", MIMEName: "mime_header_checks", NestedName: "nested_header_checks", BodyName: "body_checks",
		BodyLimit: int64(conf.Int("body_checks_size_limit")),
	}
	for name, p := range map[string]*checks.Table{
		"header_checks": &c.Checks.Header, "mime_header_checks": &c.Checks.MIME,
		"nested_header_checks": &c.Checks.Nested, "body_checks": &c.Checks.Body,
	} {
		t, err := table(conf, name, log, func(t maps.Table) checks.Table { return t })
		if err != nil {
			return err
		}
		*p = t
	}
	c.MIME = checks.Options{Nesting: conf.Int("mime_nesting_limit"), Boundary: conf.Int("mime_boundary_length_limit"), NoMIME: conf.Bool("disable_mime_input_processing")}
	if strict := conf.Bool("strict_8bitmime"); !c.MIME.NoMIME {
		if strict || conf.Bool("strict_7bit_headers") {
			c.MIME.Report |= checks.Fault8bitHeader
		}
		if strict || conf.Bool("strict_8bitmime_body") {
			c.MIME.Report |= checks.Fault8bitBody
		}
		if conf.Bool("strict_mime_encoding_domain") {
			c.MIME.Report |= checks.FaultDomain
		}
	}
	for name, p := range map[string]*string{"message_reject_characters": &c.RejectChars, "message_strip_characters": &c.StripChars} {
		var ok bool
		if *p, ok = unescape(conf.String(name)); !ok {
			return fmt.Errorf("bad %s value: %s", name, conf.String(name))
		}
	}
	return nil
}

// unescape reads the backslash sequences of C that Postfix knows.
func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			return "", false
		}
		if j := strings.IndexByte("abfnrtv", s[i]); j >= 0 {
			b.WriteByte("\a\b\f\n\r\t\v"[j])
			continue
		}
		if s[i] < '0' || s[i] > '7' {
			b.WriteByte(s[i])
			continue
		}
		n := 0
		for end := i + 3; i < len(s) && i < end && s[i] >= '0' && s[i] <= '7'; i++ {
			n = n<<3 | int(s[i]-'0')
		}
		i--
		b.WriteByte(byte(n))
	}
	return b.String(), true
}
