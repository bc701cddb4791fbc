package store

import (
	"errors"
	"iter"
	"slices"
	"strconv"
)

// UIDRange is the UIDs from Lo to Hi, both included.
type UIDRange struct{ Lo, Hi UID }

// UIDSet is a set of UIDs: ranges in order, that neither overlap nor touch.
// The zero value is empty. It is changed by Add and AddRange only.
type UIDSet []UIDRange

// SetOf is the set of these UIDs.
func SetOf(uids ...UID) UIDSet {
	var s UIDSet
	for _, u := range uids {
		s.Add(u)
	}
	return s
}

// Add puts one UID in. Adding in rising order is cheap.
func (s *UIDSet) Add(u UID) { s.AddRange(u, u) }

// AddRange puts the UIDs from lo to hi in. UID 0 does not exist and is left out.
func (s *UIDSet) AddRange(lo, hi UID) {
	if lo > hi {
		lo, hi = hi, lo
	}
	if hi == 0 {
		return
	}
	lo = max(lo, 1)
	set := *s
	if n := len(set); n == 0 || lo > set[n-1].Hi && lo-set[n-1].Hi > 1 {
		*s = append(set, UIDRange{lo, hi})
		return
	} else if last := &set[n-1]; lo >= last.Lo {
		last.Hi = max(last.Hi, hi)
		return
	}
	// i: the first range that lo's may touch; j: the first behind hi's.
	i, _ := slices.BinarySearchFunc(set, lo, func(r UIDRange, lo UID) int {
		if r.Hi < lo && lo-r.Hi > 1 {
			return -1
		}
		return 1
	})
	j := i
	for j < len(set) && (set[j].Lo <= hi || set[j].Lo-hi == 1) {
		lo, hi = min(lo, set[j].Lo), max(hi, set[j].Hi)
		j++
	}
	*s = slices.Replace(set, i, j, UIDRange{lo, hi})
}

// Contains reports whether u is in the set.
func (s UIDSet) Contains(u UID) bool {
	i := s.find(u)
	return i < len(s) && s[i].Lo <= u
}

// find is the index of the first range that ends at u or later.
func (s UIDSet) find(u UID) int {
	i, _ := slices.BinarySearchFunc(s, u, func(r UIDRange, u UID) int {
		if r.Hi < u {
			return -1
		}
		return 1
	})
	return i
}

// Len is the number of UIDs.
func (s UIDSet) Len() int {
	n := 0
	for _, r := range s {
		n += int(r.Hi-r.Lo) + 1
	}
	return n
}

// Empty reports whether there is none.
func (s UIDSet) Empty() bool { return len(s) == 0 }

// All gives every UID in rising order.
func (s UIDSet) All() iter.Seq[UID] {
	return func(yield func(UID) bool) {
		for _, r := range s {
			for u := r.Lo; ; u++ {
				if !yield(u) {
					return
				}
				if u == r.Hi { // also ends at the greatest UID
					break
				}
			}
		}
	}
}

// Intersect is the set of UIDs that are in both.
func (s UIDSet) Intersect(t UIDSet) UIDSet {
	var out UIDSet
	for i, j := 0, 0; i < len(s) && j < len(t); {
		if lo, hi := max(s[i].Lo, t[j].Lo), min(s[i].Hi, t[j].Hi); lo <= hi {
			out = append(out, UIDRange{lo, hi})
		}
		if s[i].Hi < t[j].Hi {
			i++
		} else {
			j++
		}
	}
	return out
}

// Minus is the set of UIDs that are in s and not in t.
func (s UIDSet) Minus(t UIDSet) UIDSet {
	var out UIDSet
	for _, r := range s {
		for _, q := range t[t.find(r.Lo):] {
			if q.Lo > r.Hi {
				break
			}
			if q.Lo > r.Lo {
				out = append(out, UIDRange{r.Lo, q.Lo - 1})
			}
			if q.Hi >= r.Hi {
				r.Lo = 0 // used up
				break
			}
			r.Lo = max(r.Lo, q.Hi+1)
		}
		if r.Lo != 0 {
			out = append(out, r)
		}
	}
	return out
}

// String is the set as IMAP writes it: "1:3,7". The empty set is "".
func (s UIDSet) String() string { return string(s.Append(nil)) }

// Append writes the set behind b.
func (s UIDSet) Append(b []byte) []byte {
	for i, r := range s {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(r.Lo), 10)
		if r.Hi != r.Lo {
			b = append(b, ':')
			b = strconv.AppendUint(b, uint64(r.Hi), 10)
		}
	}
	return b
}

// ErrUIDSet is returned for what is no set of UIDs.
var ErrUIDSet = errors.New("bad set of UIDs")

// maxRanges limits what a stranger may make us hold.
const maxRanges = 1 << 17

// ParseUIDSet reads a uid-set of RFC 3501, section 9. "*" stands for star, the
// greatest UID of the mailbox; ranges may run either way.
func ParseUIDSet(text string, star UID) (UIDSet, error) {
	var s UIDSet
	for len(text) > 0 {
		var lo, hi UID
		var err error
		if lo, text, err = parseUID(text, star); err != nil {
			return nil, err
		}
		if hi = lo; len(text) > 0 && text[0] == ':' {
			if hi, text, err = parseUID(text[1:], star); err != nil {
				return nil, err
			}
		}
		if s.AddRange(lo, hi); len(s) > maxRanges {
			return nil, ErrUIDSet
		}
		if len(text) == 0 {
			return s, nil
		}
		if text[0] != ',' {
			break
		}
		text = text[1:]
	}
	return nil, ErrUIDSet
}

func parseUID(text string, star UID) (UID, string, error) {
	if len(text) > 0 && text[0] == '*' {
		return star, text[1:], nil
	}
	i, n := 0, uint64(0)
	for ; i < len(text) && text[i] >= '0' && text[i] <= '9'; i++ {
		if n = n*10 + uint64(text[i]-'0'); n > 1<<32-1 {
			return 0, "", ErrUIDSet
		}
	}
	if i == 0 || text[0] == '0' {
		return 0, "", ErrUIDSet
	}
	return UID(n), text[i:], nil
}
