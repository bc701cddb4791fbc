package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"angarium/lib/cli"
	"angarium/lib/master"
)

// TestMain is also the master that the tests start.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "master":
		cli.Exec(master.Postfix)
	case "postfix":
		cli.Exec(Main)
	}
	os.Exit(m.Run())
}

// id asks id(1) who we are, or who nobody is: root's daemons become someone else.
func id(t *testing.T, option string) string {
	t.Helper()
	args := []string{option}
	if os.Getuid() == 0 {
		args = append(args, "nobody")
	}
	out, err := exec.Command("id", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func newTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"etc", "bin", "log"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"master", "postfix"} {
		if err := os.Symlink(self, filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/etc/master.cf", "postlog unix-dgram n - n - 1 postlogd\n")
	write(t, dir+"/etc/main.cf", fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
daemon_directory = %[1]s/bin
command_directory = %[1]s/bin
maillog_file = %[1]s/log/mail.log
maillog_file_prefixes = %[1]s/log
maillog_file_compressor = gzip
mail_owner = %[2]s
setgid_group = %[3]s
myhostname = mail.test
inet_interfaces = 127.0.0.1
`, dir, id(t, "-un"), id(t, "-gn")))
	if os.Getuid() == 0 { // three that have nothing in common
		set(t, dir, "default_privs = daemon\nsetgid_group = mail\n")
	}
	t.Cleanup(func() { _, _, _ = postfix(t, dir, "stop") })
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0644); err != nil {
		t.Fatal(err)
	}
}

// set gives parameters in main.cf other values.
func set(t *testing.T, dir, lines string) {
	t.Helper()
	b, err := os.ReadFile(dir + "/etc/main.cf")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for line := range strings.Lines(lines) {
		name, _, _ := strings.Cut(line, "=")
		text = regexp.MustCompile("(?m)^"+name+"=.*\n").ReplaceAllString(text, "") + line
	}
	write(t, dir+"/etc/main.cf", text)
}

// postfix runs a command and returns its exit status, its output, and what it
// said: on standard error, then in the log, which goes to the output in one test.
func postfix(t *testing.T, dir string, args ...string) (code int, stdout, said string) {
	t.Helper()
	before, _ := os.ReadFile(dir + "/log/mail.log")
	cmd := exec.Command(dir+"/bin/postfix", append([]string{"-c", dir + "/etc"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(dir + "/log/mail.log")
	lines := bytes.TrimPrefix(after, before)
	for _, m := range scriptLine.FindAllSubmatch(append(lines, out.Bytes()...), -1) {
		fmt.Fprintf(&errs, "postfix/postfix-script: %s\n", m[1])
	}
	return code, out.String(), errs.String()
}

var scriptLine = regexp.MustCompile(`(?m)^\w+ [ \d]\d [\d:]+ \S+ postfix/postfix-script\[\d+\]: (.*)$`)

// want compares one command with what Postfix' own says. Nothing of that goes to
// what is no terminal.
func want(t *testing.T, dir string, code int, text string, args ...string) {
	t.Helper()
	if text != "" {
		text = "postfix/postfix-script: " + text + "\n"
	}
	if gotCode, _, got := postfix(t, dir, args...); gotCode != code || got != text {
		t.Errorf("postfix %s: exit %d %q, want exit %d %q", strings.Join(args, " "), gotCode, got, code, text)
	}
}

func TestLife(t *testing.T) {
	dir := newTree(t)
	want(t, dir, 0, "starting the Postfix mail system", "start")
	b, err := os.ReadFile(dir + "/spool/pid/master.pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || syscall.Kill(pid, 0) != nil {
		t.Fatalf("pid file %q: %v", b, err)
	}
	want(t, dir, 0, fmt.Sprintf("the Postfix mail system is running: PID: %d", pid), "status")
	want(t, dir, 1, "fatal: the Postfix mail system is already running", "start")
	want(t, dir, 0, "refreshing the Postfix mail system", "reload")
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if log, _ := os.ReadFile(dir + "/log/mail.log"); strings.Contains(string(log), "reload -- ") {
			break
		}
	}
	write(t, dir+"/etc/master.cf", "postlog unix-dgram n - n - 1 postlogd\nbad\n")
	if code, _, text := postfix(t, dir, "reload"); code != 1 || !strings.Contains(text, "master.cf: line 2: ") {
		t.Errorf("reload of a broken master.cf: exit %d %q", code, text)
	}
	write(t, dir+"/etc/master.cf", "postlog unix-dgram n - n - 1 postlogd\n")
	want(t, dir, 0, "stopping the Postfix mail system", "stop")
	want(t, dir, 1, "the Postfix mail system is not running", "status")
	for _, command := range []string{"stop", "reload", "abort"} {
		want(t, dir, 1, "fatal: the Postfix mail system is not running", command)
	}
	want(t, dir, 1, "fatal: unknown command: 'bogus'. Usage: postfix start (or stop, reload, abort, flush, check, status, set-permissions, upgrade-configuration, logrotate)", "bogus")
	log, _ := os.ReadFile(dir + "/log/mail.log")
	for _, text := range []string{
		"postfix/postfix-script[", "]: starting the Postfix mail system",
		fmt.Sprintf("postfix/master[%d]: daemon started -- version 3.7.11, configuration %s/etc", pid, dir),
		fmt.Sprintf("postfix/master[%d]: reload -- version 3.7.11, configuration %s/etc", pid, dir),
		fmt.Sprintf("postfix/master[%d]: terminating on signal 15", pid),
	} {
		if !strings.Contains(string(log), text) {
			t.Errorf("not in the log: %s", text)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := newTree(t)
	want(t, dir, 0, "", "check")
	for name, mode := range map[string]os.FileMode{"incoming": 0700, "maildrop": 0730, "public": 0710, "pid": 0755} {
		fi, err := os.Stat(dir + "/spool/" + name)
		if err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want %v", name, fi.Mode(), err, mode)
		}
	}
	if err := os.Chmod(dir+"/spool/hold", 0777); err != nil {
		t.Fatal(err)
	}
	want(t, dir, 0, "warning: group or other writable: "+dir+"/spool/hold", "check")
	if code, _, text := postfix(t, dir, "set-permissions"); code != 0 || text != "" {
		t.Errorf("set-permissions: exit %d %q", code, text)
	}
	want(t, dir, 0, "", "check")
	write(t, dir+"/etc/master.cf", "other unix - - n - 0 bounce\n")
	if code, _, text := postfix(t, dir, "start"); code != 1 || !strings.Contains(text, "fatal: missing 'postlog' service in master.cf - run 'postfix upgrade-configuration'\n") || !strings.HasSuffix(text, "fatal: Postfix integrity check failed!\n") {
		t.Errorf("start without postlog: exit %d %q", code, text)
	}
	if code, out, _ := postfix(t, dir, "upgrade-configuration"); code != 0 || !strings.Contains(out, "adding missing entry for postlog unix-dgram service") {
		t.Errorf("upgrade-configuration: exit %d %q", code, out)
	}
	want(t, dir, 0, "", "check")
}

// Where one identity is another's, the words are those with which Postfix refuses.
func TestSharedRights(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("an ordinary user is all of them")
	}
	for _, c := range []struct{ set, want string }{
		{"mail_owner = root", "parameter mail_owner: user root has privileged user ID"},
		{"default_privs = root", "parameter default_privs: user root has privileged user ID"},
		{"setgid_group = root", "parameter setgid_group: group root has privileged group ID"},
		{"default_privs = nobody", "parameters default_privs and mail_owner specify the same user nobody"},
		{"mail_owner = bin\nsetgid_group = bin", "parameters mail_owner and setgid_group: user bin and group bin have the same group ID: 2"},
		{"setgid_group = daemon", "parameters default_privs and setgid_group: user daemon and group daemon have the same group ID: 1"},
	} {
		dir := newTree(t)
		set(t, dir, c.set+"\n")
		want(t, dir, 0, "warning: file "+dir+"/etc/main.cf: "+c.want, "check")
	}
}

func TestLogrotate(t *testing.T) {
	dir := newTree(t)
	want(t, dir, 0, "starting the Postfix mail system", "start")
	want(t, dir, 0, "", "logrotate")
	old, _ := filepath.Glob(dir + "/log/mail.log.*.gz")
	if len(old) != 1 {
		t.Errorf("archives: %q", old)
	}
	want(t, dir, 0, "stopping the Postfix mail system", "stop")
	if b, _ := os.ReadFile(dir + "/log/mail.log"); !strings.Contains(string(b), "terminating on signal 15") {
		t.Errorf("the new log: %q", b)
	}
}

// TestStartFg: the log is standard output's, and the exit status master's.
func TestStartFg(t *testing.T) {
	dir := newTree(t)
	conf, err := os.ReadFile(dir + "/etc/main.cf")
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/etc/main.cf", string(conf)+"maillog_file = /dev/stdout\nmaillog_file_prefixes = /var, /dev/stdout\n")
	cmd := exec.Command(dir+"/bin/postfix", "-c", dir+"/etc", "start-fg")
	out, err := os.Create(dir + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, _ := os.ReadFile(dir + "/out")
		if strings.Contains(string(b), "daemon started") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("standard output: %q", b)
		}
	}
	want(t, dir, 0, fmt.Sprintf("the Postfix mail system is running: PID: %d", cmd.Process.Pid), "status")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("start-fg: %v", err)
	}
}

func TestStrangersMayNot(t *testing.T) {
	dir := newTree(t)
	if os.Getuid() != 0 {
		conf, err := os.ReadFile(dir + "/etc/main.cf")
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir+"/etc/main.cf", string(conf)+"mail_owner = root\n")
		code, _, text := postfix(t, dir, "start")
		if code != 1 || text != "postfix: error: to submit mail, use the Postfix sendmail command\npostfix: fatal: the postfix command is reserved for the superuser\n" {
			t.Errorf("exit %d %q", code, text)
		}
		return
	}
	var stderr bytes.Buffer
	c := &cli.Cmd{Name: "postfix", Args: []string{"-c", "/nonexistent", "start"}, Stderr: &stderr}
	if code := cli.Run(context.Background(), c, Main); code != 1 || stderr.String() != "postfix: fatal: open /nonexistent/main.cf: No such file or directory\n" {
		t.Errorf("exit %d %q", code, stderr.String())
	}
}

func TestStrftime(t *testing.T) {
	at := time.Date(2026, 1, 5, 10, 2, 3, 0, time.UTC)
	for format, want := range map[string]string{
		"%Y%m%d-%H%M%S": "20260105-100203", "%F": "2026-01-05", "x%%y%": "x%y%", "%q": "%q", "%j": "005",
	} {
		if got := strftime(format, at); got != want {
			t.Errorf("%s: %s, want %s", format, got, want)
		}
	}
}
