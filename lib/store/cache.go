package store

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"iter"

	"golang.org/x/sys/unix"

	"angarium/lib/message"
)

// The file .cache holds summaries, only ever appended and never synced. An item
// is UID, length, CRC and the encoding by lib/message. A record says where its
// item is: the offset in the upper 44 bits, the length in the lower 20. A wrong
// or missing one is made again from the message: whatever happens to the file,
// it can only cost time.

const (
	cacheName   = ".cache"
	cacheHead   = 12
	maxSummary  = 1<<20 - 1
	cacheOffset = 20 // bits of the length
)

func cacheRef(off int64, n int) uint64 { return uint64(off)<<cacheOffset | uint64(n) }

func splitRef(ref uint64) (off int64, n int) { return int64(ref >> cacheOffset), int(ref & maxSummary) }

// appendItem encodes an item; nothing if the summary is too big to be kept.
func appendItem(b []byte, uid UID, summary []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(uid))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(summary)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(summary, castagnoli()))
	return append(b, summary...)
}

// putCache writes the items' summaries and notes in msgs where they are. No
// error matters.
func (t *txn) putCache(items []item, msgs []Message) {
	var buf []byte
	at := t.hdr.cacheEnd
	for i := range items {
		if n := len(items[i].cache); n > 0 && n <= maxSummary {
			msgs[i].cache = cacheRef(at+int64(len(buf)), n)
			buf = appendItem(buf, msgs[i].UID, items[i].cache)
		}
	}
	if len(buf) == 0 {
		return
	}
	fd, err := openat(t.b.dir, cacheName, unix.O_WRONLY|unix.O_CREAT, 0o600)
	if err == nil {
		err = pwrite(fd, buf, at)
		unix.Close(fd)
	}
	if err != nil {
		for i := range msgs {
			msgs[i].cache = 0
		}
		return
	}
	t.hdr.cacheEnd += int64(len(buf))
}

// cacheFile is .cache open for reading. It is opened when first asked.
type cacheFile struct {
	b    *box
	fd   int // -1: not opened; -2: there is none
	buf  []byte
	from int64 // what of the file buf holds
}

func (b *box) openCache() *cacheFile { return &cacheFile{b: b, fd: -1} }

func (c *cacheFile) close() {
	if c.fd >= 0 {
		unix.Close(c.fd)
	}
}

// raw is the encoded summary of m, nil if the cache does not have it. It is
// good until the next call only if copied.
func (c *cacheFile) raw(m *Message) []byte {
	if m.cache == 0 {
		return nil
	}
	if c.fd == -1 {
		fd, err := openat(c.b.dir, cacheName, unix.O_RDONLY, 0)
		if err != nil {
			fd = -2
		}
		c.fd = fd
	}
	if c.fd < 0 {
		return nil
	}
	off, n := splitRef(m.cache)
	item := c.window(off, cacheHead+n)
	if item == nil {
		return nil
	}
	le := binary.LittleEndian
	if UID(le.Uint32(item)) != m.UID || int(le.Uint32(item[4:])) != n || le.Uint32(item[8:]) != crc32.Checksum(item[cacheHead:], castagnoli()) {
		return nil
	}
	return item[cacheHead:]
}

// window reads ahead: summaries are mostly asked for in the order in which they lie.
func (c *cacheFile) window(off int64, n int) []byte {
	if off < c.from || off+int64(n) > c.from+int64(len(c.buf)) {
		c.buf = make([]byte, max(n, 64<<10)) // a new one: what was given out stays
		got, err := pread(c.fd, c.buf, off)
		if err != nil {
			got = 0
		}
		c.buf, c.from = c.buf[:got], off
		if got < n {
			return nil
		}
	}
	return c.buf[off-c.from:][:n:n]
}

// Summaries gives the summaries of the messages in the set, from the cache or,
// where it has none, from the messages; what was made is kept.
func (h *handle) Summaries(ctx context.Context, set UIDSet) iter.Seq2[Summarized, error] {
	return func(yield func(Summarized, error) bool) {
		b := h.b
		v, err := b.view(ctx)
		if err == nil {
			err = b.hold()
		}
		if err != nil {
			yield(Summarized{}, err)
			return
		}
		defer b.release()
		cache := b.openCache()
		defer cache.close()
		var made []madeSummary
		defer func() { b.keepSummaries(ctx, made) }()
		for m := range v.among(set) {
			if raw := cache.raw(m); raw != nil {
				if sum, err := message.Decode(raw); err == nil {
					if !yield(Summarized{m.UID, sum}, nil) {
						return
					}
					continue
				}
			}
			sum, err := h.summarize(ctx, m)
			if errors.Is(err, ErrGone) || errors.Is(err, fs.ErrNotExist) {
				continue // expunged a moment ago
			}
			if err != nil {
				yield(Summarized{}, err)
				return
			}
			if len(made) < 1024 {
				made = append(made, madeSummary{m.UID, m.cache, sum.Append(nil)})
			}
			if !yield(Summarized{m.UID, *sum}, nil) {
				return
			}
		}
	}
}

func (h *handle) summarize(ctx context.Context, m *Message) (*message.Summary, error) {
	f, err := h.Body(ctx, m.UID)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return message.Parse(f, f.Size())
}

type madeSummary struct {
	uid UID
	ref uint64 // what the record said
	raw []byte
}

// keepSummaries writes summaries that were missing. The records that point to
// them keep their ModSeq: no client can see the difference.
func (b *box) keepSummaries(ctx context.Context, made []madeSummary) {
	if len(made) == 0 {
		return
	}
	t, err := b.lock(ctx, true)
	if err != nil {
		return
	}
	defer t.end()
	v := t.state().view
	var items []item
	var recs []Message
	for _, s := range made {
		if _, m := v.find(s.uid); m != nil && m.cache == s.ref { // nobody was quicker
			items = append(items, item{cache: s.raw})
			recs = append(recs, *m)
		}
	}
	if len(recs) == 0 {
		return
	}
	t.putCache(items, recs)
	if err := t.commit(recs); err != nil {
		b.st.conf.Log.Warnf("%s: %v", b.where(), err)
	}
}

// cacheSlack is how much of .cache may be waste before it is written anew.
const cacheSlack = 1 << 20

// tidyCache writes .cache anew when more than half of it belongs to messages that
// are not any more. The records that say where the items lie are written after it:
// should we die in between they lead to other items, which their UIDs and CRCs
// tell, as they do to those who read meanwhile.
func (b *box) tidyCache(ctx context.Context) error {
	if b.state.Load().hdr.cacheEnd <= cacheSlack {
		return nil
	}
	t, err := b.lock(ctx, true)
	if err != nil {
		return err
	}
	defer t.end()
	v := t.state().view
	used := int64(0)
	for m := range v.all() {
		if m.cache != 0 {
			_, n := splitRef(m.cache)
			used += int64(cacheHead + n)
		}
	}
	if t.hdr.cacheEnd <= 2*used+cacheSlack {
		return nil
	}
	return t.copyCache(v)
}

func (t *txn) copyCache(v *view) error {
	const newName = cacheName + ".new"
	fd, err := openat(t.b.dir, newName, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	old := t.b.openCache()
	defer old.close()
	e := (*snapshot)(nil).edit()
	var buf []byte
	end := int64(0)
	flush := func() error {
		err := pwrite(fd, buf, end)
		end += int64(len(buf))
		buf = buf[:0]
		return err
	}
	for m := range v.all() {
		n := *m
		n.cache = 0
		if raw := old.raw(m); raw != nil {
			n.cache = cacheRef(end+int64(len(buf)), len(raw))
			buf = appendItem(buf, m.UID, raw)
		}
		e.push(&n)
		if len(buf) >= 256<<10 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if err := unix.Renameat(t.b.dir, newName, t.b.dir, cacheName); err != nil {
		return sysErr("rename "+cacheName, err)
	}
	if err := t.b.st.fault("cache"); err != nil {
		return err
	}
	h := t.hdr
	h.cacheEnd = end
	return t.replaceIndex(h, e.done(), v.gone)
}
