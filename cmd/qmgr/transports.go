package qmgr

import (
	"context"
	"net/netip"
	"strconv"
	"strings"

	"angarium/lib/agent"
	"angarium/lib/agent/wire"
	"angarium/lib/conf/mailconf"
	"angarium/lib/conf/maincf"
	smtpagent "angarium/lib/deliver/smtp"
	"angarium/lib/dns"
	"angarium/lib/dsn"
	"angarium/lib/qmgr"
	"angarium/lib/service"
	"angarium/lib/smtp"
)

// transports makes an agent for each delivering line of master.cf that is ours;
// what has a process of its own (local, virtual, pipe) is found by its socket.
func (d *daemon) transports(env *service.Env) (map[string]*qmgr.Transport, error) {
	list := map[string]*qmgr.Transport{}
	add := func(name, command, tag string, conf *maincf.Config, limit int) error {
		t := d.transport(name, command, conf)
		t.Limit, t.Tag = limit, tag
		if name != "retry" {
			t.Builtin = command
		}
		if command == "smtp" || command == "lmtp" {
			a, err := d.smtpAgent(conf, command == "lmtp" || name == "lmtp")
			if err != nil {
				return err
			}
			t.Agent = a.Deliver
			d.agents = append(d.agents, closer{a})
		}
		if err := conf.Err(); err != nil {
			d.log.As(tag).Fatalf("%v", err)
			t.Agent = unavailable
		}
		list[name] = t
		return nil
	}
	for _, s := range env.Services {
		switch s.Command {
		case "smtp", "lmtp", "error", "discard", "retry":
			if err := add(s.Name, s.Command, s.Log.Tag(), s.Conf, s.Limit); err != nil {
				return nil, err
			}
		}
	}
	if env.ByHand && list["smtp"] == nil {
		for _, name := range []string{"smtp", "relay", "lmtp"} {
			command := strings.Replace(name, "relay", "smtp", 1)
			if err := add(name, command, d.conf.String("syslog_name")+"/"+command, d.conf, 0); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// unavailable stands for a transport whose settings are broken: its mail waits
// until they are mended, as it would for a program that does not start.
func unavailable(_ context.Context, r *agent.Request) []agent.Result {
	list := make([]agent.Result, len(r.Recipients))
	for i := range list {
		list[i] = agent.Result{Err: dsn.New(0, "4.3.0", "mail transport unavailable"), Relay: "none", Site: true}
	}
	return list
}

// outside is a transport with a process of its own, behind a socket of its name.
// The name is the admin's: it comes from main.cf and tables.
func (d *daemon) outside(name string) *qmgr.Transport {
	if strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, ".") {
		return nil
	}
	t := d.transport(name, name, d.conf)
	if err := d.conf.Err(); err != nil {
		d.log.Warnf("transport %s: %v", name, err)
	}
	t.Agent = wire.Agent("private/" + name)
	if t.Expands = name == "local"; t.Expands {
		t.Recipients = 1
	}
	return t
}

type closer struct{ a *smtpagent.Agent }

func (c closer) Close() error { c.a.Close(); return nil }

func (d *daemon) transport(name, command string, conf *maincf.Config) *qmgr.Transport {
	t := &qmgr.Transport{
		Name: name, Tag: conf.String("syslog_name") + "/" + command,
		Concurrency: conf.TransportInt(name, "destination_concurrency_limit"),
		Initial:     conf.TransportInt(name, "initial_destination_concurrency"),
		Positive:    feedback(conf.Transport(name, "destination_concurrency_positive_feedback")),
		Negative:    feedback(conf.Transport(name, "destination_concurrency_negative_feedback")),
		Recipients:  conf.TransportInt(name, "destination_recipient_limit"),
		RateDelay:   conf.TransportDuration(name, "destination_rate_delay"), OwnRateDelay: conf.TransportDuration(name, "transport_rate_delay"),
	}
	t.FailedCohorts = float64(conf.TransportInt(name, "destination_concurrency_failed_cohort_limit"))
	if t.Initial == 0 {
		t.Initial = conf.Int("initial_destination_concurrency")
	}
	return t
}

// feedback reads "1", "0.5", "1/concurrency", "1/sqrt_concurrency".
func feedback(s string) qmgr.Feedback {
	num, over, _ := strings.Cut(strings.ReplaceAll(s, " ", ""), "/")
	f := qmgr.Feedback{}
	f.Value, _ = strconv.ParseFloat(num, 64)
	switch over {
	case "concurrency":
		f.Over = 1
	case "sqrt_concurrency":
		f.Over = 2
	}
	return f
}

// smtpAgent reads the settings of smtp(8), or the same ones of lmtp(8).
func (d *daemon) smtpAgent(conf *maincf.Config, lmtp bool) (*smtpagent.Agent, error) {
	p, helo, heloTime := "smtp_", "smtp_helo_name", "smtp_helo_timeout"
	if lmtp {
		p, helo, heloTime = "lmtp_", "lmtp_lhlo_name", "lmtp_lhlo_timeout"
	}
	resolv, err := dns.FromResolvConf("/etc/resolv.conf")
	if err != nil {
		d.log.Warnf("/etc/resolv.conf: %v", err)
		resolv = dns.Config{}
	}
	resolv.DNSSEC = conf.String(p+"dns_support_level") == "dnssec"
	c := smtpagent.Config{
		LMTP: lmtp, Hostname: conf.String("myhostname"), Helo: conf.String(helo), Resolver: dns.New(resolv),
		Native:        strings.HasPrefix(conf.String(p+"host_lookup"), "native"),
		NoMX:          conf.Bool("disable_dns_lookups") || conf.String(p+"dns_support_level") == "disabled",
		IgnoreMXError: conf.Bool("ignore_mx_lookup_error"), Family: conf.String(p + "address_preference"), Protocols: protocols(conf),
		KeepOrder: !conf.Bool(p + "randomize_addresses"), AddressLimit: conf.Int(p + "mx_address_limit"), SessionLimit: conf.Int(p + "mx_session_limit"),
		Port: conf.String(p + "tcp_port"), OwnAddresses: mailconf.OwnAddresses(conf),
		Fallback: conf.List(p + "fallback_relay"), ConnectTimeout: conf.Duration(p + "connect_timeout"),
		KeepGreeting5x: !conf.Bool(p + "skip_5xx_greeting"),
		CacheTime:      conf.Duration(p + "connection_cache_time_limit"), ReuseTime: conf.Duration(p + "connection_reuse_time_limit"),
		ReuseCount: conf.Int(p + "connection_reuse_count_limit"), CacheDemand: conf.Bool(p + "connection_cache_on_demand"),
		XForward: conf.Bool(p + "send_xforward_command"), AssumeFinal: conf.Bool("lmtp_assume_final"), NoDowngrade: conf.Bool("disable_mime_output_conversion"),
	}
	if len(conf.List(p+"connection_cache_destinations")) > 0 {
		list, err := mailconf.Domains(conf, p+"connection_cache_destinations", d.log)
		if err != nil {
			return nil, err
		}
		c.CacheFor = list.Match
	}
	if port, err := strconv.Atoi(c.Port); err != nil || port <= 0 {
		c.Port = map[bool]string{true: "24", false: "25"}[lmtp]
	}
	c.Bind4, _ = netip.ParseAddr(conf.String(p + "bind_address"))
	c.Bind6, _ = netip.ParseAddr(conf.String(p + "bind_address6"))
	c.Client = smtp.ClientOptions{
		HeloTimeout: conf.Duration(heloTime), MailTimeout: conf.Duration(p + "mail_timeout"), RcptTimeout: conf.Duration(p + "rcpt_timeout"),
		DataInitTimeout: conf.Duration(p + "data_init_timeout"), DataXferTimeout: conf.Duration(p + "data_xfer_timeout"),
		DataDoneTimeout: conf.Duration(p + "data_done_timeout"), StartTLSTimeout: conf.Duration(p + "starttls_timeout"),
		XForwardTimeout: conf.Duration(p + "xforward_timeout"),
		RsetTimeout:     conf.Duration(p + "rset_timeout"), QuitTimeout: conf.Duration(p + "quit_timeout"),
		LineLimit: conf.Int(p + "line_length_limit"),
	}
	if c.Client.LineLimit == 0 { // main.cf's word for "none"
		c.Client.LineLimit = -1
	}
	if lmtp {
		c.Client.Discard = conf.List("lmtp_discard_lhlo_keywords")
	} else {
		c.Client.Discard = conf.List("smtp_discard_ehlo_keywords")
		c.Client.Plain = conf.Bool("smtp_never_send_ehlo")
		c.Client.ByGreeting = !conf.Bool("smtp_always_send_ehlo")
		c.BestMX = conf.String("best_mx_transport")
		// Our own store gets what came in; the rest of the world what Postfix would send.
		c.Client.BlankCR = conf.Bool("cleanup_replace_stray_cr_lf")
	}
	for i, w := range c.Client.Discard {
		c.Client.Discard[i] = strings.ToLower(w)
	}
	keywordMaps := map[bool]string{true: "lmtp_discard_lhlo_keyword_address_maps", false: "smtp_discard_ehlo_keyword_address_maps"}[lmtp]
	byAddress, err := mailconf.Table(conf, keywordMaps, d.log)
	if err != nil {
		return nil, err
	}
	if byAddress != nil {
		c.DiscardFor = func(ctx context.Context, ip string) ([]string, bool, error) {
			v, ok, err := byAddress.Lookup(ctx, ip)
			return strings.FieldsFunc(strings.ToLower(v), func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }), ok, err
		}
	}
	if err := d.clientTLS(&c, conf, p); err != nil {
		return nil, err
	}
	if err := d.clientAuth(&c, conf, p); err != nil {
		return nil, err
	}
	return smtpagent.New(c), nil
}

func protocols(conf *maincf.Config) dns.Family {
	list := conf.List("inet_protocols")
	switch {
	case has(list, "all"), has(list, "ipv4") && has(list, "ipv6"):
		return dns.Both
	case has(list, "ipv6"):
		return dns.IPv6
	}
	return dns.IPv4
}
