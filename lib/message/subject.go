package message

import "bytes"

// BaseSubject is the subject of a thread, RFC 5256, section 2.1: decoded,
// blanks drawn together, without "Re:", "Fwd:", "[list]" and "(fwd)".
func BaseSubject(value []byte) (base []byte, isReply bool) {
	s := bytes.Join(bytes.Fields(DecodeWords(value)), []byte{' '})
	for {
		for { // (2) trailers
			t := bytes.TrimRight(s, " ")
			if n := len(t) - len("(fwd)"); n >= 0 && bytes.EqualFold(t[n:], []byte("(fwd)")) {
				s, isReply = t[:n], true
				continue
			}
			s = t
			break
		}
		for { // (3) to (5) leaders
			rest, ok := subjLeader(s)
			if !ok {
				break
			}
			s, isReply = rest, true
		}
		// Behind these blobs stands no leader: they are not looked at again, one
		// by one, or 50,000 of them would take half a minute.
		for {
			rest, ok := subjBlob(s)
			if !ok || len(rest) == 0 {
				break
			}
			s = rest
		}
		// (6) "[Fwd: ...]"
		if n := len(s); n > 6 && s[n-1] == ']' && bytes.EqualFold(s[:5], []byte("[fwd:")) {
			s, isReply = bytes.TrimLeft(s[5:n-1], " "), true
			continue
		}
		return s, isReply
	}
}

// subjLeader takes off "Re:", "Fw[d] [blob]:" with blobs before it.
func subjLeader(s []byte) ([]byte, bool) {
	for {
		rest, ok := subjBlob(s)
		if !ok {
			break
		}
		s = rest
	}
	s = bytes.TrimLeft(s, " ")
	n := 0
	for _, w := range [...]string{"re", "fwd", "fw"} {
		if len(s) > len(w) && bytes.EqualFold(s[:len(w)], []byte(w)) {
			n = len(w)
			break
		}
	}
	if n == 0 {
		return s, false
	}
	s = bytes.TrimLeft(s[n:], " ")
	if rest, ok := subjBlob(s); ok {
		s = rest
	}
	if len(s) == 0 || s[0] != ':' {
		return s, false
	}
	return bytes.TrimLeft(s[1:], " "), true
}

// subjBlob takes off "[text] ".
func subjBlob(s []byte) ([]byte, bool) {
	if len(s) == 0 || s[0] != '[' {
		return s, false
	}
	i := bytes.IndexAny(s[1:], "[]")
	if i < 0 || s[1+i] != ']' {
		return s, false
	}
	return bytes.TrimLeft(s[i+2:], " "), true
}
