package mailbox

import (
	"strings"
	"testing"
)

func TestName(t *testing.T) {
	for _, c := range []struct {
		name          Name
		domain, owner string
		inbox         bool
	}{
		{"user.bob", "", "bob", true},
		{"user.bob.Sent", "", "bob", false},
		{"user.bob^smith.Sent.2024", "", "bob.smith", false},
		{"example.org!user.bob", "example.org", "bob@example.org", true},
		{"example.org!lists.go", "example.org", "", false},
		{"lists.go", "", "", false},
		{"user", "", "", false},
		{"userx.bob", "", "", false},
	} {
		if c.name.Domain() != c.domain || c.name.Owner() != c.owner || c.name.IsInbox() != c.inbox {
			t.Errorf("%s: %q %q %v", c.name, c.name.Domain(), c.name.Owner(), c.name.IsInbox())
		}
	}
	if p, ok := Name("example.org!lists").Parent(); ok {
		t.Errorf("parent of a top: %s", p)
	}
	if p, ok := Name("example.org!lists.go.x").Parent(); !ok || p != "example.org!lists.go" {
		t.Errorf("parent: %s", p)
	}
	if !Name("user.bob.Sent").Under("user.bob") || Name("user.bob").Under("user.bob") || Name("user.bobby").Under("user.bob") {
		t.Error("Under")
	}
	if Inbox("bob.smith@example.org") != "example.org!user.bob^smith" {
		t.Error(Inbox("bob.smith@example.org"))
	}
}

func TestNamespace(t *testing.T) {
	standard := Namespace{User: "bob"}
	unix := Namespace{User: "bob", UnixSep: true}
	alt := Namespace{User: "bob", UnixSep: true, Alt: true}
	altDot := Namespace{User: "bob", Alt: true, UserPrefix: "Others", SharedPrefix: "Public"}
	admin := Namespace{User: "cyrus", UnixSep: true, Alt: true, Admin: true}
	virtual := Namespace{User: "bob@example.org", UnixSep: true, Virtual: VirtualUserID, DefaultDomain: "here.test"}
	global := Namespace{User: "cyrus", Admin: true, Virtual: VirtualUserID, DefaultDomain: "here.test"}
	for _, c := range []struct {
		ns       *Namespace
		external string
		want     Name
		back     string // "": the same
	}{
		{&standard, "INBOX", "user.bob", ""},
		{&standard, "inbox", "user.bob", "INBOX"},
		{&standard, "INBOX.Sent", "user.bob.Sent", ""},
		{&standard, "user.ann.Sent", "user.ann.Sent", ""},
		{&standard, "user.bob.Sent", "user.bob.Sent", "INBOX.Sent"},
		{&standard, "lists.go", "lists.go", ""},
		{&unix, "INBOX/a.b/c", "user.bob.a^b.c", ""},
		{&unix, "user/ann.b", "user.ann^b", ""},
		{&alt, "INBOX", "user.bob", ""},
		{&alt, "Sent/2024", "user.bob.Sent.2024", ""},
		{&alt, "Other Users/ann/x.y", "user.ann.x^y", ""},
		{&alt, "Shared Folders/lists/go", "lists.go", ""},
		{&alt, "inbox/x", "user.bob.INBOX.x", "INBOX/x"},
		{&alt, "&AOQ-/x", "user.bob.&AOQ-.x", ""},
		{&altDot, "Others.ann", "user.ann", ""},
		{&altDot, "Public.lists", "lists", ""},
		{&admin, "user/bob/Sent", "user.bob.Sent", ""},
		{&admin, "lists", "lists", ""},
		{&admin, "DELETED/user/bob/x/6721A3F0", "DELETED.user.bob.x.6721A3F0", ""},
		{&virtual, "INBOX/x", "example.org!user.bob.x", ""},
		{&virtual, "user/ann@here.test", "user.ann", ""},
		{&virtual, "user/ann", "example.org!user.ann", ""},
		{&global, "user.bob@example.org", "example.org!user.bob", ""},
		{&global, "user.bob", "user.bob", ""},
	} {
		got, err := c.ns.Internal(c.external)
		if err != nil || got != c.want {
			t.Errorf("Internal(%q) = %q, %v; want %q", c.external, got, err, c.want)
			continue
		}
		back := c.back
		if back == "" {
			back = c.external
		}
		if ext := c.ns.External(got); ext != back {
			t.Errorf("External(%q) = %q, want %q", got, ext, back)
		}
	}
	if got, err := alt.Internal("INBOX/inbox/x"); err == nil {
		t.Errorf("INBOX below itself is %q", got)
	}
	for _, bad := range []string{
		"", "user", "INBOX.", ".x", "a..b", "a.*", "a.%", "a\x00b", "a.\xe4", "&AOQ", "&AOQA-", "&AGE-", "~x", "a/b", "INBOX. ",
		"INBOX.&Jjo-x&Jjo-&", strings.Repeat("x", 500), "INBOX.x\x7f", "INBOX.&AAo-",
	} {
		if n, err := standard.Internal(bad); err == nil {
			t.Errorf("Internal(%q) = %q, want an error", bad, n)
		}
	}
	for _, bad := range []string{"Other Users", "Shared Folders", "Shared Folders/user/bob", "a/../b", "a/./b"} {
		if n, err := alt.Internal(bad); err == nil {
			t.Errorf("alt: Internal(%q) = %q, want an error", bad, n)
		}
	}
	nobody := Namespace{Alt: true}
	if n, err := nobody.Internal("INBOX"); err == nil {
		t.Errorf("INBOX of nobody: %q", n)
	}
}

func TestUTF7(t *testing.T) {
	for text, want := range map[string]string{
		"Sent": "Sent", "a&b": "a&-b", "Entwürfe": "Entw&APw-rfe", "台北": "&U,BTFw-", "~peter/mail/台北/日本語": "~peter/mail/&U,BTFw-/&ZeVnLIqe-",
		"😀": "&2D3eAA-", "ä&ö": "&AOQ-&-&APY-",
	} {
		if got := EncodeUTF7(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if back, err := DecodeUTF7(want); err != nil || back != text {
			t.Errorf("%q: %q %v", want, back, err)
		}
	}
	for _, bad := range []string{"&", "&AOQ", "&AOQ-&APY-", "&AGE-", "&AOR-", "&2D0-", "&/w-", "ä", "\x00"} {
		if text, err := DecodeUTF7(bad); err == nil {
			t.Errorf("%q: %q, want an error", bad, text)
		}
	}
}

func TestPath(t *testing.T) {
	long := strings.Repeat("x", 300)
	for n, want := range map[Name]string{
		"user.bob.Sent":                 "user/bob/Sent",
		"user.bob^smith":                "user/bob.smith",
		"example.org!user.bob":          "domain/example.org/user/bob",
		"domain.x":                      "%64omain/x",
		"user.bob.domain":               "user/bob/domain",
		"user.bob.cur.NEW.tmp":          "user/bob/%63ur/%4EEW/%74mp",
		"user.bob.^hidden":              "user/bob/%2Ehidden",
		"user.bob.dovecot-keywords":     "user/bob/%64ovecot-keywords",
		"user.bob.&AOQ-":                "user/bob/&AOQ-",
		"user.bob." + Name(long):        "user/bob/" + long[:240] + "%~/" + long[240:],
		"user.bob." + Name(long) + ".y": "user/bob/" + long[:240] + "%~/" + long[240:] + "/y",
	} {
		if got := n.Path(); got != want {
			t.Errorf("%s: %s, want %s", n, got, want)
		}
		if back, err := FromPath(want); err != nil || back != n {
			t.Errorf("%s: %q %v", want, back, err)
		}
	}
	for _, bad := range []string{"", "user/.stage", "user/cur", "user//x", "user/bob/", "/user", "user/%41", "user/%2e", "user/%", "user/a^b", "domain/x", "../x", "user/x%~/y"} {
		if n, err := FromPath(bad); err == nil {
			t.Errorf("%q: %q, want an error", bad, n)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true}, {"*", "a/b", true}, {"%", "a", true}, {"%", "a/b", false}, {"%/%", "a/b", true}, {"a*b", "a/x/b", true},
		{"a%b", "a/b", false}, {"inbox", "INBOX", true}, {"INBOX/%", "INBOX/x", true}, {"inbox*", "INBOX/x", true}, {"x", "X", false},
		{"*%", "a/b", true}, {"%*", "a/b", true}, {"", "", true}, {"", "a", false}, {"a**b", "ab", true}, {"inboxes", "INBOX", false},
	} {
		if got := Match(c.pattern, c.name, '/'); got != c.want {
			t.Errorf("%q %q: %v", c.pattern, c.name, got)
		}
	}
	Match(strings.Repeat("*a", 2000), strings.Repeat("a", 400), '/') // would never end if it tried all ways
}

// FuzzExternal: what Internal takes comes back as the same mailbox, and its path
// as the same name, below the partition.
func FuzzExternal(f *testing.F) {
	for _, s := range []string{"INBOX", "INBOX.Sent", "Other Users/ann", "a.b/c", "&AOQ-", "cur", "x@y.test", "user/bob/..", "a^b"} {
		f.Add(s, uint8(0))
		f.Add(s, uint8(7))
	}
	f.Fuzz(func(t *testing.T, external string, bits uint8) {
		ns := Namespace{User: "bob", Alt: bits&1 != 0, UnixSep: bits&2 != 0, Admin: bits&8 != 0}
		if bits&4 != 0 {
			ns.Virtual, ns.DefaultDomain = VirtualUserID, "here.test"
		}
		n, err := ns.Internal(external)
		if err != nil {
			return
		}
		if again, err := ns.Internal(ns.External(n)); err != nil || again != n {
			t.Fatalf("%q is %q, which looks like %q, which is %q (%v)", external, n, ns.External(n), again, err)
		}
		path := n.Path()
		if back, err := FromPath(path); err != nil || back != n {
			t.Fatalf("%q is at %q, which is %q (%v)", n, path, back, err)
		}
		for part := range strings.SplitSeq(path, "/") {
			if part == "" || part[0] == '.' || len(part) > 255 || part == "cur" || part == "new" || part == "tmp" {
				t.Fatalf("%q is at %q", n, path)
			}
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"user/bob", "domain/a/b", "%63ur", "a%~/b", "../.."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if n, err := FromPath(path); err == nil && n.Path() != path {
			t.Fatalf("%q is %q, which is at %q", path, n, n.Path())
		}
	})
}
