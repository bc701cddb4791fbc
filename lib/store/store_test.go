package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"angarium/lib/mailbox"
)

// fixture is a store in a directory of its own, with a clock that the test moves.
type fixture struct {
	*Store
	t    *testing.T
	dir  string
	conf Config
	now  *atomic.Int64
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), now: new(atomic.Int64)}
	f.now.Store(time.Now().UnixNano())
	f.conf = Config{
		ConfigDirectory: filepath.Join(f.dir, "conf"), DefaultPartition: "default",
		Partitions: map[string]string{"default": filepath.Join(f.dir, "spool"), "two": filepath.Join(f.dir, "spool2")},
		Manual:     true, BootID: "boot1",
		Now: func() time.Time { return time.Unix(0, f.now.Load()) },
	}
	f.open()
	t.Cleanup(func() {
		if f.Store != nil {
			f.close()
		}
	})
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	s, err := Open(context.Background(), f.conf)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Store = s
}

// The list of mailboxes is for the store's user alone, whatever the folder's mode.
func TestListIsPrivate(t *testing.T) {
	f := newFixture(t)
	f.create(mailbox.Inbox("bob"))
	info, err := os.Stat(filepath.Join(f.conf.ConfigDirectory, "mailboxes.db"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func (f *fixture) close() {
	f.t.Helper()
	if err := f.Store.Close(); err != nil {
		f.t.Error(err)
	}
	f.Store = nil
}

// die is kill -9 for the store: nothing is written, no lock is given back in an orderly way.
func (f *fixture) die() {
	f.stop()
	f.done.Wait()
	f.list.close()
	f.users.Close()
	for _, b := range f.boxes {
		b.forget()
	}
	f.Store = nil
}

func (f *fixture) pass(d time.Duration) { f.now.Add(int64(d)); f.Tend(context.Background()) }

func (f *fixture) create(name mailbox.Name) Entry {
	f.t.Helper()
	e, err := f.Create(context.Background(), Entry{Name: name})
	if err != nil {
		f.t.Fatal(err)
	}
	return e
}

func (f *fixture) mailbox(name mailbox.Name) *handle {
	f.t.Helper()
	m, err := f.Open(context.Background(), name, User{ID: "bob"})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { m.Close() })
	return m.(*handle)
}

func (f *fixture) stage(text string, src Source) *Draft {
	f.t.Helper()
	src.Reader = strings.NewReader(text)
	d, err := f.Stage(context.Background(), src)
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

func (f *fixture) append(m *handle, text string) UID {
	f.t.Helper()
	msgs, err := m.Append(context.Background(), f.stage(text, Source{}))
	if err != nil {
		f.t.Fatal(err)
	}
	return msgs[0].UID
}

func letter(n int) string {
	return fmt.Sprintf("From: alice@here.test\r\nSubject: letter %d\r\nMessage-Id: <%d@here.test>\r\n\r\nbody of %d\r\n", n, n, n)
}

func (f *fixture) view(m *handle) View {
	f.t.Helper()
	v, err := m.View(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

func uids(v View) []UID {
	out := []UID{}
	for i := range v.Len() {
		out = append(out, v.At(i).UID)
	}
	return out
}

func (f *fixture) body(m *handle, u UID) string {
	f.t.Helper()
	b, err := m.Body(context.Background(), u)
	if err != nil {
		f.t.Fatalf("body of %d: %v", u, err)
	}
	defer b.Close()
	text, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

func (f *fixture) path(name mailbox.Name, elem ...string) string {
	return filepath.Join(append([]string{f.dir, "spool", name.Path()}, elem...)...)
}

func (f *fixture) files(name mailbox.Name, dir string) []string {
	entries, _ := os.ReadDir(f.path(name, dir))
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

func TestAppendAndRead(t *testing.T) {
	f := newFixture(t)
	e := f.create("user.bob")
	m := f.mailbox("user.bob")
	equal(t, "empty", f.view(m).Status().UIDNext, 1)
	for i := range 3 {
		equal(t, "uid", f.append(m, letter(i)), UID(i+1))
	}
	v := f.view(m)
	equal(t, "uids", uids(v), []UID{1, 2, 3})
	equal(t, "body", f.body(m, 2), letter(1))
	st := v.Status()
	equal(t, "status", []any{st.UIDValidity, st.UIDNext, st.Messages, st.Unseen, st.FirstUnseen, st.Recent}, []any{e.UIDValidity, 4, 3, 3, 0, 3})
	// Rule 1: the name says it all.
	msg := v.At(0)
	want := fmt.Sprintf("%d.U1.%s,S=%d:2,", msg.Internal, e.ID[:8], len(letter(0)))
	if got := f.files("user.bob", "cur"); !slices.Contains(got, want) {
		t.Errorf("no %s in %v", want, got)
	}
	if left := f.stageFiles(); len(left) > 0 {
		t.Errorf("left in .stage: %v", left)
	}
	n := 0
	for s, err := range m.Summaries(context.Background(), UIDSet{{1, 10}}) {
		if err != nil || !strings.Contains(string(s.Summary.Envelope), fmt.Sprintf("letter %d", s.UID-1)) {
			t.Errorf("summary of %d: %s %v", s.UID, s.Summary.Envelope, err)
		}
		n++
	}
	equal(t, "summaries", n, 3)
}

func (f *fixture) stageFiles() []string {
	entries, _ := os.ReadDir(filepath.Join(f.dir, "spool", stageDir))
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestFlagsAndNames(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	for i := range 3 {
		f.append(m, letter(i))
	}
	old := f.view(m)
	_, err := m.Change(context.Background(), UIDSet{{2, 3}}, FlagOp{Flags: FlagSeen | FlagFlagged, Keywords: []string{"Junk", "$Forwarded"}})
	if err != nil {
		t.Fatal(err)
	}
	v := f.view(m)
	var got []string
	for c := range v.Since(old) {
		got = append(got, fmt.Sprint(c.Kind, c.Message.UID, c.Old, c.Now))
	}
	equal(t, "changes", got, []string{"1 2 1 1", "1 3 2 2"})
	equal(t, "keywords", v.Keywords(), []string{"Junk", "$Forwarded"})
	equal(t, "unseen", v.Status().Unseen, 1)
	// The same again changes nothing.
	if _, err := m.Change(context.Background(), UIDSet{{2, 2}}, FlagOp{Flags: FlagSeen}); err != nil {
		t.Fatal(err)
	}
	equal(t, "modseq", f.view(m).Status().HighestModSeq, v.Status().HighestModSeq)
	failed, err := m.Change(context.Background(), UIDSet{{1, 3}}, FlagOp{Flags: FlagDraft, Conditional: true, UnchangedSince: old.Status().HighestModSeq})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "failed", failed.String(), "2:3")
	for _, n := range f.files("user.bob", "cur") {
		if !strings.HasSuffix(n, ":2,") {
			t.Errorf("renamed at once: %s", n)
		}
	}
	f.pass(6 * time.Second)
	names := strings.Join(f.files("user.bob", "cur"), " ")
	for _, want := range []string{":2,D", ":2,FPSa"} {
		if !strings.Contains(names, want) {
			t.Errorf("no %s in %s", want, names)
		}
	}
	equal(t, "body", f.body(m, 3), letter(2))
	if k, _ := os.ReadFile(f.path("user.bob", dovecotKeywords)); !strings.HasPrefix(string(k), "0 Junk\n") {
		t.Errorf("dovecot-keywords: %q", k)
	}
}

func TestExpunge(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	for i := range 5 {
		f.append(m, letter(i))
	}
	old := f.view(m)
	gone, err := m.Expunge(context.Background(), UIDSet{{2, 3}, {9, 9}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "gone", gone.String(), "2:3")
	v := f.view(m)
	equal(t, "uids", uids(v), []UID{1, 4, 5})
	equal(t, "old view", uids(old), []UID{1, 2, 3, 4, 5})
	equal(t, "body of an expunged one", f.body(m, 2), letter(1))
	f.pass(6 * time.Second)
	equal(t, "cur", len(f.files("user.bob", "cur")), 3)
	equal(t, ".expunged", len(f.files("user.bob", ".expunged")), 2)
	equal(t, "body once moved", f.body(m, 2), letter(1))
	f.pass(11 * time.Minute)
	equal(t, ".expunged after its time", len(f.files("user.bob", ".expunged")), 0)
	if _, err := m.Body(context.Background(), 2); !errors.Is(err, ErrGone) {
		t.Errorf("body of a swept one: %v", err)
	}
	van, err := m.Vanished(context.Background(), old.Status().HighestModSeq, nil)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "vanished", van.String(), "2:3")
	f.close()
	f.open()
	m = f.mailbox("user.bob")
	equal(t, "uids after opening again", uids(f.view(m)), []UID{1, 4, 5})
	equal(t, "next", f.append(m, letter(9)), 6)
}

func TestCopyAndMove(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	f.create("user.bob.Sent")
	a, b := f.mailbox("user.bob"), f.mailbox("user.bob.Sent")
	for i := range 3 {
		f.append(a, letter(i))
	}
	if _, err := a.Change(context.Background(), UIDSet{{2, 2}}, FlagOp{Flags: FlagSeen, Keywords: []string{"x", "Junk"}}); err != nil {
		t.Fatal(err)
	}
	f.append(b, letter(7))
	if _, err := b.Change(context.Background(), UIDSet{{1, 1}}, FlagOp{Keywords: []string{"Junk"}}); err != nil {
		t.Fatal(err)
	}
	pairs, err := a.CopyTo(context.Background(), b, UIDSet{{2, 3}}, true)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "pairs", pairs, []Pair{{2, 2}, {3, 3}})
	equal(t, "left", uids(f.view(a)), []UID{1})
	v := f.view(b)
	equal(t, "there", uids(v), []UID{1, 2, 3})
	equal(t, "keywords", v.Keywords(), []string{"Junk", "x"})
	equal(t, "flags", v.At(1).Flags, FlagSeen)
	equal(t, "bits", v.At(1).Keywords[0], 3)
	equal(t, "body", f.body(b, 3), letter(2))
	if _, err := b.CopyTo(context.Background(), b, UIDSet{{1, 1}}, false); err != nil { // into itself
		t.Fatal(err)
	}
	equal(t, "itself", f.body(b, 4), letter(7))
}

func TestDeliverToMany(t *testing.T) {
	f := newFixture(t)
	var targets []Target
	for i := range 10 {
		n := mailbox.Name(fmt.Sprintf("user.u%d", i))
		f.create(n)
		targets = append(targets, Target{Name: n})
	}
	targets = append(targets, Target{Name: "user.nobody"})
	errs := f.Deliver(context.Background(), f.stage(letter(1), Source{}), targets)
	for i, err := range errs[:10] {
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if !errors.Is(errs[10], ErrNotFound) {
		t.Errorf("nobody: %v", errs[10])
	}
	equal(t, "body", f.body(f.mailbox("user.u7"), 1), letter(1))
	equal(t, ".stage", len(f.stageFiles()), 0)
}

// TestConcurrent has many goroutines, and a second store as if it were another
// process, deliver into one mailbox.
func TestConcurrent(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	other := &fixture{t: t, dir: f.dir, conf: f.conf, now: f.now}
	other.open()
	defer other.close()
	const each, n = 8, 10
	var wg sync.WaitGroup
	for i := range each {
		for _, s := range []*fixture{f, other} {
			m := s.mailbox("user.bob")
			wg.Go(func() {
				for k := range n {
					d, err := s.Stage(context.Background(), Source{Reader: strings.NewReader(letter(i*100 + k))})
					if err == nil {
						_, err = m.Append(context.Background(), d)
					}
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := m.Change(context.Background(), UIDSet{{1, 3}}, FlagOp{Mode: FlagMode(k % 2), Flags: FlagSeen}); err != nil {
						t.Error(err)
						return
					}
					if _, err := m.View(context.Background()); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	for _, s := range []*fixture{f, other} {
		v := f.view(s.mailbox("user.bob"))
		equal(t, "messages", v.Len(), 2*each*n)
		equal(t, "count", v.Status().Messages, 2*each*n)
		for i := range v.Len() {
			if v.At(i).UID != UID(i+1) {
				t.Fatalf("message %d has UID %d", i, v.At(i).UID)
			}
		}
	}
}
