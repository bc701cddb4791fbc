package queue

import (
	"strconv"
	"strings"
	"time"
)

// Dir is one of the directories in which a message or a log about it lies. What
// a message is told by which of the first six it lies in.
type Dir string

// The directories of a queue.
const (
	Maildrop Dir = "maildrop" // from postdrop, raw
	Incoming Dir = "incoming" // being written (mode 0600) or new (mode 0700)
	Active   Dir = "active"   // being delivered
	Deferred Dir = "deferred" // waiting; the mtime is the next try
	Hold     Dir = "hold"     // waiting for a person
	Corrupt  Dir = "corrupt"  // not to be understood
	Saved    Dir = "saved"
	Bounce   Dir = "bounce" // logs: why recipients bounced
	Defer    Dir = "defer"  // logs: why they wait
	Trace    Dir = "trace"  // logs: what was asked for by DSN SUCCESS, -v, -bv
	Flush    Dir = "flush"  // logs: which messages wait for a site
)

// The short form of a queue id is 5 or more hexadecimal digits of microseconds
// and the inode number; the long one (enable_long_queue_ids) six digits of
// seconds and four of microseconds to the base 52, a 'z', and the inode to the
// base 51, without vowels. Both contain the inode, so that two files of one file
// system never have the same.
const (
	longDigits = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
	longTime   = 10
	maxID      = 255
)

// MakeID is the queue id of a file with this inode, begun at t.
func MakeID(t time.Time, inode uint64, long bool) string {
	usec := uint64(t.Nanosecond() / 1000)
	var room [32]byte
	b := room[:0]
	if !long {
		const hex = "0123456789ABCDEF"
		for shift := 16; shift >= 0; shift -= 4 {
			b = append(b, hex[usec>>shift&15])
		}
		return string(append(b, strings.ToUpper(strconv.FormatUint(inode, 16))...))
	}
	b = appendBase(b, uint64(t.Unix()), 52, 6)
	b = appendBase(b, usec, 52, 4)
	b = append(b, 'z')
	return string(appendBase(b, inode, 51, 1))
}

func appendBase(b []byte, n, base uint64, width int) []byte {
	var digits [24]byte
	i := len(digits)
	for n > 0 || width > 0 {
		i--
		digits[i] = longDigits[n%base]
		n /= base
		width--
	}
	return append(b, digits[i:]...)
}

// ValidID reports whether s may be a queue id, and hence a file name: letters,
// digits and underscores only.
func ValidID(s string) bool {
	if s == "" || len(s) > maxID {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '_') {
			return false
		}
	}
	return true
}

// IsLong reports whether an id is of the long form.
func IsLong(id string) bool { _, long := longTimePart(id); return long }

// longTimePart is the place of the 'z' in a long id; ok is false for a short one.
func longTimePart(id string) (i int, ok bool) {
	i = strings.LastIndexByte(id, 'z')
	return i, i >= longTime
}

// Inode is the inode number that an id contains; ok is false if it is of
// neither form.
func Inode(id string) (n uint64, ok bool) {
	if i, long := longTimePart(id); long {
		for _, c := range []byte(id[i+1:]) {
			d := strings.IndexByte(longDigits[:51], c)
			if d < 0 || n > 1<<57 {
				return 0, false
			}
			n = n*51 + uint64(d)
		}
		return n, i+1 < len(id)
	}
	if len(id) <= 5 {
		return 0, false
	}
	n, err := strconv.ParseUint(id[5:], 16, 64)
	return n, err == nil
}

// hashKey is the text whose first letters name the subdirectories: of a short id
// its microseconds, of a long one these in hexadecimal, so that both spread.
func hashKey(id string) string {
	i, long := longTimePart(id)
	if !long {
		return id
	}
	var usec uint64
	for _, c := range []byte(id[i-4 : i]) {
		d := strings.IndexByte(longDigits, c)
		if d < 0 {
			return id
		}
		usec = usec*52 + uint64(d)
	}
	s := strings.ToUpper(strconv.FormatUint(usec, 16))
	return strings.Repeat("0", max(0, 5-len(s))) + s
}

// hashed appends the subdirectories of id, each with a slash.
func hashed(b []byte, id string, depth int) []byte {
	key := hashKey(id)
	for i := range depth {
		c := byte('_')
		if i < len(key) && key[i] > ' ' && key[i] < 127 && key[i] != '.' && key[i] != '/' {
			c = key[i]
		}
		b = append(b, c, '/')
	}
	return b
}
