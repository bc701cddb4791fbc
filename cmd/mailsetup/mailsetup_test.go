package mailsetup

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/cli"
)

var update = flag.Bool("update", false, "write etc/samples anew")

// The samples in etc/ are what --system writes.
func TestSamplesAreTrue(t *testing.T) {
	s, err := newSetup(&options{system: true, base: -1, domain: "example.com", hostname: "mail.example.com", profile: "default",
		users: []account{{"joe", "x"}}, admins: []account{{"cyrus", "x"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"main.cf", "master.cf", "aliases", "smtpd.conf", "imapd.conf", "cyrus.conf"} {
		got, err := s.render(name)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("../../etc/samples", name)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what mailsetup writes: run go test ./cmd/mailsetup -update", file)
		}
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct{ args, stdin, err string }{
		{"", "", "say either --dir DIR or --system"},
		{"--dir d --system", "", "say either --dir DIR or --system"},
		{"--dir d extra", "", "unexpected argument: extra"},
		{"--dir d --user joe", "", "need name:password"},
		{"--dir d --user joe:", "", "need name:password"},
		{"--dir d --user ../x:y", "", "not a user name"},
		{"--dir d --user -", "joe:x\nbad\n", "need name:password"},
		{"--dir d --profile tiger", "", "no such profile: tiger"},
		{"--dir d --port-base 70000", "", "--port-base must be between"},
		{"--dir d --nosuch", "", "not defined"},
		{"--dir d --user - --admin c:p:q", "joe:x:y\n# comment\n\nann:z\n", ""},
	} {
		var errs bytes.Buffer
		o, err := parse(&cli.Cmd{Name: "mailsetup", Args: strings.Fields(c.args), Stdin: strings.NewReader(c.stdin), Stdout: &errs, Stderr: &errs})
		if c.err == "" {
			if err != nil || len(o.users) != 2 || o.users[0].Password != "x:y" || o.admins[0].Password != "p:q" {
				t.Errorf("%q: %+v, %v", c.args, o, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %v, want %q", c.args, err, c.err)
		}
	}
}

func TestAFolderThatMainCfCannotName(t *testing.T) {
	if _, err := newSetup(&options{dir: "/tmp/two words", base: -1}); err == nil {
		t.Error("a folder with a blank was taken")
	}
}

func TestWhatIsThereStays(t *testing.T) {
	dir := t.TempDir()
	o := &options{dir: dir, base: -1, profile: "default"}
	s, err := newSetup(o)
	if err != nil {
		t.Fatal(err)
	}
	if fresh, err := s.claim(o); !fresh || err != nil {
		t.Fatal(fresh, err)
	}
	if err := s.writeConfiguration(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.claim(o); err == nil || !strings.Contains(err.Error(), "there is a set-up already") {
		t.Fatal(err)
	}
	key, _ := os.ReadFile(s.SSL + "/key.pem")
	o.force = true
	if fresh, err := s.claim(o); fresh || err != nil {
		t.Fatal(fresh, err)
	}
	if err := s.writeConfiguration(); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(s.SSL + "/key.pem"); !bytes.Equal(key, again) || len(key) == 0 {
		t.Error("--force made another key")
	}
	if info, err := os.Stat(s.SSL + "/key.pem"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key can be read by others: %v", info.Mode())
	}
}
