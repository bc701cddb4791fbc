package store

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// A power cut: the store lies on a volume of its own, a process works on it and
// says what it was promised; it is frozen, and the volume's image is copied as the
// disk has it, without what only the page cache knows. The store goes on with the
// copy, after another boot.

// TestPowerCut needs root, to mount. Each promise of rule 13 is looked at, on a real
// file system under load. That each sync is needed is shown by TestEachSyncCounts.
func TestPowerCut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a volume needs root")
	}
	if out, err := exec.Command("mkfs.ext4", "-V").CombinedOutput(); err != nil {
		t.Skipf("no mkfs.ext4: %v %s", err, out)
	}
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	for range 2 {
		if broken := cutPower(t, 3*time.Second); len(broken) > 0 {
			t.Errorf("%d promises were broken:\n%s", len(broken), strings.Join(broken[:min(len(broken), 20)], "\n"))
		}
	}
}

// cutPower lets a child work for a while and returns the promises that a power cut
// broke.
func cutPower(t *testing.T, d time.Duration) []string {
	t.Helper()
	dir := t.TempDir()
	img, mnt := filepath.Join(dir, "img"), filepath.Join(dir, "mnt")
	must(t, os.Mkdir(mnt, 0o700))
	command(t, "truncate", "-s", "96M", img)
	command(t, "mkfs.ext4", "-qF", "-E", "lazy_itable_init=0,lazy_journal_init=0", img)
	if out, err := exec.Command("mount", "-o", "loop,commit=60", img, mnt).CombinedOutput(); err != nil {
		t.Skipf("can't mount here: %s", out)
	}
	unmount := func() {
		err := error(unix.EBUSY)
		for end := time.Now().Add(5 * time.Second); err == unix.EBUSY && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			err = unix.Unmount(mnt, 0)
		}
		if err != nil {
			t.Fatalf("unmounting %s: %v", mnt, err)
		}
	}
	defer unmount()
	f := &fixture{t: t, dir: mnt, conf: childConfig(mnt)}
	f.open()
	for _, n := range []mailbox.Name{"user.bob", "user.ann", "user.bob.moved", "user.bob.more"} {
		f.create(n)
	}
	f.close()
	unix.Sync()

	said := freeze(t, mnt, d, func() { command(t, "cp", "--sparse=always", img, img+".cut") })
	unmount()
	must(t, os.Rename(img+".cut", img))
	command(t, "mount", "-o", "loop", img, mnt)
	f.conf.BootID = "boot2"
	f.open()
	defer func() { f.close() }()
	return said.broken(f)
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", name, err, out)
	}
}

// said is what the child was promised, in order.
type said struct {
	lines []string
	at    time.Time // of the cut
}

// freeze starts the child, stops it after a while, calls copy, and kills it.
func freeze(t *testing.T, mnt string, d time.Duration, copy func()) *said {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+mnt+" cut 0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	s := &said{}
	var mu sync.Mutex
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			mu.Lock()
			s.lines = append(s.lines, lines.Text())
			mu.Unlock()
		}
	}()
	enough := func() bool { mu.Lock(); defer mu.Unlock(); return len(s.lines) >= 60 }
	for start := time.Now(); time.Since(start) < d || !enough() && time.Since(start) < time.Minute; {
		time.Sleep(10 * time.Millisecond)
	}
	s.at = time.Now()
	must(t, cmd.Process.Signal(syscall.SIGSTOP))
	time.Sleep(300 * time.Millisecond) // what was under way in the kernel comes to its end
	copy()
	must(t, cmd.Process.Kill())
	<-done
	_ = cmd.Wait()
	if len(s.lines) < 40 {
		t.Fatalf("the child did no more than %d things", len(s.lines))
	}
	return s
}

// cutChild works until it is killed. It says "begin" before what may be half done,
// and what it was promised after.
func cutChild(s *Store, die func(error)) {
	ctx := context.Background()
	check := func(err error) {
		if err != nil {
			die(err)
		}
	}
	var number atomic.Int64
	say := func(format string, args ...any) {
		_, _ = fmt.Fprintf(os.Stdout, "%d "+format+"\n", append([]any{time.Now().UnixNano()}, args...)...)
	}
	stage := func() (*Draft, int64) {
		n := number.Add(1)
		d, err := s.Stage(ctx, Source{Reader: strings.NewReader(letter(int(n)))})
		check(err)
		return d, n
	}
	for range 3 {
		go func() {
			for {
				d, n := stage()
				for _, err := range s.Deliver(ctx, d, []Target{{Name: "user.bob"}, {Name: "user.ann"}}) {
					check(err)
				}
				say("delivered %d", n)
			}
		}()
	}
	for range 2 {
		go func() { cutAppender(ctx, s, stage, say, check) }()
	}
	for i := 0; ; i++ {
		name, to := mailbox.Name(fmt.Sprintf("user.bob.c%d", i)), mailbox.Name(fmt.Sprintf("user.bob.r%d", i))
		_, err := s.Create(ctx, Entry{Name: name})
		check(err)
		_, err = s.Create(ctx, Entry{Name: name.Child("below")})
		check(err)
		empty := mailbox.Name(fmt.Sprintf("user.bob.e%d", i))
		_, err = s.Create(ctx, Entry{Name: empty})
		check(err)
		say("exists %s", empty)
		d, n := stage()
		for _, err := range s.Deliver(ctx, d, []Target{{Name: name}, {Name: name.Child("below")}}) {
			check(err)
		}
		say("there %s %d", name, n)
		check(s.Subscribe(ctx, "bob", name, true))
		check(s.Update(ctx, name, func(e *Entry) error { e.ACL = e.ACL.Set("ann", RightLookup); return nil }))
		say("subscribed %s", name)
		say("begin %s", name)
		check(s.Rename(ctx, name, to, ""))
		say("away %s", name)
		say("there %s %d", to, n)
		if i%3 == 0 {
			say("begin %s", to)
			check(s.Delete(ctx, to.Child("below")))
			check(s.Delete(ctx, to))
			say("away %s", to)
		}
	}
}

func cutAppender(ctx context.Context, s *Store, stage func() (*Draft, int64), say func(string, ...any), check func(error)) {
	box, err := s.Open(ctx, "user.bob.more", User{ID: "bob"})
	check(err)
	moved, err := s.Open(ctx, "user.bob.moved", User{ID: "bob"})
	check(err)
	for i := 0; ; i++ {
		d, n := stage()
		d.Flags, d.Keywords = FlagDraft, []string{fmt.Sprintf("kw%d", i%40)}
		msgs, err := box.Append(ctx, d)
		check(err)
		u := msgs[0].UID
		say("has %d %d kw%d", u, n, i%40)
		switch i % 5 {
		case 0:
			_, err := box.Change(ctx, SetOf(u), FlagOp{Flags: FlagFlagged})
			check(err)
			say("flagged %d", u)
		case 1:
			say("begin %d", u)
			_, err := box.Expunge(ctx, SetOf(u))
			check(err)
			say("expunged %d", u)
		case 2:
			say("begin %d", u)
			_, err := box.CopyTo(ctx, moved, SetOf(u), true)
			check(err)
			say("moved %d %d", u, n)
		}
	}
}

// broken compares the store with what was promised.
func (s *said) broken(f *fixture) (out []string) {
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	bob, ann, moved, more := cutBox(f, "user.bob"), cutBox(f, "user.ann"), cutBox(f, "user.bob.moved"), cutBox(f, "user.bob.more")
	begun := map[string]bool{} // and not ended: may be so or so
	for _, l := range s.lines {
		if w := strings.Fields(l)[1:]; w[0] == "begin" {
			begun[w[1]] = true
		}
	}
	highest := UID(0)
	names := map[string]string{} // by the number of the letter
	for _, l := range s.lines {
		var at int64
		_, _ = fmt.Sscan(l, &at)
		w := strings.Fields(l)[1:]
		old := s.at.Sub(time.Unix(0, at)) > time.Second
		arg := func(i int) (n int) { _, _ = fmt.Sscan(w[i], &n); return n }
		switch w[0] {
		case "delivered":
			if !bob.texts[letter(arg(1))] || !ann.texts[letter(arg(1))] {
				bad("%s: lost", l)
			}
		case "has":
			u := UID(arg(1))
			highest = max(highest, u)
			m, there := more.msgs[u]
			if !there && !begun[w[1]] {
				bad("%s: lost", l)
			}
			if there && more.byUID[u] != letter(arg(2)) {
				bad("%s: the UID has another message: %q", l, more.byUID[u])
			}
			if there && (m.Flags&FlagDraft == 0 || !hasKeyword(more.view, &m, w[3])) {
				bad("%s: has flags %x, keywords %x of %q", l, m.Flags, m.Keywords, more.view.Keywords())
			}
		case "flagged":
			if m, there := more.msgs[UID(arg(1))]; old && there && m.Flags&FlagFlagged == 0 {
				bad("%s: the flag is lost", l)
			}
		case "expunged":
			if _, there := more.msgs[UID(arg(1))]; old && there {
				bad("%s: it is back", l)
			}
		case "moved":
			if _, there := more.msgs[UID(arg(1))]; there || !moved.texts[letter(arg(2))] {
				bad("%s: there %v, moved %v", l, there, moved.texts[letter(arg(2))])
			}
		case "exists":
			m, err := f.Open(bg, mailbox.Name(w[1]), User{ID: "bob"})
			if err != nil {
				bad("%s: %v", l, err)
				continue
			}
			m.Close()
		case "there":
			names[w[1]] = w[2]
		case "away":
			if _, err := f.Exists(bg, mailbox.Name(w[1])); err == nil {
				bad("%s: it is back", l)
			}
			delete(names, w[1])
		case "subscribed":
			subs, err := f.Subscribed(bg, "bob")
			if err != nil || !strings.Contains(fmt.Sprint(subs), w[1]) {
				bad("%s: lost %v", l, err)
			}
		}
	}
	for name, n := range names {
		if begun[name] {
			continue
		}
		for _, k := range []mailbox.Name{mailbox.Name(name), mailbox.Name(name).Child("below")} {
			m, err := f.Open(bg, k, User{ID: "bob"})
			if err != nil {
				bad("%s: %v", k, err)
				continue
			}
			if text := f.body(m.(*handle), 1); !strings.Contains(text, "<"+n+"@") {
				bad("%s: message %s is lost: %q", k, n, text)
			}
			m.Close()
		}
	}
	if u := f.append(more.m, letter(0)); u <= highest {
		bad("UID %d is given again: %d was", u, highest)
	}
	return out
}

func hasKeyword(v View, m *Message, name string) bool {
	i := keywordBit(v.Keywords(), name)
	return i >= 0 && m.HasKeyword(i)
}

// cutMailbox is a mailbox after the cut.
type cutMailbox struct {
	m     *handle
	view  View
	msgs  map[UID]Message
	byUID map[UID]string
	texts map[string]bool
}

func cutBox(f *fixture, name mailbox.Name) *cutMailbox {
	c := &cutMailbox{msgs: map[UID]Message{}, byUID: map[UID]string{}, texts: map[string]bool{}}
	c.m = f.mailbox(name)
	c.view = f.view(c.m)
	for i := range c.view.Len() {
		m := c.view.At(i)
		c.msgs[m.UID] = m
		b, err := c.m.Body(bg, m.UID)
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
		b.Close()
		c.byUID[m.UID] = string(text)
		c.texts[string(text)] = true
	}
	return c
}
