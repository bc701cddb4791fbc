package mailbox

import "strings"

// goodChars are what Cyrus lets into a name besides letters and digits. The dot
// parts, ^ is a dot, & begins modified UTF-7.
const goodChars = " #$'()+,-.:;=?@[]^_`{|}~\"<>\\"

// Check returns ErrBad for a name that no mailbox may have: too long, with an
// empty part, with a wildcard or a control character, in broken UTF-7, or one
// of the places that are no mailboxes themselves ("user").
func (n Name) Check() error {
	if len(n) > MaxLen {
		return ErrBad
	}
	if i := strings.IndexByte(string(n), '!'); i >= 0 && !goodDomain(string(n[:i])) {
		return ErrBad
	}
	local := n.Local()
	if local == "" || local == "user" || local[0] == '~' {
		return ErrBad
	}
	for part := range strings.SplitSeq(local, ".") {
		if !goodPart(part) {
			return ErrBad
		}
	}
	return nil
}

func goodPart(part string) bool {
	// What is left of "." and ".." once dots are written ^.
	if strings.Trim(part, "^") == "" || part[0] == ' ' || part[len(part)-1] == ' ' {
		return false
	}
	utf7 := false
	for i := 0; i < len(part); i++ {
		switch c := part[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '&':
			utf7 = true
		case c == '/' && utf7: // of a base64 run only: DecodeUTF7 looks
			return false
		case strings.IndexByte(goodChars, c) < 0:
			return false
		}
	}
	if !utf7 {
		return true
	}
	text, err := DecodeUTF7(strings.ReplaceAll(part, "^", "."))
	return err == nil && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd })
}

func goodDomain(d string) bool {
	if d == "" || d[0] == '.' || d[0] == '-' || strings.Contains(d, "..") {
		return false
	}
	for i := 0; i < len(d); i++ {
		switch c := d[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// IsDeleted reports whether the name is one that a deleted mailbox was given
// until its time is over.
func (n Name) IsDeleted() bool {
	l := n.Local()
	return l == "DELETED" || strings.HasPrefix(l, "DELETED.")
}
