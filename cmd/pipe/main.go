// Command pipe delivers to commands that lines of master.cf name. See pipe(8).
//
// It runs as root to give each command the rights of its user=, and does little
// itself: a child with these rights reads the message and starts the command.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"angarium/lib/agent"
	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/deliver/pipe"
	"angarium/lib/deputy"
	"angarium/lib/dsn"
	"angarium/lib/service"
	"angarium/lib/sysuser"
)

func main() {
	if deputy.IsChild() {
		os.Exit(deputy.Child(do))
	}
	cli.Exec(run)
}

func run(ctx context.Context, c *cli.Cmd) error {
	return service.Run(ctx, c, service.Daemon{Program: "pipe", Setup: setup})
}

// line is a service: what it runs, and as whom.
type line struct {
	options pipe.Options
	cred    *syscall.Credential
	// err is why its mail waits. It is no reason not to start, nor to complain
	// before there is mail: stock files have lines for users that nobody made.
	err error
}

func setup(_ context.Context, env *service.Env) (service.Handler, error) {
	lines := map[*service.Service]*line{}
	for _, s := range env.Services {
		lines[s] = parse(s)
	}
	h, err := deputy.NewHandler(env.Main)
	if err != nil {
		return nil, err
	}
	h.Deliver = func(ctx context.Context, s *service.Session, r *deputy.Request, f *os.File) []agent.Result {
		l := lines[s.Service]
		if l.err != nil {
			l = parse(s.Service) // its user may have been added since
		}
		if l.err != nil {
			s.Log.Warnf("%s: service %s: %v", r.QueueID, s.Name, l.err)
			return deputy.All(r, agent.Result{Err: dsn.New(0, "4.3.5", "mail system configuration error"), Relay: s.Name})
		}
		return relayed(s.Name, deputy.Run(ctx, s.Log, deputy.Order[pipe.Options]{
			Program: "pipe", Cred: l.cred, Chroot: l.options.Line.Chroot, Request: r, Task: l.options,
		}, f))
	}
	return h, nil
}

func relayed(name string, results []agent.Result) []agent.Result {
	for i := range results {
		results[i].Relay = name
	}
	return results
}

func parse(s *service.Service) *line {
	parsed, err := pipe.Parse(s.Args)
	if err != nil {
		return &line{err: err}
	}
	l := &line{options: pipe.Options{
		Line: *parsed, Service: s.Name, Delimiters: s.Conf.String("recipient_delimiter"), Dir: s.Conf.String("queue_directory"),
		MasterCF: s.Conf.Dir() + "/master.cf", Time: s.Conf.TransportDuration(s.Name, "time_limit"),
		Env: environ(s.Conf),
	}}
	if l.options.Time <= 0 {
		l.options.Time = s.Conf.Duration("command_time_limit")
	}
	l.cred, l.err = credential(parsed.User, s.Conf)
	return l
}

// credential is who a command runs as. An ordinary user runs it as itself only.
func credential(user string, conf *maincf.Config) (*syscall.Credential, error) {
	name, group, _ := strings.Cut(user, ":")
	u, err := sysuser.Lookup(name)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return nil, fmt.Errorf("unknown username: %s", name)
	}
	gid := u.GID
	if group != "" {
		g, err := sysuser.LookupGroup(group)
		if err != nil {
			return nil, err
		}
		if g == nil {
			return nil, fmt.Errorf("unknown group: %s", group)
		}
		gid = g.GID
	}
	if os.Geteuid() == 0 {
		if err := refuse(u.UID, gid, conf); err != nil {
			return nil, err
		}
	}
	return deputy.Credential(name, u.UID, gid, uint32(gid))
}

// refuse are the rights that no command gets: root's, and those of the mail system,
// which could read all mail.
func refuse(uid, gid int, conf *maincf.Config) error {
	owner, err := sysuser.Lookup(conf.String("mail_owner"))
	if err != nil {
		return err
	}
	setgid, err := sysuser.LookupGroup(conf.String("setgid_group"))
	switch {
	case err != nil:
		return err
	case uid == 0:
		return errors.New("user= command-line attribute specifies root privileges")
	case owner != nil && uid == owner.UID:
		return fmt.Errorf("user= command-line attribute specifies mail system owner %s", owner.Name)
	case gid == 0:
		return errors.New("user= command-line attribute specifies privileged group id 0")
	case owner != nil && gid == owner.GID:
		return fmt.Errorf("user= command-line attribute specifies mail system owner %s group id %d", owner.Name, gid)
	case setgid != nil && gid == setgid.GID:
		return fmt.Errorf("user= command-line attribute specifies mail system %s group id %d", setgid.Name, gid)
	}
	return nil
}

// environ is export_environment.
func environ(conf *maincf.Config) []string {
	env := []string{"PATH=/usr/bin:/bin"}
	for _, name := range conf.List("export_environment") {
		if strings.Contains(name, "=") {
			env = append(env, name)
		} else if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// do delivers in the child.
func do(ctx context.Context, o pipe.Options, r *agent.Request) []agent.Result {
	return pipe.Deliver(ctx, o, r)
}
