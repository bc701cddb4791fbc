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

	"angarium/lib/cli"
	"angarium/lib/conf/cyrusconf"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/maillog"
	"angarium/lib/plan"
	"angarium/lib/sysuser"
)

// cyrusPID is where Cyrus' master says who it is, unless -p says otherwise.
const cyrusPID = "/run/cyrus-master.pid"

type cyrusOptions struct {
	imapd, cyrus, pid, logfile string
	daemon, debug              bool
	backlog                    int
}

// Cyrus is master(8) as Cyrus has it, also called cyrmaster.
func Cyrus(ctx context.Context, c *cli.Cmd) error {
	o := cyrusOptions{imapd: imapdconf.DefaultPath, cyrus: cyrusconf.DefaultPath, pid: cyrusPID}
	for {
		letter, arg, ok, err := c.Getopt("C:M:p:l:j:L:dD")
		if err != nil {
			fmt.Fprintf(c.Stderr, "%s: %v\n", c.Path, err)
			return cli.Exit(cli.Config, "")
		}
		if !ok {
			break
		}
		switch letter {
		case 'C':
			o.imapd = arg
		case 'M':
			o.cyrus = arg
		case 'p':
			o.pid = arg
		case 'l':
			if o.backlog, err = strconv.Atoi(arg); err != nil || o.backlog < 0 {
				o.backlog = 0
			}
		case 'j':
			// Our children tell us of their end; there is nothing to sweep.
			if n, err := strconv.Atoi(arg); err != nil || n < 1 {
				return cli.Exit(cli.Config, "The janitor period must be at least 1 second")
			}
		case 'L':
			o.logfile = arg
		case 'd':
			o.daemon = true
		case 'D':
			o.debug = true
		}
	}
	if o.daemon && o.debug {
		return cli.Exit(cli.Config, "Unable to be both debug and daemon mode")
	}
	for _, p := range []*string{&o.imapd, &o.cyrus, &o.pid} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	if o.daemon && !inBackground() {
		return background(c, "the master process did not come up")
	}
	return runCyrus(ctx, c, o)
}

func runCyrus(ctx context.Context, c *cli.Cmd, o cyrusOptions) error {
	closeStray()
	conf, err := imapdconf.Load(o.imapd)
	if err != nil {
		return cli.Exit(cli.Config, "%v", err)
	}
	sink, err := maillog.Open(maillog.Config{File: logFile(conf), Facility: conf.String("syslog_facility")})
	if err != nil {
		return cli.Exit(cli.Config, "%v", err)
	}
	prefix := conf.String("syslog_prefix")
	if prefix == "" {
		prefix = "cyrus"
	}
	log := maillog.New(sink, prefix+"/master")
	fail := func(code int, format string, args ...any) error {
		log.Log(maillog.Crit, format, args...)
		log.Log(maillog.Notice, "exiting")
		return cli.Exit(code, format, args...)
	}
	pid, err := Lock(o.pid, 0644)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return fail(cli.OSErr, "can't open pidfile: %s", maillog.Reason(err))
	}
	if err != nil {
		return fail(cli.OSErr, "cannot get exclusive lock on pidfile (is another master still running?)")
	}
	defer pid.Close()
	if err := WritePID(pid, fmt.Sprintf("%d\n", os.Getpid())); err != nil {
		return fail(cli.OSErr, "unable to write to pidfile: %v", err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP)
	if o.logfile != "" {
		if err := redirect(o.logfile); err != nil {
			return fail(2, "couldn't open %s: %s", o.logfile, maillog.Reason(err))
		}
	}
	log.Log(maillog.Notice, "process started")
	lines, err := cyrusconf.Load(o.cyrus)
	if err != nil {
		return fail(cli.Config, "%v", err)
	}
	cred, err := credential(conf)
	if err != nil {
		return fail(cli.OSErr, "can't change to the cyrus user: %v", err)
	}
	shareLog(logFile(conf), cred)
	if err := runStart(log, o, lines.Start, cred, c); err != nil {
		return fail(1, "%v", err)
	}
	m, err := New(ctx, Config{
		Log:   log,
		Cyrus: true,
		Load:  func(ctx context.Context) (*Setup, error) { return loadCyrus(ctx, log, o, c) },
		Started: func() {
			log.Log(maillog.Notice, "ready for work")
			ready()
			if o.daemon {
				detach(o.logfile != "")
			}
		},
	})
	if err != nil {
		return fail(cli.Config, "%v", err)
	}
	err = m.Run(ctx, signals)
	log.Log(maillog.Notice, "All children have exited, closing down")
	return err
}

// logFile is maillog_file in imapd.conf: ours, for a set-up without syslog.
func logFile(conf *imapdconf.Config) string {
	file, _ := conf.Raw("maillog_file")
	return file
}

// shareLog gives the log to the store's user, as commands of cyrus.conf run with
// that user's rights and append to it, too. Root made the file; its folder stays
// root's, so that the file can't be replaced.
func shareLog(path string, cred *syscall.Credential) {
	if path == "" || cred == nil {
		return
	}
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_APPEND|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return // what can't be logged is not worth a store that stands still
	}
	defer syscall.Close(fd)
	var st syscall.Stat_t
	if syscall.Fstat(fd, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG && st.Nlink == 1 && st.Uid == 0 {
		_ = syscall.Fchown(fd, int(cred.Uid), -1)
	}
}

// redirect is -L: standard output and error go to a file.
func redirect(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0644)
	if err != nil {
		return err
	}
	defer f.Close()
	for fd := 1; fd <= 2; fd++ {
		if err := syscall.Dup3(int(f.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// bin is where commands without a path are: where we are, or, for a master in
// sbin, in the lib/cyrus/bin beside that.
func bin(c *cli.Cmd) string {
	dir := "/usr/lib/cyrus/bin"
	if self, err := os.Executable(); err == nil {
		dir = filepath.Dir(self)
	}
	if strings.Contains(c.Path, "/") {
		if called, err := filepath.Abs(filepath.Dir(c.Path)); err == nil {
			dir = called
		}
	}
	if installed := filepath.Join(dir, "../lib/cyrus/bin"); filepath.Base(dir) == "sbin" && exists(installed) {
		return installed
	}
	return dir
}

// program is where a command of cyrus.conf lies. A path at which there is nothing
// is one of another installation (/usr/bin/cyrus/bin/ctl_cyrusdb, /usr/sbin/cyrus):
// a program of that name beside us does the work.
func program(bin, command string) string {
	path := plan.CyrusProgram(bin, command)
	if _, err := os.Stat(path); err != nil {
		if ours := filepath.Join(bin, filepath.Base(path)); exists(ours) {
			return ours
		}
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// cyrusEnviron is the environment of commands: it names our imapd.conf, so that
// their lines need not.
func cyrusEnviron(o cyrusOptions) []string {
	return append(os.Environ(), plan.CyrusConfigVariable+"="+o.imapd)
}

// credential is the user that commands run as. Services take it on themselves, when
// they have opened what only root may.
func credential(conf *imapdconf.Config) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	name := os.Getenv("CYRUS_USER")
	if name == "" {
		name = conf.String("cyrus_user")
	}
	if name == "" {
		name = "cyrus"
	}
	u, err := sysuser.Lookup(name)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return nil, fmt.Errorf("no such user: %s", name)
	}
	groups, err := sysuser.Groups(u)
	if err != nil {
		return nil, err
	}
	cred := &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
	for _, g := range groups {
		cred.Groups = append(cred.Groups, uint32(g))
	}
	return cred, nil
}

// runStart runs the START section, one command after the other. One that fails ends
// the start, as in Cyrus; one that this tree doesn't have (yet) is skipped.
func runStart(log *maillog.Logger, o cyrusOptions, start []cyrusconf.Entry, cred *syscall.Credential, c *cli.Cmd) error {
	for i := range start {
		words := start[i].Words()
		if len(words) == 0 {
			return fmt.Errorf("unable to find command for %s", start[i].Name)
		}
		if plan.CyrusNeedless(words[0]) {
			continue
		}
		path := program(bin(c), words[0])
		if _, err := os.Stat(path); err != nil {
			log.Log(maillog.Err, "can't exec %s for startup: %s", path, maillog.Reason(err))
			continue
		}
		began := time.Now()
		pid, err := syscall.ForkExec(path, append([]string{filepath.Base(path)}, words[1:]...), &syscall.ProcAttr{
			Env: cyrusEnviron(o), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Credential: cred},
		})
		if err != nil {
			log.Log(maillog.Crit, "can't exec %s for startup: %s", path, maillog.Reason(err))
			return errors.New("can't run startup")
		}
		var status syscall.WaitStatus
		for {
			if _, err = syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
				break
			}
		}
		if err == nil && status != 0 {
			log.Log(maillog.Err, "%s", endText("START", start[i].Name, path, began, pid, status))
			return errors.New("can't run startup")
		}
	}
	return nil
}

// loadCyrus reads imapd.conf and cyrus.conf.
func loadCyrus(ctx context.Context, log *maillog.Logger, o cyrusOptions, c *cli.Cmd) (*Setup, error) {
	conf, err := imapdconf.Load(o.imapd)
	if err != nil {
		return nil, err
	}
	lines, err := cyrusconf.Load(o.cyrus)
	if err != nil {
		return nil, err
	}
	s := &Setup{Throttle: 10 * time.Second, Environ: cyrusEnviron(o)}
	if s.Cred, err = credential(conf); err != nil {
		return nil, err
	}
	shareLog(logFile(conf), s.Cred) // it may be another file now
	s.Plan = plan.Cyrus(ctx, o.imapd, lines.Services, bin(c))
	s.Plan.Notes = append(lines.Warnings, s.Plan.Notes...)
	for _, p := range s.Plan.Processes {
		p.Path = program(bin(c), p.Path)
		for i := range p.Lines {
			for j := range p.Lines[i].Sockets {
				p.Lines[i].Sockets[j].Backlog = o.backlog
			}
		}
	}
	for i := range lines.Events {
		if j, err := job(&lines.Events[i], bin(c)); err != nil {
			log.Log(maillog.Err, "%v", err)
		} else {
			s.Jobs = append(s.Jobs, j)
		}
	}
	for i := range lines.Daemons {
		words := lines.Daemons[i].Words()
		if len(words) == 0 {
			log.Log(maillog.Err, "unable to find command for %s", lines.Daemons[i].Name)
			continue
		}
		if plan.CyrusNeedless(words[0]) {
			continue
		}
		s.Keepers = append(s.Keepers, Keeper{
			Name: lines.Daemons[i].Name, Path: program(bin(c), words[0]), Args: words[1:],
			Wait: lines.Daemons[i].Bool("wait", false),
		})
	}
	return s, nil
}

// job reads an EVENTS line.
func job(e *cyrusconf.Entry, bin string) (Job, error) {
	words := e.Words()
	if len(words) == 0 {
		return Job{}, fmt.Errorf("unable to find command or port for event '%s'", e.Name)
	}
	j := Job{Name: e.Name, Path: program(bin, words[0]), Args: words[1:], At: -1}
	j.Period = time.Duration(e.Int("period", 0)) * time.Minute
	if at := e.Int("at", -1); at >= 0 && at < 2400 && at%100 < 60 {
		j.At = at/100*60 + at%100
	}
	if cron := e.String("cron", ""); cron != "" {
		var err error
		if j.Cron, err = ParseCron(cron); err != nil {
			return j, err
		}
	}
	return j, nil
}

// cyrusName is a service as Cyrus' log names it: "imap/ipv4".
func cyrusName(p *plan.Process) string {
	l := &p.Lines[0]
	kind := "unix"
	if len(l.Sockets) > 0 {
		switch n := l.Sockets[0].Network; n[len(n)-1] {
		case '4':
			kind = "ipv4"
		case '6':
			kind = "ipv6"
		}
	}
	return l.Name + "/" + kind
}

// cyrusExit words the end of a service process as Cyrus does.
func (m *Master) cyrusExit(c *child, status syscall.WaitStatus) {
	p := c.group.proc
	m.cyrusEnd(running{"SERVICE", p.Lines[0].Name, c.path, c.started}, c.pid, status)
	if !c.stopped {
		m.Log.Log(maillog.Warning, "service %s pid %d in READY state: terminated abnormally", cyrusName(p), c.pid)
	}
}

func (m *Master) cyrusEnd(r running, pid int, status syscall.WaitStatus) {
	if status == 0 {
		return
	}
	m.Log.Log(maillog.Err, "%s", endText(r.kind, r.name, r.path, r.started, pid, status))
}

// endText is how a process ended.
func endText(kind, name, path string, started time.Time, pid int, status syscall.WaitStatus) string {
	text := fmt.Sprintf("process type:%s name:%s path:%s age:%.3fs pid:%d ", kind, name, path, time.Since(started).Seconds(), pid)
	if status.Signaled() {
		core := ""
		if status.CoreDump() {
			core = ", core dumped"
		}
		sig := status.Signal().String()
		sig = strings.ToUpper(sig[:1]) + sig[1:]
		return text + fmt.Sprintf("signaled to death by signal %d (%s%s)", status.Signal(), sig, core)
	}
	return text + fmt.Sprintf("exited, status %d", status.ExitStatus())
}
