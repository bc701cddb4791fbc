package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"

	"golang.org/x/sys/unix"

	"angarium/lib/message"
)

// Rule 6: verify makes an index that can be trusted out of the one that is
// there, as far as it can be read, and of the files. The names say what the
// records have lost; a UID that might have been given is not given again, since
// .mailbox knows ceilings of both counters. Nothing is deleted in doubt.

// verify is called with the lock held, and leaves it held.
func (t *txn) verify(ctx context.Context) error {
	b := t.b
	m, at, err := readMeta(b.dir)
	if err != nil {
		return err
	}
	b.setMeta(m, at)
	old := t.salvage(m)
	names, err := t.listTwice(old)
	if err != nil {
		return err
	}
	found := b.sortOut(names)
	extras, err := b.readExtra()
	if err != nil {
		return err
	}
	h := t.raised(m, old)
	for u := range found.ours {
		h.uidNext = max(h.uidNext, u+1)
	}
	live, gone, err := t.rebuild(ctx, old, &found, extras, &h)
	if err != nil {
		return err
	}
	m = m.clone()
	m.uidCeiling = max(m.uidCeiling, UID(min(uint64(h.uidNext)+1024, 1<<32-1)))
	m.modCeiling = max(m.modCeiling, h.modseq+1+1<<20)
	if err := t.writeMeta(m); err != nil {
		return err
	}
	if err := t.replaceIndex(h, live, gone); err != nil {
		return err
	}
	if err := b.st.forgetUsage(m.quotaRoot); err != nil {
		b.st.conf.Log.Warnf("%s: quota: %v", b.where(), err)
	}
	b.changed(Messages)
	b.keep.named(b)
	b.keep.expunged(b)
	b.lookSoon()
	return nil
}

// salvaged is what could be read of the old index.
type salvaged struct {
	hdr  header
	snap *snapshot
	max  UID
	// whole: every record is good, and the page cache that has it outlived who
	// wrote it. Then its counters are true, and no client knows more than it.
	whole bool
	// damaged: records are missing. Of messages that are not in later, the last one
	// may be among them.
	damaged bool
	later   map[UID]bool
	// former: letters that a file had before those that its record says: after a power
	// cut it may have them again.
	former map[UID][]uint32
}

// undone reports whether a power cut has taken a rename of ours back.
func (s *salvaged) undone(m *Message, f foundFile) bool {
	return !s.whole && f.letters != m.Named && slices.Contains(s.former[m.UID], f.letters)
}

// stale reports whether a record of u may have been lost.
func (s *salvaged) stale(u UID) bool { return s.damaged && !s.later[u] }

// miss notes a record that can't be read.
func (s *salvaged) miss() {
	s.whole, s.damaged, s.later = false, true, map[UID]bool{}
}

// salvage reads each record that is good, up to what the newest header calls its
// end; if one of them is damaged, as far as they are good. Without a header there is
// nothing that can be believed.
func (t *txn) salvage(m *meta) *salvaged {
	b := t.b
	s := &salvaged{snap: &snapshot{}, former: map[UID][]uint32{}}
	fd, err := openat(b.dir, indexName, unix.O_RDONLY, 0)
	if err != nil {
		return s
	}
	defer unix.Close(fd)
	h, good, err := readSlots(fd, m.id)
	if err != nil || h.uidValidity != m.uidValidity {
		return s
	}
	s.hdr = h
	s.whole = good == 2 && h.epoch == b.st.epoch && h.flags&headerDoubt == 0
	e := (*snapshot)(nil).edit()
	buf := make([]byte, recordSize)
	seal := sealOf(b.id, h.gen)
	for off := int64(recordsAt); off < h.end || good < 2; off += recordSize {
		n, err := pread(fd, buf, off)
		if off >= h.end && (err != nil || n < recordSize) {
			break
		}
		if err != nil || n < recordSize {
			s.miss()
			break
		}
		var m Message
		if m.decode(buf, seal, off) != nil {
			s.miss()
			continue
		}
		if before, was := e.apply(&m); was && before.Named != m.Named {
			s.former[m.UID] = append(s.former[m.UID], before.Named)
		}
		s.max = max(s.max, m.UID)
		if s.damaged {
			s.later[m.UID] = true
		}
	}
	s.snap = e.done()
	return s
}

// listTwice lists cur/, and again if a record's file was not there: others may
// be renaming it.
func (t *txn) listTwice(old *salvaged) ([]string, error) {
	names, err := listNames(t.b.dir, "cur")
	if errors.Is(err, fs.ErrNotExist) {
		if err := unix.Mkdirat(t.b.dir, "cur", 0o700); err != nil {
			return nil, sysErr("mkdir cur", err)
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found := t.b.sortOut(names)
	for m := range old.snap.all() {
		if _, ok := found.ours[m.UID]; ok {
			continue
		}
		again, err := listNames(t.b.dir, "cur")
		if err != nil {
			return nil, err
		}
		slices.Sort(names)
		for _, n := range again {
			if _, ok := slices.BinarySearch(names, n); !ok {
				names = append(names, n)
				slices.Sort(names)
			}
		}
		return names, nil
	}
	return names, nil
}

// raised is the new header: both counters at what was the ceiling, which no
// client has seen. After kill -9 alone they go on from where they were, and the
// history of what vanished does too.
func (t *txn) raised(m *meta, old *salvaged) header {
	h := header{
		counter: old.hdr.counter, gen: old.hdr.gen, epoch: t.b.st.epoch,
		uidValidity: m.uidValidity, uidNext: max(m.uidCeiling, old.hdr.uidNext, old.max+1),
		modseq: max(m.modCeiling, old.hdr.modseq+1), recent: old.hdr.recent, cacheEnd: old.hdr.cacheEnd,
	}
	h.history = h.modseq
	if old.hdr.counter == 0 {
		h.gen = rand.Uint64() >> 2 // no generation that someone has in memory
		h.recent = h.uidNext - 1   // who was told of what is lost: nothing shall be new once more
	}
	if old.whole {
		h.uidNext, h.modseq, h.history = max(old.hdr.uidNext, old.max+1), old.hdr.modseq+1, old.hdr.history
	}
	if st, err := fstatat(t.b.dir, "cur"); err == nil {
		h.curIno = st.Ino
	}
	if st, err := fstatat(t.b.dir, cacheName); err == nil {
		h.cacheEnd = max(h.cacheEnd, st.Size)
	}
	return h // curMtime 0, newMtime 0: what is foreign is looked for soon
}

// rebuild makes the records.
func (t *txn) rebuild(ctx context.Context, old *salvaged, found *listing, extras extras, h *header) (*snapshot, []Message, error) {
	b := t.b
	translate := b.letterKeywords(b.readDovecotKeywords())
	keywords := t.state().meta.keywords
	gone := slices.Clone(old.snap.gone)
	dead := map[UID]bool{}
	for i := range gone {
		dead[gone[i].UID] = true // the renamer finishes what was begun
	}
	live := (*snapshot)(nil).edit()
	uids := make([]UID, 0, len(found.ours))
	for u := range found.ours {
		uids = append(uids, u)
	}
	slices.Sort(uids)
	for _, u := range uids {
		if dead[u] {
			continue // expunged, not yet moved: or put back by others, adopt sees to it
		}
		f := found.ours[u]
		var n Message
		if _, m := old.snap.find(u); m != nil {
			switch n = *m; {
			case old.undone(m, f):
				n.Named = f.letters
			case old.stale(u):
				n = believeName(m, f, translate)
			default:
				n, _ = mergeName(m, f, translate)
			}
			if old.stale(u) {
				extras.amend(&n, keywords)
			}
			if f.name != n.fileName(b.tag) {
				t.straighten(f.name, &n)
			}
		} else {
			var err error
			if n, err = t.fromFile(ctx, f, extras.of[u], translate, keywords); err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				return nil, nil, err
			}
		}
		n.ModSeq = h.modseq
		if n.Created == 0 {
			n.Created = h.modseq
		}
		live.push(&n)
	}
	now := b.st.now().Unix()
	for m := range old.snap.all() {
		if _, ok := found.ours[m.UID]; ok {
			continue
		}
		n := *m
		n.Flags |= flagGone | flagMoved | flagSwept
		n.ModSeq, n.Saved = h.modseq, now
		gone = append(gone, n)
	}
	slices.SortFunc(gone, func(a, b Message) int { return compareGone(&a, &b) })
	live.touched = 0
	return live.done(), gone, nil
}

// believeName makes a record of one that may not have been the last: where the name
// was changed since, by us, it says all that it can.
func believeName(m *Message, f foundFile, translate func(int) int) Message {
	n := *m
	if f.letters != m.Named {
		applyLetters(&n, 0, ^f.letters, translate)
		applyLetters(&n, f.letters, 0, translate) // $Forwarded has two
		n.Named = f.letters
	}
	return n
}

// amend gives such a record the keywords that names can't say, if .extra is newer.
func (x *extras) amend(n *Message, keywords []string) {
	if n.ModSeq > x.modseq {
		return
	}
	n.Keywords[0] &= 1<<maxLetters - 1
	n.Keywords[1] = 0
	for _, k := range x.of[n.UID].keywords {
		if i := keywordBit(keywords, k); i >= 0 {
			n.setKeyword(i, true)
		}
	}
}

// fromFile makes a record of what a name and .extra say, and of the content.
func (t *txn) fromFile(ctx context.Context, f foundFile, x extra, translate func(int) int, keywords []string) (Message, error) {
	if err := ctx.Err(); err != nil {
		return Message{}, err
	}
	b := t.b
	m := Message{UID: f.uid, Internal: f.seconds, Size: f.size, Named: f.letters, Saved: f.seconds}
	applyLetters(&m, f.letters, 0, translate)
	if x.saved != 0 {
		m.Saved = x.saved
	}
	for _, k := range x.keywords {
		if i := keywordBit(keywords, k); i >= 0 {
			m.setKeyword(i, true)
		}
	}
	fd, err := openat(b.dir, "cur/"+f.name, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return m, err
	}
	file := &body{fd: fd, size: 1<<63 - 1}
	defer file.Close()
	sum, mime := sha256.New(), message.NewParser()
	n, err := io.Copy(io.MultiWriter(sum, mime), io.NewSectionReader(file, 0, 1<<62))
	if err != nil {
		return m, err
	}
	m.GUID = [16]byte(sum.Sum(nil))
	m.Size = n
	if name := m.fileName(b.tag); name != f.name { // the size is not what the name says, or others added fields
		err := unix.Renameat2(b.dir, "cur/"+f.name, b.dir, "cur/"+name, unix.RENAME_NOREPLACE)
		if err != nil {
			return m, sysErr("rename "+f.name, err)
		}
	}
	return m, nil
}
