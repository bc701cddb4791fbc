// Package pop3d lets users fetch their mail by POP3. See pop3d(8).
package pop3d

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"angarium/lib/accounts"
	"angarium/lib/cli"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/storeconf"
	"angarium/lib/maillog"
	"angarium/lib/pop3d"
	"angarium/lib/proclist"
	"angarium/lib/service"
	"angarium/lib/store"
)

// product is what greetings call us; the old version stands in it for clients
// and monitors that look for it.
const product = "Cyrus POP3 3.6.1-Angarium"

// Main is pop3d.
func Main(ctx context.Context, c *cli.Cmd) error {
	return service.Run(ctx, c, service.Daemon{Program: "pop3d", Family: service.Cyrus, Setup: setup})
}

// daemon opens keys and the user database while it has the rights, and the store
// when they are dropped: what is made there belongs to whom it serves as.
type daemon struct {
	store    store.Config
	shared   *pop3d.Shared
	settings map[*service.Service]settings

	ready    chan struct{} // closed when the servers are there
	servers  map[*service.Service]*pop3d.Server
	sessions sync.WaitGroup
}

// settings are a service's, before the store is open.
type settings struct {
	conf  pop3d.Config
	users *accounts.DB
}

func setup(_ context.Context, env *service.Env) (service.Handler, error) {
	conf, err := storeconf.Store(env.Imapd, env.Log)
	if err != nil {
		return nil, err
	}
	d := &daemon{
		store:    conf,
		shared:   pop3d.NewShared(),
		settings: map[*service.Service]settings{},
		ready:    make(chan struct{}),
		servers:  map[*service.Service]*pop3d.Server{},
	}
	open := map[string]*accounts.DB{} // by path: the services share one
	for _, s := range env.Services {
		path, opt := storeconf.Accounts(s.Imapd)
		users, ok := open[path]
		if !ok {
			if users, err = accounts.Open(path, opt); err != nil {
				return nil, err
			}
			open[path] = users
		}
		conf, err := configure(s, users)
		if err != nil {
			return nil, err
		}
		d.settings[s] = settings{conf, users}
	}
	return d, nil
}

// Run keeps the store open until the last session has ended.
func (d *daemon) Run(ctx context.Context) error {
	st, err := store.Open(ctx, d.store)
	if err != nil {
		return err
	}
	for s, set := range d.settings {
		ns := storeconf.Namespace(s.Imapd, "")
		drops := &opener{
			store:  st,
			inbox:  ns.Inbox,
			seen:   s.Imapd.Bool("popuseimapflags"),
			create: s.Imapd.Int("autocreate_quota") >= 0,
		}
		d.servers[s] = pop3d.New(set.conf, set.users, drops, d.shared)
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
func configure(s *service.Service, users *accounts.DB) (pop3d.Config, error) {
	c := s.Imapd
	implicit := slices.Contains(s.Args, "-s")
	conf := pop3d.Config{
		Host:        c.ServerName(),
		Product:     product,
		Info:        c.Enum("serverinfo"),
		Prefix:      c.String("syslog_prefix"),
		Timeout:     c.Duration("poptimeout"),
		FailPause:   c.Duration("failedloginpause"),
		PlainPause:  c.Duration("plaintextloginpause"),
		MinPoll:     c.Duration("popminpoll"),
		Padding:     c.Int("poppollpadding"),
		Expire:      int(c.Duration("popexpiretime") / (24 * time.Hour)),
		UIDL:        c.Enum("uidl_format"),
		ImplicitTLS: implicit,
		TLSRequired: c.Bool("tls_required") || c.Int("sasl_minimum_layer") > 1,
		Plaintext:   c.Bool("allowplaintext"),
		APOP:        c.Bool("allowapop") && users.Secrets(),
		Secrets:     users.Secrets(),
		Scram:       []string{"SCRAM-SHA-256"},
		MaxPerHost:  c.Int("maxlogins_per_host"),
		MaxPerUser:  c.Int("maxlogins_per_user"),
		HostName:    hostName,
		Present:     present(c, s.Name, s.Log),
	}
	list, _ := c.SASL("mech_list")
	conf.Mechanisms = strings.Fields(list)
	mayProxy := append(c.List("admins"), c.List("proxyservers")...)
	conf.AuthorizeAs = func(id, _ string) bool { return slices.Contains(mayProxy, id) }
	var err error
	if conf.TLS, err = storeconf.TLS(c); err == nil && conf.TLS == nil && implicit {
		err = errors.New("pop3s: required OpenSSL options not present")
	}
	return conf, err
}

// present keeps the list of who is connected, in proc_path.
func present(c *imapdconf.Config, name string, log *maillog.Logger) func(int64, string, string, string) func() {
	dir := c.String("proc_path")
	if dir == "" {
		dir = filepath.Join(c.String("configdirectory"), "proc")
	}
	return func(session int64, host, user, mailbox string) func() {
		err := proclist.Put(dir, proclist.Entry{ID: session, Service: name, Host: host, User: user, Mailbox: mailbox})
		if err != nil {
			log.Log(maillog.Debug, "can't tell who is connected: %v", err)
			return func() {}
		}
		return func() { _ = proclist.Remove(dir, session) }
	}
}
