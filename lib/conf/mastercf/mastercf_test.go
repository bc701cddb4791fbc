package mastercf

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func load(text string, opt Options) ([]Service, error) {
	return Read(strings.NewReader(text), "/x/master.cf", opt)
}

func TestServices(t *testing.T) {
	services, err := load(`# service type  private unpriv  chroot  wakeup  maxproc command + args
smtp      inet  n       -       y       -       -       smtpd -v
  -o smtpd_tls_security_level=encrypt
# a comment between
  -o { smtpd_banner = $myhostname ESMTP  hello }
  -ostress=yes
pickup    fifo  n       -       n       60?     1       pickup
qmgr      unix  n       n       -       300     0       qmgr
postlog   unix-dgram n  -       n       -       1       postlogd
ps        pass  -       -       -       -       7       smtpd
maildrop  unix  -       n       n       -       -       pipe
  flags=DRXhu user=vmail argv=/usr/bin/maildrop -d ${recipient} { a  b }
`, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Service{
		{Name: "smtp", Type: "inet", Unprivileged: true, Chroot: true, MaxProc: -1, Command: "smtpd", Line: 2,
			Args: []string{"-v", "-o", "smtpd_tls_security_level=encrypt", "-o", "smtpd_banner=$myhostname ESMTP  hello", "-o", "stress=yes"}},
		{Name: "pickup", Type: "fifo", Unprivileged: true, Wakeup: time.Minute, WakeupOnlyUsed: true, MaxProc: 1, Command: "pickup", Line: 7},
		{Name: "qmgr", Type: "unix", Wakeup: 5 * time.Minute, MaxProc: 0, Command: "qmgr", Line: 8},
		{Name: "postlog", Type: "unix-dgram", Unprivileged: true, MaxProc: 1, Command: "postlogd", Line: 9},
		{Name: "ps", Type: "pass", Private: true, Unprivileged: true, MaxProc: 7, Command: "smtpd", Line: 10},
		{Name: "maildrop", Type: "unix", Private: true, MaxProc: -1, Command: "pipe", Line: 11,
			Args: []string{"flags=DRXhu", "user=vmail", "argv=/usr/bin/maildrop", "-d", "${recipient}", "a  b"}},
	}
	for i := range max(len(services), len(want)) {
		if i >= len(services) || i >= len(want) || fmt.Sprintf("%#v", services[i]) != fmt.Sprintf("%#v", want[i]) && !equal(services[i], want[i]) {
			t.Fatalf("service %d:\n%#v\nwant\n%#v", i, services[i], want[i])
		}
	}
	overrides := services[0].Overrides()
	if !slices.Equal(overrides, []string{"smtpd_tls_security_level=encrypt", "smtpd_banner=$myhostname ESMTP  hello", "stress=yes"}) {
		t.Errorf("overrides %q", overrides)
	}
	if o := services[5].Overrides(); len(o) != 0 {
		t.Errorf("arguments of pipe taken for options: %q", o)
	}
}

func equal(a, b Service) bool {
	if !slices.Equal(a.Args, b.Args) {
		return false
	}
	a.Args, b.Args = nil, nil
	return fmt.Sprintf("%#v", a) == fmt.Sprintf("%#v", b)
}

// The texts are those of Postfix 3.7's master.
func TestErrors(t *testing.T) {
	for _, k := range []struct{ text, want string }{
		{"x foo n - - - - smtpd", "line 1: bad transport type: foo"},
		{"x - n - - - - smtpd", "line 1: field \"transport type\" has no default value"},
		{"x unix z - - - - smtpd", "line 1: field \"private\": bad value: \"z\""},
		{"x unix y yes - - - smtpd", "line 1: field \"unprivileged\": bad value: \"yes\""},
		{"x unix y - N - - smtpd", "line 1: field \"chroot\": bad value: \"N\""},
		{"x unix y - - 0 -1 smtpd", "line 1: field \"max_proc\": bad value: \"-1\""},
		{"x unix y - - 0 x smtpd", "line 1: field \"max_proc\": bad value: \"x\""},
		{"x unix y - -", "line 1: missing \"wakeup_time\" field"},
		{"\n\nx unix\n#\n -\n", "line 3: missing \"unprivileged\" field"},
		{"x", "line 1: missing \"transport type\" field"},
		{"x inet y - - - 0 smtpd", "line 1: inet service cannot be private"},
		{"x inet - - - - 0 smtpd", "line 1: inet service cannot be private"},
		{"x unix - - - ? - smtpd", "line 1: field \"wakeup_time\": bad value: \"?\""},
		{"x unix - - - -5 - smtpd", "line 1: field \"wakeup_time\": bad value: \"-5\""},
		{"x unix n - - 999999999999 - smtpd", "line 1: field \"wakeup_time\": bad value: \"999999999999\""},
		{"x unix n - - 1 -", "line 1: missing \"command\" field"},
		{"x unix n - - 1 - -", "line 1: field \"command\" has no default value"},
	} {
		_, err := load(k.text+"\n", Options{})
		if want := "/x/master.cf: " + k.want; err == nil || err.Error() != want {
			t.Errorf("%q:\n     %v\nwant %s", k.text, err, want)
		}
	}
}

func TestOptions(t *testing.T) {
	var warnings []string
	text := "a unix - - - - - one\nb unix - - n - - two\na unix - - - - - three\n x\nc inet n - - - - four\nd inet n - - - - five -o {a} -o {b\n"
	services, err := load(text, Options{Chroot: true, Disable: []string{"!d/inet", "inet"}, Warn: func(s string) { warnings = append(warnings, s) }})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range services {
		got = append(got, fmt.Sprint(s.Name, s.Chroot, s.Command))
	}
	if want := []string{"a true three", "b false two", "d true five"}; !slices.Equal(strings.Split(strings.ReplaceAll(strings.Join(got, ","), " ", ""), ","), []string{"atruethree", "bfalsetwo", "dtruefive"}) {
		t.Errorf("services %q, want %q", got, want)
	}
	want := []string{
		`duplicate master.cf entry for service "a" (1) -- using the last entry`,
		`master.cf: missing '=' after attribute name: "a"`,
		`master.cf: missing '}' in "{b"`,
		`master.cf: missing '=' after attribute name: "b"`,
	}
	if !slices.Equal(warnings, want) {
		t.Errorf("warnings\n%q\nwant\n%q", warnings, want)
	}
}

func TestNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.cf")
	_, err := Load(path, Options{})
	if want := "open " + path + ": No such file or directory"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// Every file that Debian's Postfix brings must load.
func TestStockFiles(t *testing.T) {
	seen := 0
	for _, path := range []string{"/etc/postfix/master.cf.proto", "/usr/share/postfix/master.cf.dist"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		seen++
		services, err := Load(path, Options{Warn: func(s string) { t.Error(s) }})
		if err != nil || len(services) < 20 {
			t.Errorf("%s: %d services, %v", path, len(services), err)
		}
	}
	if seen == 0 {
		t.Skip("no Postfix here to take a master.cf from")
	}
}

func FuzzRead(f *testing.F) {
	f.Add("smtp inet n - y - - smtpd -v\n -o a=b -o { c = d } -oe=f -- {x y}\n")
	f.Add("a unix - - - 60? 1 pipe\n argv=x {\n#\nb fifo")
	f.Fuzz(func(t *testing.T, text string) {
		services, err := load(text, Options{Warn: func(string) {}})
		entries, err2 := readEntries(strings.NewReader(text), "master.cf", func(string) {})
		if err == nil && err2 == nil && len(services) > len(entries) {
			t.Errorf("%d services in %d entries", len(services), len(entries))
		}
		for i := range entries {
			e := &entries[i]
			e.SetOverride("biff", "yes")
			if o := e.Overrides(); !slices.Contains(o, "biff=yes") {
				t.Errorf("override lost: %q", e.Field)
			}
			e.DropOverride("biff")
		}
	})
}
