package imapd

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

func TestIdle(t *testing.T) {
	h := newHouse(t, nil)
	a, b := h.login("u1"), h.login("u1")
	a.ok("SELECT INBOX")
	if out := a.cmd("IDLE"); out[0] != "+ idling" {
		t.Fatal(out)
	}
	start := time.Now() // without a notice, the poll of all 15 s would find it
	b.ok("APPEND INBOX " + literal("Subject: new~~x~"))
	for _, want := range []string{"* 1 EXISTS", "* 1 RECENT"} {
		if got := a.line(); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("told after %v", took)
	}
	b.ok("SELECT INBOX")
	b.ok(`STORE 1 +FLAGS (\Deleted)`)
	if got := a.line(); got != `* 1 FETCH (FLAGS (\Recent \Deleted))` {
		t.Error(got)
	}
	b.ok("EXPUNGE")
	if got := a.line(); got != "* 1 EXPUNGE" {
		t.Error(got)
	}
	a.send("DONE\r\n")
	if got := a.line(); got != "t3 OK Completed" {
		t.Error(got)
	}
	a.cmd("IDLE")
	a.send("nonsense\r\n")
	if got := a.line(); got != "t4 BAD Invalid Idle continuation" {
		t.Error(got)
	}
}

// TestPipeline: commands that arrive together are done in order.
func TestPipeline(t *testing.T) {
	h := newHouse(t, nil)
	k := h.login("u1")
	k.send("a CREATE INBOX.p\r\nb SELECT INBOX.p\r\nc APPEND INBOX.p " + literal("A: b~~x~") + "\r\nd FETCH 1 UID\r\ne LOGOUT\r\n")
	var order string
	for {
		l := k.line()
		if l == "" {
			break
		}
		if l[0] != '*' {
			order += l[:4] + " "
		}
	}
	if order != "a OK b OK c OK d OK e OK " {
		t.Error(order)
	}
}

func TestLogins(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.MaxLoginsPerUser = 2; c.TLS = testTLS(t); c.Offer.Cleartext = false })
	k := h.dial()
	if got := k.cmd("LOGIN u1 secret"); got[0] != "x NO Login only available under a layer" {
		t.Error(got)
	}
	if got := k.cmd("CAPABILITY"); !strings.Contains(got[0], "STARTTLS LOGINDISABLED SASL-IR") || strings.Contains(got[0], "AUTH=PLAIN") {
		t.Error(got)
	}
	h.starttls(k)
	k.ok("AUTHENTICATE PLAIN AHUxAHNlY3JldA==")
	if got := h.logged("login: "); got != "cyrus/imap: login: localhost [127.0.0.1] u1 PLAIN+TLS User logged in SESSIONID=<" {
		t.Errorf("%q", got)
	}
	k = h.dial()
	h.starttls(k)
	if got := k.cmd("LOGIN u1 wrong"); got[0] != "x NO Login failed: authentication failure" {
		t.Error(got)
	}
	if got := h.logged("badlogin: localhost"); got != "cyrus/imap: badlogin: localhost [127.0.0.1] plaintext (u1) [SASL(-13): authentication failure: checkpass failed]" {
		t.Errorf("%q", got)
	}
	if got := k.cmd("LOGIN broken x"); got[0] != "x NO [UNAVAILABLE] Login failed: generic failure" {
		t.Error(got)
	}
	k.ok("LOGIN u1 secret")
	k = h.dial()
	h.starttls(k)
	if got := k.cmd("LOGIN u1 secret"); got[0] != "x NO [LIMIT] Too many open connections" {
		t.Error(got)
	}
	k = h.dial()
	h.starttls(k)
	for range 3 {
		k.cmd("LOGIN u1 wrong")
	}
	if got := k.line(); got != "* BYE Too many failed logins" {
		t.Error(got)
	}
}

// logged waits for a line of the log and returns it up to a session id.
func (h *house) logged(part string) string {
	for {
		select {
		case l := <-h.log.lines:
			if strings.Contains(l, part) && !strings.Contains(l, "without a layer") {
				l, _, _ = strings.Cut(l, "mail.test-")
				return l
			}
		case <-time.After(30 * time.Second):
			return "nothing"
		}
	}
}

// starttls: what is sent in clear behind STARTTLS must not be a command under TLS.
func (h *house) starttls(k *talk) {
	k.t.Helper()
	k.send("s STARTTLS\r\ninjected NOOP\r\n")
	if got := k.line(); got != "s OK Begin TLS negotiation now" {
		k.t.Fatal(got)
	}
	c := tls.Client(k.conn, &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		k.t.Fatal(err)
	}
	k.conn, k.r = c, bufio.NewReader(c)
}

func testTLS(t testing.TB) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"mail.test"}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestTimeout(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Timeout = 50 * time.Millisecond })
	k := h.dial()
	if got := k.line(); got != "* BYE idle for too long" {
		t.Error(got)
	}
}

// TestHostile sends what no client should, and expects a sane end.
func TestHostile(t *testing.T) {
	h := newHouse(t, nil)
	for _, in := range []string{
		strings.Repeat("x", 300_000) + "\r\n",
		"a LOGIN " + strings.Repeat("x", 300_000) + " y\r\n",
		"a LOGIN {999999999}\r\n",
		"a SEARCH " + strings.Repeat("(", 10_000) + "\r\n",
		"\x00\x01\x02\r\n\r\n\r\n",
		"a AUTHENTICATE PLAIN\r\n" + strings.Repeat("A", 300_000) + "\r\n",
	} {
		k := h.dial()
		go k.conn.Write([]byte(in + "z LOGOUT\r\n"))
		for {
			_ = k.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			l, err := k.r.ReadString('\n')
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Errorf("%.20q: no answer", in)
			}
			if err != nil || strings.HasPrefix(l, "* BYE") {
				break
			}
		}
	}
}

// TestStrangers: before the login little is kept of what a client says, and less
// of it stands in the log.
func TestStrangers(t *testing.T) {
	h := newHouse(t, nil)
	k := h.dial()
	if got := k.cmd("LOGIN {40000+}\r\n" + strings.Repeat("x", 40000) + " y"); got[0] != "x NO [TOOBIG] Literal too large" {
		t.Error(got)
	}
	k.cmd("LOGIN " + strings.Repeat("x", 10000) + " y")
	if got := h.logged("badlogin"); len(got) > 400 {
		t.Errorf("%d octets in the log", len(got))
	}
	k.ok("LOGIN u1 secret")
	if got := k.cmd("STATUS {40000+}\r\n" + strings.Repeat("x", 40000) + " (UIDNEXT)"); got[0] != "x NO Mailbox does not exist" {
		t.Error(got)
	}
}

// TestPatternBomb: each pattern is compared with each mailbox.
func TestPatternBomb(t *testing.T) {
	h := newHouse(t, nil)
	k := h.login("u1")
	for _, p := range []string{"(" + strings.Repeat("* ", 200) + "x)", strings.Repeat("*x", 5000)} {
		if got := k.cmd("LIST \"\" " + p); got[0] != "x BAD Too many or too long mailbox patterns in List" {
			t.Errorf("%.40s: %.100s", p, got)
		}
	}
	k.ok("LIST \"\" (* % INBOX)")
}

// TestForeignClient lets go-imap's client loose on us.
func TestForeignClient(t *testing.T) {
	h := newHouse(t, nil)
	c, err := imapclient.DialInsecure(h.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	check("login", c.Login("u1", "secret").Wait())
	check("create", c.Create("INBOX.Work", nil).Wait())
	list, err := c.List("", "*", &imap.ListOptions{ReturnStatus: &imap.StatusOptions{NumMessages: true}}).Collect()
	check("list", err)
	if len(list) != 2 || list[1].Mailbox != "INBOX.Work" || *list[1].Status.NumMessages != 0 {
		t.Errorf("%+v", list)
	}
	msg := "From: Bob <bob@here.test>\r\nSubject: hello\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\nplain\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>html\r\n--b--\r\n"
	for range 3 {
		a := c.Append("INBOX.Work", int64(len(msg)), &imap.AppendOptions{Flags: []imap.Flag{imap.FlagSeen}})
		_, err = a.Write([]byte(msg))
		check("write", err)
		check("append", a.Close())
		data, err := a.Wait()
		check("append", err)
		if data.UID == 0 {
			t.Error("no APPENDUID")
		}
	}
	sel, err := c.Select("INBOX.Work", nil).Wait()
	check("select", err)
	if sel.NumMessages != 3 || sel.UIDNext != 4 {
		t.Errorf("%+v", sel)
	}
	html := &imap.FetchItemBodySection{Part: []int{2}, Peek: true}
	got, err := c.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{Envelope: true, Flags: true, UID: true, BodyStructure: &imap.FetchItemBodyStructure{Extended: true},
		BodySection: []*imap.FetchItemBodySection{html, {Peek: true}}}).Collect()
	check("fetch", err)
	m := got[0]
	if m.Envelope.Subject != "hello" || m.Envelope.From[0].Addr() != "bob@here.test" || m.BodyStructure.MediaType() != "multipart/alternative" {
		t.Errorf("%+v", m)
	}
	if s := string(m.FindBodySection(html)); s != "<p>html" {
		t.Errorf("BODY[2] %q", s)
	}
	if s := string(m.FindBodySection(&imap.FetchItemBodySection{Peek: true})); s != msg {
		t.Errorf("BODY[] %q", s)
	}
	found, err := c.UIDSearch(&imap.SearchCriteria{Body: []string{"HTML"}}, nil).Wait()
	check("search", err)
	if fmt.Sprint(found.AllUIDs()) != "[1 2 3]" {
		t.Error(found)
	}
	check("store", c.Store(imap.UIDSetNum(2), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close())
	gone, err := c.Expunge().Collect()
	check("expunge", err)
	if fmt.Sprint(gone) != "[2]" {
		t.Error(gone)
	}
	moved, err := c.Move(imap.UIDSetNum(3), "INBOX").Wait()
	check("move", err)
	if moved.DestUIDs.String() != "1" {
		t.Errorf("%+v", moved)
	}
	ns, err := c.Namespace().Wait()
	check("namespace", err)
	if ns.Personal[0].Prefix != "INBOX." {
		t.Errorf("%+v", ns)
	}
	check("logout", c.Logout().Wait())
}
