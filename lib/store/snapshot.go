package store

import (
	"cmp"
	"iter"
	"slices"
	"sort"
)

// Rule 12: a snapshot is the messages of a mailbox as of one ModSeq. Records lie
// in chunks of up to 512, which a change copies and everything else shares, so
// that a mailbox open in many sessions is in memory once, and a flag change in
// a million messages costs one chunk and the spine.
//
// The last chunk may have room behind its end. Only the newest snapshot is ever
// built upon, by one goroutine at a time, so appending there touches nothing
// that an older snapshot can see.
const chunkSize = 512

type chunk struct {
	msgs   []Message
	first  int // position of msgs[0]
	unseen int
}

// snapshot is immutable.
type snapshot struct {
	spine []chunk
	n     int
	// gone are the records of messages that are not any more, in the order in
	// which they went: their ModSeqs rise. The same is true of its spare room.
	gone []Message
}

// chunkOf is the index of the chunk that holds u, or would.
func (s *snapshot) chunkOf(u UID) int {
	return sort.Search(len(s.spine), func(i int) bool {
		m := s.spine[i].msgs
		return m[len(m)-1].UID >= u
	})
}

func (s *snapshot) find(u UID) (pos int, m *Message) {
	c := s.chunkOf(u)
	if c == len(s.spine) {
		return s.n, nil
	}
	i, ok := inChunk(s.spine[c].msgs, u)
	if !ok {
		return s.spine[c].first + i, nil
	}
	return s.spine[c].first + i, &s.spine[c].msgs[i]
}

func inChunk(msgs []Message, u UID) (int, bool) {
	// Mostly the UIDs of a chunk have no holes, and the place can be computed.
	if d := int(u) - int(msgs[0].UID); d >= 0 && d < len(msgs) && msgs[d].UID == u {
		return d, true
	}
	return slices.BinarySearchFunc(msgs, u, func(m Message, u UID) int {
		return int(int64(m.UID) - int64(u))
	})
}

func (s *snapshot) at(i int) *Message {
	c := i / chunkSize // right as long as chunks are full
	if c >= len(s.spine) || s.spine[c].first > i || i >= s.spine[c].first+len(s.spine[c].msgs) {
		c = sort.Search(len(s.spine), func(c int) bool { return s.spine[c].first > i }) - 1
	}
	return &s.spine[c].msgs[i-s.spine[c].first]
}

// findGone finds what is left of a message that was expunged.
func (s *snapshot) findGone(u UID) *Message {
	for i := len(s.gone) - 1; i >= 0; i-- {
		if s.gone[i].UID == u {
			return &s.gone[i]
		}
	}
	return nil
}

// all gives the live messages. The pointers must not be written through.
func (s *snapshot) all() iter.Seq[*Message] {
	return func(yield func(*Message) bool) {
		for _, c := range s.spine {
			for i := range c.msgs {
				if !yield(&c.msgs[i]) {
					return
				}
			}
		}
	}
}

// among gives the live messages whose UIDs are in the set.
func (s *snapshot) among(set UIDSet) iter.Seq[*Message] {
	return func(yield func(*Message) bool) {
		for _, r := range set {
			c := s.chunkOf(r.Lo)
			for ; c < len(s.spine) && s.spine[c].msgs[0].UID <= r.Hi; c++ {
				msgs := s.spine[c].msgs
				i, _ := inChunk(msgs, r.Lo)
				for ; i < len(msgs) && msgs[i].UID <= r.Hi; i++ {
					if !yield(&msgs[i]) {
						return
					}
				}
			}
		}
	}
}

// edit builds the next snapshot out of one.
type edit struct {
	snapshot
	owned   []bool // chunks that are ours to change
	touched int    // first chunk whose position may have moved
	removed int
	ownGone bool // gone is ours to change
}

func (s *snapshot) edit() *edit {
	if s == nil {
		s = &snapshot{}
	}
	e := &edit{snapshot: *s, owned: make([]bool, len(s.spine)), touched: len(s.spine)}
	e.spine = slices.Clone(s.spine)
	return e
}

// apply puts one record in, as it was read from the index or written there. It
// returns what was known of that UID before, if it was alive.
func (e *edit) apply(m *Message) (before Message, was bool) {
	c := len(e.spine)
	if c > 0 && m.UID <= e.last() { // else it is new, the usual case
		c = e.chunkOf(m.UID)
	}
	i, found := 0, false
	if c < len(e.spine) {
		i, found = inChunk(e.spine[c].msgs, m.UID)
	}
	if found {
		before = e.spine[c].msgs[i]
	}
	switch {
	case m.Flags&flagGone != 0:
		e.applyGone(m, found, c, i)
	case found:
		e.own(c)
		e.spine[c].unseen += unseen(m) - unseen(&before)
		e.spine[c].msgs[i] = *m
	case c == len(e.spine):
		e.push(m)
	default: // between others: only when an index is read that verify made
		e.own(c)
		e.spine[c].msgs = slices.Insert(e.spine[c].msgs, i, *m)
		e.spine[c].unseen += unseen(m)
		e.n++
		e.touched = min(e.touched, c)
	}
	return before, found
}

// last is the greatest UID that lives.
func (e *edit) last() UID {
	msgs := e.spine[len(e.spine)-1].msgs
	return msgs[len(msgs)-1].UID
}

func (e *edit) applyGone(m *Message, found bool, c, i int) {
	if found {
		e.own(c)
		e.spine[c].unseen -= unseen(&e.spine[c].msgs[i])
		e.spine[c].msgs = slices.Delete(e.spine[c].msgs, i, i+1)
		e.n--
		e.removed++
		e.touched = min(e.touched, c)
		if len(e.spine[c].msgs) == 0 {
			e.spine = slices.Delete(e.spine, c, c+1)
			e.owned = slices.Delete(e.owned, c, c+1)
		}
	}
	k, known := e.goneAt(m)
	switch {
	case known: // moved or swept: the record changes its state, not its ModSeq
		e.ownGoneList()
		e.gone[k] = *m
	case k == len(e.gone):
		e.gone = append(e.gone, *m)
	default: // an index with damaged records
		e.ownGoneList()
		e.gone = slices.Insert(e.gone, k, *m)
	}
}

func (e *edit) ownGoneList() {
	if !e.ownGone {
		e.gone, e.ownGone = slices.Clone(e.gone), true
	}
}

// goneAt is where the record of an expunged message is, or would be. They always lie
// in the order of their ModSeqs, and of their UIDs within one.
func (e *edit) goneAt(m *Message) (int, bool) {
	return slices.BinarySearchFunc(e.gone, m, func(a Message, m *Message) int { return compareGone(&a, m) })
}

func compareGone(a, b *Message) int {
	return cmp.Or(cmp.Compare(a.ModSeq, b.ModSeq), cmp.Compare(a.UID, b.UID))
}

// own makes chunk c ours to write in.
func (e *edit) own(c int) {
	if !e.owned[c] {
		// Some room, so that messages that arrive next need no copy again.
		msgs := make([]Message, len(e.spine[c].msgs), min(chunkSize, len(e.spine[c].msgs)+8))
		copy(msgs, e.spine[c].msgs)
		e.spine[c].msgs = msgs
		e.owned[c] = true
	}
}

func (e *edit) push(m *Message) {
	last := len(e.spine) - 1
	if last < 0 || len(e.spine[last].msgs) >= chunkSize {
		e.touched = min(e.touched, len(e.spine))
		c := chunk{first: e.n}
		if last >= 0 { // a big mailbox: no growing step by step
			c.msgs = make([]Message, 0, chunkSize)
		}
		e.spine = append(e.spine, c)
		e.owned = append(e.owned, true)
		last++
	}
	e.spine[last].msgs = append(e.spine[last].msgs, *m)
	e.spine[last].unseen += unseen(m)
	e.n++
}

func unseen(m *Message) int {
	if m.Flags&FlagSeen != 0 {
		return 0
	}
	return 1
}

// done is the new snapshot.
func (e *edit) done() *snapshot {
	s := e.snapshot
	if e.removed > 0 && len(s.spine) > 2*(s.n/chunkSize)+8 {
		s.spine = repack(&s)
		e.touched = 0
	}
	pos := 0
	if e.touched > 0 && e.touched <= len(s.spine) {
		c := s.spine[e.touched-1]
		pos = c.first + len(c.msgs)
	}
	for c := e.touched; c < len(s.spine); c++ {
		s.spine[c].first = pos
		pos += len(s.spine[c].msgs)
	}
	return &s
}

func repack(s *snapshot) []chunk {
	var spine []chunk
	for m := range s.all() {
		last := len(spine) - 1
		if last < 0 || len(spine[last].msgs) == chunkSize {
			spine = append(spine, chunk{msgs: make([]Message, 0, chunkSize)})
			last++
		}
		spine[last].msgs = append(spine[last].msgs, *m)
		spine[last].unseen += unseen(m)
	}
	return spine
}

// view is a snapshot with what goes with it.
type view struct {
	*snapshot
	status   Status
	keywords []string
}

var _ View = (*view)(nil)

func (v *view) Len() int { return v.n }

func (v *view) At(i int) Message { return *v.at(i) }

func (v *view) Find(u UID) (int, bool) {
	i, m := v.find(u)
	return i, m != nil
}

func (v *view) Keywords() []string { return v.keywords }

func (v *view) Status() Status {
	st := v.status
	st.FirstUnseen = -1
	for _, c := range v.spine {
		if c.unseen == 0 {
			continue
		}
		i := slices.IndexFunc(c.msgs, func(m Message) bool { return m.Flags&FlagSeen == 0 })
		st.FirstUnseen = c.first + i
		break
	}
	return st
}

// Since walks both views at once and skips the chunks they share.
func (v *view) Since(old View) iter.Seq[Change] {
	o, ok := old.(*view)
	if !ok {
		o = &view{snapshot: &snapshot{}}
	}
	return func(yield func(Change) bool) { diff(o.snapshot, v.snapshot, yield) }
}

func diff(old, now *snapshot, yield func(Change) bool) {
	var a, b cursor
	a.s, b.s = old, now
	for {
		if skip := a.shared(&b); skip > 0 {
			a.skip(skip)
			b.skip(skip)
			continue
		}
		x, y := a.get(), b.get()
		switch {
		case x == nil && y == nil:
			return
		case y == nil || x != nil && x.UID < y.UID:
			if !yield(Change{Gone, a.pos(), -1, *x}) {
				return
			}
			a.skip(1)
		case x == nil || y.UID < x.UID:
			if !yield(Change{New, -1, b.pos(), *y}) {
				return
			}
			b.skip(1)
		default:
			if x.ModSeq != y.ModSeq && !yield(Change{Changed, a.pos(), b.pos(), *y}) {
				return
			}
			a.skip(1)
			b.skip(1)
		}
	}
}

// cursor is a place in a snapshot.
type cursor struct {
	s    *snapshot
	c, i int
}

func (c *cursor) get() *Message {
	if c.c >= len(c.s.spine) {
		return nil
	}
	return &c.s.spine[c.c].msgs[c.i]
}

func (c *cursor) pos() int { return c.s.spine[c.c].first + c.i }

// skip goes n messages on; they are in one chunk.
func (c *cursor) skip(n int) {
	if c.i += n; c.i >= len(c.s.spine[c.c].msgs) {
		c.c, c.i = c.c+1, 0
	}
}

// shared is how many messages from here on lie in the same memory in both.
func (c *cursor) shared(d *cursor) int {
	if c.i != d.i || c.c >= len(c.s.spine) || d.c >= len(d.s.spine) {
		return 0
	}
	x, y := c.s.spine[c.c].msgs, d.s.spine[d.c].msgs
	if &x[0] != &y[0] {
		return 0
	}
	return min(len(x), len(y)) - c.i
}
