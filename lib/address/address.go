// Package address knows what a mail address is: the envelope's form (RFC 5321,
// section 4.1.2) and the internal one, in which Postfix' queue and tables keep
// it: local@domain with the quotes of the local part taken off.
//
// It does not know which domains are ours, nor what an address leads to.
package address

import (
	"errors"
	"strings"
)

// Address is a mailbox in internal form. The zero value is the null sender.
// A Local without Domain is a bare name such as "postmaster".
type Address struct {
	Local, Domain string
}

// Parse splits the internal form at its last @. It never fails: what has no @
// is a bare name.
func Parse(s string) Address {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return Address{Local: s[:i], Domain: s[i+1:]}
	}
	return Address{Local: s}
}

// IsNull reports whether this is the null sender, <>.
func (a Address) IsNull() bool { return a.Local == "" && a.Domain == "" }

// String is the internal form; the null sender is "".
func (a Address) String() string {
	if a.Domain == "" {
		return a.Local
	}
	return a.Local + "@" + a.Domain
}

// Quoted is the form of SMTP commands and headers, without brackets: the local
// part is quoted where RFC 5321 wants it.
func (a Address) Quoted() string {
	local := QuoteLocal(a.Local)
	if a.Domain == "" {
		return local
	}
	return local + "@" + a.Domain
}

// QuoteLocal quotes a local part if it is no dot-string. Bytes above 127 count
// as atom text (RFC 6531).
func QuoteLocal(s string) string {
	if s == "" || isDotString(s) {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == '"' || c == '\\' || c == '\r' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
	return b.String()
}

func isDotString(s string) bool {
	if s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c != '.' && !isAtext(c) {
			return false
		}
	}
	return true
}

// isAtext is RFC 5322, section 3.2.3, and UTF-8 bytes.
func isAtext(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c >= 0x80:
		return true
	}
	return strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// ErrSyntax is returned for what is no address.
var ErrSyntax = errors.New("bad address syntax")

// ParseQuoted reads local@domain in external form: quotes and backslashes of
// the local part are taken off. Source routes (@a,@b:) are dropped, as RFC 5321,
// section 4.1.1.3 tells. It takes all of s or fails.
func ParseQuoted(s string) (Address, error) {
	if strings.HasPrefix(s, "@") {
		i := strings.IndexByte(s, ':')
		if i < 0 {
			return Address{}, ErrSyntax
		}
		s = s[i+1:]
	}
	if s == "" {
		return Address{}, nil
	}
	var local strings.Builder
	i := 0
	for i < len(s) && s[i] != '@' {
		if s[i] != '"' {
			if s[i] == '\\' && i+1 < len(s) {
				i++
			}
			local.WriteByte(s[i])
			i++
			continue
		}
		for i++; ; i++ {
			if i >= len(s) {
				return Address{}, ErrSyntax
			}
			if s[i] == '"' {
				i++
				break
			}
			if s[i] == '\\' && i+1 < len(s) {
				i++
			}
			local.WriteByte(s[i])
		}
	}
	a := Address{Local: local.String()}
	if i < len(s) {
		a.Domain = s[i+1:]
		if a.Domain == "" || a.Local == "" || strings.IndexByte(a.Domain, '@') >= 0 {
			return Address{}, ErrSyntax
		}
	}
	return a, nil
}

// SplitExtension parts user+detail at the first of the delimiters. Reserved
// names (postmaster, mailer-daemon, double-bounce; owner-list, list-request
// where the delimiter is '-') are not split, as in Postfix' split_addr(3).
func SplitExtension(local, delimiters string) (user, detail string, ok bool) {
	if delimiters == "" {
		return local, "", false
	}
	lower := strings.ToLower(local)
	switch lower {
	case "postmaster", "mailer-daemon", "double-bounce":
		return local, "", false
	}
	i := strings.IndexAny(local, delimiters)
	if i <= 0 {
		return local, "", false
	}
	if local[i] == '-' && (strings.HasPrefix(lower, "owner-") || strings.HasSuffix(lower, "-request")) {
		return local, "", false
	}
	return local[:i], local[i+1:], true
}
