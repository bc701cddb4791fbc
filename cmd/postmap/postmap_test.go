package postmap

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/cli"
	"angarium/lib/maps"
)

const tableText = `# comment
a  one
 continued
A  dup
b	two   
nokey
c: colon
"quoted x" val

user@Dom  X@y
`

const aliasText = `# comment
root: bob
Root: dup
list: a, b,
  c@d
"quoted User": "|/bin/cmd arg", /var/mail/x, :include:/etc/l
nocolon x
: empty
k:
x y: z
fred:	"a b"@example.com (comment), <foo@bar>
u1: a b
u2: a,,b
u5: |cmd arg
u7: Name <x@y>, "Quoted N" <q@r>
u8: a (com,ment) , b
u9: a; b
u12: grp: a, b;
a@b: x
"q\"x": y
(c) u15: x
a, b: x
u18: \u18, u18
u19: a@b,
 # comment
 c@d
u20: a.b.c@d (x) y
`

// The same calls to Debian's programs and to ours, in two copies of a folder.
var calls = []struct {
	name  string
	args  []string
	stdin string
}{
	{"postmap", []string{"cdb:t"}, ""},
	{"postmap", []string{"-q", "A", "cdb:t"}, ""},
	{"postmap", []string{"-q", "z", "cdb:t"}, ""},
	{"postmap", []string{"-q", "user@DOM", "cdb:t"}, ""},
	{"postmap", []string{"-q", "-", "cdb:t"}, "a\nb\nzz\n"},
	{"postmap", []string{"-q", "-", "cdb:t"}, "zz\n"},
	{"postmap", []string{"-q", "a", "-d", "b", "cdb:t"}, ""},
	{"postmap", []string{"-m", "-q", "a", "cdb:t"}, ""},
	{"postmap", []string{"-m", "-q", "-", "cdb:t"}, "a\n"},
	{"postmap", []string{"cdb:nosuch"}, ""},
	{"postmap", []string{"-q", "a", "cdb:nosuch"}, ""},
	{"postmap", []string{"-q", "a", "foo:nosuch"}, ""},
	{"postmap", []string{"pcre:t"}, ""},
	{"postmap", nil, ""},
	{"postmap", []string{"-Z"}, ""},
	{"postmap", []string{"-q", "c", "static:x y"}, ""},
	{"postmap", []string{"-q", "c", "static:{x y}"}, ""},
	{"postmap", []string{"-q", "c", "inline:{a=b, {c = d e}}"}, ""},
	{"postmap", []string{"-q", "a", "inline:{a}"}, ""},
	{"postmap", []string{"-q", "a", "unionmap:{static:x, inline:{a=b}}"}, ""},
	{"postmap", []string{"-q", "a", "pipemap:{inline:{a=b}, inline:{b=c}}"}, ""},
	{"postmap", []string{"-q", "z", "pipemap:{inline:{a=b}, inline:{b=c}}"}, ""},
	{"postmap", []string{"-q", "root", "unix:passwd.byname"}, ""},
	{"postmap", []string{"-q", "no-such-user", "unix:passwd.byname"}, ""},
	{"postmap", []string{"-q", "a", "fail:xx"}, ""},
	{"postmap", []string{"-q", "a", "environ:"}, ""},
	{"postmap", []string{"-q", "abc", "regexp:re"}, ""},
	{"postmap", []string{"-q", "qq", "regexp:re"}, ""},
	{"postmap", []string{"-q", "zzxy", "regexp:re"}, ""},
	{"postmap", []string{"-q", "zz", "regexp:re"}, ""},
	{"postmap", []string{"-q", "ABC", "pcre:re"}, ""},
	{"postmap", []string{"-q", "10.2.3.4", "cidr:ci"}, ""},
	{"postmap", []string{"-q", "10.1.1.1", "cidr:ci"}, ""},
	{"postmap", []string{"-q", "192.168.1.1", "cidr:ci"}, ""},
	{"postmap", []string{"-q", "::1", "cidr:ci"}, ""},
	{"postmap", []string{"-q", "foo", "cidr:ci"}, ""},
	{"postmap", []string{"-h", "-q", "-", "regexp:all"}, "Subject: x\n  y\nTo: z\n\nbody\n"},
	{"postmap", []string{"-b", "-q", "-", "regexp:all"}, "Subject: x\n  y\nTo: z\n\nbody\nmore\n"},
	{"postalias", []string{"cdb:al"}, ""},
	{"postalias", []string{"-q", "ROOT", "cdb:al"}, ""},
	{"postalias", []string{"-q", "-", "cdb:al"}, "root\nlist\nnobody\n"},
	{"postalias", []string{"-q", "quoted user", "cdb:al"}, ""},
	{"postalias", []string{"-N", "cdb:al"}, ""},
	{"postalias", []string{"-q", "root", "cdb:al"}, ""},
	{"postalias", nil, ""},
}

func folder(t *testing.T) string {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"t": tableText, "al": aliasText,
		"re":      "/a(.)c/ got $1 ${1} $(1) $$\n!/zz/ neg\nif /x/\n/xy/i in\nendif\n/bad\n",
		"all":     "/./ hit\n",
		"ci":      "10.0.0.0/8 ten\n!10.1.0.0/16 not\n::1 six\nif 192.168.0.0/16\n192.168.1.1 inner\nendif\n1.2.3.4/8 bad\nfoo x\n",
		"main.cf": "myhostname = host.test\n", "dynamicmaps.cf": "", "master.cf": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := os.ReadFile("/etc/postfix/dynamicmaps.cf"); err == nil {
		os.WriteFile(filepath.Join(dir, "dynamicmaps.cf"), list, 0o644)
		os.CopyFS(filepath.Join(dir, "dynamicmaps.cf.d"), os.DirFS("/etc/postfix/dynamicmaps.cf.d"))
	}
	return dir
}

func TestAgainstPostfix(t *testing.T) {
	if _, err := exec.LookPath("/usr/sbin/postmap"); err != nil {
		t.Skip("Debian's postmap is not installed")
	}
	theirs, ours := folder(t), folder(t)
	for _, call := range calls {
		args := append([]string{"-c", "."}, call.args...)
		cmd := exec.Command("/usr/sbin/"+call.name, args...)
		cmd.Dir, cmd.Stdin = theirs, strings.NewReader(call.stdin)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		cmd.Run()
		code := cmd.ProcessState.ExitCode()
		t.Chdir(ours)
		gotOut, gotErrs, gotCode := try(call.name, args, call.stdin)
		if gotOut != out.String() || gotErrs != errs.String() || gotCode != code {
			t.Errorf("%s %q\nPostfix: %d %q\n%s\nours: %d %q\n%s", call.name, call.args, code, out.String(), errs.String(), gotCode, gotOut, gotErrs)
		}
	}
	want, _ := os.ReadFile(filepath.Join(theirs, "t.cdb"))
	got, _ := os.ReadFile(filepath.Join(ours, "t.cdb"))
	if !bytes.Equal(want, got) {
		t.Error("t.cdb differs from Postfix' file")
	}
	if want, got := dump(t, theirs), dump(t, ours); want != got {
		t.Errorf("al.cdb:\nPostfix:\n%s\nours:\n%s", want, got)
	}
}

// dump lists the alias table of a folder, but for the time in it.
func dump(t *testing.T, dir string) string {
	var b strings.Builder
	err := maps.Each("cdb:"+filepath.Join(dir, "al"), maps.Options{}, func(k, v string) bool {
		if k != "YP_LAST_MODIFIED" {
			b.WriteString(k + ": " + v + "\n")
		}
		return true
	})
	if err != nil {
		t.Error(err)
	}
	return b.String()
}

func try(name string, args []string, stdin string) (out, errs string, code int) {
	var o, e bytes.Buffer
	c := &cli.Cmd{Name: name, Path: name, Args: args, Stdin: strings.NewReader(stdin), Stdout: &o, Stderr: &e}
	main := Main
	if name == "postalias" {
		main = AliasMain
	}
	code = cli.Run(context.Background(), c, main)
	return o.String(), e.String(), code
}

// What Postfix' cdb can't do, but old scripts do with hash: tables.
func TestHashTablesAreEdited(t *testing.T) {
	t.Chdir(folder(t))
	must := func(args []string, stdin, wantOut string, wantCode int) {
		t.Helper()
		out, errs, code := try("postmap", append([]string{"-c", "."}, args...), stdin)
		if out != wantOut || code != wantCode {
			t.Errorf("%q: %d %q %q", args, code, out, errs)
		}
	}
	must([]string{"-w", "hash:t"}, "", "", 0)
	if _, err := os.Stat("t.db"); err != nil {
		t.Error("the old name was not touched:", err)
	}
	must([]string{"-i", "hash:t"}, "N new\n", "", 0)
	must([]string{"-q", "n", "hash:t"}, "", "new\n", 0)
	must([]string{"-d", "n", "hash:t"}, "", "", 0)
	must([]string{"-d", "n", "hash:t"}, "", "", 1)
	must([]string{"-q", "n", "hash:t"}, "", "", 1)
	must([]string{"-r", "-i", "hash:t"}, "a replaced\n", "", 0)
	must([]string{"-q", "a", "hash:t"}, "", "replaced\n", 0)
	must([]string{"-s", "hash:t"}, "", "a\treplaced\nb\ttwo\nc:\tcolon\n\"quoted x\"\tval\nuser@dom\tX@y\n", 0)
	if err := os.Chmod("t", 0o600); err != nil {
		t.Fatal(err)
	}
	must([]string{"-w", "hash:t"}, "", "", 0)
	if info, err := os.Stat("t.cdb"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the table did not get its text's mode: %v, %v", info.Mode(), err)
	}
}

func FuzzAliasEntry(f *testing.F) {
	for _, line := range strings.Split(aliasText, "\n") {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		key, value, err := aliasEntry(new([]token), line)
		if err == nil && (key == "" && value == "") {
			t.Fatalf("%q became nothing", line)
		}
	})
}
