package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/message"
)

// Rule 4: how a message comes to be the user's.
//
//	a  write <partition>/.stage/x, set its mtime, fsync: once for all recipients
//	b  lock; raise the ceilings in .mailbox if uidnext or modseq would pass them
//	c  header: uidnext, busy: these UIDs are spent whatever happens
//	d  link(stage, cur/name): never rename, which would overwrite silently
//	e  record, header: end, modseq, counts, not busy; unlock; notice
//	f  fsync of cur/ that began after the link: from here on it is the user's
//
// Before f nothing was promised. A death between c and e leaves the busy mark,
// and whoever takes the lock next verifies the mailbox.

const stageDir = ".stage"

// sameDate is how many seconds after its INTERNALDATE a message may be saved
// without a date of its own for that, which only .extra could keep.
const sameDate = 5

// Draft is a message on its way into mailboxes: written, synced, but nobody's yet.
type Draft struct {
	Size     int64
	GUID     [16]byte
	Internal time.Time
	Flags    Flags
	Keywords []string

	st    *Store
	path  string // of the staged file, "" when it is gone
	cache []byte // the encoded summary
}

// Abort drops the draft. It does nothing once the draft was used and dropped.
func (d *Draft) Abort() {
	if d.path != "" {
		_ = unix.Unlink(d.path)
		d.path = ""
	}
}

// stager copies a message to its file and learns about it on the way.
type stager struct {
	fd   int
	buf  []byte
	n    int64
	sum  hash.Hash
	mime *message.Parser
}

func (w *stager) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, _ = w.sum.Write(w.buf)
	_, _ = w.mime.Write(w.buf)
	err := pwrite(w.fd, w.buf, w.n)
	w.n += int64(len(w.buf))
	w.buf = w.buf[:0]
	return err
}

// fill reads all of r, in as few and large pieces as it gives.
func (w *stager) fill(r io.Reader, limit int64) error {
	for {
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return err
			}
		}
		n, err := r.Read(w.buf[len(w.buf):cap(w.buf)])
		w.buf = w.buf[:len(w.buf)+n]
		if limit > 0 && w.n+int64(len(w.buf)) > limit {
			return ErrTooBig
		}
		if err == io.EOF {
			return w.flush()
		}
		if err != nil {
			return err
		}
	}
}

const stageBuffer = 32 << 10

func newStageBuffer() any { b := make([]byte, 0, stageBuffer); return &b }

// Stage writes a message to disk and makes it durable, for Append or Deliver.
func (s *Store) Stage(ctx context.Context, src Source) (*Draft, error) {
	dir, err := s.stageOf(ctx, src)
	if err != nil {
		return nil, err
	}
	internal := src.Internal
	if internal.IsZero() {
		internal = s.now()
	}
	d := &Draft{st: s, Internal: internal, Flags: src.Flags & SystemFlags, Keywords: src.Keywords}
	path := filepath.Join(dir, s.stageName())
	fd, err := openat(unix.AT_FDCWD, path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	d.path = path
	if err := d.fill(fd, src); err != nil {
		d.Abort()
		return nil, err
	}
	return d, nil
}

func (d *Draft) fill(fd int, src Source) error {
	buf := d.st.buffers.Get().(*[]byte)
	defer d.st.buffers.Put(buf)
	w := &stager{fd: fd, buf: (*buf)[:0], sum: sha256.New(), mime: message.NewParser()}
	if err := w.fill(src.Reader, src.Limit); err != nil {
		return err
	}
	d.Size = w.n
	d.GUID = [16]byte(w.sum.Sum(nil))
	d.cache = w.mime.Summary().Append(nil)
	return d.seal(fd)
}

// seal sets the mtime, which is the INTERNALDATE, and syncs.
func (d *Draft) seal(fd int) error {
	if err := d.st.fault("stage"); err != nil {
		return err
	}
	if err := setMtime(fd, d.Internal); err != nil {
		return err
	}
	if err := d.st.fsync(fd, "stage"); err != nil {
		return err
	}
	return d.st.fault("staged")
}

func setMtime(fd int, t time.Time) error {
	ts := unix.NsecToTimespec(t.Unix() * 1e9)
	tv := []unix.Timeval{{Sec: ts.Sec}, {Sec: ts.Sec}}
	if err := unix.Futimes(fd, tv); err != nil {
		return sysErr("futimes", err)
	}
	return nil
}

func (s *Store) stageOf(ctx context.Context, src Source) (string, error) {
	p := src.Partition
	if p == "" && src.Near != "" {
		if e, err := s.list.get(ctx, src.Near); err == nil {
			p = e.Partition
		}
	}
	if p == "" {
		p = s.conf.DefaultPartition
	}
	path, ok := s.conf.Partitions[p]
	if !ok {
		return "", fmt.Errorf("%w: %s", ErrPartition, p)
	}
	return filepath.Join(path, stageDir), nil
}

func (s *Store) stageName() string {
	return fmt.Sprintf("%d.%s.%d", s.now().UnixNano(), s.nonce, s.count.Add(1))
}

// Deliver puts a staged message into each target's mailbox: one file, a link
// for each. The answers come in the targets' order; nil means that the message
// survives a power cut there. The draft is gone afterwards.
func (s *Store) Deliver(ctx context.Context, d *Draft, targets []Target) []error {
	defer d.Abort()
	errs := make([]error, len(targets))
	boxes := make([]*box, len(targets))
	added := make([][]Message, len(targets))
	for i, t := range targets {
		boxes[i], added[i], errs[i] = s.deliverOne(ctx, d, t)
	}
	var wg sync.WaitGroup
	for i, b := range boxes {
		if b == nil {
			continue
		}
		finish := func() {
			errs[i] = b.settle(added[i])
			s.putBox(b)
		}
		if len(targets) == 1 {
			finish()
		} else {
			wg.Go(finish)
		}
	}
	wg.Wait()
	return errs
}

// deliverOne does 4b-4e. The box it returns has a reference for settle.
func (s *Store) deliverOne(ctx context.Context, d *Draft, t Target) (b *box, msgs []Message, err error) {
	if t.Found.ID != "" {
		b, msgs, err = s.deliverTo(ctx, d, t, &t.Found)
		if !isStale(err) {
			return b, msgs, err
		} // else it was renamed, or made again, since
	}
	err = s.find(ctx, t.Name, func(e *Entry) (err error) {
		b, msgs, err = s.deliverTo(ctx, d, t, e)
		return err
	})
	return b, msgs, err
}

func (s *Store) deliverTo(ctx context.Context, d *Draft, t Target, e *Entry) (*box, []Message, error) {
	b, err := s.getBox(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	it := item{
		flags: t.Flags & SystemFlags, keywords: t.Keywords,
		internal: d.Internal.Unix(), size: d.Size, guid: d.GUID, cache: d.cache, from: d.link, open: d.open,
	}
	msgs, err := b.add(ctx, []item{it}, t.OverQuota)
	if err != nil {
		s.putBox(b)
		return nil, nil, err
	}
	return b, msgs, nil
}

// item is a message about to be linked into a mailbox.
type item struct {
	flags    Flags
	keywords []string
	internal int64
	size     int64
	guid     [16]byte
	cache    []byte
	// from links the file to name in a directory.
	from func(dirfd int, name string) error
	// open opens the file, for a copy where no link can be made.
	open       func() (Body, error)
	unlinkable bool // it turned out so
}

func (d *Draft) open() (Body, error) {
	fd, err := openat(unix.AT_FDCWD, d.path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, sysErr("fstat", err)
	}
	return &body{fd, st.Size}, nil
}

func (d *Draft) link(dirfd int, name string) error {
	return unix.Linkat(unix.AT_FDCWD, d.path, dirfd, name, 0)
}

// add is 4b-4e for one mailbox: all items or none. The caller settles. What can't
// be linked, because it lies on another partition or has as many links as a file
// can have, is copied before the lock is taken again.
func (b *box) add(ctx context.Context, items []item, overQuota bool) ([]Message, error) {
	if err := b.needKeywords(ctx, items); err != nil {
		return nil, err
	}
	for {
		msgs, err := b.addLinked(ctx, items, overQuota)
		if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EMLINK) {
			return msgs, err
		}
		copied := false
		for i := range items {
			if it := &items[i]; it.unlinkable || errors.Is(err, unix.EXDEV) {
				drop, err := b.copyItem(it)
				if err != nil {
					return nil, err
				}
				defer drop()
				copied = true
			}
		}
		if !copied {
			return nil, err
		}
	}
}

func (b *box) addLinked(ctx context.Context, items []item, overQuota bool) ([]Message, error) {
	t, err := b.lock(ctx, false)
	if err != nil {
		return nil, err
	}
	defer t.end()
	msgs, err := t.add(items, overQuota)
	if err != nil {
		return nil, err
	}
	b.arrived(msgs)
	return msgs, nil
}

func (t *txn) add(items []item, overQuota bool) ([]Message, error) {
	quota, err := t.account()
	if err != nil {
		return nil, err
	}
	q := Quota{Messages: int64(len(items))}
	for i := range items {
		q.Storage += items[i].size
	}
	if err := quota.look(q, overQuota); err != nil {
		return nil, err
	}
	if err := t.ready(); err != nil {
		return nil, err
	}
	if err := t.ceilings(len(items)); err != nil {
		return nil, err
	}
	ours := t.watchCur()
	first := t.hdr.uidNext
	if err := t.busy(len(items)); err != nil {
		return nil, err
	}
	if err := t.b.st.fault("busy"); err != nil {
		return nil, t.undo(nil, err)
	}
	if err := quota.add(q, overQuota); err != nil {
		return nil, t.undo(nil, err)
	}
	msgs, err := t.place(items, first, ours)
	if err != nil {
		quota.giveBack(q)
		return nil, err
	}
	quota.check()
	return msgs, t.b.st.fault("committed")
}

// place is 4d and 4e.
func (t *txn) place(items []item, first UID, ours bool) ([]Message, error) {
	msgs := make([]Message, len(items))
	t.hdr.modseq++
	for i := range items {
		msgs[i] = t.record(&items[i], first+UID(i))
		if err := t.link(&items[i], &msgs[i]); err != nil {
			return nil, t.undo(msgs[:i], err)
		}
	}
	if err := t.b.st.fault("linked"); err != nil {
		return nil, t.undo(msgs, err)
	}
	t.recordCur(ours)
	t.putCache(items, msgs)
	if err := t.commit(msgs); err != nil {
		return nil, t.undo(msgs, err)
	}
	return msgs, nil
}

// record is what the index will say of a new message.
func (t *txn) record(it *item, uid UID) Message {
	now := t.b.st.now().Unix()
	m := Message{
		UID: uid, Flags: it.flags, ModSeq: t.hdr.modseq, Created: t.hdr.modseq,
		Size: it.size, Internal: max(it.internal, 0), Saved: now, GUID: it.guid,
	}
	if d := now - m.Internal; d > 0 && d <= sameDate {
		m.Saved = m.Internal // new mail: its name shall say all
	}
	keywords := t.state().meta.keywords
	for _, k := range it.keywords {
		if bit := keywordBit(keywords, k); bit >= 0 {
			m.setKeyword(bit, true)
		}
	}
	m.Named = lettersFor(&m, keywords)
	return m
}

// link is 4d.
func (t *txn) link(it *item, m *Message) error {
	if err := t.b.st.fault("link"); err != nil {
		return err
	}
	var buf [128]byte
	name := string(m.appendName(append(buf[:0], "cur/"...), t.b.tag))
	err := it.from(t.b.dir, name)
	switch {
	case err == unix.EMLINK:
		it.unlinkable = true
	case err == unix.EEXIST:
		t.b.st.conf.Log.Log(alert, "alert: %s: %s exists already, though its UID was never given", t.b.where(), name)
	}
	if err != nil {
		return sysErr("link "+name, err)
	}
	return nil
}

// undo takes back what was linked. If that succeeds the busy mark goes too;
// else the next one to lock will verify. The UIDs are spent.
func (t *txn) undo(linked []Message, cause error) error {
	for i := range linked {
		if err := unix.Unlinkat(t.b.dir, "cur/"+linked[i].fileName(t.b.tag), 0); err != nil && err != unix.ENOENT {
			return cause
		}
	}
	if len(linked) > 0 {
		t.hdr.curMtime = 0
	}
	if err := t.calm(); err != nil {
		t.b.st.conf.Log.Errorf("%s: %v", t.b.where(), err)
	}
	return cause
}

// copyItem makes a copy of the item's file in the mailbox's partition, durable, and
// has it linked from there.
func (b *box) copyItem(it *item) (drop func(), err error) {
	in, err := it.open()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	d := &Draft{st: b.st, Internal: time.Unix(it.internal, 0)}
	d.path = filepath.Join(b.st.conf.Partitions[b.partition], stageDir, b.st.stageName())
	out, err := openat(unix.AT_FDCWD, d.path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer unix.Close(out)
	if err = copyBody(out, in); err == nil {
		err = d.seal(out)
	}
	if err != nil {
		d.Abort()
		return nil, err
	}
	it.from, it.open, it.unlinkable = d.link, d.open, false
	return d.Abort, nil
}

func copyBody(out int, in Body) error {
	buf := make([]byte, 64<<10)
	for off := int64(0); off < in.Size(); {
		n, err := in.ReadAt(buf, off)
		if n == 0 {
			return errors.Join(io.ErrUnexpectedEOF, err)
		}
		if err := pwrite(out, buf[:n], off); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// settle is 4f. When it fails nobody may believe anything about cur/ any more.
// Keywords that no name can say are made durable with the index.
func (b *box) settle(msgs []Message) error {
	for i := range msgs {
		if k := &msgs[i].Keywords; k[0]>>maxLetters != 0 || k[1] != 0 {
			if err := b.syncIndex(); err != nil {
				return err
			}
			break
		}
	}
	err := b.cur.wait(func() error {
		if err := b.hold(); err != nil {
			return err
		}
		defer b.release()
		if err := b.st.fault("sync"); err != nil {
			return err
		}
		return b.st.syncDirAt(b.dir, "cur", "cur")
	})
	if err != nil {
		b.distrust(err)
		return err
	}
	return b.st.fault("synced")
}

// distrust makes the next one to lock the mailbox verify it.
func (b *box) distrust(cause error) {
	b.st.conf.Log.Errorf("%s: %v", b.where(), cause)
	t, err := b.lock(context.Background(), false)
	if err != nil {
		return
	}
	defer t.end()
	t.doubt()
}

func (t *txn) doubt() {
	b := t.b
	if t.state().ino == 0 {
		return
	}
	h := t.hdr
	h.flags |= headerDoubt
	if err := t.writeHeader(h); err != nil {
		b.st.conf.Log.Errorf("%s: %v", b.where(), err)
	}
}

// needKeywords makes sure that .mailbox knows all keywords of the items.
func (b *box) needKeywords(ctx context.Context, items []item) error {
	var names []string
	for i := range items {
		for _, k := range items[i].keywords {
			if !slices.Contains(names, k) {
				names = append(names, k)
			}
		}
	}
	return b.knowKeywords(ctx, names)
}

// knowKeywords puts keywords into .mailbox that are not there yet.
func (b *box) knowKeywords(ctx context.Context, names []string) error {
	missing := func(known []string) (out []string) {
		for _, k := range names {
			if keywordBit(known, k) < 0 && keywordBit(out, k) < 0 {
				out = append(out, k)
			}
		}
		return out
	}
	if len(missing(b.state.Load().meta.keywords)) == 0 {
		return nil
	}
	err := b.changeMeta(ctx, func(m *meta) error {
		m.keywords = append(m.keywords, missing(m.keywords)...)
		if len(m.keywords) > maxKeywords {
			return ErrKeywords
		}
		return nil
	})
	if err != nil {
		return err
	}
	return b.writeDovecotKeywords()
}

// IsFull reports whether a failure is one that freeing space mends.
func IsFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}
