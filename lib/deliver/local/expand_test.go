package local

import (
	"context"
	"errors"
	"strings"
	"testing"

	"angarium/lib/address"
	"angarium/lib/agent"
)

type table map[string]string

func (t table) Lookup(_ context.Context, key string) (string, bool, error) {
	v, ok := t[key]
	if v == "ERROR" {
		return "", false, errors.New("server down")
	}
	return v, ok, nil
}

func show(steps []Step) string {
	var out []string
	for _, s := range steps {
		text := s.Recipient.Address.String()
		if !s.Recipient.Original.IsNull() {
			text += " (" + s.Recipient.Original.String() + ")"
		}
		switch {
		case s.Err != nil:
			text += " error " + s.Err.Error()
		case s.Hop != "":
			text += " via " + s.Hop
		case s.Forward:
			text += " forward from " + s.Sender.String()
		case s.Recipient.Target != "":
			text += " as " + s.Recipient.User + " to " + s.Recipient.Target
		default:
			text += " mailbox of " + s.Recipient.User
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

func TestExpand(t *testing.T) {
	home := t.TempDir()
	aliases := table{
		"postmaster": "root", "root": "bob", "staff": "bob, amy, x@far.test, bob",
		"loop": "loop2", "loop2": "loop", "prog": `"|/bin/prog arg"`, "file": "/tmp/f",
		"list": "bob, y@far.test", "owner-list": "amy", "self": "self, x@far.test", "broken": "ERROR", "ext": "bob",
		"joe": `\joe, far@far.test`,
	}
	base := Config{
		Aliases: []Alias{{Table: aliases, Name: "hash:/etc/aliases", Owner: "root"}}, Delimiters: "+", Propagate: true,
		OwnerSpecial: true, DefaultUser: "nobody", AllowCommand: true,
		MailboxTransport: "lmtp:unix:/run/lmtp",
		Resolve: func(_ context.Context, a address.Address) (address.Address, bool, error) {
			if a.Domain == "" {
				a.Domain = "here.test"
			}
			return a, a.Domain == "here.test", nil
		},
	}
	users := base
	users.MailboxTransport = ""
	users.Users = table{"bob": "bob:x:1:1::" + home + ":/bin/sh", "amy": "amy:x:2:2::" + home + ":", "self": "self:x:3:3::/h:"}
	both := users
	both.MailboxTransport = "lmtp:unix:/run/lmtp"
	luser := users
	luser.LuserRelay = "all+$local@far.test"
	fallback := users
	fallback.FallbackTransport = "lmtp:unix:/other"
	for _, c := range []struct {
		conf     Config
		to, want string
	}{
		{base, "bob", "bob@here.test via lmtp:unix:/run/lmtp"},
		{base, "postmaster", "bob@here.test (postmaster@here.test) via lmtp:unix:/run/lmtp"},
		{base, "ext+work", "bob+work@here.test (ext+work@here.test) via lmtp:unix:/run/lmtp"},
		{base, "staff", "bob@here.test (staff@here.test) via lmtp:unix:/run/lmtp; amy@here.test (staff@here.test) via lmtp:unix:/run/lmtp; x@far.test (staff@here.test) forward from s@x.test"},
		{base, "list", "bob@here.test (bob@here.test) forward from owner-list@here.test; y@far.test (y@far.test) forward from owner-list@here.test"},
		{base, "prog", "prog@here.test as nobody to |/bin/prog arg"},
		{base, "file", "file@here.test error mail to file is restricted"},
		{both, "bob", "bob@here.test via lmtp:unix:/run/lmtp"},
		{users, "bob", "bob@here.test mailbox of bob"},
		{users, "Bob+x", "Bob+x@here.test mailbox of bob"},
		{users, "nobody-here", `nobody-here@here.test error unknown user: "nobody-here"`},
		{luser, "who", "all+who@far.test (who@here.test) forward from s@x.test"},
		{fallback, "who", "who@here.test via lmtp:unix:/other"},
		{users, "joe", `joe@here.test error unknown user: "joe"; far@far.test (joe@here.test) forward from s@x.test`},
	} {
		x := NewExpander(c.conf)
		steps, err := x.Expand(context.Background(), address.Parse("s@x.test"), agent.Recipient{Address: address.Address{Local: c.to, Domain: "here.test"}}, nil)
		if got := show(steps); err != nil || got != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", c.to, err, got, c.want)
		}
	}
	x := NewExpander(base)
	if _, err := x.Expand(context.Background(), address.Address{}, agent.Recipient{Address: address.Parse("broken@here.test")}, nil); err == nil {
		t.Error("a table that can't be asked must be an error")
	}
	steps, err := x.Expand(context.Background(), address.Address{}, agent.Recipient{Address: address.Parse("loop@here.test")}, nil)
	if err != nil || !strings.Contains(show(steps), "alias database loop") {
		t.Errorf("loop: %s, %v", show(steps), err)
	}
	seen := func(a address.Address) bool { return a.String() == "bob@here.test" }
	steps, err = x.Expand(context.Background(), address.Address{}, agent.Recipient{Address: address.Parse("root@here.test")}, seen)
	if want := "bob@here.test (root@here.test) error mail forwarding loop for bob@here.test"; err != nil || show(steps) != want {
		t.Errorf("Delivered-To: %s, %v", show(steps), err)
	}
}

// What an alias leads to keeps the name that the message came for, is delivered to
// once however it is written, and leaves it to the alias to be reported.
func TestExpandOnce(t *testing.T) {
	c := Config{
		Aliases: []Alias{{Table: table{"dup": "bob, BOB, bob@here.test", "list": "bob", "owner-list": "amy"}, Owner: "root"}}, OwnerSpecial: true,
		Users: table{"bob": "bob:x:1:1::/h:/bin/sh", "amy": "amy:x:2:2::/h:"},
		Resolve: func(_ context.Context, a address.Address) (address.Address, bool, error) {
			a.Domain = "here.test"
			return a, true, nil
		},
	}
	expand := func(name string, n agent.Notify) Step {
		t.Helper()
		steps, err := NewExpander(c).Expand(context.Background(), address.Address{}, agent.Recipient{
			Address: address.Parse(name + "@here.test"), ORCPT: "rfc822;" + name, Notify: n}, nil)
		if err != nil || len(steps) != 1 {
			t.Fatalf("%s: %s %v", name, show(steps), err)
		}
		return steps[0]
	}
	s := expand("dup", agent.NotifySuccess|agent.NotifyDelay)
	if r := s.Recipient; r.Delivered.String() != "dup@here.test" || r.Notify != agent.NotifyDelay || s.Expanded != "expanded" {
		t.Errorf("%+v", s)
	}
	if s = expand("dup", agent.NotifySuccess); s.Recipient.Notify != agent.NotifyNever {
		t.Errorf("only success was asked for: %v", s.Recipient.Notify)
	}
	if s = expand("list", agent.NotifySuccess); s.Recipient.ORCPT != "" || s.Recipient.Notify != 0 || s.Expanded != "delivered" {
		t.Errorf("%+v", s)
	}
	if s = expand("bob", agent.NotifySuccess); !s.Recipient.Delivered.IsNull() || s.Recipient.Notify != agent.NotifySuccess || s.Expanded != "" {
		t.Errorf("%+v", s)
	}
	c.ThawedDelivered = true
	if s = expand("dup", 0); !s.Recipient.Delivered.IsNull() {
		t.Errorf("%+v", s)
	}
}
