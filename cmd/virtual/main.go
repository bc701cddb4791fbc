// Command virtual delivers to mailboxes of people who have no account here: three
// tables give file, uid and gid by address. See virtual(8).
//
// It runs as root to give each delivery its rights: a child with uid and gid of
// the mailbox reads the message and writes the file, as cmd/local does it.
package main

import (
	"context"
	"os"
	"strconv"
	"strings"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/cli"
	"angarium/lib/conf/mailconf"
	"angarium/lib/deliver/local"
	"angarium/lib/deputy"
	"angarium/lib/dsn"
	"angarium/lib/maps"
	"angarium/lib/service"
)

func main() {
	if deputy.IsChild() {
		os.Exit(deputy.Child(do))
	}
	cli.Exec(run)
}

func run(ctx context.Context, c *cli.Cmd) error {
	return service.Run(ctx, c, service.Daemon{Program: "virtual", Setup: setup})
}

// tables are the three of one line, and its options.
type tables struct {
	mailbox, uid, gid maps.Table
	base, delimiters  string
	minimum           int
	options           local.Options
}

func setup(_ context.Context, env *service.Env) (service.Handler, error) {
	lines := map[*service.Service]*tables{}
	for _, s := range env.Services {
		t, err := open(s)
		if err != nil {
			return nil, err
		}
		lines[s] = t
	}
	h, err := deputy.NewHandler(env.Main)
	if err != nil {
		return nil, err
	}
	h.Deliver = func(ctx context.Context, s *service.Session, r *deputy.Request, f *os.File) []agent.Result {
		results := make([]agent.Result, len(r.Recipients))
		for i := range r.Recipients {
			one := *r
			one.Recipients = r.Recipients[i : i+1]
			results[i] = lines[s.Service].deliver(ctx, s, &one, f)
			results[i].Relay = "virtual"
		}
		return results
	}
	return h, nil
}

func open(s *service.Service) (*tables, error) {
	c := s.Conf
	t := &tables{
		base: c.String("virtual_mailbox_base"), delimiters: c.String("recipient_delimiter"), minimum: c.Int("virtual_minimum_uid"),
		options: local.Options{
			Hostname: c.String("myhostname"), NoForward: true, Locks: c.List("virtual_mailbox_lock"),
			LockAttempts: c.Int("deliver_lock_attempts"), LockDelay: c.Duration("deliver_lock_delay"), StaleLock: c.Duration("stale_lock_time"),
			SizeLimit: c.Size("virtual_mailbox_limit"), StrictOwner: c.Bool("strict_mailbox_ownership"), Virtual: true,
		},
	}
	for _, x := range []struct {
		name string
		to   *maps.Table
	}{{"virtual_mailbox_maps", &t.mailbox}, {"virtual_uid_maps", &t.uid}, {"virtual_gid_maps", &t.gid}} {
		var err error
		if *x.to, err = mailconf.Table(c, x.name, s.Log); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// find looks an address up: with its extension, without, and its domain.
func (t *tables) find(ctx context.Context, table maps.Table, a address.Address) (string, bool, error) {
	if table == nil {
		return "", false, nil
	}
	keys := []string{a.String()}
	if user, _, ok := address.SplitExtension(a.Local, t.delimiters); ok {
		keys = append(keys, user+"@"+a.Domain)
	}
	for _, key := range append(keys, "@"+a.Domain) {
		v, ok, err := table.Lookup(ctx, strings.ToLower(key))
		if ok || err != nil {
			return v, ok, err
		}
	}
	return "", false, nil
}

func misconfigured() error { return dsn.New(0, "4.3.5", "mail system configuration error") }

func (t *tables) deliver(ctx context.Context, s *service.Session, r *deputy.Request, f *os.File) agent.Result {
	failed := func(err error) agent.Result { return agent.Result{Err: err} }
	to := r.Recipients[0].Address
	name, ok, err := t.find(ctx, t.mailbox, to)
	if err != nil {
		s.Log.Warnf("table virtual_mailbox_maps: lookup %s: %v", to, err)
		return failed(misconfigured())
	}
	if !ok {
		return failed(dsn.New(0, "5.1.1", "unknown user: \"%s\"", to))
	}
	if name == "" {
		s.Log.Warnf("virtual_mailbox_maps lookup of %s returns an empty string result", to)
		s.Log.Warnf("virtual_mailbox_maps should return NO RESULT in case of NOT FOUND")
		return failed(misconfigured())
	}
	path := t.base + "/" + name
	if t.base == "" && !strings.HasPrefix(name, "/") {
		s.Log.Warnf("do not specify relative pathname: virtual_mailbox_maps = %s", name)
		return failed(misconfigured())
	}
	if t.base == "" {
		path = name
	}
	uid, ok1 := t.number(ctx, s, "uid", t.uid, to, t.minimum)
	if !ok1 {
		return failed(misconfigured())
	}
	gid, ok2 := t.number(ctx, s, "gid", t.gid, to, 1)
	if !ok2 {
		return failed(misconfigured())
	}
	cred, err := deputy.Credential(to.String(), uid, gid, uint32(gid))
	if err != nil {
		s.Log.Warnf("%s: %v", r.QueueID, err)
		return failed(&dsn.Error{Code: [3]int{4, 3, 0}, Text: err.Error()})
	}
	o := t.options
	o.User = local.User{Name: to.String(), Home: path, UID: uid, GID: gid}
	return deputy.Run(ctx, s.Log, deputy.Order[local.Options]{Program: "virtual", Cred: cred, Request: r, Task: o}, f)[0]
}

// number is the uid or gid of an address.
func (t *tables) number(ctx context.Context, s *service.Session, what string, table maps.Table, to address.Address, least int) (int, bool) {
	text, ok, err := t.find(ctx, table, to)
	switch n, bad := strconv.Atoi(text); {
	case err != nil:
		s.Log.Warnf("table virtual_%s_maps: lookup %s: %v", what, to, err)
	case !ok:
		s.Log.Warnf("recipient %s: not found in virtual_%s_maps", to, what)
	case bad != nil || n < least:
		s.Log.Warnf("recipient %s: bad %s %s in virtual_%s_maps", to, what, text, what)
	default:
		return n, true
	}
	return 0, false
}

// do delivers in the child.
func do(ctx context.Context, o local.Options, r *agent.Request) []agent.Result {
	return []agent.Result{local.NewDoer(o).Deliver(ctx, r, r.Recipients[0])}
}
