package store

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// box is a mailbox in the memory of this process: one, however many sessions
// have it open. Its snapshot goes away with the last of them.
//
// Locks, always in this order: turn (rule 2's mutex), flock on the directory,
// smu. Whoever holds smu does no more than reads and writes of .index.
type box struct {
	st        *Store
	id        ID
	tag       string
	partition string

	turn chan struct{} // holds a token while nobody changes the mailbox
	cur  dirSync       // shared fsyncs of cur/

	path atomic.Pointer[string]

	open  sync.Mutex // opens dir; it is closed under Store.fds.mu by those who know that users is 0
	dir   int        // descriptor of the directory, or -1
	ino   uint64     // of the directory
	users int        // guarded by Store.fds.mu
	idle  *list.Element

	smu   sync.Mutex
	index int // descriptor of .index, or -1
	// blind: index was closed since state was made, and the number of its inode
	// may be another file's by now.
	blind atomic.Bool
	// freshIndex: the name .index was given to another file since the last sync.
	freshIndex atomic.Bool
	indexIno   uint64
	state      atomic.Pointer[state]

	loading sync.Mutex // the first state is being made
	refs    int        // guarded by Store.mu
	keep    upkeep
}

// state is what is known of a mailbox: immutable, replaced as a whole.
type state struct {
	hdr    header
	ino    uint64 // of .index; 0: there is none, because there never was a message
	meta   *meta
	metaAt fileID // which .mailbox that was
	view   *view  // nil: the records were not read
}

var (
	errStale = errors.New("index is of another epoch")
	errLost  = errors.New("index is missing")
	errOther = errors.New("uniqueid of another mailbox")

	errMissing = errors.New("the mailbox is in the list, but not on its partition")
)

// hold makes the directory's descriptor stay open until release.
func (b *box) hold() error {
	f := &b.st.fds
	f.mu.Lock()
	b.users++
	if b.idle != nil {
		f.idle.Remove(b.idle)
		b.idle = nil
	}
	f.mu.Unlock()
	b.open.Lock()
	defer b.open.Unlock()
	if b.dir >= 0 {
		return nil
	}
	fd, err := openat(unix.AT_FDCWD, *b.path.Load(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && b.ino != 0 && st.Ino != b.ino {
			err = b.missing() // the name leads elsewhere by now
		}
		if err != nil {
			unix.Close(fd)
		}
		b.ino = st.Ino
	} else if errors.Is(err, fs.ErrNotExist) {
		err = b.missing()
	}
	if err != nil {
		f.mu.Lock()
		b.users--
		f.mu.Unlock()
		return err
	}
	b.dir = fd
	return nil
}

// missing tells what it means that a mailbox is not where it was. If the list
// says it is there, its volume is not, or it is just being renamed: that is no
// reason to call it unknown, for mail would bounce.
func (b *box) missing() error {
	b.st.dropBox(b)
	path, err := b.st.pathOf(b.id)
	if err != nil {
		return err
	}
	if path != *b.path.Load() {
		return ErrNotFound // it was renamed: the next one to open it finds it
	}
	return fmt.Errorf("%s: %w", path, errMissing)
}

// release lets the descriptors be closed, should too many be open.
func (b *box) release() {
	f := &b.st.fds
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.users--; b.users > 0 {
		return
	}
	b.idle = f.idle.PushFront(b)
	for f.idle.Len() > f.max {
		f.idle.Remove(f.idle.Back()).(*box).closeFDs()
	}
}

// closeFDs is called with Store.fds.mu held and no users left.
func (b *box) closeFDs() {
	b.idle = nil
	if b.dir >= 0 {
		unix.Close(b.dir)
		b.dir = -1
	}
	if b.index >= 0 {
		unix.Close(b.index)
		b.index, b.indexIno = -1, 0
		b.blind.Store(true)
	}
}

// fileID tells whether a file that is only ever replaced is still the same.
type fileID struct {
	ino   uint64
	mtime int64
}

func idOf(st *unix.Stat_t) fileID { return fileID{st.Ino, mtime(st)} }

// readMeta reads .mailbox.
func readMeta(dirfd int) (*meta, fileID, error) {
	st, err := fstatat(dirfd, metaName) // before: a newer content is no harm
	var text []byte
	if err == nil {
		text, err = readFileAt(dirfd, metaName, maxMeta)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fileID{}, ErrNotFound
	}
	if err != nil {
		return nil, fileID{}, err
	}
	m, err := parseMeta(text)
	return m, idOf(&st), err
}

func readFileAt(dirfd int, name string, limit int64) ([]byte, error) {
	fd, err := openat(dirfd, name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// freshMeta reads .mailbox again if it was replaced.
func (b *box) freshMeta() error {
	st, err := fstatat(b.dir, metaName)
	if errors.Is(err, fs.ErrNotExist) {
		return b.missing()
	}
	if err != nil || idOf(&st) == b.state.Load().metaAt {
		return err
	}
	m, at, err := readMeta(b.dir)
	if errors.Is(err, ErrNotFound) {
		return b.missing()
	}
	if err != nil {
		return err
	}
	if m.id != b.id {
		return b.missing() // another mailbox of that name
	}
	b.setMeta(m, at)
	return nil
}

func (b *box) setMeta(m *meta, at fileID) {
	b.smu.Lock()
	defer b.smu.Unlock()
	s := *b.state.Load()
	s.meta, s.metaAt = m, at
	if s.view != nil {
		v := *s.view
		v.keywords = m.keywords
		s.view = &v
	}
	b.state.Store(&s)
}

// changeMeta replaces .mailbox, durably, by what fn makes of it. The new file
// is written and synced before the lock is taken, so that nobody waits for the
// disk; should someone else have replaced it meanwhile, all is done again.
func (b *box) changeMeta(ctx context.Context, fn func(*meta) error) error {
	if err := b.hold(); err != nil {
		return err
	}
	defer b.release()
	for {
		if err := b.freshMeta(); err != nil {
			return err
		}
		s := b.state.Load()
		m := s.meta.clone()
		if err := fn(m); err != nil {
			return err
		}
		done, err := b.swapMeta(ctx, m, s.metaAt)
		if err != nil || done {
			return err
		}
	}
}

func (b *box) swapMeta(ctx context.Context, m *meta, was fileID) (done bool, err error) {
	if err := b.st.fault("meta"); err != nil {
		return false, err
	}
	tmp, err := writeTemp(b.st, b.dir, metaName, m.write)
	if err != nil {
		return false, err
	}
	t, err := b.lock(ctx, false)
	if err == nil {
		if b.state.Load().metaAt == was {
			done = true
			err = t.renameMeta(tmp, m)
		}
		t.end()
	}
	if !done || err != nil {
		_ = unix.Unlinkat(b.dir, tmp, 0)
		return false, err
	}
	if err := b.st.fsync(b.dir, nameOf(metaName)); err != nil {
		b.distrust(err)
		return false, err
	}
	return true, nil
}

func (t *txn) renameMeta(tmp string, m *meta) error {
	b := t.b
	if err := unix.Renameat(b.dir, tmp, b.dir, metaName); err != nil {
		return sysErr("rename "+metaName, err)
	}
	st, err := fstatat(b.dir, metaName)
	if err != nil {
		return err
	}
	b.setMeta(m, idOf(&st))
	return nil
}

// writeMeta replaces .mailbox with the lock held across the fsync: rule 4b, and
// verify.
func (t *txn) writeMeta(m *meta) error {
	b := t.b
	if err := b.st.fault("ceilings"); err != nil {
		return err
	}
	tmp, err := writeTemp(b.st, b.dir, metaName, m.write)
	if err != nil {
		return err
	}
	if err := t.renameMeta(tmp, m); err != nil {
		return err
	}
	return b.st.fsync(b.dir, nameOf(metaName))
}

// tempMark is in the names of files that are about to replace another.
const tempMark = ".new."

// writeTemp writes a file beside name, synced; the caller renames it.
func writeTemp(s *Store, dirfd int, name string, fill func(io.Writer) error) (tmp string, err error) {
	tmp = fmt.Sprintf("%s%s%s.%d", name, tempMark, s.nonce, s.count.Add(1))
	fd, err := openat(dirfd, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), tmp)
	if err = fill(f); err == nil {
		err = s.fsync(fd, name)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = unix.Unlinkat(dirfd, tmp, 0)
	}
	return tmp, err
}

// writeFileAt replaces a file in a directory: temporary, fsync, rename, fsync.
func writeFileAt(s *Store, dirfd int, name string, fill func(io.Writer) error) error {
	tmp, err := writeTemp(s, dirfd, name, fill)
	if err != nil {
		return err
	}
	if err := unix.Renameat(dirfd, tmp, dirfd, name); err != nil {
		_ = unix.Unlinkat(dirfd, tmp, 0)
		return sysErr("rename "+name, err)
	}
	return s.fsync(dirfd, nameOf(name))
}

// current reports whether a look at .index says that nothing has changed. A
// commit always makes the file longer than the end we know: records are written
// first.
func (s *state) current(st *unix.Stat_t, err error) bool {
	if err != nil {
		return s.ino == 0 && errors.Is(err, fs.ErrNotExist)
	}
	return st.Ino == s.ino && st.Size == s.hdr.end
}

// view returns the newest snapshot, rule 3: no lock, one fstatat if nothing
// has changed.
func (b *box) view(ctx context.Context) (*view, error) {
	if err := b.hold(); err != nil {
		return nil, err
	}
	defer b.release()
	if b.pollDue() {
		if err := b.poll(ctx); err != nil {
			return nil, err
		}
	}
	s := b.state.Load()
	if s.view != nil && !b.blind.Load() {
		if st, err := fstatat(b.dir, indexName); s.current(&st, err) {
			return s.view, nil
		}
	}
	s, err := b.catchUp(ctx, true)
	if err != nil {
		return nil, err
	}
	return s.view, nil
}

// catchUp brings the state up to date; with load the records too. What can't be
// read is read again, then under the lock, and then verified.
func (b *box) catchUp(ctx context.Context, load bool) (*state, error) {
	var s *state
	var err error
	for try := range 3 {
		b.smu.Lock()
		s, err = b.refresh(load)
		b.smu.Unlock()
		if err == nil || !errors.Is(err, errTorn) {
			break
		}
		time.Sleep(time.Duration(try) * time.Millisecond)
	}
	if err == nil || !damaged(err) {
		return s, err
	}
	t, err := b.lock(ctx, load)
	if err != nil {
		return nil, err
	}
	t.end()
	return b.state.Load(), nil
}

// damaged reports whether verify can help.
func damaged(err error) bool {
	return errors.Is(err, errTorn) || errors.Is(err, errStale) || errors.Is(err, errLost)
}

// refresh reads what is new in .index. smu is held.
func (b *box) refresh(load bool) (*state, error) {
	s := b.state.Load()
	st, err := fstatat(b.dir, indexName)
	if errors.Is(err, fs.ErrNotExist) {
		if s.ino == 0 {
			return b.loaded(s, load), nil
		}
		if _, err := fstatat(b.dir, metaName); errors.Is(err, fs.ErrNotExist) {
			return nil, b.missing() // the whole mailbox went
		}
		return nil, errLost
	}
	if err != nil {
		return nil, err
	}
	if err := b.openIndex(st.Ino); err != nil {
		return nil, err
	}
	hdr, err := readHeader(b.index, b.id)
	if err != nil {
		return nil, err
	}
	if hdr.epoch != b.st.epoch {
		return nil, errStale
	}
	return b.readTail(s, hdr, load)
}

// loaded gives a mailbox without .index its empty view.
func (b *box) loaded(s *state, load bool) *state {
	if load && s.view == nil {
		n := *s
		n.view = newView(&snapshot{}, &n)
		b.state.Store(&n)
		return &n
	}
	return s
}

func (b *box) openIndex(ino uint64) error {
	if b.index >= 0 && b.indexIno == ino {
		return nil
	}
	fd, err := openat(b.dir, indexName, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return sysErr("fstat", err)
	}
	if b.index >= 0 {
		unix.Close(b.index)
	}
	b.index, b.indexIno = fd, st.Ino
	return nil
}

// readTail makes the state that hdr tells of. smu is held.
func (b *box) readTail(s *state, hdr header, load bool) (*state, error) {
	n := &state{hdr: hdr, ino: b.indexIno, meta: s.meta, metaAt: s.metaAt}
	same := s.ino == n.ino && s.hdr.gen == hdr.gen && s.hdr.end <= hdr.end
	defer b.blind.Store(false)
	if !load && s.view == nil {
		b.state.Store(n)
		return n, nil
	}
	var e *edit
	from := int64(recordsAt)
	if same && s.view != nil {
		e, from = s.view.snapshot.edit(), s.hdr.end
	} else {
		e = (*snapshot)(nil).edit()
	}
	bits := 0
	err := readRecords(b.index, b.id, hdr.gen, from, hdr.end, func(m *Message) {
		e.apply(m)
		bits = max(bits, m.keywordBits())
	})
	if err != nil {
		return nil, err
	}
	if bits > len(n.meta.keywords) {
		if n.meta, n.metaAt, err = readMeta(b.dir); err != nil {
			return nil, err
		}
	}
	n.view = newView(e.done(), n)
	b.state.Store(n)
	if from == recordsAt {
		b.noticeWork(n)
	}
	return n, nil
}

// newView is what a session sees of a state.
func newView(snap *snapshot, s *state) *view {
	return &view{snapshot: snap, status: s.status(), keywords: s.meta.keywords}
}

// status is what the header knows without the records.
func (s *state) status() Status {
	h := &s.hdr
	next := h.uidNext
	if h.flags&headerBusy != 0 {
		next = h.told
	}
	return Status{
		UIDValidity: s.meta.uidValidity, UIDNext: next, HighestModSeq: h.modseq,
		Messages: int(h.live), Unseen: int(h.unseen), Deleted: int(h.deleted), Recent: int(h.recents), Size: h.size, FirstUnseen: -1,
	}
}

// keywordBits is one more than the highest keyword bit that is set.
func (m *Message) keywordBits() int {
	for i := maxKeywords - 1; i >= 0; i-- {
		if m.HasKeyword(i) {
			return i + 1
		}
	}
	return 0
}

// load makes the first state of a box: .mailbox, and .index as far as its
// header. An index that can't be trusted is verified here, rule 5.
func (b *box) load(ctx context.Context) error {
	if err := b.hold(); err != nil {
		return err
	}
	defer b.release()
	m, at, err := readMeta(b.dir)
	if errors.Is(err, ErrNotFound) {
		return b.missing()
	}
	if err != nil {
		return err
	}
	if m.id != b.id {
		return fmt.Errorf("%s: %w: %s, where %s was expected", *b.path.Load(), errOther, m.id, b.id)
	}
	s := &state{meta: m, metaAt: at}
	s.hdr = b.freshHeader(m, nil)
	b.state.Store(s)
	st, err := fstatat(b.dir, indexName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fresh, err := b.neverUsed(m)
		if err != nil {
			return err
		}
		if fresh {
			return nil
		}
		s.ino = 1 // something that no look will find: lost
	case err != nil:
		return err
	default:
		s.ino = st.Ino
	}
	n, err := b.catchUp(ctx, false)
	if err != nil {
		return err
	}
	if cur, err := fstatat(b.dir, "cur"); err == nil && cur.Ino == n.hdr.curIno {
		return nil
	}
	t, err := b.lock(ctx, false) // cur/ is another one than it was: restored, or copied
	if err != nil {
		return err
	}
	defer t.end()
	return t.verify(ctx)
}

// neverUsed reports whether a mailbox without .index is one without a history.
// What lies in cur/ then is foreign, and is adopted.
func (b *box) neverUsed(m *meta) (bool, error) {
	if m.uidCeiling > 1 {
		return false, nil
	}
	empty, err := dirEmpty(b.dir, "cur")
	if errors.Is(err, fs.ErrNotExist) {
		for _, d := range maildirs {
			if err := unix.Mkdirat(b.dir, d, 0o700); err != nil && err != unix.EEXIST {
				return false, sysErr("mkdir "+d, err)
			}
		}
		return true, nil
	}
	return empty, err
}

var maildirs = [...]string{"cur", "new", "tmp"}

func dirEmpty(dirfd int, name string) (bool, error) {
	fd, err := openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return false, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	names, err := f.Readdirnames(1)
	if err == io.EOF {
		err = nil
	}
	return len(names) == 0, err
}

// freshHeader is the header of an index that is about to be made.
func (b *box) freshHeader(m *meta, cur *unix.Stat_t) header {
	h := header{
		gen: rand.Uint64() >> 2, epoch: b.st.epoch, end: recordsAt, modseq: m.modCeiling, history: m.modCeiling,
		uidNext: m.uidCeiling, uidValidity: m.uidValidity, cacheEnd: 0,
	}
	if cur != nil {
		h.curIno, h.curMtime = cur.Ino, mtime(cur)
	}
	return h
}

// where is the box's directory, for messages.
func (b *box) where() string { return filepath.Clean(*b.path.Load()) }
