// Command spawn runs a command for each client of a service: a policy server that
// knows nothing of sockets, for instance. See spawn(8).
//
// It keeps the rights of master, to give them up anew for each command: the command
// runs with the uid and gid that its line of master.cf names, never as root and
// never as mail_owner. It reads nothing of what client and command say.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/service"
	"angarium/lib/sysuser"
)

func main() { cli.Exec(run) }

func run(ctx context.Context, c *cli.Cmd) error {
	return service.Run(ctx, c, service.Daemon{Program: "spawn", Setup: setup})
}

// command is what one line runs.
type command struct {
	argv  []string
	cred  *syscall.Credential // nil: as we are
	env   []string
	limit time.Duration
}

type spawner struct{ commands map[*service.Service]*command }

func setup(_ context.Context, env *service.Env) (service.Handler, error) {
	s := &spawner{map[*service.Service]*command{}}
	for _, l := range env.Services {
		cmd, err := parse(l)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", l.Name, err)
		}
		s.commands[l] = cmd
	}
	return s, nil
}

// parse reads user=name[:group] and argv=command of a line.
func parse(l *service.Service) (*command, error) {
	cmd := &command{limit: l.Conf.TransportDuration(l.Name, "time_limit"), env: environ(l.Conf)}
	user := ""
	for i, a := range l.Args {
		if value, ok := strings.CutPrefix(a, "user="); ok {
			user = value
		}
		if value, ok := strings.CutPrefix(a, "argv="); ok {
			cmd.argv = append([]string{value}, l.Args[i+1:]...)
			break
		}
	}
	switch {
	case len(cmd.argv) == 0 || cmd.argv[0] == "":
		return nil, errors.New("missing argv= command-line attribute")
	case user == "":
		return nil, errors.New("missing user= command-line attribute")
	}
	var err error
	cmd.cred, err = credential(user, l.Conf.String("mail_owner"))
	return cmd, err
}

// credential is who the command runs as. An ordinary user can run it as itself only.
func credential(user, owner string) (*syscall.Credential, error) {
	name, group, _ := strings.Cut(user, ":")
	u, err := sysuser.Lookup(name)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return nil, fmt.Errorf("unknown username: %s", name)
	}
	cred := &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
	if group != "" {
		g, err := sysuser.LookupGroup(group)
		if err != nil {
			return nil, err
		}
		if g == nil {
			return nil, fmt.Errorf("unknown group: %s", group)
		}
		cred.Gid = uint32(g.GID)
	}
	if os.Geteuid() != 0 {
		if u.UID != os.Geteuid() {
			return nil, fmt.Errorf("user %s is not the one that we run as", name)
		}
		return nil, nil
	}
	if cred.Uid == 0 {
		return nil, errors.New("request to run as root")
	}
	if cred.Gid == 0 {
		return nil, errors.New("request to run as group root")
	}
	if o, err := sysuser.Lookup(owner); err == nil && o != nil && o.UID == u.UID {
		return nil, errors.New("request to run as mail system owner")
	}
	cred.Groups = []uint32{cred.Gid}
	return cred, nil
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

// Serve runs the command with the connection as its standard streams.
func (s *spawner) Serve(ctx context.Context, c *service.Session) {
	cmd := s.commands[c.Service]
	conn, ok := c.Conn.(interface{ File() (*os.File, error) })
	if !ok {
		return
	}
	f, err := conn.File()
	if err != nil {
		c.Log.Warnf("%v", err)
		return
	}
	defer f.Close()
	if cmd.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cmd.limit)
		defer cancel()
	}
	p := exec.CommandContext(ctx, cmd.argv[0], cmd.argv[1:]...)
	p.Env, p.Stdin, p.Stdout, p.Stderr = cmd.env, f, f, f
	p.SysProcAttr = &syscall.SysProcAttr{Credential: cmd.cred, Setsid: true}
	p.Cancel = func() error { return syscall.Kill(-p.Process.Pid, syscall.SIGTERM) }
	p.WaitDelay = 5 * time.Second
	// The command expects a socket that blocks; nobody here reads it.
	if err := syscall.SetNonblock(int(f.Fd()), false); err != nil {
		c.Log.Warnf("%v", err)
		return
	}
	var exit *exec.ExitError
	switch err := p.Run(); {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		c.Log.Warnf("command %s exit status %d", cmd.argv[0], exit.ExitCode())
	case errors.As(err, &exit) && ctx.Err() != nil:
		c.Log.Warnf("command %s: time limit exceeded", cmd.argv[0])
	case err != nil:
		c.Log.Warnf("command %s: %v", cmd.argv[0], err)
	}
}
