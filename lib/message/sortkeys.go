package message

import "bytes"

// SortMailbox is what SORT (FROM), (TO) and (CC) compare: the local part of a
// field's first address (RFC 5256, section 3), folded; empty if there is none.
func SortMailbox(field []byte) []byte {
	t, ok := firstAddress(field)
	if !ok {
		return nil
	}
	return collate(t.Local)
}

// SortDisplay is what SORT (DISPLAYFROM) and (DISPLAYTO) compare: the name of a
// field's first address or, if it has none, the address (RFC 5957, section 3).
func SortDisplay(field []byte) []byte {
	t, ok := firstAddress(field)
	switch {
	case !ok:
		return nil
	case len(t.Name) > 0:
		return collate(DecodeWords(t.Name))
	case len(t.Host) > 0:
		return collate(append(append(append([]byte{}, t.Local...), '@'), t.Host...))
	}
	return collate(t.Local) // a group
}

func firstAddress(field []byte) (address, bool) {
	s := addressScanner{b: unfold(nil, field)}
	return s.next()
}

// SortSubject is the base subject, folded, and whether it was a reply or forward.
func SortSubject(field []byte) (base []byte, isReply bool) {
	base, isReply = BaseSubject(field)
	return collate(base), isReply
}

// MessageIDs calls yield for each <id> in a References, In-Reply-To or Message-ID
// field, without brackets, until it returns false. Quotes are taken off: <"a"@b>
// is <a@b> (RFC 5256, section 3).
func MessageIDs(field []byte, yield func(id string) bool) {
	var id []byte
	inside, quoted := false, false
	for _, c := range field {
		switch {
		case !inside:
			if inside = c == '<'; inside {
				id, quoted = id[:0], false
			}
		case c == '"':
			quoted = !quoted
		case c == '<' && !quoted: // the one before had no end
			id = id[:0]
		case c == '>' && !quoted:
			if inside = false; len(id) > 0 && !yield(string(id)) {
				return
			}
		case c > ' ': // blanks come in by folding
			id = append(id, c)
		}
	}
}

// collate is fold in capitals: i;ascii-casemap (RFC 4790, 9.2.1) sorts "_" behind
// letters, and i;unicode-casemap does the same beyond ASCII.
func collate(text []byte) []byte { return bytes.ToUpper(fold(nil, text)) }
