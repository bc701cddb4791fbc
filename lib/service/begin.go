package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"angarium/lib/cli"
	"angarium/lib/conf/cyrusconf"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/maincf"
	"angarium/lib/ipc"
	"angarium/lib/maillog"
	"angarium/lib/plan"
)

// options are what a person may say to a daemon started by hand.
type options struct {
	config    string // -c or -C
	services  string // -M: cyrus.conf
	name      string // -n: only the line of this name
	kind      string // -t: and of this type
	overrides []string
}

// begin reads the configuration and learns which lines are ours, from master or
// from the files.
func (k *child) begin(ctx context.Context, c *cli.Cmd, d Daemon) (*Env, error) {
	_, _ = time.Now().Zone() // the file of the zone may be out of reach after a chroot
	h, inherited, err := ipc.Inherited()
	if err != nil {
		return nil, err
	}
	var o options
	if inherited {
		o.config = h.Config
		if err := k.attach(h.Control); err != nil {
			return nil, err
		}
	} else if o, err = parseOptions(c, d.Family); err != nil {
		return nil, err
	} else if d.Family == Postfix && o.config == "" {
		// Whoever runs qmgr only to see what it is must not find it at work on the
		// system's queue.
		return nil, errors.New("do not run this command by hand")
	}
	env := &Env{Program: d.Program, ByHand: !inherited, child: k}
	k.env = env
	if d.Family == Cyrus {
		err = env.loadCyrus(c, o)
	} else {
		err = env.loadPostfix(c, o)
	}
	if err != nil {
		return nil, err
	}
	lines := h.Lines
	if !inherited {
		if lines, err = env.linesByHand(ctx, d, o); err != nil {
			return nil, err
		}
	}
	for _, l := range lines {
		s, err := env.service(l, d.Family, o)
		if err != nil {
			return nil, err
		}
		env.Services = append(env.Services, s)
	}
	return env, nil
}

func parseOptions(c *cli.Cmd, family Family) (o options, err error) {
	spec := "c:n:t:o:s:i:m:DdvlSVuxz"
	if family == Cyrus {
		spec = "C:M:n:t:U:T:p:H:DsNavdr"
	}
	for {
		letter, arg, ok, err := c.Getopt(spec)
		if err != nil || !ok {
			return o, err
		}
		switch letter {
		case 'c', 'C':
			o.config = arg
		case 'M':
			o.services = arg
		case 'n':
			o.name = arg
		case 't':
			o.kind = arg
		case 'o':
			o.overrides = append(o.overrides, arg)
		}
	}
}

func (e *Env) loadPostfix(c *cli.Cmd, o options) error {
	dir, err := filepath.Abs(maincf.Dir(o.config))
	if err != nil {
		return err
	}
	conf, err := maincf.Load(dir)
	if err != nil {
		return err
	}
	syscall.Umask(0077)
	e.Main = conf
	queue := conf.String("queue_directory")
	if err := os.Chdir(queue); err != nil {
		return fmt.Errorf("chdir %s: %w", queue, err)
	}
	sink := maillog.ToWriter(c.Stderr)
	if !e.ByHand {
		config := maillog.Config{
			File:     conf.String("maillog_file"),
			Prefixes: conf.List("maillog_file_prefixes"),
			Socket:   "public/postlog",
			Facility: conf.String("syslog_facility"),
			Host:     conf.String("myhostname"),
		}
		if e.Program == "postlogd" {
			config.Socket = "" // it would talk to itself
		}
		if sink, err = maillog.Open(config); err != nil {
			return err
		}
	}
	e.Log = maillog.New(sink, conf.String("syslog_name")+"/"+e.Program)
	return conf.Err()
}

func (e *Env) loadCyrus(c *cli.Cmd, o options) error {
	file := o.config
	if file == "" {
		file = imapdconf.DefaultPath
	}
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	conf, err := imapdconf.Load(file)
	if err != nil {
		return err
	}
	e.Imapd = conf
	if dir := conf.String("configdirectory"); dir != "" {
		if err := os.Chdir(dir); err != nil {
			return err
		}
	}
	sink := maillog.ToWriter(c.Stderr)
	if !e.ByHand {
		// maillog_file is ours, for a set-up without syslog. It is opened here, while
		// we have the rights.
		logFile, _ := conf.Raw("maillog_file")
		if sink, err = maillog.Open(maillog.Config{File: logFile, Facility: conf.String("syslog_facility")}); err != nil {
			return err
		}
	}
	e.Log = maillog.New(sink, e.cyrusTag(e.Program))
	return nil
}

// cyrusTag is the log tag of a service: "cyrus/imaps".
func (e *Env) cyrusTag(name string) string {
	prefix := e.Imapd.String("syslog_prefix")
	if prefix == "" {
		prefix = "cyrus"
	}
	return prefix + "/" + name
}

// linesByHand makes the listeners that master would have made.
func (e *Env) linesByHand(ctx context.Context, d Daemon, o options) ([]ipc.Line, error) {
	var pl *plan.Plan
	if d.Family == Cyrus {
		conf, err := cyrusconf.Load(o.services)
		if err != nil {
			return nil, err
		}
		pl = plan.Cyrus(ctx, o.config, conf.Services, "")
	} else {
		var err error
		if pl, err = plan.Load(ctx, e.Main); err != nil {
			return nil, err
		}
	}
	var lines []ipc.Line
	opened := false
	for _, p := range pl.Only(d.Program) {
		for _, l := range p.Lines {
			if o.name != "" && l.Name != o.name || o.kind != "" && l.Type != o.kind {
				l.Sockets = nil
				if p.Own(&l) {
					continue
				}
			}
			for i := range l.Sockets {
				s := &l.Sockets[i]
				fd, err := ipc.Listen(s.Address)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", s.Addr, err)
				}
				s.FD, opened = fd, true
			}
			lines = append(lines, l)
		}
	}
	if !opened {
		return nil, fmt.Errorf("no line for %s to serve", d.Program)
	}
	return lines, nil
}

// service makes a Service of a line: its settings and its name in the log.
func (e *Env) service(l ipc.Line, family Family, o options) (*Service, error) {
	s := &Service{Line: l, run: newLine(l.Limit)}
	if family == Cyrus {
		s.Imapd = e.Imapd.Service(l.Name)
		s.Log = e.Log.As(e.cyrusTag(l.Name))
		return s, nil
	}
	overrides := append([]string{"service_name=" + l.Name}, l.Overrides...)
	overrides = append(overrides, o.overrides...)
	var err error
	if s.Conf, err = e.Main.With(overrides); err != nil {
		return nil, err
	}
	s.StressConf = s.Conf
	if l.Limit > 0 {
		if s.StressConf, err = s.Conf.With([]string{"stress=yes"}); err != nil {
			return nil, err
		}
	}
	name := s.Conf.String("syslog_name")
	if !strings.HasSuffix(name, "/"+l.Command) {
		name += "/" + l.Command
	}
	s.Log = e.Log.As(name)
	return s, nil
}
