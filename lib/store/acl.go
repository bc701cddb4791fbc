package store

import (
	"slices"
	"strings"
)

// Rights is a set of ACL rights, RFC 4314.
type Rights uint32

// The rights, with Cyrus' numbered ones behind them.
const (
	RightLookup    Rights = 1 << iota // l
	RightRead                         // r
	RightSeen                         // s
	RightWrite                        // w
	RightInsert                       // i
	RightPost                         // p
	RightCreate                       // k
	RightDelete                       // x
	RightDeleteMsg                    // t
	RightExpunge                      // e
	RightAdmin                        // a
	RightAnnotate                     // n
	right0                            // 0...9

	// AllRights are what an owner gets.
	AllRights = right0 - 1
)

const rightLetters = "lrswipkxtean0123456789"

// rightOrder is the order in which Cyrus prints them; c and d are of RFC 2086,
// and follow from k x and t e.
const rightOrder = "lrswipkxtecdan0123456789"

// ParseRights reads letters, c (k x) and d (t e) of RFC 2086 included. ok is
// false if a letter is no right.
func ParseRights(letters string) (r Rights, ok bool) {
	ok = true
	for i := 0; i < len(letters); i++ {
		switch c := letters[i]; c {
		case 'c':
			r |= RightCreate | RightDelete
		case 'd':
			r |= RightDeleteMsg | RightExpunge
		default:
			if j := strings.IndexByte(rightLetters, c); j >= 0 {
				r |= 1 << j
			} else {
				ok = false
			}
		}
	}
	return r, ok
}

// Has reports whether all of want are there.
func (r Rights) Has(want Rights) bool { return r&want == want }

// String is the rights in Cyrus' order, with c and d where their parts are there.
func (r Rights) String() string {
	b := make([]byte, 0, len(rightOrder))
	for i := 0; i < len(rightOrder); i++ {
		c := rightOrder[i]
		on := false
		switch c {
		case 'c':
			on = r&(RightCreate|RightDelete) != 0
		case 'd':
			on = r&(RightDeleteMsg|RightExpunge) != 0
		default:
			on = r&(1<<strings.IndexByte(rightLetters, c)) != 0
		}
		if on {
			b = append(b, c)
		}
	}
	return string(b)
}

// plain is the rights without c and d, for files: read again, c would give k to
// who has x only.
func (r Rights) plain() string {
	return strings.Map(func(c rune) rune {
		if c == 'c' || c == 'd' {
			return -1
		}
		return c
	}, r.String())
}

// ACE gives rights to one identifier: "bob", "anyone", "anonymous", "group:staff";
// "-bob" takes them away.
type ACE struct {
	ID     string
	Rights Rights
}

// ACL is a mailbox's access control list, in the order in which it was made.
type ACL []ACE

// ParseACL reads what String wrote: identifiers and rights, parted by tabs.
func ParseACL(text string) ACL {
	var a ACL
	f := strings.Split(text, "\t")
	for i := 0; i+1 < len(f); i += 2 {
		if r, _ := ParseRights(f[i+1]); f[i] != "" && r != 0 {
			a = append(a, ACE{f[i], r})
		}
	}
	return a
}

// String is Cyrus' form, "bob\tlrs\tanyone\tp\t", without c and d.
func (a ACL) String() string {
	var b strings.Builder
	for _, e := range a {
		b.WriteString(e.ID + "\t" + e.Rights.plain() + "\t")
	}
	return b.String()
}

// Set returns the list with id's rights replaced; none take id out.
func (a ACL) Set(id string, r Rights) ACL {
	a = slices.Clone(a)
	i := slices.IndexFunc(a, func(e ACE) bool { return e.ID == id })
	switch {
	case r == 0 && i >= 0:
		return slices.Delete(a, i, i+1)
	case r == 0:
		return a
	case i >= 0:
		a[i].Rights = r
		return a
	}
	return append(a, ACE{id, r})
}

// Get is what the list says of id itself.
func (a ACL) Get(id string) Rights {
	for _, e := range a {
		if e.ID == id {
			return e.Rights
		}
	}
	return 0
}

// RightsOf is what u may do with the mailbox: the sum of what its identifiers
// are given, less what negative entries take away. The owner always keeps l, k,
// x and a, administrators too but for x (imapd.conf, implicit_owner_rights).
func (e *Entry) RightsOf(u User) Rights {
	var give, take Rights
	for _, ace := range e.ACL {
		id, negative := strings.CutPrefix(ace.ID, "-")
		if !u.is(id) {
			continue
		}
		if negative {
			take |= ace.Rights
		} else {
			give |= ace.Rights
		}
	}
	r := give &^ take
	if u.ID != "" && e.Name.Owner() == u.ID {
		r |= RightLookup | RightCreate | RightDelete | RightAdmin
	}
	if u.Admin {
		r |= RightLookup | RightAdmin | RightCreate
	}
	return r
}

// identifiers are all that u is.
func (u *User) identifiers() []string {
	ids := []string{"anyone", u.ID}
	if u.is("anonymous") {
		ids[1] = "anonymous"
	}
	for _, g := range u.Groups {
		ids = append(ids, "group:"+g)
	}
	return ids
}

func (u User) is(id string) bool {
	switch id {
	case "anyone":
		return true
	case "anonymous":
		return u.ID == "" || u.ID == "anonymous"
	}
	if g, ok := strings.CutPrefix(id, "group:"); ok {
		return slices.Contains(u.Groups, g)
	}
	return id == u.ID && id != ""
}
