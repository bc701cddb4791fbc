package imapd

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"angarium/lib/imap"
	"angarium/lib/message"
	"angarium/lib/store"
)

// sortable is a message with what it is sorted by.
type sortable struct {
	pos    int
	number uint32 // what the client is told: sequence number or UID
	m      store.Message
	sent   int64
	texts  [][]byte // of the criteria that are texts, in their order
}

// sort is SORT and UID SORT: RFC 5256; RETURN: RFC 5267.
func (s *session) sort(uid bool) {
	start := time.Now()
	keys, a := s.dec.SortArgs()
	c, ok := s.program(a)
	if !ok {
		return
	}
	var list []sortable
	modseq := store.ModSeq(0)
	err := s.findSummaries(&c, func(pos int, m *store.Message, sum *message.Summary) {
		modseq = max(modseq, m.ModSeq)
		t := sortable{pos: pos, number: number(uid, pos, m), m: *m, sent: sent(m, sum)}
		for _, k := range keys {
			if text, ok := sortText(k.By, sum); ok {
				t.texts = append(t.texts, text)
			}
		}
		list = append(list, t)
	})
	if err != nil {
		s.fail(err)
		return
	}
	slices.SortFunc(list, func(x, y sortable) int { return compare(keys, &x, &y) })
	asked := usesModSeq(&a.Key)
	s.condstore = s.condstore || asked
	if a.Extended {
		var found imap.SeqSet
		for i := range list {
			found.Add(imap.SeqNum(list[i].number))
		}
		s.esearch(a, uid, found, len(list), modseq, asked)
	} else {
		s.Raw("* SORT")
		for i := range list {
			s.Byte(' ').Number(uint64(list[i].number))
		}
		if asked && len(list) > 0 { // RFC 7162, 3.1.6
			s.Raw(" (MODSEQ ").Number(uint64(modseq)).Byte(')')
		}
		s.CRLF()
	}
	s.searched(uid, len(list), start)
}

// program finishes the reading of a search program and makes it ready; false: it
// has been refused.
func (s *session) program(a *imap.SearchArgs) (c condition, ok bool) {
	if s.dec.CRLF(); !s.dec.OK() {
		return c, false
	}
	s.syncBut(false, nil)
	c, err := s.compile(&a.Key, a.Charset)
	if _, known := message.Charset(a.Charset); !known {
		err = errCharset
	}
	if err != nil {
		s.BAD(err.Error())
		return c, false
	}
	return c, true
}

// searched ends a SEARCH, SORT or THREAD.
func (s *session) searched(uid bool, count int, start time.Time) {
	s.syncBut(uid, nil)
	s.OK(fmt.Sprintf("Completed (%d msgs in %.3f secs)", count, time.Since(start).Seconds()))
}

// findSummaries is find for those who need the summary of every hit. One that the
// store has none of, as its message was expunged this moment, is passed over.
func (s *session) findSummaries(c *condition, hit func(pos int, m *store.Message, sum *message.Summary)) error {
	needs := condition{op: imap.SearchAnd, keys: []condition{*c}, cost: max(c.cost, bySummary)}
	return s.find(&needs, func(pos int, m *store.Message, sum *message.Summary) {
		if sum != nil {
			hit(pos, m, sum)
		}
	})
}

func number(uid bool, pos int, m *store.Message) uint32 {
	if uid {
		return uint32(m.UID)
	}
	return uint32(pos + 1)
}

// sent is when a message was sent: Date, in UTC, or INTERNALDATE (RFC 5256, 2.2).
func sent(m *store.Message, sum *message.Summary) int64 {
	if sum.Sent != 0 {
		return sum.Sent
	}
	return m.Internal
}

// field is the value of a header field that is always kept; nil if it is not there.
func field(sum *message.Summary, name string) []byte {
	for b := sum.Header; ; {
		n, value, _, rest, ok := message.NextField(b)
		if !ok {
			return nil
		}
		if b = rest; len(n) == len(name) && strings.EqualFold(string(n), name) {
			return value
		}
	}
}

// sortText is what a criterion compares, if that is a text.
func sortText(by imap.SortBy, sum *message.Summary) ([]byte, bool) {
	switch by {
	case imap.SortSubject:
		text, _ := message.SortSubject(field(sum, "Subject"))
		return text, true
	case imap.SortFrom:
		return message.SortMailbox(field(sum, "From")), true
	case imap.SortTo:
		return message.SortMailbox(field(sum, "To")), true
	case imap.SortCC:
		return message.SortMailbox(field(sum, "Cc")), true
	case imap.SortDisplayFrom:
		return message.SortDisplay(field(sum, "From")), true
	case imap.SortDisplayTo:
		return message.SortDisplay(field(sum, "To")), true
	}
	return nil, false
}

// compare orders two messages. Those that no criterion tells apart stay in the
// order of the mailbox, REVERSE or not.
func compare(keys []imap.SortKey, x, y *sortable) int {
	text := 0
	for _, k := range keys {
		n := 0
		switch k.By {
		case imap.SortArrival:
			n = cmp.Compare(x.m.Internal, y.m.Internal)
		case imap.SortDate:
			n = cmp.Compare(x.sent, y.sent)
		case imap.SortSize:
			n = cmp.Compare(x.m.Size, y.m.Size)
		case imap.SortModSeq:
			n = cmp.Compare(x.m.ModSeq, y.m.ModSeq)
		case imap.SortUID:
			n = cmp.Compare(x.m.UID, y.m.UID)
		default:
			n = bytes.Compare(x.texts[text], y.texts[text])
			text++
		}
		if k.Reverse {
			n = -n
		}
		if n != 0 {
			return n
		}
	}
	return cmp.Compare(x.pos, y.pos)
}
