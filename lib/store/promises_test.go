package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// TestSharedSync: each is served by a sync that began after he came, and those who wait
// share one.
func TestSharedSync(t *testing.T) {
	var d dirSync
	var begun atomic.Int32
	started, goOn := make(chan struct{}, 10), make(chan struct{})
	sync1 := func() error {
		begun.Add(1)
		started <- struct{}{}
		<-goOn
		return nil
	}
	var wg sync.WaitGroup
	var early atomic.Bool
	wg.Go(func() { _ = d.wait(sync1) })
	<-started // the first one is under way
	for range 5 {
		wg.Go(func() {
			_ = d.wait(sync1)
			if begun.Load() < 2 {
				early.Store(true)
			}
		})
	}
	joined := func() bool { d.mu.Lock(); defer d.mu.Unlock(); return d.next != nil }
	for end := time.Now().Add(5 * time.Second); !joined() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	close(goOn)
	wg.Wait()
	if early.Load() {
		t.Error("served by a sync that had begun before")
	}
	if n := begun.Load(); n < 2 || n > 6 {
		t.Errorf("%d syncs", n)
	}
}

// TestNeverOverwritten: a file that has the name of the next message is not replaced.
func TestNeverOverwritten(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	f.append(m, letter(1))
	next := Message{UID: 2, Internal: f.Store.now().Unix(), Size: int64(len(letter(2)))}
	path := f.path("user.bob", "cur", next.fileName(m.b.tag))
	f.write(path, "precious")
	err := f.deliver("user.bob", letter(2))
	if !errors.Is(err, unix.EEXIST) {
		t.Errorf("delivered: %v", err)
	}
	text, err := os.ReadFile(path)
	must(t, err)
	equal(t, "the file", string(text), "precious")
	equal(t, "the next one's UID", f.append(m, letter(3)), 3)
}

// TestFewWait: no more than 64 of a process wait in the kernel for other processes.
func TestFewWait(t *testing.T) {
	f := newFixture(t)
	const n = 80
	var held []*os.File
	for i := range n {
		name := mailbox.Name(fmt.Sprintf("user.u%d", i))
		f.create(name)
		d, err := os.Open(f.path(name))
		must(t, err)
		must(t, unix.Flock(int(d.Fd()), unix.LOCK_EX))
		held = append(held, d)
	}
	var wg sync.WaitGroup
	var arrived atomic.Int32
	for i := range n {
		wg.Go(func() {
			m, err := f.Open(bg, mailbox.Name(fmt.Sprintf("user.u%d", i)), User{})
			if err == nil {
				defer m.Close()
				var x *txn
				arrived.Add(1)
				if x, err = m.(*handle).b.lock(bg, false); err == nil {
					x.end()
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	for end := time.Now().Add(20 * time.Second); (arrived.Load() < n || len(f.waiting) < maxSyncs) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	equal(t, "waiting", len(f.waiting), maxSyncs)
	for _, d := range held {
		d.Close()
	}
	wg.Wait()
}

// TestReallyMissing: what one listing did not have is looked for again.
func TestReallyMissing(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	f.append(m, letter(1))
	f.append(m, letter(2))
	must(t, os.Remove(f.path("user.bob", "cur", f.files("user.bob", "cur")[1])))
	x, err := m.b.lock(bg, true)
	must(t, err)
	defer x.end()
	missing := SetOf(1, 2)
	must(t, x.reallyMissing(&missing))
	equal(t, "missing", missing.Len(), 1)
}

// TestVerifyBeginsHistory: rule 6, where nothing of the old index can be believed.
func TestVerifyBeginsHistory(t *testing.T) {
	f := newFixture(t)
	m := f.populate("user.bob")
	f.pass(10 * time.Second)
	old := f.view(m).Status()
	meta := m.b.state.Load().meta
	must(t, os.Remove(f.path("user.bob", indexName)))
	v := f.view(m)
	st := v.Status()
	if st.UIDNext < meta.uidCeiling || st.HighestModSeq < meta.modCeiling {
		t.Errorf("%+v, the ceilings were %d and %d", st, meta.uidCeiling, meta.modCeiling)
	}
	now := m.b.state.Load().meta
	if now.uidCeiling <= st.UIDNext || now.modCeiling <= st.HighestModSeq {
		t.Errorf("the ceilings were not raised: %d, %d", now.uidCeiling, now.modCeiling)
	}
	for i := range v.Len() {
		if msg := v.At(i); msg.ModSeq != st.HighestModSeq {
			t.Errorf("UID %d has MODSEQ %d of %d", msg.UID, msg.ModSeq, st.HighestModSeq)
		}
	}
	gone, err := m.Vanished(bg, old.HighestModSeq, nil)
	must(t, err)
	if !gone.Contains(2) || !gone.Contains(7) || !gone.Contains(old.UIDNext) || gone.Contains(1) {
		t.Errorf("vanished: %s", gone)
	}
}

// TestReadersDoNotWait: who looks while another one holds the lock, or delivers, is
// answered at once, and does not take the delivery for foreign hands.
func TestReadersDoNotWait(t *testing.T) {
	f := newFixture(t)
	o := f.another()
	f.create("user.bob")
	m, om := f.mailbox("user.bob"), o.mailbox("user.bob")
	f.append(m, letter(1))
	for range 3 {
		must(t, o.deliver("user.bob", letter(2)))
		f.now.Add(int64(2 * time.Second))
		x, err := om.b.lock(bg, false)
		must(t, err)
		done := make(chan View, 1)
		go func() {
			v, err := m.View(bg)
			if err != nil {
				t.Error(err)
			}
			done <- v
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("a reader waits for a writer")
		}
		x.end()
	}
}

// TestFileHasDate: rule 1, the mtime is the INTERNALDATE, before the file is synced,
// also of a copy.
func TestFileHasDate(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	_, err := f.Create(bg, Entry{Name: "user.ann", Partition: "two"})
	must(t, err)
	at := time.Unix(1_000_000_000, 0)
	syncs, other := 0, false
	f.Store.conf.Fault = func(s string) error {
		if s == "link" && other {
			return unix.EXDEV
		}
		if s != "fsync stage" {
			return nil
		}
		other = false
		for _, p := range []string{"spool", "spool2"} {
			files, err := os.ReadDir(filepath.Join(f.dir, p, stageDir))
			must(t, err)
			for _, e := range files {
				st, err := e.Info()
				must(t, err)
				syncs++
				equal(t, "mtime at the sync", st.ModTime().Unix(), at.Unix())
			}
		}
		return nil
	}
	m := f.mailbox("user.bob")
	msgs, err := m.Append(bg, f.stage(letter(1), Source{Internal: at}))
	must(t, err)
	other = true
	_, err = m.CopyTo(bg, f.mailbox("user.ann"), SetOf(msgs[0].UID), false)
	must(t, err)
	equal(t, "syncs", syncs, 2)
}

// TestFailedSyncOfCur: after a failed sync nobody knows what the disk has: the next one
// to lock the mailbox verifies it.
func TestFailedSyncOfCur(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	f.append(m, letter(1))
	fail := true
	f.Store.conf.Fault = func(s string) error {
		if s == "sync" && fail {
			fail = false
			return unix.EIO
		}
		return nil
	}
	ceiling := m.b.state.Load().meta.modCeiling
	if err := f.deliver("user.bob", letter(2)); !errors.Is(err, unix.EIO) {
		t.Errorf("delivered: %v", err)
	}
	f.append(m, letter(3))
	if st := f.view(m).Status(); st.HighestModSeq < ceiling {
		t.Errorf("not verified: %+v", st)
	}
}

// TestThreeWays: a flag that we took away, while the name still has it, does not come
// back when others change another letter.
func TestThreeWays(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	f.append(m, letter(1))
	f.change(m, SetOf(1), FlagOp{Flags: FlagSeen})
	f.pass(10 * time.Second)
	f.change(m, SetOf(1), FlagOp{Mode: RemoveFlags, Flags: FlagSeen})
	name := f.files("user.bob", "cur")[0]
	must(t, os.Rename(f.path("user.bob", "cur", name), f.path("user.bob", "cur", name[:len(name)-1]+"FS")))
	m.b.lookSoon()
	equal(t, "flags", f.view(m).At(0).Flags, FlagFlagged)
}
