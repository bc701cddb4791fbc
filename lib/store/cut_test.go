package store

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"angarium/lib/mailbox"
	"angarium/lib/powercut"
)

// Power cuts at each step, without a volume: lib/powercut knows what is durable, and
// makes what a disk may hold that did what it was asked to do, and no more.

// cutter is a store whose power is cut again and again while it works: on copies.
type cutter struct {
	*fixture
	disk *powercut.Disk
	left string     // a sync that is left out
	rand *rand.Rand // chooses moments and states; nil: none
	cuts int

	mu       sync.Mutex
	syncs    map[string]int
	promises map[string]promise
	broken   []string
	quiet    bool // no cut now
}

// promise says what is wrong with a store after a cut, "" if it was kept.
type promise func(f *fixture) string

// ownSync: SQLite syncs at each commit (TestListIsSynced), and epoch's locks hold nothing.
func ownSync(path string) bool { return strings.HasPrefix(filepath.Base(path), "mailboxes.db") }

func newCutter(t *testing.T, leftOut string, r *rand.Rand) *cutter {
	t.Helper()
	c := &cutter{left: leftOut, rand: r, syncs: map[string]int{}, promises: map[string]promise{}}
	c.fixture = newFixture(t)
	for _, n := range []mailbox.Name{"user.bob", "user.ann"} {
		c.create(n)
	}
	c.close()
	var err error
	c.disk, err = powercut.New(c.dir, ownSync)
	must(t, err)
	c.conf.Sync = func(what string, fd int, tree bool) error {
		c.mu.Lock()
		c.syncs[what]++
		c.mu.Unlock()
		c.moment()
		if what == c.left {
			return nil
		}
		if tree {
			path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			must(t, err)
			return c.disk.SyncTree(path)
		}
		return c.disk.Sync(fd)
	}
	c.conf.Fault = func(string) error { c.moment(); return nil }
	c.open()
	t.Cleanup(func() { c.close(); c.disk.Close() })
	return c
}

// moment is one at which the power may go.
func (c *cutter) moment() {
	if c.rand == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.quiet && c.rand.IntN(5) == 0 {
		c.cut(c.rand)
	}
}

// now cuts the power between two operations: nothing but what was promised survives.
func (c *cutter) now() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == "" || len(c.broken) == 0 {
		c.cut(nil)
	}
}

func (c *cutter) cut(r *rand.Rand) {
	c.cuts++
	dir := filepath.Join(c.t.TempDir(), "cut")
	must(c.t, c.disk.Image(dir, r))
	f := &fixture{t: c.t, dir: dir, now: c.fixture.now, conf: c.conf}
	f.conf.ConfigDirectory = filepath.Join(dir, "conf")
	f.conf.Partitions = map[string]string{"default": filepath.Join(dir, "spool"), "two": filepath.Join(dir, "spool2")}
	f.conf.BootID, f.conf.Fault = "boot2", nil
	f.conf.Sync = func(string, int, bool) error { return nil }
	s, err := Open(bg, f.conf)
	if err != nil {
		c.broken = append(c.broken, fmt.Sprintf("cut %d: open: %v", c.cuts, err))
		return
	}
	f.Store = s
	for _, what := range slices.Sorted(maps.Keys(c.promises)) {
		if bad := c.promises[what](f); bad != "" {
			c.broken = append(c.broken, fmt.Sprintf("cut %d: %s: %s", c.cuts, what, bad))
		}
	}
	f.close()
	must(c.t, os.RemoveAll(dir))
}

// begin takes promises back whose matter is about to change; keep gives one.
func (c *cutter) begin(what ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range what {
		delete(c.promises, w)
	}
}

func (c *cutter) keep(what string, p promise) {
	c.mu.Lock()
	c.promises[what] = p
	c.mu.Unlock()
	c.now()
}

// peek opens a mailbox after a cut, and looks at it.
func (f *fixture) peek(name mailbox.Name, fn func(m *handle, v View) string) string {
	m, err := f.Open(bg, name, User{ID: "bob"})
	if err != nil {
		return err.Error()
	}
	defer m.Close()
	v, err := m.View(bg)
	if err != nil {
		return err.Error()
	}
	return fn(m.(*handle), v)
}

// has: the message of this UID is there, with its text, internal date, flags and keywords.
func has(name mailbox.Name, msg Message, n int, flags Flags, keywords ...string) promise {
	return func(f *fixture) string {
		return f.peek(name, func(m *handle, v View) string {
			i, ok := v.Find(msg.UID)
			if !ok {
				return fmt.Sprintf("UID %d is lost; there are %v, %v", msg.UID, uids(v), f.files(name, "cur"))
			}
			got := v.At(i)
			if got.Internal != msg.Internal || got.Flags&SystemFlags != flags {
				return fmt.Sprintf("internal date %d, was %d; flags %x, were %x", got.Internal, msg.Internal, got.Flags, flags)
			}
			for _, k := range keywords {
				if !hasKeyword(v, &got, k) {
					return fmt.Sprintf("keyword %s is lost", k)
				}
			}
			b, err := m.Body(bg, msg.UID)
			if err != nil {
				return err.Error()
			}
			defer b.Close()
			text := make([]byte, b.Size())
			if _, err := b.ReadAt(text, 0); err != nil || string(text) != letter(n) {
				return fmt.Sprintf("%v: %q", err, text)
			}
			info, err := os.Stat(f.path2(m, got))
			if err != nil {
				return err.Error()
			}
			if info.ModTime().Unix() != msg.Internal {
				return fmt.Sprintf("mtime %d is not the internal date %d", info.ModTime().Unix(), msg.Internal)
			}
			return ""
		})
	}
}

// path2 is where a message's file is, on whatever partition.
func (f *fixture) path2(m *handle, msg Message) string {
	return filepath.Join(m.b.where(), "cur", msg.fileName(m.b.tag))
}

// lacks: no message of this UID is there.
func lacks(name mailbox.Name, u UID) promise {
	return func(f *fixture) string {
		return f.peek(name, func(_ *handle, v View) string {
			if _, ok := v.Find(u); ok {
				return fmt.Sprintf("UID %d is back", u)
			}
			return ""
		})
	}
}

// counters: no UID and no ModSeq is given twice.
func counters(name mailbox.Name, st Status) promise {
	return func(f *fixture) string {
		return f.peek(name, func(m *handle, v View) string {
			now := v.Status()
			if now.UIDValidity != st.UIDValidity || now.UIDNext < st.UIDNext || now.HighestModSeq < st.HighestModSeq {
				return fmt.Sprintf("%+v; was %+v", now, st)
			}
			if u := f.append(m, letter(0)); u < st.UIDNext {
				return fmt.Sprintf("UID %d is given again", u)
			}
			return ""
		})
	}
}

// story does one of each thing that rule 13 names.
func (c *cutter) story() {
	t := c.t
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c.keep("epoch", func(f *fixture) string {
		if f.epoch == c.epoch {
			return "nobody knows that the power was cut"
		}
		return ""
	})
	bob, ann := c.mailbox("user.bob"), c.mailbox("user.ann")
	status := func(m *handle) { c.keep("counters of "+string(m.name), counters(m.name, c.view(m).Status())) }

	// 250 to two recipients.
	for i, err := range c.Deliver(bg, c.stage(letter(1), Source{Internal: c.Store.now().Add(-time.Hour)}), []Target{{Name: "user.bob"}, {Name: "user.ann"}}) {
		check(err)
		m := []*handle{bob, ann}[i]
		c.keep("delivery to "+string(m.name), has(m.name, c.view(m).At(0), 1, 0))
		status(m)
	}
	// APPEND, with a keyword that names can say and one that they can't.
	var many []string
	for i := range maxLetters + 2 {
		many = append(many, fmt.Sprintf("kw%d", i))
	}
	d := c.stage(letter(2), Source{})
	d.Flags, d.Keywords = FlagDraft, many
	msgs, err := bob.Append(bg, d)
	check(err)
	c.keep("APPEND", has("user.bob", msgs[0], 2, FlagDraft, many...))
	status(bob)

	// STORE and EXPUNGE: after a second.
	c.append(bob, letter(3))
	c.begin("APPEND")
	_, err = bob.Change(bg, SetOf(2), FlagOp{Flags: FlagFlagged})
	check(err)
	_, err = bob.Expunge(bg, SetOf(3))
	check(err)
	c.fixture.now.Add(int64(time.Second))
	c.SyncIndexes(bg)
	c.keep("STORE", has("user.bob", msgs[0], 2, FlagDraft|FlagFlagged, many...))
	c.keep("EXPUNGE", lacks("user.bob", 3))
	status(bob)
	c.pass(6 * time.Second) // names follow
	c.now()

	// COPY and MOVE.
	pairs, err := bob.CopyTo(bg, ann, SetOf(2), false)
	check(err)
	copied := msgs[0]
	copied.UID = pairs[0].To
	c.keep("COPY", has("user.ann", copied, 2, FlagDraft|FlagFlagged, many...))
	c.append(bob, letter(4))
	moved := c.view(bob).At(2)
	pairs, err = bob.CopyTo(bg, ann, SetOf(moved.UID), true)
	check(err)
	c.keep("MOVE away", lacks("user.bob", moved.UID))
	moved.UID = pairs[0].To
	c.keep("MOVE here", has("user.ann", moved, 4, 0))
	status(ann)
	c.compacted(bob, check)
	c.described(check)
	c.folders(check)
	c.keep("SUBSCRIBE", subscribed("bob", "user.bob.a", func() error { return c.Subscribe(bg, "bob", "user.bob.a", true) }))
}

// compacted: what is stored in an index that has replaced another.
func (c *cutter) compacted(m *handle, check func(error)) {
	replace := func() {
		c.quiet = true
		mode := AddFlags
		for was := m.b.state.Load().hdr.gen; m.b.state.Load().hdr.gen == was; mode = AddFlags + RemoveFlags - mode {
			_, err := m.Change(bg, SetOf(1), FlagOp{Mode: mode, Flags: FlagAnswered})
			check(err)
		}
		c.quiet = false
	}
	c.begin("delivery to user.bob")
	replace()
	// The new one's name comes to the disk with another's.
	check(c.Update(bg, "user.bob", func(e *Entry) error { e.ACL = e.ACL.Set("ann", RightLookup); return nil }))
	c.now()
	replace() // this one's by the sync of the index
	_, err := m.Change(bg, SetOf(1), FlagOp{Mode: SetFlags, Flags: FlagSeen})
	check(err)
	c.fixture.now.Add(int64(time.Second))
	c.SyncIndexes(bg)
	c.keep("STORE in a new index", has("user.bob", c.view(m).At(0), 1, FlagSeen))
}

// described: what names, .extra and dovecot-keywords say, should the index be lost later.
func (c *cutter) described(check func(error)) {
	c.create("user.ann.kw")
	m := c.mailbox("user.ann.kw")
	var keywords []string
	for i := range 3 {
		d := c.stage(letter(20+i), Source{})
		for range 12 {
			keywords = append(keywords, fmt.Sprintf("word%d", len(keywords)))
		}
		d.Keywords = keywords
		_, err := m.Append(bg, d)
		check(err)
		c.begin("keywords without an index")
		c.pass(6 * time.Second)
		have, n, msg := slices.Clone(keywords), 20+i, c.view(m).At(i)
		c.keep("keywords without an index", func(f *fixture) string {
			path := f.path("user.ann.kw", indexName)
			if err := os.Remove(path); err != nil {
				return err.Error()
			}
			return has("user.ann.kw", msg, n, 0, have...)(f)
		})
	}
}

// subscribed does so, and promises that it stays.
func subscribed(user string, name mailbox.Name, do func() error) promise {
	if err := do(); err != nil {
		return func(*fixture) string { return err.Error() }
	}
	return func(f *fixture) string {
		subs, err := f.Subscribed(bg, user)
		if err != nil || !slices.Contains(subs, name) {
			return fmt.Sprintf("%v %v", subs, err)
		}
		return ""
	}
}

// folders makes, describes, moves and deletes mailboxes.
func (c *cutter) folders(check func(error)) {
	there := func(name mailbox.Name, subject int, partition string) promise {
		return func(f *fixture) string {
			e, err := f.Lookup(bg, name)
			if err != nil || e.Partition != partition {
				return fmt.Sprintf("%+v, %v", e, err)
			}
			return f.peek(name, func(m *handle, v View) string {
				if v.Len() != 1 || !strings.Contains(f.body(m, v.At(0).UID), fmt.Sprintf("<%d@", subject)) {
					return fmt.Sprintf("%d messages", v.Len())
				}
				return ""
			})
		}
	}
	gone := func(name mailbox.Name) promise {
		return func(f *fixture) string {
			if _, err := f.Exists(bg, name); err == nil {
				return "it is back"
			}
			return ""
		}
	}
	empty := func(name mailbox.Name) promise {
		return func(f *fixture) string { return f.peek(name, func(*handle, View) string { return "" }) }
	}
	for i, n := range []mailbox.Name{"user.bob.a", "user.bob.a.deep.down"} {
		c.create(n)
		c.keep("CREATE "+string(n), empty(n))
		check(c.deliver(n, letter(10+i)))
		c.keep("mail in "+string(n), there(n, 10+i, "default"))
	}
	c.create("user.bob.plain")
	check(c.deliver("user.bob.plain", letter(12)))
	check(c.Rename(bg, "user.bob.plain", "user.bob.plain2", ""))
	c.keep("RENAME of one", there("user.bob.plain2", 12, "default"))
	check(c.Update(bg, "user.bob.a", func(e *Entry) error {
		e.ACL = e.ACL.Set("ann", RightLookup)
		e.Annotations = map[string]string{"/comment": "x"}
		e.IsQuotaRoot, e.Quota = true, Quota{1 << 20, 100}
		return nil
	}))
	described := func(name mailbox.Name) promise {
		return func(f *fixture) string {
			// What .mailbox says counts: reconstruct believes it.
			var m *meta
			bad := f.peek(name, func(h *handle, _ View) string { m = h.b.state.Load().meta; return "" })
			if bad != "" || !m.acl.Get("ann").Has(RightLookup) || m.annotations["/comment"] != "x" || m.quota.Messages != 100 {
				return fmt.Sprintf("%s %+v", bad, m)
			}
			return ""
		}
	}
	c.keep("ACL and METADATA", described("user.bob.a"))

	c.begin("CREATE user.bob.a", "CREATE user.bob.a.deep.down", "mail in user.bob.a", "mail in user.bob.a.deep.down", "ACL and METADATA")
	check(c.Rename(bg, "user.bob.a", "user.bob.deep.b", ""))
	c.keep("RENAME from", gone("user.bob.a"))
	c.keep("RENAME to", there("user.bob.deep.b", 10, "default"))
	c.keep("RENAME below", there("user.bob.deep.b.deep.down", 11, "default"))
	c.keep("ACL and METADATA", described("user.bob.deep.b"))

	c.begin("RENAME to", "ACL and METADATA")
	check(c.Rename(bg, "user.bob.deep.b", "user.bob.deep.b", "two"))
	c.keep("RENAME to", there("user.bob.deep.b", 10, "two"))
	c.keep("ACL and METADATA", described("user.bob.deep.b"))

	c.begin("RENAME to", "ACL and METADATA")
	check(c.Delete(bg, "user.bob.deep.b"))
	c.keep("DELETE", gone("user.bob.deep.b"))
	// Its name is free: what is made there now has nothing of it.
	c.keep("DELETE, without a list", func(f *fixture) string {
		f.close()
		for _, n := range []string{"", "-wal", "-shm"} {
			_ = os.Remove(filepath.Join(f.conf.ConfigDirectory, "mailboxes.db"+n))
		}
		f.open()
		return gone("user.bob.deep.b")(f)
	})
	c.begin("DELETE", "DELETE, without a list")
	c.create("user.bob.deep.b")
	c.keep("CREATE again", empty("user.bob.deep.b"))
}

// TestCutAtEachStep: whatever of the unsynced came to the disk, and whenever the power
// went, each promise is kept. STORE_TEST_CUTS is how many seeds are tried.
func TestCutAtEachStep(t *testing.T) {
	seeds, err := strconv.ParseUint(os.Getenv("STORE_TEST_CUTS"), 10, 32)
	if err != nil {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			c := newCutter(t, "", rand.New(rand.NewPCG(1, seed)))
			c.story()
			if len(c.broken) > 0 {
				t.Errorf("%d promises were broken:\n%s", len(c.broken), strings.Join(c.broken[:min(len(c.broken), 20)], "\n"))
			}
			t.Logf("%d cuts", c.cuts)
		})
	}
}

// TestEachSyncCounts leaves out one kind of sync after the other: each time something
// that was promised is lost.
func TestEachSyncCounts(t *testing.T) {
	c := newCutter(t, "", nil)
	c.story()
	if len(c.broken) > 0 {
		t.Fatalf("%d promises were broken:\n%s", len(c.broken), strings.Join(c.broken, "\n"))
	}
	// Alone they cost nothing:
	delete(c.syncs, "copy")      // unless the list is lost, too, before the copy is whole
	delete(c.syncs, "partition") // at the end: another epoch would verify all
	for _, what := range slices.Sorted(maps.Keys(c.syncs)) {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c := newCutter(t, what, nil)
			c.story()
			if len(c.broken) == 0 {
				t.Errorf("without it nothing is lost")
				return
			}
			t.Logf("%d promises broken: %s", len(c.broken), c.broken[0])
		})
	}
}

// TestListIsSynced: the list's own syncs are SQLite's, at each commit.
func TestListIsSynced(t *testing.T) {
	f := newFixture(t)
	db, err := f.list.open(bg)
	must(t, err)
	var mode string
	var level int
	must(t, db.QueryRowContext(bg, `PRAGMA journal_mode`).Scan(&mode))
	must(t, db.QueryRowContext(bg, `PRAGMA synchronous`).Scan(&level))
	if full := 2; mode != "wal" || level != full {
		t.Errorf("%s, %d", mode, level)
	}
}
