package imapd

import (
	"slices"
	"strings"

	"angarium/lib/imap"
	"angarium/lib/store"
)

// storeArgs are the arguments of STORE.
type storeArgs struct {
	op     store.FlagOp
	silent bool
}

// storeModifiers reads "(UNCHANGEDSINCE n)", RFC 7162, 3.1.3.
func (s *session) storeModifiers(a *storeArgs) {
	if !s.dec.Peek('(') {
		return
	}
	s.dec.List(func() {
		if word := s.dec.Word(); word != "UNCHANGEDSINCE" {
			s.dec.Bad("Invalid Store modifier %s", word)
			return
		}
		s.dec.SP()
		a.op.Conditional, a.op.UnchangedSince = true, store.ModSeq(s.dec.Number64())
	})
	s.dec.SP()
}

// storeArgs reads "+FLAGS.SILENT (\Seen)".
func (s *session) storeArgs() (a storeArgs) {
	s.storeModifiers(&a)
	word := s.dec.Word()
	word, a.silent = strings.CutSuffix(word, ".SILENT")
	switch word {
	case "FLAGS":
		a.op.Mode = store.SetFlags
	case "+FLAGS":
		a.op.Mode = store.AddFlags
	case "-FLAGS":
		a.op.Mode = store.RemoveFlags
	default:
		s.dec.SP()
		s.dec.Bad("Invalid Store attribute")
	}
	s.dec.SP()
	a.op.Flags, a.op.Keywords = splitFlags(s.dec.Flags("Invalid system flag in Store command", true))
	return a
}

// splitFlags parts system flags from keywords. $-keywords too are kept as they
// are written first.
func splitFlags(names []string) (flags store.Flags, keywords []string) {
	for _, n := range names {
		switch n {
		case `\Answered`:
			flags |= store.FlagAnswered
		case `\Flagged`:
			flags |= store.FlagFlagged
		case `\Deleted`:
			flags |= store.FlagDeleted
		case `\Seen`:
			flags |= store.FlagSeen
		case `\Draft`:
			flags |= store.FlagDraft
		default:
			if !slices.ContainsFunc(keywords, func(k string) bool { return strings.EqualFold(k, n) }) {
				keywords = append(keywords, n)
			}
		}
	}
	return flags, keywords
}

// mayChange tells whether the user's rights allow the change. Setting flags
// outright is reduced to what he may touch, as RFC 4314, 4 asks.
func (b *selected) mayChange(op store.FlagOp) bool {
	need := store.Rights(0)
	if op.Flags&store.FlagSeen != 0 {
		need |= store.RightSeen
	}
	if op.Flags&store.FlagDeleted != 0 {
		need |= store.RightDeleteMsg
	}
	if op.Flags&(store.FlagAnswered|store.FlagFlagged|store.FlagDraft) != 0 || len(op.Keywords) > 0 {
		need |= store.RightWrite
	}
	if op.Mode == store.SetFlags {
		need = store.RightWrite | store.RightSeen | store.RightDeleteMsg
	}
	return b.rights&need != 0 || need == 0
}

// store is STORE and UID STORE, RFC 3501, 6.4.6.
func (s *session) store(uid bool) {
	s.dec.SP()
	which := s.messageSet(uid)
	s.dec.SP()
	a := s.storeArgs()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	b := s.box
	if b.readOnly || !b.mayChange(a.op) {
		s.NO("Permission denied")
		return
	}
	if a.op.Conditional && !s.condstore {
		s.enableCondstore("UNCHANGEDSINCE")
	}
	uids := s.uids(which())
	if uids.Empty() {
		s.syncBut(uid, nil)
		s.OK("Completed")
		return
	}
	failed, err := s.change(uids, a.op)
	if err != nil {
		s.fail(err)
		return
	}
	s.tellChanged(uids.Minus(failed), a.silent, uid)
	if s.box == nil {
		return
	}
	if !failed.Empty() {
		s.OK("[MODIFIED " + s.numbers(failed, uid) + "] Completed")
		return
	}
	s.OK("Completed")
}

// change does what the rights allow of op.
func (s *session) change(uids store.UIDSet, op store.FlagOp) (store.UIDSet, error) {
	b := s.box
	const all = store.RightWrite | store.RightSeen | store.RightDeleteMsg
	if b.rights.Has(all) {
		return b.Change(s.ctx, uids, op)
	}
	may := store.Flags(0)
	if b.rights&store.RightSeen != 0 {
		may |= store.FlagSeen
	}
	if b.rights&store.RightDeleteMsg != 0 {
		may |= store.FlagDeleted
	}
	if b.rights&store.RightWrite != 0 {
		may |= store.FlagAnswered | store.FlagFlagged | store.FlagDraft
	} else {
		op.Keywords = nil
	}
	if op.Mode != store.SetFlags {
		op.Flags &= may
		return b.Change(s.ctx, uids, op)
	}
	// SetFlags would take away what he may not touch: add and remove instead.
	add, remove := op, op
	add.Mode, add.Flags = store.AddFlags, op.Flags&may
	remove.Mode, remove.Flags, remove.Keywords = store.RemoveFlags, may&^op.Flags, nil
	if b.rights&store.RightWrite != 0 {
		for _, k := range b.view.Keywords() {
			if !slices.Contains(op.Keywords, k) && k != "" {
				remove.Keywords = append(remove.Keywords, k)
			}
		}
	}
	failed, err := b.Change(s.ctx, uids, remove)
	if err != nil {
		return failed, err
	}
	add.Conditional = false
	_, err = b.Change(s.ctx, uids.Minus(failed), add)
	return failed, err
}

// tellChanged tells the flags that STORE has left. Messages that have vanished
// in the meantime keep the view from being renewed; then their neighbours are
// told from the newest one, at the old positions.
func (s *session) tellChanged(uids store.UIDSet, silent, uid bool) {
	b := s.box
	old := b.view
	known := make(map[store.UID]store.ModSeq, uids.Len())
	now, err := b.View(s.ctx)
	if err != nil {
		s.lost(err, uid)
		return
	}
	if len(now.Keywords()) > b.told { // before the keyword occurs
		b.view = now
		s.tellFlags()
		b.view = old
	}
	i := 0
	for u := range uids.All() {
		k, ok := now.Find(u)
		if !ok {
			continue
		}
		m := now.At(k)
		known[u] = m.ModSeq
		pos := i
		if pos >= old.Len() || old.At(pos).UID != u {
			if pos, ok = old.Find(u); !ok {
				continue
			}
		}
		i = pos + 1
		was := old.At(pos)
		switch {
		case !silent:
			s.tellStored(pos, &m, now, uid)
		case s.condstore && was.ModSeq != m.ModSeq: // RFC 7162, 3.1.3: the mod-sequence is told even so
			s.Raw("* ").Number(uint64(pos + 1)).Raw(" FETCH (")
			if uid || s.qresync {
				s.Raw("UID ").Number(uint64(u)).Byte(' ')
			}
			s.Raw("MODSEQ (").Number(uint64(m.ModSeq)).Raw("))\r\n")
		}
	}
	s.syncBut(uid, known)
}

func (s *session) tellStored(pos int, m *store.Message, now store.View, uid bool) {
	old := s.box.view
	s.box.view = now // keywords
	s.tellMessage(pos, *m, uid)
	s.box.view = old
}

// numbers writes a set of messages as the command named them.
func (s *session) numbers(set store.UIDSet, uid bool) string {
	if uid {
		return set.String()
	}
	var seq imap.SeqSet
	for u := range set.All() {
		if i, ok := s.box.view.Find(u); ok {
			seq.Add(imap.SeqNum(i + 1))
		}
	}
	return string(seq.Append(nil))
}

// copy is COPY, MOVE and their UID forms: RFC 3501, 6.4.7; RFC 6851.
func (s *session) copy(uid, move bool) {
	s.dec.SP()
	which := s.messageSet(uid)
	s.dec.SP()
	name := s.dec.Mailbox()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	b := s.box
	if move && (b.readOnly || !b.rights.Has(store.RightDeleteMsg|store.RightExpunge)) {
		s.NO("Permission denied")
		return
	}
	to, _, _, err := s.open(name, store.RightInsert)
	if err != nil {
		s.NO(s.tryCreate(name, err))
		return
	}
	defer to.Close()
	uids := s.uids(which())
	if uids.Empty() {
		s.sync(true)
		if uid {
			s.OK("Completed")
		} else {
			s.NO("No matching messages")
		}
		return
	}
	view, err := to.View(s.ctx)
	if err != nil {
		s.fail(err)
		return
	}
	pairs, err := b.CopyTo(s.ctx, to, uids, move)
	if err != nil {
		s.sync(true)
		s.fail(err)
		return
	}
	if len(pairs) == 0 { // all were expunged by others: nothing was copied, so no OK
		s.sync(true)
		s.fail(store.ErrGone)
		return
	}
	code := copyUID(view.Status().UIDValidity, pairs)
	if !move {
		s.sync(true)
		s.OK(code + "Completed")
		return
	}
	if code != "" { // RFC 6851, 4.3: in an untagged OK, before the messages vanish
		s.Raw("* OK " + code + "Completed").CRLF()
	}
	s.sync(true)
	s.OK("Completed")
}

// copyUID writes the response code of UIDPLUS with a blank behind it, RFC 4315, 3.
func copyUID(validity uint32, pairs []store.Pair) string {
	if len(pairs) == 0 {
		return ""
	}
	var from, to imap.UIDSet
	for _, p := range pairs {
		from.Add(imap.UID(p.From))
		to.Add(imap.UID(p.To))
	}
	b := append([]byte("[COPYUID "), imapNumber(validity)...)
	b = from.Append(append(b, ' '))
	b = to.Append(append(b, ' '))
	return string(append(b, "] "...))
}

// tryCreate adds the hint that the mailbox could be made, RFC 3501, 7.1.
func (s *session) tryCreate(name string, err error) string {
	text := s.errorText(err)
	if text == "Mailbox does not exist" {
		if n, e := s.ns.Internal(name); e == nil && s.mayCreate(n) == nil {
			return "[TRYCREATE] " + text
		}
	}
	return text
}

// idle is IDLE, RFC 2177. The client is told of changes as they come, until it
// says DONE.
func (s *session) idle() {
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	s.sync(true)
	s.Raw("+ idling\r\n")
	if s.Flush() != nil {
		return
	}
	s.conn.timeout = s.conf.IdleTimeout
	stop := s.watch()
	s.dec.Begin()
	line := s.dec.Line()
	stop()
	s.conn.timeout = s.conf.Timeout
	switch {
	case !s.dec.OK():
	case s.bye:
	case !strings.EqualFold(line, "DONE"):
		s.BAD(`Invalid Idle continuation`)
	default:
		s.sync(true)
		s.OK("Completed")
	}
}

// watch tells of changes from a goroutine of its own until stop is called. Only
// it writes in the meantime.
func (s *session) watch() (stop func()) {
	if s.box == nil {
		return func() {}
	}
	w := s.conf.Store.Watch()
	w.Watch(s.box.ID())
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer s.recovered()
		for s.box != nil { // look first: something may have come before the watch
			s.sync(true)
			if s.Buffered() > 0 && s.Flush() != nil || s.bye {
				_ = s.conn.Close() // wakes the reader
				return
			}
			select {
			case <-done:
				return
			case <-w.Ready():
				w.Take()
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		_ = w.Close()
	}
}

// recovered keeps a panic from ending the other sessions.
func (s *session) recovered() {
	if r := recover(); r != nil {
		s.log.Panicf("%v", r)
		s.bye = true
		_ = s.conn.Close()
	}
}
