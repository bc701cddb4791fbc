// Package pop3d lets users fetch their mail by POP3. See pop3d(8).
package pop3d

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"angarium/lib/accounts"
	"angarium/lib/cli"
	"angarium/lib/conf/storeconf"
	"angarium/lib/cyrusd"
	"angarium/lib/pop3d"
	"angarium/lib/service"
	"angarium/lib/store"
)

// product is what greetings call us; the old version stands in it for clients
// and monitors that look for it.
const product = "Cyrus POP3 3.6.1-Angarium"

// Main is pop3d.
func Main(ctx context.Context, c *cli.Cmd) error {
	return cyrusd.Run(ctx, c, "pop3d", setup)
}

func setup(env *service.Env, _ store.Config) (cyrusd.Start, error) {
	users, err := cyrusd.Users(env.Services)
	if err != nil {
		return nil, err
	}
	settings := map[*service.Service]pop3d.Config{}
	for _, s := range env.Services {
		if settings[s], err = configure(s, users[s]); err != nil {
			return nil, err
		}
	}
	return func(st *store.Store) (cyrusd.Servers, error) {
		shared, servers := pop3d.NewShared(), cyrusd.Servers{}
		for s, conf := range settings {
			ns := storeconf.Namespace(s.Imapd, "")
			drops := &opener{
				store: st,
				inbox: ns.Inbox,
				seen:  s.Imapd.Bool("popuseimapflags"),
			}
			drops.newInbox, drops.create = storeconf.NewInbox(s.Imapd)
			servers[s] = pop3d.New(conf, users[s], drops, shared)
		}
		return servers, nil
	}, nil
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
		HostName:    cyrusd.HostName,
		Present:     cyrusd.Present(s),
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
