package pop3d

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/accounts"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/storeconf"
	"angarium/lib/ipc"
	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/pop3d"
	"angarium/lib/service"
	"angarium/lib/store"
)

// house is a store, a user and a server on them, set up from an imapd.conf.
type house struct {
	store *store.Store
	conf  pop3d.Config
	srv   *pop3d.Server
}

func build(t testing.TB, settings string) *house {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf("configdirectory: %s/lib\npartition-default: %s/spool\ndefaultpartition: default\nservername: here.test\nsasl_sasldb_path: %s/users\nfailedloginpause: 0s\n%s", dir, dir, dir, settings)
	for _, d := range []string{"lib/proc", "spool"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c, err := imapdconf.Parse(strings.NewReader(text), "imapd.conf")
	if err != nil {
		t.Fatal(err)
	}
	path, opt := storeconf.Accounts(c)
	users, err := accounts.Open(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := users.Set(ctx, "bob", "", "secret"); err != nil {
		t.Fatal(err)
	}
	sc, err := storeconf.Store(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(ctx, sc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close(); users.Close() })
	ns := storeconf.Namespace(c, "")
	if _, err := st.Create(ctx, store.Entry{Name: ns.Inbox("bob")}); err != nil {
		t.Fatal(err)
	}
	s := &service.Service{Line: ipc.Line{Name: "pop3"}, Imapd: c.Service("pop3")}
	conf, err := configure(s, users)
	if err != nil {
		t.Fatal(err)
	}
	conf.HostName = nil // no resolver in tests
	drops := &opener{store: st, inbox: ns.Inbox, seen: c.Bool("popuseimapflags"), create: c.Int("autocreate_quota") >= 0}
	return &house{st, conf, pop3d.New(conf, users, drops, nil)}
}

func (h *house) put(t testing.TB, user, text string) {
	t.Helper()
	ctx := context.Background()
	mb, err := h.store.Open(ctx, mailbox.Inbox(user), store.User{ID: user})
	if err != nil {
		t.Fatal(err)
	}
	defer mb.Close()
	d, err := h.store.Stage(ctx, store.Source{Reader: strings.NewReader(text), Near: mb.Name()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mb.Append(ctx, d); err != nil {
		t.Fatal(err)
	}
}

type conn struct {
	net.Conn
	*bufio.Reader
}

func (h *house) dial(t testing.TB) *conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if nc, err := ln.Accept(); err == nil {
			h.srv.Serve(context.Background(), nc, maillog.New(nil, "cyrus/pop3"))
		}
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); <-done })
	c := &conn{nc, bufio.NewReaderSize(nc, 64<<10)}
	c.ReadString('\n')
	return c
}

func (c *conn) say(line string) string {
	fmt.Fprintf(c.Conn, "%s\r\n", line)
	got, _ := c.ReadString('\n')
	return strings.TrimSuffix(got, "\r\n")
}

func (c *conn) login(t testing.TB, user string) {
	t.Helper()
	c.say("USER " + user)
	if got := c.say("PASS secret"); !strings.HasPrefix(got, "+OK Mailbox locked") {
		t.Fatal(got)
	}
}

// retr is the message as a client has it after RETR.
func (c *conn) retr(n int) string {
	c.say(fmt.Sprintf("RETR %d", n))
	var b strings.Builder
	for {
		line, err := c.ReadString('\n')
		if err != nil || line == ".\r\n" {
			return b.String()
		}
		b.WriteString(strings.TrimPrefix(line, "."))
	}
}

// What was put in comes back octet for octet, mail that arrives meanwhile waits for the
// next session, and DELE counts at QUIT.
func TestMail(t *testing.T) {
	h := build(t, "allowplaintext: yes\npopuseimapflags: yes\n")
	long := "Subject: long\r\n\r\n" + strings.Repeat(".x\r\n"+strings.Repeat("y", 2000)+"\r\n..\r\n", 200)
	letters := []string{"Subject: a\r\n\r\n.\r\n..b\r\n\xff\xfe\r\n", long, "Subject: c\r\n\r\n"}
	for _, l := range letters {
		h.put(t, "bob", l)
	}
	a := h.dial(t)
	a.login(t, "Bob@here.test")
	for i, l := range letters {
		if got := a.retr(i + 1); got != l {
			t.Errorf("letter %d: %d octets, want %d", i+1, len(got), len(l))
		}
	}
	h.put(t, "bob", "Subject: d\r\n\r\n")
	if got := a.say("STAT"); !strings.HasPrefix(got, "+OK 3 ") {
		t.Error(got)
	}
	b := h.dial(t)
	b.say("USER bob")
	if got := b.say("PASS secret"); !strings.HasPrefix(got, "-ERR [IN-USE]") {
		t.Error(got)
	}
	a.say("DELE 2")
	if got := a.say("QUIT"); got != "+OK" {
		t.Error(got)
	}
	io.Copy(io.Discard, a.Reader)
	b.login(t, "bob")
	if got := b.say("UIDL 3"); !strings.HasSuffix(got, ".4") {
		t.Error(got)
	}
	if got := b.retr(2); got != letters[2] {
		t.Errorf("%q", got)
	}
	ctx := context.Background()
	mb, err := h.store.Open(ctx, mailbox.Inbox("bob"), store.User{ID: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	defer mb.Close()
	v, err := mb.View(ctx)
	if err != nil || v.Len() != 3 || v.At(0).Flags&store.FlagSeen == 0 || v.At(2).Flags&store.FlagSeen != 0 {
		t.Errorf("%v %d", err, v.Len())
	}
}

func TestSettings(t *testing.T) {
	h := build(t, "pop3_allowplaintext: yes\npopminpoll: 5\npopexpiretime: 3\nserverinfo: min\ntls_versions: tls1_2 tls1_3\nsasl_minimum_layer: 0\nallowapop: yes\n")
	c := h.conf
	if !c.Plaintext || c.MinPoll.Minutes() != 5 || c.Expire != 3 || c.Info != "min" || c.APOP || c.TLS != nil || c.TLSRequired {
		t.Errorf("%+v", c)
	}
	implicit := &service.Service{Line: ipc.Line{Args: []string{"-s"}}, Imapd: mustParse(t, "tls_server_cert: disabled\n")}
	if _, err := configure(implicit, new(accounts.DB)); err == nil {
		t.Error("pop3s without a certificate")
	}
}

func mustParse(t *testing.T, text string) *imapdconf.Config {
	t.Helper()
	c, err := imapdconf.Parse(strings.NewReader("configdirectory: /x\n"+text), "imapd.conf")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// With autocreate_quota a user's first login makes the INBOX; without, there is none.
func TestAutocreate(t *testing.T) {
	for quota, want := range map[string]string{"0": "+OK Mailbox locked", "-1": "-ERR [SYS/TEMP] Unable to open maildrop: Mailbox does not exist"} {
		h := build(t, "allowplaintext: yes\nautocreate_quota: "+quota+"\n")
		if err := h.store.Delete(context.Background(), mailbox.Inbox("bob")); err != nil {
			t.Fatal(err)
		}
		c := h.dial(t)
		c.say("USER bob")
		if got := c.say("PASS secret"); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", quota, got)
		}
	}
}

func BenchmarkRETR(b *testing.B) {
	h := build(b, "allowplaintext: yes\n")
	const n = 100
	for range n {
		h.put(b, "bob", "Subject: x\r\n\r\n"+strings.Repeat(strings.Repeat("x", 70)+"\r\n", 55))
	}
	c := h.dial(b)
	c.login(b, "bob")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		fmt.Fprintf(c.Conn, "RETR %d\r\n", i%n+1)
		for {
			line, err := c.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if len(line) == 3 && line[0] == '.' {
				break
			}
		}
	}
}
