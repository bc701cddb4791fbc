package queue_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/queue"
)

func listed(t *testing.T, q *queue.Queue) map[string]queue.Entry {
	t.Helper()
	var b bytes.Buffer
	if err := q.WriteList(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	got := map[string]queue.Entry{}
	if err := queue.ReadList(&b, func(e *queue.Entry) error { got[e.ID] = *e; return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestList(t *testing.T) {
	q := open(t, queue.Options{})
	ctx := context.Background()
	arrival := time.Unix(1795372079, 0)
	e := queue.Envelope{Sender: address.Address{Local: "a b", Domain: "here.test"}, Arrival: arrival}
	id := put(t, q, e, "Subject: x\n\nhello\n", rcpt("b@there.test"), rcpt("c@there.test"), rcpt("d@there.test"))
	m, err := q.OpenMessage(queue.Incoming, id)
	if err != nil {
		t.Fatal(err)
	}
	all, _, _ := m.Recipients(0, 10)
	m.MarkDone(all[1])
	size := m.DataSize()
	m.Close()
	q.AppendLog(ctx, queue.Defer, id, queue.LogEntry{Recipient: all[2].Address, Reason: "no\troute"})
	q.Move(id, queue.Incoming, queue.Active)
	q.Defer(id, time.Now().Add(time.Hour))
	q.Expire(id, queue.Deferred)

	d, err := q.CreateRaw(queue.Maildrop, queue.ModeMaildrop)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		t queue.Type
		s string
	}{{queue.TypeTime, "1795372000 5"}, {queue.TypeFullName, ""}, {queue.TypeSender, ""}, {queue.TypeMessage, ""}, {queue.TypeNorm, "R"}, {queue.TypeExtra, ""}, {queue.TypeRcpt, "x@y"}, {queue.TypeEnd, ""}} {
		d.Record(r.t, []byte(r.s))
	}
	if err := d.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	unfinished, err := q.Create(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	defer unfinished.Abort()

	got := listed(t, q)
	want := queue.Entry{Dir: queue.Deferred, ID: id, Arrival: arrival, Size: size, Expired: true, Sender: `"a b"@here.test`,
		Recipients: []queue.Waiting{{Address: "d@there.test", Reason: "no route"}, {Address: "b@there.test"}}}
	if !reflect.DeepEqual(got[id], want) {
		t.Errorf("got  %+v\nwant %+v", got[id], want)
	}
	drop := got[d.ID()]
	if drop.Sender != "MAILER-DAEMON" || len(drop.Recipients) != 1 || drop.Recipients[0].Address != "x@y" || drop.Arrival.Unix() != 1795372000 {
		t.Errorf("maildrop: %+v", drop)
	}
	if len(got) != 2 {
		t.Errorf("%d entries", len(got))
	}
}

func TestPostsuperVerbs(t *testing.T) {
	q := open(t, queue.Options{})
	id := put(t, q, queue.Envelope{}, "x\n", rcpt("b@c"))
	where := func() queue.Dir {
		d, _ := q.Find(id, queue.Maildrop, queue.Incoming, queue.Deferred, queue.Hold)
		return d
	}
	steps := []struct {
		do   func(string, ...queue.Dir) (bool, error)
		from queue.Dir
		ok   bool
		now  queue.Dir
	}{
		{q.Hold, queue.Deferred, false, queue.Incoming},
		{q.Hold, queue.Incoming, true, queue.Hold},
		{q.Hold, queue.Hold, false, queue.Hold},
		{q.Release, queue.Hold, true, queue.Deferred},
		{q.Requeue, queue.Deferred, true, queue.Maildrop},
		{q.Delete, queue.Incoming, false, queue.Maildrop},
		{q.Delete, queue.Maildrop, true, ""},
	}
	for i, s := range steps {
		if ok, err := s.do(id, s.from); ok != s.ok || err != nil || where() != s.now {
			t.Errorf("step %d: %t %v, now in %q", i, ok, err, where())
		}
	}
}

// A copy of a spool has other inodes, and maybe other settings.
func TestFix(t *testing.T) {
	q := open(t, queue.Options{LongIDs: true, HashDepth: 2})
	var old []string
	for range 5 {
		id := put(t, q, queue.Envelope{}, "x\n", rcpt("b@c"))
		q.Move(id, queue.Incoming, queue.Active)
		q.Defer(id, time.Now())
		q.AppendLog(context.Background(), queue.Defer, id, queue.LogEntry{Recipient: address.Parse("b@c"), Reason: id})
		old = append(old, id)
	}
	stale := filepath.Join(q.Path(), "incoming", "123.456")
	os.WriteFile(stale, nil, 0o600)
	os.Chtimes(stale, time.Now(), time.Now().Add(-48*time.Hour))
	os.WriteFile(filepath.Join(q.Path(), "incoming", "notes.txt"), nil, 0o600)

	short, err := queue.Open(q.Path(), queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var warned []string
	opt := queue.FixOptions{Purge: true, Names: true, Info: func(string, ...any) {},
		Warn: func(format string, args ...any) { warned = append(warned, args[0].(string)) }}
	dirs := []queue.Dir{queue.Incoming, queue.Deferred, queue.Defer}
	if n, err := short.Fix(dirs, opt); n != len(old) || err != nil {
		t.Fatalf("%d renamed, %v", n, err)
	}
	if n, err := short.Fix(dirs, opt); n != 0 || err != nil {
		t.Errorf("not at rest: %d renamed, %v", n, err)
	}
	reasons := map[string]bool{}
	for id, err := range short.Scan(queue.Deferred) {
		info, serr := short.Stat(queue.Deferred, id)
		if inode, ok := queue.Inode(id); err != nil || serr != nil || !ok || inode != info.Inode || queue.IsLong(id) {
			t.Errorf("%s: %v %v", id, err, serr)
		}
		for e := range short.ReadLog(queue.Defer, id) {
			reasons[e.Reason] = true
		}
	}
	for _, id := range old {
		if !reasons[id] {
			t.Errorf("the log of %s is lost", id)
		}
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("a dead writer's file is still there")
	}
	if len(warned) != 2 || warned[0] != "incoming/notes.txt" {
		t.Errorf("warned of %v", warned)
	}
}

// Postfix' own postcat reads what we write.
func TestPeerReadsOurs(t *testing.T) {
	postcat, err := exec.LookPath("postcat")
	if err != nil {
		if postcat = "/usr/sbin/postcat"; !exists(postcat) {
			t.Skip("no Postfix here")
		}
	}
	q := open(t, queue.Options{})
	content := "Subject: grüße\n\n" + strings.Repeat("x", 5000) + "\nlast\n"
	id := put(t, q, letterEnvelope, content, rcpt("b@there.test"))
	conf := t.TempDir()
	os.WriteFile(filepath.Join(conf, "main.cf"), []byte("compatibility_level = 3.6\nqueue_directory = "+q.Path()+"\nmyhostname = here.test\n"), 0o644)
	file := filepath.Join(q.Path(), q.Name(queue.Incoming, id))
	out, err := exec.Command(postcat, "-c", conf, "-bh", file).Output()
	if err != nil || string(out) != content {
		t.Errorf("%v: %d octets, want %d", err, len(out), len(content))
	}
	out, err = exec.Command(postcat, "-c", conf, "-e", file).Output()
	for _, want := range []string{"sender: alice@here.test\n", "recipient: b@there.test\n", "named_attribute: log_ident=" + id + "\n", "verp_delimiters: +=\n", "*** MESSAGE FILE END "} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%v: no %q in\n%s", err, want, out)
		}
	}
}

func exists(name string) bool { _, err := os.Stat(name); return err == nil }

func FuzzReadList(f *testing.F) {
	f.Add([]byte("protocol\x00mail_queue_list_protocol\x00\x00queue_name\x00hold\x00queue_id\x00A\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		queue.ReadList(bytes.NewReader(b), func(*queue.Entry) error { return nil })
	})
}
