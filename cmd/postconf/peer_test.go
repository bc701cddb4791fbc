package postconf

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"angarium/lib/cli"
)

// result is what a call of postconf did.
type result struct {
	out, err string
	code     int
	files    string
}

// peer finds a real postconf of the version we speak like.
func peer(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/usr/sbin/postconf", "/usr/local/sbin/postconf"} {
		out, err := exec.Command(path, "-dh", "mail_version").Output()
		if err == nil && strings.HasPrefix(string(out), "3.7.") {
			return path
		}
	}
	t.Skip("no postconf of Postfix 3.7 here to compare with")
	return ""
}

// setUp writes the files into dir, with a time stamp old enough that the peer
// reads them once only.
func setUp(t *testing.T, dir string, c testCase) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	for name, text := range map[string]string{"main.cf": c.main, "master.cf": c.master} {
		path := filepath.Join(dir, name)
		if text == "absent" {
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
}

func readBack(dir string) string {
	var all strings.Builder
	for _, name := range []string{"main.cf", "master.cf"} {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		all.WriteString("== " + name + "\n" + string(text))
	}
	return all.String()
}

// tidy takes out what may differ: the directory's name, the order of warnings
// (the peer's follows a hash table) and the lines that must differ.
func tidy(r *result, dir string) {
	r.out, r.err = strings.ReplaceAll(r.out, dir, "DIR"), strings.ReplaceAll(r.err, dir, "DIR")
	var lines []string
	for line := range strings.Lines(r.out) {
		if !strings.HasPrefix(line, "process_id = ") && !strings.HasPrefix(line, "smtpd_forbid_bare_newline = ") {
			lines = append(lines, line)
		}
	}
	r.out = regexp.MustCompile(`postconf \d+ &`).ReplaceAllString(strings.Join(lines, ""), "postconf PID &")
	warnings := slices.Sorted(strings.Lines(r.err))
	r.err = strings.Join(warnings, "")
}

func runPeer(path, dir string, args []string) result {
	cmd := exec.Command(path, append([]string{"-c", dir}, args...)...)
	cmd.Args[0] = "postconf"
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Run()
	r := result{out.String(), errs.String(), cmd.ProcessState.ExitCode(), readBack(dir)}
	tidy(&r, dir)
	return r
}

func runOurs(dir string, args []string) result {
	var out, errs bytes.Buffer
	c := &cli.Cmd{Name: "postconf", Path: "postconf", Args: append([]string{"-c", dir}, args...), Stdout: &out, Stderr: &errs}
	code := cli.Run(context.Background(), c, Main)
	r := result{out.String(), errs.String(), code, readBack(dir)}
	tidy(&r, dir)
	return r
}

func TestSameAsPeer(t *testing.T) {
	path := peer(t)
	root := t.TempDir()
	type call struct {
		testCase
		line   string
		theirs chan result
		dir    string
	}
	var calls []call
	many := make(chan bool, 64) // the peer sleeps for a second after each fatal error
	for _, c := range cases() {
		for _, line := range c.calls {
			dir := filepath.Join(root, strconv.Itoa(len(calls)))
			setUp(t, dir, c)
			setUp(t, dir+"p", c)
			k := call{c, line, make(chan result, 1), dir}
			calls = append(calls, k)
			go func() {
				many <- true
				k.theirs <- runPeer(path, dir+"p", words(line))
				<-many
			}()
		}
	}
	for _, k := range calls {
		ours, theirs := runOurs(k.dir, words(k.line)), <-k.theirs
		name := k.name + ": postconf " + k.line
		diff(t, name, "output", theirs.out, ours.out)
		diff(t, name, "errors", theirs.err, ours.err)
		diff(t, name, "files", theirs.files, ours.files)
		if theirs.code != ours.code {
			t.Errorf("%s: exit status %d, the peer's %d", name, ours.code, theirs.code)
		}
	}
}

// diff reports the first line that differs.
func diff(t *testing.T, call, what, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(a), len(b)) {
		x, y := "(end)", "(end)"
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			t.Errorf("%s: %s, line %d:\n peer: %s\n ours: %s", call, what, i+1, x, y)
			return
		}
	}
}

// words splits a command line at blanks, but for what is in single quotes.
func words(line string) []string {
	var list []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			list = append(list, part)
		} else {
			list = append(list, strings.Fields(part)...)
		}
	}
	return list
}
