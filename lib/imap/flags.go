package imap

import (
	"strings"
	"time"
)

// SystemFlag returns a system flag as it is written, "" if there is none of
// that name. \Recent is not one that a client may set.
func SystemFlag(s string) string {
	for _, f := range [...]string{`\Answered`, `\Flagged`, `\Draft`, `\Deleted`, `\Seen`} {
		if strings.EqualFold(f, s) {
			return f
		}
	}
	return ""
}

// Flags reads the flags of APPEND and STORE: a list, or as STORE allows some
// without parentheses. bad is what to say of one that can't be set.
func (d *Decoder) Flags(bad string, bare bool) []string {
	flags := []string{}
	flag := func() {
		if d.Take('\\') {
			f := SystemFlag(`\` + d.Atom())
			if f == "" {
				d.Bad("%s", bad)
			}
			flags = append(flags, f)
			return
		}
		f := string(d.run(isAtom))
		if f == "" || strings.ContainsAny(f, "]") {
			d.Bad("%s", bad)
			return
		}
		flags = append(flags, f)
	}
	if d.Peek('(') || !bare {
		d.List(flag)
		return flags
	}
	for d.err == nil {
		flag()
		if len(flags) > d.limits.Items {
			d.Bad("%s", bad)
		}
		if !d.MoreArgs() {
			break
		}
	}
	return flags
}

// DateTime reads a date-time, RFC 3501, section 9: "17-Jul-1996 02:44:25 -0700".
func (d *Decoder) DateTime() time.Time {
	if !d.Peek('"') {
		d.Fail(errDateTime)
		return time.Time{}
	}
	t, err := time.Parse("2-Jan-2006 15:04:05 -0700", strings.TrimLeft(d.String(), " "))
	if err != nil {
		if _, fatal := d.fatal(); !fatal {
			d.err = errDateTime
		}
	}
	return t
}

var errDateTime = &BadError{"Invalid date-time in Append command"}

// AppendDate writes a date-time in quotes.
func AppendDate(b []byte, unix int64) []byte {
	return time.Unix(unix, 0).AppendFormat(b, `"_2-Jan-2006 15:04:05 -0700"`)
}
