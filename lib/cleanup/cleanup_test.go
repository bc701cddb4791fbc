package cleanup_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/cleanup"
	"angarium/lib/dsn"
	"angarium/lib/maillog"
	"angarium/lib/queue"
	"angarium/lib/safefile"
)

// table is a look-up table; the value "!" is one that can't be asked.
type table map[string]string

func (t table) Lookup(_ context.Context, key string) (string, bool, error) {
	v, ok := t[key]
	if v == "!" {
		return "", false, errors.New("server is down")
	}
	return v, ok, nil
}

type logged struct{ lines []string }

func (l *logged) Log(_ time.Time, _ maillog.Priority, tag string, _ int64, text string) error {
	l.lines = append(l.lines, tag+": "+text)
	return nil
}

var at = time.Date(2026, 11, 2, 18, 40, 23, 0, time.UTC)

type house struct {
	*cleanup.Cleanup
	q   *queue.Queue
	log logged
}

func open(t testing.TB, c cleanup.Config, opt queue.Options) *house {
	t.Helper()
	q, err := queue.Open(t.TempDir(), opt)
	if err != nil {
		t.Fatal(err)
	}
	c.Hostname, c.Origin = "mail.bench.test", "mail.bench.test"
	c.Now = func() time.Time { return at }
	return &house{Cleanup: cleanup.New(c, q), q: q}
}

// send passes a letter and returns its id, its content and its recipients.
func (h *house) send(t testing.TB, e cleanup.Envelope, content string, rcpts ...string) (id, got string, list []agent.Recipient, err error) {
	t.Helper()
	e.Log = maillog.New(&h.log, "postfix/smtpd")
	d, err := h.Begin(context.Background(), e)
	if err != nil {
		return "", "", nil, err
	}
	defer d.Abort()
	for _, r := range rcpts {
		if err := d.Recipient(context.Background(), agent.Recipient{Address: address.Parse(r)}); err != nil {
			return d.ID(), "", nil, err
		}
	}
	for i := 0; i < len(content); {
		n := min(7, len(content)-i)
		if _, err := io.WriteString(d, content[i:i+n]); err != nil {
			return d.ID(), "", nil, err
		}
		i += n
	}
	if err := d.Commit(context.Background()); err != nil {
		return d.ID(), "", nil, err
	}
	after, _ := queue.Open(h.q.Path(), queue.Options{}) // whose disk works
	m, err := after.OpenMessage(queue.Incoming, d.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b, err := io.ReadAll(m.Content())
	if err != nil {
		t.Fatal(err)
	}
	list, _, err = m.Recipients(0, 1000)
	return d.ID(), string(b), list, err
}

// A CR that ends no line stays where it is: a letter for our own store is kept
// octet for octet. On its way to other servers the client makes a blank of it.
func TestStrayCR(t *testing.T) {
	const text = "Subject: a\rb\n\n\r.\r\n"
	h := open(t, cleanup.Config{}, queue.Options{})
	if _, got, _, err := h.send(t, cleanup.Envelope{}, text, "bob@there.test"); err != nil || got != text {
		t.Errorf("%q, %v", got, err)
	}
}

// What Postfix 3.7 makes of letters from its own host, and of those from elsewhere.
func TestHeaders(t *testing.T) {
	const (
		mid  = "Message-Id: <20261102184023.ID@mail.bench.test>\n"
		date = "Date: Mon,  2 Nov 2026 18:40:23 +0000 (UTC)\n"
		from = "From: alice@here.test\n"
	)
	cases := []struct {
		name, in, local, remote string
		log                     string // of the local one
	}{
		{"complete", "Message-ID: <a@b>\nDate: x\nFrom: y@z\n\nbody\n", "Message-ID: <a@b>\nDate: x\nFrom: y@z\n\nbody\n", "Message-ID: <a@b>\nDate: x\nFrom: y@z\n\nbody\n", "message-id=<a@b>"},
		{"nothing", "Subject: x\n\nbody\n", "Subject: x\n" + mid + date + from + "\nbody\n", "Subject: x\n\nbody\n", "message-id=<20261102184023.ID@mail.bench.test>"},
		{"no header", "\nbody\n", mid + date + from + "\nbody\n", "\nbody\n", "message-id=<20261102184023.ID@mail.bench.test>"},
		{"headers only", "Subject: x\n", "Subject: x\n" + mid + date + from, "Subject: x\n", "message-id=<20261102184023.ID@mail.bench.test>"},
		{"no header line at all", "just text\nmore\n", mid + date + from + "\njust text\nmore\n", "\njust text\nmore\n", "message-id=<20261102184023.ID@mail.bench.test>"},
		{"broken header", "Subject: x\nnot header\nmore: yes\n\nbody\n", "Subject: x\n" + mid + date + from + "\nnot header\nmore: yes\n\nbody\n", "Subject: x\n\nnot header\nmore: yes\n\nbody\n", "message-id=<20261102184023.ID@mail.bench.test>"},
		{"dropped", "Bcc: a@b,\n c@d\nReturn-Path: <x>\nContent-Length: 3\nresent-bcc: x\nMessage-Id: <a>\nSubject: x\n\nb\n",
			"Message-Id: <a>\nSubject: x\nResent-Message-Id: <20261102184023.ID@mail.bench.test>\nResent-" + date + "Resent-From: alice@here.test\n\nb\n",
			"Message-Id: <a>\nSubject: x\n\nb\n", "message-id=<a>|resent-message-id=<20261102184023.ID@mail.bench.test>"},
		{"rewritten", "To: bob\nCc: \"A B\" <carol>, (comment) dave@d.test,\n grp: eve, f@g;\nMessage-id:  <hello@there> (x)\nDate: x\nFrom: y@z\n\nbody\n",
			"To: bob@mail.bench.test\nCc: \"A B\" <carol@mail.bench.test>, (comment) dave@d.test,\n grp: eve@mail.bench.test, f@g;\nMessage-id:  <hello@there> (x)\nDate: x\nFrom: y@z\n\nbody\n",
			"To: bob\nCc: \"A B\" <carol>, (comment) dave@d.test,\n grp: eve, f@g;\nMessage-id:  <hello@there> (x)\nDate: x\nFrom: y@z\n\nbody\n", "message-id=<hello@there> (x)"},
		{"folded message-id", "Message-Id:\n <a@b>\nDate: x\nFrom: y@z\n\n", "Message-Id:\n <a@b>\nDate: x\nFrom: y@z\n\n", "Message-Id:\n <a@b>\nDate: x\nFrom: y@z\n\n", "message-id=<a@b>"},
		{"8 bit, NUL, odd spaces", "Subject:  \xfc\x00 \t\nX-Y : z\nMessage-Id: <a>\nDate: x\nFrom: y@z\n\n\xff\x00\r\n", "Subject:  \xfc\x00 \t\nX-Y : z\nMessage-Id: <a>\nDate: x\nFrom: y@z\n\n\xff\x00\r\n", "Subject:  \xfc\x00 \t\nX-Y : z\nMessage-Id: <a>\nDate: x\nFrom: y@z\n\n\xff\x00\r\n", "message-id=<a>"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, local := range []bool{true, false} {
				h := open(t, cleanup.Config{}, queue.Options{})
				e := cleanup.Envelope{Local: local}
				e.Sender = address.Parse("alice@here.test")
				id, got, _, err := h.send(t, e, c.in, "bob@there.test")
				if err != nil {
					t.Fatal(err)
				}
				want := c.remote
				if local {
					want = strings.ReplaceAll(c.local, ".ID@", "."+id+"@")
					var lines []string
					for _, l := range h.log.lines {
						lines = append(lines, strings.TrimPrefix(l, "postfix/cleanup: "+id+": "))
					}
					if log := strings.Join(lines, "|"); log != strings.ReplaceAll(c.log, ".ID@", "."+id+"@") {
						t.Errorf("log: %s", log)
					}
				}
				if got != want {
					t.Errorf("local %t: got\n%q\nwant\n%q", local, got, want)
				}
			}
		})
	}
}

// The letter's first line does not go on with our header on top of it.
func TestTrace(t *testing.T) {
	for in, want := range map[string]string{
		"Subject: x\n\nb\n": "Subject: x\n\nb\n",
		" Subject: x\n":     "\n Subject: x\n",
		">From x y\nA: b\n": "X-Mailbox-Line: >From x y\nA: b\n",
		"From : x\n\n":      "X-Mailbox-Line: From : x\n\n",
		"":                  "",
	} {
		h := open(t, cleanup.Config{}, queue.Options{})
		d, err := h.Begin(context.Background(), cleanup.Envelope{})
		if err != nil {
			t.Fatal(err)
		}
		d.Recipient(context.Background(), agent.Recipient{Address: address.Parse("a@b")})
		const trace = "Received: from x\n\tby y\n"
		if err := d.Trace([]byte(trace)); err != nil {
			t.Fatal(err)
		}
		io.WriteString(d, in)
		if err := d.Commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		m, err := h.q.OpenMessage(queue.Incoming, d.ID())
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(m.Content()); string(b) != trace+want {
			t.Errorf("%q became %q", in, b)
		}
		m.Close()
	}
}

// What the smtp client must know about a letter's octets.
func TestEncodings(t *testing.T) {
	cases := []struct {
		name, content, sender string
		opts                  queue.SendOpts
		auto                  bool
		want                  queue.SendOpts
		encoding              string
	}{
		{"plain", "Subject: x\n\nb\xfc\n", "a@b", 0, true, 0, ""},
		{"8bit", "Content-Transfer-Encoding: 8BIT\n\n\xfc\n", "a@b", 0, false, 0, "8bit"},
		{"header", "Subject: \xc3\xbc\n\n", "a@b", 0, false, queue.UTF8Header, ""},
		{"header, detected", "Subject: \xc3\xbc\n\n", "a@b", 0, true, queue.UTF8Header | queue.UTF8Requested, ""},
		{"asked for in vain", "Subject: x\n\n", "a@b", queue.UTF8Requested, false, queue.UTF8Requested, ""},
		{"sender", "Subject: x\n\n", "\xc3\xbc@b", queue.UTF8Requested, false, queue.UTF8Requested | queue.UTF8Sender, ""},
	}
	for _, c := range cases {
		h := open(t, cleanup.Config{}, queue.Options{})
		e := cleanup.Envelope{AutoUTF8: c.auto}
		e.Sender, e.SendOpts = address.Parse(c.sender), c.opts
		id, _, _, err := h.send(t, e, c.content, "x@y")
		if err != nil {
			t.Fatal(err)
		}
		m, err := h.q.OpenMessage(queue.Incoming, id)
		if err != nil {
			t.Fatal(err)
		}
		if m.SendOpts != c.want || m.Encoding != c.encoding || m.SendOpts.SMTPUTF8() != (c.want > queue.UTF8Requested && c.want&queue.UTF8Requested != 0) {
			t.Errorf("%s: %d %q", c.name, m.SendOpts, m.Encoding)
		}
		m.Close()
	}
}

func TestLimits(t *testing.T) {
	status := func(err error) string {
		e := dsn.From(err, "")
		if e == nil {
			return ""
		}
		return fmt.Sprintf("%d %s %s", e.ReplyCode(), e.Status(), e.Text)
	}
	long := "Subject: " + strings.Repeat("x", 300_000) + "\n\nbody\n"
	cases := []struct {
		name, content, want string
		c                   cleanup.Config
		e                   cleanup.Envelope
	}{
		{"hops", strings.Repeat("Received: x\n", 50) + "\n", "554 5.4.0 Error: too many hops", cleanup.Config{}, cleanup.Envelope{}},
		{"not too many hops", strings.Repeat("Received: x\n", 49) + "\n", "", cleanup.Config{}, cleanup.Envelope{}},
		{"size", "\n" + strings.Repeat("0123456789\n", 100), "552 5.3.4 Error: message file too big", cleanup.Config{SizeLimit: 1000}, cleanup.Envelope{}},
		{"announced size", "", "552 5.3.4 Message size exceeds fixed limit", cleanup.Config{SizeLimit: 1000}, cleanup.Envelope{Size: 1001}},
		{"free space", "", "452 4.3.1 Insufficient system storage", cleanup.Config{MinFree: 1 << 62}, cleanup.Envelope{}},
		{"long header", long, "", cleanup.Config{HeaderSizeLimit: 1000}, cleanup.Envelope{}},
		{"table down", "", "451 4.3.0 Error: queue file write error", cleanup.Config{VirtualAlias: table{"bob@there.test": "!"}}, cleanup.Envelope{}},
		{"ring of aliases", "", "451 4.6.0 Alias expansion error", cleanup.Config{VirtualAlias: table{"bob@there.test": "x@y", "x@y": "bob@there.test"}}, cleanup.Envelope{}},
		{"endless alias", "", "451 4.6.0 Alias expansion error", cleanup.Config{VirtualAlias: grow{}}, cleanup.Envelope{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := open(t, c.c, queue.Options{})
			_, got, _, err := h.send(t, c.e, c.content, "bob@there.test")
			if status(err) != c.want {
				t.Errorf("%q, want %q", status(err), c.want)
			}
			if files, _ := filepath.Glob(h.q.Path() + "/incoming/*"); err != nil && len(files) > 0 {
				t.Errorf("left behind: %v", files)
			}
			if c.name == "long header" && (len(got) > 2060 || !strings.HasSuffix(got, "x\n\nbody\n")) {
				t.Errorf("%d octets, end %.20q", len(got), got[len(got)-20:])
			}
		})
	}
}

// grow is a virtual alias table in which every address is two others.
type grow struct{}

func (grow) Lookup(_ context.Context, key string) (string, bool, error) {
	return "a" + key + ", b" + key, true, nil
}

func TestAddresses(t *testing.T) {
	c := cleanup.Config{
		Canonical:    cleanup.Mapping{Table: table{"joe": "joe.doe@here.test", "@old.test": "@new.test"}},
		VirtualAlias: table{"list@there.test": "a@x.test, b@x.test,list@there.test", "b@x.test": "c@y.test", "info@there.test": "joe"},
		SenderBcc:    table{"alice@here.test": "sbcc@here.test"}, RecipientBcc: table{"@bcc.test": "rbcc@here.test"},
		AlwaysBcc: "arch", Delimiters: "+", PropagateCanonical: true, PropagateVirtual: true,
	}
	cases := []struct {
		sender string
		rcpts  []string
		want   string
	}{
		{"bob@there.test", []string{"Joe"}, "joe.doe@here.test arch@mail.bench.test"},
		{"bob@there.test", []string{"joe+x@mail.bench.test"}, "joe.doe+x@here.test arch@mail.bench.test"},
		{"bob@there.test", []string{"u@old.test"}, "u@new.test arch@mail.bench.test"},
		{"bob@there.test", []string{"list@there.test"}, "a@x.test c@y.test list@there.test arch@mail.bench.test"},
		{"bob@there.test", []string{"info+y@there.test"}, "joe+y@mail.bench.test arch@mail.bench.test"},
		{"bob@there.test", []string{"x@y", "X@Y", "x@y"}, "x@y arch@mail.bench.test"},
		{"alice@here.test", []string{"x@bcc.test"}, "sbcc@here.test x@bcc.test rbcc@here.test arch@mail.bench.test"},
	}
	for _, cs := range cases {
		h := open(t, c, queue.Options{})
		var e cleanup.Envelope
		e.Sender = address.Parse(cs.sender)
		_, _, list, err := h.send(t, e, "Subject: x\n\n", cs.rcpts...)
		var got []string
		for _, r := range list {
			got = append(got, r.Address.String())
			if bcc := strings.Contains(r.Address.Local, "bcc") || r.Address.Local == "arch"; bcc != (r.Notify == agent.NotifyNever) {
				t.Errorf("%v: notify %d", r.Address, r.Notify)
			} else if bcc != (r.ORCPT == "") {
				t.Errorf("%v: original recipient %q", r.Address, r.ORCPT)
			}
		}
		if strings.Join(got, " ") != cs.want || err != nil {
			t.Errorf("%v: %v, want %s (%v)", cs.rcpts, got, cs.want, err)
		}
	}
}

// A full disk at any step of any size of message is a 452, and leaves nothing.
func TestDiskFull(t *testing.T) {
	for step := 1; ; step++ {
		n, hit := 0, false
		fs := &safefile.FS{Hook: func(safefile.Op, string) error {
			if n++; n == step {
				hit = true
				return syscall.ENOSPC
			}
			return nil
		}}
		h := open(t, cleanup.Config{}, queue.Options{FS: fs})
		_, _, _, err := h.send(t, cleanup.Envelope{}, "Subject: x\n\n"+strings.Repeat("a line of forty octets, more or less.....\n", 2000), "b@there.test")
		if !hit || err == nil {
			if step < 6 {
				t.Fatalf("only %d steps seen", step)
			}
			return
		}
		if e := dsn.From(err, ""); e.ReplyCode() != 452 || e.Status() != "4.3.1" {
			t.Errorf("step %d: %v %v", step, e.ReplyCode(), err)
		}
		files, _ := filepath.Glob(h.q.Path() + "/*/*")
		if len(files) > 0 {
			t.Errorf("step %d: left behind: %v", step, files)
		}
	}
}

func TestParse(t *testing.T) {
	cases := map[string][]string{
		"a@b":                           {"a@b"},
		"a@b, c@d":                      {"a@b", "c@d"},
		"A B <a@b>, \"C, D\" <c@d> (x)": {"a@b", "c@d"},
		"grp: a@b, c@d;, e@f":           {"a@b", "c@d", "e@f"},
		"<@x,@y:a@b>":                   {"a@b"},
		"(only a comment)":              nil,
		"":                              nil,
		"<>":                            nil,
		"bob":                           {"bob"},
		"a b c":                         {"a", "b", "c"},
		"a @ b . c":                     {"a@b.c"},
		"a (x) @ b":                     {"a@b"},
		"\"a b\"@c":                     {"a b@c"},
		"\"a\\\"b\"@c":                  {"a\"b@c"},
		"a@[127.0.0.1]":                 {"a@[127.0.0.1]"},
		"@new.test":                     {"@new.test"},
		"|cmd":                          {"|cmd"},
		"/file/name":                    {"/file/name"},
		":include:/x":                   {":include:/x"},
		"<a@b":                          {"a@b"},
		"\"unterminated":                {"\"unterminated"},
		"undisclosed-recipients:;":      nil,
		"f(":                            {"f"},
		"a\\":                           {"a\\"},
	}
	for in, want := range cases {
		var got []string
		for _, f := range cleanup.Addresses(in) {
			got = append(got, f.Address.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzAddresses(f *testing.F) {
	f.Add("A B <a@b>, \"C, D\" <c@d> (x), grp: e;")
	f.Fuzz(func(t *testing.T, s string) {
		last := 0
		for _, a := range cleanup.Addresses(s) {
			if a.Start < last || a.End < a.Start || a.End > len(s) {
				t.Fatalf("%q: %+v", s, a)
			}
			last = a.End
		}
	})
}

func FuzzContent(f *testing.F) {
	f.Add([]byte("Subject: x\n y\nTo: <a\n\nbody"), true)
	f.Add([]byte(" x\n"), false)
	f.Fuzz(func(t *testing.T, content []byte, local bool) {
		h := open(t, cleanup.Config{HeaderSizeLimit: 100}, queue.Options{})
		_, got, _, err := h.send(t, cleanup.Envelope{Local: local}, string(content), "b@c")
		if err != nil {
			if !strings.Contains(err.Error(), "hops") {
				t.Fatal(err)
			}
			return
		}
		_, body, _ := strings.Cut("\n"+string(content), "\n\n")
		if !local && !strings.Contains(got, strings.TrimRight(body, "\n")) {
			t.Fatalf("%q became %q", content, got)
		}
	})
}

func BenchmarkLetter(b *testing.B) {
	h := open(b, cleanup.Config{SizeLimit: 10 << 20}, queue.Options{})
	var e cleanup.Envelope
	e.Sender = address.Parse("alice@here.test")
	ctx := context.Background()
	trace := []byte("Received: from x\n\tby y\n")
	body := []byte("Message-Id: <a@b>\nFrom: alice@here.test\nTo: bob@there.test\nSubject: x\n\n" + strings.Repeat("a line of forty octets, more or less.....\n", 100))
	b.ReportAllocs()
	for b.Loop() {
		d, err := h.Begin(ctx, e)
		if err != nil {
			b.Fatal(err)
		}
		d.Recipient(ctx, agent.Recipient{Address: address.Parse("bob@there.test")})
		d.Trace(trace)
		d.Write(body)
		if err := d.Commit(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
