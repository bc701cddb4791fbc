// Package cyrusd is what the daemons of the mail store have in common: when they
// open what, how long the store stays open, and who may see who is connected.
//
//	func Main(ctx context.Context, c *cli.Cmd) error {
//		return cyrusd.Run(ctx, c, "pop3d", setup)
//	}
//
// Settings, keys and the user database are read while the process has its rights;
// the store is opened when they are dropped, for what is made there belongs to whom
// it serves as. It stays open until the last session has ended. This package knows
// no protocol.
package cyrusd

import (
	"context"
	"net"
	"sync"

	"angarium/lib/accounts"
	"angarium/lib/cli"
	"angarium/lib/conf/storeconf"
	"angarium/lib/maillog"
	"angarium/lib/service"
	"angarium/lib/store"
)

// Server serves the connections of one service.
type Server interface {
	Serve(ctx context.Context, conn net.Conn, log *maillog.Logger)
}

// Servers are there for each service.
type Servers map[*service.Service]Server

// Setup reads what the services need besides the store, at conf.
type Setup func(env *service.Env, conf store.Config) (Start, error)

// Start makes the servers.
type Start func(*store.Store) (Servers, error)

// Run is the daemon called program.
func Run(ctx context.Context, c *cli.Cmd, program string, setup Setup) error {
	return service.Run(ctx, c, service.Daemon{
		Program: program, Family: service.Cyrus,
		Setup: func(_ context.Context, env *service.Env) (service.Handler, error) { return begin(env, setup) },
	})
}

type daemon struct {
	conf  store.Config
	start Start

	ready    chan struct{} // closed when the servers are there
	servers  Servers
	sessions sync.WaitGroup
}

func begin(env *service.Env, setup Setup) (*daemon, error) {
	conf, err := storeconf.Store(env.Imapd, env.Log)
	if err != nil {
		return nil, err
	}
	start, err := setup(env, conf)
	if err != nil {
		return nil, err
	}
	return &daemon{conf: conf, start: start, ready: make(chan struct{})}, nil
}

// Run keeps the store open until the last session has ended.
func (d *daemon) Run(ctx context.Context) error {
	st, err := store.Open(ctx, d.conf)
	if err != nil {
		return err
	}
	if d.servers, err = d.start(st); err != nil {
		return err
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

// Users opens the user databases. Services that name the same file share one.
func Users(services []*service.Service) (map[*service.Service]*accounts.DB, error) {
	users := map[*service.Service]*accounts.DB{}
	open := map[string]*accounts.DB{} // by path
	for _, s := range services {
		path, opt := storeconf.Accounts(s.Imapd)
		if open[path] == nil {
			db, err := accounts.Open(path, opt)
			if err != nil {
				return nil, err
			}
			open[path] = db
		}
		users[s] = open[path]
	}
	return users, nil
}
