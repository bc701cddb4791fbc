package smtpd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"angarium/lib/access"
	"angarium/lib/accounts"
	"angarium/lib/conf/mailconf"
	"angarium/lib/conf/maincf"
	"angarium/lib/dns"
	"angarium/lib/maillog"
	"angarium/lib/maps"
	"angarium/lib/smtp"
	"angarium/lib/smtpd"
	"angarium/lib/tlsconf"
)

// reader reads the settings of one line and remembers the first error.
type reader struct {
	conf *maincf.Config
	log  *maillog.Logger
	err  error
}

func (r *reader) fail(err error) {
	if r.err == nil && err != nil {
		r.err = err
	}
}

func (r *reader) open(spec string) (access.Table, error) {
	return maps.OpenAny(spec, maps.Options{Warn: r.log.Warnf}), nil
}

func (r *reader) parents(name string) bool {
	return slices.Contains(r.conf.List("parent_domain_matches_subdomains"), name)
}

// hosts reads a list of clients. A table that can't be asked matches nobody.
func (r *reader) hosts(name string) func(string, netip.Addr) bool {
	h, err := access.ParseHosts(r.conf.List(name), r.parents(name), r.open)
	if err != nil {
		r.fail(fmt.Errorf("%s: %w", name, err))
	}
	return func(client string, a netip.Addr) bool {
		ok, err := h.Match(context.Background(), client, a)
		if err != nil {
			r.log.Warnf("%s: %v", name, err)
		}
		return ok && err == nil
	}
}

// table opens a parameter's tables; nil if it names none.
func (r *reader) table(name string) smtpd.Table {
	t, err := mailconf.Table(r.conf, name, r.log)
	r.fail(err)
	if t == nil {
		return nil
	}
	return t
}

// config reads one smtpd line. open opens files that the process itself may not.
func config(conf *maincf.Config, log *maillog.Logger, open func(string) (*os.File, error)) (*smtpd.Config, error) {
	r := &reader{conf: conf, log: log}
	router, err := mailconf.Router(conf, log)
	if err != nil {
		return nil, err
	}
	c := &smtpd.Config{
		Server: r.server(open), Banner: conf.String("smtpd_banner"), MyName: conf.String("myhostname"), Mail: conf.String("mail_name"),
		MinUser:     conf.Bool("allow_min_user"),
		DelayReject: conf.Bool("smtpd_delay_reject"), RelayFirst: conf.Bool("smtpd_relay_before_recipient_restrictions"),
		CheckRecipient: conf.Bool("smtpd_reject_unlisted_recipient") && !slices.Contains(overrides(conf), "no_unknown_recipient_checks"), CheckSender: conf.Bool("smtpd_reject_unlisted_sender"),
		TLSLog: mailconf.TLSLogLevel(conf, "smtpd_tls_loglevel"), TLSReceived: conf.Bool("smtpd_tls_received_header"),
		XClient: r.hosts("smtpd_authorized_xclient_hosts"), XForward: r.hosts("smtpd_authorized_xforward_hosts"),
		Limit: smtpd.LimitConfig{
			Connections: conf.Int("smtpd_client_connection_count_limit"), Rate: conf.Int("smtpd_client_connection_rate_limit"),
			Messages: conf.Int("smtpd_client_message_rate_limit"), Recipients: conf.Int("smtpd_client_recipient_rate_limit"),
			Auth: conf.Int("smtpd_client_auth_rate_limit"), NewTLS: conf.Int("smtpd_client_new_tls_session_rate_limit"),
			Unit: conf.Duration("anvil_rate_time_unit"), Exempt: r.hosts("smtpd_client_event_limit_exceptions"),
		},
		Recipients: &smtpd.Recipients{
			Router: router, Local: r.table("local_recipient_maps"), VirtualMailbox: r.table("virtual_mailbox_maps"),
			Relay: r.table("relay_recipient_maps"), Canonical: r.table("canonical_maps"), RecipientCanonical: r.table("recipient_canonical_maps"),
			SenderCanonical: r.table("sender_canonical_maps"), VirtualAlias: r.table("virtual_alias_maps"),
			Delimiters: conf.String("recipient_delimiter"), LocalCode: conf.Int("unknown_local_recipient_reject_code"),
			AliasCode: conf.Int("unknown_virtual_alias_reject_code"), BoxCode: conf.Int("unknown_virtual_mailbox_reject_code"),
			RelayCode: conf.Int("unknown_relay_recipient_reject_code"),
		},
	}
	own := mailconf.OwnAddresses(conf)
	mynetworks := r.hosts("mynetworks")
	c.Local = r.localClients(own, mynetworks)
	r.policy(c, own, mynetworks)
	r.footer(c)
	r.auth(c)
	if r.err == nil {
		r.err = conf.Err()
	}
	return c, r.err
}

// overrides are the receive_override_options of a line that takes mail back from
// a content filter.
func overrides(conf *maincf.Config) []string { return lower(conf.List("receive_override_options")) }

// server are the settings of the protocol engine.
func (r *reader) server(open func(string) (*os.File, error)) *smtp.Server {
	conf := r.conf
	s := &smtp.Server{
		Hostname: conf.String("myhostname"), DisableVrfy: conf.Bool("disable_vrfy_command"),
		Size: conf.Size("message_size_limit"), LineLimit: conf.Int("line_length_limit"),
		Recipients: conf.Int("smtpd_recipient_limit"), Overshoot: conf.Int("smtpd_recipient_overshoot_limit"),
		SoftErrors: conf.Int("smtpd_soft_error_limit"), HardErrors: conf.Int("smtpd_hard_error_limit"),
		ErrorSleep: conf.Duration("smtpd_error_sleep_time"), JunkCommands: conf.Int("smtpd_junk_command_limit"),
		Timeout: conf.Duration("smtpd_timeout"), TLSTimeout: conf.Duration("smtpd_starttls_timeout"),
		HeloRequired: conf.Bool("smtpd_helo_required"), StrictRFC821: conf.Bool("strict_rfc821_envelopes"),
		NoSMTPUTF8: !conf.Bool("smtputf8_enable"), SoftBounce: conf.Bool("soft_bounce"), AuthLegacy: conf.Bool("broken_sasl_auth_clients"),
		BareNewlineReply: conf.Int("smtpd_forbid_bare_newline_reject_code"), ForbidPipelining: conf.Bool("smtpd_forbid_unauth_pipelining"),
	}
	switch v := strings.ToLower(conf.String("smtpd_forbid_bare_newline")); v {
	case "no":
		s.BareNewline = smtp.AllowNewline
	case "", "yes", "normalize":
	case "note":
		s.BareNewline = smtp.NoteNewline
	case "reject":
		s.BareNewline = smtp.RejectNewline
	default:
		r.fail(fmt.Errorf("bad \"smtpd_forbid_bare_newline\" value: %q", v))
	}
	exempt := r.hosts("smtpd_forbid_bare_newline_exclusions")
	s.BareNewlineOK = func(a net.Addr) bool { return exempt("unknown", ipOf(a)) }
	if words := lower(conf.List("smtpd_discard_ehlo_keywords")); len(words) > 0 {
		s.Discard = func(net.Addr) []string { return words }
	}
	r.tls(s, open)
	return s
}

func ipOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func lower(list []string) []string {
	for i := range list {
		list[i] = strings.ToLower(list[i])
	}
	return list
}

// errNoCerts has the peer's words.
var errNoCerts = errors.New("no server certs available. TLS won't be enabled")

// tls reads the certificate and how much TLS is wanted.
func (r *reader) tls(s *smtp.Server, open func(string) (*os.File, error)) {
	conf := r.conf
	level := conf.String("smtpd_tls_security_level")
	if level == "" {
		switch {
		case conf.Bool("smtpd_enforce_tls"):
			level = "encrypt"
		case conf.Bool("smtpd_use_tls"):
			level = "may"
		}
	}
	s.TLSWrapper = conf.Bool("smtpd_tls_wrappermode")
	if level == "" || level == "none" {
		if !s.TLSWrapper {
			return
		}
		level = "encrypt"
	}
	s.TLSRequired = level != "may"
	protocols := conf.String("smtpd_tls_protocols")
	if s.TLSRequired {
		protocols = conf.String("smtpd_tls_mandatory_protocols")
	}
	t := tlsconf.Server{
		CertFile: none(conf.String("smtpd_tls_cert_file")), KeyFile: none(conf.String("smtpd_tls_key_file")),
		ECCertFile: none(conf.String("smtpd_tls_eccert_file")), ECKeyFile: none(conf.String("smtpd_tls_eckey_file")),
		ChainFiles: conf.List("smtpd_tls_chain_files"), CAFile: conf.String("smtpd_tls_CAfile"), CAPath: conf.String("smtpd_tls_CApath"),
		AskClientCert: conf.Bool("smtpd_tls_ask_ccert"), RequireClientCert: conf.Bool("smtpd_tls_req_ccert") && s.TLSRequired,
		Protocols: protocols, Open: open,
	}
	var err error
	if t.CertFile == "" && t.ECCertFile == "" && len(t.ChainFiles) == 0 {
		err = errNoCerts
	} else {
		s.TLS, err = t.Config()
	}
	if err != nil {
		r.log.Warnf("%v", err)
		s.TLS = nil
	}
	if s.TLS == nil && s.TLSWrapper {
		// Plain text on a port where clients expect TLS helps nobody, and hides it.
		s.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, err }}
	}
}

func none(s string) string {
	if s == "none" {
		return ""
	}
	return s
}

// localClients is local_header_rewrite_clients: whose mail is completed.
func (r *reader) localClients(own []netip.Addr, mynetworks func(string, netip.Addr) bool) func(smtpd.Who) bool {
	var tests []func(smtpd.Who) bool
	words := r.conf.List("local_header_rewrite_clients")
	for i := 0; i < len(words); i++ {
		switch word := words[i]; word {
		case "permit_inet_interfaces":
			tests = append(tests, func(w smtpd.Who) bool { return slices.Contains(own, w.Addr) })
		case "permit_mynetworks":
			tests = append(tests, func(w smtpd.Who) bool { return mynetworks("unknown", w.Addr) })
		case "permit_sasl_authenticated":
			tests = append(tests, func(w smtpd.Who) bool { return w.SASLUser != "" })
		case "permit_tls_all_clientcerts":
			tests = append(tests, func(w smtpd.Who) bool { return w.Trusted })
		default:
			if word == "check_address_map" && i+1 < len(words) {
				i++
				word = words[i]
			}
			if !strings.Contains(word, ":") {
				r.log.Warnf("unknown address list: \"%s\" in local_header_rewrite_clients", word)
				continue
			}
			t, err := r.open(word)
			r.fail(err)
			tests = append(tests, func(w smtpd.Who) bool {
				_, ok, err := t.Lookup(context.Background(), w.Addr.String())
				if err != nil {
					r.log.Warnf("local_header_rewrite_clients: %v", err)
				}
				return ok && err == nil
			})
		}
	}
	return func(w smtpd.Who) bool {
		return slices.ContainsFunc(tests, func(t func(smtpd.Who) bool) bool { return t(w) })
	}
}

// policy reads the restriction lists.
func (r *reader) policy(c *smtpd.Config, own []netip.Addr, mynetworks func(string, netip.Addr) bool) {
	conf := r.conf
	classes := make(map[string]string)
	for _, name := range conf.List("smtpd_restriction_classes") {
		classes[name] = conf.String(name)
	}
	c.Policy = access.New(access.Config{
		Open: r.open, Classes: classes, MyNetworks: func(a netip.Addr) bool { return mynetworks("unknown", a) },
		Destination: c.Recipients.Destination, Listed: c.Recipients.Listed, Final: c.Recipients.Final, Resolve: c.Recipients.Resolve,
		Own: func(a netip.Addr) bool { return slices.Contains(own, a) }, SenderLogins: r.table("smtpd_sender_login_maps"),
		Ask: r.policyService(), RBLReply: r.rblReply(), MultiBounceCode: conf.Int("multi_recipient_bounce_reject_code"),
		DNS:     lookups{dns.New(resolvConf())},
		Parents: r.parents("smtpd_access_maps"), NullKey: conf.String("smtpd_null_access_lookup_key"),
		Delimiters: conf.String("recipient_delimiter"), Warn: r.log.Warnf,
		AccessMapReject: conf.Int("access_map_reject_code"), AccessMapDefer: conf.Int("access_map_defer_code"),
		RejectCode: conf.Int("reject_code"), DeferCode: conf.Int("defer_code"), RelayCode: conf.Int("relay_domains_reject_code"),
		NonFQDNCode: conf.Int("non_fqdn_reject_code"), InvalidHostCode: conf.Int("invalid_hostname_reject_code"),
		UnknownHostCode: conf.Int("unknown_hostname_reject_code"), UnknownAddressCode: conf.Int("unknown_address_reject_code"),
		UnknownClientCode: conf.Int("unknown_client_reject_code"), RBLCode: conf.Int("maps_rbl_reject_code"),
		PlainReply: conf.Int("plaintext_reject_code"),
	})
	list := func(stage access.Stage, name string) *access.List { return c.Policy.Parse(stage, conf.String(name)) }
	c.Client = list(access.Client, "smtpd_client_restrictions")
	c.Helo = list(access.Helo, "smtpd_helo_restrictions")
	c.Sender = list(access.Sender, "smtpd_sender_restrictions")
	c.Relay = list(access.Recipient, "smtpd_relay_restrictions")
	c.Recipient = list(access.Recipient, "smtpd_recipient_restrictions")
	c.Data = list(access.Data, "smtpd_data_restrictions")
	c.EndOfData = list(access.EndOfData, "smtpd_end_of_data_restrictions")
	c.Etrn = list(access.Etrn, "smtpd_etrn_restrictions")
	closed := []string{"reject_unauth_destination", "defer_unauth_destination", "reject", "defer", "defer_if_permit"}
	if !c.Relay.Has(closed...) && !c.Recipient.Has(closed...) {
		r.fail(fmt.Errorf("in parameter smtpd_relay_restrictions or smtpd_recipient_restrictions, specify at least one working instance of: " +
			"reject_unauth_destination, defer_unauth_destination, reject, defer, defer_if_permit or check_relay_domains"))
	}
}

// auth reads who may log in: Cyrus' way, an smtpd.conf that names the database.
func (r *reader) auth(c *smtpd.Config) {
	conf := r.conf
	if !conf.Bool("smtpd_sasl_auth_enable") {
		return
	}
	if kind := conf.String("smtpd_sasl_type"); kind != "cyrus" {
		r.log.Warnf("unsupported SASL server implementation: %s", kind)
		return
	}
	values := saslConf(conf)
	path := values["sasldb_path"]
	if path == "" {
		path = "/etc/sasldb2"
	}
	realm := conf.String("smtpd_sasl_local_domain")
	if realm == "" {
		realm = conf.String("myhostname")
	}
	db, err := accounts.Open(path, accounts.Options{Realm: realm})
	if err != nil {
		r.log.Warnf("%s: %v", path, err)
		return
	}
	c.Auth = db
	c.AuthList = strings.Fields(strings.ToUpper(strings.ReplaceAll(values["mech_list"], ",", " ")))
	c.AuthTLSOnly = conf.Bool("smtpd_tls_auth_only") || c.Server.TLSRequired
	c.AuthHeader = conf.Bool("smtpd_sasl_authenticated_header")
	c.AuthCleartext = !slices.Contains(conf.List("smtpd_sasl_security_options"), "noplaintext")
	exempt := r.hosts("smtpd_sasl_exceptions_networks")
	c.AuthExempt = func(a netip.Addr) bool { return exempt("unknown", a) }
}

// saslConf reads the smtpd.conf of Cyrus SASL: "key: value" lines. The first
// folder that has one counts.
func saslConf(conf *maincf.Config) map[string]string {
	values := make(map[string]string)
	dirs := strings.Split(conf.String("cyrus_sasl_config_path"), ":")
	if dirs[0] == "" {
		dirs = []string{filepath.Join(conf.Dir(), "sasl"), "/etc/postfix/sasl", "/etc/sasl2", "/usr/lib/sasl2"}
	}
	for _, dir := range dirs {
		f, err := os.Open(filepath.Join(dir, conf.String("smtpd_sasl_path")+".conf"))
		if err != nil {
			continue
		}
		defer f.Close()
		lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
		for lines.Scan() {
			key, value, ok := strings.Cut(lines.Text(), ":")
			if ok && !strings.HasPrefix(key, "#") {
				values[strings.TrimSpace(key)] = strings.TrimSpace(value)
			}
		}
		return values
	}
	return values
}
