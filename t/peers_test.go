package t

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func init() {
	commands["peer-cyrus"] = cmdPeerCyrus
	commands["peer-dovecot"] = cmdPeerDovecot
	commands["peer-postfix"] = cmdPeerPostfix
	commands["dialogues"] = cmdDialogues
}

// dialogues: plays the dialogues of lib/imapd with the Cyrus of peer-cyrus.
func cmdDialogues(ts *testscript.TestScript, neg bool, args []string) {
	cmd := exec.Command("go", "test", "-count=1", "-run", "^TestCyrus$", "-v", "../lib/imapd")
	cmd.Env = append(os.Environ(), "ANGARIUM_CYRUS=127.0.0.1:"+ts.Getenv("CYRUS_IMAP"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestCyrus/") {
		ts.Fatalf("%v\n%s", err, out)
	}
}

// peerRun runs a program of another mail system and fails the script with what
// it said.
func peerRun(ts *testscript.TestScript, env []string, name string, args ...string) {
	cmd := exec.Command(name, args...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + ts.Getenv("WORK")}, env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		ts.Fatalf("%s: %v: %s", name, err, out)
	}
}

// endPid ends a process by its pid file when the script ends.
func endPid(ts *testscript.TestScript, file string) {
	ts.Defer(func() {
		for _, pid := range pids(file) {
			tree := descendants([]int{pid})
			syscall.Kill(pid, syscall.SIGTERM)
			for end := time.Now().Add(patience); alive(pid) && time.Now().Before(end); {
				time.Sleep(20 * time.Millisecond)
			}
			for _, p := range tree[1:] {
				syscall.Kill(p, syscall.SIGTERM)
			}
		}
	})
}

func me(ts *testscript.TestScript) string {
	u, err := user.Current()
	ts.Check(err)
	return u.Username
}

func freePort() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// peer-cyrus [imapd.conf line...]: starts a real Cyrus with the users u0, u1 and
// u2 (password secret). Sets CYRUS_IMAP and CYRUS_LMTP to its ports.
func cmdPeerCyrus(ts *testscript.TestScript, neg bool, args []string) {
	master := peer("cyrus")
	root := strings.TrimSuffix(master, "/usr/lib/cyrus/bin/master")
	dir, bin := ts.MkAbs("cyrus"), filepath.Dir(master)
	imap, lmtp := freePort(), freePort()
	owner := me(ts)
	if os.Geteuid() == 0 {
		owner = "cyrus"
	}
	for _, d := range []string{"conf/socket", "conf/proc", "conf/log", "conf/msg", "conf/db", "conf/user", "conf/quota", "conf/lock", "conf/sync", "conf/ptclient", "spool", "run", "proc", "lock", "sieve"} {
		ts.Check(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	ts.Check(os.WriteFile(dir+"/imapd.conf", fmt.Appendf(nil, `configdirectory: %[1]s/conf
defaultpartition: default
partition-default: %[1]s/spool
sievedir: %[1]s/sieve
proc_path: %[1]s/proc
mboxname_lockpath: %[1]s/lock
cyrus_user: %[2]s
admins: cyrus
allowplaintext: yes
munge8bit: no
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: %[1]s/sasldb2
sasl_mech_list: PLAIN LOGIN
servername: localhost
idlesocket: %[1]s/run/idle
lmtpsocket: %[1]s/run/lmtp
notifysocket: %[1]s/run/notify
%[3]s
`, dir, owner, strings.Join(args, "\n")), 0o644))
	ts.Check(os.WriteFile(dir+"/cyrus.conf", fmt.Appendf(nil, `START {
  recover cmd="%[1]s/ctl_cyrusdb -C %[2]s/imapd.conf -r"
}
SERVICES {
  imap cmd="%[1]s/imapd -C %[2]s/imapd.conf" listen="127.0.0.1:%[3]d" prefork=0
  lmtp cmd="%[1]s/lmtpd -C %[2]s/imapd.conf -a" listen="127.0.0.1:%[4]d" prefork=0
}
EVENTS {
}
`, bin, dir, imap, lmtp), 0o644))
	env := []string{"CYRUS_USER=" + owner, "LD_LIBRARY_PATH=" + root + "/usr/lib/x86_64-linux-gnu"}
	for _, u := range []string{"cyrus", "u0", "u1", "u2"} {
		peerRun(ts, nil, "/bin/sh", "-c", "printf secret | /usr/sbin/saslpasswd2 -p -c -f "+dir+"/sasldb2 -u localhost "+u)
	}
	if os.Geteuid() == 0 {
		peerRun(ts, nil, "chown", "-R", owner, dir)
	}
	peerRun(ts, env, master, "-C", dir+"/imapd.conf", "-M", dir+"/cyrus.conf", "-p", dir+"/master.pid", "-d")
	endPid(ts, dir+"/master.pid")
	addr := fmt.Sprint("127.0.0.1:", imap)
	waitPort(ts, addr)
	sep := "/"
	if slices.Contains(args, "unixhierarchysep: no") {
		sep = "."
	}
	conn, err := net.Dial("tcp", addr)
	ts.Check(err)
	defer conn.Close()
	ts.Check(dialogue(conn, `~ \* OK .*
> a login cyrus secret
~ a OK .*
> b create user`+sep+`u0
~ b OK .*
> c create user`+sep+`u1
~ c OK .*
> d create user`+sep+`u2
~ d OK .*
`))
	ts.Setenv("CYRUS_IMAP", strconv.Itoa(imap))
	ts.Setenv("CYRUS_LMTP", strconv.Itoa(lmtp))
}

// peer-dovecot mail_location: starts a real Dovecot for the user u0 (password
// secret) with that mail_location. Sets DOVE_LMTP to its port and DOVE_CONF to
// its configuration file, for doveadm.
func cmdPeerDovecot(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs("dovecot")
	lmtp := freePort()
	ts.Check(os.MkdirAll(dir+"/home", 0o755))
	owner, ids := me(ts), "uid="+strconv.Itoa(os.Getuid())+" gid="+strconv.Itoa(os.Getgid())
	system := fmt.Sprintf("default_login_user = %s\ndefault_internal_user = %s\ndefault_internal_group = %s\n", owner, owner, groupName(ts))
	if os.Geteuid() == 0 {
		system = ""
		ids = "uid=mail gid=mail"
		peerRun(ts, nil, "chown", "-R", "mail", dir)
	}
	location := "maildir:" + dir + "/home/Maildir"
	if len(args) > 0 {
		location = args[0]
		var st syscall.Stat_t
		if os.Geteuid() == 0 && syscall.Stat(strings.Split(location, ":")[1], &st) == nil { // as the user whose mail it is
			ids = fmt.Sprintf("uid=%d gid=%d", st.Uid, st.Gid)
			peerRun(ts, nil, "chown", "-R", strconv.Itoa(int(st.Uid)), dir)
		}
	}
	ts.Check(os.WriteFile(dir+"/passwd", []byte("u0:{PLAIN}secret::::"+dir+"/home::\n"), 0o644))
	ts.Check(os.WriteFile(dir+"/dovecot.conf", fmt.Appendf(nil, `protocols = lmtp
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
mail_location = %[4]s
first_valid_uid = 0
%[3]s
passdb {
  driver = passwd-file
  args = scheme=PLAIN username_format=%%n %[1]s/passwd
}
userdb {
  driver = static
  args = %[5]s home=%[1]s/home
}
service anvil {
  chroot =
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = %[2]d
  }
}
service stats {
  chroot =
}
protocol lmtp {
  postmaster_address = postmaster@localhost
}
`, dir, lmtp, system, location, ids), 0o644))
	peerRun(ts, nil, "/usr/sbin/dovecot", "-c", dir+"/dovecot.conf")
	endPid(ts, dir+"/run/master.pid")
	waitPort(ts, fmt.Sprint("127.0.0.1:", lmtp))
	ts.Setenv("DOVE_LMTP", strconv.Itoa(lmtp))
	ts.Setenv("DOVE_CONF", dir+"/dovecot.conf")
}

func groupName(ts *testscript.TestScript) string {
	g, err := user.LookupGroupId(strconv.Itoa(os.Getgid()))
	ts.Check(err)
	return g.Name
}

// peer-postfix [name=value...]: makes and starts a real Postfix (as root only)
// below $WORK/postfix with these settings. Sets PEER_CONF and PEER_SMTP.
func cmdPeerPostfix(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs("postfix")
	port := freePort()
	for _, d := range []string{"etc", "spool", "data", "log"} {
		ts.Check(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	peerRun(ts, nil, "chown", "postfix", dir+"/data")
	ts.Check(os.WriteFile(dir+"/etc/main.cf", fmt.Appendf(nil, `compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = %[1]s/log/mail.log
maillog_file_prefixes = %[1]s/log
myhostname = peer.test
mydestination = peer.test
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
%[2]s
`, dir, strings.Join(args, "\n")), 0o644))
	stock, err := os.ReadFile("/usr/share/postfix/master.cf.dist")
	ts.Check(err)
	var lines []string
	for _, l := range strings.Split(string(stock), "\n") {
		f := strings.Fields(l)
		if len(f) >= 8 && l[0] != '#' && l[0] != ' ' {
			if f[0] == "smtp" && f[1] == "inet" {
				f[0] = fmt.Sprint("127.0.0.1:", port)
			}
			f[4] = "n" // no chroot
			l = strings.Join(f, " ")
		}
		lines = append(lines, l)
	}
	lines = append(lines, "postlog unix-dgram n - n - 1 postlogd")
	ts.Check(os.WriteFile(dir+"/etc/master.cf", []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	if list, err := os.ReadFile("/etc/postfix/dynamicmaps.cf"); err == nil {
		ts.Check(os.WriteFile(dir+"/etc/dynamicmaps.cf", list, 0o644))
	}
	peerRun(ts, nil, "/usr/sbin/postfix", "-c", dir+"/etc", "start")
	ts.Defer(func() { exec.Command("/usr/sbin/postfix", "-c", dir+"/etc", "abort").Run() })
	waitPort(ts, fmt.Sprint("127.0.0.1:", port))
	ts.Setenv("PEER_CONF", dir+"/etc")
	ts.Setenv("PEER_SMTP", strconv.Itoa(port))
}
