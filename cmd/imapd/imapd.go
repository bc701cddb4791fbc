// Package imapd lets users read their mail by IMAP. See imapd(8).
package imapd

import (
	"context"
	"slices"
	"strings"
	"time"

	"angarium/lib/accounts"
	"angarium/lib/cli"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/storeconf"
	"angarium/lib/cyrusd"
	"angarium/lib/imap"
	"angarium/lib/imapd"
	"angarium/lib/sasl"
	"angarium/lib/service"
	"angarium/lib/store"
)

// version stands in the greeting and in ID: clients and monitors look for the 3.
const version = "3.6.1-Angarium"

// Main is imapd.
func Main(ctx context.Context, c *cli.Cmd) error {
	return cyrusd.Run(ctx, c, "imapd", setup)
}

func setup(env *service.Env, _ store.Config) (cyrusd.Start, error) {
	users, err := cyrusd.Users(env.Services)
	if err != nil {
		return nil, err
	}
	settings := map[*service.Service]imapd.Config{}
	for _, s := range env.Services {
		if settings[s], err = configure(s, users[s]); err != nil {
			return nil, err
		}
	}
	return func(st *store.Store) (cyrusd.Servers, error) {
		logins, servers := imapd.NewLogins(), cyrusd.Servers{}
		for s, conf := range settings {
			conf.Store = st
			srv, err := imapd.New(conf, logins)
			if err != nil {
				return nil, err
			}
			servers[s] = srv
		}
		return servers, nil
	}, nil
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
		Autocreate:  folders(c.String("autocreate_inbox_folders")),
		Protected:   c.List("specialuse_protect"),
		Unsupported: c.List("suppress_capabilities"),
		HostName:    cyrusd.HostName,
		Present:     cyrusd.Present(s),
		Limits:      imap.Limits{Word: min(c.Int("maxword"), c.Int("maxquoted"))},
	}
	conf.NewINBOX, conf.AutoINBOX = storeconf.NewInbox(c)
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
