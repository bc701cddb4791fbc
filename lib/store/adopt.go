package store

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Rule 8: foreign hands. Our programs never write in new/, so whatever is there
// is someone else's; in cur/ others rename, remove and add. What has no name of
// ours is copied, with CRLF line ends and a name of ours, and then removed.

const settled = 2 * time.Second // a file's ctime must be older to be adopted

// lookSoon makes the next View look for foreign hands.
func (b *box) lookSoon() {
	b.keep.mu.Lock()
	b.keep.looked = time.Time{}
	b.keep.mu.Unlock()
}

// pollDue reports whether it is time to look for foreign hands, and that it is
// being done.
func (b *box) pollDue() bool {
	now := b.st.now()
	k := &b.keep
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := now.Sub(k.looked); d >= 0 && d < lookEvery {
		return false
	}
	k.looked = now
	return true
}

// poll looks whether the mailbox is still where its name leads, whether .mailbox
// was replaced, and whether foreign hands were in new/ or cur/.
func (b *box) poll(ctx context.Context) error {
	if err := b.findAgain(); err != nil {
		return err
	}
	if err := b.freshMeta(); err != nil {
		return err
	}
	s, err := b.catchUp(ctx, false)
	if err != nil {
		return err
	}
	moved, late, err := b.foreign(s)
	if err != nil || !moved && !late {
		return err
	}
	if !late {
		// It may be one of us who is there now, or was a moment ago: a whole listing,
		// with the lock held, is not for each delivery.
		now, err := b.catchUp(ctx, false)
		if err != nil {
			return err
		}
		if now.hdr.flags&headerBusy != 0 {
			b.lookSoon()
			return b.endOfBusy(ctx)
		}
		if now.hdr.counter != s.hdr.counter {
			b.lookSoon()
			return nil
		}
	}
	if err := b.adopt(ctx); err != nil {
		// The mailbox can be read all the same.
		b.st.conf.Log.Warnf("%s: looking for foreign files: %v", b.where(), err)
	}
	return nil
}

// endOfBusy sees to a change whose author died, and waits for none who lives.
func (b *box) endOfBusy(ctx context.Context) error {
	select {
	case <-b.turn:
	default:
		return nil
	}
	t, err := b.lockTurn(ctx, false, false)
	if err != nil {
		b.turn <- struct{}{}
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = nil
		}
		return err
	}
	t.end() // whoever locks has verified
	return nil
}

// foreign reports whether new/ or cur/ were changed by others than those who wrote
// the header, and whether it is time to list cur/ in any case.
func (b *box) foreign(s *state) (moved, late bool, err error) {
	cur, err := fstatat(b.dir, "cur")
	if err != nil {
		return false, false, err
	}
	incoming, err := fstatat(b.dir, "new")
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	if s.ino == 0 {
		// No message yet: only what others bring counts.
		for _, d := range [...]string{"new", "cur"} {
			if empty, err := dirEmpty(b.dir, d); err != nil || !empty {
				return !empty, false, err
			}
		}
		return false, false, nil
	}
	late = b.st.now().Unix()-s.hdr.listed > int64(listEvery/time.Second)
	return mtime(&cur) != s.hdr.curMtime || mtime(&incoming) != s.hdr.newMtime, late, nil
}

// foreignFile is a file to adopt.
type foreignFile struct {
	path string // relative to the mailbox
}

// adopt takes in what foreign hands did. One process at a time does so: its own
// lock, since messages are copied and synced meanwhile, and deliveries go on.
func (b *box) adopt(ctx context.Context) error {
	lock, err := openat(b.dir, ".adopt", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(lock)
	if err := unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // someone is at it
	}
	incoming, err := fstatat(b.dir, "new")
	if err != nil {
		return err
	}
	files, young, err := b.list("new", nil)
	if err != nil {
		return err
	}
	more, youngCur, err := b.merge(ctx)
	if err != nil {
		return err
	}
	left, err := b.takeIn(ctx, append(files, more...))
	if err != nil {
		return err
	}
	b.tidy()
	return b.noteListed(ctx, mtime(&incoming), len(files) > 0, young || left, youngCur || left)
}

// How long what others write, and what we do, may take: maildir(5) says 36 hours.
const (
	foreignTempLife = 36 * time.Hour
	ourTempLife     = time.Hour
)

// tidy removes what the dead have left: files in tmp/ that nobody brought to new/, and
// ours that were to replace another. No error matters.
func (b *box) tidy() {
	old := func(path string, life time.Duration) {
		st, err := fstatat(b.dir, path)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && b.st.now().Sub(time.Unix(st.Ctim.Unix())) > life {
			_ = unix.Unlinkat(b.dir, path, 0)
		}
	}
	names, _ := listAll(b.dir, "tmp")
	for _, n := range names {
		old("tmp/"+n, foreignTempLife)
	}
	names, _ = listAll(b.dir, ".")
	for _, n := range names {
		if strings.Contains(n, tempMark) {
			old(n, ourTempLife)
		}
	}
}

// noteListed records that there is nothing left to be seen, so that the next
// look is two calls.
func (b *box) noteListed(ctx context.Context, newMtime int64, tookNew, young, youngCur bool) error {
	t, err := b.lock(ctx, false)
	if err != nil {
		return err
	}
	defer t.end()
	if t.state().ino == 0 {
		return nil
	}
	h := t.hdr
	h.listed = b.st.now().Unix()
	if st, err := fstatat(b.dir, "new"); err == nil && !young && ripe(newMtime) {
		if tookNew { // our own unlinks moved it
			if empty, err := dirEmpty(b.dir, "new"); err == nil && empty {
				newMtime = mtime(&st)
			}
		}
		if ripe(newMtime) {
			h.newMtime = newMtime
		}
	}
	if youngCur {
		h.curMtime = 0
	}
	if h == t.hdr {
		return nil
	}
	return t.writeHeader(h)
}

// ripe reports whether an mtime taken before a listing tells of what comes after it.
// The clock of file systems ticks every 1-10 ms, and what happens within a tick does
// not move it.
func ripe(mtime int64) bool {
	d := time.Now().UnixNano() - mtime
	return d < 0 || d > int64(20*time.Millisecond)
}

// list finds the files of a directory that are not ours and old enough.
func (b *box) list(dir string, names []string) (files []foreignFile, young bool, err error) {
	if names == nil {
		if names, err = listNames(b.dir, dir); err != nil {
			return nil, false, err
		}
	}
	now := b.st.now()
	for _, n := range names {
		st, err := fstatat(b.dir, dir+"/"+n)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if now.Sub(time.Unix(st.Ctim.Unix())) < settled {
			young = true
			continue
		}
		files = append(files, foreignFile{path: dir + "/" + n})
	}
	return files, young, nil
}

// merge lists cur/ under the lock and does what our records and the names there
// say together. It returns the files to adopt.
func (b *box) merge(ctx context.Context) (files []foreignFile, young bool, err error) {
	theirs := b.readDovecotKeywords() // before ours is written there
	if err := b.learnKeywords(ctx, theirs); err != nil {
		return nil, false, err
	}
	t, err := b.lock(ctx, true)
	if err != nil {
		return nil, false, err
	}
	defer t.end()
	before, err := fstatat(b.dir, "cur")
	if err != nil {
		return nil, false, err
	}
	names, err := listNames(b.dir, "cur")
	if err != nil {
		return nil, false, err
	}
	found := b.sortOut(names)
	if len(found.ours) > 0 || t.state().view.n > 0 {
		if err := t.mergeOurs(&found, b.letterKeywords(theirs)); err != nil {
			return nil, false, err
		}
	}
	if t.state().ino != 0 {
		h := t.hdr
		if h.curMtime = mtime(&before); !ripe(h.curMtime) {
			h.curMtime = 0
		}
		if h != t.hdr {
			if err := t.writeHeader(h); err != nil {
				return nil, false, err
			}
		}
	}
	if len(found.foreign) == 0 {
		return nil, false, nil
	}
	return b.list("cur", found.foreign)
}

// mergeOurs merges flags that others changed, and expunges what they removed.
func (t *txn) mergeOurs(found *listing, translate func(int) int) error {
	var recs []Message
	var missing UIDSet
	next := t.hdr.modseq + 1
	for m := range t.state().view.all() {
		f, ok := found.ours[m.UID]
		if !ok {
			missing.Add(m.UID)
			continue
		}
		n, changed := mergeName(m, f, translate)
		if f.name != n.fileName(t.b.tag) {
			t.straighten(f.name, &n)
		}
		if changed {
			if n.Flags != m.Flags || n.Keywords != m.Keywords {
				n.ModSeq = next
			}
			recs = append(recs, n)
		}
	}
	// What is missing is looked for again: a third of all listings miss a file
	// that is being renamed.
	if len(missing) > 0 {
		if err := t.reallyMissing(&missing); err != nil {
			return err
		}
		for _, m := range t.expunge(missing) {
			m.Flags |= flagMoved | flagSwept
			recs = append(recs, m)
		}
	}
	// A file that is expunged, and is here again under our name, is a copy
	// that someone put back.
	for uid, f := range found.ours {
		if _, m := t.state().view.find(uid); m == nil {
			if g := t.state().view.findGone(uid); g == nil || g.Flags&flagMoved != 0 {
				found.foreign = append(found.foreign, f.name)
			}
		}
	}
	if len(recs) == 0 {
		return nil
	}
	if err := t.ceilings(0); err != nil {
		return err
	}
	t.hdr.modseq = next
	if err := t.commitGone(recs); err != nil {
		return err
	}
	t.b.changed(Messages)
	t.b.keep.named(t.b)
	return nil
}

// straighten gives a file the name that its record says, if others changed more
// than its letters.
func (t *txn) straighten(name string, m *Message) {
	err := unix.Renameat2(t.b.dir, "cur/"+name, t.b.dir, "cur/"+m.fileName(t.b.tag), unix.RENAME_NOREPLACE)
	if err != nil && err != unix.ENOENT {
		t.b.st.conf.Log.Warnf("%s: rename of %s: %v", t.b.where(), name, err)
	}
}

// mergeName is the three-way merge of rule 7: what differs between the letters
// in the name and those last written there was changed by others; that is
// applied, and no more.
func mergeName(m *Message, f foundFile, translate func(int) int) (Message, bool) {
	diff := f.letters ^ m.Named
	if diff == 0 {
		return *m, false
	}
	n := *m
	applyLetters(&n, f.letters&diff, m.Named&diff, translate)
	n.Named = f.letters
	return n, true
}

func (t *txn) reallyMissing(missing *UIDSet) error {
	names, err := listNames(t.b.dir, "cur")
	if err != nil {
		return err
	}
	again := t.b.sortOut(names)
	var still UIDSet
	for u := range missing.All() {
		if _, ok := again.ours[u]; ok {
			continue
		}
		if _, m := t.state().view.find(u); m != nil {
			_, err := fstatat(t.b.dir, "cur/"+m.fileName(t.b.tag))
			if err == nil {
				continue
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		still.Add(u)
	}
	*missing = still
	return nil
}

// listing is cur/ sorted out.
type listing struct {
	ours    map[UID]foundFile
	foreign []string
}

type foundFile struct {
	name string
	parsedName
}

// sortOut finds the files with our tag. If two have the same UID, one keeps it; but
// a listing may as well have both names of one that was just renamed.
func (b *box) sortOut(names []string) listing {
	l := listing{ours: make(map[UID]foundFile, len(names))}
	limit := b.state.Load().meta.uidCeiling
	for _, n := range names {
		p := parseName(n, b.tag)
		if !p.ours || p.uid >= limit {
			l.foreign = append(l.foreign, n)
			continue
		}
		if other, taken := l.ours[p.uid]; taken {
			one, both := b.oneOfTwo(other.name, n)
			if both {
				l.foreign = append(l.foreign, max(n, other.name))
			}
			if one == other.name {
				continue
			}
		}
		l.ours[p.uid] = foundFile{n, p}
	}
	return l
}

// oneOfTwo chooses between two names in cur/ that have one UID: if there are both,
// and they are two files, always the same one.
func (b *box) oneOfTwo(x, y string) (name string, both bool) {
	sx, xerr := fstatat(b.dir, "cur/"+x)
	sy, yerr := fstatat(b.dir, "cur/"+y)
	switch {
	case xerr == nil && yerr != nil:
		return x, false
	case xerr != nil && yerr == nil:
		return y, false
	}
	return min(x, y), xerr == nil && yerr == nil && sx.Ino != sy.Ino
}

// learnKeywords takes in keywords that others wrote to dovecot-keywords.
func (b *box) learnKeywords(ctx context.Context, theirs [maxLetters]string) error {
	var names []string
	for _, k := range theirs {
		if k != "" {
			names = append(names, k)
		}
	}
	err := b.knowKeywords(ctx, names)
	if errors.Is(err, ErrKeywords) {
		return nil
	}
	return err
}

// letterKeywords translates a letter's bit into its keyword's, or -1.
func (b *box) letterKeywords(theirs [maxLetters]string) func(letter int) int {
	known := b.state.Load().meta.keywords
	return func(l int) int {
		if 1<<l == letterP {
			return keywordBit(known, forwarded)
		}
		if name := theirs[l-firstKeyword]; name != "" {
			return keywordBit(known, name)
		}
		return -1
	}
}

// takeIn copies foreign files and gives them UIDs: first durable here, then
// removed there. left tells whether some had to be left for later.
func (b *box) takeIn(ctx context.Context, files []foreignFile) (left bool, err error) {
	const batch = 64
	for len(files) > 0 {
		now := files[:min(batch, len(files))]
		files = files[len(now):]
		l, err := b.takeSome(ctx, now)
		left = left || l
		if err != nil {
			return left, err
		}
	}
	return left, nil
}

func (b *box) takeSome(ctx context.Context, files []foreignFile) (left bool, err error) {
	var items []item
	var paths []string
	for i := range files {
		d, err := b.stageForeign(ctx, files[i].path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return true, err
		}
		defer d.Abort()
		it := item{
			flags: d.Flags, keywords: d.Keywords, internal: d.Internal.Unix(),
			size: d.Size, guid: d.GUID, cache: d.cache, from: d.link, open: d.open,
		}
		items = append(items, it)
		paths = append(paths, files[i].path)
	}
	if len(items) == 0 {
		return false, nil
	}
	msgs, err := b.add(ctx, items, true)
	if err != nil {
		return true, err
	}
	if err := b.settle(msgs); err != nil {
		return true, err
	}
	for _, p := range paths {
		if err := unix.Unlinkat(b.dir, p, 0); err != nil && err != unix.ENOENT {
			return true, sysErr("unlink "+p, err)
		}
	}
	return false, nil
}

// stageForeign makes a CRLF copy of a foreign file. The letters of its flags
// count; a-z do not, for they mean something else in each folder.
func (b *box) stageForeign(ctx context.Context, path string) (*Draft, error) {
	fd, err := openat(b.dir, path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var m Message
	p := parseName(path[strings.IndexByte(path, '/')+1:], b.tag)
	applyLetters(&m, p.letters&(1<<firstKeyword-1)&^letterP, 0, nil)
	src := Source{Reader: &crlfReader{r: bufio.NewReaderSize(f, 32<<10)}, Partition: b.partition, Internal: st.ModTime(), Flags: m.Flags}
	if p.letters&letterP != 0 {
		src.Keywords = []string{forwarded}
	}
	return b.st.Stage(ctx, src)
}

// crlfReader puts CR before each LF that has none.
type crlfReader struct {
	r       *bufio.Reader
	last    byte
	pending bool // an LF is to follow
}

func (c *crlfReader) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		if c.pending {
			b[n] = '\n'
			n++
			c.pending, c.last = false, '\n'
			continue
		}
		ch, err := c.r.ReadByte()
		if err != nil {
			if n > 0 && err == io.EOF {
				return n, nil
			}
			return n, err
		}
		if ch == '\n' && c.last != '\r' {
			b[n] = '\r'
			n++
			c.pending = true
			continue
		}
		b[n] = ch
		n++
		c.last = ch
	}
	return n, nil
}
