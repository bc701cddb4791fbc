package t

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience bounds every wait for something that is meant to happen.
const patience = 20 * time.Second

// services are the listeners of a private server and the variables that scripts
// find them in.
var services = map[string]int{
	"SMTP": 25, "SUBMISSION": 587, "SMTPS": 465, "LMTP": 24,
	"IMAP": 143, "IMAPS": 993, "POP3": 110, "POP3S": 995,
}

var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"server":  cmdServer,
	"start":   cmdStart,
	"halt":    cmdHalt,
	"reload":  cmdReload,
	"kill9":   cmdKill9,
	"waitlog": cmdWaitlog,
	"waitfor": cmdWaitfor,
	"ask":     cmdAsk,
	"mounted": cmdMounted,
}

// condition knows [root], and [peer:name] for the programs of other
// mail systems that a script compares with.
func condition(name string) (bool, error) {
	if path, ok := strings.CutPrefix(name, "peer:"); ok {
		return peer(path) != "", nil
	}
	if name == "root" {
		return os.Geteuid() == 0, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// peer is the path of a real mail system's program, or "".
func peer(name string) string {
	places := map[string][]string{
		"postfix": {"/usr/lib/postfix/sbin/master"},
		"cyrus":   {"/usr/lib/cyrus/bin/master", os.Getenv("CYRUS_ROOT") + "/usr/lib/cyrus/bin/master"},
		"dovecot": {"/usr/sbin/dovecot"},
	}[name]
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

func setup(env *testscript.Env, bin string) error {
	env.Setenv("PATH", bin+":/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
	env.Setenv("BIN", bin)
	repo, err := filepath.Abs("..")
	if err != nil {
		return err
	}
	env.Setenv("REPO", repo)
	env.Setenv("LANG", "C.UTF-8")
	env.Setenv("TERM", "dumb")
	srv := filepath.Join(env.WorkDir, "srv")
	env.Setenv("SRV", srv)
	env.Setenv("MAIL_CONFIG", srv+"/etc/postfix")
	env.Setenv("CORPUS", os.Getenv("CORPUS"))
	env.Setenv("HOME", env.WorkDir)
	// Peers run as users of their own.
	if err := os.Chmod(filepath.Dir(env.WorkDir), 0o755); err != nil {
		return err
	}
	return os.Chmod(env.WorkDir, 0o755)
}

// server [mailsetup option...]: makes a private server in $SRV for alice, bob
// (password secret) and the administrator cyrus, starts it with the old
// commands, and stops it when the script ends.
func cmdServer(ts *testscript.TestScript, neg bool, args []string) {
	base := freeBase()
	for name, port := range services {
		ts.Setenv(name, strconv.Itoa(base+port))
	}
	all := []string{"--dir", ts.Getenv("SRV"), "--port-base", strconv.Itoa(base),
		"--user", "alice:secret", "--user", "bob:secret", "--admin", "cyrus:secret",
		"--domain", "example.test"}
	run(ts, "mailsetup", append(all, args...)...)
	ts.Defer(func() { stop(ts) })
	cmdStart(ts, false, nil)
}

// start: starts what does not run of the server's two halves.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	srv := ts.Getenv("SRV")
	if len(pids(srv+"/spool/postfix/pid/master.pid")) == 0 {
		run(ts, "postfix", "-c", srv+"/etc/postfix", "start")
	}
	if len(pids(srv+"/lib/imap/master.pid")) == 0 {
		run(ts, "cyrmaster", "-C", srv+"/etc/imapd.conf", "-M", srv+"/etc/cyrus.conf", "-d", "-p", srv+"/lib/imap/master.pid")
	}
	for _, name := range []string{"SMTP", "IMAP", "POP3"} {
		waitPort(ts, "127.0.0.1:"+ts.Getenv(name))
	}
}

func cmdHalt(ts *testscript.TestScript, neg bool, args []string) { stop(ts) }

// reload: postfix reload, and waits until another qmgr has taken over, and the other
// services, but for those that clients keep.
func cmdReload(ts *testscript.TestScript, neg bool, args []string) {
	srv := ts.Getenv("SRV")
	qmgr := func() int {
		for _, p := range descendants(pids(srv + "/spool/postfix/pid/master.pid")) {
			if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p)); strings.TrimSpace(string(name)) == "qmgr" {
				return p
			}
		}
		return 0
	}
	before := qmgr()
	old := descendants(pids(srv + "/spool/postfix/pid/master.pid"))
	run(ts, "postfix", "-c", srv+"/etc/postfix", "reload")
	for end := time.Now().Add(patience); alive(before); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("qmgr %d did not make room for its successor", before)
		}
	}
	for end := time.Now().Add(2 * time.Second); slices.ContainsFunc(old, alive) && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
}

// stop ends the server the way an administrator does.
func stop(ts *testscript.TestScript) {
	srv := ts.Getenv("SRV")
	if exec.Command(filepath.Join(ts.Getenv("BIN"), "postfix"), "-c", srv+"/etc/postfix", "status").Run() == nil {
		run(ts, "postfix", "-c", srv+"/etc/postfix", "stop")
	}
	for _, pid := range pids(srv + "/lib/imap/master.pid") {
		syscall.Kill(pid, syscall.SIGTERM)
		for end := time.Now().Add(patience); syscall.Kill(pid, 0) == nil && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// mounted dir: unmounts it when the script ends, after the server stopped.
func cmdMounted(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Defer(func() {
		stop(ts)
		if err := syscall.Unmount(dir, 0); err != nil {
			syscall.Unmount(dir, syscall.MNT_DETACH)
		}
	})
}

// kill9 postfix|cyrus|both: ends all processes of one or both halves at once,
// with SIGKILL.
func cmdKill9(ts *testscript.TestScript, neg bool, args []string) {
	srv := ts.Getenv("SRV")
	var roots []int
	if len(args) != 1 {
		ts.Fatalf("usage: kill9 postfix|cyrus|both")
	}
	if args[0] != "cyrus" {
		roots = append(roots, pids(srv+"/spool/postfix/pid/master.pid")...)
	}
	if args[0] != "postfix" {
		roots = append(roots, pids(srv+"/lib/imap/master.pid")...)
	}
	if len(roots) == 0 {
		ts.Fatalf("nothing runs")
	}
	tree := descendants(roots)
	for _, p := range tree { // frozen first, so that no parent sees its child die
		syscall.Kill(p, syscall.SIGSTOP)
	}
	for _, p := range tree {
		syscall.Kill(p, syscall.SIGKILL)
	}
	for _, p := range tree {
		for end := time.Now().Add(patience); alive(p) && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// waitlog regexp [count]: waits until so many lines of the mail log match.
func cmdWaitlog(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: waitlog regexp [count]")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	want := 1
	if len(args) > 1 {
		want, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	file := ts.Getenv("SRV") + "/log/mail.log"
	if neg {
		time.Sleep(300 * time.Millisecond)
		data, _ := os.ReadFile(file)
		if re.Match(data) {
			ts.Fatalf("the log has %q", re.Find(data))
		}
		return
	}
	var data []byte
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		data, _ = os.ReadFile(file)
		if len(re.FindAll(data, -1)) >= want {
			return
		}
	}
	ts.Fatalf("%d of %d lines like %q in the log:\n%s", len(re.FindAll(data, -1)), want, args[0], data)
}

// waitfor command [arg...]: runs a command again and again until it succeeds.
func cmdWaitfor(ts *testscript.TestScript, neg bool, args []string) {
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = ts.Exec(args[0], args[1:]...); (err == nil) != neg {
			return
		}
	}
	ts.Fatalf("%s: %v after %v", strings.Join(args, " "), err, patience)
}

// ask host:port file: a dialogue. Lines of the file that start with "> " are
// sent with CRLF (\xHH, \r and \n as in Go), "! " without; all others are
// regular expressions that the next line of the server must match whole.
// "~ " ones may take several lines until one matches.
func cmdAsk(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: ask host:port file")
	}
	addr := args[0]
	if !strings.Contains(addr, ":") {
		addr = "127.0.0.1:" + addr
	}
	conn, err := net.Dial("tcp", addr)
	ts.Check(err)
	defer conn.Close()
	if err := dialogue(conn, ts.ReadFile(args[1])); err != nil {
		ts.Fatalf("%v", err)
	}
}

func dialogue(conn net.Conn, script string) error {
	var buf []byte
	line := func() (string, error) {
		for {
			if i := bytes.IndexByte(buf, '\n'); i >= 0 {
				s := strings.TrimRight(string(buf[:i]), "\r")
				buf = buf[i+1:]
				return s, nil
			}
			conn.SetReadDeadline(time.Now().Add(patience))
			b := make([]byte, 4096)
			n, err := conn.Read(b)
			if n == 0 {
				return "", fmt.Errorf("read: %w (rest %q)", err, buf)
			}
			buf = append(buf, b[:n]...)
		}
	}
	for i, want := range strings.Split(strings.TrimRight(script, "\n"), "\n") {
		switch {
		case want == "" || want[0] == '#':
		case strings.HasPrefix(want, "> "), strings.HasPrefix(want, "! "):
			text, err := strconv.Unquote(`"` + strings.ReplaceAll(want[2:], `"`, `\"`) + `"`)
			if err != nil {
				return fmt.Errorf("line %d: %w", i+1, err)
			}
			if want[0] == '>' {
				text += "\r\n"
			}
			if _, err := conn.Write([]byte(text)); err != nil {
				return err
			}
		default:
			skip := strings.HasPrefix(want, "~ ")
			re, err := regexp.Compile("^(?:" + strings.TrimPrefix(want, "~ ") + ")$")
			if err != nil {
				return fmt.Errorf("line %d: %w", i+1, err)
			}
			for {
				got, err := line()
				if err != nil {
					return fmt.Errorf("line %d, waiting for %q: %w", i+1, want, err)
				}
				if re.MatchString(got) {
					break
				}
				if !skip {
					return fmt.Errorf("line %d: got %q, want %q", i+1, got, want)
				}
			}
		}
	}
	return nil
}

func run(ts *testscript.TestScript, name string, args ...string) {
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(ts.Getenv("BIN"), name), args...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("WORK")}
	cmd.Stdout, cmd.Stderr = &out, &out
	// A daemon that stays behind may hold the pipe: do not wait for it.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		log, _ := os.ReadFile(ts.Getenv("SRV") + "/log/mail.log")
		ts.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), log)
	}
}

// freeBase finds a port base whose ports nobody listens on.
func freeBase() int {
	for {
		base := 11000 + rand.IntN(20000)
		free := true
		for _, port := range services {
			l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", base+port))
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			return base
		}
	}
}

func waitPort(ts *testscript.TestScript, addr string) {
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var c net.Conn
		if c, err = net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
	}
	log, _ := os.ReadFile(ts.Getenv("SRV") + "/log/mail.log")
	ts.Fatalf("nobody answers at %s: %v\n%s", addr, err, log)
}

// pids reads a pid file; none if it is missing or its process is gone.
func pids(file string) []int {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 || !alive(pid) {
		return nil
	}
	return []int{pid}
}

// alive reports whether a process runs; a zombie does not.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	if rest == "" || rest[0] != 'Z' {
		return rest != ""
	}
	// The first thread of a killed process may be a zombie while another still
	// waits for the disk, with all files open.
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return len(threads) > 1
}

// descendants are the processes of some trees, the roots first.
func descendants(roots []int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(f, "/")[2])
		_, rest, _ := strings.Cut(string(data), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 {
			parent, _ := strconv.Atoi(fields[1])
			children[parent] = append(children[parent], pid)
		}
	}
	out := roots
	for i := 0; i < len(out); i++ {
		out = append(out, children[out[i]]...)
	}
	return out
}
