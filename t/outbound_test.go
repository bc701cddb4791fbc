package t

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// TestOutbound holds outgoing delivery against the real Postfix: both get the
// same main.cf, master.cf and letters, and meet the same name server and the
// same servers, which misbehave in every phase. What they say there, what they
// log, and what they write home must be the same.
//
// It runs in a network of its own, since mail has fixed ports.
func TestOutbound(t *testing.T) {
	if os.Getenv("ANGARIUM_OUTBOUND") != "" {
		outbound(t)
		return
	}
	if os.Geteuid() != 0 || peer("postfix") == "" {
		t.Skip("needs root and Debian's postfix")
	}
	args := []string{"-n", "-m", "--", os.Args[0], "-test.run=^TestOutbound$", "-test.v=" + fmt.Sprint(testing.Verbose())}
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), "ANGARIUM_OUTBOUND=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func outbound(t *testing.T) {
	bin := os.Getenv("ANGARIUM_BIN")
	if bin == "" {
		bin, _ = filepath.Abs("../bin")
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	n := &wild{t: t, heard: map[string][]string{}}
	n.network(dir)
	n.certify(dir)
	for i := range wildCases {
		n.serve(i)
	}
	got := map[string]map[string]string{}
	for _, who := range []string{"theirs", "ours"} {
		n.reset()
		got[who] = n.run(who, bin, filepath.Join(dir, who))
	}
	for i := range wildCases {
		c := &wildCases[i]
		if !chosen(c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			theirs, ours := got["theirs"][c.name], got["ours"][c.name]
			if os.Getenv("ANGARIUM_SHOW") != "" {
				t.Logf("\n%s", theirs)
			}
			switch {
			case c.differs != "":
				if !strings.Contains(ours, c.ours) {
					t.Errorf("not %q:\n%s", c.ours, ours)
				}
			case theirs != ours:
				t.Errorf("differs:\n%s", diff(dir, theirs, ours))
			}
		})
	}
}

// chosen reports whether ANGARIUM_CASE, a regular expression, asks for a case.
func chosen(name string) bool {
	ok, err := regexp.MatchString("^("+os.Getenv("ANGARIUM_CASE")+")", name)
	return ok || err != nil
}

// post submits a case's letter by SMTP, from a client of that name.
func (n *wild) post(c *wildCase) {
	conn, err := net.Dial("tcp", "127.0.0.1:2525")
	must(n.t, err)
	defer conn.Close()
	cl := textproto.NewConn(conn)
	say := func(want int, lines ...string) {
		for _, l := range lines {
			must(n.t, cl.PrintfLine("%s", l))
		}
		if _, _, err := cl.ReadResponse(want); err != nil {
			n.t.Errorf("%s: %q: %v", c.name, lines, err)
		}
	}
	say(220)
	say(250, "EHLO "+c.client)
	say(250, "MAIL FROM:<"+c.sender()+">")
	for _, r := range c.recipients() {
		say(250, "RCPT TO:<"+r+">")
	}
	say(354, "DATA")
	w := cl.DotWriter()
	_, err = w.Write([]byte(c.text()))
	must(n.t, err)
	must(n.t, w.Close())
	say(250)
	say(221, "QUIT")
}

func diff(dir, a, b string) string {
	x, y := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	_ = os.WriteFile(x, []byte(a), 0o644)
	_ = os.WriteFile(y, []byte(b), 0o644)
	out, _ := exec.Command("diff", "-U3", "--label", "Postfix", "--label", "ours", x, y).CombinedOutput()
	return string(out)
}

// wild is the network: a name server and one server for each case.
type wild struct {
	t *testing.T
	// of the certificate "good"
	fingerprint string
	keys        *strings.Replacer // names of digests in TLSA records
	mu          sync.Mutex
	certs       map[string]tls.Certificate
	heard       map[string][]string // by case and address
}

// network brings loopback up, and puts our resolv.conf in place.
func (n *wild) network(dir string) {
	t := n.t
	out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, text := range map[string]string{
		"resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n",
		"hosts":       "127.0.0.1 localhost\n127.1.0.99 inhosts.test\n",
	} {
		file := filepath.Join(dir, name)
		must(t, os.WriteFile(file, []byte(text), 0o644))
		if out, err := exec.Command("mount", "--bind", file, "/etc/"+name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:53")
	must(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:53")
	must(t, err)
	for _, s := range []*mdns.Server{{PacketConn: pc}, {Listener: ln}} {
		s.Handler = mdns.HandlerFunc(n.answer)
		go func() { _ = s.ActivateAndServe() }()
	}
}

// answer is the name server: the case's zone, where "@" is its domain, or else
// one address for it.
func (n *wild) answer(w mdns.ResponseWriter, m *mdns.Msg) {
	r := new(mdns.Msg)
	r.SetReply(m)
	r.RecursionAvailable = true
	q := m.Question[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	zone := map[string][]string{"us.test": {"A 127.0.0.1"}, "home.test": {"A 127.1.0.1"}, "": {"SECURE", "NS ns.test."}}
	for i := range wildCases {
		c := &wildCases[i]
		if domain := c.domain(); name != domain && !strings.HasSuffix(name, "."+domain) {
			continue
		}
		for _, line := range c.zone {
			who, rr, _ := strings.Cut(line, " ")
			who = strings.TrimSuffix(strings.Replace(who, "@", c.domain(), 1), ".")
			rr = n.keys.Replace(rr)
			zone[who] = append(zone[who], strings.ReplaceAll(strings.ReplaceAll(rr, "@", c.domain()+"."), "SELF", c.addr(i, 1)[:len(c.addr(i, 1))-1]))
		}
		if c.zone == nil {
			zone[c.domain()] = []string{"A " + c.addr(i, 1)}
		}
	}
	r.Rcode = n.resolve(r, zone, name, q.Qtype, 0)
	_ = w.WriteMsg(r)
}

func (n *wild) resolve(r *mdns.Msg, zone map[string][]string, name string, qtype uint16, depth int) int {
	list, ok := zone[name]
	if !ok || depth > 8 {
		return mdns.RcodeNameError
	}
	// A name is of a signed zone if it says so.
	r.AuthenticatedData = slices.Contains(list, "SECURE") && (depth == 0 || r.AuthenticatedData)
	for _, text := range list {
		if text == "SECURE" {
			continue
		}
		if text == "SERVFAIL" {
			return mdns.RcodeServerFailure
		}
		if v, ok := strings.CutPrefix(text, "SERVFAIL "); ok {
			if mdns.StringToType[v] == qtype {
				return mdns.RcodeServerFailure
			}
			continue
		}
		rr, err := mdns.NewRR(name + ". 60 IN " + text)
		if err != nil {
			n.t.Errorf("%s: %v", text, err)
			return mdns.RcodeServerFailure
		}
		if c, ok := rr.(*mdns.CNAME); ok {
			r.Answer = append(r.Answer, rr)
			return n.resolve(r, zone, strings.TrimSuffix(c.Target, "."), qtype, depth+1)
		}
		if rr.Header().Rrtype == qtype {
			r.Answer = append(r.Answer, rr)
		}
	}
	return mdns.RcodeSuccess
}

func (n *wild) reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.heard = map[string][]string{}
}

// hear notes what a client said.
func (n *wild) hear(name, line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.heard[name] = append(n.heard[name], normal(line)+"\n")
}

// run starts a mail system, posts every letter and returns, for each case, what
// was seen of it.
func (n *wild) run(who, bin, dir string) map[string]string {
	t := n.t
	conf, dirs := n.configure(who, bin, dir)
	postfix, sendmail, postqueue := "/usr/sbin/postfix", "/usr/sbin/sendmail", "/usr/sbin/postqueue"
	if who == "ours" {
		postfix, sendmail, postqueue = bin+"/postfix", bin+"/sendmail", bin+"/postqueue"
	}
	out, err := exec.Command(postfix, "-c", conf, "start").CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(dirs + "/mail.log")
		t.Fatalf("%s: %v: %s\n%s", who, err, out, log)
	}
	defer func() { _ = exec.Command(postfix, "-c", conf, "stop").Run() }()
	for i := range wildCases {
		c := &wildCases[i]
		if !chosen(c.name) {
			continue
		}
		if c.client != "" {
			n.post(c)
			continue
		}
		args := []string{"-C", conf, "-f", c.sender()}
		args = append(args, c.options...)
		args = append(append(args, "--"), c.recipients()...)
		cmd := exec.Command(sendmail, args...)
		cmd.Stdin = strings.NewReader(c.text())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %s: %v: %s", who, c.name, err, out)
		}
	}
	empty := false
	for end := time.Now().Add(90 * time.Second); !empty && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		out, _ = exec.Command(postqueue, "-c", conf, "-p").CombinedOutput()
		empty = bytes.Contains(out, []byte("queue is empty"))
	}
	if !empty {
		t.Errorf("%s: the queue is not empty: %s", who, out)
	}
	log, err := os.ReadFile(dirs + "/mail.log")
	must(t, err)
	if os.Getenv("ANGARIUM_SHOW") != "" {
		_ = os.WriteFile("/tmp/outbound-"+who+".log", log, 0o644)
	}
	return n.collect(string(log))
}

// configure writes main.cf and master.cf: a transport for each case, with its
// settings and a log name of its own.
func (n *wild) configure(who, bin, dir string) (conf, logs string) {
	t := n.t
	for _, d := range []string{"etc", "spool", "data", "log"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	if out, err := exec.Command("chown", "postfix", dir+"/data").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	commands, daemons := "/usr/sbin", "/usr/lib/postfix/sbin"
	if who == "ours" {
		commands, daemons = bin, bin
	}
	must(t, os.WriteFile(dir+"/etc/main.cf", fmt.Appendf(nil, `compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
command_directory = %[2]s
daemon_directory = %[3]s
maillog_file = %[1]s/log/mail.log
maillog_file_prefixes = %[1]s/log
myhostname = us.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = all
alias_maps =
alias_database =
local_transport = error:5.1.1 nobody is here
transport_maps = inline:{%[4]s}
maximal_queue_lifetime = 0
bounce_queue_lifetime = 0
smtp_connect_timeout = 2s
smtp_helo_timeout = 2s
smtp_mail_timeout = 2s
smtp_rcpt_timeout = 2s
smtp_data_init_timeout = 2s
smtp_data_xfer_timeout = 2s
smtp_data_done_timeout = 2s
smtp_starttls_timeout = 2s
lmtp_connect_timeout = 2s
lmtp_data_done_timeout = 2s
`, dir, commands, daemons, n.transports()), 0o644))
	var b strings.Builder
	for _, l := range strings.Split(masterLines, "\n") {
		if l != "" {
			b.WriteString(l + "\n")
		}
	}
	for i := range wildCases {
		c := &wildCases[i]
		agent := "smtp"
		if c.lmtp {
			agent = "lmtp"
		}
		fmt.Fprintf(&b, "c%s unix - - n - - %s\n -o syslog_name=%s\n", c.name, agent, c.name)
		for _, s := range c.settings {
			fmt.Fprintf(&b, " -o { %s }\n", strings.NewReplacer("DIR", filepath.Dir(dir), "FINGERPRINT", n.fingerprint).Replace(s))
		}
	}
	must(t, os.WriteFile(dir+"/etc/master.cf", []byte(b.String()), 0o644))
	if list, err := os.ReadFile("/etc/postfix/dynamicmaps.cf"); err == nil {
		must(t, os.WriteFile(dir+"/etc/dynamicmaps.cf", list, 0o644))
	}
	return dir + "/etc", dir + "/log"
}

const masterLines = `
127.0.0.1:2525 inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

func (n *wild) transports() string {
	var list []string
	for i := range wildCases {
		c := &wildCases[i]
		hop := c.hop
		hop = strings.ReplaceAll(hop, "SELF", c.addr(i, 1))
		list = append(list, fmt.Sprintf("{%s=c%s:%s}", c.domain(), c.name, hop))
	}
	return strings.Join(list, " ")
}

var (
	lineRE  = regexp.MustCompile(`^\S+ +\S+ \S+ \S+ ([^\[]+)\[\d+\]: (.*)$`)
	stamps  = regexp.MustCompile(`(Mon|Tue|Wed|Thu|Fri|Sat|Sun), +\d+ \w+ \d+ [\d:]+ [-+]\d+ \(\w+\)`)
	idRE    = regexp.MustCompile(`\b[0-9A-F]{7,15}\b`)
	portRE  = regexp.MustCompile(`PORT=\d+`)
	delayRE = regexp.MustCompile(`delay=[\d.]+, delays=[\d./]+`)
	markRE  = regexp.MustCompile(`ID\.\d+/us\.test|\d{14}\.ID@us\.test`)
)

func normal(s string) string {
	s = stamps.ReplaceAllString(s, "DATE")
	s = idRE.ReplaceAllString(s, "ID")
	s = portRE.ReplaceAllString(s, "PORT=N")
	s = delayRE.ReplaceAllString(s, "delay=D")
	s = strings.ReplaceAll(s, "X25519MLKEM768", "X25519") // older OpenSSL has none
	s = markRE.ReplaceAllString(s, "BOUNDARY")
	return s
}

// fatesLast puts the recipients' lines in order: Postfix logs those refused at
// RCPT before those of the whole message.
func fatesLast(lines []string) []string {
	slices.SortStableFunc(lines, func(a, b string) int {
		x, y := strings.Contains(a, ": to=<"), strings.Contains(b, ": to=<")
		switch {
		case x && y:
			return strings.Compare(a, b)
		case x:
			return 1
		case y:
			return -1
		}
		return 0
	})
	return lines
}

// collect sorts what was logged and heard by case.
func (n *wild) collect(log string) map[string]string {
	got := map[string]string{}
	lines := map[string][]string{}
	for _, l := range strings.Split(log, "\n") {
		m := lineRE.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		if name, _, ok := strings.Cut(m[1], "/"); ok && name != "postfix" {
			lines[name] = append(lines[name], normal(m[1]+": "+m[2]))
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range wildCases {
		c := &wildCases[i]
		var b strings.Builder
		b.WriteString("LOG\n" + strings.Join(fatesLast(lines[c.name]), "\n") + "\n")
		var who []string
		for name := range n.heard {
			if strings.HasPrefix(name, c.name+" ") {
				who = append(who, name)
			}
		}
		slices.Sort(who)
		for _, name := range who {
			// Postfix says RSET where a session might be kept, and then QUIT; we
			// say it when the next letter comes, and QUIT to everybody who listens.
			pieces := n.heard[name] // of parallel connections: in no order
			slices.Sort(pieces)
			text := strings.Join(pieces, "")
			text = strings.ReplaceAll(strings.ReplaceAll(text, "\nRSET\n", "\n"), "\nQUIT\n", "\n")
			b.WriteString("HEARD BY " + name + "\n" + strings.TrimPrefix(text, "QUIT\n"))
		}
		got[c.name] = b.String()
	}
	return got
}
