package store

import (
	"strconv"
	"strings"
)

// Rule 1: a message's file name is computed from its record, never stored.
//
//	<seconds>.U<uid>.<tag>,S=<octets>:2,<letters>
//
// The letters are Maildir's: D F P R S T, then a-z for keywords, in that order;
// bit i of Message.Named is the i-th of them.

const letterList = "DFPRSTabcdefghijklmnopqrstuvwxyz"

const (
	letterD = 1 << iota
	letterF
	letterP
	letterR
	letterS
	letterT
	firstKeyword = 6 // bit of the letter a
	maxLetters   = 26
)

// forwarded is the keyword whose letter is P.
const forwarded = "$Forwarded"

// tagOf is the part of the uniqueid that is in the file names.
func tagOf(id ID) string { return string(id[:8]) }

// fileName is the name of m's file as its record says it.
func (m *Message) fileName(tag string) string {
	b := make([]byte, 0, 64)
	return string(m.appendName(b, tag))
}

func (m *Message) appendName(b []byte, tag string) []byte {
	b = strconv.AppendInt(b, m.Internal, 10)
	b = append(b, ".U"...)
	b = strconv.AppendUint(b, uint64(m.UID), 10)
	b = append(b, '.')
	b = append(b, tag...)
	b = append(b, ",S="...)
	b = strconv.AppendInt(b, m.Size, 10)
	b = append(b, ":2,"...)
	for i := 0; i < len(letterList); i++ {
		if m.Named&(1<<i) != 0 {
			b = append(b, letterList[i])
		}
	}
	return b
}

// parsedName is what a file name says.
type parsedName struct {
	ours     bool // has this mailbox's tag: uid, seconds and size count
	uid      UID
	seconds  int64
	size     int64
	letters  uint32
	hasFlags bool // ":2," was there
}

// parseName reads a name in cur/. Only one with our tag says anything but its
// letters: mbsync writes a U= of its own, and other mailboxes have other tags.
func parseName(name, tag string) parsedName {
	var p parsedName
	base := name
	if i := strings.LastIndex(name, ":2,"); i >= 0 {
		base = name[:i]
		p.hasFlags = true
		p.letters = parseLetters(name[i+3:])
	}
	seconds, rest, ok1 := strings.Cut(base, ".U")
	uid, rest, ok2 := strings.Cut(rest, ".")
	t, size, ok3 := strings.Cut(rest, ",S=")
	if !ok1 || !ok2 || !ok3 || t != tag {
		return p
	}
	size, _, _ = strings.Cut(size, ",") // others append fields of their own
	var err [3]error
	var u uint64
	p.seconds, err[0] = strconv.ParseInt(seconds, 10, 64)
	u, err[1] = strconv.ParseUint(uid, 10, 32)
	p.size, err[2] = strconv.ParseInt(size, 10, 64)
	p.uid = UID(u)
	p.ours = err[0] == nil && err[1] == nil && err[2] == nil && u != 0 && p.size >= 0
	return p
}

func parseLetters(s string) uint32 {
	var n uint32
	for i := 0; i < len(s); i++ {
		if j := strings.IndexByte(letterList, s[i]); j >= 0 {
			n |= 1 << j
		}
	}
	return n
}

// systemLetters pairs the system flags with their letters.
var systemLetters = [...]struct {
	flag   Flags
	letter uint32
}{
	{FlagDraft, letterD}, {FlagFlagged, letterF}, {FlagAnswered, letterR}, {FlagSeen, letterS}, {FlagDeleted, letterT},
}

// lettersFor are the letters that say m's flags, as far as letters can.
func lettersFor(m *Message, keywords []string) uint32 {
	var n uint32
	for _, s := range systemLetters {
		if m.Flags&s.flag != 0 {
			n |= s.letter
		}
	}
	for i, name := range keywords {
		if !m.HasKeyword(i) {
			continue
		}
		if strings.EqualFold(name, forwarded) {
			n |= letterP
		} else if i < maxLetters {
			n |= 1 << (firstKeyword + i)
		}
	}
	return n
}

// applyLetters sets the flags whose letters are in on, and clears those whose
// letters are in off. translate gives the bit of a letter's keyword, or -1.
func applyLetters(m *Message, on, off uint32, translate func(letter int) int) {
	for _, s := range systemLetters {
		if on&s.letter != 0 {
			m.Flags |= s.flag
		}
		if off&s.letter != 0 {
			m.Flags &^= s.flag
		}
	}
	for l := 0; l < 32; l++ {
		if (on|off)&(1<<l) == 0 || l < firstKeyword && 1<<l != letterP {
			continue
		}
		if k := translate(l); k >= 0 {
			m.setKeyword(k, on&(1<<l) != 0)
		}
	}
}

func (m *Message) setKeyword(i int, on bool) {
	if on {
		m.Keywords[i>>6] |= 1 << (i & 63)
	} else {
		m.Keywords[i>>6] &^= 1 << (i & 63)
	}
}
