package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// txn is a change of one mailbox: the lock is held from box.lock to end.
type txn struct {
	b   *box
	hdr header // as it will be written next
}

// lock takes rule 2's lock and brings the state up to date; with load the
// records too. An index that the one before left busy, or that is not good, is
// verified first.
func (b *box) lock(ctx context.Context, load bool) (*txn, error) {
	select {
	case <-b.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	t, err := b.lockTurn(ctx, load, true)
	if err != nil {
		b.turn <- struct{}{}
	}
	return t, err
}

// lockTurn has the turn already. It waits for other processes, or gives
// EWOULDBLOCK.
func (b *box) lockTurn(ctx context.Context, load, wait bool) (*txn, error) {
	if err := b.hold(); err != nil {
		return nil, err
	}
	if err := b.flock(ctx, wait); err != nil {
		b.release()
		return nil, err
	}
	t := &txn{b: b}
	if err := t.begin(ctx, load); err != nil {
		t.unlock()
		return nil, err
	}
	return t, nil
}

func (t *txn) begin(ctx context.Context, load bool) error {
	b := t.b
	if err := b.findAgain(); err != nil {
		return err
	}
	if err := b.freshMeta(); err != nil {
		return err
	}
	b.smu.Lock()
	s, err := b.refresh(load)
	b.smu.Unlock()
	if err != nil && !damaged(err) {
		return err
	}
	if err != nil || s.hdr.flags&(headerBusy|headerDoubt) != 0 {
		if err == nil {
			err = errors.New("someone died in the middle of a change, or the disk failed")
		}
		b.st.conf.Log.Warnf("%s: %v: verifying", b.where(), err)
		return t.verify(ctx)
	}
	t.hdr = s.hdr
	return nil
}

// findAgain makes sure that the directory is where the mailbox's name leads:
// it may have been renamed or deleted by another process.
func (b *box) findAgain() error {
	st, err := fstatat(unix.AT_FDCWD, *b.path.Load())
	if err == nil && st.Ino == b.ino {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path, err := b.st.pathOf(b.id)
	if err != nil {
		b.st.dropBox(b)
		return err
	}
	if st, err = fstatat(unix.AT_FDCWD, path); err != nil || st.Ino != b.ino {
		return b.missing()
	}
	b.path.Store(&path)
	return nil
}

// flock waits for the other processes. Those who can't have it at once wait in
// the kernel, which keeps their order, but not more than 64 of a process: each
// costs a thread.
func (b *box) flock(ctx context.Context, wait bool) error {
	err := unix.Flock(b.dir, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return nil
	}
	if err != unix.EWOULDBLOCK && err != unix.EINTR || !wait {
		return sysErr("flock", err)
	}
	select {
	case b.st.waiting <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.st.waiting }()
	for {
		switch err := unix.Flock(b.dir, unix.LOCK_EX); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return sysErr("flock", err)
		}
	}
}

func (t *txn) unlock() {
	if err := unix.Flock(t.b.dir, unix.LOCK_UN); err != nil {
		t.b.st.conf.Log.Errorf("%s: unlock: %v", t.b.where(), err)
	}
	t.b.release()
}

// end gives the lock back.
func (t *txn) end() {
	t.unlock()
	t.b.turn <- struct{}{}
}

// state is the mailbox as of now; nobody else can change it.
func (t *txn) state() *state { return t.b.state.Load() }

// ceilings is rule 4b: before UIDs or ModSeqs are given that .mailbox does not
// allow for, it is made to, durably.
func (t *txn) ceilings(uids int) error {
	m := t.state().meta
	if uint64(t.hdr.uidNext)+uint64(uids) > 1<<32-1 {
		return fmt.Errorf("%s: no UIDs left", t.b.where())
	}
	needUID, needMod := t.hdr.uidNext+UID(uids), t.hdr.modseq+2
	if needUID <= m.uidCeiling && needMod <= m.modCeiling {
		return nil
	}
	m = m.clone()
	if needUID > m.uidCeiling {
		m.uidCeiling = UID(min(uint64(needUID)+1024, 1<<32-1))
	}
	if needMod > m.modCeiling {
		m.modCeiling = needMod + 1<<20
	}
	if err := t.writeMeta(m); err != nil {
		t.doubt() // it may have its name already, but not for good: nobody shall rely on it
		return err
	}
	return nil
}

// ready makes sure that there is an index to write in.
func (t *txn) ready() error {
	if t.state().ino != 0 {
		return nil
	}
	cur, err := fstatat(t.b.dir, "cur")
	if err != nil {
		return err
	}
	hdr := t.b.freshHeader(&meta{
		uidCeiling: t.hdr.uidNext, modCeiling: t.hdr.modseq, uidValidity: t.hdr.uidValidity,
	}, &cur)
	if empty, err := dirEmpty(t.b.dir, "cur"); err != nil || !empty {
		hdr.curMtime = 0 // someone else's: look
	}
	if st, err := fstatat(t.b.dir, "new"); err == nil {
		if empty, err := dirEmpty(t.b.dir, "new"); err == nil && empty {
			hdr.newMtime = mtime(&st)
		}
	}
	hdr.listed = t.b.st.now().Unix()
	return t.replaceIndex(hdr, nil, nil)
}

// busy is rule 4c: the header says that the next n UIDs are spent, and that
// files are being linked or renamed. Clients are told the old UIDNEXT until the
// messages are there: one who knew the new one would not look below it.
func (t *txn) busy(n int) error {
	h := t.hdr
	h.told = h.uidNext
	h.uidNext += UID(n)
	h.flags |= headerBusy
	return t.writeHeader(h)
}

// calm takes the mark off again without having changed a record.
func (t *txn) calm() error {
	h := t.hdr
	h.flags &^= headerBusy
	return t.writeHeader(h)
}

func (t *txn) writeHeader(h header) error {
	t.b.smu.Lock()
	defer t.b.smu.Unlock()
	if err := writeHeader(t.b.index, t.b.id, &h); err != nil {
		return err
	}
	t.hdr = h
	s := *t.state()
	s.hdr = h
	if s.view != nil {
		v := *s.view
		v.status = s.status()
		s.view = &v
	}
	t.b.state.Store(&s)
	return nil
}

// watchCur is called before and after links and renames in cur/: if its mtime
// is not the recorded one before, someone else was there, and it will be listed.
func (t *txn) watchCur() (ours bool) {
	st, err := fstatat(t.b.dir, "cur")
	return err == nil && t.hdr.curMtime != 0 && mtime(&st) == t.hdr.curMtime
}

func (t *txn) recordCur(ours bool) {
	t.hdr.curMtime = 0
	if st, err := fstatat(t.b.dir, "cur"); err == nil && ours {
		t.hdr.curMtime = mtime(&st)
	}
}

// commit writes records and the header that makes them true. When it fails,
// nothing was changed but for what busy said.
func (t *txn) commit(recs []Message) error { return t.commitAs(recs, 0) }

// commitAs leaves the header busy where something else belongs to the change.
func (t *txn) commitAs(recs []Message, busy uint32) error {
	b := t.b
	b.smu.Lock()
	defer b.smu.Unlock()
	s := t.state()
	h := t.hdr
	h.flags = h.flags&^headerBusy | busy
	h.told = h.uidNext
	buf := make([]byte, len(recs)*recordSize)
	seal := sealOf(b.id, h.gen)
	for i := range recs {
		off := int64(i) * recordSize
		recs[i].encode(buf[off:off+recordSize], seal, h.end+off)
	}
	var e *edit
	if s.view != nil {
		e = s.view.snapshot.edit()
	}
	for i := range recs {
		h.count(e, &recs[i])
	}
	if err := pwrite(b.index, buf, h.end); err != nil {
		return err
	}
	if err := b.st.fault("record"); err != nil {
		return err
	}
	h.end += int64(len(buf))
	if err := writeHeader(b.index, b.id, &h); err != nil {
		return err
	}
	t.hdr = h
	n := &state{hdr: h, ino: s.ino, meta: s.meta, metaAt: s.metaAt}
	if e != nil {
		n.view = newView(e.done(), n)
	}
	b.state.Store(n)
	return nil
}

// count applies m to e and keeps the header's sums. Without the records in
// memory (e is nil) only new messages can be counted.
func (h *header) count(e *edit, m *Message) {
	var before Message
	was := false
	if e != nil {
		before, was = e.apply(m)
	}
	if was {
		h.dead++
		h.add(&before, -1)
	}
	switch {
	case m.Flags&flagGone == 0:
		h.add(m, +1)
	case was:
		h.gone++
	default:
		h.dead++
	}
}

func (h *header) add(m *Message, n int) {
	h.live += uint32(n)
	h.size += int64(n) * m.Size
	if m.Flags&FlagSeen == 0 {
		h.unseen += uint32(n)
	}
	if m.Flags&FlagDeleted != 0 {
		h.deleted += uint32(n)
	}
	if m.UID > h.recent {
		h.recents += uint32(n)
	}
}

// replaceIndex writes .index anew with the next generation and these records,
// and gives it its name: verify, compaction and the first message. The snapshot
// is rebuilt if there was one.
//
// One that replaces another is synced first, though the lock is held: the other may
// be all that knows of a flag stored long ago, and a power cut could leave the name to
// a file of zeros. Those who came meanwhile would be lost in a copy made before.
func (t *txn) replaceIndex(h header, live *snapshot, gone []Message) error {
	b := t.b
	b.smu.Lock()
	defer b.smu.Unlock()
	fd, err := openat(b.dir, indexNewName, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	ok := false
	defer func() {
		if !ok {
			unix.Close(fd)
			_ = unix.Unlinkat(b.dir, indexNewName, 0)
		}
	}()
	h.gen++
	h.flags &^= headerBusy | headerDoubt
	h.live, h.unseen, h.deleted, h.recents, h.size, h.dead, h.gone = 0, 0, 0, 0, 0, 0, uint32(len(gone))
	w := recordWriter{fd: fd, seal: sealOf(b.id, h.gen), off: recordsAt}
	e := (*snapshot)(nil).edit()
	if live != nil {
		for m := range live.all() {
			e.push(m)
			h.add(m, +1)
			w.put(m)
		}
	}
	for i := range gone {
		w.put(&gone[i])
	}
	e.gone = gone
	if h.end, err = w.close(); err != nil {
		return err
	}
	for range 2 { // both slots are good from the first day on
		if err := writeHeader(fd, b.id, &h); err != nil {
			return err
		}
	}
	if err := b.st.fault("index.new"); err != nil {
		return err
	}
	if t.state().ino != 0 {
		if err := b.st.fsync(fd, indexNewName); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return sysErr("fstat", err)
	}
	if err := unix.Renameat(b.dir, indexNewName, b.dir, indexName); err != nil {
		return sysErr("rename .index", err)
	}
	ok = true
	b.freshIndex.Store(true)
	if b.index >= 0 {
		unix.Close(b.index)
	}
	b.index, b.indexIno = fd, st.Ino
	t.hdr = h
	old := t.state()
	n := &state{hdr: h, ino: st.Ino, meta: old.meta, metaAt: old.metaAt}
	if old.view != nil || live != nil {
		n.view = newView(e.done(), n)
	}
	b.state.Store(n)
	return nil
}

// recordWriter writes records in pieces.
type recordWriter struct {
	fd   int
	seal seal
	off  int64
	buf  []byte
	err  error
}

func (w *recordWriter) put(m *Message) {
	n := len(w.buf)
	w.buf = append(w.buf, make([]byte, recordSize)...)
	m.encode(w.buf[n:], w.seal, w.off+int64(n))
	if len(w.buf) >= 512*recordSize {
		w.flush()
	}
}

func (w *recordWriter) flush() {
	if w.err == nil && len(w.buf) > 0 {
		w.err = pwrite(w.fd, w.buf, w.off)
	}
	w.off += int64(len(w.buf))
	w.buf = w.buf[:0]
}

func (w *recordWriter) close() (end int64, err error) {
	w.flush()
	return w.off, w.err
}

// compact rewrites .index when more of its records are dead than alive.
func (t *txn) compact() error {
	h := &t.hdr
	if h.dead < 256 || h.dead < h.live+h.gone {
		return nil
	}
	s := t.state()
	if s.view == nil {
		return nil
	}
	return t.replaceIndex(t.hdr, s.view.snapshot, s.view.gone)
}
