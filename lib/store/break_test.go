package store

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// another opens the same store once more, as another process does.
func (f *fixture) another() *fixture {
	f.t.Helper()
	o := &fixture{t: f.t, dir: f.dir, conf: f.conf, now: f.now}
	o.open()
	f.t.Cleanup(func() {
		if o.Store != nil {
			o.close()
		}
	})
	return o
}

func (f *fixture) deliver(name mailbox.Name, text string) error {
	f.t.Helper()
	return f.Deliver(bg, f.stage(text, Source{}), []Target{{Name: name}})[0]
}

// TestRenamedElsewhere: what one process knows of a mailbox does not keep mail
// from it after another one renamed it, deleted it, or made it anew.
func TestRenamedElsewhere(t *testing.T) {
	f := newFixture(t)
	o := f.another()
	f.create("user.bob")
	f.create("user.bob.a")
	must(t, f.deliver("user.bob.a", letter(1)))
	found, err := f.Exists(bg, "user.bob.a")
	must(t, err)
	must(t, o.Rename(bg, "user.bob.a", "user.bob.b", ""))
	must(t, f.deliver("user.bob.b", letter(2)))
	if err := f.Deliver(bg, f.stage(letter(3), Source{}), []Target{{Name: "user.bob.a", Found: found}})[0]; !errors.Is(err, ErrNotFound) {
		t.Errorf("delivery to the old name: %v", err)
	}
	must(t, o.Rename(bg, "user.bob.b", "user.bob.b", "two")) // another partition
	must(t, f.deliver("user.bob.b", letter(4)))
	_, err = f.Status(bg, "user.bob.b")
	must(t, err)
	_, err = f.Lookup(bg, "user.bob.b")
	must(t, err)
	equal(t, "messages", f.view(f.mailbox("user.bob.b")).Len(), 3)
	must(t, o.Delete(bg, "user.bob.b"))
	o.create("user.bob.b")
	must(t, f.deliver("user.bob.b", letter(5)))
	m := o.mailbox("user.bob.b")
	equal(t, "messages", o.view(m).Len(), 1)
}

// TestLostVolume: mail for a mailbox that is in the list, but not where it
// should be, waits; it does not bounce.
func TestLostVolume(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	_, err := f.Create(bg, Entry{Name: "user.ann", Partition: "two"})
	must(t, err)
	must(t, f.deliver("user.ann", letter(1)))
	f.close()
	f.open()
	must(t, os.Rename(f.dir+"/spool2", f.dir+"/spool2.away"))
	check := func(what string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("delivery", f.deliver("user.ann", letter(2)))
	_, err = f.Open(bg, "user.ann", User{ID: "ann"})
	check("opening", err)
	_, err = f.Status(bg, "user.ann")
	check("status", err)
	must(t, f.deliver("user.bob", letter(3)))
	f.close()
	must(t, os.Mkdir(f.dir+"/spool2", 0o700)) // the mount point
	f.open()
	check("delivery", f.deliver("user.ann", letter(2)))
	_, err = f.Create(bg, Entry{Name: "user.carl", Partition: "two"})
	check("creation", err)
	_, err = f.RebuildList(bg, true)
	must(t, err)
	_, err = f.Exists(bg, "user.ann")
	must(t, err)
	f.close()
	must(t, os.Remove(f.dir+"/conf/mailboxes.db"))
	if s, err := Open(bg, f.conf); err == nil {
		s.Close()
		t.Error("a list without user.ann was made")
	}
	must(t, os.Remove(f.dir+"/spool2"))
	must(t, os.Rename(f.dir+"/spool2.away", f.dir+"/spool2"))
	f.conf.BootID = "boot2"
	f.open()
	must(t, f.deliver("user.ann", letter(4)))
	v := f.view(f.mailbox("user.ann"))
	equal(t, "messages", v.Len(), 2)
	equal(t, "UIDNEXT after an orderly stop without the volume", v.Status().UIDNext, 3)
	// The volume goes while the mailbox is open.
	must(t, os.Rename(f.dir+"/spool2", f.dir+"/spool2.away"))
	check("delivery", f.deliver("user.ann", letter(5)))
	must(t, os.Rename(f.dir+"/spool2.away", f.dir+"/spool2"))
	must(t, f.deliver("user.ann", letter(6)))
}

// TestOrderlyStop: any part may stop and start, or be killed, while others go on.
func TestOrderlyStop(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	must(t, f.deliver("user.bob", letter(1)))
	f.die()
	o := f.another()
	for i := range 3 {
		f.open()
		p := f.another()
		must(t, f.deliver("user.bob", letter(2)))
		p.close()
		if i == 1 {
			f.die()
		} else {
			f.close()
		}
	}
	o.die()
	f.open()
	must(t, f.deliver("user.bob", letter(2)))
	f.pass(time.Minute)
	f.close()
	f.conf.BootID = "boot2"
	f.open()
	equal(t, "UIDNEXT", f.view(f.mailbox("user.bob")).Status().UIDNext, 6)
}

// TestRenamedHierarchy: a renaming of several mailboxes that is interrupted is
// finished when the store is opened next; one that fails is undone.
func TestRenamedHierarchy(t *testing.T) {
	for _, step := range []string{"move", "moved"} {
		for n := 1; n <= 3; n++ {
			f := newFixture(t)
			f.create("user.bob")
			names := []mailbox.Name{"user.bob.a", "user.bob.a.b", "user.bob.a.b.c"}
			for i, name := range names {
				f.create(name)
				must(t, f.deliver(name, letter(i)))
			}
			count := 0
			f.Store.conf.Fault = func(s string) error {
				if s == step {
					if count++; count == n {
						return unix.EIO
					}
				}
				return nil
			}
			if err := f.Rename(bg, "user.bob.a", "user.bob.z", ""); err == nil {
				t.Fatal("no error")
			}
			for i, name := range names {
				equal(t, step+" undone", f.body(f.mailbox(name), 1), letter(i))
				must(t, f.deliver(name, letter(7)))
			}
			// As one does who dies there: nothing is undone.
			count = 0
			func() {
				defer func() { _ = recover() }()
				f.Store.conf.Fault = func(s string) error {
					if s == step {
						if count++; count == n {
							panic("dies")
						}
					}
					return nil
				}
				_ = f.Rename(bg, "user.bob.a", "user.bob.z", "")
			}()
			f.die()
			f.open()
			for i, name := range names {
				to := name.Rename("user.bob.a", "user.bob.z")
				if _, err := f.Exists(bg, name); !errors.Is(err, ErrNotFound) {
					t.Errorf("%s %d: %s: %v", step, n, name, err)
				}
				m := f.mailbox(to)
				equal(t, step+" finished", f.body(m, 1), letter(i))
				equal(t, "messages", f.view(m).Len(), 2)
			}
		}
	}
}

// TestSyncInTime: rule 13's second holds for many mailboxes, though each sync takes
// as long as on a slow disk.
func TestSyncInTime(t *testing.T) {
	f := newFixture(t)
	const boxes = 200
	var synced, now, most atomic.Int32
	f.Store.conf.Fault = func(s string) error {
		if s == "index sync" {
			n := now.Add(1)
			for m := most.Load(); m < n && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(15 * time.Millisecond)
			now.Add(-1)
			synced.Add(1)
		}
		return nil
	}
	for i := range boxes {
		name := mailbox.Name(fmt.Sprintf("user.u%d", i))
		f.create(name)
		must(t, f.deliver(name, letter(1)))
		m := f.mailbox(name)
		f.change(m, SetOf(1), FlagOp{Flags: FlagFlagged})
		m.Close()
	}
	f.now.Add(int64(syncAfter))
	f.SyncIndexes(bg)
	if most.Load() < manySyncs/2 {
		t.Errorf("%d mailboxes were synced %d at a time", boxes, most.Load())
	}
	equal(t, "synced", synced.Load(), boxes)
	f.SyncIndexes(bg)
	equal(t, "synced", synced.Load(), boxes)
}

// TestListCache: what one process keeps of the list is never older than what another
// one was told has changed.
func TestListCache(t *testing.T) {
	f := newFixture(t)
	o := f.another()
	f.create("user.bob")
	for i := range 200 {
		a, b := f, o
		if i%2 == 1 {
			a, b = o, f
		}
		r := Rights(i + 1)
		must(t, a.Update(bg, "user.bob", func(e *Entry) error { e.ACL = e.ACL.Set("ann", r); return nil }))
		for _, s := range []*fixture{a, b, b} {
			e, err := s.Exists(bg, "user.bob")
			must(t, err)
			if got := e.ACL.Get("ann"); got != r {
				t.Fatalf("round %d: %v, want %v", i, got, r)
			}
		}
	}
	// One who died in the middle of a change.
	db, err := o.list.open(bg)
	must(t, err)
	gen, _ := db.generation()
	must(t, db.setGeneration(gen+1))
	if _, err := db.Exec(`UPDATE mailboxes SET acl = ''`); err != nil {
		t.Fatal(err)
	}
	e, err := f.Exists(bg, "user.bob")
	must(t, err)
	equal(t, "ACL", len(e.ACL), 0)
	f.create("user.ann")
	if _, calm := db.generation(); !calm {
		t.Error("still odd after the next change")
	}
}

// TestListTo: what others let a user see is found, and no more, after each change.
func TestListTo(t *testing.T) {
	f := newFixture(t)
	ann := User{ID: "ann", Groups: []string{"staff"}}
	for _, n := range []mailbox.Name{"user.ann", "user.bob", "user.bob.a", "user.bob.b", "lists.go", "lists.c", "user.carl"} {
		f.create(n)
	}
	grant := func(n mailbox.Name, id string, r Rights) {
		must(t, f.Update(bg, n, func(e *Entry) error { e.ACL = e.ACL.Set(id, r); return nil }))
	}
	seen := func() (out []mailbox.Name) {
		for e, err := range f.List(bg, Query{To: &ann}) {
			must(t, err)
			if e.Name.Owner() != "ann" {
				out = append(out, e.Name)
			}
		}
		return out
	}
	equal(t, "nothing", len(seen()), 0)
	grant("user.bob.a", "ann", RightLookup|RightRead)
	grant("user.bob.b", "anyone", RightPost)
	grant("user.carl", "group:staff", RightLookup)
	grant("lists.go", "anyone", RightLookup)
	grant("lists.c", "anyone", RightLookup)
	grant("lists.c", "-ann", RightLookup)
	equal(t, "granted", fmt.Sprint(seen()), "[lists.go user.bob.a user.carl]")
	grant("lists.c", "-ann", 0)
	grant("user.carl", "group:staff", 0)
	must(t, f.Rename(bg, "user.bob.a", "user.bob.z", ""))
	must(t, f.Delete(bg, "lists.go"))
	equal(t, "changed", fmt.Sprint(seen()), "[lists.c user.bob.z]")
	// A list of an older version, and one that was lost.
	db, err := f.list.open(bg)
	must(t, err)
	for _, q := range []string{`DROP TABLE grants`, `UPDATE facts SET value = 1 WHERE name = 'complete'`} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	f.close()
	f.open()
	equal(t, "upgraded", fmt.Sprint(seen()), "[lists.c user.bob.z]")
	must(t, os.Remove(f.dir+"/conf/mailboxes.db"))
	equal(t, "made again", fmt.Sprint(seen()), "[lists.c user.bob.z]")
}

// TestListIsQuick: a user's LIST does not go through everybody's mailboxes.
func TestListIsQuick(t *testing.T) {
	f := newFixture(t)
	const users = 100_000
	if testing.Short() {
		t.Skip("a hundred thousand users take a few seconds")
	}
	must(t, f.list.change(bg, func(tx *sql.Tx) error {
		for i := range users {
			name := mailbox.Inbox(fmt.Sprintf("u%d", i))
			e := Entry{Name: name, ID: newID(), Partition: "default", UIDValidity: 1, ACL: ACL{{name.Owner(), AllRights}, {"anyone", RightPost}}}
			if err := put(bg, tx, &e); err != nil {
				return err
			}
		}
		return nil
	}))
	f.create("user.u7.Sent")
	must(t, f.list.change(bg, func(tx *sql.Tx) error {
		return put(bg, tx, &Entry{Name: "user.u9", ID: newID(), Partition: "default", UIDValidity: 1, ACL: ACL{{"u7", RightLookup}}})
	}))
	start := cpuTime(t)
	const rounds = 100
	n := 0
	for range rounds {
		for _, q := range []Query{{Owner: "u7"}, {To: &User{ID: "u7"}}} {
			for _, err := range f.List(bg, q) {
				must(t, err)
				n++
			}
		}
	}
	equal(t, "entries", n, 3*rounds)
	if d := (cpuTime(t) - start) / rounds; d > 20*time.Millisecond {
		t.Errorf("a LIST takes %v", d)
	} else {
		t.Logf("a LIST takes %v", d)
	}
}

// TestCacheIsTidied: .cache does not keep the summaries of what was expunged, and
// whoever is interrupted while it is written anew loses none.
func TestCacheIsTidied(t *testing.T) {
	for _, fail := range []bool{false, true} {
		f := newFixture(t)
		f.create("user.bob")
		m := f.mailbox("user.bob")
		for i := range 400 {
			head := fmt.Sprintf("Subject: letter %d\r\nReferences: %s\r\n\r\n", i, strings.Repeat(" <reference@to.something>\r\n", 300))
			f.append(m, head)
		}
		big, err := os.Stat(f.path("user.bob", cacheName))
		must(t, err)
		if big.Size() < 2*cacheSlack {
			t.Fatalf(".cache has %d octets: the test can't fail", big.Size())
		}
		old := f.view(m)
		_, err = m.Expunge(bg, UIDSet{{11, 400}})
		must(t, err)
		f.Store.conf.Fault = func(s string) error {
			if fail && s == "cache" {
				return unix.ENOSPC
			}
			return nil
		}
		f.pass(6 * time.Second)
		small, err := os.Stat(f.path("user.bob", cacheName))
		must(t, err)
		if small.Size() > big.Size()/10 {
			t.Errorf(".cache has %d octets of %d", small.Size(), big.Size())
		}
		f.append(m, letter(500))
		n := 0
		for s, err := range m.Summaries(bg, UIDSet{{1, 1 << 31}}) {
			must(t, err)
			want := fmt.Sprintf("letter %d", s.UID-1)
			if s.UID > 400 {
				want = "letter 500"
			}
			if !strings.Contains(string(s.Summary.Envelope), want) {
				t.Errorf("UID %d: %s", s.UID, s.Summary.Envelope)
			}
			n++
		}
		equal(t, "summaries", n, 11)
		for c := range f.view(m).Since(old) {
			if c.Kind == Changed {
				t.Errorf("UID %d changed", c.Message.UID)
			}
		}
	}
}

// TestSyncCounts: two syncs make a message durable, and one more for each further
// one that comes with it.
func TestSyncCounts(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	f.append(m, letter(1)) // the first one raises the ceilings
	count := 0
	f.Store.conf.Fault = func(s string) error {
		if strings.HasPrefix(s, "fsync") {
			count++
		}
		return nil
	}
	f.append(m, letter(2))
	equal(t, "syncs of an APPEND", count, 2)
	count = 0
	must(t, f.deliver("user.bob", letter(3)))
	equal(t, "syncs of a delivery", count, 2)
	count = 0
	var drafts []*Draft
	for i := range 10 {
		drafts = append(drafts, f.stage(letter(i), Source{}))
	}
	_, err := m.Append(bg, drafts...)
	must(t, err)
	equal(t, "syncs of ten messages at once", count, 11)
	count = 0
	f.pass(time.Second)
	equal(t, "syncs afterwards", count, 0)
}

// cpuTime is the processor time that this process has used.
func cpuTime(t *testing.T) time.Duration {
	var u unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestMovedByHand: a list made anew names directories that were renamed, swapped or
// copied by hand, each once and with an id of its own.
func TestMovedByHand(t *testing.T) {
	f := newFixture(t)
	for _, u := range []string{"ann", "bob", "cid"} {
		f.create(mailbox.Inbox(u))
		must(t, f.deliver(mailbox.Inbox(u), letter(int(u[0]))))
	}
	f.close()
	at := func(u string) string { return filepath.Join(f.dir, "spool", mailbox.Inbox(u).Path()) }
	for _, m := range [][2]string{{"ann", "dan"}, {"bob", "x"}, {"cid", "bob"}, {"x", "cid"}} {
		must(t, os.Rename(at(m[0]), at(m[1])))
	}
	must(t, os.CopyFS(at("eve"), os.DirFS(at("dan"))))
	f.open()
	found, err := f.RebuildList(bg, true)
	must(t, err)
	equal(t, "found", found, 4)
	if _, err := f.Exists(bg, "user.ann"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the old name: %v", err)
	}
	f.pass(3 * time.Second) // what was copied is old enough to be looked at
	ids := map[ID]bool{}
	for u, was := range map[string]string{"dan": "ann", "bob": "cid", "cid": "bob", "eve": "ann"} {
		must(t, f.Reconstruct(bg, mailbox.Inbox(u)))
		m := f.mailbox(mailbox.Inbox(u))
		equal(t, u, f.body(m, f.view(m).At(0).UID), letter(int(was[0])))
		e, err := f.list.get(bg, mailbox.Inbox(u))
		must(t, err)
		ids[e.ID] = true
		m.Close()
	}
	equal(t, "ids", len(ids), 4)
}
