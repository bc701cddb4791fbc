package store

import (
	"context"
)

// Change is STORE: one transaction, one new ModSeq for all that changed. A
// message whose flags are so already keeps its ModSeq (RFC 7162, 3.1.3). The
// names of the files follow later, rule 7.
func (h *handle) Change(ctx context.Context, uids UIDSet, op FlagOp) (UIDSet, error) {
	b := h.b
	if op.Mode != RemoveFlags {
		if err := b.knowKeywords(ctx, op.Keywords); err != nil {
			return nil, err
		}
	}
	t, err := b.lock(ctx, true)
	if err != nil {
		return nil, err
	}
	defer t.end()
	v := t.state().view
	change := op.mask(v.keywords)
	var failed UIDSet
	var recs []Message
	for m := range v.among(uids) {
		if op.Conditional && m.ModSeq > op.UnchangedSince {
			failed.Add(m.UID)
			continue
		}
		if n := change(*m); n.Flags != m.Flags || n.Keywords != m.Keywords {
			n.ModSeq = t.hdr.modseq + 1
			recs = append(recs, n)
		}
	}
	if len(recs) == 0 {
		return failed, nil
	}
	if err := t.ceilings(0); err != nil {
		return nil, err
	}
	t.hdr.modseq++
	if err := t.commit(recs); err != nil {
		return nil, err
	}
	b.changed(Messages)
	b.keep.named(b)
	return failed, t.compact()
}

// mask returns what op does to one message.
func (op *FlagOp) mask(keywords []string) func(Message) Message {
	flags := op.Flags & SystemFlags
	var bits Message
	for _, k := range op.Keywords {
		if i := keywordBit(keywords, k); i >= 0 {
			bits.setKeyword(i, true)
		}
	}
	k := bits.Keywords
	switch op.Mode {
	case AddFlags:
		return func(m Message) Message {
			m.Flags |= flags
			m.Keywords[0] |= k[0]
			m.Keywords[1] |= k[1]
			return m
		}
	case RemoveFlags:
		return func(m Message) Message {
			m.Flags &^= flags
			m.Keywords[0] &^= k[0]
			m.Keywords[1] &^= k[1]
			return m
		}
	}
	return func(m Message) Message {
		m.Flags = flags
		m.Keywords = k
		return m
	}
}

// Expunge removes messages: a record each, rule 9. Their files are moved to
// .expunged a little later, and removed when the time is over.
func (h *handle) Expunge(ctx context.Context, uids UIDSet) (UIDSet, error) {
	b := h.b
	t, err := b.lock(ctx, true)
	if err != nil {
		return nil, err
	}
	defer t.end()
	recs := t.expunge(uids)
	if len(recs) == 0 {
		return nil, nil
	}
	if err := t.ceilings(0); err != nil {
		return nil, err
	}
	t.hdr.modseq++
	if err := t.commitGone(recs); err != nil {
		return nil, err
	}
	var out UIDSet
	for i := range recs {
		out.Add(recs[i].UID)
	}
	b.changed(Messages)
	b.keep.expunged(b)
	return out, t.compact()
}

// expunge makes the records that say "gone". Saved becomes the time of it.
func (t *txn) expunge(uids UIDSet) []Message {
	now := t.b.st.now().Unix()
	var recs []Message
	for m := range t.state().view.among(uids) {
		n := *m
		n.Flags |= flagGone
		n.ModSeq = t.hdr.modseq + 1
		n.Saved = now
		recs = append(recs, n)
	}
	return recs
}

// commitGone commits records of which some say "gone", and gives back their quota.
func (t *txn) commitGone(recs []Message) error {
	var q Quota
	for i := range recs {
		if recs[i].Flags&flagGone != 0 {
			q.Storage += recs[i].Size
			q.Messages++
		}
	}
	quota, err := t.account()
	if err != nil {
		return err
	}
	if q.Messages == 0 || quota.root == "" {
		return t.commit(recs)
	}
	if err := quota.look(Quota{}, true); err != nil {
		return err
	}
	if err := t.commitAs(recs, headerBusy); err != nil {
		return err
	}
	quota.giveBack(q)
	return t.calm()
}

// Vanished tells which UIDs of a set are not any more since a ModSeq. Before
// its history begins a mailbox names all that are not there (RFC 7162, 3.2.5.2).
func (h *handle) Vanished(ctx context.Context, since ModSeq, among UIDSet) (UIDSet, error) {
	if err := h.b.hold(); err != nil {
		return nil, err
	}
	defer h.b.release()
	s, err := h.b.catchUp(ctx, true)
	if err != nil {
		return nil, err
	}
	if len(among) == 0 {
		among = UIDSet{{1, 1<<32 - 1}}
	}
	if s.hdr.uidNext <= 1 {
		return nil, nil
	}
	among = among.Intersect(UIDSet{{1, s.hdr.uidNext - 1}})
	var out UIDSet
	if since < s.hdr.history {
		var there UIDSet
		for m := range s.view.all() {
			there.Add(m.UID)
		}
		return among.Minus(there), nil
	}
	for i := range s.view.gone {
		if m := &s.view.gone[i]; m.ModSeq > since && among.Contains(m.UID) {
			out.Add(m.UID)
		}
	}
	return out, nil
}
