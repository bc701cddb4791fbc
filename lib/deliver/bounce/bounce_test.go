package bounce

import (
	"bytes"
	"context"
	"io"
	"iter"
	"os"
	"strings"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/queue"
)

type letter string

func (l letter) Content() io.Reader { return strings.NewReader(string(l)) }
func (l letter) Size() int64        { return int64(len(l)) }

type draft struct {
	bytes.Buffer
	from address.Address
	to   []agent.Recipient
	done bool
}

func (d *draft) ID() string { return "NEW" }
func (d *draft) Recipient(_ context.Context, r agent.Recipient) error {
	d.to = append(d.to, r)
	return nil
}
func (d *draft) Commit(context.Context) error { d.done = true; return nil }
func (d *draft) Abort()                       {}

func entries(list ...queue.LogEntry) iter.Seq2[queue.LogEntry, error] {
	return func(yield func(queue.LogEntry, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func entry(to, status, action, reason string) queue.LogEntry {
	a := address.Parse(to)
	return queue.LogEntry{Recipient: a, ORCPT: "rfc822;" + to, Status: status, Action: action, Reason: reason}
}

func remote(e queue.LogEntry, text string) queue.LogEntry {
	e.MTAType, e.MTAName, e.DiagType, e.DiagText = "dns", "127.0.0.1", "smtp", text
	return e
}

// attached is the message that a golden notice returns, taken from it: what is
// tested is all around it.
func attached(golden string) letter {
	_, rest, _ := strings.Cut(golden[strings.Index(golden, "\nReturn-Path: ")+1:], "\n")
	i := strings.LastIndex(rest, "\n--")
	return letter(rest[:i])
}

// TestPostfix compares with notices that Postfix 3.7.11 wrote.
func TestPostfix(t *testing.T) {
	sender := address.Parse("s@mail.h5.test")
	refused := "connect to 127.0.0.1[127.0.0.1]:2699: Connection refused"
	for _, c := range []struct {
		file   string
		id     string
		kind   Kind
		from   address.Address
		ret    string
		envid  string
		list   []queue.LogEntry
		header bool
	}{
		{file: "failed", id: "572679862B2", from: sender, list: []queue.LogEntry{
			entry("nouser@mail.h5.test", "5.1.1", "failed", `unknown user: "nouser"`),
			remote(entry("a@rej.test", "5.3.0", "failed", "host 127.0.0.1[127.0.0.1] said: 500 5.3.0 Error: command failed (in reply to RCPT TO command)"), "500 5.3.0 Error: command failed"),
		}},
		{file: "headers", id: "5D6F59862D2", from: sender, ret: "HDRS", list: []queue.LogEntry{
			entry("nouser2@mail.h5.test", "5.1.1", "failed", `unknown user: "nouser2"`)}},
		{file: "success", id: "58E709862A3", kind: Success, from: sender, envid: "env123", list: []queue.LogEntry{
			entry("s@mail.h5.test", "2.0.0", "expanded", "delivery via local: alias expanded")}},
		{file: "delayed", id: "5B9569862D3", kind: Delayed, from: sender, list: []queue.LogEntry{
			entry("d@dead.test", "4.4.1", "delayed", refused)}},
		{file: "verify", id: "67D839862B4", kind: Verify, from: sender, list: []queue.LogEntry{
			entry("nouser@mail.h5.test", "5.1.1", "undeliverable", `delivery via local: unknown user: "nouser"`),
			remote(entry("ok@sink.test", "2.1.5", "deliverable", "delivery via 127.0.0.1[127.0.0.1]:2636: 250 2.1.5 Ok"), "250 2.1.5 Ok")}},
		{file: "double", id: "631629862D2", list: []queue.LogEntry{
			remote(entry("n@rej.test", "5.3.0", "failed", "host 127.0.0.1[127.0.0.1] said: 500 5.3.0 Error: command failed (in reply to RCPT TO command)"), "500 5.3.0 Error: command failed")}},
	} {
		t.Run(c.file, func(t *testing.T) {
			data, err := os.ReadFile("testdata/" + c.file + ".eml")
			if err != nil {
				t.Fatal(err)
			}
			d := &draft{}
			now := time.Unix(1795373075, 0).UTC()
			b := New(Config{Hostname: "mail.h5.test", UTF8: true, DelayWarning: time.Second, QueueLifetime: 30 * time.Second,
				Notify: map[string]bool{"2bounce": true}, Now: func() time.Time { return now }},
				func(_ context.Context, from address.Address, _ bool) (Draft, error) {
					d.from = from
					return d, nil
				})
			sent, err := b.Send(context.Background(), &Notice{Kind: c.kind, QueueID: c.id, Sender: c.from, EnvID: c.envid, Ret: c.ret,
				Arrival: now, Entries: entries(c.list...), Message: attached(string(data))})
			if err != nil || len(sent) != 1 || !d.done {
				t.Fatalf("sent %v, %v, committed %v", sent, err, d.done)
			}
			if got := d.String(); got != string(data) {
				gl, wl := strings.Split(got, "\n"), strings.Split(string(data), "\n")
				for i := range max(len(gl), len(wl)) {
					if i >= len(gl) || i >= len(wl) || gl[i] != wl[i] {
						t.Fatalf("differs at line %d\ngot:\n%s\nwant:\n%s", i+1, strings.Join(gl[max(0, i-2):], "\n"), strings.Join(wl[max(0, i-2):], "\n"))
					}
				}
			}
		})
	}
}

// TestNobodyToTell: notices that must not be written.
func TestNobodyToTell(t *testing.T) {
	bad := entry("x@y.test", "5.1.1", "failed", "no")
	never := bad
	never.Notify = agent.NotifyNever
	onlySuccess := bad
	onlySuccess.Notify = agent.NotifySuccess
	double := address.Parse("double-bounce@mail.h5.test")
	for _, c := range []struct {
		name string
		kind Kind
		from address.Address
		e    queue.LogEntry
	}{
		{"of a notice, to the postmaster only where notify_classes says", Failed, address.Address{}, bad},
		{"of a delayed notice", Delayed, address.Address{}, bad},
		{"of a notice about a notice", Failed, double, bad},
		{"NOTIFY=NEVER", Failed, address.Parse("a@b.test"), never},
		{"NOTIFY=SUCCESS", Failed, address.Parse("a@b.test"), onlySuccess},
		{"NOTIFY=SUCCESS, late", Delayed, address.Parse("a@b.test"), onlySuccess},
	} {
		b := New(Config{Hostname: "mail.h5.test"}, func(context.Context, address.Address, bool) (Draft, error) {
			t.Errorf("%s: a notice was written", c.name)
			return &draft{}, nil
		})
		if sent, err := b.Send(context.Background(), &Notice{Kind: c.kind, Sender: c.from, Entries: entries(c.e), Message: letter("\n")}); err != nil || sent != nil {
			t.Errorf("%s: %v, %v", c.name, sent, err)
		}
	}
}
