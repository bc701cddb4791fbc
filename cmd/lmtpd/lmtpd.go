// Package lmtpd takes mail for the users' mailboxes. See lmtpd(8).
package lmtpd

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"time"

	"angarium/lib/cli"
	"angarium/lib/conf/storeconf"
	"angarium/lib/cyrusd"
	"angarium/lib/lmtpd"
	"angarium/lib/service"
	"angarium/lib/store"
)

// version is what the greeting and Received say behind "Cyrus": scripts look for
// the 3.
const version = "3.6.1-Angarium"

// Main is lmtpd.
func Main(ctx context.Context, c *cli.Cmd) error {
	return cyrusd.Run(ctx, c, "lmtpd", setup)
}

func setup(env *service.Env, conf store.Config) (cyrusd.Start, error) {
	return func(st *store.Store) (cyrusd.Servers, error) {
		seen := &lmtpd.Duplicates{Dir: filepath.Join(conf.ConfigDirectory, "deliver"), Log: conf.Log}
		servers := cyrusd.Servers{}
		for _, s := range env.Services {
			servers[s] = server(s, st, seen)
		}
		return servers, nil
	}, nil
}

func server(s *service.Service, st *store.Store, seen *lmtpd.Duplicates) *lmtpd.Server {
	c := s.Imapd
	if !c.Bool("duplicatesuppression") {
		seen = nil
	}
	trusted := slices.Contains(s.Args, "-a")
	return lmtpd.New(lmtpd.Config{
		Hostname: c.ServerName(), Prefix: c.String("syslog_prefix"), Version: version, Store: st, Namespace: storeconf.Namespace(c, ""), Seen: seen,
		Downcase: c.Bool("lmtp_downcase_rcpt"), PostUser: c.String("postuser"), Permanent: c.Bool("lmtp_over_quota_perm_failure"),
		MaxSize: c.Size("maxmessagesize"), Timeout: max(c.Duration("lmtptxn_timeout"), time.Minute),
		PreAuth: func(conn net.Conn) bool {
			_, local := conn.LocalAddr().(*net.UnixAddr)
			return local || trusted
		},
	})
}
