package mailsetup

import (
	"bytes"
	"crypto/tls"
	"flag"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/cli"
	"angarium/lib/sysuser"
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
		s.Bin, s.Daemons = "/usr/sbin", ""
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
		{"--system --run", "", "--run goes with --dir"},
		{"--dir d --keep --force", "", "say either --keep or --force"},
		{"--dir d extra", "", "unexpected argument: extra"},
		{"--dir d --user joe", "", "need name:password"},
		{"--dir d --user joe:", "", "need name:password"},
		{"--dir d --user ../x:y", "", "not a user name"},
		{"--dir d --user a..b:y", "", "not a user name"},
		{"--dir d --user a.:y", "", "not a user name"},
		{"--dir d --user joe@here.test:y", "", "not a user name"},
		{"--dir d --user " + strings.Repeat("x", 65) + ":y", "", "not a user name"},
		{"--dir d --user joe:x --user Joe:y", "", "two passwords for joe"},
		{"--dir d --user joe:x --admin joe:y", "", "two passwords for joe"},
		{"--dir d --user -", "joe:x\nbad\n", "need name:password"},
		{"--dir d --user -", "joe:x\x00y\n", "control character"},
		{"--dir d --user -", "# none\n", "nobody is named on standard input"},
		{"--dir d --user - --admin -", "joe:x\n", "read once only"},
		{"--dir d --profile tiger", "", "no such profile: tiger"},
		{"--dir d --port-base 70000", "", "--port-base must be between"},
		{"--dir d --domain bad_name", "", "not a host name"},
		{"--dir d --domain here.test.", "", "not a host name"},
		{"--dir d --domain m\u00fcnchen.test", "", "not a host name"},
		{"--dir d --domain 127.0.0.1", "", "not a host name"},
		{"--dir d --hostname a,b", "", "not a host name"},
		{"--dir d --nosuch", "", "not defined"},
		{"--dir d --user - --admin c:p:q", "Joe:x:y\r\n# comment\n\nann:z\n", ""},
	} {
		var errs bytes.Buffer
		o, err := parse(&cli.Cmd{Name: "mailsetup", Args: strings.Fields(c.args), Stdin: strings.NewReader(c.stdin), Stdout: &errs, Stderr: &errs})
		if c.err == "" {
			if err != nil || len(o.users) != 2 || o.users[0] != (account{"joe", "x:y"}) || o.admins[0].Password != "p:q" {
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

// The system's server is named by its host, and whole names have a dot.
func TestSystemNames(t *testing.T) {
	for _, c := range []struct{ hostname, domain, wantHost, wantDomain string }{
		{"mail.here.test", "", "mail.here.test", "here.test"},
		{"box", "here.test", "box.here.test", "here.test"},
		{"box", "", "box.localdomain", "localdomain"},
		{"mail.here.test", "there.test", "mail.here.test", "there.test"},
	} {
		s, err := newSetup(&options{system: true, base: -1, hostname: c.hostname, domain: c.domain, profile: "default"})
		if err != nil || s.Hostname != c.wantHost || s.Domain != c.wantDomain {
			t.Errorf("%+v: %s, %s, %v", c, s.Hostname, s.Domain, err)
		}
	}
}

// private is a set-up in a folder of its own, claimed.
func private(t *testing.T, o options) *setup {
	t.Helper()
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	o.base, o.profile = -1, "default"
	s, err := newSetup(&o)
	if err == nil {
		err = s.claim(&o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t *testing.T, s *setup, anew bool) {
	t.Helper()
	if err := s.writeConfiguration(anew); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsThereStays(t *testing.T) {
	s := private(t, options{})
	write(t, s, false)
	if err := s.claim(&options{}); err == nil || !strings.Contains(err.Error(), "there is a set-up already") {
		t.Fatal(err)
	}
	key, _ := os.ReadFile(s.SSL + "/key.pem")
	if err := os.WriteFile(s.CyrusConf, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(s.Aliases, []byte("mine"), 0o644)
	write(t, private(t, options{dir: s.Dir, keep: true}), false)
	if text, _ := os.ReadFile(s.CyrusConf); string(text) != "mine" {
		t.Error("--keep wrote a file that was there")
	}
	write(t, private(t, options{dir: s.Dir, force: true}), true)
	if text, _ := os.ReadFile(s.CyrusConf); string(text) == "mine" {
		t.Error("--force did not write cyrus.conf")
	}
	if text, _ := os.ReadFile(s.Aliases); string(text) != "mine" {
		t.Error("--force lost the aliases")
	}
	if again, _ := os.ReadFile(s.SSL + "/key.pem"); !bytes.Equal(key, again) || len(key) == 0 {
		t.Error("--force made another key")
	}
	if info, err := os.Stat(s.SSL + "/key.pem"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key can be read by others: %v", info.Mode())
	}
}

// Ctrl-C between any two files: the next run completes what is missing.
func TestHalfMadeIsCompleted(t *testing.T) {
	whole := private(t, options{})
	write(t, whole, false)
	for _, f := range append(whole.configuration(), file{"aliases", whole.Aliases}, file{"key", whole.SSL + "/key.pem"}, file{"cert", whole.SSL + "/cert.pem"}) {
		if err := os.Remove(f.to); err != nil {
			t.Fatal(err)
		}
		s := private(t, options{dir: whole.Dir, keep: true})
		if s.done || len(s.Users) != 2 || len(s.Admins) != 1 {
			t.Errorf("without %s and README: taken for a whole server", f.name)
		}
		if f.name == "key" { // it is written before the certificate
			os.Remove(whole.SSL + "/cert.pem")
		}
		write(t, s, false)
		if _, err := os.Stat(f.to); err != nil {
			t.Errorf("%s is still missing", f.to)
		}
	}
	if _, err := tls.LoadX509KeyPair(whole.SSL+"/cert.pem", whole.SSL+"/key.pem"); err != nil {
		t.Error(err)
	}
	os.WriteFile(whole.Readme, nil, 0o600)
	if s := private(t, options{dir: whole.Dir, keep: true}); !s.done || len(s.Users) != 0 {
		t.Error("a whole server gets users again, and their old passwords")
	}
}

// What the README says can be pasted, whatever the password.
func TestShellWord(t *testing.T) {
	for _, word := range []string{"plain", "", "it's", `a "b" $c \`, "*", "~x", "\u00fc #", "a;b|c&d"} {
		out, err := exec.Command("sh", "-c", "printf %s "+shellWord(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q came back as %q: %v", word, out, err)
		}
	}
	s := private(t, options{users: []account{{"joe", "it's $HOME"}}})
	text, err := s.render("README")
	if err != nil || !strings.Contains(string(text), `-u 'joe:it'\''s $HOME'`) {
		t.Errorf("%v: %s", err, text)
	}
	s.Users = nil // --force without users
	if text, err = s.render("README"); err != nil || !strings.Contains(string(text), "-u NAME:PASSWORD") {
		t.Errorf("%v: %s", err, text)
	}
}

// The README goes on telling the truth when users are added or get new passwords,
// and what somebody wrote into it stays.
func TestReadmeStaysTrue(t *testing.T) {
	ann := account{"ann", "a (password x)"} // looks like the beginning of a password
	s := private(t, options{users: []account{ann, {"bob", "old"}}})
	s.Admins = nil
	write(t, s, false)
	text, err := s.render("README")
	if err == nil {
		err = os.WriteFile(s.Readme, append(text, "a note\n"...), 0o600)
	}
	for _, add := range [][]account{{{"bob", "it's new"}, {"annie", "n"}}, {{"annie", "m"}, ann}} {
		s.Users = add
		if err == nil {
			err = s.updateReadme()
		}
	}
	s.Users, s.Admins = nil, []account{{"cyrus", "c"}}
	if err == nil {
		err = s.updateReadme()
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(s.Readme)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(string(text), "bob (password old)", "bob (password it's new)  annie (password m)", 1)
	want = strings.ReplaceAll(want, "bob:old", `'bob:it'\''s new'`) + "a note\n"
	want = strings.Replace(want, "  smtp      ", "  admins    cyrus (password c)  \n  smtp      ", 1)
	if string(got) != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// An alias never takes the mail of a user with that name.
func TestAliasesAndUsers(t *testing.T) {
	s := private(t, options{users: []account{{"root", "x"}, {"spam", "y"}}})
	text, err := s.render("aliases")
	if err != nil || strings.Contains(string(text), "\nroot:") || strings.Contains(string(text), "\nspam:") ||
		!strings.Contains(string(text), "\npostmaster:    root\n") {
		t.Errorf("%v: %s", err, text)
	}
}

// Until somebody says whose mail this is, none goes out.
func TestStaysAtHome(t *testing.T) {
	for _, c := range []struct {
		o    options
		home bool
	}{
		{options{profile: "default"}, true},
		{options{profile: "default", domain: "here.test"}, false},
		{options{profile: "default", hostname: "mail.here.test"}, false},
		{options{profile: "apple-10.4", domain: "here.test"}, true},
	} {
		c.o.dir, c.o.base = t.TempDir(), -1
		s, err := newSetup(&c.o)
		if err != nil {
			t.Fatal(err)
		}
		text, err := s.render("main.cf")
		if home := strings.Contains(string(text), "\ndefault_transport = error:"); err != nil || home != c.home {
			t.Errorf("%+v: stays at home: %v, %v", c.o, home, err)
		}
	}
}

func TestBusyPortsAreFoundBeforeTheStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addrs := []string{l.Addr().String()}
	if err := free(addrs); err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Error(err)
	}
	if there, err := listening(addrs[0]); err != nil || !there {
		t.Error("not seen:", err)
	}
	l.Close()
	if there, err := listening(addrs[0]); err != nil || there {
		t.Error("still seen:", err)
	}
	if err := free(addrs); err != nil {
		t.Error(err)
	}
}

// Daemons may become a user who can reach the folder and the programs, and no other.
func TestClosedTo(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := top + "/a/b"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != filepath.Dir(os.TempDir()) && len(d) > 1; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err == nil && info.Mode()&1 == 0 {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Skip(err)
			}
		}
	}
	stranger := &sysuser.User{Name: "stranger", UID: 64999, GID: 64999}
	owner := &sysuser.User{Name: "owner", UID: os.Getuid(), GID: 64999}
	group := &sysuser.User{Name: "group", UID: 64999, GID: os.Getgid()}
	for _, c := range []struct {
		u    *sysuser.User
		mode os.FileMode
		want string
	}{
		{stranger, 0o755, ""}, {stranger, 0o710, top + "/a"}, {group, 0o710, ""}, {group, 0o701, top + "/a"},
		{owner, 0o700, ""}, {owner, 0o677, top + "/a"},
	} {
		if os.Getuid() != 0 && c.mode&0o100 == 0 {
			continue // we could not look either
		}
		if err := os.Chmod(top+"/a", c.mode); err != nil {
			t.Fatal(err)
		}
		if got, err := closedTo(c.u, dir+"/not/there/yet"); got != c.want || err != nil {
			t.Errorf("%s, %v: %q, %v, want %q", c.u.Name, c.mode, got, err, c.want)
		}
	}
}

// A private server of root's is another user's, unless that one can't reach it.
func TestOwners(t *testing.T) {
	dir := t.TempDir()
	s, err := newSetup(&options{dir: dir, base: -1, profile: "default"})
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		if me, err := user.Current(); err != nil || s.Owner != me.Username || s.StoreOwner != me.Username || len(s.warnings) > 0 {
			t.Errorf("%q %q %q %v", s.Owner, s.StoreOwner, s.warnings, err)
		}
		return
	}
	if err := os.Chmod(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err = newSetup(&options{dir: dir, base: -1, profile: "default"})
	if err != nil || s.Owner != "root" || s.StoreOwner != "root" || len(s.warnings) != 1 || !strings.Contains(s.warnings[0], "cannot pass "+filepath.Dir(dir)) {
		t.Errorf("behind a closed folder: %q %q %q %v", s.Owner, s.StoreOwner, s.warnings, err)
	}
}
