package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"angarium/lib/address"
)

type table map[string]string

func (t table) Lookup(_ context.Context, key string) (string, bool, error) {
	v, ok := t[key]
	if v == "ERROR" {
		return "", false, errors.New("down")
	}
	return v, ok, nil
}

func list(t *testing.T, patterns ...string) *List {
	t.Helper()
	l, err := ParseList(patterns, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func config(t *testing.T) Config {
	return Config{
		MyHostname: "mail.here.test", MyOrigin: "here.test", MyDomain: "here.test",
		AppendAtMyOrigin: true, SwapBangPath: true, PercentHack: true, ResolveDequoted: true, RecipientDelimiter: "+", ShowUnknownTable: true,
		MyDestination: list(t, "here.test", "mail.here.test"), VirtualAliasDomains: list(t, "alias.test"),
		VirtualMailboxDomains: list(t, "box.test"), RelayDomains: list(t, "relay.test", ".sub.test"),
		OwnAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	}
}

func TestRewrite(t *testing.T) {
	c := config(t)
	plain := New(c)
	c.AppendDotMyDomain = true
	dots := New(c)
	for _, x := range []struct {
		r        *Router
		in, want string
	}{
		{plain, "joe", "joe@here.test"}, {plain, "joe@far.test.", "joe@far.test"}, {plain, "joe@host", "joe@host"},
		{dots, "joe@host", "joe@host.here.test"}, {dots, "joe@[192.0.2.3]", "joe@[192.0.2.3]"},
		{plain, "site!joe", "joe@site"}, {plain, "a!b!joe", "b!joe@a"}, {plain, "joe%far.test", "joe@far.test"}, {plain, "a%b%c", "a%b@c"},
		{plain, "site!joe@far.test", "site!joe@far.test"}, {plain, "", ""}, {plain, "joe@far..", "joe@far.."},
	} {
		if got := x.r.Rewrite(address.Parse(x.in)).String(); got != x.want {
			t.Errorf("%q: %q, want %q", x.in, got, x.want)
		}
	}
	if got := plain.RewriteRemote(address.Parse("joe")).String(); got != "joe" {
		t.Errorf("a stranger's bare name became %q", got)
	}
}

func TestResolve(t *testing.T) {
	base := config(t)
	relay := base
	relay.RelayHost = "[smart.test]:587"
	maps := relay
	maps.TransportMaps = table{
		"vip@far.test": "smtp:[vip.test]", "far.test": "slow:", ".deep.test": "uucp:site", "gone.test": "error:5.1.2 gone",
		"nohop.test": ":", "hop.test": ":[x.test]", "discard.test": "discard:", "broken.test": "ERROR", "u@here.test": "special:", "err.test": "error",
	}
	maps.RelocatedMaps = table{"old@here.test": "new@there.test", "@moved.test": "elsewhere"}
	star := base
	star.TransportMaps = table{"*": "smtp:[all.test]", "here.test": "local:"}
	sender := base
	sender.SenderRelayhostMaps = table{"boss@here.test": "[boss.test]", "@part.test": "[part.test]"}
	sender.SenderTransportMaps = table{"boss@here.test": "bosssmtp:"}
	for _, x := range []struct {
		c        Config
		from, to string
		want     string
	}{
		{base, "", "joe@here.test", "local/mail.here.test joe@here.test local"},
		{base, "", "joe@HERE.test", "local/mail.here.test joe@HERE.test local"},
		{base, "", "joe", "local/mail.here.test joe@mail.here.test local"},
		{base, "", "joe@[192.0.2.1]", "local/mail.here.test joe@[192.0.2.1] local"},
		{base, "", "joe@[192.0.2.9]", "smtp/[192.0.2.9] joe@[192.0.2.9] default"},
		{base, "", "joe%far.test@here.test", "smtp/far.test joe@far.test default"},
		{base, "", "far.test!joe@here.test", "smtp/far.test joe@far.test default"},
		{base, "", "joe@far.test@here.test", "smtp/far.test joe@far.test default"},
		{base, "", "joe@far.test", "smtp/far.test joe@far.test default"},
		{base, "", "a%b@far.test", "smtp/far.test a%b@far.test default routed"},
		{base, "", "x@alias.test", "error/5.1.1 User unknown in virtual alias table x@alias.test virtual alias"},
		{base, "", "x@box.test", "virtual/box.test x@box.test virtual mailbox"},
		{base, "", "x@relay.test", "relay/relay.test x@relay.test relay"},
		{base, "", "x@a.sub.test", "relay/a.sub.test x@a.sub.test relay"},
		{base, "", "x@a.relay.test", "smtp/a.relay.test x@a.relay.test default"},
		{base, "", "x@192.0.2.3", "bad"}, {base, "", "x@-bad.test", "bad"}, {base, "", "-x@here.test", "bad"}, {base, "", "x@a..b", "bad"},
		{base, "", "", "local/mail.here.test MAILER-DAEMON@mail.here.test local"},
		{relay, "", "x@far.test", "smtp/[smart.test]:587 x@far.test default"},
		{relay, "", "x@relay.test", "relay/[smart.test]:587 x@relay.test relay"},
		{relay, "", "x@here.test", "local/mail.here.test x@here.test local"},
		{maps, "", "x@far.test", "slow/far.test x@far.test default"},
		{maps, "", "vip@far.test", "smtp/[vip.test] vip@far.test default"},
		{maps, "", "vip+ext@far.test", "smtp/[vip.test] vip+ext@far.test default"},
		{maps, "", "x@a.b.deep.test", "uucp/site x@a.b.deep.test default"},
		{maps, "", "x@deep.test", "smtp/[smart.test]:587 x@deep.test default"},
		{maps, "", "x@gone.test", "error/5.1.2 gone x@gone.test default"},
		{maps, "", "x@err.test", "error/Address is undeliverable x@err.test default"},
		{maps, "", "x@nohop.test", "smtp/[smart.test]:587 x@nohop.test default"},
		{maps, "", "x@hop.test", "smtp/[x.test] x@hop.test default"},
		{maps, "", "u@here.test", "special/here.test u@here.test local"},
		{maps, "", "x@broken.test", "down"},
		{maps, "", "old@here.test", "error/5.1.6 User has moved to new@there.test old@here.test local"},
		{maps, "", "x@moved.test", "error/5.1.6 User has moved to elsewhere x@moved.test default"},
		{star, "", "x@far.test", "smtp/[all.test] x@far.test default"},
		{star, "", "x@here.test", "local/here.test x@here.test local"},
		{sender, "boss@here.test", "x@far.test", "bosssmtp/[boss.test] x@far.test default"},
		{sender, "boss+x@here.test", "x@far.test", "bosssmtp/[boss.test] x@far.test default"},
		{sender, "who@part.test", "x@far.test", "smtp/[part.test] x@far.test default"},
		{sender, "", "x@far.test", "smtp/far.test x@far.test default"},
	} {
		res, err := New(x.c).Resolve(context.Background(), address.Parse(x.from), address.Parse(x.to))
		got := fmt.Sprintf("%s/%s %s %s", res.Transport, res.NextHop, res.Recipient, res.Class)
		switch {
		case err != nil:
			got = err.Error()
		case res.Bad:
			got = "bad"
		case res.Routed:
			got += " routed"
		}
		if got != x.want {
			t.Errorf("%s -> %s:\n got %s\nwant %s", x.from, x.to, got, x.want)
		}
	}
}

func TestList(t *testing.T) {
	open := func(spec string) (Table, error) {
		if spec == "hash:/x" {
			return table{"table.test": "", "down.test": "ERROR"}, nil
		}
		return nil, errors.New("no such table")
	}
	l, err := ParseList([]string{"!not.test", "here.test", ".all.test", "hash:/x", "not.test"}, false, open)
	if err != nil {
		t.Fatal(err)
	}
	old, err := ParseList([]string{"here.test"}, true, open)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		l    *List
		d    string
		want string
	}{
		{l, "HERE.test", "true"}, {l, "a.here.test", "false"}, {old, "a.here.test", "true"}, {old, "xhere.test", "false"},
		{l, "a.all.test", "true"}, {l, "all.test", "false"}, {l, "not.test", "false"}, {l, "table.test", "true"}, {l, "down.test", "down"},
		{nil, "here.test", "false"},
	} {
		ok, err := c.l.Match(context.Background(), c.d)
		got := fmt.Sprint(ok)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.d, got, c.want)
		}
	}
	if _, err := ParseList([]string{"nosuch:/x"}, false, open); err == nil {
		t.Error("a table that can't be opened must be an error")
	}
}

func FuzzResolve(f *testing.F) {
	for _, s := range []string{"a@b", "a%b!c@here.test", "@", "a@[", "!!%%@here.test", "x@here.test@here.test"} {
		f.Add(s)
	}
	l, _ := ParseList([]string{"here.test"}, false, nil)
	r := New(Config{MyHostname: "here.test", MyOrigin: "here.test", AppendAtMyOrigin: true, SwapBangPath: true, PercentHack: true, ResolveDequoted: true, MyDestination: l})
	f.Fuzz(func(t *testing.T, s string) {
		res, err := r.Resolve(context.Background(), address.Address{}, address.Parse(s))
		if err != nil {
			t.Fatal(err)
		}
		if !res.Bad && (res.Transport == "" || res.NextHop == "" || res.Recipient.Domain == "") {
			t.Errorf("%q: %+v", s, res)
		}
	})
}
