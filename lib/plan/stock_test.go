package plan

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"angarium/lib/conf/cyrusconf"
)

// programs are those of this tree that have processes.
var programs = strings.Fields("smtpd qmgr local virtual pipe spawn postlogd imapd pop3d lmtpd smmapd timsieved")

// The services of old releases, as their administrators have them. Words: name,
// type, the six columns, command.
const (
	// Postfix 2.1, as on Mac OS X Server 10.4: chroot by default, fifos, no anvil or
	// scache line, an amavis pair.
	master21 = `
smtp      inet  n       -       n       -       -       smtpd
#smtps    inet  n       -       n       -       -       smtpd -o smtpd_tls_wrappermode=yes
#628      inet  n       -       n       -       -       qmqpd
pickup    fifo  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      fifo  n       -       n       300     1       qmgr
#qmgr     fifo  n       -       n       300     1       oqmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
lmtp      unix  -       -       n       -       -       lmtp
maildrop  unix  -       n       n       -       -       pipe
  flags=DRhu user=nobody argv=/usr/local/bin/maildrop -d ${recipient}
cyrus     unix  -       n       n       -       -       pipe
  user=nobody argv=/usr/bin/cyrus/bin/deliver -e -r ${sender} -m ${extension} ${user}
smtp-amavis unix -      -       y       -       2       smtp -o smtp_data_done_timeout=1200
127.0.0.1:10025 inet n  -       y       -       -       smtpd -o content_filter=
`
	// Postfix 2.4, as on 10.5: tlsmgr, scache, anvil, discard, retry, policy by spawn.
	master24 = `
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
scache    unix  -       -       n       -       1       scache
anvil     unix  -       -       n       -       1       anvil
discard   unix  -       -       n       -       -       discard
retry     unix  -       -       n       -       -       error
submission inet n       -       n       -       -       smtpd -o smtpd_enforce_tls=yes
policy    unix  -       n       n       -       0       spawn user=nobody argv=/usr/bin/perl /usr/libexec/postfix/greylist.pl
proxywrite unix -       -       n       -       1       proxymap
`
	// Postfix 2.11 and 3.x: the lines around postscreen, used, and postlogd.
	master37 = `
smtp      inet  n       -       y       -       1       postscreen
smtpd     pass  -       -       y       -       -       smtpd
dnsblog   unix  -       -       y       -       0       dnsblog
tlsproxy  unix  -       -       y       -       0       tlsproxy
submission inet n       -       y       -       -       smtpd
  -o { smtpd_recipient_restrictions = permit_sasl_authenticated, reject }
smtps     inet  n       -       y       -       -       smtpd -o smtpd_tls_wrappermode=yes
628       inet  n       -       y       -       -       qmqpd
pickup    unix  n       -       y       60      1       pickup
cleanup   unix  n       -       y       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       y       1000?   1       tlsmgr
rewrite   unix  -       -       y       -       -       trivial-rewrite
bounce    unix  -       -       y       -       0       bounce
flush     unix  n       -       y       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
relay     unix  -       -       y       -       -       smtp -o syslog_name=postfix/$service_name
showq     unix  n       -       y       -       -       showq
local     unix  -       n       n       -       -       local
postlog   unix-dgram n  -       n       -       1       postlogd
`
)

// check fails for a line that no process has and no note speaks of, or whose
// process is not one of our programs.
func check(t *testing.T, p *Plan, text string) {
	t.Helper()
	for _, proc := range p.Processes {
		if !slices.Contains(programs, proc.Program) {
			t.Errorf("nobody has a program %s for %s", proc.Program, proc.Lines[0].Name)
		}
	}
	seen := 0
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 || strings.ContainsAny(line[:1], "# \t") {
			continue
		}
		seen++
		served := slices.ContainsFunc(p.Processes, func(proc *Process) bool {
			for i := range proc.Lines {
				if proc.Lines[i].Name == f[0] && proc.Lines[i].Type == f[1] {
					return true
				}
			}
			return false
		})
		noted := slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, `"`+f[0]+`"`) })
		if f[7] == "proxymap" { // its work is done by everyone, without its line
			served = true
		}
		if served == noted {
			t.Errorf("served %t, reported %t: %s", served, noted, line)
		}
	}
	if seen == 0 {
		t.Error("no lines were found")
	}
}

func TestStockMasterFiles(t *testing.T) {
	const loopback = "inet_interfaces = 127.0.0.1\n"
	files := map[string]string{"2.1": master21, "2.4": master21 + master24, "3.7": master37}
	for _, path := range []string{"/usr/share/postfix/master.cf.dist", "/usr/share/postfix/master.cf.debian", "/etc/postfix/master.cf.proto"} {
		if text, err := os.ReadFile(path); err == nil {
			files[path] = string(text)
			files[path+", all lines in use"] = uncomment(string(text))
		}
	}
	for name, text := range files {
		t.Run(name, func(t *testing.T) { check(t, load(t, loopback, text), text) })
	}
}

// uncomment puts the lines to use that a stock file offers, each instead of the one
// of its name and type that was in use.
func uncomment(text string) string {
	offered := map[string]bool{}
	service := func(line string) (key string, ok bool) {
		f := strings.Fields(line)
		if len(f) < 8 || line[0] == ' ' || !slices.Contains([]string{"inet", "unix", "pass", "fifo", "unix-dgram"}, f[1]) {
			return "", false
		}
		return f[0] + " " + f[1], true
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		rest, was := strings.CutPrefix(line, "#")
		if key, ok := service(rest); was && ok && !offered[key] {
			offered[key] = true
			b.WriteString(rest)
		}
	}
	for line := range strings.Lines(text) {
		if key, ok := service(line); !ok || !offered[key] {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestUncommentedPostscreen(t *testing.T) {
	p := load(t, "inet_interfaces = 127.0.0.1\n", master37)
	smtpd := p.Only("smtpd")
	listens := 0
	for _, proc := range smtpd {
		for _, l := range proc.Lines {
			if l.Command == "postscreen" && len(l.Sockets) > 0 {
				listens++
			}
		}
	}
	if listens != 1 {
		t.Errorf("%d processes listen for postscreen: %v", listens, outline(p))
	}
	if len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "qmqpd") {
		t.Errorf("notes: %q", p.Notes)
	}
}

// What cyrus.conf says in the sample files of the releases.
const (
	cyrus22 = `START {
  recover       cmd="ctl_cyrusdb -r"
  idled         cmd="idled"
}
SERVICES {
  imap          cmd="imapd" listen="127.0.0.1:imap" prefork=5
  imaps         cmd="imapd -s" listen="127.0.0.1:imaps" prefork=1
  pop3          cmd="pop3d" listen="127.0.0.1:pop3" prefork=3
  pop3s         cmd="pop3d -s" listen="127.0.0.1:pop3s" prefork=1
  sieve         cmd="timsieved" listen="127.0.0.1:2000" prefork=0
  lmtp          cmd="lmtpd" listen="127.0.0.1:2003" prefork=0
  lmtpunix      cmd="lmtpd" listen="/var/imap/socket/lmtp" prefork=1
  notify        cmd="notifyd" listen="/var/imap/socket/notify" proto="udp" prefork=1
}
EVENTS {
  checkpoint    cmd="ctl_cyrusdb -c" period=30
  delprune      cmd="ctl_deliver -E 3" at=0400
  tlsprune      cmd="tls_prune" at=0400
}
`
	cyrus3 = `START {
  recover       cmd="/usr/sbin/cyrus ctl_cyrusdb -r"
  delprune      cmd="/usr/sbin/cyrus expire -E 3"
  tlsprune      cmd="/usr/sbin/cyrus tls_prune"
}
SERVICES {
  imap          cmd="imapd -U 30" listen="127.0.0.1:imap" prefork=0 maxchild=100
  pop3          cmd="pop3d -U 30" listen="127.0.0.1:pop3" prefork=0 maxchild=50
  nntp          cmd="nntpd -U 30" listen="127.0.0.1:nntp" prefork=0 maxchild=100
  http          cmd="httpd -U 30" listen="127.0.0.1:8008" prefork=0 maxchild=100
  lmtpunix      cmd="lmtpd" listen="/run/cyrus/socket/lmtp" prefork=0 maxchild=20
  sieve         cmd="timsieved" listen="127.0.0.1:sieve" prefork=0 maxchild=100
}
EVENTS {
  checkpoint    cmd="/usr/sbin/cyrus ctl_cyrusdb -c" period=30
  delprune      cmd="/usr/sbin/cyrus expire -E 3" at=0401
  deleteprune   cmd="/usr/sbin/cyrus expire -E 4 -D 28" at=0430
  expungeprune  cmd="/usr/sbin/cyrus expire -E 4 -X 28" at=0445
}
DAEMON {
  idled         cmd="idled"
}
`
)

func TestStockCyrusFiles(t *testing.T) {
	// cyrmaster reports programs that are not there; this is all of them.
	absent := []string{"notifyd", "nntpd", "httpd"}
	for name, c := range map[string]struct {
		text  string
		lines int
	}{"2.2": {cyrus22, 8}, "3": {cyrus3, 6}} {
		conf, err := cyrusconf.Parse(strings.NewReader(c.text), name)
		if err != nil {
			t.Fatal(err)
		}
		p := Cyrus(context.Background(), "/etc/imapd.conf", conf.Services, "/b")
		if len(conf.Warnings)+len(p.Notes) > 0 {
			t.Errorf("%s: %q %q", name, conf.Warnings, p.Notes)
		}
		lines := 0
		for _, proc := range p.Processes {
			lines += len(proc.Lines)
			if !slices.Contains(programs, proc.Program) && !slices.Contains(absent, proc.Program) {
				t.Errorf("%s: no program %s", name, proc.Program)
			}
		}
		if lines != c.lines {
			t.Errorf("%s: %d lines are served", name, lines)
		}
		if n := len(conf.Start) + len(conf.Events) + len(conf.Daemons); n < 5 {
			t.Errorf("%s: %d commands", name, n)
		}
	}
	for command, want := range map[string]bool{"idled": true, "/usr/lib/cyrus/bin/idled": true, "imapd": false} {
		if CyrusNeedless(command) != want {
			t.Errorf("%s needless: %t", command, !want)
		}
	}
}
