package imapd

import (
	"cmp"
	"slices"
	"time"

	"angarium/lib/message"
	"angarium/lib/store"
)

// threaded is a message in a thread, or a dummy that stands for one that is
// mentioned but is not among those found.
type threaded struct {
	number  uint32 // 0: a dummy
	pos     int
	sent    int64
	subject string
	reply   bool
	ids     []string // itself first, then whom it refers to, the nearest last

	parent   *threaded // while they are linked
	below    int       // how many it is the parent of
	children []*threaded
}

// thread is THREAD and UID THREAD, RFC 5256.
func (s *session) thread(uid bool) {
	start := time.Now()
	algorithm, a := s.dec.ThreadArgs()
	c, ok := s.program(a)
	if !ok {
		return
	}
	var list []*threaded
	err := s.findSummaries(&c, func(pos int, m *store.Message, sum *message.Summary) {
		t := &threaded{number: number(uid, pos, m), pos: pos, sent: sent(m, sum)}
		subject, reply := message.SortSubject(field(sum, "Subject"))
		t.subject, t.reply = string(subject), reply
		if algorithm == "REFERENCES" {
			t.ids = references(sum)
		}
		list = append(list, t)
	})
	if err != nil {
		s.fail(err)
		return
	}
	var roots []*threaded
	if algorithm == "REFERENCES" {
		roots = byReferences(list)
	} else {
		roots = bySubject(list)
	}
	s.Raw("* THREAD")
	if len(roots) > 0 {
		s.Byte(' ')
	}
	for _, r := range roots {
		s.tellThread(r)
	}
	s.CRLF()
	if usesModSeq(&a.Key) {
		s.condstore = true
	}
	s.searched(uid, len(list), start)
}

// tellThread writes "(1 2 (3)(4 5))": RFC 5256, 4. It goes down a chain of single
// answers without calling itself, since those may be as long as a mailbox.
func (s *session) tellThread(t *threaded) {
	s.Byte('(')
	for first := true; ; first = false {
		if t.number != 0 {
			if !first {
				s.Byte(' ')
			}
			s.Number(uint64(t.number))
		}
		if len(t.children) != 1 {
			break
		}
		t = t.children[0]
	}
	if len(t.children) > 0 && t.number != 0 {
		s.Byte(' ')
	}
	for _, c := range t.children {
		s.tellThread(c)
	}
	s.Byte(')')
}

// inOrder compares by date, and what was sent in one second by place.
func inOrder(x, y *threaded) int {
	return cmp.Or(cmp.Compare(x.date(), y.date()), cmp.Compare(x.place(), y.place()))
}

// date is a dummy's first child's, whose children are in order.
func (t *threaded) date() int64 {
	for t.number == 0 && len(t.children) > 0 {
		t = t.children[0]
	}
	return t.sent
}

func (t *threaded) place() int {
	for t.number == 0 && len(t.children) > 0 {
		t = t.children[0]
	}
	return t.pos
}

// bySubject is ORDEREDSUBJECT: the first of each subject, the others below it.
func bySubject(list []*threaded) (roots []*threaded) {
	slices.SortFunc(list, func(x, y *threaded) int {
		return cmp.Or(cmp.Compare(x.subject, y.subject), inOrder(x, y))
	})
	for _, t := range list {
		if n := len(roots); n > 0 && roots[n-1].subject == t.subject {
			roots[n-1].children = append(roots[n-1].children, t)
			continue
		}
		roots = append(roots, t)
	}
	slices.SortFunc(roots, inOrder)
	return roots
}

// maxReferences bounds how many of the messages that one refers to are looked at,
// the nearest ones.
const maxReferences = 200

// references are a message's id ("" without one) and those it refers to: what
// References names, or the first in In-Reply-To.
func references(sum *message.Summary) []string {
	ids := []string{""}
	message.MessageIDs(field(sum, "Message-ID"), func(id string) bool {
		ids[0] = id
		return false
	})
	message.MessageIDs(field(sum, "References"), func(id string) bool {
		ids = append(ids, id)
		return true
	})
	if len(ids) == 1 {
		message.MessageIDs(field(sum, "In-Reply-To"), func(id string) bool {
			ids = append(ids, id)
			return false
		})
	}
	if n := len(ids) - maxReferences; n > 1 {
		ids = append(ids[:1], ids[n:]...)
	}
	return ids
}

// byReferences is REFERENCES, in the steps of RFC 5256, 3.
func byReferences(list []*threaded) []*threaded {
	top := &threaded{}
	link(list, top)                          // (1), (2)
	top.children = prune(top.children, true) // (3)
	arrange(top)                             // (4): the roots by date, and (6) the rest at once
	gather(top)                              // (5)
	arrange(top)
	return top.children
}

// link makes every message the child of the last one that it refers to, and those
// the children of each other. What refers to nobody hangs below top.
func link(list []*threaded, top *threaded) {
	byID := make(map[string]*threaded, len(list))
	var all []*threaded
	find := func(id string) *threaded {
		t := byID[id]
		if t == nil {
			t = &threaded{}
			byID[id] = t
			all = append(all, t)
		}
		return t
	}
	above := func(t, child *threaded) bool { // is child above t, or t itself?
		if child.below == 0 { // which is so of what arrives in order: else long threads would take long
			return t == child
		}
		for ; t != nil; t = t.parent {
			if t == child {
				return true
			}
		}
		return false
	}
	hang := func(t, parent *threaded) {
		t.parent = parent
		parent.below++
	}
	for _, m := range list {
		id := m.ids[0]
		t := byID[id]
		if id == "" || t != nil && t.number != 0 { // none, or one that another has: it is not spoken of
			t = m
			all = append(all, t)
		} else {
			t = find(id)
			t.number, t.pos, t.sent, t.subject, t.reply = m.number, m.pos, m.sent, m.subject, m.reply
		}
		var prev *threaded
		for _, r := range m.ids[1:] {
			ref := find(r)
			if prev != nil && ref.parent == nil && !above(prev, ref) {
				hang(ref, prev)
			}
			prev = ref
		}
		// What a message says of itself counts for more than what others said.
		if t.parent != nil {
			t.parent.below--
			t.parent = nil
		}
		if prev != nil && !above(prev, t) {
			hang(t, prev)
		}
	}
	for _, t := range all {
		p := t.parent
		if p == nil {
			p = top
		}
		p.children = append(p.children, t)
	}
}

// prune takes out the dummies: those without children, and those whose children
// can take their place. At the root only a single child can.
func prune(list []*threaded, root bool) []*threaded {
	var out []*threaded
	for _, t := range list {
		t.children = prune(t.children, false)
		switch n := len(t.children); {
		case t.number != 0 || n > 1 && root:
			out = append(out, t)
		default:
			out = append(out, t.children...)
		}
	}
	return out
}

// arrange sorts the children of each by date, from below.
func arrange(t *threaded) {
	for _, c := range t.children {
		arrange(c)
	}
	slices.SortFunc(t.children, inOrder)
}

// gather brings the threads of one subject together.
func gather(top *threaded) {
	subject := func(t *threaded) (string, bool) {
		if t.number == 0 {
			t = t.children[0]
		}
		return t.subject, t.reply
	}
	table := map[string]*threaded{}
	for _, t := range top.children {
		text, reply := subject(t)
		if text == "" {
			continue
		}
		was := table[text]
		if was == nil {
			table[text] = t
			continue
		}
		_, wasReply := subject(was)
		if was.number != 0 && (t.number == 0 || wasReply && !reply) {
			table[text] = t
		}
	}
	var out []*threaded
	merged := map[*threaded]*threaded{} // a thread of the table that now hangs below a dummy
	for _, t := range top.children {
		text, reply := subject(t)
		in := table[text]
		if text == "" || in == t {
			out = append(out, t)
			continue
		}
		if d := merged[in]; d != nil {
			in = d
		}
		_, inReply := subject(in)
		switch {
		case in.number == 0 && t.number == 0:
			in.children = append(in.children, t.children...)
		case in.number == 0, reply && !inReply:
			in.children = append(in.children, t)
		default: // neither answers the other: they become siblings
			d := &threaded{children: []*threaded{in, t}}
			merged[in] = d
			if i := slices.Index(out, in); i >= 0 {
				out[i] = d
			} else { // it comes later, and finds itself replaced
				out = append(out, d)
			}
		}
	}
	// A thread of the table that was replaced before its turn came is in out twice:
	// by itself, and below its dummy.
	out = slices.DeleteFunc(out, func(t *threaded) bool { return merged[t] != nil })
	top.children = out
}
