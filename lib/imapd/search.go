package imapd

import (
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"angarium/lib/imap"
	"angarium/lib/message"
	"angarium/lib/store"
)

// What a key costs to evaluate.
const (
	byRecord = iota // the index knows
	bySummary
	byBody
)

// condition is a search key made ready: cheap ones first, texts folded, sets in
// order.
type condition struct {
	op       imap.SearchOp
	keys     []condition
	cost     int
	unset    bool
	flag     store.Flags
	keyword  int // bit; -1: no message has it
	field    string
	text     string // an identifier
	cached   bool
	matcher  *message.Matcher
	empty    bool // the text is: any header field will do
	number   int64
	from, to int64 // Unix seconds, [from, to)
	seq      imap.SeqSet
	uids     imap.UIDSet
}

// candidate is a message while it is looked at.
type candidate struct {
	s       *session
	pos     int
	m       store.Message
	sum     *message.Summary
	body    store.Body
	header  []byte
	missing bool // its octets can't be read any more
	err     error
}

var errCharset = &imap.BadError{Text: "Unrecognized character set"}

// compile makes a key ready. Texts are turned from the command's charset to UTF-8.
func (s *session) compile(k *imap.SearchKey, charset string) (condition, error) {
	c := condition{op: k.Op, unset: k.Unset, keyword: -1, number: int64(k.Number)}
	switch k.Op {
	case imap.SearchAnd, imap.SearchOr, imap.SearchNot:
		for i := range k.Keys {
			sub, err := s.compile(&k.Keys[i], charset)
			if err != nil {
				return c, err
			}
			c.cost = max(c.cost, sub.cost)
			c.keys = append(c.keys, sub)
		}
		slices.SortStableFunc(c.keys, func(a, b condition) int { return a.cost - b.cost })
	case imap.SearchSeq:
		c.seq = k.Seq.Normal(imap.SeqNum(s.box.view.Len()))
	case imap.SearchUID:
		if n := s.box.view.Len(); n > 0 {
			c.uids = k.UID.Normal(imap.UID(s.box.view.At(n - 1).UID))
		}
	case imap.SearchFlag:
		c.flag, _ = splitFlags([]string{k.Text})
	case imap.SearchKeyword:
		c.keyword = slices.IndexFunc(s.box.view.Keywords(), func(w string) bool { return strings.EqualFold(w, k.Text) && w != "" })
	case imap.SearchHeader, imap.SearchBody, imap.SearchText:
		text, err := toUTF8(k.Text, charset)
		if err != nil {
			return c, err
		}
		c.field, c.matcher, c.empty = k.Field, message.NewMatcher(text), text == ""
		c.cached = message.Cached([]byte(k.Field))
		c.cost = byBody
		if k.Op == imap.SearchHeader {
			c.cost = bySummary
		}
	case imap.SearchBefore, imap.SearchOn, imap.SearchSince, imap.SearchSavedBefore, imap.SearchSavedOn, imap.SearchSavedSince:
		c.day(k.Date, s.conf.Now().Location())
	case imap.SearchEmailID:
		c.text = k.Text
	case imap.SearchSentBefore, imap.SearchSentOn, imap.SearchSentSince:
		c.day(k.Date, time.UTC)
		c.cost = bySummary
	case imap.SearchYounger, imap.SearchOlder:
		c.from = s.conf.Now().Unix() - int64(k.Number)
	}
	return c, nil
}

// day sets the bounds of a day where we are, RFC 3501, 6.4.4: a message's time
// of day and zone do not count.
func (c *condition) day(d time.Time, where *time.Location) {
	y, m, n := d.Date()
	c.from = time.Date(y, m, n, 0, 0, 0, 0, where).Unix()
	c.to = time.Date(y, m, n+1, 0, 0, 0, 0, where).Unix()
}

// toUTF8 decodes a text of a command.
func toUTF8(text, charset string) (string, error) {
	e, ok := message.Charset(charset)
	if !ok {
		return "", errCharset
	}
	if e == nil {
		return text, nil
	}
	out, err := e.NewDecoder().String(text)
	if err != nil {
		return "", errCharset
	}
	return out, nil
}

// match evaluates the condition.
func (c *condition) match(t *candidate) bool {
	switch c.op {
	case imap.SearchAll:
		return true
	case imap.SearchAnd:
		for i := range c.keys {
			if !c.keys[i].match(t) {
				return false
			}
		}
		return true
	case imap.SearchOr:
		return c.keys[0].match(t) || c.keys[1].match(t)
	case imap.SearchNot:
		return !c.keys[0].match(t)
	case imap.SearchHeader, imap.SearchBody, imap.SearchText:
		return c.matchText(t)
	case imap.SearchSentBefore, imap.SearchSentOn, imap.SearchSentSince:
		sent := t.m.Internal
		if t.sum != nil && t.sum.Sent != 0 {
			sent = t.sum.Sent + int64(t.sum.Zone)
		}
		return c.inDay(c.op-imap.SearchSentBefore, sent)
	}
	return c.matchRecord(t)
}

func (c *condition) inDay(op imap.SearchOp, at int64) bool {
	switch op {
	case 0:
		return at < c.from
	case 1:
		return c.from <= at && at < c.to
	}
	return at >= c.from
}

// matchRecord evaluates what the index knows.
func (c *condition) matchRecord(t *candidate) bool {
	m := &t.m
	switch c.op {
	case imap.SearchSeq:
		return c.seq.Contains(imap.SeqNum(t.pos + 1))
	case imap.SearchUID:
		return c.uids.Contains(imap.UID(m.UID))
	case imap.SearchFlag:
		return (m.Flags&c.flag != 0) != c.unset
	case imap.SearchKeyword:
		return (c.keyword >= 0 && m.HasKeyword(c.keyword)) != c.unset
	case imap.SearchRecent:
		return t.s.box.isRecent(m.UID)
	case imap.SearchOld:
		return !t.s.box.isRecent(m.UID)
	case imap.SearchNew:
		return t.s.box.isRecent(m.UID) && m.Flags&store.FlagSeen == 0
	case imap.SearchLarger:
		return m.Size > c.number
	case imap.SearchSmaller:
		return m.Size < c.number
	case imap.SearchBefore, imap.SearchOn, imap.SearchSince:
		return c.inDay(c.op-imap.SearchBefore, m.Internal)
	case imap.SearchSavedBefore, imap.SearchSavedOn, imap.SearchSavedSince:
		return c.inDay(c.op-imap.SearchSavedBefore, m.Saved)
	case imap.SearchEmailID:
		return c.text == emailID(m)
	case imap.SearchYounger:
		return m.Internal > c.from
	case imap.SearchOlder:
		return m.Internal <= c.from
	case imap.SearchModSeq:
		return int64(m.ModSeq) >= c.number
	}
	return false
}

func (c *condition) matchText(t *candidate) bool {
	switch c.op {
	case imap.SearchHeader:
		return c.matchField(t)
	case imap.SearchText:
		if c.matcher.MatchHeader(t.fullHeader()) {
			return true
		}
	}
	if t.sum == nil || !t.open() {
		return false
	}
	found, err := c.matcher.MatchBody(t.sum, t.body)
	if err != nil {
		t.err = err
	}
	return found
}

func (c *condition) matchField(t *candidate) bool {
	header := []byte(nil)
	if c.cached && t.sum != nil && t.sum.Complete {
		header = t.sum.Header
	} else {
		header = t.fullHeader()
	}
	for b := header; ; {
		name, value, _, rest, ok := message.NextField(b)
		if !ok {
			return false
		}
		b = rest
		if len(name) == len(c.field) && strings.EqualFold(string(name), c.field) && (c.empty || c.matcher.Match(message.DecodeWords(value))) {
			return true
		}
	}
}

// open makes the message's octets available.
func (t *candidate) open() bool {
	if t.body != nil || t.missing {
		return t.body != nil
	}
	body, err := t.s.box.Body(t.s.ctx, t.m.UID)
	if err != nil {
		t.missing = true
		if !errors.Is(err, store.ErrGone) {
			t.err = err
		}
		return false
	}
	t.body = body
	return true
}

func (t *candidate) fullHeader() []byte {
	if t.header != nil || t.sum == nil || !t.open() {
		return t.header
	}
	t.header = make([]byte, min(t.sum.HeaderLen(), 1<<20))
	if n, err := t.body.ReadAt(t.header, 0); n < len(t.header) && err != io.EOF {
		t.err = err
	}
	return t.header
}

func (t *candidate) close() {
	if t.body != nil {
		_ = t.body.Close()
	}
}

// find calls hit for each message that fits, in order.
func (s *session) find(c *condition, hit func(pos int, m *store.Message, sum *message.Summary)) error {
	v := s.box.view
	if c.cost == byRecord {
		for i := range v.Len() {
			if t := (candidate{s: s, pos: i, m: v.At(i)}); c.match(&t) {
				hit(i, &t.m, nil)
			}
		}
		return nil
	}
	// Those that the index can rule out need no summary.
	var set store.UIDSet
	for i := range v.Len() {
		t := candidate{s: s, pos: i, m: v.At(i)}
		if c.possible(&t) {
			set.Add(t.m.UID)
		}
	}
	for sum, err := range s.box.Summaries(s.ctx, set) {
		if err != nil {
			return err
		}
		i, ok := v.Find(sum.UID)
		if !ok {
			continue
		}
		t := candidate{s: s, pos: i, m: v.At(i), sum: &sum.Summary}
		if c.match(&t) {
			hit(i, &t.m, t.sum)
		}
		t.close()
		if t.err != nil {
			return t.err
		}
	}
	return nil
}

// possible tells whether the message may fit, as far as the index knows.
func (c *condition) possible(t *candidate) bool {
	if c.op == imap.SearchAnd {
		for i := range c.keys {
			if !c.keys[i].possible(t) {
				return false
			}
		}
		return true
	}
	return c.cost > byRecord || c.match(t)
}

// search is SEARCH and UID SEARCH, RFC 3501, 6.4.4, with RETURN (RFC 4731).
func (s *session) search(uid bool) {
	start := time.Now()
	a := s.dec.SearchArgs()
	c, ok := s.program(a)
	if !ok {
		return
	}
	var found imap.SeqSet // sequence numbers or UIDs
	count, modseq := 0, store.ModSeq(0)
	plain := !a.Extended
	if plain {
		s.Raw("* SEARCH")
	}
	err := s.find(&c, func(pos int, m *store.Message, _ *message.Summary) {
		n := number(uid, pos, m)
		count++
		modseq = max(modseq, m.ModSeq)
		if plain {
			s.Byte(' ').Number(uint64(n))
			return
		}
		found.Add(imap.SeqNum(n))
	})
	asked := usesModSeq(&a.Key)
	if asked {
		s.condstore = true
	}
	if plain {
		if asked && count > 0 {
			s.Raw(" (MODSEQ ").Number(uint64(modseq)).Byte(')')
		}
		s.CRLF()
	}
	if err != nil {
		s.fail(err)
		return
	}
	if !plain {
		s.esearch(a, uid, found, count, modseq, asked)
	}
	s.searched(uid, count, start)
}

func usesModSeq(k *imap.SearchKey) bool {
	return k.Op == imap.SearchModSeq || slices.ContainsFunc(k.Keys, func(k imap.SearchKey) bool { return usesModSeq(&k) })
}

// esearch sends ESEARCH, RFC 4731, 3.1, in Cyrus' order.
func (s *session) esearch(a *imap.SearchArgs, uid bool, found imap.SeqSet, count int, modseq store.ModSeq, tellModSeq bool) {
	s.Raw(`* ESEARCH (TAG `).String(s.tag).Byte(')')
	if uid {
		s.Raw(" UID")
	}
	if a.Count {
		s.Raw(" COUNT ").Number(uint64(count))
	}
	if count > 0 {
		if a.Min {
			s.Raw(" MIN ").Number(uint64(found[0].Lo))
		}
		if a.Max {
			s.Raw(" MAX ").Number(uint64(found[len(found)-1].Hi))
		}
		if a.All {
			s.Raw(" ALL ").Bytes(found.Append(nil))
		}
		if tellModSeq {
			s.Raw(" MODSEQ ").Number(uint64(modseq))
		}
	}
	s.CRLF()
}
