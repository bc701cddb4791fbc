package imap

import (
	"slices"
	"strconv"
)

// SeqNum is a message sequence number: a position in what a client was told.
type SeqNum uint32

// UID is a unique identifier, RFC 3501, 2.3.1.1. It is no sequence number, and
// the types see to that.
type UID uint32

// Range is Lo to Hi, both included. Star stands for "*".
type Range[T ~uint32] struct{ Lo, Hi T }

// Star is "*" in a set: the greatest number in use.
const Star = 1<<32 - 1

// Set is a sequence-set, RFC 3501, section 9, as it was written: ranges in any
// order, that may run either way. Numbers that no message can have (Star itself,
// and what has more than 32 bits) are the greatest that one could have.
type Set[T ~uint32] []Range[T]

// SeqSet and UIDSet are the two kinds of set.
type (
	SeqSet = Set[SeqNum]
	UIDSet = Set[UID]
)

// SeqSet reads a set of sequence numbers.
func (d *Decoder) SeqSet() SeqSet { return readSet[SeqNum](d) }

// UIDSet reads a set of UIDs.
func (d *Decoder) UIDSet() UIDSet { return readSet[UID](d) }

func readSet[T ~uint32](d *Decoder) Set[T] {
	if d.err != nil {
		return nil
	}
	text := d.run(func(c byte) bool { return '0' <= c && c <= '9' || c == ':' || c == ',' || c == '*' })
	if d.err != nil {
		return nil
	}
	s, ok := parseSet[T](text, d.limits.SetSize)
	if !ok {
		d.Fail(ErrSet)
	}
	return s
}

// ErrSet is a sequence-set that is none.
var ErrSet = &BadError{"Invalid sequence"}

func parseSet[T ~uint32](b []byte, limit int) (Set[T], bool) {
	s := make(Set[T], 0, 4)
	number := func() (T, bool) {
		if len(b) > 0 && b[0] == '*' {
			b = b[1:]
			return Star, true
		}
		n, i := uint64(0), 0
		for i < len(b) && '0' <= b[i] && b[i] <= '9' {
			n = min(n*10+uint64(b[i]-'0'), Star-1)
			i++
		}
		b = b[i:]
		return T(n), i > 0
	}
	for {
		lo, ok := number()
		if !ok || len(s) >= limit {
			return nil, false
		}
		hi := lo
		if len(b) > 0 && b[0] == ':' {
			b = b[1:]
			if hi, ok = number(); !ok {
				return nil, false
			}
		}
		s = append(s, Range[T]{lo, hi})
		if len(b) == 0 {
			return s, true
		}
		if b[0] != ',' {
			return nil, false
		}
		b = b[1:]
	}
}

// Normal is the set in rising order without overlaps, with "*" put in: the form
// that is quick to go through.
func (s Set[T]) Normal(star T) Set[T] {
	out := make(Set[T], 0, len(s))
	sorted := true
	for _, r := range s {
		if r.Lo == Star {
			r.Lo = star
		}
		if r.Hi == Star {
			r.Hi = star
		}
		if r.Lo > r.Hi {
			r.Lo, r.Hi = r.Hi, r.Lo
		}
		sorted = sorted && (len(out) == 0 || out[len(out)-1].Hi < r.Lo)
		out = append(out, r)
	}
	if sorted {
		return out
	}
	slices.SortFunc(out, func(a, b Range[T]) int {
		switch {
		case a.Lo < b.Lo:
			return -1
		case a.Lo > b.Lo:
			return 1
		}
		return 0
	})
	n := 0
	for _, r := range out[1:] {
		if last := &out[n]; r.Lo <= last.Hi || r.Lo == last.Hi+1 {
			last.Hi = max(last.Hi, r.Hi)
			continue
		}
		n++
		out[n] = r
	}
	return out[:n+1]
}

// Contains reports whether n is in a set that is Normal.
func (s Set[T]) Contains(n T) bool {
	i, ok := slices.BinarySearchFunc(s, n, func(r Range[T], n T) int {
		switch {
		case r.Hi < n:
			return -1
		case r.Lo > n:
			return 1
		}
		return 0
	})
	return ok && i < len(s)
}

// Append writes the set.
func (s Set[T]) Append(b []byte) []byte {
	put := func(n T) {
		if n == Star {
			b = append(b, '*')
		} else {
			b = strconv.AppendUint(b, uint64(n), 10)
		}
	}
	for i, r := range s {
		if i > 0 {
			b = append(b, ',')
		}
		put(r.Lo)
		if r.Hi != r.Lo {
			b = append(b, ':')
			put(r.Hi)
		}
	}
	return b
}

// Add puts n, greater than all before, behind the set.
func (s *Set[T]) Add(n T) {
	if k := len(*s); k > 0 && (*s)[k-1].Hi+1 == n {
		(*s)[k-1].Hi = n
		return
	}
	*s = append(*s, Range[T]{n, n})
}
