package imapd

import (
	"context"
	"errors"
	"iter"
	"strings"
	"time"

	"angarium/lib/imap"
	"angarium/lib/mailbox"
	"angarium/lib/store"
)

// selected is the mailbox that a session has open.
type selected struct {
	store.Mailbox
	name     mailbox.Name
	view     store.View // what the client was told
	rights   store.Rights
	readOnly bool
	recent   []store.UIDRange // \Recent in this session
	told     int              // keywords the client has heard of
	asked    time.Time        // when rights were
	lost     bool             // deleted or renamed under us, and the client knows
}

func (b *selected) isRecent(u store.UID) bool {
	for i := len(b.recent) - 1; i >= 0; i-- {
		if r := b.recent[i]; r.Lo <= u {
			return u <= r.Hi
		}
	}
	return false
}

// claim makes what arrived since the last look \Recent in this session, if no
// other session had it first.
func (b *selected) claim(ctx context.Context, view store.View) error {
	upTo, err := b.Recent(ctx, !b.readOnly)
	if err != nil {
		return err
	}
	next := view.Status().UIDNext
	if n := len(b.recent); n > 0 {
		upTo = max(upTo, b.recent[n-1].Hi)
	}
	if n := len(b.recent); upTo+1 < next && n > 0 && b.recent[n-1].Hi == upTo {
		b.recent[n-1].Hi = next - 1
	} else if upTo+1 < next {
		b.recent = append(b.recent, store.UIDRange{Lo: upTo + 1, Hi: next - 1})
	}
	return nil
}

// recentCount counts the messages of the view that are \Recent here.
func (b *selected) recentCount() int {
	n := 0
	for _, r := range b.recent {
		from, _ := b.view.Find(r.Lo)
		to, ok := b.view.Find(r.Hi)
		if ok {
			to++
		}
		n += max(to-from, 0)
	}
	return n
}

// selectArgs are the modifiers of SELECT.
type selectArgs struct {
	condstore, qresync bool
	validity           uint32
	modseq             uint64
	known              imap.UIDSet
}

// selectModifiers reads "(CONDSTORE)" and "(QRESYNC (...))", RFC 7162, 3.2.5.
func (s *session) selectModifiers() (a selectArgs) {
	if !s.dec.MoreArgs() {
		return a
	}
	if !s.dec.Peek('(') {
		s.dec.Bad("Invalid modifier list in %s", s.title())
		return a
	}
	s.dec.List(func() {
		switch word := s.dec.Word(); word {
		case "CONDSTORE":
			a.condstore = true
		case "QRESYNC":
			if !s.qresync {
				s.dec.Bad("QRESYNC not enabled")
				return
			}
			a.qresync, a.condstore = true, true
			s.dec.SP()
			s.qresyncArgs(&a)
		default:
			s.dec.Bad("Invalid %s modifier %s", s.title(), word)
		}
	})
	return a
}

func (s *session) qresyncArgs(a *selectArgs) {
	n := 0
	s.dec.List(func() {
		switch n++; n {
		case 1:
			a.validity = s.dec.Number()
		case 2:
			a.modseq = s.dec.Number64()
		case 3:
			if !s.dec.Peek('(') {
				a.known = s.dec.UIDSet()
				return
			}
			n++
			fallthrough
		case 4: // sequence numbers that would let us say less: a hint, and not needed
			sets := 0
			s.dec.List(func() { s.dec.SeqSet(); sets++ })
			if sets != 2 {
				s.dec.Bad("Invalid QRESYNC parameters")
			}
		default:
			s.dec.Bad("Invalid QRESYNC parameters")
		}
	})
	if n < 2 {
		s.dec.Bad("Invalid QRESYNC parameters")
	}
}

// title is the command's name as replies have it.
func (s *session) title() string { return s.command[:1] + strings.ToLower(s.command[1:]) }

// selectMailbox is SELECT and EXAMINE, RFC 3501, 6.3.1.
func (s *session) selectMailbox() {
	s.dec.SP()
	name := s.dec.Mailbox()
	args := s.selectModifiers()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	if s.box != nil { // RFC 3501: whatever comes of it, the old one is closed
		s.deselect()
		s.Raw("* OK [CLOSED] Ok\r\n")
	}
	box, err := s.openSelected(name, s.command == "EXAMINE")
	if err != nil {
		s.fail(err)
		return
	}
	if args.condstore {
		s.condstore = true
	}
	s.box = box
	s.present()
	s.tellSelected()
	if args.qresync {
		s.resync(args)
	}
	if box.readOnly {
		s.OK("[READ-ONLY] Completed")
	} else {
		s.OK("[READ-WRITE] Completed")
	}
}

// open opens a mailbox as its user names it. A mailbox that he may not see does
// not exist (RFC 4314, 6).
func (s *session) open(name string, need store.Rights) (store.Mailbox, mailbox.Name, store.Rights, error) {
	n, err := s.ns.Internal(name)
	if err != nil {
		return nil, n, 0, store.ErrNotFound
	}
	box, err := s.conf.Store.Open(s.ctx, n, s.user)
	if err != nil {
		return nil, n, 0, err
	}
	rights, err := box.Rights(s.ctx)
	switch {
	case err != nil:
	case !rights.Has(need) && rights&store.RightLookup == 0:
		err = store.ErrNotFound
	case !rights.Has(need):
		err = errDenied
	}
	if err != nil {
		_ = box.Close()
		return nil, n, 0, err
	}
	return box, n, rights, nil
}

const writeRights = store.RightSeen | store.RightWrite | store.RightInsert | store.RightDeleteMsg | store.RightExpunge

func (s *session) openSelected(name string, examine bool) (*selected, error) {
	box, n, rights, err := s.open(name, store.RightRead)
	if err != nil {
		return nil, err
	}
	b := &selected{Mailbox: box, name: n, rights: rights, asked: s.conf.Now(), readOnly: examine || rights&writeRights == 0}
	if b.view, err = box.View(s.ctx); err == nil {
		err = b.claim(s.ctx, b.view)
	}
	if err != nil {
		_ = box.Close()
		return nil, err
	}
	return b, nil
}

// tellSelected sends SELECT's untagged responses in Cyrus' order.
func (s *session) tellSelected() {
	b := s.box
	st := b.view.Status()
	s.exists()
	s.tellFlags()
	if st.FirstUnseen >= 0 {
		s.Raw("* OK [UNSEEN ").Number(uint64(st.FirstUnseen + 1)).Raw("] Ok\r\n")
	}
	s.Raw("* OK [UIDVALIDITY ").Number(uint64(st.UIDValidity)).Raw("] Ok\r\n")
	s.Raw("* OK [UIDNEXT ").Number(uint64(st.UIDNext)).Raw("] Ok\r\n")
	s.Raw("* OK [HIGHESTMODSEQ ").Number(uint64(st.HighestModSeq)).Raw("] Ok\r\n")
	s.Raw("* OK [MAILBOXID (" + string(b.ID()) + ")] Ok\r\n")
}

// exists tells how many messages there are.
func (s *session) exists() {
	s.Raw("* ").Number(uint64(s.box.view.Len())).Raw(" EXISTS\r\n")
	s.Raw("* ").Number(uint64(s.box.recentCount())).Raw(" RECENT\r\n")
}

// tellFlags sends FLAGS and PERMANENTFLAGS: RFC 3501, 7.2.6 and 7.1.
func (s *session) tellFlags() {
	b := s.box
	const system = `\Answered \Flagged \Draft \Deleted \Seen`
	keywords := ""
	for _, k := range b.view.Keywords() {
		if k != "" {
			keywords += " " + k
		}
	}
	b.told = len(b.view.Keywords())
	s.Raw("* FLAGS (" + system + keywords + ")\r\n")
	s.Raw("* OK [PERMANENTFLAGS (")
	if !b.readOnly {
		var may []string
		if b.rights&store.RightWrite != 0 {
			may = append(may, `\Answered`, `\Flagged`, `\Draft`)
		}
		if b.rights&store.RightDeleteMsg != 0 {
			may = append(may, `\Deleted`)
		}
		if b.rights&store.RightSeen != 0 {
			may = append(may, `\Seen`)
		}
		s.Raw(strings.Join(may, " "))
		if b.rights&store.RightWrite != 0 {
			s.Raw(keywords + ` \*`)
		}
	}
	s.Raw(")] Ok\r\n")
}

// resync tells what changed since a client was here last, RFC 7162, 3.2.5.
func (s *session) resync(a selectArgs) {
	b := s.box
	st := b.view.Status()
	if a.validity != st.UIDValidity {
		return
	}
	known := store.UIDSet{{Lo: 1, Hi: st.UIDNext - 1}}
	if a.known != nil {
		known = uidSet(a.known.Normal(imap.UID(st.UIDNext - 1)))
	}
	if st.UIDNext <= 1 {
		return
	}
	s.vanishedEarlier(store.ModSeq(a.modseq), known)
	for i := range b.view.Len() {
		if m := b.view.At(i); m.ModSeq > store.ModSeq(a.modseq) && (a.known == nil || known.Contains(m.UID)) {
			s.tellMessage(i, m, true)
		}
	}
}

// vanishedEarlier names the messages that are gone since a mod-sequence.
func (s *session) vanishedEarlier(since store.ModSeq, among store.UIDSet) {
	gone, err := s.box.Vanished(s.ctx, since, among)
	if err != nil {
		s.log.Errorf("%s: vanished: %v", s.box.name, err)
		return
	}
	if gone = gone.Minus(present(s.box.view)); !gone.Empty() {
		s.Raw("* VANISHED (EARLIER) " + gone.String()).CRLF()
	}
}

// present is the set of the view's UIDs.
func present(v store.View) (set store.UIDSet) {
	for i := range v.Len() {
		set.Add(v.At(i).UID)
	}
	return set
}

func uidSet(s imap.UIDSet) (out store.UIDSet) {
	for _, r := range s {
		out.AddRange(store.UID(r.Lo), store.UID(r.Hi))
	}
	return out
}

// tellMessage sends the flags of one message.
func (s *session) tellMessage(i int, m store.Message, uid bool) {
	s.Raw("* ").Number(uint64(i + 1)).Raw(" FETCH (FLAGS ")
	s.flags(&m)
	if uid || s.qresync {
		s.Raw(" UID ").Number(uint64(m.UID))
	}
	if s.condstore {
		s.Raw(" MODSEQ (").Number(uint64(m.ModSeq)).Byte(')')
	}
	s.Raw(")\r\n")
}

// flags writes a message's flags in Cyrus' order.
func (s *session) flags(m *store.Message) {
	sep := byte('(')
	put := func(name string) {
		s.Byte(sep).Raw(name)
		sep = ' '
	}
	if s.box.isRecent(m.UID) {
		put(`\Recent`)
	}
	for _, f := range [...]struct {
		bit  store.Flags
		name string
	}{
		{store.FlagAnswered, `\Answered`}, {store.FlagFlagged, `\Flagged`}, {store.FlagDraft, `\Draft`},
		{store.FlagDeleted, `\Deleted`}, {store.FlagSeen, `\Seen`},
	} {
		if m.Flags&f.bit != 0 {
			put(f.name)
		}
	}
	if m.Keywords != [2]uint64{} {
		for i, k := range s.box.view.Keywords() {
			if k != "" && m.HasKeyword(i) {
				put(k)
			}
		}
	}
	if sep == '(' {
		s.Byte('(')
	}
	s.Byte(')')
}

// sync tells the client what changed. Expunged messages are told only where the
// protocol allows it; while one is held back, everything is. silent holds UIDs
// whose changes the client knows already, at the mod-sequence given.
func (s *session) sync(expunge bool) { s.syncBut(expunge, nil) }

func (s *session) syncBut(expunge bool, silent map[store.UID]store.ModSeq) {
	b := s.box
	if b == nil || b.lost {
		return
	}
	now, err := b.View(s.ctx)
	if err == nil {
		err = s.askRights()
	}
	if err != nil {
		s.lost(err, expunge)
		return
	}
	if now == b.view {
		return
	}
	var gone, changed []store.Change
	grown := false
	for c := range now.Since(b.view) {
		switch c.Kind {
		case store.Gone:
			if !expunge {
				return
			}
			gone = append(gone, c)
		case store.Changed:
			changed = append(changed, c)
		case store.New:
			grown = true
		}
	}
	s.adopt(now, gone, grown)
	for _, c := range changed {
		if at, ok := silent[c.Message.UID]; !ok || at < c.Message.ModSeq {
			s.tellMessage(c.Now, c.Message, false)
		}
	}
}

// rightsAge is how old what we know of the user's rights may be.
const rightsAge = 10 * time.Second

// askRights notices that the mailbox's ACL was changed. Without r it is lost.
func (s *session) askRights() error {
	b := s.box
	now := s.conf.Now()
	if now.Sub(b.asked) < rightsAge {
		return nil
	}
	rights, err := b.Rights(s.ctx)
	if err != nil {
		return err
	}
	b.rights, b.asked = rights, now
	if rights&store.RightRead == 0 {
		return store.ErrNotFound
	}
	return nil
}

// adopt makes now the view that the client knows, and tells it of numbers.
func (s *session) adopt(now store.View, gone []store.Change, grown bool) {
	b := s.box
	if s.qresync && len(gone) > 0 {
		var set store.UIDSet
		for _, c := range gone {
			set.Add(c.Message.UID)
		}
		s.Raw("* VANISHED " + set.String()).CRLF()
	} else {
		for k, c := range gone { // each one moves those behind it
			s.Raw("* ").Number(uint64(c.Old + 1 - k)).Raw(" EXPUNGE\r\n")
		}
	}
	b.view = now
	if grown {
		if err := b.claim(s.ctx, now); err != nil {
			s.log.Errorf("%s: %v", b.name, err)
		}
		s.exists()
	}
	if len(now.Keywords()) > b.told {
		s.tellFlags()
	}
}

// lost deals with a mailbox that can't be looked at any more. One that was
// deleted, renamed or closed to the user loses all its messages, as in Cyrus,
// as soon as that may be told; it stays selected, and every command for it fails.
func (s *session) lost(err error, expunge bool) {
	b := s.box
	if !errors.Is(err, store.ErrNotFound) {
		s.Raw("* BYE " + s.errorText(err) + "\r\n")
		s.deselect()
		s.bye = true
		return
	}
	if !expunge {
		return
	}
	if s.qresync && b.view.Len() > 0 {
		s.Raw("* VANISHED " + present(b.view).String()).CRLF()
	} else {
		for range b.view.Len() {
			s.Raw("* 1 EXPUNGE\r\n")
		}
	}
	b.view, b.lost, b.readOnly, b.recent = noView{}, true, true, nil
}

// noView is the View of a mailbox that is not there.
type noView struct{}

func (noView) Status() store.Status                    { return store.Status{FirstUnseen: -1} }
func (noView) Len() int                                { return 0 }
func (noView) At(int) store.Message                    { return store.Message{} }
func (noView) Find(store.UID) (int, bool)              { return 0, false }
func (noView) Keywords() []string                      { return nil }
func (noView) Since(store.View) iter.Seq[store.Change] { return func(func(store.Change) bool) {} }

func (s *session) check() {
	if s.dec.CRLF(); s.dec.OK() {
		s.sync(true)
		s.OK("Completed")
	}
}

// closeMailbox is CLOSE, RFC 3501, 6.4.2: expunges without a word.
func (s *session) closeMailbox() {
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	b := s.box
	if !b.readOnly && b.rights&store.RightExpunge != 0 {
		if now, err := b.View(s.ctx); err == nil {
			if set := deleted(now, nil); !set.Empty() {
				if _, err := b.Expunge(s.ctx, set); err != nil {
					s.fail(err)
					return
				}
			}
		}
	}
	s.deselect()
	s.OK("Completed")
}

func (s *session) unselect() {
	if s.dec.CRLF(); s.dec.OK() {
		s.deselect()
		s.OK("Completed")
	}
}

// deleted is the set of messages with \Deleted, among those given (nil: all).
func deleted(v store.View, among store.UIDSet) (set store.UIDSet) {
	if v.Status().Deleted == 0 {
		return nil
	}
	for i := range v.Len() {
		if m := v.At(i); m.Flags&store.FlagDeleted != 0 && (among == nil || among.Contains(m.UID)) {
			set.Add(m.UID)
		}
	}
	return set
}

func (s *session) expunge() {
	if s.dec.CRLF(); s.dec.OK() {
		s.doExpunge(nil)
	}
}

// uidExpunge is UID EXPUNGE, RFC 4315, 2.1.
func (s *session) uidExpunge() {
	s.dec.SP()
	set := s.dec.UIDSet()
	if s.dec.CRLF(); s.dec.OK() {
		s.doExpunge(s.resolveUIDs(set))
	}
}

func (s *session) doExpunge(among store.UIDSet) {
	b := s.box
	if b.readOnly || b.rights&store.RightExpunge == 0 {
		s.NO("Permission denied")
		return
	}
	now, err := b.View(s.ctx)
	if err != nil {
		s.fail(err)
		return
	}
	gone := false
	if set := deleted(now, among); !set.Empty() {
		done, err := b.Expunge(s.ctx, set)
		if err != nil {
			s.sync(true)
			s.fail(err)
			return
		}
		gone = !done.Empty()
	}
	s.sync(true)
	if s.box != nil && gone {
		s.Raw(s.tag + " OK [HIGHESTMODSEQ ").Number(uint64(s.box.view.Status().HighestModSeq)).Raw("] Completed\r\n")
		return
	}
	s.OK("Completed")
}

// resolveUIDs makes a client's set one of the store's. Without messages "*" is
// nothing.
func (s *session) resolveUIDs(set imap.UIDSet) store.UIDSet {
	n := s.box.view.Len()
	out := store.UIDSet{}
	if n == 0 {
		return out
	}
	last := s.box.view.At(n - 1).UID
	for _, r := range set.Normal(imap.UID(last)) {
		out.AddRange(store.UID(r.Lo), store.UID(r.Hi))
	}
	return out
}

// span is some positions of the view.
type span struct{ from, to int } // [from, to)

// messageSet reads a sequence set, or a set of UIDs; what it returns finds the
// messages. Numbers that do not exist are passed over, as in Cyrus.
func (s *session) messageSet(uid bool) func() []span {
	if uid {
		set := s.dec.UIDSet()
		return func() []span { return s.uidSpans(set) }
	}
	set := s.dec.SeqSet()
	return func() []span { return s.seqSpans(set) }
}

func (s *session) seqSpans(set imap.SeqSet) []span {
	var out []span
	n := s.box.view.Len()
	for _, r := range set.Normal(imap.SeqNum(n)) {
		from, to := max(int(r.Lo)-1, 0), min(int(r.Hi), n)
		if from < to {
			out = append(out, span{from, to})
		}
	}
	return out
}

func (s *session) uidSpans(set imap.UIDSet) []span {
	var out []span
	v := s.box.view
	if v.Len() == 0 {
		return nil
	}
	for _, r := range set.Normal(imap.UID(v.At(v.Len() - 1).UID)) {
		from, _ := v.Find(store.UID(r.Lo))
		to, ok := v.Find(store.UID(r.Hi))
		if ok {
			to++
		}
		if from < to {
			out = append(out, span{from, to})
		}
	}
	return out
}

// uids is the set of the messages at those positions.
func (s *session) uids(spans []span) (set store.UIDSet) {
	for _, p := range spans {
		for i := p.from; i < p.to; i++ {
			set.Add(s.box.view.At(i).UID)
		}
	}
	return set
}
