package plan

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"angarium/lib/conf/cyrusconf"
	"angarium/lib/conf/maincf"
)

func load(t *testing.T, mainCF, masterCF string) *Plan {
	t.Helper()
	dir := t.TempDir()
	mainCF = "compatibility_level = 3.6\nqueue_directory = /q\ndaemon_directory = /d\nmyhostname = h.test\ninet_protocols = ipv4\n" + mainCF
	for name, text := range map[string]string{"main.cf": mainCF, "master.cf": masterCF} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0644); err != nil {
			t.Fatal(err)
		}
	}
	conf, err := maincf.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Load(context.Background(), conf)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// outline shows a plan: program, flags, and lines with limit and sockets.
func outline(p *Plan) (out []string) {
	for _, proc := range p.Processes {
		s := proc.Program
		if proc.Root {
			s += " root"
		}
		if proc.Chroot {
			s += " chroot"
		}
		if proc.Eager {
			s += " eager"
		}
		s += ":"
		for _, l := range proc.Lines {
			s += " " + l.Name
			if l.Limit > 0 {
				s += fmt.Sprintf("=%d", l.Limit)
			}
			for _, sock := range l.Sockets {
				s += "@" + sock.Addr
			}
		}
		out = append(out, s)
	}
	return out
}

func compare(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestStandIns(t *testing.T) {
	p := load(t, "inet_interfaces = 127.0.0.1\n", `
smtp       inet  n - n - 300 smtpd
submission inet  n - n - -   smtpd -o syslog_name=postfix/submission
pickup     unix  n - n 60 1  pickup
cleanup    unix  n - n - 0   cleanup
qmgr       unix  n - n 300 1 qmgr
rewrite    unix  - - n - -   trivial-rewrite
bounce     unix  - - n - 0   bounce
proxymap   unix  - - n - -   proxymap
slow       unix  - - n - 2   smtp -o smtp_helo_timeout=5
showq      unix  n - n - -   showq
local      unix  - n n - -   local
postlog    unix-dgram n - n - 1 postlogd
`)
	compare(t, outline(p),
		"smtpd eager: smtp=300@127.0.0.1:25 submission@127.0.0.1:587 cleanup rewrite",
		"qmgr eager: qmgr@/q/public/qmgr pickup@/q/public/pickup cleanup rewrite bounce slow=2 showq@/q/public/showq",
		"local root: local@/q/private/local",
		"postlogd eager: postlog@/q/public/postlog",
	)
	if s := p.Processes[1].Lines[5]; len(s.Overrides) != 1 || s.Overrides[0] != "smtp_helo_timeout=5" {
		t.Errorf("-o of slow: %q", s.Overrides)
	}
}

func TestPostscreenTakesTheLimitBehindIt(t *testing.T) {
	p := load(t, "inet_interfaces = 127.0.0.1\n", `
smtp    inet n - y - 1  postscreen
smtpd   pass - - y - 40 smtpd
dnsblog unix - - y - 0  dnsblog
`)
	compare(t, outline(p), "smtpd chroot eager: smtpd=40@/q/private/smtpd smtp=40@127.0.0.1:25 dnsblog")
}

func TestProcessesByUserAndChroot(t *testing.T) {
	p := load(t, "default_process_limit = 7\n", `
127.0.0.1:2525 inet n - n - -  smtpd
127.0.0.1:2526 inet n - y - 0  smtpd
127.0.0.1:2527 inet n n n - 3  smtpd
cleanup        unix n - n - 0  cleanup
odd            unix - - n - -  qmqpd
`)
	compare(t, outline(p),
		"smtpd eager: 127.0.0.1:2525=7@127.0.0.1:2525 cleanup",
		"smtpd chroot eager: 127.0.0.1:2526@127.0.0.1:2526 cleanup",
		"smtpd root eager: 127.0.0.1:2527=3@127.0.0.1:2527 cleanup",
	)
	if len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "qmqpd is not supported") {
		t.Errorf("notes: %q", p.Notes)
	}
}

func TestSplitHostPort(t *testing.T) {
	for _, c := range []struct{ in, host, port string }{
		{"smtp", "", "smtp"},
		{"25", "", "25"},
		{"127.0.0.1:25", "127.0.0.1", "25"},
		{"[::1]:submission", "::1", "submission"},
		{"localhost:lmtp", "localhost", "lmtp"},
	} {
		if host, port := splitHostPort(c.in); host != c.host || port != c.port {
			t.Errorf("%s: %q %q", c.in, host, port)
		}
	}
}

func TestCyrus(t *testing.T) {
	c, err := cyrusconf.Parse(strings.NewReader(`SERVICES {
  imap   cmd="imapd -U 30" listen="127.0.0.1:1143" prefork=1 maxchild=100
  imaps  cmd="imapd -s" listen="127.0.0.1:1993" maxchild=-1
  other  cmd="imapd -C /etc/other.conf" listen="[127.0.0.1]:1144"
  lmtp   cmd="/usr/lib/cyrus/bin/lmtpd" listen="/run/lmtp"
  notify cmd="notifyd" listen="/run/notify" proto="udp"
  imap   cmd="imapd" listen="127.0.0.1:1145"
  none   cmd="imapd"
  bad    cmd="imapd" listen="127.0.0.1:nosuchport"
  odd    cmd="imapd" listen="127.0.0.1:1146" proto=x
}
`), "f")
	if err != nil {
		t.Fatal(err)
	}
	p := Cyrus(context.Background(), "/etc/imapd.conf", c.Services, "/b")
	compare(t, outline(p),
		"imapd eager: imap=100@127.0.0.1:1143 imaps@127.0.0.1:1993",
		"imapd: other@127.0.0.1:1144",
		"lmtpd: lmtp@/run/lmtp",
		"notifyd: notify@/run/notify",
	)
	compare(t, p.Notes,
		"multiple entries for service 'imap'",
		"unable to find command or port for service 'none'",
		"invalid listen '127.0.0.1:nosuchport', disabling bad",
		"invalid proto 'x', disabling odd",
	)
	if p.Processes[1].Config != "/etc/other.conf" || p.Processes[0].Path != "/b/imapd" || p.Processes[2].Path != "/usr/lib/cyrus/bin/lmtpd" {
		t.Errorf("%+v", p.Processes)
	}
	if p.Processes[3].Lines[0].Type != "unix-dgram" {
		t.Errorf("notify: %+v", p.Processes[3].Lines[0])
	}
}
