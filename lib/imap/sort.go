package imap

import "strings"

// SortKey is one criterion of SORT.
type SortKey struct {
	By      SortBy
	Reverse bool
}

// SortBy is what SORT compares.
type SortBy uint8

// The criteria of RFC 5256, section 3, of RFC 5957, and two of Cyrus.
const (
	SortArrival SortBy = iota
	SortCC
	SortDate
	SortFrom
	SortSize
	SortSubject
	SortTo
	SortDisplayFrom
	SortDisplayTo
	SortModSeq
	SortUID
)

var sortNames = [...]string{
	SortArrival: "ARRIVAL", SortCC: "CC", SortDate: "DATE", SortFrom: "FROM", SortSize: "SIZE", SortSubject: "SUBJECT", SortTo: "TO",
	SortDisplayFrom: "DISPLAYFROM", SortDisplayTo: "DISPLAYTO", SortModSeq: "MODSEQ", SortUID: "UID",
}

// SortArgs reads the arguments of SORT, with RETURN (RFC 5267).
func (d *Decoder) SortArgs() ([]SortKey, *SearchArgs) {
	a := &SearchArgs{}
	d.SP()
	p := searchParser{Decoder: d}
	if !d.Peek('(') && d.Word() == "RETURN" {
		p.returnOpts(a)
		d.SP()
	}
	keys := d.sortKeys()
	p.program(a)
	return keys, a
}

func (d *Decoder) sortKeys() (keys []SortKey) {
	if !d.Peek('(') {
		d.Bad("Missing Sort criteria")
	}
	reverse := false
	d.List(func() {
		word := d.Word()
		if word == "REVERSE" && !reverse {
			reverse = true
			return
		}
		for by, name := range sortNames {
			if name == word {
				keys = append(keys, SortKey{SortBy(by), reverse})
				reverse = false
				return
			}
		}
		d.Bad("Invalid Sort criterion %s", strings.ToLower(word))
	})
	switch {
	case reverse:
		d.Bad("Missing Sort criterion to reverse")
	case len(keys) == 0:
		d.Bad("Missing Sort criteria")
	}
	return keys
}

// ThreadArgs reads the arguments of THREAD; the algorithm in capitals.
func (d *Decoder) ThreadArgs() (algorithm string, a *SearchArgs) {
	a = &SearchArgs{}
	d.SP()
	algorithm = d.Word()
	switch {
	case d.OK() && !d.Peek(' '):
		d.Bad("Missing algorithm in Thread")
	case algorithm != "ORDEREDSUBJECT" && algorithm != "REFERENCES":
		d.Bad("Invalid Thread algorithm %s", algorithm)
	}
	p := searchParser{Decoder: d}
	p.program(a)
	return algorithm, a
}

// program reads a charset, which must be there, and the search keys.
func (p *searchParser) program(a *SearchArgs) {
	if p.err == nil && !p.Take(' ') {
		p.Bad("Missing charset")
	}
	a.Charset = p.AString()
	if p.err == nil && !p.Take(' ') {
		p.Bad("Missing charset")
	}
	p.keys(a, p.key())
}
