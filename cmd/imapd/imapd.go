// Package imapd lets users read their mail by IMAP. See imapd(8).
package imapd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"angarium/lib/accounts"
	"angarium/lib/cli"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/storeconf"
	"angarium/lib/imap"
	"angarium/lib/imapd"
	"angarium/lib/maillog"
	"angarium/lib/proclist"
	"angarium/lib/sasl"
	"angarium/lib/service"
	"angarium/lib/store"
)

// version stands in the greeting and in ID: clients and monitors look for the 3.
const version = "3.6.1-Angarium"

// Main is imapd.
func Main(ctx context.Context, c *cli.Cmd) error {
	return service.Run(ctx, c, service.Daemon{Program: "imapd", Family: service.Cyrus, Setup: setup})
}

// daemon opens keys and the user database while it has the rights, and the store
// when they are dropped: what is made there belongs to whom it serves as.
type daemon struct {
	store    store.Config
	settings map[*service.Service]imapd.Config

	ready    chan struct{} // closed when the servers are there
	servers  map[*service.Service]*imapd.Server
	sessions sync.WaitGroup
}

func setup(_ context.Context, env *service.Env) (service.Handler, error) {
	conf, err := storeconf.Store(env.Imapd, env.Log)
	if err != nil {
		return nil, err
	}
	d := &daemon{
		store:    conf,
		settings: map[*service.Service]imapd.Config{},
		ready:    make(chan struct{}),
		servers:  map[*service.Service]*imapd.Server{},
	}
	open := map[string]*accounts.DB{} // by path: imap and imaps share one
	for _, s := range env.Services {
		path, opt := storeconf.Accounts(s.Imapd)
		users, ok := open[path]
		if !ok {
			if users, err = accounts.Open(path, opt); err != nil {
				return nil, err
			}
			open[path] = users
		}
		if d.settings[s], err = configure(s, users); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Run keeps the store open until the last session has ended.
func (d *daemon) Run(ctx context.Context) error {
	st, err := store.Open(ctx, d.store)
	if err != nil {
		return err
	}
	for s := range d.settings {
		_ = os.MkdirAll(procPath(s.Imapd), 0o755) // without it nobody is shown as connected, no more
	}
	logins := imapd.NewLogins()
	for s, conf := range d.settings {
		conf.Store = st
		if d.servers[s], err = imapd.New(conf, logins); err != nil {
			return err
		}
	}
	close(d.ready)
	<-ctx.Done()
	d.sessions.Wait()
	return st.Close()
}

func (d *daemon) Serve(ctx context.Context, s *service.Session) {
	d.sessions.Add(1)
	defer d.sessions.Done()
	select {
	case <-d.ready:
		d.servers[s.Service].Serve(ctx, s.Conn, s.Log)
	case <-ctx.Done():
	}
}

// configure turns imapd.conf, as the service sees it, into values.
func configure(s *service.Service, users *accounts.DB) (imapd.Config, error) {
	c := s.Imapd
	mechs, _ := c.SASL("mech_list")
	conf := imapd.Config{
		Service: s.Name, Host: c.ServerName(), Prefix: c.String("syslog_prefix"), Product: product(c), Version: version,
		Verifier: users,
		Offer: sasl.Offer{
			List: strings.Fields(mechs), Cleartext: c.Bool("allowplaintext"),
			Secrets: users.Secrets(), Scram: []string{"SCRAM-SHA-256"},
		},
		Implicit:    slices.Contains(s.Args, "-s"),
		TLSRequired: c.Bool("tls_required") || c.Int("sasl_minimum_layer") > 1,
		Namespace:   storeconf.Namespace(c, ""),
		Admins:      c.List("admins"),
		Proxies:     c.List("proxyservers"),

		Timeout:          max(c.Duration("timeout"), 30*time.Minute), // RFC 3501, 5.4
		IdleTimeout:      max(c.Duration("imapidletimeout"), 0),
		LoginPause:       pause(c.Duration("failedloginpause")),
		MaxLoginsPerHost: c.Int("maxlogins_per_host"),
		MaxLoginsPerUser: c.Int("maxlogins_per_user"),
		MaxMessageSize:   c.Size("maxmessagesize"),

		IDResponse:  c.Bool("imapidresponse"),
		Munge8Bit:   isSet(c, "munge8bit"),
		Reject8Bit:  isSet(c, "reject8bit"),
		AutoINBOX:   c.Int("autocreate_quota") >= 0,
		Autocreate:  folders(c.String("autocreate_inbox_folders")),
		Protected:   c.List("specialuse_protect"),
		Unsupported: c.List("suppress_capabilities"),
		HostName:    hostName,
		Present:     present(c, s.Name, s.Log),
		Limits:      imap.Limits{Word: min(c.Int("maxword"), c.Int("maxquoted"))},
	}
	var err error
	conf.TLS, err = storeconf.TLS(c)
	return conf, err
}

// product is what the greeting calls us, as serverinfo allows.
func product(c *imapdconf.Config) string {
	switch c.Enum("serverinfo") {
	case "min":
		return "Cyrus IMAP"
	case "off":
		return "IMAP"
	}
	return "Cyrus IMAP " + version
}

// isSet is a switch that acts only where the file names it: the default of
// munge8bit would alter what users append.
func isSet(c *imapdconf.Config, name string) bool {
	_, set := c.Raw(name)
	return set && c.Bool(name)
}

// pause is failedloginpause, which may be none.
func pause(d time.Duration) time.Duration {
	if d <= 0 {
		return -1
	}
	return d
}

// folders are names parted by "|".
func folders(list string) (out []string) {
	for _, f := range strings.Split(list, "|") {
		if f = strings.TrimSpace(f); f != "" {
			out = append(out, f)
		}
	}
	return out
}

// hostName is what the client's address is called, "" if nothing.
func hostName(ctx context.Context, ip string) string {
	ctx, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	names, err := net.DefaultResolver.LookupAddr(ctx, ip)
	if err != nil || len(names) == 0 || strings.ContainsAny(names[0], " \t[]()<>") {
		return ""
	}
	return strings.TrimSuffix(names[0], ".")
}

func procPath(c *imapdconf.Config) string {
	if dir := c.String("proc_path"); dir != "" {
		return dir
	}
	return filepath.Join(c.String("configdirectory"), "proc")
}

// present keeps the list of who is connected, in proc_path.
func present(c *imapdconf.Config, name string, log *maillog.Logger) func(int64, string, string, string) func() {
	dir := procPath(c)
	return func(session int64, host, user, mailbox string) func() {
		err := proclist.Put(dir, proclist.Entry{ID: session, Service: name, Host: host, User: user, Mailbox: mailbox})
		if err != nil {
			log.Log(maillog.Debug, "can't tell who is connected: %v", err)
			return func() {}
		}
		return func() { _ = proclist.Remove(dir, session) }
	}
}
