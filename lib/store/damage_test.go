package store

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// TestDamagedIndex changes octets of .index at random places: never is there another
// answer than before, and never one that a client knows to be older.
func TestDamagedIndex(t *testing.T) {
	f := newFixture(t)
	m := f.populate("user.bob")
	f.pass(10 * time.Second)
	// The last three commits are each in the header only.
	f.change(m, SetOf(1), FlagOp{Mode: SetFlags, Flags: FlagFlagged})
	f.pass(10 * time.Second)
	_, err := m.Recent(bg, true)
	must(t, err)
	want, st := f.describe(m), f.view(m).Status()
	path := f.path("user.bob", indexName)
	good, err := os.ReadFile(path)
	must(t, err)
	m.Close()
	f.close()
	r := rand.New(rand.NewPCG(7, 7))
	for round := range 60 {
		bad := bytes.Clone(good)
		n := 1 + r.IntN(3)
		for range n {
			at, length := r.IntN(len(bad)), 1+r.IntN(8)
			if r.IntN(3) == 0 {
				at = r.IntN(recordsAt)
			}
			for i := at; i < min(at+length, len(bad)); i++ {
				bad[i] ^= byte(1 + r.IntN(255))
			}
		}
		if r.IntN(10) == 0 {
			bad = bad[:r.IntN(len(bad))]
		}
		f.open()
		must(t, os.WriteFile(path, bad, 0o600))
		m = f.mailbox("user.bob")
		if got := f.describe(m); got != want {
			t.Fatalf("round %d: got\n%s\nwant\n%s", round, got, want)
		}
		now := f.view(m).Status()
		if now.UIDNext < st.UIDNext || now.HighestModSeq < st.HighestModSeq || now.Messages != st.Messages || now.Unseen != st.Unseen {
			t.Fatalf("round %d: %+v after %+v", round, now, st)
		}
		m.Close()
		f.close()
	}
}

// TestDamagedSlot: whichever header slot is damaged, the last STORE, whose flags no
// name says yet, is not forgotten in silence: the ModSeq goes up.
func TestDamagedSlot(t *testing.T) {
	for slot := range 2 {
		f := newFixture(t)
		f.create("user.bob")
		m := f.mailbox("user.bob")
		f.append(m, letter(1))
		for i := range 3 {
			f.change(m, SetOf(1), FlagOp{Mode: SetFlags, Flags: Flags(1) << i})
		}
		st := f.view(m).Status()
		file, err := os.OpenFile(f.path("user.bob", indexName), os.O_WRONLY, 0)
		must(t, err)
		_, err = file.WriteAt([]byte{0xff, 0xff}, int64(slot*slotStep+40))
		must(t, err)
		file.Close()
		o := f.another()
		om := o.mailbox("user.bob")
		now := o.view(om).Status()
		if now.HighestModSeq <= st.HighestModSeq || now.UIDNext < st.UIDNext {
			t.Errorf("slot %d: %+v after %+v", slot, now, st)
		}
	}
}

// TestNewerIndex: an index that a newer program has written is not touched.
func TestNewerIndex(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	f.append(m, letter(1))
	id := m.ID()
	m.Close()
	f.close()
	path := f.path("user.bob", indexName)
	b, err := os.ReadFile(path)
	must(t, err)
	for slot := range 2 {
		s := b[slot*slotStep:]
		s[15]++ // of the magic number
		sum := sealOf(id, 0).sum(int64(slot)*slotStep, s[8:slotSize])
		s[0], s[1], s[2], s[3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
	}
	must(t, os.WriteFile(path, b, 0o600))
	f.open()
	if _, err := f.Open(bg, "user.bob", User{}); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("opened: %v", err)
	}
	if err := f.deliver("user.bob", letter(2)); err == nil {
		t.Error("delivered into it")
	}
	now, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(now, b) {
		t.Error("it was changed")
	}
}

// TestUIDNextIsToldLate: while a delivery is under way nobody is told a UIDNEXT that
// is greater than the UID of the message to come.
func TestUIDNextIsToldLate(t *testing.T) {
	f := newFixture(t)
	o := f.another()
	f.create("user.bob")
	m, om := f.mailbox("user.bob"), o.mailbox("user.bob")
	f.append(m, letter(1))
	f.Store.conf.Fault = func(step string) error {
		if step == "linked" {
			for _, s := range []*fixture{f, o} {
				st, err := s.Status(bg, "user.bob")
				must(t, err)
				equal(t, "STATUS", st.UIDNext, 2)
			}
			equal(t, "here", f.view(m).Status().UIDNext, 2)
			equal(t, "elsewhere", f.view(om).Status().UIDNext, 2)
		}
		return nil
	}
	equal(t, "UID", f.append(m, letter(2)), 2)
	equal(t, "afterwards", f.view(om).Status().UIDNext, 3)
}

// TestFailedSyncOfMailbox: after a failed sync of .mailbox nobody relies on what it
// says: it is written again before UIDs are given by it.
func TestFailedSyncOfMailbox(t *testing.T) {
	for fails := 1; fails <= 2; fails++ { // the file; its name
		f := newFixture(t)
		f.create("user.bob")
		m := f.mailbox("user.bob")
		count := 0
		f.Store.conf.Fault = func(s string) error {
			if strings.HasSuffix(s, metaName) {
				if count++; count == fails {
					return unix.EIO
				}
			}
			return nil
		}
		_, err := m.Append(bg, f.stage(letter(1), Source{}))
		if err == nil {
			t.Fatal("no error")
		}
		equal(t, "syncs", count, fails)
		u := f.append(m, letter(2))
		if count < fails+2 {
			t.Errorf("failure %d: UID %d was given by a .mailbox that is not durable", fails, u)
		}
		count = 0
		_, err = m.Change(bg, SetOf(u), FlagOp{Flags: FlagSeen, Keywords: []string{"x"}})
		if err == nil {
			t.Fatal("no error")
		}
		_, err = m.Change(bg, SetOf(u), FlagOp{Flags: FlagSeen, Keywords: []string{"x"}})
		must(t, err)
		if count < fails+2 {
			t.Errorf("failure %d: a keyword stands in a .mailbox that is not durable", fails)
		}
	}
}

// TestTwoNamesOfOne: a listing may have both names of a file that was just renamed.
func TestTwoNamesOfOne(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	f.append(m, letter(1))
	name := f.files("user.bob", "cur")[0]
	other := name + "S"
	for range 2 {
		l := m.b.sortOut([]string{name, other})
		equal(t, "foreign", len(l.foreign), 0)
		equal(t, "ours", l.ours[1].name, f.files("user.bob", "cur")[0])
		must(t, os.Rename(f.path("user.bob", "cur", name), f.path("user.bob", "cur", other)))
		name, other = other, name
	}
	must(t, os.WriteFile(f.path("user.bob", "cur", other), []byte("x"), 0o600))
	l := m.b.sortOut([]string{name, other})
	equal(t, "two files", fmt.Sprint(l.foreign), fmt.Sprint([]string{max(name, other)}))
}

// TestInodeAgain: an idle session whose descriptors were closed sees a new index,
// though its inode may have the old one's number, and it is as long.
func TestInodeAgain(t *testing.T) {
	f := newFixture(t)
	f.close()
	f.conf.MaxOpen = 1
	f.open()
	f.create("user.bob")
	f.create("user.ann")
	m, n := f.mailbox("user.bob"), f.mailbox("user.ann")
	f.append(m, letter(1))
	f.append(n, letter(1))
	o := f.another()
	for range 10 {
		before := f.view(m).Status()
		f.view(n) // closes the other's
		for range 2 {
			must(t, o.Reconstruct(bg, "user.bob"))
		}
		if now := f.view(m).Status(); now.HighestModSeq <= before.HighestModSeq {
			t.Fatalf("%+v after %+v, and two calls of reconstruct", now, before)
		}
	}
}

// TestUIDValidityAfterLoss: the list that knew of the deleted ones is lost, and many
// were made within a second.
func TestUIDValidityAfterLoss(t *testing.T) {
	f := newFixture(t)
	var e Entry
	for i := range 20 {
		e = f.create(mailbox.Name(fmt.Sprintf("user.bob%d", i)))
	}
	must(t, f.Delete(bg, e.Name))
	must(t, os.Remove(filepath.Join(f.dir, "conf", "mailboxes.db")))
	if n := f.create(e.Name); n.UIDValidity <= e.UIDValidity {
		t.Errorf("UIDVALIDITY %d after %d", n.UIDValidity, e.UIDValidity)
	}
}

// TestManyLinks: a file can have 65,000 names on ext4; whoever comes then gets a copy,
// which is written without the lock.
func TestManyLinks(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 65,000 links")
	}
	f := newFixture(t)
	f.create("user.bob")
	f.create("user.ann")
	m := f.mailbox("user.bob")
	u := f.append(m, letter(1))
	file := f.path("user.bob", "cur", f.files("user.bob", "cur")[0])
	dir := t.TempDir()
	n := 0
	for ; ; n++ {
		err := os.Link(file, filepath.Join(dir, fmt.Sprint(n)))
		if err != nil {
			break
		}
		if n > 70_000 {
			t.Skip("more links than that are possible here")
		}
	}
	f.unlockedSyncs(t, "user.ann")
	to := f.mailbox("user.ann")
	pairs, err := m.CopyTo(bg, to, SetOf(u), false)
	must(t, err)
	equal(t, "copy", f.body(to, pairs[0].To), letter(1))
	equal(t, "the original", f.body(m, u), letter(1))
	equal(t, "UIDNEXT", f.view(to).Status().UIDNext, pairs[0].To+1)
	equal(t, ".stage", len(f.stageFiles()), 0)
}

// unlockedSyncs complains when a message is synced while a mailbox is locked. Where
// other is set, no link can be made until the next sync, as between file systems.
func (f *fixture) unlockedSyncs(t *testing.T, name mailbox.Name) (other *bool) {
	other = new(bool)
	e, err := f.Exists(bg, name)
	must(t, err)
	path, err := f.dirOf(e.Partition, name)
	must(t, err)
	f.Store.conf.Fault = func(step string) error {
		if step == "link" && *other {
			return unix.EXDEV
		}
		if step == "fsync stage" {
			*other = false
			d, err := os.Open(path)
			must(t, err)
			defer d.Close()
			if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
				t.Errorf("%s is locked while a message is synced", name)
			}
		}
		return nil
	}
	return other
}

// TestOtherPartition: copies and deliveries to another partition.
func TestOtherPartition(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	_, err := f.Create(bg, Entry{Name: "user.ann", Partition: "two"})
	must(t, err)
	other := f.unlockedSyncs(t, "user.ann")
	d := f.stage(letter(1), Source{Internal: time.Unix(1_000_000_000, 0)})
	*other = true
	for _, err := range f.Deliver(bg, d, []Target{{Name: "user.ann"}, {Name: "user.bob"}}) {
		must(t, err)
	}
	equal(t, "copied", *other, false)
	m, to := f.mailbox("user.bob"), f.mailbox("user.ann")
	f.append(m, letter(2))
	f.change(m, SetOf(1, 2), FlagOp{Flags: FlagSeen})
	*other = true
	_, err = m.CopyTo(bg, to, SetOf(1, 2), true)
	must(t, err)
	equal(t, "copied", *other, false)
	equal(t, "left", f.view(m).Len(), 0)
	v := f.view(to)
	equal(t, "there", v.Len(), 3)
	equal(t, "date", v.At(1).Internal, 1_000_000_000)
	equal(t, "body", f.body(to, v.At(2).UID), letter(2))
	for _, p := range []string{"spool", "spool2"} {
		left, err := os.ReadDir(filepath.Join(f.dir, p, stageDir))
		must(t, err)
		equal(t, "left in "+p, len(left), 0)
	}
}

// TestPartitionInterrupted: a mailbox that is moved to another partition by one who
// dies is whole, wherever it is then, though the list be lost as well.
func TestPartitionInterrupted(t *testing.T) {
	for _, step := range []string{"copy", "copied", "listed"} {
		for _, lost := range []bool{false, true} {
			f := newFixture(t)
			f.create("user.bob")
			m := f.populate("user.bob.a")
			f.pass(10 * time.Second)
			want := f.describe(m)
			n := 3
			f.Store.conf.Fault = func(s string) error {
				if s == step {
					if n--; n == 0 || step != "copy" {
						panic("dies")
					}
				}
				return nil
			}
			func() {
				defer func() { _ = recover() }()
				_ = f.Rename(bg, "user.bob.a", "user.bob.a", "two")
				t.Errorf("never came to %s", step)
			}()
			f.die()
			if lost {
				must(t, os.Remove(filepath.Join(f.dir, "conf", "mailboxes.db")))
			}
			f.open()
			m = f.mailbox("user.bob.a")
			equal(t, step, f.describe(m), want)
			must(t, f.deliver("user.bob.a", letter(9)))
			// The list is lost later, with what was left still there.
			f.close()
			must(t, os.Remove(filepath.Join(f.dir, "conf", "mailboxes.db")))
			f.open()
			m = f.mailbox("user.bob.a")
			equal(t, step+": messages", f.view(m).Len(), 7)
			to := map[string]string{"two": "default", "default": "two"}[func() string { e, _ := f.Exists(bg, "user.bob.a"); return e.Partition }()]
			must(t, f.Rename(bg, "user.bob.a", "user.bob.a", to))
			m = f.mailbox("user.bob.a")
			f.now.Add(int64(time.Minute))
			equal(t, step+": moved", f.view(m).Len(), 7)
			equal(t, "body", f.body(m, 1), letter(0))
			f.close()
		}
	}
}

func (f *fixture) usage(root mailbox.Name) Quota {
	f.t.Helper()
	u, err := f.Usage(bg, root)
	must(f.t, err)
	return u
}

func (f *fixture) quotaRoot(n mailbox.Name, q Quota) {
	f.t.Helper()
	must(f.t, f.Update(bg, n, func(e *Entry) error { e.IsQuotaRoot, e.Quota = true, q; return nil }))
}

// TestUsageIsExact: whoever else counts meanwhile, or dies.
func TestUsageIsExact(t *testing.T) {
	f := newFixture(t)
	o := f.another()
	f.create("user.bob")
	f.create("user.bob.b")
	f.quotaRoot("user.bob", Quota{-1, 100})
	m := f.mailbox("user.bob.b")
	size := int64(len(letter(1)))
	at := ""
	f.Store.conf.Fault = func(s string) error {
		if s == at {
			must(t, o.forgetUsage("user.bob"))
			o.usage("user.bob")
		}
		return nil
	}
	for _, at = range []string{"", "link", "record"} {
		f.append(m, letter(1))
		must(t, f.deliver("user.bob", letter(1)))
	}
	equal(t, "six", f.usage("user.bob"), Quota{6 * size, 6})
	_, err := m.Expunge(bg, SetOf(1))
	must(t, err)
	equal(t, "expunged", f.usage("user.bob"), Quota{5 * size, 5})

	// Foreign hands remove one.
	at = ""
	f.now.Store(time.Now().UnixNano())
	f.pass(10 * time.Second)
	time.Sleep(20 * time.Millisecond) // some file systems tell times apart by the tick only
	for _, n := range f.files("user.bob.b", "cur") {
		if strings.Contains(n, ".U2.") {
			must(t, os.Remove(f.path("user.bob.b", "cur", n)))
		}
	}
	f.pass(2 * time.Second)
	equal(t, "messages", f.view(m).Len(), 1)
	equal(t, "removed by others", f.usage("user.bob"), Quota{4 * size, 4})

	// One dies.
	for _, step := range []string{"busy", "linked", "record"} {
		f.Store.conf.Fault = func(s string) error {
			if s == step {
				panic("dies")
			}
			return nil
		}
		func() {
			defer func() { _ = recover() }()
			_, _ = m.Append(bg, f.stage(letter(1), Source{}))
		}()
		f.die()
		f.open()
		m = f.mailbox("user.bob.b")
		f.change(m, SetOf(3), FlagOp{Flags: FlagSeen})
		n := int64(f.view(m).Len() + f.view(f.mailbox("user.bob")).Len())
		equal(t, "died at "+step, f.usage("user.bob"), Quota{n * size, n})
	}
	must(t, f.Delete(bg, "user.bob.b"))
	equal(t, "deleted", f.usage("user.bob").Messages, 3)
}

// TestQuotaRootFollows a renaming, for those below it, also one that is undone.
func TestQuotaRootFollows(t *testing.T) {
	f := newFixture(t)
	names := []mailbox.Name{"user.bob", "user.bob.a", "user.bob.a.b", "user.bob.a.b.c"}
	for _, n := range names {
		f.create(n)
		must(t, f.deliver(n, letter(1)))
	}
	f.quotaRoot("user.bob", Quota{-1, 10})
	f.quotaRoot("user.bob.a", Quota{-1, 4})
	equal(t, "outer", f.usage("user.bob").Messages, 1)
	equal(t, "inner", f.usage("user.bob.a").Messages, 3)
	check := func(what string, under, root mailbox.Name) {
		t.Helper()
		for e, err := range f.List(bg, Query{Under: under}) {
			must(t, err)
			equal(t, what+": root in the list of "+string(e.Name), e.QuotaRoot, root)
			equal(t, what+": root of "+string(e.Name), f.mailbox(e.Name).b.state.Load().meta.quotaRoot, root)
		}
		equal(t, what, f.usage(root).Messages, 3)
	}
	for i := 1; i <= 3; i++ {
		n := i
		f.Store.conf.Fault = func(s string) error {
			if s == "moved" {
				if n--; n == 0 {
					return unix.EIO
				}
			}
			return nil
		}
		if err := f.Rename(bg, "user.bob.a", "user.bob.z", ""); err == nil {
			t.Fatal("no error")
		}
		check("undone", "user.bob.a", "user.bob.a")
	}
	f.Store.conf.Fault = nil
	must(t, f.Rename(bg, "user.bob.a", "user.bob.z", ""))
	check("renamed", "user.bob.z", "user.bob.z")
	must(t, f.deliver("user.bob.z.b.c", letter(2)))
	if err := f.deliver("user.bob.z.b", letter(2)); err == nil {
		t.Error("no limit any more")
	}
	// Out of one root, into another.
	f.create("user.ann")
	f.quotaRoot("user.ann", Quota{-1, 10})
	must(t, f.Rename(bg, "user.bob.z.b.c", "user.ann.c", ""))
	equal(t, "bob", f.usage("user.bob.z").Messages, 2)
	equal(t, "ann", f.usage("user.ann").Messages, 2)
	// And the whole user.
	must(t, f.Rename(bg, "user.ann", "user.eve", ""))
	equal(t, "eve", f.usage("user.eve").Messages, 2)
	e, err := f.Exists(bg, "user.eve.c")
	must(t, err)
	equal(t, "root", e.QuotaRoot, "user.eve")
}

// TestFewFiles: with each number of descriptors that are left, nothing is lost.
func TestFewFiles(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	f.append(m, letter(1))
	var was unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	d := f.stage(letter(2), Source{})
	null, err := os.Open(os.DevNull)
	must(t, err)
	free := uint64(null.Fd()) // the least number that is free
	null.Close()
	// Each limit between none and enough.
	var acked int
	for extra := range 8 {
		must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: free + uint64(extra), Max: was.Max}))
		d, err := f.Stage(context.Background(), Source{Reader: strings.NewReader(letter(3))})
		if err == nil {
			if _, err = m.Append(bg, d); err == nil {
				acked++
			}
		}
		must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was))
	}
	if acked == 0 || acked == 8 {
		t.Errorf("%d of 8 appended: the test can't fail", acked)
	}
	_, err = m.Append(bg, d)
	must(t, err)
	f.pass(6 * time.Second)
	v := f.view(m)
	if v.Len() < 2+acked {
		t.Errorf("%d messages, %d promised", v.Len(), 2+acked)
	}
	for i := range v.Len() {
		f.body(m, v.At(i).UID)
	}
}
