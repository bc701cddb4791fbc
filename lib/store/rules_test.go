package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"angarium/lib/mailbox"
)

var bg = context.Background()

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) change(m *handle, set UIDSet, op FlagOp) {
	f.t.Helper()
	_, err := m.Change(bg, set, op)
	must(f.t, err)
}

// describe is all that a client can see of a mailbox, but for its ModSeqs.
func (f *fixture) describe(m *handle) string {
	f.t.Helper()
	v := f.view(m)
	var b strings.Builder
	fmt.Fprintln(&b, v.Status().UIDValidity, m.ID())
	for i := range v.Len() {
		msg := v.At(i)
		fmt.Fprint(&b, msg.UID, " ", msg.Flags&SystemFlags, " ", msg.Internal, " ", msg.Saved, " ", msg.Size, " ", msg.GUID)
		var names []string
		for k, name := range v.Keywords() {
			if msg.HasKeyword(k) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		fmt.Fprintln(&b, names)
	}
	return b.String()
}

// populate makes a mailbox with something of everything.
func (f *fixture) populate(name mailbox.Name) *handle {
	f.t.Helper()
	f.create(name)
	m := f.mailbox(name)
	for i := range 8 {
		d := f.stage(letter(i), Source{Internal: time.Unix(1_000_000_000+int64(i)*86400, 0)})
		_, err := m.Append(bg, d)
		must(f.t, err)
	}
	f.change(m, UIDSet{{1, 4}}, FlagOp{Flags: FlagSeen | FlagAnswered, Keywords: []string{"Junk", "$Forwarded"}})
	f.change(m, UIDSet{{3, 3}}, FlagOp{Mode: RemoveFlags, Flags: FlagSeen})
	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprintf("kw%d", i))
	}
	f.change(m, UIDSet{{5, 5}}, FlagOp{Mode: SetFlags, Flags: FlagDraft, Keywords: many})
	_, err := m.Expunge(bg, UIDSet{{2, 2}, {7, 7}})
	must(f.t, err)
	return m
}

// TestReconstructEverything is the judge's test: .index, .cache and mailboxes.db
// are deleted under a running store that was quiet for ten seconds.
func TestReconstructEverything(t *testing.T) {
	f := newFixture(t)
	names := []mailbox.Name{"user.bob", "user.bob.Sent", "user.bob.a^b", "lists.go"}
	before := map[mailbox.Name]string{}
	status := map[mailbox.Name]Status{}
	boxes := map[mailbox.Name]*handle{}
	for _, n := range names {
		boxes[n] = f.populate(n)
	}
	f.create("user.ann")
	must(t, f.Update(bg, "user.bob", func(e *Entry) error {
		e.IsQuotaRoot, e.Quota = true, Quota{Storage: 50000, Messages: 100}
		e.ACL = e.ACL.Set("ann", RightLookup|RightRead)
		e.Annotations = map[string]string{"/shared/comment": "two\nlines \"quoted\""}
		return nil
	}))
	f.pass(10 * time.Second)
	for _, n := range names {
		before[n] = f.describe(boxes[n])
		status[n] = f.view(boxes[n]).Status()
	}
	entries := func() string {
		var out []string
		for e, err := range f.List(bg, Query{}) {
			must(t, err)
			e, err := f.Lookup(bg, e.Name)
			must(t, err)
			out = append(out, fmt.Sprintf("%+v", e))
		}
		return strings.Join(out, "\n")
	}
	list := entries()
	used, err := f.Usage(bg, "user.bob")
	must(t, err)

	must(t, os.Remove(filepath.Join(f.dir, "conf", "mailboxes.db")))
	for _, n := range names {
		must(t, os.Remove(f.path(n, indexName)))
		must(t, os.Remove(f.path(n, cacheName)))
	}
	// Another process reconstructs, as the command does.
	other := &fixture{t: t, dir: f.dir, conf: f.conf, now: f.now}
	other.open()
	for _, n := range names {
		must(t, other.Reconstruct(bg, n))
	}
	other.close()

	for _, s := range []string{"running", "opened again"} {
		equal(t, s+": the list", entries(), list)
		for _, n := range names {
			m := boxes[n]
			if s != "running" {
				m = f.mailbox(n)
			}
			if got := f.describe(m); got != before[n] {
				t.Errorf("%s, %s: got\n%s\nwant\n%s", s, n, got, before[n])
			}
			st := f.view(m).Status()
			if st.UIDNext < status[n].UIDNext || st.HighestModSeq < status[n].HighestModSeq {
				t.Errorf("%s: UIDNEXT %d, HIGHESTMODSEQ %d, were %d, %d", n, st.UIDNext, st.HighestModSeq, status[n].UIDNext, status[n].HighestModSeq)
			}
			equal(t, "body", f.body(m, 1), letter(0))
			van, err := m.Vanished(bg, status[n].HighestModSeq, nil)
			must(t, err)
			if !van.Contains(2) || !van.Contains(7) || van.Contains(1) {
				t.Errorf("vanished: %s", van)
			}
			for s, err := range m.Summaries(bg, UIDSet{{8, 8}}) {
				if err != nil || !strings.Contains(string(s.Summary.Envelope), "letter 7") {
					t.Errorf("summary: %s %v", s.Summary.Envelope, err)
				}
			}
		}
		again, err := f.Usage(bg, "user.bob")
		must(t, err)
		equal(t, "usage", again, used)
		if s == "running" {
			f.close()
			f.open()
		}
	}
}

// TestIndexDeletedUnderUs needs nobody to reconstruct: whoever looks next does.
func TestIndexDeletedUnderUs(t *testing.T) {
	f := newFixture(t)
	m := f.populate("user.bob")
	f.pass(10 * time.Second)
	want := f.describe(m)
	must(t, os.Remove(f.path("user.bob", indexName)))
	equal(t, "after .index was deleted", f.describe(m), want)
	f.append(m, letter(20))
}

func TestEpoch(t *testing.T) {
	f := newFixture(t)
	m := f.populate("user.bob")
	f.pass(10 * time.Second)
	want := f.describe(m)
	st := f.view(m).Status()
	verified := func() bool {
		m = f.mailbox("user.bob")
		equal(t, "mailbox", f.describe(m), want)
		now := f.view(m).Status()
		done := now.HighestModSeq != st.HighestModSeq
		st = now
		return done
	}
	m.Close()
	f.close()
	f.conf.BootID = "boot2"
	f.open()
	if verified() {
		t.Error("verified after an orderly stop")
	}
	f.die()
	f.open()
	if verified() {
		t.Error("verified after kill -9 alone")
	}
	f.die()
	f.conf.BootID = "boot3"
	f.open()
	if !verified() {
		t.Error("not verified after a power cut")
	}
	f.die()
	f.open()
	if verified() {
		t.Error("verified twice in one epoch")
	}
	// While another process has it open, closing is no orderly stop.
	other := &fixture{t: t, dir: f.dir, conf: f.conf, now: f.now}
	other.open()
	other.close()
	f.die()
	f.conf.BootID = "boot4"
	f.open()
	if !verified() {
		t.Error("not verified: the first to leave called it clean")
	}
}

func TestRestoredCur(t *testing.T) { // cur/ was copied by hand: another inode
	f := newFixture(t)
	m := f.populate("user.bob")
	f.pass(10 * time.Second)
	m.Close()
	f.close()
	cur := f.path("user.bob", "cur")
	must(t, os.Rename(cur, cur+".old"))
	must(t, os.Mkdir(cur, 0o700))
	names := f.files("user.bob", "cur.old")
	for _, n := range names[1:] {
		must(t, os.Rename(filepath.Join(cur+".old", n), filepath.Join(cur, n)))
	}
	f.open()
	equal(t, "messages", f.view(f.mailbox("user.bob")).Len(), len(names)-1)
}

func (f *fixture) write(path, text string) {
	f.t.Helper()
	must(f.t, os.WriteFile(path, []byte(text), 0o600))
}

// TestForeignHands: rule 8.
func TestForeignHands(t *testing.T) {
	f := newFixture(t)
	m := f.populate("user.bob")
	f.pass(10 * time.Second)
	equal(t, "before", uids(f.view(m)), []UID{1, 3, 4, 5, 6, 8})

	// A letter with LF in new/: too young at first, then adopted with CRLF.
	f.now.Store(time.Now().UnixNano()) // ctime is the kernel's
	f.write(f.path("user.bob", "new", "1700000000.M1P2.host"), "Subject: foreign\n\nlf\n")
	f.pass(1500 * time.Millisecond)
	equal(t, "too young", f.view(m).Len(), 6)
	f.pass(3 * time.Second)
	v := f.view(m)
	equal(t, "adopted", v.Len(), 7)
	last := v.At(6)
	equal(t, "content", f.body(m, last.UID), "Subject: foreign\r\n\r\nlf\r\n")
	equal(t, "new/", len(f.files("user.bob", "new")), 0)

	// Flags changed in a name: merged, three ways.
	f.change(m, UIDSet{{6, 6}}, FlagOp{Flags: FlagFlagged}) // ours, not in the name yet
	for _, n := range f.files("user.bob", "cur") {
		if strings.Contains(n, ".U6.") {
			must(t, os.Rename(f.path("user.bob", "cur", n), f.path("user.bob", "cur", n+"S")))
		}
		if strings.Contains(n, ".U3.") { // R taken away
			must(t, os.Rename(f.path("user.bob", "cur", n), f.path("user.bob", "cur", strings.Replace(n, "R", "", 1))))
		}
	}
	f.pass(2 * time.Second)
	v = f.view(m)
	flags := func(u UID) Flags { i, _ := v.Find(u); return v.At(i).Flags }
	equal(t, "merged 6", flags(6), FlagFlagged|FlagSeen)
	equal(t, "merged 3", flags(3), Flags(0))
	equal(t, "body", f.body(m, 6), letter(5))
	f.pass(6 * time.Second)
	if names := strings.Join(f.files("user.bob", "cur"), " "); !strings.Contains(names, ".U6.") || !strings.Contains(names, ":2,FS") {
		t.Errorf("names: %s", names)
	}

	// A file removed, one put in by mutt, one with another mailbox's tag and U.
	for _, n := range f.files("user.bob", "cur") {
		if strings.Contains(n, ".U4.") {
			must(t, os.Remove(f.path("user.bob", "cur", n)))
		}
	}
	f.write(f.path("user.bob", "cur", "1700000001.R123.host:2,FSabc"), "Subject: mutt\n\nx\n")
	f.write(f.path("user.bob", "cur", "1700000001.U1.deadbeef,S=5:2,T"), "a: b\n\n")
	f.pass(4 * time.Second)
	v = f.view(m)
	equal(t, "uids", uids(v)[:5], []UID{1, 3, 5, 6, 8})
	equal(t, "count", v.Len(), 8)
	var got []Flags
	for i := 6; i < 8; i++ {
		got = append(got, v.At(i).Flags)
		equal(t, "keywords", v.At(i).Keywords[0], 0)
	}
	slices.Sort(got)
	equal(t, "flags", got, []Flags{FlagDeleted, FlagFlagged | FlagSeen})
}

func TestDovecotKeywords(t *testing.T) {
	f := newFixture(t)
	m := f.populate("user.bob")
	f.pass(10 * time.Second)
	kw, err := os.ReadFile(f.path("user.bob", dovecotKeywords))
	must(t, err)
	// Someone replaces the second of the letters and uses it.
	lines := strings.Split(string(kw), "\n")
	equal(t, "line", lines[0], "0 Junk")
	lines[2] = "2 Travel"
	f.write(f.path("user.bob", dovecotKeywords), strings.Join(lines, "\n"))
	for _, n := range f.files("user.bob", "cur") {
		if strings.Contains(n, ".U8.") {
			must(t, os.Rename(f.path("user.bob", "cur", n), f.path("user.bob", "cur", n+"c")))
		}
	}
	f.pass(3 * time.Second)
	v := f.view(m)
	i, _ := v.Find(8)
	msg := v.At(i)
	k := slices.Index(v.Keywords(), "Travel")
	if k < 0 || !msg.HasKeyword(k) {
		t.Errorf("keywords %v, bits %b", v.Keywords(), msg.Keywords)
	}
}

// TestNotices: a change by another process is told at once; a lost notice costs
// 15 seconds.
func TestNotices(t *testing.T) {
	f := newFixture(t)
	e := f.create("user.bob")
	m := f.mailbox("user.bob")
	f.view(m)
	w := f.Watch()
	defer w.Close()
	w.Watch(e.ID)
	other := &fixture{t: t, dir: f.dir, conf: f.conf, now: f.now}
	other.open()
	defer other.close()
	om := other.mailbox("user.bob")
	other.append(om, letter(1))
	select {
	case <-w.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("no notice")
	}
	n := w.Take()
	if len(n) != 1 || n[0].ID != e.ID || n[0].Kind&Messages == 0 {
		t.Errorf("notices: %v", n)
	}
	equal(t, "seen", f.view(m).Len(), 1)
	equal(t, "nothing more", len(w.Take()), 0)

	// Now the socket is lost.
	entries, err := os.ReadDir(filepath.Join(f.dir, "conf", noticeDir))
	must(t, err)
	for _, s := range entries {
		must(t, os.Remove(filepath.Join(f.dir, "conf", noticeDir, s.Name())))
	}
	f.Tend(bg) // it looks now, and not again for 15 s
	select {
	case <-w.Ready():
		w.Take()
	default:
	}
	other.append(om, letter(2))
	f.pass(14 * time.Second)
	select {
	case <-w.Ready():
		t.Fatal("a notice without a socket")
	case <-time.After(50 * time.Millisecond):
	}
	f.pass(2 * time.Second)
	select {
	case <-w.Ready():
	default:
		t.Fatal("not found by looking")
	}
	equal(t, "seen", f.view(m).Len(), 2)
}

func TestQuota(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	f.create("user.bob.Sent")
	must(t, f.Update(bg, "user.bob", func(e *Entry) error {
		e.IsQuotaRoot, e.Quota = true, Quota{Storage: 1000, Messages: 4}
		return nil
	}))
	sent, err := f.Lookup(bg, "user.bob.Sent")
	must(t, err)
	equal(t, "root of a child", sent.QuotaRoot, "user.bob")
	f.create("user.bob.New")
	m, s := f.mailbox("user.bob"), f.mailbox("user.bob.Sent")
	f.append(m, letter(1))
	f.append(s, letter(1))
	_, err = m.Append(bg, f.stage(strings.Repeat("x", 900), Source{}))
	if !errors.Is(err, ErrOverQuota) {
		t.Errorf("too big: %v", err)
	}
	_, err = m.CopyTo(bg, s, UIDSet{{1, 1}}, true)
	must(t, err)
	used := func() Quota { u, err := f.Usage(bg, "user.bob"); must(t, err); return u }
	size := int64(len(letter(1)))
	equal(t, "used", used(), Quota{2 * size, 2})
	f.append(m, letter(1))
	f.append(m, letter(1))
	if _, err = m.Append(bg, f.stage("x", Source{})); !errors.Is(err, ErrOverQuota) {
		t.Errorf("too many: %v", err)
	}
	must(t, os.Remove(f.path("user.bob", usageName)))
	equal(t, "counted again", used(), Quota{4 * size, 4})
	must(t, f.Delete(bg, "user.bob.Sent"))
	equal(t, "after Delete", used(), Quota{2 * size, 2})
}

func TestDirectory(t *testing.T) {
	f := newFixture(t)
	a := f.create("user.bob")
	b := f.create("user.bob.Sent")
	f.create("user.bob.Sent.Old")
	f.create("user.bob-x")
	f.create("lists")
	if b.UIDValidity <= a.UIDValidity {
		t.Error("UIDVALIDITY did not rise within a second")
	}
	names := func(q Query) string {
		var out []string
		for e, err := range f.List(bg, q) {
			must(t, err)
			out = append(out, string(e.Name))
		}
		return strings.Join(out, " ")
	}
	equal(t, "list", names(Query{}), "lists user.bob user.bob.Sent user.bob.Sent.Old user.bob-x")
	equal(t, "owner", names(Query{Owner: "bob"}), "user.bob user.bob.Sent user.bob.Sent.Old")
	equal(t, "under", names(Query{Under: "user.bob.Sent"}), "user.bob.Sent user.bob.Sent.Old")
	equal(t, "after", names(Query{After: "user.bob.Sent"}), "user.bob.Sent.Old user.bob-x")
	if _, err := f.Create(bg, Entry{Name: "user.bob"}); !errors.Is(err, ErrExists) {
		t.Errorf("twice: %v", err)
	}
	if _, err := f.Create(bg, Entry{Name: "user"}); !errors.Is(err, ErrBadName) {
		t.Errorf("user: %v", err)
	}

	m := f.mailbox("user.bob.Sent")
	f.append(m, letter(1))
	id := m.ID()
	must(t, f.Rename(bg, "user.bob.Sent", "user.bob.Gone", ""))
	equal(t, "renamed", names(Query{Owner: "bob"}), "user.bob user.bob.Gone user.bob.Gone.Old")
	n := f.mailbox("user.bob.Gone")
	equal(t, "id", n.ID(), id)
	equal(t, "body", f.body(n, 1), letter(1))
	if _, err := os.Stat(f.path("user.bob.Sent")); err == nil {
		t.Error("the old folder is still there")
	}
	f.now.Add(int64(2 * time.Second))
	if _, err := m.View(bg); !errors.Is(err, ErrNotFound) {
		t.Errorf("a session whose mailbox was renamed: %v", err)
	}

	// Deleting one leaves those below it.
	must(t, f.Delete(bg, "user.bob.Gone"))
	equal(t, "deleted", names(Query{Owner: "bob"}), "user.bob user.bob.Gone.Old")
	e := f.create("user.bob.Gone")
	if e.UIDValidity <= b.UIDValidity || e.ID == id {
		t.Errorf("made again with UIDVALIDITY %d after %d", e.UIDValidity, b.UIDValidity)
	}
	equal(t, "empty", f.view(f.mailbox("user.bob.Gone")).Len(), 0)

	// INBOX: its messages move.
	in := f.mailbox("user.bob")
	f.append(in, letter(5))
	must(t, f.Rename(bg, "user.bob", "user.bob.Saved", ""))
	equal(t, "INBOX", f.view(in).Len(), 0)
	equal(t, "Saved", f.body(f.mailbox("user.bob.Saved"), 1), letter(5))

	// Another partition.
	must(t, f.Rename(bg, "user.bob.Saved", "user.bob.Saved", "two"))
	s := f.mailbox("user.bob.Saved")
	equal(t, "on two", f.body(s, 1), letter(5))
	next := f.append(s, letter(6))
	if _, err := os.Stat(f.path("user.bob.Saved")); err == nil {
		t.Error("still on the old partition")
	}
	// A copy between partitions can't be a link.
	pairs, err := s.CopyTo(bg, in, SetOf(next), false)
	must(t, err)
	equal(t, "copied", f.body(in, pairs[0].To), letter(6))
}

func TestDelayedDelete(t *testing.T) {
	f := newFixture(t)
	f.Store.conf.DelayedDelete = true
	f.create("user.bob")
	f.create("user.bob.Sent")
	for i := range 3 { // several times within a second
		m := f.mailbox("user.bob.Sent")
		f.append(m, letter(i))
		must(t, f.Delete(bg, "user.bob.Sent"))
		f.create("user.bob.Sent")
	}
	var gone []string
	for e, err := range f.List(bg, Query{Deleted: true}) {
		must(t, err)
		if e.Name.IsDeleted() {
			gone = append(gone, string(e.Name))
			m := f.mailbox(e.Name)
			equal(t, "its message", f.body(m, 1), letter(len(gone)-1))
		}
	}
	equal(t, "deleted", len(gone), 3)
}

func TestSubscriptions(t *testing.T) {
	f := newFixture(t)
	for _, n := range []mailbox.Name{"user.bob.Sent", "lists.go", "user.bob"} {
		must(t, f.Subscribe(bg, "bob", n, true))
		must(t, f.Subscribe(bg, "bob", n, true))
	}
	must(t, f.Subscribe(bg, "bob", "lists.go", false))
	got, err := f.Subscribed(bg, "bob")
	must(t, err)
	equal(t, "bob", got, []mailbox.Name{"user.bob", "user.bob.Sent"})
	if got, err := f.Subscribed(bg, "ann"); len(got) > 0 || err != nil {
		t.Error(got, err)
	}
	if err := f.Subscribe(bg, "../x", "y", true); err == nil {
		t.Error("a userid that is a path")
	}
}

func TestPOPLock(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	a, b := f.mailbox("user.bob"), f.mailbox("user.bob")
	release, err := a.LockPOP(bg)
	must(t, err)
	if _, err := b.LockPOP(bg); !errors.Is(err, ErrBusy) {
		t.Errorf("second: %v", err)
	}
	f.append(b, letter(1)) // deliveries go on
	release()
	release, err = b.LockPOP(bg)
	must(t, err)
	release()
}

func TestRecent(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	f.append(m, letter(1))
	f.append(m, letter(2))
	u, err := m.Recent(bg, true)
	must(t, err)
	equal(t, "first", u, 0)
	f.append(m, letter(3))
	equal(t, "status", f.view(m).Status().Recent, 1)
	u, err = m.Recent(bg, false)
	must(t, err)
	equal(t, "look", u, 2)
	_, err = m.Expunge(bg, UIDSet{{1, 3}})
	must(t, err)
	equal(t, "expunged", f.view(m).Status().Recent, 0)
}

func TestReleased(t *testing.T) { // rule 12: the last session takes the snapshot with it
	f := newFixture(t)
	f.create("user.bob")
	a, b := f.mailbox("user.bob"), f.mailbox("user.bob")
	f.append(a, letter(1))
	if f.view(a).(*view).snapshot != f.view(b).(*view).snapshot {
		t.Error("two sessions, two snapshots")
	}
	f.pass(6 * time.Second)
	a.Close()
	if a.b.state.Load().view == nil {
		t.Error("gone while a session has it")
	}
	b.Close()
	if a.b.state.Load().view != nil {
		t.Error("kept though nobody uses it")
	}
}

func TestRights(t *testing.T) {
	for in, want := range map[string]string{
		"lrs": "lrs", "lrswipkxtecdan": "lrswipkxtecdan", "x": "xc", "c": "kxc", "d": "ted", "t": "td", "0n9": "n09", "": "",
	} {
		r, ok := ParseRights(in)
		if !ok || r.String() != want {
			t.Errorf("%q: %q %v, want %q", in, r, ok, want)
		}
		acl := ACL{{"bob", r}, {"-ann", RightRead}}
		if got := ParseACL(acl.String()).Get("bob"); got != r {
			t.Errorf("%q came back as %q", r, got)
		}
	}
	if _, ok := ParseRights("lz"); ok {
		t.Error("z is no right")
	}
	e := Entry{Name: "user.bob.x", ACL: ACL{{"anyone", RightLookup | RightRead}, {"-ann", RightRead}, {"group:staff", RightInsert}, {"bob", RightSeen}}}
	for _, c := range []struct {
		u    User
		want string
	}{
		{User{}, "lr"},
		{User{ID: "ann"}, "l"},
		{User{ID: "joe", Groups: []string{"staff"}}, "lri"},
		{User{ID: "bob"}, "lrskxca"},
		{User{ID: "cyrus", Admin: true}, "lrkca"},
	} {
		if got := e.RightsOf(c.u); got.String() != c.want {
			t.Errorf("%v: %s, want %s", c.u, got, c.want)
		}
	}
}

// TestFewDescriptors: the least used mailboxes lose theirs, and get them back.
func TestFewDescriptors(t *testing.T) {
	f := newFixture(t)
	f.close()
	f.conf.MaxOpen = 3
	f.open()
	var boxes []*handle
	for i := range 12 {
		n := mailbox.Name(fmt.Sprintf("user.u%d", i))
		f.create(n)
		boxes = append(boxes, f.mailbox(n))
	}
	for round := range 3 {
		for i, m := range boxes {
			f.append(m, letter(i))
			equal(t, "messages", f.view(m).Len(), round+1)
		}
	}
	open := 0
	for _, m := range boxes {
		if m.b.dir >= 0 {
			open++
		}
	}
	equal(t, "open", open, 3)
	for i, m := range boxes {
		equal(t, "body", f.body(m, 3), letter(i))
	}
}

func TestStageIsCleaned(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	d := f.stage("left by one who died", Source{})
	f.die()
	f.open()
	equal(t, "young", len(f.stageFiles()), 1)
	f.die()
	f.now.Add(int64(25 * time.Hour))
	f.open()
	equal(t, "old", len(f.stageFiles()), 0)
	d.Abort()
}

func TestCompaction(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m, far := f.mailbox("user.bob"), f.mailbox("user.bob")
	f.append(m, letter(1))
	gen := m.b.state.Load().hdr.gen
	other := &fixture{t: t, dir: f.dir, conf: f.conf, now: f.now}
	other.open()
	defer other.close()
	om := other.mailbox("user.bob")
	old := other.view(om)
	for i := range 600 {
		f.change(m, SetOf(1), FlagOp{Mode: FlagMode(i % 2), Flags: FlagSeen})
	}
	h := m.b.state.Load().hdr
	if h.gen == gen || h.dead > 300 {
		t.Errorf("generation %d, %d dead records", h.gen, h.dead)
	}
	equal(t, "another process", other.view(om).Status().HighestModSeq, f.view(far).Status().HighestModSeq)
	n := 0
	for range other.view(om).Since(old) {
		n++
	}
	equal(t, "changes", n, 1)
}

// TestVanishedSurvives compaction, and closing.
func TestVanishedSurvives(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	for i := range 4 {
		f.append(m, letter(i))
	}
	since := f.view(m).Status().HighestModSeq
	_, err := m.Expunge(bg, SetOf(2, 3))
	must(t, err)
	for i := range 700 {
		f.change(m, SetOf(1), FlagOp{Mode: FlagMode(i % 2), Flags: FlagSeen})
	}
	m.Close()
	f.close()
	f.open()
	van, err := f.mailbox("user.bob").Vanished(bg, since, UIDSet{{3, 100}})
	must(t, err)
	equal(t, "vanished", van.String(), "3")
}

// TestStaleTarget: between RCPT and the end of DATA a mailbox was made again, or
// went.
func TestStaleTarget(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	f.append(f.mailbox("user.bob"), letter(0))
	old, err := f.Exists(bg, "user.bob")
	must(t, err)
	must(t, f.Delete(bg, "user.bob"))
	send := func() error {
		return f.Deliver(bg, f.stage(letter(1), Source{}), []Target{{Name: "user.bob", Found: old}})[0]
	}
	if err := send(); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
	f.create("user.bob")
	must(t, send())
	equal(t, "made again", f.body(f.mailbox("user.bob"), 1), letter(1))
}

// TestRestoredFolder: someone puts a mailbox's folder back from a backup, or
// copies one over another; reconstruct believes .mailbox, but never twice.
func TestRestoredFolder(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	f.create("user.ann")
	for i := range 3 {
		f.append(f.mailbox("user.bob"), letter(i))
	}
	f.close()
	must(t, os.RemoveAll(f.path("user.ann")))
	must(t, copyTree(f.path("user.bob"), f.path("user.ann")))
	f.open()
	must(t, f.Reconstruct(bg, "user.ann"))
	f.now.Add(int64(5 * time.Second))
	b, a := f.mailbox("user.bob"), f.mailbox("user.ann")
	if a.ID() == b.ID() {
		t.Error("two mailboxes with one uniqueid")
	}
	equal(t, "bob", f.view(b).Len(), 3)
	equal(t, "ann", f.view(a).Len(), 3)
}
