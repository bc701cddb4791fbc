// Package postfix controls the mail system: start, stop, reload and the like. See
// postfix(1).
//
// It does itself what Postfix leaves to postfix-script and post-install, in the
// same words and with the same exit statuses. It is for root; an ordinary user may
// run a set-up whose mail_owner is that user.
package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/maillog"
	"angarium/lib/master"
	"angarium/lib/plan"
	"angarium/lib/sysuser"
)

// Main runs one command.
func Main(ctx context.Context, c *cli.Cmd) error {
	dirFlag := c.String('c', "config_dir", "")
	c.Bool('D')
	c.Count('v')
	words, err := c.Parse()
	if err != nil {
		fmt.Fprintf(c.Stderr, "%s: %v\n", c.Name, err)
		return cli.Exit(1, "usage: %s [-c config_dir] [-Dv] command", c.Name)
	}
	dir, err := filepath.Abs(maincf.Dir(*dirFlag))
	if err != nil {
		return err
	}
	conf, err := maincf.Load(dir)
	if err != nil {
		return err
	}
	if err := allowed(c, conf); err != nil {
		return err
	}
	s, err := newScript(c, conf)
	if err != nil {
		return err
	}
	s.oldSettings()
	if err := conf.Err(); err != nil {
		return err
	}
	command := ""
	if len(words) > 0 {
		command, s.args = words[0], words[1:]
	}
	return s.run(ctx, command)
}

// allowed keeps ordinary users from a system that isn't theirs.
func allowed(c *cli.Cmd, conf *maincf.Config) error {
	uid := os.Getuid()
	if uid == 0 {
		return nil
	}
	if u, err := sysuser.Lookup(conf.String("mail_owner")); err == nil && u != nil && u.UID == uid {
		return nil
	}
	c.Infof("error: to submit mail, use the Postfix sendmail command")
	return errors.New("the postfix command is reserved for the superuser")
}

// script is one call, under the log name that Postfix' shell script has.
type script struct {
	c        *cli.Cmd
	conf     *maincf.Config
	log      *maillog.Logger
	tag      string // in the log, of what is not the script's
	args     []string
	queue    string
	commands string
	daemons  string
}

func newScript(c *cli.Cmd, conf *maincf.Config) (*script, error) {
	s := &script{
		c: c, conf: conf,
		queue:    conf.String("queue_directory"),
		commands: conf.String("command_directory"),
		daemons:  conf.String("daemon_directory"),
	}
	sink, err := maillog.Open(maillog.Config{
		File:     conf.String("maillog_file"),
		Prefixes: conf.List("maillog_file_prefixes"),
		Socket:   filepath.Join(s.queue, "public", "postlog"),
		Facility: conf.String("syslog_facility"),
		Host:     conf.String("myhostname"),
	})
	if err != nil {
		return nil, err
	}
	tag := os.Getenv("MAIL_LOGTAG")
	if tag == "" {
		tag = conf.String("syslog_name")
	}
	s.tag = tag
	s.log = maillog.New(sink, tag+"/postfix-script")
	return s, conf.Err()
}

// lastCompat is the newest compatibility_level that moves a default.
const lastCompat = "3.6"

// oldSettings reminds of a compatibility_level below the newest, in postfix' own
// name as the other words of Postfix' that are not its script's.
func (s *script) oldSettings() {
	if !s.conf.CompatBelow(lastCompat) {
		return
	}
	for _, text := range []string{
		"Postfix is using backwards-compatible default settings",
		"See http://www.postfix.org/COMPATIBILITY_README.html for details",
		`To disable backwards compatibility use "postconf compatibility_level=` + lastCompat + `" and "postfix reload"`,
	} {
		s.sayAs(s.tag, maillog.Info, text)
	}
}

// say logs a line, and shows it to a person.
func (s *script) say(pri maillog.Priority, format string, args ...any) {
	s.sayAs(s.log.Tag(), pri, fmt.Sprintf(format, args...))
}

// sayAs is say under another name. A reload that cron does must not send mail, so
// what is no terminal gets nothing, as in Postfix.
func (s *script) sayAs(tag string, pri maillog.Priority, text string) {
	if cli.Terminal(s.c.Stderr) {
		fmt.Fprintf(s.c.Stderr, "%s: %s\n", tag, text)
	}
	s.log.As(tag).Log(pri, "%s", text)
}

func (s *script) info(format string, args ...any) { s.say(maillog.Info, format, args...) }

func (s *script) warn(format string, args ...any) {
	s.say(maillog.Warning, "warning: "+format, args...)
}

// fatal says so and gives the error that ends the call; it has been shown already.
func (s *script) fatal(format string, args ...any) error {
	s.say(maillog.Crit, "fatal: "+format, args...)
	return cli.Exit(1, "")
}

func (s *script) run(ctx context.Context, command string) error {
	// Nothing is inherited from where the caller happens to be.
	for _, d := range []struct{ path, what string }{
		{s.commands, "command directory"}, {s.daemons, "daemon directory"}, {s.conf.Dir(), "configuration directory"},
	} {
		if fi, err := os.Stat(d.path); err != nil || !fi.IsDir() {
			return s.fatal("no Postfix %s %s!", d.what, d.path)
		}
	}
	if _, err := os.Stat(filepath.Join(s.daemons, "master")); err != nil {
		return s.fatal("no Postfix master program %s/master!", s.daemons)
	}
	if command != "start" && command != "start-fg" && command != "check" && command != "set-permissions" {
		if fi, err := os.Stat(s.queue); err != nil || !fi.IsDir() {
			return s.fatal("no Postfix queue directory %s!", s.queue)
		}
	}
	syscall.Umask(022)
	switch command {
	case "start", "start-fg":
		return s.start(ctx, command == "start-fg")
	case "stop", "quick-stop":
		return s.stop()
	case "abort", "drain":
		return s.abort()
	case "reload":
		return s.reload(ctx)
	case "flush":
		return s.command(ctx, "postqueue", "-c", s.conf.Dir(), "-f")
	case "check":
		if err := s.checkFatal(ctx); err != nil {
			return err
		}
		s.checkWarn(true)
		return nil
	case "status":
		if !s.running() {
			s.info("the Postfix mail system is not running")
			return cli.Exit(1, "")
		}
		s.info("the Postfix mail system is running: PID: %d", s.pid())
		return nil
	case "set-permissions":
		return s.setPermissions()
	case "upgrade-configuration":
		return s.upgrade(ctx)
	case "logrotate":
		return s.rotate(ctx)
	}
	return s.fatal("unknown command: '%s'. Usage: postfix start (or stop, reload, abort, flush, check, status, set-permissions, upgrade-configuration, logrotate)", command)
}

// running asks the lock, not the pid: a pid may be someone else's by now.
func (s *script) running() bool {
	path := filepath.Join(s.queue, master.PIDFile)
	if _, err := os.Stat(path); err != nil {
		return false
	}
	f, err := master.Lock(path, 0644)
	if err != nil {
		return true
	}
	f.Close()
	return false
}

// pid is the first word of the pid file; 0 if there is none.
func (s *script) pid() int {
	b, err := os.ReadFile(filepath.Join(s.queue, master.PIDFile))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b)
	if len(fields) == 0 {
		return 0
	}
	n, err := strconv.Atoi(string(fields[0]))
	if err != nil || n <= 1 && os.Getpid() != n {
		return max(n, 0)
	}
	return n
}

// environ names the configuration for the programs we run.
func (s *script) environ() []string {
	return append(os.Environ(), "MAIL_CONFIG="+s.conf.Dir())
}

// command runs a program of command_directory and takes its exit status for ours.
func (s *script) command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.commands, name), args...)
	cmd.Env, cmd.Dir = s.environ(), s.queue
	cmd.Stdout, cmd.Stderr = s.c.Stdout, s.c.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return cli.Exit(max(exit.ExitCode(), 1), "")
	}
	if err != nil {
		return s.fatal("cannot execute %s/%s!", s.commands, name)
	}
	return nil
}

func (s *script) start(ctx context.Context, foreground bool) error {
	if s.running() {
		return s.fatal("the Postfix mail system is already running")
	}
	quick := filepath.Join(s.queue, "quick-start")
	if os.Remove(quick) != nil {
		if err := s.checkFatal(ctx); err != nil {
			return s.fatal("Postfix integrity check failed!")
		}
		s.checkWarn(false)
	}
	s.info("starting the Postfix mail system")
	path := filepath.Join(s.daemons, "master")
	if foreground {
		arg := "-s"
		if os.Getpid() == 1 {
			arg = "-i"
		}
		// In our place: signals and the exit status are then master's own.
		err := syscall.Exec(path, []string{path, arg}, s.environ())
		return s.fatal("cannot start-fg the master daemon: %v", err)
	}
	cmd := exec.Command(path, "-w")
	cmd.Env, cmd.Stderr = s.environ(), s.c.Stderr
	if err := cmd.Run(); err != nil {
		return s.fatal("mail system startup failed")
	}
	return nil
}

// stop asks master to end and waits, as long as Postfix does, before it uses force.
func (s *script) stop() error {
	if !s.running() {
		return s.fatal("the Postfix mail system is not running")
	}
	pid := s.pid()
	s.info("stopping the Postfix mail system")
	if pid < 1 || syscall.Kill(pid, syscall.SIGTERM) != nil {
		return s.fatal("cannot signal the master process %d", pid)
	}
	for range 5 {
		for range 50 {
			if !s.running() {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		s.info("waiting for the Postfix mail system to terminate")
	}
	s.warn("stopping the Postfix mail system with force")
	if syscall.Kill(-pid, syscall.SIGKILL) != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return nil
}

func (s *script) abort() error {
	if !s.running() {
		return s.fatal("the Postfix mail system is not running")
	}
	s.info("aborting the Postfix mail system")
	if pid := s.pid(); pid < 1 || syscall.Kill(pid, syscall.SIGTERM) != nil {
		return s.fatal("cannot signal the master process %d", pid)
	}
	return nil
}

// reload checks the configuration here, where someone sees the message; master
// would keep the old one, too.
func (s *script) reload(ctx context.Context) error {
	if !s.running() {
		return s.fatal("the Postfix mail system is not running")
	}
	if _, err := plan.Load(ctx, s.conf); err != nil {
		return s.fatal("%v", err)
	}
	s.info("refreshing the Postfix mail system")
	if pid := s.pid(); pid < 1 || syscall.Kill(pid, syscall.SIGHUP) != nil {
		return s.fatal("cannot signal the master process %d", pid)
	}
	return nil
}

// rotate renames the log file, has everybody open a new one, and compresses the old.
func (s *script) rotate(ctx context.Context) error {
	if len(s.args) > 0 {
		return s.fatal("usage postfix logrotate (no arguments)")
	}
	for _, name := range []string{"maillog_file", "maillog_file_compressor", "maillog_file_rotate_suffix"} {
		if s.conf.String(name) == "" {
			return s.fatal("empty '%s' parameter value - logfile rotation failed", name)
		}
	}
	file := s.conf.String("maillog_file")
	if strings.HasPrefix(file, "/dev/") {
		return s.fatal("not rotating '%s'", file)
	}
	old := file + "." + strftime(s.conf.String("maillog_file_rotate_suffix"), time.Now())
	if err := os.Rename(file, old); err != nil {
		return s.fatal("logfile '%s' rotation failed: %v", file, err)
	}
	if s.running() {
		if err := syscall.Kill(s.pid(), syscall.SIGHUP); err != nil {
			return s.fatal("logfile '%s' rotation failed: %v", file, err)
		}
		time.Sleep(time.Second) // the last lines for the old file are on their way
	}
	out, err := exec.CommandContext(ctx, s.conf.String("maillog_file_compressor"), old).CombinedOutput()
	if err != nil {
		return s.fatal("logfile '%s' rotation failed: %s%v", file, out, err)
	}
	return nil
}

// layouts are the conversions of strftime(3) that Go can word.
var layouts = map[byte]string{
	'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'j': "002", 'H': "15", 'M': "04", 'S': "05",
	'b': "Jan", 'a': "Mon", 'F': "2006-01-02", 'T': "15:04:05", 'Z': "MST", 'z': "-0700",
}

// strftime knows the conversions that make sense in a file name.
func strftime(format string, t time.Time) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		layout, known := layouts[format[i]]
		switch {
		case known:
			b.WriteString(t.Format(layout))
		case format[i] == 's':
			fmt.Fprint(&b, t.Unix())
		case format[i] == '%':
			b.WriteByte('%')
		default:
			b.WriteString(format[i-1 : i+1])
		}
	}
	return b.String()
}

// exists reports whether a path is there, whatever it is.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
