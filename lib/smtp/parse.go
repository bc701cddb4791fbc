package smtp

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"angarium/lib/address"
	"angarium/lib/agent"
)

// maxParams limits the ESMTP parameters of one command; its length is limited
// by the line already.
const maxParams = 32

// cutPath parts a path (with its brackets, if any) from the parameters that
// follow. Blanks inside <> or quotes belong to the path. An address that opens a bracket or a quote and never shuts it is none.
func cutPath(s string) (path, params string, ok bool) {
	quoted, angle := false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '<':
			angle++
		case c == '>':
			angle--
		case (c == ' ' || c == '\t') && angle <= 0:
			return s[:i], strings.TrimLeft(s[i:], " \t"), true
		}
	}
	return s, "", !quoted && angle <= 0
}

// parsePath reads what stands behind FROM: or TO:. Outside of strict mode the
// brackets may be missing, doubled, or stand behind a name, and there may be
// comments. RFC 5321, 4.1.2; blanks at the borders, odd dots in the local part and
// an empty one are let through as smtpd(8) does.
func parsePath(path string, strict bool) (address.Address, bool) {
	var none address.Address
	if path == "" {
		return none, false
	}
	if path[0] == '<' {
		if len(path) < 2 || path[len(path)-1] != '>' {
			return none, false
		}
		path = path[1 : len(path)-1]
	} else if strict {
		return none, false
	}
	if !strict {
		path = innermost(path)
	}
	if strings.HasPrefix(path, "@") { // source route, dropped: RFC 5321, appendix C
		if i := strings.IndexByte(path, ':'); i >= 0 {
			path = path[i+1:]
		}
	}
	a, ok := parseMailbox(path, strict)
	return a, ok && (!strict || a.Local != "" || a.Domain == "")
}

// innermost takes the address out of "Joe <joe@here>", "<joe@here>" and
// "joe@here>", which some programs send.
func innermost(path string) string {
	if strings.IndexByte(path, '"') >= 0 {
		return path
	}
	if i := strings.LastIndexByte(path, '<'); i >= 0 {
		path = path[i+1:]
	}
	return strings.TrimRight(path, ">")
}

// parseMailbox reads local@domain into internal form. Comments are no part of it,
// and not allowed in strict mode.
func parseMailbox(s string, strict bool) (address.Address, bool) {
	var none address.Address
	out := make([]byte, 0, len(s))
	at, gap := -1, false // the last @; a blank after which no word may follow
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == ' ':
			gap = true
			continue
		case c < ' ' || c == 0x7f || strings.IndexByte("<>,;)]", c) >= 0 || c == ':' && at >= 0:
			return none, false
		case c == '(':
			j := strings.IndexByte(s[i:], ')')
			if strict || j < 0 || strings.ContainsAny(s[i+1:i+j], "(\\\"<>") {
				return none, false
			}
			i += j
			continue
		case c == '@':
			at, gap = len(out), false
			out = append(out, c)
			continue
		case gap && len(out) > 0 && out[len(out)-1] != '@':
			return none, false
		}
		gap = false
		switch c {
		case '"':
			// A quoted word stands alone, or between dots.
			if n := len(out); at >= 0 || n > 0 && out[n-1] != '.' {
				return none, false
			}
			j, ok := unquote(&out, s[i+1:])
			if i += j; !ok || i+1 < len(s) && strings.IndexByte(" .@(", s[i+1]) < 0 {
				return none, false
			}
		case '\\':
			if i++; i == len(s) || s[i] < ' ' || s[i] == 0x7f {
				return none, false
			}
			out = append(out, s[i])
		case '[':
			j := strings.IndexByte(s[i:], ']')
			if j < 0 || at < 0 || at != len(out)-1 || strings.TrimRight(s[i+j+1:], " ") != "" {
				return none, false
			}
			out = append(out, s[i:i+j+1]...)
			i = len(s)
		default:
			out = append(out, c)
		}
	}
	if at < 0 {
		return address.Address{Local: string(out)}, true
	}
	a := address.Address{Local: string(out[:at]), Domain: string(out[at+1:])}
	return a, ValidDomain(a.Domain)
}

// unquote appends the text of a quoted string and returns how much of s it
// took, the closing quote included.
func unquote(out *[]byte, s string) (int, bool) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			return i + 1, true
		case c == '\\':
			if i++; i == len(s) {
				return 0, false
			}
			c = s[i]
		}
		if c < ' ' || c == 0x7f {
			return 0, false
		}
		*out = append(*out, c)
	}
	return 0, false
}

// ValidDomain reports whether d may stand behind an @: a host name (one dot at
// its end and underscores do no harm) or an address literal.
func ValidDomain(d string) bool {
	if strings.HasPrefix(d, "[") && strings.HasSuffix(d, "]") {
		_, ok := LiteralAddr(d)
		return ok
	}
	return ValidHostname(strings.TrimSuffix(d, "."))
}

// LiteralAddr is the address in an address literal, RFC 5321, 4.1.3.
func LiteralAddr(d string) (netip.Addr, bool) {
	if len(d) < 2 || d[0] != '[' || d[len(d)-1] != ']' {
		return netip.Addr{}, false
	}
	lit := d[1 : len(d)-1]
	v6 := len(lit) > 5 && strings.EqualFold(lit[:5], "IPv6:")
	if v6 {
		lit = lit[5:]
	}
	a, err := netip.ParseAddr(lit)
	if err != nil || a.Zone() != "" || v6 != a.Is6() {
		return netip.Addr{}, false
	}
	return a, true
}

// ValidHostname reports whether h is made of labels of letters, digits, hyphens
// inside, and underscores; not of digits and dots alone. Bytes above 127 are
// taken if they are UTF-8 (RFC 6531).
func ValidHostname(h string) bool {
	if h == "" || len(h) > 255 || !utf8.ValidString(h) {
		return false
	}
	numeric := true
	label := 0
	for i := 0; i <= len(h); i++ {
		if i == len(h) || h[i] == '.' {
			if label == 0 || label > 63 || h[i-1] == '-' {
				return false
			}
			label = 0
			continue
		}
		c := h[i]
		switch {
		case c >= '0' && c <= '9':
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c >= 0x80:
			numeric = false
		case c == '-' && label > 0:
			numeric = false
		default:
			return false
		}
		label++
	}
	return !numeric
}

// allowed are the extensions that smtpd_discard_ehlo_keywords and smtputf8_enable
// left.
type allowed struct{ DSN, UTF8 bool }

var noDSN = Reply{501, "5.7.1", "DSN support is disabled"}

// parseMail reads the parameters of MAIL. bad is the reply's status and text
// where they are wrong.
func parseMail(m *Mail, params string, allow allowed) (bad Reply) {
	n, auth := 0, false
	for params != "" {
		var arg string
		arg, params = cutWord(params)
		name, value, has := strings.Cut(arg, "=")
		if n++; n > maxParams {
			return Reply{555, "5.5.4", "Unsupported option: " + arg}
		}
		switch upper(name) {
		case "SIZE":
			if !has {
				break
			}
			size, err := strconv.ParseUint(value, 10, 63)
			switch {
			case err != nil && isRange(err):
				return Reply{552, "5.3.4", "Message size exceeds file system imposed limit"}
			case err != nil:
				return Reply{501, "5.5.4", "Bad message size syntax"}
			}
			m.Size = int64(size)
			continue
		case "BODY":
			if v := upper(value); v == "7BIT" || v == "8BITMIME" {
				m.Body = v
				continue
			}
		case "RET":
			if !has {
				break
			}
			if !allow.DSN {
				return noDSN
			}
			if v := upper(value); m.Ret == "" && (v == "FULL" || v == "HDRS") {
				m.Ret = v
				continue
			}
			return Reply{501, "5.5.4", "Bad RET parameter syntax"}
		case "ENVID":
			if !has {
				break
			}
			if !allow.DSN {
				return noDSN
			}
			v, ok := Unxtext(value)
			if !ok || v == "" || m.EnvID != "" {
				return Reply{501, "5.5.4", "Bad ENVID parameter syntax"}
			}
			m.EnvID = v
			continue
		case "AUTH":
			if !has || auth {
				break
			}
			auth = true
			m.Auth, _ = Unxtext(value)
			continue
		case "SMTPUTF8":
			if !has && allow.UTF8 {
				m.SMTPUTF8 = true
				continue
			}
		}
		return Reply{555, "5.5.4", "Unsupported option: " + arg}
	}
	return Reply{}
}

func isRange(err error) bool {
	e, ok := err.(*strconv.NumError)
	return ok && e.Err == strconv.ErrRange
}

// parseRcpt reads the parameters of RCPT.
func parseRcpt(r *Rcpt, params string, lmtp bool, allow allowed) (bad Reply, notify string) {
	n := 0
	for params != "" {
		var arg string
		arg, params = cutWord(params)
		name, value, has := strings.Cut(arg, "=")
		if n++; n > maxParams {
			return Reply{555, "5.5.4", "Unsupported option: " + arg}, ""
		}
		switch upper(name) {
		case "NOTIFY":
			if !has {
				break
			}
			if !allow.DSN {
				return noDSN, ""
			}
			flags, ok, unknown := parseNotify(value)
			if !ok || flags == 0 || r.Notify != 0 {
				return Reply{501, "5.5.4", "Error: Bad NOTIFY parameter syntax"}, unknown
			}
			r.Notify = flags
			continue
		case "ORCPT":
			if !has {
				break
			}
			if !allow.DSN {
				return noDSN, ""
			}
			kind, addr, ok := strings.Cut(value, ";")
			addr, fine := Unxtext(addr)
			if !ok || !fine || kind == "" || r.ORCPT != "" {
				return Reply{501, "5.5.4", "Error: Bad ORCPT parameter syntax"}, ""
			}
			r.ORCPT = kind + ";" + addr
			continue
		case "IGNOREQUOTA":
			if lmtp {
				r.IgnoreQuota = true
				continue
			}
		}
		return Reply{555, "5.5.4", "Unsupported option: " + arg}, ""
	}
	return Reply{}, ""
}

// parseNotify is RFC 3461, 4.1: NEVER stands alone. unknown is a word that it
// does not know, for the log.
func parseNotify(value string) (n agent.Notify, ok bool, unknown string) {
	for word := range strings.SplitSeq(value, ",") {
		switch upper(word) {
		case "NEVER":
			n |= agent.NotifyNever
		case "SUCCESS":
			n |= agent.NotifySuccess
		case "FAILURE":
			n |= agent.NotifyFailure
		case "DELAY":
			n |= agent.NotifyDelay
		default:
			return 0, false, word
		}
	}
	return n, n&agent.NotifyNever == 0 || n == agent.NotifyNever, ""
}

// Unxtext is RFC 3461, 4: "+2B" for "+".
func Unxtext(s string) (string, bool) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] == 0x7f {
			return "", false
		}
		if s[i] != '+' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		v, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil || v < ' ' || v == 0x7f {
			return "", false
		}
		out = append(out, byte(v))
		i += 2
	}
	return string(out), true
}

// xtext is the way back.
func xtext(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c > ' ' && c < 0x7f && c != '+' && c != '=' {
			b.WriteByte(c)
		} else {
			b.WriteByte('+')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// uxtext writes the address of an ORCPT of type utf-8, RFC 6533, 3: readable by
// everybody, whether SMTPUTF8 or not.
func uxtext(s string) string {
	var b strings.Builder
	for _, c := range s {
		if c > ' ' && c < 0x7f && c != '+' && c != '=' && c != '\\' {
			b.WriteRune(c)
		} else {
			fmt.Fprintf(&b, "\\x{%02X}", c)
		}
	}
	return b.String()
}

// cutWord takes the first word of s, which begins with one.
func cutWord(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

// upper is strings.ToUpper for ASCII; short words that are capitals already
// cost nothing.
func upper(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] >= 'a' && s[i] <= 'z' {
			return strings.ToUpper(s)
		}
	}
	return s
}
