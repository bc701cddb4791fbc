package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"angarium/lib/cli"
	"angarium/lib/ipc"
	"angarium/lib/master"
	"angarium/lib/service"
)

// TestMain is master, and the daemons that master starts: the test binary stands in
// the daemon directory under their names.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "master":
		cli.Exec(master.Postfix)
	case "cyrmaster":
		cli.Exec(master.Cyrus)
	case "smtpd", "local":
		name := filepath.Base(os.Args[0])
		cli.Exec(func(ctx context.Context, c *cli.Cmd) error {
			return service.Run(ctx, c, service.Daemon{Program: name, Setup: setup})
		})
	case "imapd":
		cli.Exec(func(ctx context.Context, c *cli.Cmd) error {
			return service.Run(ctx, c, service.Daemon{Program: "imapd", Family: service.Cyrus, Setup: setup})
		})
	}
	os.Exit(m.Run())
}

// talker is the test's daemon: it does what its client says.
type talker struct{ env *service.Env }

func setup(_ context.Context, env *service.Env) (service.Handler, error) {
	if env.Main != nil && env.Main.String("smtpd_banner") == "fail" {
		return nil, errors.New("told to fail")
	}
	return &talker{env}, nil
}

func (d *talker) Wake(_ context.Context, s *service.Service, request []byte) {
	s.Log.Infof("woken: %s %s", s.Name, strings.TrimSpace(string(request)))
}

func (d *talker) Serve(ctx context.Context, s *service.Session) {
	fmt.Fprintf(s.Conn, "%s %d %t %d\n", s.Name, os.Getpid(), s.Stress, s.Log.Number())
	lines := bufio.NewScanner(s.Conn)
	for lines.Scan() {
		word, arg, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "banner":
			fmt.Fprintf(s.Conn, "%s\n", s.Conf.String("smtpd_banner"))
		case "ids":
			wd, _ := os.Getwd()
			fmt.Fprintf(s.Conn, "%d %d %s\n", os.Getuid(), os.Getgid(), wd)
		case "panic":
			panic("told to panic")
		case "commit": // a promise that must be kept
			time.Sleep(400 * time.Millisecond)
			fmt.Fprintf(s.Conn, "committed %v\n", ctx.Err() != nil)
		case "open":
			b := []byte("-")
			f, err := d.env.Open(arg)
			if err == nil {
				b, _ = io.ReadAll(f)
				f.Close()
			}
			fmt.Fprintf(s.Conn, "%s %v\n", b, err)
		default:
			fmt.Fprintf(s.Conn, "%s\n", lines.Text())
		}
	}
}

// tree is a private set-up.
type tree struct {
	t   *testing.T
	dir string
	pid int
	cmd *exec.Cmd
}

// owner is who the daemons become.
func owner() string {
	if os.Getuid() == 0 {
		return "nobody"
	}
	b, err := exec.Command("id", "-un").Output()
	if err != nil {
		return "nobody"
	}
	return strings.TrimSpace(string(b))
}

func newTree(t *testing.T, masterCF string) *tree {
	t.Helper()
	dir := t.TempDir()
	// Go makes the outer directory 0700; what became nobody must get through.
	if err := os.Chmod(filepath.Dir(dir), 0755); err != nil {
		t.Fatal(err)
	}
	tr := &tree{t: t, dir: dir}
	for _, d := range []string{"etc", "spool/pid", "spool/public", "spool/private", "data", "bin", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"master", "cyrmaster", "smtpd", "local", "imapd"} {
		if err := os.Symlink(self, filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	tr.mainCF("smtpd_banner = one")
	tr.write("etc/master.cf", masterCF)
	return tr
}

func (tr *tree) path(name string) string { return filepath.Join(tr.dir, name) }

func (tr *tree) write(name, text string) {
	tr.t.Helper()
	if err := os.WriteFile(tr.path(name), []byte(text), 0644); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *tree) mainCF(more string) {
	tr.write("etc/main.cf", fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
daemon_directory = %[1]s/bin
maillog_file = %[1]s/log/mail.log
maillog_file_prefixes = %[1]s/log
mail_owner = %[2]s
myhostname = mail.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
service_throttle_time = 1s
%[3]s
`, tr.dir, owner(), more))
}

// start runs master in the foreground, so that the test knows when it has ended.
func (tr *tree) start() {
	tr.t.Helper()
	before := strings.Count(tr.log(), "daemon started")
	tr.run("master", "-c", tr.path("etc"), "-d")
	until(tr.t, "the start", func() bool { return strings.Count(tr.log(), "daemon started") > before })
}

func (tr *tree) run(name string, args ...string) {
	tr.t.Helper()
	tr.cmd = exec.Command(tr.path("bin/"+name), args...)
	tr.cmd.Env = append(os.Environ(), "CYRUS_USER="+owner())
	tr.cmd.Stderr = os.Stderr
	if err := tr.cmd.Start(); err != nil {
		tr.t.Fatal(err)
	}
	tr.pid = tr.cmd.Process.Pid
	tr.t.Cleanup(func() {
		if tr.cmd.ProcessState == nil {
			tr.stop()
		}
		if tr.t.Failed() {
			tr.t.Logf("log:\n%s", tr.log())
		}
	})
}

func (tr *tree) stop() {
	_ = tr.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- tr.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			tr.t.Errorf("master: %v", err)
		}
	case <-time.After(30 * time.Second):
		_ = tr.cmd.Process.Kill()
		tr.t.Error("master does not end")
	}
}

func (tr *tree) log() string {
	b, _ := os.ReadFile(tr.path("log/mail.log"))
	return string(b)
}

// alive reports whether a process runs. One that only waits for init to bury it doesn't.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

// until waits for something that happens in another process.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("did not happen: %s", what)
}

func (tr *tree) waitLog(text string) {
	tr.t.Helper()
	until(tr.t, "log line "+text, func() bool { return strings.Contains(tr.log(), text) })
}

func (tr *tree) signal(s syscall.Signal) {
	tr.t.Helper()
	if err := syscall.Kill(tr.pid, s); err != nil {
		tr.t.Fatal(err)
	}
}

// session is one conversation with the test's daemon.
type session struct {
	t *testing.T
	net.Conn
	in     *bufio.Reader
	name   string
	pid    int
	stress bool
	number string
}

func (tr *tree) dial(socket string) *session {
	tr.t.Helper()
	c, err := ipc.Dial(context.Background(), tr.path("spool/"+socket))
	if err != nil {
		tr.t.Fatal(err)
	}
	return greet(tr.t, c)
}

func greet(t *testing.T, c net.Conn) *session {
	t.Helper()
	s := open(t, c)
	f := strings.Fields(s.read())
	if len(f) != 4 {
		t.Fatalf("greeting: %q", f)
	}
	s.name, s.stress, s.number = f[0], f[2] == "true", f[3]
	s.pid, _ = strconv.Atoi(f[1])
	return s
}

func open(t *testing.T, c net.Conn) *session {
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return &session{t: t, Conn: c, in: bufio.NewReader(c)}
}

func (s *session) read() string {
	s.t.Helper()
	line, err := s.in.ReadString('\n')
	if err != nil {
		s.t.Fatalf("read: %v", err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (s *session) say(text string) string {
	s.t.Helper()
	fmt.Fprintln(s, text)
	return s.read()
}

const unixLine = "talk unix - - n - %s smtpd\n"

// eager makes the daemon start with master: a line with a wake-up time.
const eager = "talk unix - - n 1000 - smtpd\n"

func TestLimit(t *testing.T) {
	t.Parallel()
	tr := newTree(t, fmt.Sprintf(unixLine, "2"))
	tr.start()
	a := tr.dial("private/talk")
	b := tr.dial("private/talk")
	if a.stress || !b.stress {
		t.Errorf("stress: %t %t, want false, true for the one that fills the line", a.stress, b.stress)
	}
	if a.number == b.number {
		t.Errorf("two sessions log as [%s]", a.number)
	}
	c, err := ipc.Dial(context.Background(), tr.path("spool/private/talk"))
	if err != nil {
		t.Fatal(err)
	}
	waiting := open(t, c)
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := waiting.in.ReadByte(); err == nil {
		t.Fatal("a third session was served; the limit is 2")
	}
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	a.Close()
	if got := waiting.read(); !strings.HasPrefix(got, "talk ") {
		t.Errorf("greeting: %q", got)
	}
	tr.waitLog(`service "talk"`)
	tr.waitLog(`has reached its process limit "2": new clients may experience noticeable delays`)
}

func TestKilledChildIsReplaced(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	tr.start()
	s := tr.dial("private/talk")
	if err := syscall.Kill(s.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := tr.dial("private/talk")
	if again.pid == s.pid {
		t.Error("the dead answer")
	}
	tr.waitLog(fmt.Sprintf("warning: process %s pid %d killed by signal 9", tr.path("bin/smtpd"), s.pid))
	if strings.Contains(tr.log(), "throttling") {
		t.Error("a process that had served was throttled")
	}
}

func TestThrottle(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	tr.mainCF("smtpd_banner = fail")
	tr.start()
	path := tr.path("bin/smtpd")
	tr.waitLog("postfix/smtpd[")
	tr.waitLog("fatal: told to fail")
	tr.waitLog("warning: process " + path + " pid")
	tr.waitLog("exit status 1")
	tr.waitLog("warning: " + path + ": bad command startup -- throttling")
	// Nobody serves, but nobody is refused either.
	c, err := ipc.Dial(context.Background(), tr.path("spool/private/talk"))
	if err != nil {
		t.Fatal(err)
	}
	tr.mainCF("smtpd_banner = healed")
	s := greet(t, c)
	if got := s.say("banner"); got != "healed" {
		t.Errorf("banner: %q", got)
	}
	if n := strings.Count(tr.log(), "throttling"); n > 4 {
		t.Errorf("throttled %d times within seconds", n)
	}
}

func TestReloadKeepsSession(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	tr.start()
	old := tr.dial("private/talk")
	tr.mainCF("smtpd_banner = two")
	tr.signal(syscall.SIGHUP)
	tr.waitLog("reload -- version 3.7.11, configuration " + tr.path("etc"))
	var fresh *session
	until(t, "a successor", func() bool {
		fresh = tr.dial("private/talk")
		if fresh.pid == old.pid {
			fresh.Close()
		}
		return fresh.pid != old.pid
	})
	if got := fresh.say("banner"); got != "two" {
		t.Errorf("new session sees %q", got)
	}
	if got := old.say("banner"); got != "one" {
		t.Errorf("old session sees %q", got)
	}
	if got := old.say("still here"); got != "still here" {
		t.Errorf("old session says %q", got)
	}
	old.Close()
	until(t, "the end of the old process", func() bool { return !alive(old.pid) })
	if strings.Contains(tr.log(), "warning") {
		t.Errorf("a reload should be no event:\n%s", tr.log())
	}
}

func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	tr.start()
	stop := make(chan struct{})
	failed := make(chan error, 4)
	for range 4 {
		go func() {
			for {
				select {
				case <-stop:
					failed <- nil
					return
				default:
				}
				c, err := net.Dial("unix", tr.path("spool/private/talk"))
				if err != nil {
					failed <- err
					return
				}
				_ = c.SetDeadline(time.Now().Add(30 * time.Second))
				if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
					failed <- err
					return
				}
				c.Close()
			}
		}()
	}
	for range 5 {
		tr.signal(syscall.SIGHUP)
		time.Sleep(100 * time.Millisecond)
	}
	close(stop)
	for range 4 {
		if err := <-failed; err != nil {
			t.Errorf("a client noticed the reload: %v", err)
		}
	}
}

func TestReloadBroken(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	tr.start()
	s := tr.dial("private/talk")
	tr.write("etc/master.cf", "talk unix what\n")
	tr.signal(syscall.SIGHUP)
	tr.waitLog("the old configuration stays in force")
	if again := tr.dial("private/talk"); again.pid != s.pid {
		t.Error("a broken master.cf replaced the process")
	}
	tr.write("etc/master.cf", eager)
	tr.mainCF("smtpd_banner = fail")
	tr.signal(syscall.SIGHUP)
	tr.waitLog("the old one goes on with the old configuration")
	if again := tr.dial("private/talk"); again.pid != s.pid || again.say("banner") != "one" {
		t.Error("a successor that failed replaced the process")
	}
}

func TestReloadChangesServices(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager+"gone unix - - n - - smtpd\n")
	tr.start()
	s := tr.dial("private/gone")
	tr.write("etc/master.cf", eager+"fresh unix n - n - - smtpd\n")
	tr.signal(syscall.SIGHUP)
	until(t, "the new socket", func() bool { _, err := os.Stat(tr.path("spool/public/fresh")); return err == nil })
	if f := tr.dial("public/fresh"); f.name != "fresh" {
		t.Errorf("greeting of %q", f.name)
	}
	if _, err := os.Stat(tr.path("spool/private/gone")); err == nil {
		t.Error("the socket of a service that is gone is still there")
	}
	if got := s.say("x"); got != "x" {
		t.Errorf("the session of a removed service says %q", got)
	}
}

// TestReloadMovesListener: 0.0.0.0 and 127.0.0.1 can't both have a port, and the old
// process still has it when the new listener is made.
func TestReloadMovesListener(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	tr := newTree(t, "127.0.0.1:"+port+" inet n - n - - smtpd\n")
	tr.start()
	tcp := func() *session {
		t.Helper()
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		return greet(t, c)
	}
	s := tcp()
	for i, line := range []string{"0.0.0.0:" + port, "127.0.0.1:" + port} {
		tr.write("etc/master.cf", line+" inet n - n - - smtpd\n")
		tr.signal(syscall.SIGHUP)
		until(t, "the reload", func() bool { return strings.Count(tr.log(), "reload -- version") == i+1 })
		until(t, "the new process", func() bool {
			c, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				return false // the old listener is shut down, the new one not there yet
			}
			return greet(t, c).name == line
		})
	}
	if got := s.say("x"); got != "x" {
		t.Errorf("the session of the old listener says %q", got)
	}
	if strings.Contains(tr.log(), "warning") {
		t.Error("a warning was logged")
	}
}

// TestExitTime: with -e the children end as they do at a stop, not by force.
func TestExitTime(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	began := time.Now()
	tr.run("master", "-c", tr.path("etc"), "-d", "-e", "1")
	if err := tr.cmd.Wait(); err != nil {
		t.Errorf("master: %v", err)
	}
	if took := time.Since(began); took > master.StopTime {
		t.Errorf("it took %s", took)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	tr.start()
	idle := tr.dial("private/talk")
	busy := tr.dial("private/talk")
	fmt.Fprintln(busy, "commit")
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	tr.stop()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("stop took %s", took)
	}
	if got := busy.read(); got != "committed true" {
		t.Errorf("what was acknowledged was not finished: %q", got)
	}
	if _, err := idle.in.ReadByte(); err != io.EOF {
		t.Errorf("idle session: %v", err)
	}
	tr.waitLog("terminating on signal 15")
	if _, err := os.Stat(tr.path("spool/private/talk")); err == nil {
		t.Error("the socket is still there")
	}
	if err := exec.Command(tr.path("bin/master"), "-c", tr.path("etc"), "-t").Run(); err != nil {
		t.Errorf("master -t after the stop: %v", err)
	}
}

func TestMasterKilled(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	tr.start()
	s := tr.dial("private/talk")
	tr.signal(syscall.SIGKILL)
	_ = tr.cmd.Wait()
	if got := s.say("x"); got != "x" {
		t.Errorf("a session did not outlive master: %q", got)
	}
	s.Close()
	until(t, "the end of the orphan", func() bool { return !alive(s.pid) })
	// Its pid file and sockets are in the way, its lock is not.
	tr.start()
	if again := tr.dial("private/talk"); again.pid == s.pid {
		t.Error("the dead answer")
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	tr.write("spool/"+master.PIDFile, "1\n") // of another life
	tr.start()
	b, err := os.ReadFile(tr.path("spool/" + master.PIDFile))
	if want := fmt.Sprintf("%32d\n", tr.pid); err != nil || string(b) != want {
		t.Errorf("pid file: %q %v, want %q", b, err, want)
	}
	for _, option := range []string{"-t", "-d"} {
		var stderr bytes.Buffer
		cmd := exec.Command(tr.path("bin/master"), "-c", tr.path("etc"), option)
		cmd.Stderr = &stderr
		err = cmd.Run()
		want := "master: fatal: open lock file pid/master.pid: unable to set exclusive lock: Resource temporarily unavailable\n"
		if err == nil || stderr.String() != want {
			t.Errorf("second master %s: %v %q", option, err, stderr.String())
		}
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	began := time.Now()
	out, err := exec.Command(tr.path("bin/master"), "-c", tr.path("etc"), "-w").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Fatalf("master -w: %v %s", err, out)
	}
	b, _ := os.ReadFile(tr.path("spool/" + master.PIDFile))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	if pid <= 1 {
		t.Fatalf("pid file: %q", b)
	}
	defer func() {
		_ = syscall.Kill(pid, syscall.SIGTERM)
		until(t, "the end of master", func() bool { return !alive(pid) })
	}()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("start took %s", took)
	}
	tr.dial("private/talk")
	// A listener that can't be had ends the start, with the reason.
	other := newTree(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	other.write("etc/master.cf", port+" inet n - n - - smtpd\n")
	out, err = exec.Command(other.path("bin/master"), "-c", other.path("etc"), "-w").CombinedOutput()
	want := "master: fatal: bind 127.0.0.1 port " + port + ": Address already in use\n"
	if err == nil || string(out) != want {
		t.Errorf("master -w: %v %q, want %q", err, out, want)
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	tr.start()
	other := tr.dial("private/talk")
	s := tr.dial("private/talk")
	fmt.Fprintln(s, "panic")
	if _, err := s.in.ReadByte(); err != io.EOF {
		t.Errorf("read: %v", err)
	}
	if got := other.say("x"); got != "x" {
		t.Errorf("the other session says %q", got)
	}
	tr.waitLog("postfix/smtpd[" + s.number + "]: panic: told to panic")
	tr.waitLog("(*talker).Serve")
}

func TestMissingProgram(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager+"virtual unix - n n - - virtual\n")
	tr.start()
	tr.dial("private/talk")
	tr.waitLog(tr.path("bin/virtual") + ": No such file or directory -- services skipped: virtual/unix")
	tr.signal(syscall.SIGHUP)
	tr.waitLog("reload --")
	tr.dial("private/talk")
	if n := strings.Count(tr.log(), "services skipped"); n != 1 {
		t.Errorf("reported %d times", n)
	}
}

func TestSocketTypes(t *testing.T) {
	t.Parallel()
	tr := newTree(t, "gate pass - - n - - smtpd\nbell fifo n - n - - smtpd\nclock unix - - n 1 - smtpd\nlazy unix - - n - - local\n")
	tr.start()
	tr.waitLog("woken: clock W")
	if err := ipc.Trigger(context.Background(), tr.path("spool/public/bell"), []byte("ding\n")); err != nil {
		t.Fatal(err)
	}
	tr.waitLog("woken: bell ding")

	// pass: another program accepted the client and hands it over.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	f, err := accepted.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close()
	gate, err := ipc.Dial(context.Background(), tr.path("spool/private/gate"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ipc.SendFiles(gate, []byte{0}, f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	gate.Close()
	if s := greet(t, client); s.name != "gate" || s.say("x") != "x" {
		t.Error("a passed client was not served")
	}

	// A line that nobody has asked yet has no process.
	if strings.Contains(tr.log(), "local[") || len(children(t, tr.pid)) != 1 {
		t.Errorf("children: %v", children(t, tr.pid))
	}
	if s := tr.dial("private/lazy"); s.name != "lazy" {
		t.Errorf("greeting of %q", s.name)
	}
	if n := len(children(t, tr.pid)); n != 2 {
		t.Errorf("%d children, want 2", n)
	}
}

// children lists the processes below one.
func children(t *testing.T, pid int) []string {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(tasks) == 0 {
		t.Skipf("this kernel does not list children: %v", err)
	}
	var all []string
	for _, name := range tasks {
		b, _ := os.ReadFile(name)
		all = append(all, strings.Fields(string(b))...)
	}
	return all
}

func TestRights(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager+"root unix - n n - - local\n")
	secret := tr.path("etc/secret")
	tr.mainCF("smtpd_tls_key_file = " + secret)
	tr.write("etc/secret", "hush")
	tr.write("etc/other", "not named")
	for _, name := range []string{"secret", "other"} {
		if err := os.Chmod(tr.path("etc/"+name), 0400); err != nil {
			t.Fatal(err)
		}
	}
	tr.start()
	s := tr.dial("private/talk")
	want := fmt.Sprintf("%d %d %s", os.Getuid(), os.Getgid(), tr.path("spool"))
	if os.Getuid() == 0 {
		u, err := exec.Command("id", "-u", owner()).Output()
		g, gerr := exec.Command("id", "-g", owner()).Output()
		if err != nil || gerr != nil {
			t.Fatal(err, gerr)
		}
		want = fmt.Sprintf("%s %s %s", bytes.TrimSpace(u), bytes.TrimSpace(g), tr.path("spool"))
	}
	if got := s.say("ids"); got != want {
		t.Errorf("ids: %q, want %q", got, want)
	}
	if got := tr.dial("private/root").say("ids"); !strings.HasPrefix(got, strconv.Itoa(os.Getuid())+" ") {
		t.Errorf("a line with unprivileged=n runs as %q", got)
	}
	if got := s.say("open " + secret); got != "hush <nil>" {
		t.Errorf("a file of the configuration: %q", got)
	}
	if got := s.say("open " + tr.path("etc/other")); os.Getuid() == 0 && !strings.Contains(got, "not in the configuration") {
		t.Errorf("a file that is not in the configuration: %q", got)
	}
}

func TestByHand(t *testing.T) {
	t.Parallel()
	tr := newTree(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	tr.write("etc/master.cf", addr+" inet n - n - - smtpd\nother unix - - n - - local\n")
	var stderr bytes.Buffer
	cmd := exec.Command(tr.path("bin/smtpd"), "-c", tr.path("etc"), "-o", "smtpd_banner=by hand")
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("by hand: %v %s", err, stderr.String())
		}
		if !strings.Contains(stderr.String(), "listening on "+addr) {
			t.Errorf("standard error: %q", stderr.String())
		}
	}()
	var c net.Conn
	until(t, "a listener", func() bool { c, err = net.Dial("tcp", addr); return err == nil })
	if got := greet(t, c).say("banner"); got != "by hand" {
		t.Errorf("banner: %q", got)
	}
	c.Close()
}

// TestInit: as pid 1 of a container, master reaps what isn't its own.
func TestInit(t *testing.T) {
	t.Parallel()
	tr := newTree(t, eager)
	if err := exec.Command(tr.path("bin/master"), "-c", tr.path("etc"), "-i").Run(); err == nil {
		t.Error("-i without being pid 1 was accepted")
	}
	if os.Getuid() != 0 {
		t.Skip("a pid namespace takes root")
	}
	cmd := exec.Command(tr.path("bin/master"), "-c", tr.path("etc"), "-i")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Skipf("no pid namespaces here: %v", err)
	}
	tr.cmd, tr.pid = cmd, cmd.Process.Pid
	tr.waitLog("postfix/master[1]: daemon started")
	s := tr.dial("private/talk")
	if got := s.say("x"); got != "x" {
		t.Errorf("session says %q", got)
	}
	tr.signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("master: %v", err)
	}
}

// cyrusTree adds what cyrmaster reads.
func cyrusTree(t *testing.T, cyrusConf string) *tree {
	t.Helper()
	tr := newTree(t, "")
	if err := os.Mkdir(tr.path("conf"), 0777); err != nil {
		t.Fatal(err)
	}
	tr.write("etc/imapd.conf", "configdirectory: "+tr.path("conf")+"\ndefaultpartition: default\npartition-default: "+tr.path("spool")+"\nmaillog_file: "+tr.path("log/mail.log")+"\n")
	tr.write("etc/cyrus.conf", strings.ReplaceAll(cyrusConf, "DIR", tr.dir))
	return tr
}

func (tr *tree) cyrmaster() {
	tr.t.Helper()
	tr.run("cyrmaster", "-C", tr.path("etc/imapd.conf"), "-M", tr.path("etc/cyrus.conf"), "-p", tr.path("log/master.pid"), "-D")
	tr.waitLog("ready for work")
}

const imapService = `SERVICES {
  imap  cmd="imapd -U 30" listen="DIR/spool/public/imap" prefork=1 maxchild=2
  imaps cmd="imapd -s" listen="DIR/spool/public/imaps" prefork=0
  gone  cmd="nosuchd" listen="DIR/spool/public/gone"
  odd   cmd="imapd" listen="DIR/spool/public/odd" proto=xyz
}
`

func TestCyrus(t *testing.T) {
	t.Parallel()
	tr := cyrusTree(t, `START {
  # comment
  first cmd="/bin/sh DIR/etc/first"
}
`+imapService+`EVENTS {
  now cmd="/bin/sh DIR/etc/now" period=60
}
DAEMON {
  idle cmd="/bin/sh DIR/etc/idle"
  early cmd="/bin/sh DIR/etc/early" wait=y
}
`)
	if err := os.Mkdir(tr.path("out"), 0777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tr.path("out"), 0777); err != nil {
		t.Fatal(err)
	}
	tr.write("etc/first", "echo first >>"+tr.path("out/first")+"\n")
	tr.write("etc/early", "sleep 0.2; echo early >"+tr.path("out/early")+"\nprintf 'ok\\r\\n' >&3\nexec sleep 1000\n")
	tr.write("etc/now", "echo now >>"+tr.path("out/now")+"\n")
	tr.write("etc/idle", "echo $$ >>"+tr.path("out/idle")+"\nexec sleep 1000\n")
	tr.cyrmaster()
	for _, text := range []string{"cyrus/master[", "process started", "nosuchd: No such file or directory -- services skipped: gone/unix", "invalid proto 'xyz', disabling odd"} {
		tr.waitLog(text)
	}
	s := tr.dial("public/imap")
	secure := tr.dial("public/imaps")
	if s.name != "imap" || secure.name != "imaps" || s.pid != secure.pid {
		t.Errorf("imap and imaps share a process: %s[%d] %s[%d]", s.name, s.pid, secure.name, secure.pid)
	}
	if b, _ := os.ReadFile(tr.path("out/early")); string(b) != "early\n" {
		t.Errorf("a session before the daemon with wait=y was ready: %q", b)
	}
	if b, _ := os.ReadFile(tr.path("out/first")); string(b) != "first\n" {
		t.Errorf("START: %q", b)
	}
	until(t, "the event", func() bool { b, _ := os.ReadFile(tr.path("out/now")); return string(b) == "now\n" })
	lines := func() []string { b, _ := os.ReadFile(tr.path("out/idle")); return strings.Fields(string(b)) }
	until(t, "the daemon", func() bool { return len(lines()) == 1 })
	pid, _ := strconv.Atoi(lines()[0])
	_ = syscall.Kill(pid, syscall.SIGKILL)
	until(t, "the daemon's return", func() bool { return len(lines()) == 2 })
	tr.waitLog("process type:DAEMON name:idle path:/bin/sh age:")

	// A reload keeps the session; new clients get a new process.
	tr.signal(syscall.SIGHUP)
	tr.waitLog("got SIGHUP")
	tr.waitLog("Services reconfigured.")
	successor := s.pid
	until(t, "a successor", func() bool { f := tr.dial("public/imaps"); defer f.Close(); successor = f.pid; return f.pid != s.pid })
	if got := s.say("x"); got != "x" {
		t.Errorf("the old session says %q", got)
	}
	if err := syscall.Kill(successor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	tr.waitLog("signaled to death by signal 9 (Killed)")
	tr.waitLog("in READY state: terminated abnormally")
	tr.dial("public/imaps")
	tr.stop()
	tr.waitLog("attempting clean shutdown on signal")
	tr.waitLog("All children have exited, closing down")
}

func TestCyrusDaemonMode(t *testing.T) {
	t.Parallel()
	tr := cyrusTree(t, imapService)
	args := []string{"-C", tr.path("etc/imapd.conf"), "-M", tr.path("etc/cyrus.conf"), "-p", tr.path("log/master.pid"), "-d"}
	start := func() ([]byte, error) {
		cmd := exec.Command(tr.path("bin/cyrmaster"), args...)
		cmd.Env = append(os.Environ(), "CYRUS_USER="+owner())
		return cmd.CombinedOutput()
	}
	if out, err := start(); err != nil {
		t.Fatalf("cyrmaster -d: %v %s", err, out)
	}
	b, _ := os.ReadFile(tr.path("log/master.pid"))
	pid, _ := strconv.Atoi(strings.TrimSuffix(string(b), "\n"))
	if pid <= 1 {
		t.Fatalf("pid file: %q", b)
	}
	tr.dial("public/imap")
	_, err := start()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != cli.OSErr {
		t.Errorf("a second cyrmaster: %v, want exit status %d", err, cli.OSErr)
	}
	tr.waitLog("cannot get exclusive lock on pidfile (is another master still running?)")
	_ = syscall.Kill(pid, syscall.SIGTERM)
	until(t, "the end of cyrmaster", func() bool { return !alive(pid) })
}

func TestCyrusStartFails(t *testing.T) {
	t.Parallel()
	tr := cyrusTree(t, "START {\n  bad cmd=\"/bin/false\"\n}\n"+imapService)
	cmd := exec.Command(tr.path("bin/cyrmaster"), "-C", tr.path("etc/imapd.conf"), "-M", tr.path("etc/cyrus.conf"), "-p", tr.path("log/master.pid"), "-D")
	cmd.Env = append(os.Environ(), "CYRUS_USER="+owner())
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("a failing START command should end the start with 1: %v", err)
	}
	tr.waitLog("process type:START name:bad path:/bin/false age:")
	tr.waitLog("can't run startup")
}

// TestUsage: the exit statuses and texts of both personalities.
func TestUsage(t *testing.T) {
	t.Parallel()
	tr := cyrusTree(t, imapService)
	files := []string{"-C", tr.path("etc/imapd.conf"), "-M", tr.path("etc/cyrus.conf"), "-p", tr.path("log/master.pid")}
	for _, c := range []struct {
		program string
		args    []string
		code    int
		first   string // line of standard error; "PATH" is the program as it was called
	}{
		{"master", []string{"-z"}, 1, "PATH: invalid option -- 'z'"},
		{"master", []string{"word"}, 1, "master: fatal: usage: master [-c config_dir] [-D (debug)] [-d (don't detach from terminal)] [-e exit_time] [-t (test)] [-v] [-w (wait for initialization)]"},
		{"master", []string{"-w", "-d"}, 1, "master: fatal: the -w option cannot be used with -d, -i, -s or -t"},
		{"cyrmaster", []string{"-z"}, 78, "PATH: invalid option -- 'z'"},
		{"cyrmaster", []string{"-d", "-D"}, 78, "cyrmaster: fatal: Unable to be both debug and daemon mode"},
		{"cyrmaster", []string{"-j", "0"}, 78, "cyrmaster: fatal: The janitor period must be at least 1 second"},
		{"cyrmaster", append(files, "-L", "/nonexistent/log"), 2, "cyrmaster: fatal: couldn't open /nonexistent/log: No such file or directory"},
	} {
		var stderr bytes.Buffer
		cmd := exec.Command(tr.path("bin/"+c.program), c.args...)
		cmd.Env = append(os.Environ(), "CYRUS_USER="+owner())
		cmd.Stderr = &stderr
		_ = cmd.Run()
		got, _, _ := strings.Cut(stderr.String(), "\n")
		if want := strings.ReplaceAll(c.first, "PATH", tr.path("bin/"+c.program)); got != want || cmd.ProcessState.ExitCode() != c.code {
			t.Errorf("%s %s: exit %d %q, want %d %q", c.program, c.args, cmd.ProcessState.ExitCode(), got, c.code, want)
		}
	}
}
