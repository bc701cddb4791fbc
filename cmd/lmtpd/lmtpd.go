// Package lmtpd takes mail for the users' mailboxes. See lmtpd(8).
package lmtpd

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"angarium/lib/cli"
	"angarium/lib/conf/storeconf"
	"angarium/lib/lmtpd"
	"angarium/lib/service"
	"angarium/lib/store"
)

// version is what the greeting and Received say behind "Cyrus": scripts look for
// the 3.
const version = "3.6.1-Angarium"

// Main is lmtpd.
func Main(ctx context.Context, c *cli.Cmd) error {
	return service.Run(ctx, c, service.Daemon{Program: "lmtpd", Family: service.Cyrus, Setup: setup})
}

// daemon opens the store when rights are dropped: what is made there belongs to
// whom it serves as.
type daemon struct {
	conf     store.Config
	services []*service.Service

	ready    chan struct{} // closed when the servers are there
	servers  map[*service.Service]*lmtpd.Server
	sessions sync.WaitGroup
}

func setup(_ context.Context, env *service.Env) (service.Handler, error) {
	conf, err := storeconf.Store(env.Imapd, env.Log)
	if err != nil {
		return nil, err
	}
	return &daemon{conf: conf, services: env.Services, ready: make(chan struct{})}, nil
}

// Run keeps the store open until the last session has ended.
func (d *daemon) Run(ctx context.Context) error {
	st, err := store.Open(ctx, d.conf)
	if err != nil {
		return err
	}
	seen := &lmtpd.Duplicates{Dir: filepath.Join(d.conf.ConfigDirectory, "deliver"), Log: d.conf.Log}
	d.servers = make(map[*service.Service]*lmtpd.Server, len(d.services))
	for _, s := range d.services {
		d.servers[s] = server(s, st, seen)
	}
	close(d.ready)
	<-ctx.Done()
	d.sessions.Wait()
	return st.Close()
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

func (d *daemon) Serve(ctx context.Context, s *service.Session) {
	d.sessions.Add(1)
	defer d.sessions.Done()
	select {
	case <-d.ready:
		d.servers[s.Service].Serve(ctx, s.Conn, s.Log)
	case <-ctx.Done():
	}
}
