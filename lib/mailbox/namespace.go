package mailbox

import "strings"

// Virtual says whether userids carry domains: imapd.conf's virtdomains.
type Virtual int

// The values of virtdomains. Cyrus' "on", by the name of the address a client
// came to, is not known here: the caller puts the domain into the userid.
const (
	VirtualOff Virtual = iota
	VirtualUserID
)

// Namespace is how one user sees mailbox names.
type Namespace struct {
	Alt           bool    // altnamespace: folders stand beside INBOX
	UnixSep       bool    // unixhierarchysep: "/" instead of "."
	Virtual       Virtual // virtdomains
	DefaultDomain string  // defaultdomain: written without a domain
	UserPrefix    string  // userprefix, "Other Users" if empty
	SharedPrefix  string  // sharedprefix, "Shared Folders" if empty
	User          string  // whose view: "bob", "bob@example.org"
	Admin         bool    // administrators see user/bob, whatever Alt says
}

// Sep is the hierarchy separator.
func (ns *Namespace) Sep() byte {
	if ns.UnixSep {
		return '/'
	}
	return '.'
}

// Prefixes are the three of NAMESPACE (RFC 2342); ok tells which exist.
func (ns *Namespace) Prefixes() (personal, others, shared string, hasPersonal bool) {
	sep := string(ns.Sep())
	switch {
	case ns.Admin:
		return "", "user" + sep, "", false
	case ns.Alt:
		return "", ns.userPrefix() + sep, ns.sharedPrefix() + sep, true
	}
	return "INBOX" + sep, "user" + sep, "", true
}

func (ns *Namespace) userPrefix() string   { return or(ns.UserPrefix, "Other Users") }
func (ns *Namespace) sharedPrefix() string { return or(ns.SharedPrefix, "Shared Folders") }

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// Inbox is the INBOX of a userid: with virtual domains "bob@example.org" lives
// in his domain, unless that is the default one.
func (ns *Namespace) Inbox(userid string) Name {
	local, domain, ok := strings.Cut(userid, "@")
	if ok && ns.Virtual != VirtualOff && !strings.EqualFold(domain, ns.DefaultDomain) {
		return Inbox(local + "@" + strings.ToLower(domain))
	}
	if ok && ns.Virtual == VirtualOff {
		return Inbox(strings.ReplaceAll(userid, "@", "\x00")) // no such user
	}
	return Inbox(local)
}

// home is the user's INBOX, "" for nobody.
func (ns *Namespace) home() Name {
	if ns.User == "" {
		return ""
	}
	return ns.Inbox(ns.User)
}

// Internal reads a name as the user wrote it, in modified UTF-7. A name that
// nobody can have is ErrBad; whether it exists is another question.
func (ns *Namespace) Internal(external string) (Name, error) {
	name, domain := external, ns.home().Domain()
	if ns.Virtual != VirtualOff {
		if i := strings.LastIndexByte(name, '@'); i >= 0 {
			domain = strings.ToLower(name[i+1:])
			if name = name[:i]; domain == "" || strings.Contains(name, "@") {
				return "", ErrBad
			}
			if strings.EqualFold(domain, ns.DefaultDomain) {
				domain = ""
			}
		}
	}
	if strings.Contains(name, "!") || strings.Contains(domain, "!") {
		return "", ErrBad // it parts a domain from the rest, in internal names
	}
	if ns.UnixSep {
		name = strings.NewReplacer(".", "^", "/", ".").Replace(name)
	}
	local, err := ns.local(name)
	if err != nil {
		return "", err
	}
	n := Name(local)
	if domain != "" {
		n = Name(domain + "!" + local)
	}
	return n, n.Check()
}

// local finds the place of a name whose separators are dots already.
func (ns *Namespace) local(name string) (string, error) {
	first, rest, deeper := strings.Cut(name, ".")
	home := ns.home().Local()
	if strings.EqualFold(first, "INBOX") && (!ns.Alt || ns.Admin || !deeper) {
		if home == "" {
			return "", ErrBad
		}
		if !deeper {
			return home, nil
		}
		return home + "." + rest, nil
	}
	if !ns.Alt || ns.Admin {
		return name, nil
	}
	if after, ok := cutPrefix(name, ns.internalPrefix(ns.userPrefix())); ok {
		if after == "" {
			return "user", nil // not a mailbox: Check says so
		}
		return "user." + after, nil
	}
	if after, ok := cutPrefix(name, ns.internalPrefix(ns.sharedPrefix())); ok {
		// A shared name that looks like a user's folder would be two things.
		if f, _, _ := strings.Cut(after, "."); after == "" || f == "user" {
			return "", ErrBad
		}
		return after, nil
	}
	if home == "" {
		return "", ErrBad
	}
	if strings.EqualFold(first, "INBOX") { // below INBOX, whose name is of any case
		if second, _, _ := strings.Cut(rest, "."); strings.EqualFold(second, "INBOX") {
			return "", ErrBad
		}
		name = "INBOX." + rest
	}
	return home + "." + name, nil
}

// IsShadow reports whether a mailbox has the name that this user's INBOX has, and
// can't be named: with altnamespace that is the folder user.bob.INBOX, below which
// INBOX/x lives.
func (ns *Namespace) IsShadow(n Name) bool {
	return ns.Alt && !ns.Admin && n == ns.home().Child("INBOX")
}

// internalPrefix is a configured prefix as it looks once the separator is a dot.
func (ns *Namespace) internalPrefix(p string) string {
	if ns.UnixSep {
		return strings.NewReplacer(".", "^", "/", ".").Replace(p)
	}
	return p
}

// cutPrefix takes p, and the dot behind it, off name.
func cutPrefix(name, p string) (after string, ok bool) {
	if name == p {
		return "", true
	}
	return strings.CutPrefix(name, p+".")
}

// External is the name as this user sees it, in modified UTF-7.
func (ns *Namespace) External(n Name) string {
	home, local := ns.home(), n.Local()
	var out, prefix string
	switch {
	case home != "" && n == home:
		if !ns.Admin {
			return "INBOX"
		}
		out = local
	case home != "" && n.Under(home) && !ns.Admin:
		out = string(n[len(home)+1:])
		if !ns.Alt {
			prefix = "INBOX."
		}
	case ns.Alt && !ns.Admin && strings.HasPrefix(local, "user."):
		prefix, out = ns.internalPrefix(ns.userPrefix())+".", local[len("user."):]
	case ns.Alt && !ns.Admin:
		prefix, out = ns.internalPrefix(ns.sharedPrefix())+".", local
	default:
		out = local
	}
	out = prefix + out
	if ns.UnixSep {
		out = strings.NewReplacer("^", ".", ".", "/").Replace(out)
	}
	if d := n.Domain(); d != home.Domain() && ns.Virtual != VirtualOff {
		out += "@" + or(d, ns.DefaultDomain)
	}
	return out
}
