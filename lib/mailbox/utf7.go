package mailbox

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Modified UTF-7, RFC 3501, section 5.1.3: printable ASCII stands for itself,
// "&" is "&-", anything else is UTF-16 in base64 with "," for "/", between & and -.

const base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,"

// EncodeUTF7 writes text, which is UTF-8, in modified UTF-7. What is not UTF-8
// becomes U+FFFD.
func EncodeUTF7(text string) string {
	var b strings.Builder
	for text != "" {
		if c := text[0]; c == '&' {
			b.WriteString("&-")
			text = text[1:]
			continue
		} else if c >= ' ' && c < 0x7f {
			b.WriteByte(c)
			text = text[1:]
			continue
		}
		n := strings.IndexFunc(text, func(r rune) bool { return r >= ' ' && r < 0x7f })
		if n < 0 {
			n = len(text)
		}
		b.WriteByte('&')
		encodeRun(&b, text[:n])
		b.WriteByte('-')
		text = text[n:]
	}
	return b.String()
}

func encodeRun(b *strings.Builder, text string) {
	var bits uint32
	n := 0
	for _, u := range utf16.Encode([]rune(text)) {
		bits, n = bits<<16|uint32(u), n+16
		for ; n >= 6; n -= 6 {
			b.WriteByte(base64[bits>>(n-6)&63])
		}
	}
	if n > 0 {
		b.WriteByte(base64[bits<<(6-n)&63])
	}
}

// DecodeUTF7 reads modified UTF-7. It takes only what EncodeUTF7 could have
// written: two spellings of one name would be two mailboxes.
func DecodeUTF7(name string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c < ' ' || c >= 0x7f {
			return "", ErrBad
		}
		if c != '&' {
			b.WriteByte(c)
			continue
		}
		end := strings.IndexByte(name[i:], '-')
		if end < 0 {
			return "", ErrBad
		}
		run := name[i+1 : i+end]
		i += end
		if run == "" {
			b.WriteByte('&')
			continue
		}
		if !decodeRun(&b, run) {
			return "", ErrBad
		}
	}
	text := b.String()
	if EncodeUTF7(text) != name {
		return "", ErrBad
	}
	return text, nil
}

func decodeRun(b *strings.Builder, run string) bool {
	var units []uint16
	var bits uint32
	n := 0
	for i := 0; i < len(run); i++ {
		v := strings.IndexByte(base64, run[i])
		if v < 0 {
			return false
		}
		bits, n = bits<<6|uint32(v), n+6
		if n >= 16 {
			n -= 16
			units = append(units, uint16(bits>>n))
		}
	}
	for _, r := range utf16.Decode(units) {
		if r == utf8.RuneError {
			return false
		}
		b.WriteRune(r)
	}
	return true
}
