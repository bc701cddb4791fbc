package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// steps are the places between which a commit may be interrupted.
var steps = []string{"stage", "staged", "ceilings", "busy", "link", "linked", "record", "committed", "sync", "synced", "rename", "renamed", "index.new"}

// TestMain lets the test binary be the process that dies.
func TestMain(m *testing.M) {
	if spec := os.Getenv("STORE_TEST_CHILD"); spec != "" {
		child(spec)
	}
	os.Exit(m.Run())
}

// child works on a store until the n-th time that it comes to a step, and dies
// there as by kill -9. Each thing it was promised it says first.
func child(spec string) {
	var dir, step string
	var n int
	_, _ = fmt.Sscan(spec, &dir, &step, &n)
	die := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if step == "stress" {
		stressChild(dir, strings.Fields(spec)[2:], die)
	}
	later := time.Duration(0)
	conf := childConfig(dir)
	conf.Now = func() time.Time { return time.Now().Add(later) }
	conf.Fault = func(s string) error {
		if s == step {
			if n--; n == 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		return nil
	}
	ctx := context.Background()
	if step == "cut" {
		conf.Manual, conf.Now, conf.Fault = false, nil, nil
	}
	s, err := Open(ctx, conf)
	if err != nil {
		die(err)
	}
	switch step {
	case "load":
		load(s, die)
	case "cut":
		cutChild(s, die)
	}
	box, err := s.Open(ctx, "user.bob", User{})
	if err != nil {
		die(err)
	}
	for i := 1; ; i++ {
		if i == 400 {
			os.Exit(0) // never came to the step so often
		}
		d, err := s.Stage(ctx, Source{Reader: strings.NewReader(letter(i))})
		if err != nil {
			die(err)
		}
		msgs, err := box.Append(ctx, d)
		if err != nil {
			die(err)
		}
		fmt.Printf("has %d %d\n", msgs[0].UID, i)
		if i%3 == 0 {
			set := SetOf(msgs[0].UID)
			if _, err := box.Change(ctx, set, FlagOp{Flags: FlagSeen}); err != nil {
				die(err)
			}
			fmt.Printf("seen %d\n", msgs[0].UID)
			v, err := box.View(ctx)
			if err != nil {
				die(err)
			}
			fmt.Printf("modseq %d\n", v.Status().HighestModSeq)
			later += 6 * time.Second
			s.Tend(ctx)
		}
		if i%5 == 0 {
			if _, err := box.Expunge(ctx, SetOf(msgs[0].UID)); err != nil {
				die(err)
			}
			fmt.Printf("gone %d\n", msgs[0].UID)
		}
	}
}

// load delivers to two mailboxes from many goroutines until it is killed.
func load(s *Store, die func(error)) {
	for g := range 12 {
		go func() {
			for i := 1; ; i++ {
				n := g*100000 + i
				d, err := s.Stage(context.Background(), Source{Reader: strings.NewReader(letter(n))})
				if err != nil {
					die(err)
				}
				for k, err := range s.Deliver(context.Background(), d, []Target{{Name: "user.bob"}, {Name: "user.ann"}}) {
					if err != nil {
						die(err)
					}
					fmt.Printf("has %d %d\n", k, n)
				}
			}
		}()
	}
	select {}
}

func childConfig(dir string) Config {
	return Config{
		ConfigDirectory: filepath.Join(dir, "conf"), DefaultPartition: "default",
		Partitions: map[string]string{"default": filepath.Join(dir, "spool")}, Manual: true, BootID: "boot1",
	}
}

// promised is what a child said before it died.
type promised struct {
	has    map[UID]int
	seen   map[UID]bool
	gone   map[UID]bool
	modseq ModSeq
	last   UID
}

func dieAt(t *testing.T, dir, step string, n int) promised {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("STORE_TEST_CHILD=%s %s %d", dir, step, n))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !ws.Signaled() {
		t.Fatalf("step %s: the child did not die there: %v %s", step, err, stderr.String())
	}
	p := promised{has: map[UID]int{}, seen: map[UID]bool{}, gone: map[UID]bool{}}
	for line := range strings.Lines(string(out)) {
		var word string
		var a, b int
		_, _ = fmt.Sscan(line, &word, &a, &b)
		switch word {
		case "has":
			p.has[UID(a)] = b
			p.last = max(p.last, UID(a))
		case "seen":
			p.seen[UID(a)] = true
		case "gone":
			p.gone[UID(a)] = true
		case "modseq":
			p.modseq = ModSeq(a)
		}
	}
	return p
}

// check compares a mailbox with what was promised. At most one message that
// nobody was told of may be there besides.
func (p *promised) check(t *testing.T, f *fixture, m *handle) {
	t.Helper()
	v := f.view(m)
	if next := v.Status().UIDNext; next > p.last+3 {
		t.Errorf("UIDNEXT is %d, %d was given: kill -9 alone costs no more than what was in flight", next, p.last)
	}
	extra := 0
	files := map[string]bool{}
	for i := range v.Len() {
		msg := v.At(i)
		n, known := p.has[msg.UID]
		if !known {
			extra++
			continue
		}
		if p.gone[msg.UID] {
			t.Errorf("UID %d is back", msg.UID)
		}
		if p.seen[msg.UID] != (msg.Flags&FlagSeen != 0) {
			t.Errorf("UID %d: flags %x", msg.UID, msg.Flags)
		}
		if got := f.body(m, msg.UID); got != letter(n) {
			t.Errorf("UID %d has %q", msg.UID, got)
		}
		files[msg.fileName(m.b.tag)] = true
	}
	if extra > 1 {
		t.Errorf("%d messages that nobody was told of", extra)
	}
	for u := range p.has {
		if _, ok := v.Find(u); !ok && !p.gone[u] {
			// The last one may have been expunged without our being told.
			if u != p.last || u%5 != 0 {
				t.Errorf("UID %d was promised and is lost", u)
			}
		}
	}
	st := v.Status()
	if st.UIDNext <= p.last || st.HighestModSeq < p.modseq {
		t.Errorf("UIDNEXT %d, HIGHESTMODSEQ %d went back: a client saw %d, %d", st.UIDNext, st.HighestModSeq, p.last, p.modseq)
	}
	if u := f.append(m, letter(0)); u < st.UIDNext || p.has[u] != 0 {
		t.Errorf("UID %d was given again", u)
	}
}

// TestKilledAtEachStep is rule 4's promise: whatever the step, nothing that was
// acknowledged is lost and no UID is given twice.
func TestKilledAtEachStep(t *testing.T) {
	for _, step := range steps {
		n := 5
		if step == "ceilings" || step == "index.new" {
			n = 1
		}
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			f := &fixture{t: t, dir: t.TempDir()}
			f.conf = childConfig(f.dir)
			f.open()
			f.create("user.bob")
			f.close()
			p := dieAt(t, f.dir, step, n)
			f.open()
			defer f.close()
			m := f.mailbox("user.bob")
			p.check(t, f, m)
			if h := m.b.state.Load().hdr; h.flags&headerBusy != 0 {
				t.Error("the busy mark is still there")
			}
		})
	}
}

// TestKilledThenDied is a kill, and then a power cut that takes the index with
// it: zeros where records were, as ext4 leaves them.
func TestKilledThenDied(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir()}
	f.conf = childConfig(f.dir)
	f.open()
	f.create("user.bob")
	f.close()
	p := dieAt(t, f.dir, "committed", 17)
	path := f.path("user.bob", indexName)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 3*recordSize)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(zeros, st.Size()-int64(len(zeros))); err != nil {
		t.Fatal(err)
	}
	file.Close()
	f.conf.BootID = "boot2"
	f.open()
	defer f.close()
	// STORE and EXPUNGE of the last second may be lost in a power cut.
	for u := range p.has {
		if u+3 > p.last {
			p.seen[u] = false
		}
	}
	m := f.mailbox("user.bob")
	v := f.view(m)
	for u, n := range p.has {
		if p.gone[u] {
			continue
		}
		if _, ok := v.Find(u); !ok {
			t.Errorf("UID %d was promised and is lost", u)
		} else if got := f.body(m, u); got != letter(n) {
			t.Errorf("UID %d has %q", u, got)
		}
	}
	if next := v.Status().UIDNext; next <= p.last {
		t.Errorf("UIDNEXT %d, but %d was given", next, p.last)
	}
	if hist := m.b.state.Load().hdr.history; hist <= p.modseq {
		t.Errorf("QRESYNC history begins at %d, a client knows %d", hist, p.modseq)
	}
}

// TestTornIndex tears the index at every 64th byte: whatever is read, the
// messages are there.
func TestTornIndex(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	m := f.mailbox("user.bob")
	for i := range 6 {
		f.append(m, letter(i))
	}
	good, err := os.ReadFile(f.path("user.bob", indexName))
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	f.close()
	next := UID(7)
	for cut := 0; cut < len(good); cut += 64 {
		torn := append([]byte(nil), good...)
		for i := cut; i < min(cut+64, len(torn)); i++ {
			torn[i] ^= 0x5a
		}
		if err := os.WriteFile(f.path("user.bob", indexName), torn, 0o600); err != nil {
			t.Fatal(err)
		}
		f.open()
		h, err := f.Open(context.Background(), "user.bob", User{})
		if err != nil {
			t.Fatalf("torn at %d: %v", cut, err)
		}
		v := f.view(h.(*handle))
		if got := fmt.Sprint(uids(v)); got != "[1 2 3 4 5 6]" {
			t.Fatalf("torn at %d: %s", cut, got)
		}
		if v.Status().UIDNext < next {
			t.Fatalf("torn at %d: UIDNEXT %d after %d", cut, v.Status().UIDNext, next)
		}
		h.Close()
		f.close()
	}
}

// TestFailures has the disk fail at each step: a temporary error, nothing that
// was acknowledged is lost, and all is well afterwards.
func TestFailures(t *testing.T) {
	for _, step := range steps {
		for _, cause := range []error{unix.ENOSPC, unix.EIO, unix.EMFILE, unix.EROFS} {
			f := newFixture(t)
			f.create("user.bob")
			m := f.mailbox("user.bob")
			first := f.append(m, letter(1))
			fail := false
			f.Store.conf.Fault = func(s string) error {
				if fail && s == step {
					return cause
				}
				return nil
			}
			if step == "ceilings" { // make it come to that
				for u := first; u < 1030; {
					var drafts []*Draft
					for range 206 {
						drafts = append(drafts, f.stage("x\r\n\r\n", Source{}))
					}
					msgs, err := m.Append(context.Background(), drafts...)
					if err != nil {
						t.Fatal(err)
					}
					u = msgs[len(msgs)-1].UID
				}
			}
			before := f.view(m).Len()
			fail = true
			acked := 0
			d, err := f.Stage(context.Background(), Source{Reader: strings.NewReader(letter(2))})
			if err == nil {
				if _, err = m.Append(context.Background(), d); err == nil {
					acked++
				}
			}
			if err != nil && !errors.Is(err, cause) {
				t.Errorf("%s: %v became %v", step, cause, err)
			}
			if _, err := m.Change(context.Background(), SetOf(first), FlagOp{Flags: FlagSeen}); err != nil && step != "record" {
				t.Errorf("%s: STORE: %v", step, err)
			}
			f.pass(6 * time.Second)
			fail = false
			got := f.append(m, letter(3))
			f.pass(6 * time.Second)
			if b := f.body(m, got); b != letter(3) {
				t.Errorf("%s %v: %q", step, cause, b)
			}
			if b := f.body(m, first); b != letter(1) {
				t.Errorf("%s %v: %q", step, cause, b)
			}
			v := f.view(m)
			if n := v.Len(); n < before+acked+1 || n > before+2 {
				t.Errorf("%s %v: %d messages of %d and %d", step, cause, n, before, acked)
			}
			if left := f.stageFiles(); len(left) > 0 {
				t.Errorf("%s: left in .stage: %v", step, left)
			}
			m.Close()
			f.close()
		}
	}
}

// TestKilledUnderLoad kills a busy process at no particular moment.
func TestKilledUnderLoad(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir()}
	f.conf = childConfig(f.dir)
	f.open()
	names := []mailbox.Name{"user.bob", "user.ann"}
	for _, n := range names {
		f.create(n)
	}
	f.close()
	acked := [2]map[string]int{{}, {}}
	rounds := 4
	for range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+f.dir+" load 0")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if n == 20 { // it is in full swing
				time.AfterFunc(50*time.Millisecond, func() { _ = cmd.Process.Kill() })
			}
			var k, n int
			if c, _ := fmt.Sscanf(lines.Text(), "has %d %d", &k, &n); c == 2 {
				acked[k][letter(n)]++
			}
		}
		_ = cmd.Wait()
	}
	f.open()
	defer f.close()
	for k, name := range names {
		m := f.mailbox(name)
		v := f.view(m)
		there := map[string]int{}
		for i := range v.Len() {
			there[f.body(m, v.At(i).UID)]++
		}
		total := 0
		for text, n := range acked[k] {
			total += n
			if there[text] < n {
				t.Errorf("%s: acknowledged %d times, there %d times: %.60q", name, n, there[text], text)
			}
		}
		if total == 0 || v.Len() > total+rounds*12 {
			t.Errorf("%s: %d acknowledged, %d there", name, total, v.Len())
		}
	}
}
