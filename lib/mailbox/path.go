package mailbox

import (
	"strings"
)

// A name's place below its partition is the name with slashes for dots; a part
// is written with a dot where the name has ^. What would be misunderstood there
// is escaped with %XX, a letter that no name has:
//
//	a leading dot (hidden, and ours: .index), cur, new, tmp in any case,
//	dovecot's own files, % / and control characters;
//	"domain" at the top, below which virtual domains live: domain/example.org/user/bob;
//	a part longer than 240 bytes goes on in a folder of its own: <240 bytes>%~/<rest>.

const maxPart = 240

// Path is the mailbox's directory, relative to its partition.
func (n Name) Path() string {
	var b strings.Builder
	if d := n.Domain(); d != "" {
		b.WriteString("domain/" + d)
	}
	for i, part := range n.Parts() {
		if b.Len() > 0 {
			b.WriteByte('/')
		}
		top := i == 0 && n.Domain() == ""
		writePart(&b, part, top)
	}
	return b.String()
}

const hex = "0123456789ABCDEF"

func writePart(b *strings.Builder, part string, top bool) {
	n := 0
	for i := 0; i < len(part); i++ {
		if n >= maxPart {
			b.WriteString("%~/")
			n = 0
		}
		c := part[i]
		if c == '^' {
			c = '.'
		}
		if c == '%' || c == '/' || c < ' ' || c >= 0x7f || i == 0 && mistakable(part, top) || n == 0 && c == '.' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
			n += 3
		} else {
			b.WriteByte(c)
			n++
		}
	}
}

// mistakable reports whether a part's plain name means something else there.
func mistakable(part string, top bool) bool {
	switch strings.ToLower(part) {
	case "cur", "new", "tmp":
		return true
	case "domain":
		return top
	case "maildirsize", "maildirfolder", "subscriptions", "courierimapkeywords":
		return true
	}
	return len(part) >= 7 && strings.EqualFold(part[:7], "dovecot")
}

// FromPath is the inverse of Path. A path that no name has is ErrBad.
func FromPath(path string) (Name, error) {
	rest, domain := path, ""
	if after, ok := strings.CutPrefix(path, "domain/"); ok {
		if domain, rest, ok = strings.Cut(after, "/"); !ok {
			return "", ErrBad
		}
	}
	var b strings.Builder
	if domain != "" {
		b.WriteString(domain + "!")
	}
	for i, more := 0, true; more; i++ {
		var dir string
		dir, rest, more = strings.Cut(rest, "/")
		dir, goesOn := strings.CutSuffix(dir, "%~")
		if !readPart(&b, dir) {
			return "", ErrBad
		}
		if more && !goesOn {
			b.WriteByte('.')
		}
	}
	n := Name(b.String())
	if n.Path() != path { // one spelling only
		return "", ErrBad
	}
	return n, nil
}

func readPart(b *strings.Builder, dir string) bool {
	for i := 0; i < len(dir); i++ {
		c := dir[i]
		if c == '%' {
			if i+2 >= len(dir) {
				return false
			}
			hi, lo := strings.IndexByte(hex, dir[i+1]), strings.IndexByte(hex, dir[i+2])
			if hi < 0 || lo < 0 {
				return false
			}
			c = byte(hi<<4 | lo)
			i += 2
		}
		if c == '.' {
			c = '^'
		}
		b.WriteByte(c)
	}
	return dir != ""
}
