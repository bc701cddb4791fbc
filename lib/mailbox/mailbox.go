// Package mailbox knows the names of mailboxes.
//
// A Name is the form that the store, ACLs and logs use, which is Cyrus'
// internal one: parts joined by dots, a user's INBOX is user.bob, his folders
// are below it, anything else is shared; a mailbox of a virtual domain starts
// with "domain!". A dot that belongs to a part is written ^. Text beyond ASCII
// is in IMAP's modified UTF-7 (RFC 3501, section 5.1.3).
//
// A Namespace turns Names into what a user sees and back, under the settings
// altnamespace, unixhierarchysep, virtdomains, userprefix and sharedprefix.
// Name.Path and FromPath turn them into directories and back.
//
// The package promises that both ways round give the same name, and that a
// path never leaves its partition. It does not know which mailboxes exist, nor
// who may see them.
package mailbox

import (
	"errors"
	"strings"
)

// Name is a mailbox's internal name. The zero value is no mailbox.
type Name string

// ErrBad is returned for what can't be a mailbox's name.
var ErrBad = errors.New("invalid mailbox name")

// MaxLen is the longest internal name, as in Cyrus.
const MaxLen = 490

// Inbox is the INBOX of a user: "bob" or, with virtual domains, "bob@example.org".
func Inbox(userid string) Name {
	local, domain, _ := strings.Cut(userid, "@")
	n := Name("user." + strings.ReplaceAll(local, ".", "^"))
	if domain != "" {
		n = Name(domain) + "!" + n
	}
	return n
}

// Domain is the virtual domain, or "".
func (n Name) Domain() string {
	if i := strings.IndexByte(string(n), '!'); i >= 0 {
		return string(n[:i])
	}
	return ""
}

// Local is the name without its domain.
func (n Name) Local() string {
	return string(n[strings.IndexByte(string(n), '!')+1:])
}

// Parts are the name's components, without the domain.
func (n Name) Parts() []string { return strings.Split(n.Local(), ".") }

// Owner is the userid to whom the mailbox belongs, "" if it is shared.
func (n Name) Owner() string {
	rest, ok := strings.CutPrefix(n.Local(), "user.")
	if !ok {
		return ""
	}
	user, _, _ := strings.Cut(rest, ".")
	user = strings.ReplaceAll(user, "^", ".")
	if d := n.Domain(); d != "" && user != "" {
		user += "@" + d
	}
	return user
}

// IsInbox reports whether this is a user's INBOX.
func (n Name) IsInbox() bool {
	rest, ok := strings.CutPrefix(n.Local(), "user.")
	return ok && rest != "" && !strings.Contains(rest, ".")
}

// Parent is the name without its last part; ok is false at the top.
func (n Name) Parent() (parent Name, ok bool) {
	i := strings.LastIndexByte(string(n), '.')
	if i <= strings.IndexByte(string(n), '!') {
		return "", false
	}
	return n[:i], true
}

// Child is the mailbox called part below n. The part is in internal form.
func (n Name) Child(part string) Name { return n + Name("."+part) }

// Under reports whether n is below parent, at any depth.
func (n Name) Under(parent Name) bool {
	return len(n) > len(parent)+1 && n[:len(parent)] == parent && n[len(parent)] == '.'
}

// Rename is n's name once from, which is n or above it, is called to.
func (n Name) Rename(from, to Name) Name { return to + n[len(from):] }
