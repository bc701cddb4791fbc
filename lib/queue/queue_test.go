package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/queue"
	"angarium/lib/safefile"
)

func open(t testing.TB, opt queue.Options) *queue.Queue {
	t.Helper()
	q, err := queue.Open(t.TempDir(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

var letterEnvelope = queue.Envelope{
	Sender:   address.Parse("alice@here.test"),
	FullName: "Alice",
	EnvID:    "abc+x",
	Ret:      "HDRS",
	Encoding: "8bit",
	SendOpts: queue.UTF8Requested | queue.UTF8Header,
	Rewrite:  "remote",
	Warn:     time.Unix(1800000000, 0),
	Verp:     "+=",
	Client:   agent.Client{Name: "mx.there.test", Addr: "192.0.2.7", Port: "4711", Helo: "there", Proto: "ESMTP", SASLMethod: "PLAIN", SASLUser: "alice"},
	Reverse:  "unknown",
	Attrs:    []queue.Attr{{Name: "sasl_sender", Value: "bob"}},
}

func rcpt(s string) agent.Recipient { return agent.Recipient{Address: address.Parse(s)} }

// put commits a message and returns its id.
func put(t testing.TB, q *queue.Queue, e queue.Envelope, content string, rcpts ...agent.Recipient) string {
	t.Helper()
	d, err := q.Create(context.Background(), e)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Abort()
	for _, r := range rcpts {
		if err := d.Recipient(r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(d, content); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	return d.ID()
}

func TestRoundTrip(t *testing.T) {
	long := strings.Repeat("x", 3*queue.LineLimit+7)
	contents := map[string]string{
		"plain":           "Subject: x\n\nhello\n",
		"empty":           "",
		"no last newline": "Subject: x\n\nhello",
		"long lines":      "Subject: x\n\n" + long + "\n" + long[:queue.LineLimit] + "\n" + long[:queue.LineLimit+1] + "\n\n",
		"long, no end":    long[:2*queue.LineLimit],
		"NUL and 8 bit":   "a\x00b\xff\r\n.\n..\n",
		"large":           strings.Repeat("0123456789\n", 100_000),
	}
	for name, content := range contents {
		t.Run(name, func(t *testing.T) {
			q := open(t, queue.Options{})
			bob := agent.Recipient{Address: address.Parse("bob@there.test"), Original: address.Parse("Bob@there.test"), ORCPT: "rfc822;bob@old.test", Notify: agent.NotifySuccess | agent.NotifyDelay}
			d, err := q.Create(context.Background(), letterEnvelope)
			if err != nil {
				t.Fatal(err)
			}
			d.Recipient(bob)
			d.Recipient(rcpt("carol@there.test"))
			for i, step := 0, 0; i < len(content); i += step { // in odd pieces
				step = min(1+i%4000, len(content)-i)
				if _, err := io.WriteString(d, content[i:i+step]); err != nil {
					t.Fatal(err)
				}
			}
			d.Recipient(rcpt("late@there.test"))
			if content == "" {
				d.Write(nil)
			}
			if err := d.Commit(context.Background()); err != nil {
				t.Fatal(err)
			}
			m, err := q.OpenMessage(queue.Incoming, d.ID())
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			want := content
			if want != "" && !strings.HasSuffix(want, "\n") {
				want += "\n"
			}
			got, err := io.ReadAll(m.Content())
			if err != nil || string(got) != want {
				t.Fatalf("content: %d octets, want %d, err %v", len(got), len(want), err)
			}
			if m.Size() != int64(len(want)) {
				t.Errorf("Size %d, want %d", m.Size(), len(want))
			}
			list, next, err := m.Recipients(0, 100)
			if err != nil || next != -1 || len(list) != 3 {
				t.Fatalf("%v %d %v", list, next, err)
			}
			first := list[0]
			first.Offset = 0
			if first != bob {
				t.Errorf("recipient %+v, want %+v", first, bob)
			}
			e := m.Envelope
			if e.Sender != letterEnvelope.Sender || e.EnvID != "abc+x" || e.Ret != "HDRS" || e.Client != letterEnvelope.Client ||
				!e.Warn.Equal(letterEnvelope.Warn) || e.FullName != "Alice" || !e.SendOpts.SMTPUTF8() || e.Verp != "+=" ||
				!slices.Equal(e.Attrs, letterEnvelope.Attrs) || e.LogIdent != d.ID() {
				t.Errorf("envelope: %+v", e)
			}
		})
	}
}

func TestDoneMarksSurviveAndChunksContinue(t *testing.T) {
	q := open(t, queue.Options{})
	var all []agent.Recipient
	for i := range 1000 {
		all = append(all, rcpt(fmt.Sprintf("user%d@there.test", i)))
	}
	id := put(t, q, queue.Envelope{Sender: address.Parse("a@here.test")}, "Subject: x\n\nx\n", all...)
	m, err := q.OpenMessage(queue.Incoming, id)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for from := int64(0); from >= 0; {
		list, next, err := m.Recipients(from, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			if want := all[seen].Address; r.Address != want {
				t.Fatalf("recipient %d is %v", seen, r.Address)
			}
			if seen++; seen%2 == 0 {
				if err := m.MarkDone(r); err != nil {
					t.Fatal(err)
				}
			}
		}
		from = next
	}
	if seen != len(all) {
		t.Fatalf("%d recipients", seen)
	}
	if err := m.MarkDone(agent.Recipient{Offset: 1}); !errors.Is(err, queue.ErrFormat) {
		t.Errorf("a done mark where no recipient is: %v", err)
	}
	m.Close()
	if m, err = q.OpenMessage(queue.Incoming, id); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if list, _, _ := m.Recipients(0, 10_000); len(list) != 500 {
		t.Errorf("%d recipients left, want 500", len(list))
	}
}

// TestForReading: what an agent gets can't change the file, wherever it has moved.
func TestForReading(t *testing.T) {
	q := open(t, queue.Options{})
	id := put(t, q, queue.Envelope{}, "x\n", rcpt("b@there.test"))
	m, err := q.OpenMessage(queue.Incoming, id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for range 2 {
		f, err := m.ForReading()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("x"), 0); err == nil {
			t.Error("it can be written to")
		}
		again, err := queue.ReadMessage(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.ForReading(); err == nil {
			t.Error("a message that came as a descriptor was opened by name")
		}
		again.Close()
		if err := q.Move(id, queue.Incoming, queue.Active); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func TestMoveScanDefer(t *testing.T) {
	for _, long := range []bool{false, true} {
		q := open(t, queue.Options{LongIDs: long})
		want := map[string]bool{}
		for range 20 {
			id := put(t, q, queue.Envelope{}, "x\n", rcpt("b@there.test"))
			want[id] = true
			if err := q.Move(id, queue.Incoming, queue.Active); err != nil {
				t.Fatal(err)
			}
			next := time.Now().Add(time.Hour).Truncate(time.Second)
			if err := q.Defer(id, next); err != nil {
				t.Fatal(err)
			}
			info, err := q.Stat(queue.Deferred, id)
			if err != nil || !info.ModTime.Equal(next) || !info.Complete() {
				t.Fatalf("%+v %v", info, err)
			}
			if inode, ok := queue.Inode(id); !ok || inode != info.Inode {
				t.Errorf("inode of %s is %d, file has %d", id, inode, info.Inode)
			}
		}
		os.WriteFile(filepath.Join(q.Path(), "deferred", "core.123"), nil, 0o600)
		for id, err := range q.Scan(queue.Deferred) {
			if err != nil || !want[id] {
				t.Errorf("%q %v", id, err)
			}
			delete(want, id)
			if err := q.Remove(queue.Deferred, id); err != nil {
				t.Error(err)
			}
		}
		if len(want) > 0 {
			t.Errorf("not seen: %v", want)
		}
		for id := range q.Scan(queue.Deferred) {
			t.Errorf("left: %s", id)
		}
	}
	if err := open(t, queue.Options{}).Move("../x", queue.Incoming, queue.Active); err == nil {
		t.Error("an id with a slash was taken")
	}
}

func TestIDs(t *testing.T) {
	at := time.Unix(1795372079, 914593000)
	cases := []struct {
		inode uint64
		long  bool
		want  string
	}{
		// 0xDF4A1 microseconds
		{0x9844A3, false, "DF4A19844A3"},
		{0x9844A3, true, ""},
	}
	for _, c := range cases {
		got := queue.MakeID(at, c.inode, c.long)
		if !c.long && got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
		if n, ok := queue.Inode(got); !ok || n != c.inode {
			t.Errorf("inode of %s: %x", got, n)
		}
	}
}

func TestLog(t *testing.T) {
	q := open(t, queue.Options{})
	ctx := context.Background()
	entries := []queue.LogEntry{
		{Recipient: address.Address{Local: "a b", Domain: "there.test"}, Original: address.Parse("c@there.test"), Offset: 233, ORCPT: "rfc822;c@there.test", Notify: agent.NotifyFailure,
			Status: "4.4.1", Action: "delayed", DiagType: "smtp", DiagText: "450 4.2.0 no", MTAType: "dns", MTAName: "mx.there.test", Reason: "host said: 450 4.2.0 no"},
		{Recipient: address.Parse("d@there.test"), Status: "4.0.0", Action: "delayed", Reason: "two\nlines"},
	}
	for i := range entries {
		if err := q.AppendLog(ctx, queue.Defer, "ABCDE1", entries[i:i+1]...); err != nil {
			t.Fatal(err)
		}
	}
	entries[1].Reason = "two lines"
	var got []queue.LogEntry
	for e, err := range q.ReadLog(queue.Defer, "ABCDE1") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if !slices.Equal(got, entries) {
		t.Errorf("got  %+v\nwant %+v", got, entries)
	}
	text, _ := os.ReadFile(filepath.Join(q.Path(), "defer/A/ABCDE1"))
	if !bytes.HasPrefix(text, []byte("\n<\"a b\"@there.test>: host said: 450 4.2.0 no\nrecipient=\"a b\"@there.test\noriginal_recipient=c@there.test\noffset=233\n")) {
		t.Errorf("%s", text)
	}
}

// Every step of Create and Commit fails once, and is the last one once: what was
// not acknowledged leaves no complete message, what was is there.
func TestInterrupted(t *testing.T) {
	for step := 1; ; step++ {
		n, hit := 0, false
		run := func(dies bool) (q *queue.Queue, err error) {
			n, hit = 0, false
			fs := &safefile.FS{Hook: func(op safefile.Op, name string) error {
				if n++; n != step {
					if hit && dies {
						panic("crash") // a dead process does nothing more
					}
					return nil
				}
				hit = true
				if dies {
					panic("crash")
				}
				return syscall.ENOSPC
			}}
			q = open(t, queue.Options{FS: fs})
			defer func() {
				if p := recover(); p != nil {
					err = errors.New("died")
				}
			}()
			d, err := q.Create(context.Background(), letterEnvelope)
			if err != nil {
				return q, err
			}
			if err := d.Recipient(rcpt("b@there.test")); err == nil {
				io.WriteString(d, strings.Repeat("a line of forty octets, more or less.....\n", 2000))
			}
			return q, d.Commit(context.Background())
		}
		for _, dies := range []bool{false, true} {
			q, err := run(dies)
			after, _ := queue.Open(q.Path(), queue.Options{}) // another process looks
			complete, files := 0, 0
			entries, _ := os.ReadDir(filepath.Join(q.Path(), "incoming"))
			for _, e := range entries {
				files++
				if info, err := e.Info(); err == nil && info.Mode().Perm()&0o100 != 0 {
					complete++
					m, err := after.OpenMessage(queue.Incoming, e.Name())
					if err != nil {
						t.Errorf("step %d: a complete file can't be read: %v", step, err)
						continue
					}
					m.Close()
				}
			}
			switch {
			case err == nil && complete != 1:
				t.Errorf("step %d: acknowledged, and %d messages", step, complete)
			case err != nil && !dies && files != 0:
				t.Errorf("step %d: %v, and %d files left", step, err, files)
			case err != nil && !dies && !queue.ErrNoSpace(err):
				t.Errorf("step %d: %v", step, err)
			}
		}
		if !hit {
			if step < 8 {
				t.Fatalf("only %d steps were seen", step-1)
			}
			return
		}
	}
}

func TestConcurrentCommits(t *testing.T) {
	q := open(t, queue.Options{})
	const n = 100
	ids := make(chan string, n)
	for range n {
		go func() { ids <- put(t, q, queue.Envelope{}, "Subject: x\n\nx\n", rcpt("b@there.test")) }()
	}
	seen := map[string]bool{}
	for range n {
		seen[<-ids] = true
	}
	if len(seen) != n {
		t.Errorf("%d ids for %d messages", len(seen), n)
	}
}

func FuzzMessage(f *testing.F) {
	q := open(f, queue.Options{})
	id := put(f, q, letterEnvelope, "Subject: x\n\nhello\n", rcpt("b@there.test"), rcpt("c@there.test"))
	seed, err := os.ReadFile(filepath.Join(q.Path(), q.Name(queue.Incoming, id)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(append(bytes.Clone(seed[:200]), "p\x0f              0p\x01\x30"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(name, data, 0o700); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		m, err := queue.ReadMessage(file)
		if err != nil {
			return
		}
		io.Copy(io.Discard, io.LimitReader(m.Content(), 1<<20))
		for from := int64(0); from >= 0; {
			list, next, err := m.Recipients(from, 100)
			if err != nil || len(list) == 0 {
				break
			}
			from = next
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add(queue.AppendRecord(queue.AppendRecord(nil, queue.TypeNorm, strings.Repeat("x", 300)), queue.TypeEnd, ""))
	f.Add([]byte("N\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := queue.NewReader(bytes.NewReader(data), 0)
		var again []byte
		for {
			typ, d, err := r.Read()
			if err != nil {
				return
			}
			again = queue.AppendRecord(again, typ, string(d))
			if r.Next() > int64(len(data)) {
				t.Fatal("read more than there is")
			}
		}
	})
}

func BenchmarkCommit(b *testing.B) {
	q := open(b, queue.Options{})
	body := "Subject: x\n\n" + strings.Repeat("a line of forty octets, more or less.....\n", 100)
	b.ReportAllocs()
	for b.Loop() {
		put(b, q, letterEnvelope, body, rcpt("b@there.test"))
	}
}

func BenchmarkOpenRead(b *testing.B) {
	q := open(b, queue.Options{})
	body := "Subject: x\n\n" + strings.Repeat("a line of forty octets, more or less.....\n", 100)
	id := put(b, q, letterEnvelope, body, rcpt("b@there.test"))
	b.ReportAllocs()
	for b.Loop() {
		m, err := q.OpenMessage(queue.Incoming, id)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := m.Recipients(0, 50); err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, m.Content())
		m.Close()
	}
}
