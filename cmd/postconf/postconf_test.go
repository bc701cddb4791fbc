package postconf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"angarium/lib/cli"
	"angarium/lib/maps"
	"angarium/lib/safefile"
)

func call(t *testing.T, dir string, args ...string) (out, errs string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	c := &cli.Cmd{Name: "postconf", Path: "postconf", Args: append([]string{"-c", dir}, args...), Stdout: &o, Stderr: &e}
	code = cli.Run(context.Background(), c, Main)
	return o.String(), e.String(), code
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestEditKeepsWhatItDoesNotChange(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "main.cf")
	write(t, path, "# top\nbiff = no\n# middle\nrelayhost =\n    [a]\n# end\n", 0o640)
	if _, errs, code := call(t, dir, "-e", "relayhost=[b]:25", "myhostname=h.test"); code != 0 {
		t.Fatal(errs)
	}
	text, _ := os.ReadFile(path)
	if want := "# top\nbiff = no\n# middle\nrelayhost = [b]:25\n# end\nmyhostname = h.test\n"; string(text) != want {
		t.Errorf("got\n%swant\n%s", text, want)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v", st.Mode())
	}
	if out, _, _ := call(t, dir, "-h", "relayhost"); out != "[b]:25\n" {
		t.Errorf("relayhost is %q", out)
	}
}

// Every step of a change may fail: the file is then the old one or the new one.
func TestEditIsAllOrNothing(t *testing.T) {
	boom := errors.New("boom")
	for step := 0; ; step++ {
		path := filepath.Join(t.TempDir(), "main.cf")
		write(t, path, "old\n", 0o644)
		r, err := begin(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		r.fs.Hook = func(safefile.Op, string) error {
			if n++; n == step+1 {
				return boom
			}
			return nil
		}
		err = r.commit([]byte("new\n"))
		r.abort()
		text, _ := os.ReadFile(path)
		if err == nil {
			if string(text) != "new\n" || step < 4 {
				t.Fatalf("after %d steps without a failure: %q", n, text)
			}
			return
		}
		if !errors.Is(err, boom) || string(text) != "old\n" && string(text) != "new\n" {
			t.Errorf("step %d: %v leaves %q", step, err, text)
		}
	}
}

func TestEditorsWaitForEachOther(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "main.cf"), "", 0o644)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, errs, code := call(t, dir, "-e", fmt.Sprintf("x%d=%d", i, i)); code != 0 {
				t.Error(errs)
			}
		})
	}
	wg.Wait()
	text, _ := os.ReadFile(filepath.Join(dir, "main.cf"))
	if n := strings.Count(string(text), "="); n != 8 {
		t.Errorf("%d of 8 changes are there:\n%s", n, text)
	}
}

func TestNotActedOn(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "main.cf"), "compatibility_level = 3.6\nsun_mailtool_compatibility = yes\nmine = x\nmyorigin = $mydomain$yours\nyours =\n"+
		"slow_destination_rate_delay = 1s\nslow_delivery_slot_cost = 3\nsmtp_tls_CAfile = /x\n", 0o644)
	write(t, filepath.Join(dir, "master.cf"), "slow unix - - n - - smtp\n  -o smtp_connect_timeout=1 -o qmqpd_timeout=1 -o foo=1\n"+
		"local unix - n n - - local -o luser_relay=x -o home_mailbox=Mail/\n", 0o644)
	want := []string{
		"main.cf, line 2: not acted on: sun_mailtool_compatibility = yes", "main.cf, line 3: unused parameter: mine = x",
		"main.cf, line 7: not acted on: slow_delivery_slot_cost = 3",
		"master.cf, line 1: slow/unix: unused parameter: foo = 1", "master.cf, line 1: slow/unix: not acted on: qmqpd_timeout = 1",
		"master.cf, line 3: local/unix: not acted on in this line: luser_relay = x",
	}
	out, _, _ := call(t, dir, "-U")
	if got := strings.Split(strings.TrimSpace(strings.ReplaceAll(out, dir+"/", "")), "\n"); !slices.Equal(got, want) {
		t.Errorf("-U:\n%s", strings.Join(got, "\n"))
	}
	if out, _, _ := call(t, dir, "-D", "biff"); !strings.HasPrefix(out, "biff (bool): tell users") {
		t.Errorf("-D: %q", out)
	}
}

// -m lists what lib/maps opens, no more and no less.
func TestMapTypes(t *testing.T) {
	have := strings.Fields(strings.Join(mapTypes(), " "))
	if !slices.IsSorted(have) {
		t.Error("the list is not sorted")
	}
	for _, kind := range append(have, "ldap", "memcache", "mysql", "nis", "pgsql", "sqlite") {
		spec := kind + ":x"
		if kind == "proxy" {
			spec = "proxy:static:x"
		}
		_, err := maps.Open(spec, maps.Options{})
		opens := err == nil || !strings.Contains(err.Error(), "unsupported dictionary type")
		if opens != slices.Contains(have, kind) {
			t.Errorf("%s: listed %v, opens %v (%v)", kind, !opens, opens, err)
		}
	}
}
