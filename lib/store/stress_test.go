package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// A stress: several processes do whatever can be done to mailboxes, one of them now
// and then is killed, foreign hands work in the folders, and each process says what
// it is about to do, what it was promised and what it saw. In the end all of that is
// held against what is there.
//
// Time runs faster in it than outside, so that names are brought up to date, and what
// is expunged is removed.

const (
	stressProcs = 4
	stressSpeed = 60
)

// stable mailboxes are neither renamed nor deleted.
var stable = []mailbox.Name{"user.bob", "user.ann"}

func TestStress(t *testing.T) {
	d, seed := 2*time.Second, uint64(1)
	if v := os.Getenv("STORE_STRESS"); v != "" { // "<duration> <seed>"
		var text string
		_, _ = fmt.Sscan(v, &text, &seed)
		var err error
		d, err = time.ParseDuration(text)
		must(t, err)
	}
	f := &fixture{t: t, dir: t.TempDir()}
	f.conf = childConfig(f.dir)
	f.open()
	for _, n := range stable {
		f.create(n)
		must(t, f.Update(bg, n, func(e *Entry) error { e.IsQuotaRoot, e.Quota = true, Quota{-1, 1 << 40}; return nil }))
	}
	for i := range 3 {
		f.create(mailbox.Name(fmt.Sprintf("user.bob.s%d", i)))
	}
	f.close()

	w := newWitness()
	r := rand.New(rand.NewPCG(seed, 0))
	start := time.Now()
	var procs [stressProcs]*stressProc
	begin := func(i int) {
		procs[i] = startStress(t, w, fmt.Sprintf("%s stress %d %d %d", f.dir, i, r.Uint64N(1<<31), start.UnixNano()))
	}
	for i := range procs {
		begin(i)
	}
	for time.Since(start) < d {
		time.Sleep(time.Duration(50+r.IntN(250)) * time.Millisecond)
		i := r.IntN(stressProcs)
		_ = procs[i].cmd.Process.Kill()
		procs[i].wait(w)
		w.kills++
		begin(i)
	}
	for _, p := range procs {
		_ = p.stdin.Close()
	}
	for _, p := range procs {
		if err := p.wait(w); err != nil {
			t.Errorf("a process ended with %v: %s", err, p.stderr.String())
		}
	}
	f.conf.Now = stressClock(start)
	f.open()
	defer f.close()
	w.judge(f)
	if t.Failed() {
		if out := os.Getenv("STORE_STRESS_LOG"); out != "" {
			must(t, os.WriteFile(out, []byte(strings.Join(w.lines, "\n")), 0o600))
			must(t, os.CopyFS(out+".dir", os.DirFS(f.dir)))
		}
	}
	t.Logf("%d lines, %d kills, %d messages", len(w.lines), w.kills, len(w.content))
}

func stressClock(start time.Time) func() time.Time {
	return func() time.Time { return start.Add(stressSpeed * time.Since(start)) }
}

type stressProc struct {
	cmd    *exec.Cmd
	stdin  interface{ Close() error }
	stderr strings.Builder
	done   chan struct{}
}

func startStress(t *testing.T, w *witness, spec string) *stressProc {
	t.Helper()
	p := &stressProc{cmd: exec.Command(os.Args[0], "-test.run=^$"), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+spec)
	p.cmd.Stderr = &p.stderr
	in, err := p.cmd.StdinPipe()
	must(t, err)
	p.stdin = in
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	must(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		sc := bufio.NewScanner(out)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			w.add(sc.Text())
		}
	}()
	return p
}

func (p *stressProc) wait(*witness) error {
	<-p.done
	return p.cmd.Wait()
}

// stressor is one process of the stress.
type stressor struct {
	s    *Store
	proc int
	r    *rand.Rand
	n    int
	last map[ID]*seen
}

// seen is what this process saw last of a mailbox.
type seen struct {
	view View
	was  map[UID]Message
	gone map[UID]bool
}

func stressChild(dir string, args []string, die func(error)) {
	proc, _ := strconv.Atoi(args[0])
	seed, _ := strconv.ParseUint(args[1], 10, 64)
	nanos, _ := strconv.ParseInt(args[2], 10, 64)
	conf := childConfig(dir)
	conf.Manual = false
	conf.Now = stressClock(time.Unix(0, nanos))
	s, err := Open(context.Background(), conf)
	if err != nil {
		die(err)
	}
	x := &stressor{s: s, proc: proc, r: rand.New(rand.NewPCG(seed, 1)), last: map[ID]*seen{}}
	x.n = int(seed%1_000_000) * 1000 // letters of different processes differ
	x.say("start %d", os.Getpid())
	ended := make(chan struct{})
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		close(ended)
	}()
	for {
		select {
		case <-ended:
			if err := s.Close(); err != nil {
				die(err)
			}
			os.Exit(0)
		default:
			x.step()
		}
	}
}

func (x *stressor) say(format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stdout, "%d "+format+"\n", append([]any{x.proc}, args...)...)
}

// err reports whether there was one, and says those that may not be.
func (x *stressor) err(what string, err error) bool {
	for _, ok := range []error{ErrNotFound, errMissing, ErrGone, ErrExists, errOther, fs.ErrNotExist} {
		if errors.Is(err, ok) {
			return true
		}
	}
	if err != nil {
		x.say("BAD %s: %v", what, err)
	}
	return err != nil
}

func (x *stressor) letter() (string, int) {
	x.n++
	return letter(x.n*stressProcs + x.proc), x.n*stressProcs + x.proc
}

func (x *stressor) stage() (*Draft, int) {
	text, n := x.letter()
	d, err := x.s.Stage(bg, Source{Reader: strings.NewReader(text)})
	if x.err("stage", err) {
		os.Exit(1)
	}
	return d, n
}

func (x *stressor) names() []mailbox.Name {
	var out []mailbox.Name
	for e, err := range x.s.List(bg, Query{}) {
		if x.err("list", err) {
			break
		}
		out = append(out, e.Name)
	}
	return out
}

func (x *stressor) any() mailbox.Name {
	names := x.names()
	if x.r.IntN(2) == 0 || len(names) == 0 {
		return stable[x.r.IntN(len(stable))]
	}
	return names[x.r.IntN(len(names))]
}

func (x *stressor) unstable() (mailbox.Name, bool) {
	for range 4 {
		if n := x.any(); n != stable[0] && n != stable[1] {
			return n, true
		}
	}
	return "", false
}

func (x *stressor) step() {
	switch k := x.r.IntN(100); {
	case k < 20:
		x.deliver()
	case k < 88:
		name := x.any()
		m, err := x.s.Open(bg, name, User{ID: "bob"})
		if x.err("open", err) {
			return
		}
		defer m.Close()
		for range 1 + x.r.IntN(4) {
			x.session(m.(*handle), k)
			k = 20 + x.r.IntN(68)
		}
	case k < 90:
		x.rename()
	case k < 92:
		x.remove()
	case k < 93:
		x.err("reconstruct", x.s.Reconstruct(bg, x.any()))
	default:
		x.foreign()
	}
}

func (x *stressor) deliver() {
	d, n := x.stage()
	x.say("new %d", n)
	targets := []Target{{Name: stable[0]}, {Name: stable[1], Flags: FlagAnswered}}
	if name, ok := x.unstable(); ok {
		targets = append(targets, Target{Name: name})
	}
	for i, err := range x.s.Deliver(bg, d, targets) {
		if !x.err("deliver", err) && i < 2 {
			x.say("delivered %s %d", stable[i], n)
		} else if i < 2 {
			x.say("BAD deliver: %v", err)
		}
	}
}

func (x *stressor) session(m *handle, k int) {
	v := x.look(m)
	if v == nil {
		return
	}
	pick := func() (UID, bool) {
		if v.Len() == 0 {
			return 0, false
		}
		return v.At(x.r.IntN(v.Len())).UID, true
	}
	switch {
	case k < 35:
		d, n := x.stage()
		d.Flags = FlagDraft
		x.say("new %d", n)
		msgs, err := m.Append(bg, d)
		if !x.err("append", err) {
			x.say("has %s %d %d", m.ID(), msgs[0].UID, n)
		}
	case k < 50:
		if u, ok := pick(); ok {
			_, err := m.Change(bg, SetOf(u), FlagOp{Flags: FlagSeen})
			if !x.err("add", err) {
				x.say("seen %s %d", m.ID(), u)
			}
		}
	case k < 62:
		if u, ok := pick(); ok {
			on := x.r.IntN(2)
			mode := []FlagMode{RemoveFlags, AddFlags}[on]
			x.say("kw? %s %d %d", m.ID(), u, on)
			_, err := m.Change(bg, SetOf(u), FlagOp{Mode: mode, Keywords: []string{fmt.Sprintf("kw%d", x.proc)}})
			if !x.err("keyword", err) {
				x.say("kw %s %d %d", m.ID(), u, on)
			}
		}
	case k < 72:
		if u, ok := pick(); ok {
			x.say("touch %s %d", m.ID(), u)
			_, err := m.Expunge(bg, SetOf(u))
			if !x.err("expunge", err) {
				x.say("gone %s %d", m.ID(), u)
			}
		}
	case k < 82:
		x.copy(m, v, x.r.IntN(2) == 0)
	default:
		if u, ok := pick(); ok {
			x.read(m, v, u)
		}
	}
}

func (x *stressor) copy(m *handle, v View, move bool) {
	to, err := x.s.Open(bg, x.any(), User{ID: "bob"})
	if x.err("open", err) || v.Len() == 0 {
		return
	}
	defer to.Close()
	i := x.r.IntN(v.Len())
	a, b := v.At(i), v.At(min(i+x.r.IntN(3), v.Len()-1))
	set := UIDSet{{a.UID, b.UID}}
	x.say("copying %s %d %d", m.ID(), a.UID, b.UID)
	if move {
		for u := range set.All() {
			x.say("touch %s %d", m.ID(), u)
		}
	}
	pairs, err := m.CopyTo(bg, to, set, move)
	if x.err("copy", err) {
		return
	}
	for _, p := range pairs {
		x.say("copied %s %d %s %d", m.ID(), p.From, to.ID(), p.To)
		if move {
			x.say("gone %s %d", m.ID(), p.From)
		}
	}
}

// read reads a message, which must be what it was.
func (x *stressor) read(m *handle, v View, u UID) {
	b, err := m.Body(bg, u)
	if x.err("body", err) {
		return
	}
	defer b.Close()
	text := make([]byte, b.Size())
	if _, err := b.ReadAt(text, 0); err != nil && x.err("read", err) {
		return
	}
	_, rest, _ := strings.Cut(string(text), "Subject: letter ")
	n, err := strconv.Atoi(rest[:max(0, strings.IndexByte(rest, '\r'))])
	if err != nil || string(text) != letter(n) {
		x.say("BAD %s UID %d has %q", m.ID(), u, text)
		return
	}
	x.say("saw %s %d %d", m.ID(), u, n)
}

// look opens the newest view, and holds it against what this process saw before.
func (x *stressor) look(m *handle) View {
	v, err := m.View(bg)
	if x.err("view", err) {
		return nil
	}
	st := v.Status()
	bad := func(format string, args ...any) {
		x.say("BAD %s %s: "+format, append([]any{m.Name(), m.ID()}, args...)...)
	}
	old := x.last[m.ID()]
	if old == nil {
		old = &seen{was: map[UID]Message{}, gone: map[UID]bool{}}
		x.last[m.ID()] = old
	}
	now := map[UID]Message{}
	var unseen, size int64
	before := UID(0)
	for i := range v.Len() {
		msg := v.At(i)
		now[msg.UID] = msg
		size += msg.Size
		if msg.Flags&FlagSeen == 0 {
			unseen++
		}
		if msg.UID <= before || msg.UID >= st.UIDNext || msg.ModSeq > st.HighestModSeq {
			bad("UID %d after %d, MODSEQ %d: %+v", msg.UID, before, msg.ModSeq, st)
		}
		before = msg.UID
		was, known := old.was[msg.UID]
		switch {
		case known && (was.GUID != msg.GUID || was.Size != msg.Size || was.Internal != msg.Internal):
			bad("UID %d is another message", msg.UID)
		case known && was.ModSeq > msg.ModSeq:
			bad("UID %d: MODSEQ from %d to %d", msg.UID, was.ModSeq, msg.ModSeq)
		case known && was.ModSeq == msg.ModSeq && (was.Flags != msg.Flags || was.Keywords != msg.Keywords):
			bad("UID %d: other flags, the same MODSEQ %d", msg.UID, msg.ModSeq)
		case old.gone[msg.UID]:
			bad("UID %d is back", msg.UID)
		case !known && old.view != nil && msg.UID < old.view.Status().UIDNext:
			bad("UID %d is new below UIDNEXT", msg.UID)
		}
	}
	if int(unseen) != st.Unseen || size != st.Size || v.Len() != st.Messages {
		bad("%d messages, %d unseen, %d octets: %+v", v.Len(), unseen, size, st)
	}
	if old.view != nil {
		was := old.view.Status()
		if st.UIDNext < was.UIDNext || st.HighestModSeq < was.HighestModSeq || st.UIDValidity != was.UIDValidity {
			bad("%+v after %+v", st, was)
		}
		got := map[UID]Message{}
		for u, m := range old.was {
			got[u] = m
		}
		for c := range v.Since(old.view) {
			if c.Kind == Gone {
				delete(got, c.Message.UID)
			} else {
				got[c.Message.UID] = c.Message
			}
		}
		if len(got) != len(now) {
			bad("Since leads to %d messages, there are %d", len(got), len(now))
		}
		vanished, err := m.Vanished(bg, was.HighestModSeq, nil)
		if err == nil {
			for u := range old.was {
				if _, there := now[u]; !there && !vanished.Contains(u) {
					bad("UID %d vanished, and nobody says so", u)
				}
			}
		}
	}
	for u := range old.was {
		if _, there := now[u]; !there {
			old.gone[u] = true
		}
	}
	old.view, old.was = v, now
	return v
}

func (x *stressor) rename() {
	if from, ok := x.unstable(); ok {
		x.n++
		to := mailbox.Name(fmt.Sprintf("user.%s.r%dp%d", []string{"bob", "ann"}[x.r.IntN(2)], x.n, x.proc))
		x.err("rename", x.s.Rename(bg, from, to, ""))
	}
}

func (x *stressor) remove() {
	name, ok := x.unstable()
	if !ok {
		return
	}
	e, err := x.s.Exists(bg, name)
	if x.err("exists", err) {
		return
	}
	x.say("delete? %s", e.ID)
	// Someone may give the name to another one meanwhile: names are never used twice
	// but by those who create one here.
	if !x.err("delete", x.s.Delete(bg, name)) {
		x.say("delete %s", e.ID)
	}
	n, err := x.s.Create(bg, Entry{Name: name})
	if x.err("create", err) {
		return
	}
	if n.UIDValidity <= e.UIDValidity {
		x.say("BAD %s was made again with UIDVALIDITY %d after %d", name, n.UIDValidity, e.UIDValidity)
	}
}

// foreign does what mutt or mbsync do.
func (x *stressor) foreign() {
	name := stable[x.r.IntN(2)]
	e, err := x.s.Exists(bg, name)
	if x.err("exists", err) {
		return
	}
	dir, err := x.s.dirOf(e.Partition, name)
	if x.err("dir", err) {
		return
	}
	if x.r.IntN(3) == 0 {
		text, n := x.letter()
		x.say("new %d", n)
		tmp, dst := filepath.Join(dir, "tmp", fmt.Sprintf("%d.P%d.host", n, x.proc)), filepath.Join(dir, "new", fmt.Sprintf("%d.P%d.host", n, x.proc))
		err := os.WriteFile(tmp, []byte(strings.ReplaceAll(text, "\r\n", "\n")), 0o600)
		if err == nil {
			err = os.Rename(tmp, dst)
		}
		if !x.err("new/", err) {
			x.say("dropped %s %d", name, n)
		}
		return
	}
	files, err := os.ReadDir(filepath.Join(dir, "cur"))
	if x.err("cur/", err) || len(files) == 0 {
		return
	}
	file := files[x.r.IntN(len(files))].Name()
	p := parseName(file, tagOf(e.ID))
	if !p.ours {
		x.say("BAD file %s", file)
		return
	}
	path := filepath.Join(dir, "cur", file)
	switch x.r.IntN(3) {
	case 0:
		x.say("touch %s %d", e.ID, p.uid)
		_ = os.Remove(path)
	default:
		if p.letters&letterF == 0 { // letters are in the order of the alphabet
			base, letters, _ := strings.Cut(file, ":2,")
			i := 0
			for i < len(letters) && letters[i] < 'F' {
				i++
			}
			to := filepath.Join(dir, "cur", base+":2,"+letters[:i]+"F"+letters[i:])
			_ = unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
		}
	}
}

// witness is what all processes said.
type witness struct {
	mu    sync.Mutex
	lines []string
	kills int

	content map[stressKey]int
}

type stressKey struct {
	id  string
	uid string
}

func newWitness() *witness { return &witness{content: map[stressKey]int{}} }

func (w *witness) add(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, line)
}

// judge holds what was said against what is there.
func (w *witness) judge(f *fixture) {
	t := f.t
	complain := func(format string, args ...any) { t.Helper(); t.Errorf(format, args...) }
	touched, gone, added := map[stressKey]bool{}, map[stressKey]bool{}, map[stressKey]bool{}
	deleted := map[string]bool{}
	keyword := map[string]string{} // proc id uid -> 0, 1 or ?
	copies := map[stressKey]stressKey{}
	delivered := map[string]bool{}
	dropped := map[string]bool{}
	is := func(k stressKey, n int) {
		if was, known := w.content[k]; known && was != n {
			complain("UID %s of %s was given to letters %d and %d", k.uid, k.id, was, n)
		}
		w.content[k] = n
	}
	for _, l := range w.lines {
		p := strings.Fields(l)
		key := func(i int) stressKey { return stressKey{p[i], p[i+1]} }
		num := func(i int) int { n, _ := strconv.Atoi(p[i]); return n }
		switch p[1] {
		case "BAD":
			complain("%s", l)
		case "has", "saw":
			is(key(2), num(4))
			if p[1] == "has" {
				added[key(2)] = added[key(2)] || false
			}
		case "delivered":
			delivered[p[2]+" "+p[3]] = true
		case "dropped":
			dropped[p[2]+" "+p[3]] = true
		case "seen":
			added[key(2)] = true
		case "kw?", "kw":
			v := p[4]
			if p[1] == "kw?" {
				v = "?"
			}
			keyword[p[0]+" "+p[2]+" "+p[3]] = v
		case "touch":
			touched[key(2)] = true
		case "gone":
			touched[key(2)], gone[key(2)] = true, true
		case "copied":
			copies[key(4)] = key(2)
			added[key(4)] = added[key(4)] || false
		case "delete?":
			deleted[p[2]] = true
		}
	}
	there := map[stressKey]Message{}
	boxes := map[string]*handle{}
	where := map[string]bool{} // name and letter
	for e, err := range f.List(bg, Query{}) {
		must(t, err)
		m := f.mailbox(e.Name)
		m.b.lookSoon()
		f.view(m)
		v := f.view(m)
		boxes[string(e.ID)] = m
		for i := range v.Len() {
			msg := v.At(i)
			k := stressKey{string(e.ID), strconv.Itoa(int(msg.UID))}
			there[k] = msg
			text := f.body(m, msg.UID)
			_, rest, _ := strings.Cut(text, "Subject: letter ")
			n, _ := strconv.Atoi(rest[:max(0, strings.IndexByte(rest, '\r'))])
			if text != letter(n) {
				complain("%s UID %d has %q", e.Name, msg.UID, text)
			}
			is(k, n)
			where[string(e.Name)+" "+strconv.Itoa(n)] = true
		}
		files := f.files(e.Name, "cur")
		if len(files) != v.Len() {
			moves := 0
			for _, g := range v.(*view).gone {
				if g.Flags&flagMoved == 0 {
					moves++
				}
			}
			if len(files) != v.Len()+moves {
				complain("%s: %d messages, %d files", e.Name, v.Len(), len(files))
			}
		}
	}
	for k := range added {
		m, ok := there[k]
		if !ok && !touched[k] && !deleted[k.id] {
			complain("UID %s of %s is lost", k.uid, k.id)
		}
		if ok && added[k] && m.Flags&FlagSeen == 0 {
			complain("UID %s of %s has lost \\Seen", k.uid, k.id)
		}
	}
	for k := range gone {
		if _, ok := there[k]; ok {
			complain("UID %s of %s is back", k.uid, k.id)
		}
	}
	for to, from := range copies {
		if a, ok := w.content[from]; ok {
			if b, ok := w.content[to]; ok && a != b {
				complain("%v is a copy of %v, but %d, not %d", to, from, b, a)
			}
		}
	}
	for k, v := range keyword {
		p := strings.Fields(k)
		m, ok := there[stressKey{p[1], p[2]}]
		if !ok || v == "?" {
			continue
		}
		if has := hasKeyword(f.view(boxes[p[1]]), &m, "kw"+p[0]); has != (v == "1") {
			complain("UID %s of %s: keyword kw%s %v, said %s", p[2], p[1], p[0], has, v)
		}
	}
	touchedLetters := map[string]bool{}
	for k := range touched {
		if n, ok := w.content[k]; ok {
			if m := boxes[k.id]; m != nil {
				touchedLetters[string(m.Name())+" "+strconv.Itoa(n)] = true
			}
		}
	}
	unknown := 0 // touched, and nobody saw what they were
	for k := range touched {
		if _, ok := w.content[k]; !ok && boxes[k.id] != nil {
			unknown++
		}
	}
	lost := 0
	for what := range delivered {
		if !where[what] && !touchedLetters[what] {
			lost++
		}
	}
	for what := range dropped {
		if !where[what] && !touchedLetters[what] {
			lost++
		}
	}
	if lost > unknown {
		complain("%d deliveries are lost, %d were removed", lost, unknown)
	}
	for _, n := range stable {
		used, err := f.Usage(bg, n)
		must(t, err)
		var sum Quota
		for e, err := range f.List(bg, Query{Under: n}) {
			must(t, err)
			if e.QuotaRoot == n {
				st := f.view(f.mailbox(e.Name)).Status()
				sum.Storage += st.Size
				sum.Messages += int64(st.Messages)
			}
		}
		if used != sum {
			complain("quota root %s: usage %+v, there are %+v", n, used, sum)
		}
	}
	for e, err := range f.List(bg, Query{}) {
		must(t, err)
		m := f.mailbox(e.Name)
		before, st := f.describe(m), f.view(m).Status()
		must(t, f.Reconstruct(bg, e.Name))
		if after := f.describe(m); after != before {
			complain("%s: reconstruct changed\n%s\nto\n%s", e.Name, before, after)
		}
		now := f.view(m).Status()
		if now.UIDNext < st.UIDNext || now.HighestModSeq < st.HighestModSeq {
			complain("%s: %+v after reconstruct, %+v before", e.Name, now, st)
		}
	}
}
