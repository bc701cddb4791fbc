// Package smtpd takes mail from the network. See smtpd(8).
package smtpd

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"angarium/lib/access"
	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/cleanup"
	"angarium/lib/cli"
	"angarium/lib/conf/mailconf"
	"angarium/lib/conf/queueconf"
	"angarium/lib/dns"
	"angarium/lib/ipc"
	"angarium/lib/maillog"
	"angarium/lib/queue"
	"angarium/lib/service"
	"angarium/lib/smtp"
	"angarium/lib/smtpd"
)

// Main is smtpd.
func Main(ctx context.Context, c *cli.Cmd) error {
	if slices.Contains(c.Args, "-S") {
		return standAlone(ctx, c)
	}
	return service.Run(ctx, c, service.Daemon{Program: "smtpd", Setup: setup})
}

// daemon is the smtpd of every line that shares this process.
type daemon struct {
	lines map[*service.Service]*smtpd.Daemon
	// behind is, for a postscreen line, the one to which postscreen would pass its
	// clients: we are our own door.
	behind map[*service.Service]*service.Service
	limits *smtpd.Limits
	log    *maillog.Logger // anvil's
}

func setup(ctx context.Context, env *service.Env) (service.Handler, error) {
	q, err := queueconf.Open(env.Main)
	if err != nil {
		return nil, err
	}
	d := &daemon{lines: make(map[*service.Service]*smtpd.Daemon)}
	limits := smtpd.NewLimits()
	names := &resolver{dns: dns.New(resolvConf()), hosts: hosts{file: "/etc/hosts"}}
	var broken error
	for _, s := range env.Services {
		if s.Command != "smtpd" {
			continue
		}
		c, err := lineConfig(env, s, q)
		if err != nil { // this line alone: the mail of the others goes on
			s.Dead, broken = err, err
			continue
		}
		c.Limits = limits
		if s.Conf.Bool("smtpd_peername_lookup") {
			c.Resolver = names
		}
		d.lines[s] = smtpd.New(*c)
	}
	if broken != nil && len(d.lines) == 0 {
		return nil, broken
	}
	d.doors(env.Services)
	d.limits, d.log = limits, env.Log.As(env.Main.String("syslog_name")+"/anvil")
	if every := env.Main.Duration("anvil_status_update_time"); every > 0 {
		go d.report(ctx, every)
	}
	return d, env.Main.Err()
}

// lineConfig reads the settings of an smtpd line, and of those whose work is done
// for it.
func lineConfig(env *service.Env, s *service.Service, q *queue.Queue) (*smtpd.Config, error) {
	c, err := config(s.Conf, s.Log, env.Open)
	if err != nil {
		return nil, err
	}
	if s.StressConf != nil && s.StressConf != s.Conf {
		stressed, err := config(s.StressConf, s.Log, env.Open)
		if err != nil {
			return nil, err
		}
		c.Stress = stressed.Server
	}
	// What cleanup does follows the settings of its line, not ours.
	cc, err := mailconf.Cleanup(env.Conf("cleanup", s.Conf.String("cleanup_service_name")), c.Recipients.Router, s.Log)
	if err != nil {
		return nil, err
	}
	mailconf.Overrides(&cc, overrides(s.Conf))
	cc.Milters = nil // those are for mail that no client brings
	if err := milters(s.Conf, c, s.Log); err != nil {
		return nil, err
	}
	c.Cleaner = cleaner{cleanup.New(cc, q), s.Conf.String("content_filter")}
	c.Service, c.Flush = s.Name, flusher(s)
	return c, nil
}

// report logs the highest rates now and then, as anvil(8) does.
func (d *daemon) report(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.limits.Report(d.log)
		}
	}
}

// Drain reports the rest: a successor counts from here on.
func (d *daemon) Drain(context.Context) { d.limits.Report(d.log) }

// doors finds who answers the clients of postscreen lines: the smtpd of type pass
// that postscreen passes them to. Any other is better than nobody.
func (d *daemon) doors(services []*service.Service) {
	d.behind = make(map[*service.Service]*service.Service)
	var to *service.Service
	for _, s := range services {
		if d.lines[s] != nil && (to == nil || s.Type == "pass" && to.Type != "pass") {
			to = s
		}
	}
	for _, s := range services {
		if s.Command != "postscreen" {
			continue
		}
		if d.behind[s] = to; to == nil {
			s.Log.Errorf("service %s: there is no smtpd line of type pass behind postscreen: clients are turned away", s.Name)
		}
	}
}

func (d *daemon) Serve(ctx context.Context, s *service.Session) {
	line, log := d.lines[s.Service], s.Log
	if to := d.behind[s.Service]; to != nil {
		line, log = d.lines[to], log.As(to.Log.Tag())
	}
	if line != nil {
		line.Serve(ctx, s.Conn, log, s.Stress)
	}
}

// flusher asks flush(8) to deliver what waits for a site: ETRN, RFC 1985.
func flusher(s *service.Service) func(context.Context, string) smtp.Reply {
	path := "public/" + s.Conf.String("flush_service_name") // from the queue directory
	return func(ctx context.Context, site string) smtp.Reply {
		ctx, cancel := context.WithTimeout(ctx, flushTime)
		defer cancel()
		reply, err := ipc.Ask(ctx, path, "queue_flush_protocol", ipc.Attr{Name: "request", Value: "send_site"}, ipc.Attr{Name: "site", Value: site})
		switch status := ipc.Get(reply, "status"); {
		case err == nil && status == "0":
			return smtp.Reply{}
		case err == nil && status == "4":
			return smtp.Reply{Code: 459, Text: "<" + site + ">: service unavailable"}
		}
		s.Log.Warnf("flush service: site %q: %v", site, err)
		return smtp.Reply{Code: 458, Text: "Unable to queue messages"}
	}
}

// flushTime is how long the flush service may take to answer.
const flushTime = time.Minute

func resolvConf() dns.Config {
	c, err := dns.FromResolvConf("/etc/resolv.conf")
	if err != nil {
		c = dns.Config{}
	}
	c.Hosts = "/etc/hosts"
	// A client waits for its greeting meanwhile.
	c.Timeout, c.Attempts = 3*time.Second, 1
	return c
}

// resolver finds names of clients: the hosts file, then DNS.
type resolver struct {
	dns   *dns.Resolver
	hosts hosts
}

func (r *resolver) PTR(ctx context.Context, a netip.Addr) ([]string, error) {
	if names := r.hosts.lookup(a); len(names) > 0 {
		return names, nil
	}
	return r.dns.PTR(ctx, a)
}

func (r *resolver) Addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	return r.dns.Native(ctx, host, dns.Both)
}

// lookups are what access lists ask of the DNS.
type lookups struct{ dns *dns.Resolver }

func found[T any](list []T, err error) (bool, error) {
	if err != nil && dns.Missing(err) {
		return false, nil
	}
	return len(list) > 0, err
}

func (l lookups) Host(ctx context.Context, host string) (bool, error) {
	return found(l.dns.Addrs(ctx, host, dns.Both))
}

func (l lookups) Mail(ctx context.Context, domain string) (bool, error) {
	mx, err := l.dns.MX(ctx, domain)
	switch {
	case err == nil && len(mx) == 1 && mx[0].Host == "":
		return false, access.ErrNullMX
	case err == nil && len(mx) > 0:
		return true, nil
	case err != nil && !dns.Missing(err):
		return false, err
	}
	return l.Host(ctx, domain)
}

// some makes nothing of what does not exist.
func some[T any](list []T, err error) ([]T, error) {
	if err != nil && dns.Missing(err) {
		return nil, nil
	}
	return list, err
}

func (l lookups) MX(ctx context.Context, domain string) (hosts []string, err error) {
	list, err := some(l.dns.MX(ctx, domain))
	for _, mx := range list {
		if mx.Host != "" {
			hosts = append(hosts, mx.Host)
		}
	}
	return hosts, err
}

func (l lookups) NS(ctx context.Context, zone string) ([]string, error) {
	return some(l.dns.NS(ctx, zone))
}

func (l lookups) Addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	return some(l.dns.Native(ctx, host, dns.Both))
}

func (l lookups) Block(ctx context.Context, query string) ([]netip.Addr, string, error) {
	addrs, err := l.dns.Addrs(ctx, query, dns.IPv4)
	if err != nil {
		if dns.Missing(err) {
			err = nil
		}
		return nil, "", err
	}
	text, _ := l.dns.TXT(ctx, query)
	if len(text) > 0 {
		return addrs, text[0], nil
	}
	return addrs, "", nil
}

// cleaner makes lib/cleanup a smtpd.Cleaner.
type cleaner struct {
	c      *cleanup.Cleanup
	filter string // content_filter
}

func (c cleaner) Space(size int64) error { return c.c.Space(size) }

func (c cleaner) Begin(ctx context.Context, e smtpd.Envelope) (smtpd.Letter, error) {
	env := cleanup.Envelope{Local: e.Local, Size: e.Size, Log: e.Log}
	env.Arrival, env.Sender, env.EnvID, env.Ret, env.Encoding = e.Arrival, e.Sender, e.EnvID, e.Ret, e.Encoding
	env.Client, env.Reverse, env.Server, env.SrvPort = e.Client, e.Reverse, e.Server, e.SrvPort
	env.LogIdent, env.Filter = e.Ident, c.filter
	if e.SMTPUTF8 {
		env.SendOpts = queue.UTF8Requested
	}
	if e.Orig.Name != "" || e.Orig.Addr != "" {
		env.LogClient = e.Orig
	}
	if e.AuthFrom != "" {
		env.Attrs = append(env.Attrs, queue.Attr{Name: "sasl_sender", Value: e.AuthFrom})
	}
	env.Rewrite = "remote"
	if e.Local {
		env.Rewrite = "local"
	}
	if e.Filters != nil {
		env.Milters = &cleanup.Milters{Session: e.Filters, Lookup: e.Macro}
	}
	d, err := c.c.Begin(ctx, env)
	if err != nil {
		return nil, err
	}
	return &letter{Draft: d}, nil
}

// letter adds to a cleanup.Draft what access tables ask for.
type letter struct{ *cleanup.Draft }

func (l *letter) Filter(spec string) error   { return l.Record(queue.TypeFilter, spec) }
func (l *letter) Redirect(addr string) error { return l.Record(queue.TypeRedirect, addr) }

func (l *letter) BCC(ctx context.Context, addr string) error {
	a := address.Parse(addr)
	return l.Recipient(ctx, agent.Recipient{Address: a, Original: a})
}
