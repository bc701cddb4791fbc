package cyr_info

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/cli"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/proclist"
)

// peer finds the real cyr_info: installed, or unpacked below $CYRUS_ROOT.
func peer(t *testing.T) (program string, env []string) {
	root := os.Getenv("CYRUS_ROOT")
	for _, r := range []string{"/", root} {
		name := filepath.Join(r, "usr/lib/cyrus/bin/cyr_info")
		if r == "" {
			continue
		}
		if _, err := os.Stat(name); err == nil {
			libs, _ := filepath.Glob(filepath.Join(r, "usr/lib/*-linux-gnu"))
			return name, append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libs, ":"))
		}
	}
	t.Skip("no Cyrus: neither /usr/lib/cyrus/bin/cyr_info nor below CYRUS_ROOT")
	return "", nil
}

func ours(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	c := &cli.Cmd{Name: "cyr_info", Path: "cyr_info", Args: args, Stdout: &out, Stderr: &errs}
	code = cli.Run(context.Background(), c, Main)
	return out.String(), errs.String(), code
}

const base = "configdirectory: /var/imap\npartition-default: /var/spool/imap\n"

// files are imapd.conf texts of all kinds, and the command to try on each; "": several.
var files = []string{
	base,
	base + "# comment\n\n   # another\n",
	base + "foo: bar\nFoo: baz\n",
	base + "foo: 1\nbar: 2\nbaz: 3\nqux: 4\nalpha: 5\nbeta: 6\ngamma: 7\ndelta: 8\nepsilon: 9\nzeta: 10\neta: 11\ntheta: 12\niota: 13\n",
	base + "  Indented: x  \nADMINS:  cyrus   root  \n",
	base + "nocolon\n",
	base + "key with space: x\n",
	base + "admins : x\n",
	base + "allowplaintext: maybe\n",
	base + "allowplaintext: YES\n",
	base + "allowplaintext: yep\nallowapop: of\nallowdeleted: 1\n",
	base + "allowplaintext:\n",
	base + "allowplaintext: yes\nallowplaintext: no\n",
	base + "timeout: 1h30m\npoptimeout: 5\nclient_timeout: 2d3h4m5s\n",
	base + "timeout: abc\n",
	base + "timeout: 5x\n",
	base + "timeout: m\n",
	base + "popexpiretime: -3\n",
	base + "maxquoted: 0x10\nmaxword: 010\nmaxliteral: -5\nquotawarn: +7\n",
	base + "maxquoted: abc\n",
	base + "maxquoted: 08\n",
	base + "maxmessagesize: 10 \n",
	base + "virtdomains: foo\n",
	base + "virtdomains: yes\n",
	base + "virtdomains: 0\ncaldav_allowscheduling: apple\n",
	base + "virtdomains: USERID\n",
	base + "delete_mode: immediate\nexpunge_mode: semidelayed\nserverinfo: min\n",
	base + "annotation_db: flat\n",
	base + "annotation_db: skiplist\n",
	base + "httpmodules: caldav  carddav\n",
	base + "httpmodules: caldav x\n",
	base + "tls_versions: tls1_2 tls1_3\n",
	base + "admins: a \\\n  b\\\nc\n",
	base + "admins: a # c\n",
	base + "autocreatequota: 5\n",
	base + "autocreatequota: 5\nautocreate_quota: 6\n",
	base + "tls_cert_file: /a\nsasl_mech_list: PLAIN\nimap_admins: x\n",
	base + "imap_admins: x\nadmins: y\n",
	base + "admins: y\nimap_admins: x\npop3_timeout: 3\n",
	base + "imap_admins: x\nzimap_admins: y\npop3_foo: x\nimap_sasl_mech_list: PLAIN\nimap_partition-x: /p\n",
	base + "metapartition-default: /m\nmetapartition-other: /m2\narchivepartition-default: /a\nxsearchpartition-default: /s\nxlist-junk: J\n",
	base + "sync_log_channels: a b\na_sync_host: h\nc_sync_host: h\n",
	base + "lmtpsocket: {configdirectory}/foo\nidlesocket: {ConfigDirectory}/socket/idle\nadmins: {configdirectory}\n",
	base + "defaultpartition: Main\npartition-Main: /z\n",
	base + "defaultpartition: a-b\n",
	base + "@include: /nonexistent/file\n",
	base + "@include: inc.conf\n",
	base + "@include: inc.conf\n@include: inc.conf\n",
	base + "@foo: inc.conf\n",
	base + "@include inc.conf\n",
	"partition-default: /y\n",
	"configdirectory: relative\n",
	"configdirectory: /\n",
	"",
	base + "servername: FooBar\nsyslog_prefix: cyrus", // no newline
}

func TestPeer(t *testing.T) {
	program, env := peer(t)
	dir := t.TempDir()
	t.Chdir(dir)
	os.WriteFile("inc.conf", []byte("postmaster: inc\nother_key: v\n"), 0o644)
	os.WriteFile("cyrus.conf", []byte("START {\n  x cmd=\"y\"\n}\nSERVICES {\n  imap cmd=\"imapd\" listen=\"imap\"\n  pop3 cmd=\"pop3d\" listen=\"pop3\"\n}\n"), 0o644)
	calls := [][]string{
		{"conf"}, {"conf-lint"}, {"-n", "imap", "conf"}, {"-n", "imap", "conf-lint"},
	}
	check := func(text string, call []string) {
		t.Helper()
		os.WriteFile("imapd.conf", []byte(text), 0o644)
		args := append([]string{"-C", "imapd.conf", "-M", "cyrus.conf"}, call...)
		cmd := exec.Command(program, args...)
		cmd.Env = env
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		var ee *exec.ExitError
		if err != nil && !errors.As(err, &ee) {
			t.Fatal(err)
		}
		stdout, stderr, code := ours(args...)
		if want := cmd.ProcessState.ExitCode(); code != want || stdout != out.String() || stderr != errs.String() {
			t.Errorf("%q %v:\n ours %d %s %s\ntheirs %d %s %s", text, call, code, difference(stdout, out.String()), stderr, want, difference(out.String(), stdout), errs.String())
		}
	}
	for _, text := range files {
		for _, call := range calls {
			check(text, call)
		}
	}
	for _, call := range [][]string{
		{"conf-all"}, {"conf-default"}, {"conf-default", "-s", "2.5.0"}, {"-s", "cyrus-imapd-3.0.1-debian", "conf-all"},
		{"-s2", "conf"}, {"-s", "x", "conf"}, {"-s", "1.300.1", "conf"}, {"proc"}, {"nonsense"}, {}, {"conf", "proc"},
	} {
		check(base+"admins: cyrus\nfoo: bar\n", call)
	}
}

// difference is what is only in a.
func difference(a, b string) string {
	have := map[string]bool{}
	for line := range strings.Lines(b) {
		have[line] = true
	}
	var only strings.Builder
	for line := range strings.Lines(a) {
		if !have[line] {
			only.WriteString(line)
		}
	}
	return only.String()
}

// Without the peer: what it printed once.
func TestConf(t *testing.T) {
	name := filepath.Join(t.TempDir(), "imapd.conf")
	os.WriteFile(name, []byte(base+"Virtdomains: yes\nautocreatequota: 5\nfoo: 1\nbar: 2\n"), 0o644)
	out, _, code := ours("-C", name, "conf")
	want := "autocreatequota: 5\nautocreate_quota: 5\nconfigdirectory: /var/imap\nvirtdomains: on\n" +
		"autocreatequota: 5\npartition-default: /var/spool/imap\nfoo: 1\nbar: 2\n"
	if out != want || code != 0 {
		t.Errorf("%d\n%s", code, out)
	}
	os.WriteFile(name, []byte(base+"timeout: abc\n"), 0o644)
	if _, errs, code := ours("-C", name, "conf"); code != 78 || errs != "fatal error: unparsable duration 'abc' for timeout in line 3\n" {
		t.Errorf("%d %s", code, errs)
	}
	out, _, _ = ours("-C", name[:len(name)-len("imapd.conf")]+"none", "conf")
	if out != "" {
		t.Error(out)
	}
}

// Every line that is not obeyed is told of, with its place.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	name, services := filepath.Join(dir, "imapd.conf"), filepath.Join(dir, "cyrus.conf")
	os.WriteFile(name, []byte(base+"admins: cyrus\nimap_timeout: 40\nimap_foo: x\nallowanonymouslogin: no\nautocreatequota: 5\n"+
		"sasl_pwcheck_method: saslauthd\nsasl_mech_list: PLAIN\nmetapartition-default: /m\nimap_auditlog: yes\n"), 0o644)
	os.WriteFile(services, []byte("SERVICES {\n  imap cmd=\"imapd\" listen=\"imap\"\n}\n"), 0o644)
	out, errs, code := ours("-C", name, "-M", services, "conf-check")
	want := "F: line 5: unknown option 'imap_foo'\nF: line 6: option 'allowanonymouslogin' is not acted on\n" +
		"F: line 7: Option 'autocreatequota' is deprecated in favor of 'autocreate_quota' since version 2.5.0.\n" +
		"F: line 8: option 'sasl_pwcheck_method' is not acted on\nF: line 10: option 'metapartition-default' is not acted on\n" +
		"F: line 11: option 'auditlog' is not acted on\n"
	if got := strings.ReplaceAll(out, name, "F"); got != want || errs != "" || code != 0 {
		t.Errorf("%d %s\n%s", code, errs, got)
	}
}

func TestProc(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "imapd.conf")
	os.WriteFile(name, []byte("configdirectory: "+dir+"\n"), 0o644)
	if out, _, code := ours("-C", name, "proc"); out != "" || code != 0 {
		t.Errorf("nobody there: %d %q", code, out)
	}
	os.Mkdir(filepath.Join(dir, "proc"), 0o755)
	pid := int64(os.Getpid())
	proclist.Put(filepath.Join(dir, "proc"), proclist.Entry{ID: pid, Service: "pop3", Host: "localhost [127.0.0.1]", User: "u0", Mailbox: "user.u0"})
	out, _, code := ours("-C", name, "proc")
	if _, rest, _ := strings.Cut(out, " "); rest != "pop3 localhost [127.0.0.1] u0 user.u0 \n" || code != 0 {
		t.Errorf("%d %q", code, out)
	}
}

// Each option has a doc, and a default that its type takes.
func TestOptions(t *testing.T) {
	for _, o := range imapdconf.Options() {
		if o.Doc == "" {
			t.Errorf("%s has no doc", o.Name)
		}
		if o.Default == "" || o.Name == "configdirectory" {
			continue
		}
		name := filepath.Join(t.TempDir(), "imapd.conf")
		os.WriteFile(name, []byte("configdirectory: /x\n"+o.Name+": "+o.Default+"\n"), 0o644)
		if _, err := imapdconf.Load(name); err != nil {
			t.Errorf("%s: %v", o.Name, err)
		}
	}
}
