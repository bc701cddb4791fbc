package imapd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"angarium/lib/imap"
	"angarium/lib/message"
	"angarium/lib/store"
)

// fetchJob is one FETCH.
type fetchJob struct {
	*session
	items    []imap.FetchItem
	uid      bool // UID FETCH: the UID is always told
	hasUID   bool
	hasFlags bool
	modseq   bool
	seen     map[store.UID]bool // got \Seen by this command
	failed   error              // a message could not be read

	since    store.ModSeq // CHANGEDSINCE; 0: none
	vanished bool

	needSummary bool
	body        store.Body // of the message at hand; nil: not opened
	octets      int64      // its size
}

// fetchModifiers reads "(CHANGEDSINCE n VANISHED)", RFC 7162, 3.1.4 and 3.2.6.
func (j *fetchJob) modifiers() {
	if !j.dec.MoreArgs() {
		return
	}
	if !j.dec.Peek('(') {
		j.dec.Bad("Missing required open parenthesis in Fetch modifiers")
		return
	}
	j.dec.List(func() {
		switch word := j.dec.Word(); word {
		case "CHANGEDSINCE":
			j.dec.SP()
			j.since = store.ModSeq(j.dec.Number64())
			j.modseq = true
		case "VANISHED":
			j.vanished = true
		default:
			j.dec.Bad("Invalid Fetch modifier %s", word)
		}
	})
	if j.vanished && (!j.qresync || j.since == 0 || !j.uid) {
		j.dec.Bad("Invalid Fetch modifier VANISHED")
	}
}

// fetch is FETCH and UID FETCH, RFC 3501, 6.4.5.
func (s *session) fetch(uid bool) {
	start := time.Now()
	s.dec.SP()
	var uids imap.UIDSet
	which := func() []span { return s.uidSpans(uids) }
	if uid {
		uids = s.dec.UIDSet()
	} else {
		which = s.messageSet(false)
	}
	s.dec.SP()
	j := &fetchJob{session: s, uid: uid, items: s.dec.FetchItems()}
	j.modifiers()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	s.syncBut(false, nil) // new mail is told of, and found by "*"
	spans := which()
	j.prepare()
	if j.modseq && !s.condstore {
		s.enableCondstore("MODSEQ fetch")
	}
	if j.vanished {
		next := max(s.box.view.Status().UIDNext, 2)
		s.vanishedEarlier(j.since, uidSet(uids.Normal(imap.UID(next-1))))
	}
	if err := j.setSeen(spans); err != nil {
		s.fail(err)
		return
	}
	found := j.messages(spans)
	s.syncBut(uid, nil)
	took := fmt.Sprintf(" (%.3f sec)", time.Since(start).Seconds())
	switch {
	case j.failed != nil:
		s.NO(s.errorText(j.failed) + took)
	case !found && !uid && j.since == 0:
		s.NO("No matching messages" + took)
	default:
		s.OK("Completed" + took)
	}
}

// enableCondstore begins to tell mod-sequences, RFC 7162, 3.1: by a command that
// names them, while a mailbox is open.
func (s *session) enableCondstore(by string) {
	s.condstore = true
	s.Raw("* OK [HIGHESTMODSEQ ").Number(uint64(s.box.view.Status().HighestModSeq)).Raw("] CONDSTORE enabled by " + by + "\r\n")
}

// prepare finds out what the items need.
func (j *fetchJob) prepare() {
	items := make([]imap.FetchItem, 0, len(j.items)+2)
	for _, it := range j.items {
		switch it.Kind {
		case imap.ItemUID:
			if j.hasUID {
				continue
			}
			j.hasUID = true
		case imap.ItemFlags:
			if j.hasFlags {
				continue
			}
			j.hasFlags = true
		case imap.ItemModSeq:
			j.modseq = true
			continue
		case imap.ItemEnvelope, imap.ItemBodyStructure, imap.ItemBodyShort, imap.ItemBinary, imap.ItemBinarySize:
			j.needSummary = true
		case imap.ItemBody:
			j.needSummary = j.needSummary || len(it.Section.Path) > 0 || it.Section.Part != imap.PartAll
		}
		items = append(items, it)
	}
	if j.uid && !j.hasUID { // RFC 3501, 6.4.8
		items = append(items, imap.FetchItem{Kind: imap.ItemUID, Name: "UID"})
	}
	if j.modseq {
		items = append(items, imap.FetchItem{Kind: imap.ItemModSeq, Name: "MODSEQ"})
	}
	// Cyrus answers in one order, however a client asks; so the kinds are numbered.
	slices.SortStableFunc(items, func(a, b imap.FetchItem) int { return int(a.Kind) - int(b.Kind) })
	j.items = items
}

// setSeen marks what is about to be read. The changed flags are part of the
// answer (RFC 3501, 6.4.5).
func (j *fetchJob) setSeen(spans []span) error {
	sets := false
	for _, it := range j.items {
		sets = sets || (it.Kind == imap.ItemBody || it.Kind == imap.ItemBinary) && !it.Section.Peek
	}
	b := j.box
	if !sets || b.readOnly || b.rights&store.RightSeen == 0 {
		return nil
	}
	var unseen store.UIDSet
	for _, p := range spans {
		for i := p.from; i < p.to; i++ {
			if m := b.view.At(i); m.Flags&store.FlagSeen == 0 {
				unseen.Add(m.UID)
			}
		}
	}
	if unseen.Empty() {
		return nil
	}
	if _, err := b.Change(j.ctx, unseen, store.FlagOp{Mode: store.AddFlags, Flags: store.FlagSeen}); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			return err
		}
		j.log.Errorf("%s: \\Seen: %v", b.name, err) // mail can be read on a full disk
		return nil
	}
	j.seen = make(map[store.UID]bool)
	for u := range unseen.All() {
		j.seen[u] = true
	}
	j.catchUp()
	return nil
}

// catchUp takes our own changes into the view, if that is possible without
// telling of expunged messages. What others changed is told at once.
func (j *fetchJob) catchUp() {
	b := j.box
	now, err := b.View(j.ctx)
	if err != nil || now == b.view {
		return
	}
	var changed []store.Change
	grown := false
	for c := range now.Since(b.view) {
		switch c.Kind {
		case store.Gone:
			return
		case store.New:
			grown = true
		case store.Changed:
			changed = append(changed, c)
		}
	}
	j.adopt(now, nil, grown)
	for _, c := range changed {
		if !j.seen[c.Message.UID] {
			j.tellMessage(c.Now, c.Message, false)
		}
	}
}

// messages answers for each message.
func (j *fetchJob) messages(spans []span) (found bool) {
	for _, p := range spans {
		if j.needSummary {
			found = j.summarized(p) || found
			continue
		}
		for i := p.from; i < p.to; i++ {
			m := j.box.view.At(i)
			if m.ModSeq > j.since {
				found = j.one(i, &m, nil) || found
			}
			if j.Err() != nil {
				return found
			}
		}
	}
	return found
}

// summarized walks the view and the store's summaries side by side.
func (j *fetchJob) summarized(p span) (found bool) {
	v := j.box.view
	var set store.UIDSet
	for i := p.from; i < p.to; i++ {
		if m := v.At(i); m.ModSeq > j.since {
			set.Add(m.UID)
		}
	}
	i := p.from
	upTo := func(u store.UID) { // those the store has no summary of
		for ; i < p.to && v.At(i).UID < u; i++ {
			if m := v.At(i); m.ModSeq > j.since {
				found = j.unsummarized(i, &m) || found
			}
		}
	}
	for sum, err := range j.box.Summaries(j.ctx, set) {
		if err != nil {
			j.failed = err
			return found
		}
		upTo(sum.UID)
		if i < p.to && v.At(i).UID == sum.UID {
			m := v.At(i)
			found = j.one(i, &m, &sum.Summary) || found
			i++
		}
		if j.Err() != nil {
			return found
		}
	}
	upTo(^store.UID(0))
	return found
}

// unsummarized reads the message itself: one that was expunged a moment ago.
func (j *fetchJob) unsummarized(i int, m *store.Message) bool {
	body, err := j.box.Body(j.ctx, m.UID)
	if err != nil {
		j.noMessage(err)
		return false
	}
	sum, err := message.Parse(body, body.Size())
	_ = body.Close()
	if err != nil {
		j.failed = err
		return false
	}
	return j.one(i, m, sum)
}

// noMessage notes that a message could not be read. One that another session
// expunged, and whose grace is over, is no failure of ours.
func (j *fetchJob) noMessage(err error) {
	if !errors.Is(err, store.ErrGone) {
		j.failed = err
	} else if j.failed == nil {
		j.failed = errGone
	}
}

var errGone = fmt.Errorf("expunged: %w", store.ErrGone)

// one answers for the message at position i.
func (j *fetchJob) one(i int, m *store.Message, sum *message.Summary) bool {
	defer j.closeBody()
	if !j.open1(m, sum) {
		return false
	}
	j.Raw("* ").Number(uint64(i + 1)).Raw(" FETCH (")
	first := true
	sep := func() {
		if !first {
			j.Byte(' ')
		}
		first = false
	}
	if j.seen[m.UID] && !j.hasFlags {
		sep()
		j.Raw("FLAGS ")
		j.flags(m)
	}
	for k := range j.items {
		it := &j.items[k]
		sep()
		j.Raw(it.Name).Byte(' ')
		j.item(it, m, sum)
	}
	j.Raw(")\r\n")
	return true
}

// open1 opens the message if an item needs its octets, before anything is said.
func (j *fetchJob) open1(m *store.Message, sum *message.Summary) bool {
	j.octets = m.Size
	for k := range j.items {
		it := &j.items[k]
		if it.Kind != imap.ItemBody && it.Kind != imap.ItemBinary && it.Kind != imap.ItemBinarySize || cachedHeader(it.Section, sum) {
			continue
		}
		body, err := j.box.Body(j.ctx, m.UID)
		if err != nil {
			j.noMessage(err)
			return false
		}
		j.body, j.octets = body, body.Size()
		return true
	}
	return true
}

func (j *fetchJob) closeBody() {
	if j.body != nil {
		_ = j.body.Close()
		j.body = nil
	}
}

// cachedHeader tells whether the summary has all header fields that are asked for.
func cachedHeader(sec *imap.Section, sum *message.Summary) bool {
	if sec.Part != imap.PartFields || len(sec.Path) > 0 || sum == nil || !sum.Complete {
		return false
	}
	for _, f := range sec.Fields {
		if !message.Cached([]byte(f)) {
			return false
		}
	}
	return true
}

func (j *fetchJob) item(it *imap.FetchItem, m *store.Message, sum *message.Summary) {
	switch it.Kind {
	case imap.ItemFlags:
		j.flags(m)
	case imap.ItemUID:
		j.Number(uint64(m.UID))
	case imap.ItemInternalDate:
		j.date(m.Internal)
	case imap.ItemSaveDate:
		j.date(m.Saved)
	case imap.ItemModSeq:
		j.Byte('(').Number(uint64(m.ModSeq)).Byte(')')
	case imap.ItemSize:
		j.Number(uint64(m.Size))
	case imap.ItemEnvelope:
		j.Bytes(sum.Envelope)
	case imap.ItemBodyStructure:
		j.Bytes(sum.BodyStructure)
	case imap.ItemBodyShort:
		j.Bytes(sum.Body)
	case imap.ItemEmailID:
		j.Raw("(" + emailID(m) + ")")
	case imap.ItemThreadID: // RFC 8474, 5.2: nil where threads have no identifiers
		j.Raw("NIL")
	case imap.ItemBody:
		j.section(it.Section, sum)
	case imap.ItemBinary, imap.ItemBinarySize:
		j.binary(it, sum)
	}
}

// emailID is the identifier that a message has wherever it is copied to, RFC 8474.
func emailID(m *store.Message) string { return fmt.Sprintf("M%x", m.GUID) }

func (j *fetchJob) date(unix int64) {
	var buf [32]byte
	j.Bytes(imap.AppendDate(buf[:0], unix))
}

// section sends BODY[...].
func (j *fetchJob) section(sec *imap.Section, sum *message.Summary) {
	if sec.Part == imap.PartFields || sec.Part == imap.PartFieldsNot {
		header, ok := j.header(sec, sum)
		if !ok {
			j.Raw("NIL")
			return
		}
		if sec.Partial {
			header = header[min(sec.Offset, int64(len(header))):]
			header = header[:min(sec.Count, int64(len(header)))]
		}
		if len(header) == 0 {
			j.Raw(`""`)
			return
		}
		j.LiteralHeader(int64(len(header))).Bytes(header)
		return
	}
	off, n, ok := j.where(sec, sum)
	if !ok {
		j.Raw("NIL")
		return
	}
	if sec.Partial {
		off, n = off+min(sec.Offset, n), n-min(sec.Offset, n)
		n = min(n, sec.Count)
	}
	if n == 0 {
		j.Raw(`""`)
		return
	}
	j.LiteralHeader(n)
	if err := j.From(j.body, off, n); err != nil {
		j.failed = err
	}
}

// where finds the octets of a section, RFC 3501, 6.4.5.
func (j *fetchJob) where(sec *imap.Section, sum *message.Summary) (off, n int64, ok bool) {
	var p message.Part
	switch sec.Part {
	case imap.PartAll:
		if len(sec.Path) == 0 {
			return 0, j.octets, true
		}
		p, ok = sum.Part(sec.Path)
		off, n = p.Body, p.BodyLen
	case imap.PartMIME:
		p, ok = sum.Part(sec.Path)
		off, n = p.Header, p.HeaderLen
	case imap.PartText:
		p, ok = sum.Message(sec.Path)
		off, n = p.Body, p.BodyLen
	default:
		p, ok = sum.Message(sec.Path)
		off, n = p.Header, p.HeaderLen
	}
	// A summary and a file that do not fit must not make us read beyond it.
	if off+n > j.octets {
		off = min(off, j.octets)
		n = j.octets - off
	}
	return off, n, ok
}

// header collects header fields: the chosen ones, or all but those, and an empty line.
func (j *fetchJob) header(sec *imap.Section, sum *message.Summary) ([]byte, bool) {
	raw := sum.Header
	if !cachedHeader(sec, sum) {
		off, n, ok := j.where(&imap.Section{Path: sec.Path, Part: imap.PartHeader}, sum)
		if !ok {
			return nil, false
		}
		raw = make([]byte, min(n, 1<<20))
		if _, err := j.body.ReadAt(raw, off); err != nil && err != io.EOF {
			j.failed = err
			return nil, false
		}
	}
	out := make([]byte, 0, min(len(raw)+2, 4096))
	for rest := raw; ; {
		name, _, field, r, ok := message.NextField(rest)
		if !ok {
			break
		}
		rest = r
		if listed(sec.Fields, name) == (sec.Part == imap.PartFields) {
			out = append(out, field...)
		}
	}
	return append(out, "\r\n"...), true
}

func listed(fields []string, name []byte) bool {
	for _, f := range fields {
		if len(f) == len(name) && strings.EqualFold(f, string(name)) {
			return true
		}
	}
	return false
}

// binary sends a part decoded, RFC 3516.
func (j *fetchJob) binary(it *imap.FetchItem, sum *message.Summary) {
	off, n, ok := j.where(it.Section, sum)
	p, isPart := sum.Part(it.Section.Path)
	if !ok || !isPart {
		j.Raw("NIL")
		return
	}
	decoded := func() io.Reader {
		return message.Decoder(io.NewSectionReader(j.body, off, n), p.Encoding)
	}
	// Twice through, as its length must be told first: a part may be as large as
	// messages are, and is never in memory as a whole.
	var whole tally
	if _, err := io.Copy(&whole, decoded()); err != nil {
		j.failed = err
	}
	if it.Kind == imap.ItemBinarySize {
		j.Number(uint64(whole.size))
		return
	}
	from, count := int64(0), whole.size
	if sec := it.Section; sec.Partial {
		from = min(sec.Offset, count)
		count = min(sec.Count, count-from)
	}
	if whole.nul {
		j.Byte('~')
	}
	j.LiteralHeader(count)
	r := decoded()
	_, err := io.CopyN(io.Discard, r, from)
	sent := int64(0)
	if err == nil {
		sent, err = io.CopyN(encoderWriter{j.Encoder}, r, count)
	}
	for ; sent < count; sent++ { // what was promised must come
		j.failed = err
		j.Byte(0)
	}
}

// tally counts octets, and looks for NUL.
type tally struct {
	size int64
	nul  bool
}

func (t *tally) Write(b []byte) (int, error) {
	t.size += int64(len(b))
	t.nul = t.nul || bytes.IndexByte(b, 0) >= 0
	return len(b), nil
}

type encoderWriter struct{ *imap.Encoder }

func (w encoderWriter) Write(b []byte) (int, error) {
	w.Bytes(b)
	return len(b), w.Err()
}
