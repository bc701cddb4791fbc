package master

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/maillog"
	"angarium/lib/plan"
	"angarium/lib/sysuser"
)

// PIDFile is where Postfix' master says who it is, below queue_directory. Its lock,
// not its text, tells whether one runs.
const PIDFile = "pid/master.pid"

type postfixOptions struct {
	dir                                 string
	debug, foreground, init, test, wait bool
	exitAfter                           int
}

const usage = "usage: master [-c config_dir] [-D (debug)] [-d (don't detach from terminal)] [-e exit_time] [-t (test)] [-v] [-w (wait for initialization)]"

// Postfix is master(8) as Postfix has it.
func Postfix(ctx context.Context, c *cli.Cmd) error {
	var o postfixOptions
	for {
		letter, arg, ok, err := c.Getopt("c:Dde:istvw")
		if err != nil {
			fmt.Fprintf(c.Stderr, "%s: %v\n", c.Path, err)
			return cli.Exit(1, usage)
		}
		if !ok {
			break
		}
		switch letter {
		case 'c':
			o.dir = arg
		case 'd':
			o.debug = true
		case 'e':
			if o.exitAfter, err = strconv.Atoi(arg); err != nil {
				return cli.Exit(1, "bad exit time: %s", arg)
			}
		case 'i':
			o.init = true
		case 's':
			o.foreground = true
		case 't':
			o.test = true
		case 'w':
			o.wait = true
		}
	}
	if len(c.Operands()) > 0 {
		return cli.Exit(1, usage)
	}
	if o.wait && (o.debug || o.foreground || o.init || o.test) {
		return cli.Exit(1, "the -w option cannot be used with -d, -i, -s or -t")
	}
	if o.init && os.Getpid() != 1 {
		return cli.Exit(1, "the -i option requires PID == 1")
	}
	if o.wait && !inBackground() {
		return background(c, "the master daemon did not come up")
	}
	return runPostfix(ctx, c, o)
}

func runPostfix(ctx context.Context, c *cli.Cmd, o postfixOptions) error {
	closeStray()
	dir, err := filepath.Abs(maincf.Dir(o.dir))
	if err != nil {
		return err
	}
	conf, err := maincf.Load(dir)
	if err != nil {
		return err
	}
	queue := conf.String("queue_directory")
	if err := os.Chdir(queue); err != nil {
		return fmt.Errorf("chdir %s: %s", queue, maillog.Reason(err))
	}
	unlock, err := claim(conf, o.test)
	if err != nil || o.test {
		return err
	}
	defer unlock()
	sink, err := maillog.Open(maillog.Config{
		File:     conf.String("maillog_file"),
		Prefixes: conf.List("maillog_file_prefixes"),
		Socket:   "public/postlog",
		Facility: conf.String("syslog_facility"),
		Host:     conf.String("myhostname"),
	})
	if err != nil {
		return err
	}
	log := maillog.New(sink, conf.String("syslog_name")+"/master")
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if !o.debug && !o.init {
		// A session of our own, so that the terminal's Ctrl-C is not for our children.
		_, _ = syscall.Setsid()
	}
	m, err := New(ctx, Config{
		Log:       log,
		BindFatal: true,
		Load:      func(ctx context.Context) (*Setup, error) { return loadPostfix(ctx, dir) },
		Started: func() {
			log.Infof("daemon started -- version %s, configuration %s", conf.String("mail_version"), dir)
			ready()
			if !o.debug {
				detach(o.foreground || o.init)
			}
		},
		Reloaded: func() {
			log.Infof("reload -- version %s, configuration %s", conf.String("mail_version"), dir)
		},
	})
	if err != nil {
		log.Fatalf("%v", err)
		return err
	}
	if o.exitAfter > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(o.exitAfter)*time.Second)
		defer cancel()
	}
	if err := m.Run(ctx, signals); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// claim takes the locks that only one master may have, on the queue and on
// data_directory, and writes the pid file. With test it only asks for the first.
func claim(conf *maincf.Config, test bool) (unlock func(), err error) {
	pid, err := Lock(PIDFile, 0644)
	if err != nil {
		return nil, err
	}
	if test {
		return nil, pid.Close()
	}
	if err := WritePID(pid, fmt.Sprintf("%32d\n", os.Getpid())); err != nil {
		pid.Close()
		return nil, err
	}
	data, err := Lock(filepath.Join(conf.String("data_directory"), "master.lock"), 0600)
	if err != nil {
		pid.Close()
		return nil, err
	}
	if u, err := sysuser.Lookup(conf.String("mail_owner")); err == nil && u != nil && os.Geteuid() == 0 {
		_ = data.Chown(u.UID, u.GID) // it lies in a directory of that user
	}
	return func() { data.Close(); pid.Close() }, nil
}

// loadPostfix reads main.cf and master.cf.
func loadPostfix(ctx context.Context, dir string) (*Setup, error) {
	conf, err := maincf.Load(dir)
	if err != nil {
		return nil, err
	}
	pl, err := plan.Load(ctx, conf)
	if err != nil {
		return nil, err
	}
	s := &Setup{
		Plan:     pl,
		Throttle: conf.Duration("service_throttle_time"),
		LogLast:  "postlogd",
		Environ:  environ(conf),
		MayOpen:  func(name string) bool { return named(conf, name) },
	}
	return s, conf.Err()
}

// environ is what children see of the environment: import_environment, and what
// the Go runtime wants to be told.
func environ(conf *maincf.Config) []string {
	var env []string
	for _, name := range conf.List("import_environment") {
		if strings.Contains(name, "=") {
			env = append(env, name)
		} else if v, ok := os.LookupEnv(name); ok && name != "MAIL_CONFIG" {
			env = append(env, name+"="+v)
		}
	}
	for _, name := range []string{"GOMEMLIMIT", "GODEBUG", "GOTRACEBACK", "GOCOVERDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(env, "MAIL_CONFIG="+conf.Dir())
}

// named reports whether a file stands in main.cf: as itself, or as a table whose
// index it is.
func named(conf *maincf.Config, name string) bool {
	names := []string{name}
	for _, suffix := range []string{".cdb", ".db", ".lmdb"} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			names = append(names, base)
		}
	}
	params := maincf.Params()
	for i := range params {
		if _, set := conf.Raw(params[i].Name); !set {
			continue
		}
		for _, word := range conf.List(params[i].Name) {
			for _, n := range names {
				if word == n || strings.HasSuffix(word, ":"+n) {
					return true
				}
			}
		}
	}
	return false
}

// Lock opens a lock file and locks it for as long as it is open.
func Lock(path string, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return nil, fmt.Errorf("open lock file %s: cannot open file: %w", path, &lockError{err})
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("open lock file %s: unable to set exclusive lock: Resource temporarily unavailable", path)
	}
	return f, nil
}

// lockError says what the system said, and stays the system's error for errors.Is.
type lockError struct{ err error }

func (e *lockError) Error() string { return maillog.Reason(e.err) }
func (e *lockError) Unwrap() error { return e.err }

// WritePID replaces the content of a pid file that we hold open.
func WritePID(f *os.File, text string) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(text), 0)
	return err
}
