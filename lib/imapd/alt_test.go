package imapd

import (
	"slices"
	"testing"

	"angarium/lib/mailbox"
)

// TestAltInbox: with altnamespace folders stand beside INBOX, and some below it
// all the same; INBOX is listed once, whatever lies below. As the real Cyrus.
func TestAltInbox(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Namespace = mailbox.Namespace{Alt: true, UnixSep: true} })
	k := h.login("u1")
	k.ok("CREATE INBOX/b")
	k.ok("CREATE inbox/c")
	k.ok("CREATE INBOX/b/d")
	k.ok("CREATE b")
	if got := k.cmd("CREATE INBOX/inbox/q"); got[0] != "x NO Invalid mailbox name" {
		t.Error(got)
	}
	k.ok("STATUS inbox/b (UIDNEXT)")
	list := func() []string { return k.ok(`LIST "" *`) }
	if got, want := list(), []string{
		`* LIST (\HasChildren) "/" INBOX`, `* LIST (\HasChildren) "/" INBOX/b`, `* LIST (\HasNoChildren) "/" INBOX/b/d`,
		`* LIST (\HasNoChildren) "/" INBOX/c`, `* LIST (\HasNoChildren) "/" b`,
	}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	for _, name := range []string{"INBOX/b/d", "INBOX/b", "Inbox/c"} {
		k.ok("DELETE " + name)
	}
	if got, want := list(), []string{`* LIST (\HasNoChildren) "/" INBOX`, `* LIST (\HasNoChildren) "/" b`}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
