package access

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"angarium/lib/address"
	"angarium/lib/dsn"
)

type mapTable map[string]string

func (m mapTable) Lookup(_ context.Context, key string) (string, bool, error) {
	v, ok := m[key]
	return v, ok, nil
}

type failTable struct{}

func (failTable) Lookup(context.Context, string) (string, bool, error) {
	return "", false, errors.New("table trouble")
}

type fakeDNS struct{}

func (fakeDNS) Mail(_ context.Context, d string) (bool, error) {
	if strings.HasPrefix(d, "temp.") {
		return false, errors.New("no answer")
	}
	return d == "good.test", nil
}
func (f fakeDNS) Host(ctx context.Context, d string) (bool, error) { return f.Mail(ctx, d) }
func (fakeDNS) Block(_ context.Context, q string) ([]netip.Addr, string, error) {
	if q == "1.2.0.192.bl.test" {
		return []netip.Addr{netip.MustParseAddr("127.0.0.2")}, "see http://bl.test/", nil
	}
	return nil, "", nil
}

func testPolicy(warned *[]string) *Policy {
	senders := mapTable{
		"rej@x.test": "REJECT go away", "rej2@x.test": "REJECT", "def@x.test": "DEFER later", "c550@x.test": "550 5.7.9 own text",
		"c450@x.test": "450 own text", "c521@x.test": "521", "ok@x.test": "OK", "hold@x.test": "HOLD", "hold2@x.test": "HOLD some reason",
		"disc@x.test": "DISCARD", "warn@x.test": "WARN hmm", "filt@x.test": "FILTER smtp:[127.0.0.1]:9", "redir@x.test": "REDIRECT foo@sink.test",
		"prep@x.test": "PREPEND X-Foo: bar", "dip@x.test": "DEFER_IF_PERMIT foo", "dir@x.test": "DEFER_IF_REJECT foo",
		"list@x.test": "reject_unauth_destination", "cls@x.test": "myclass", "bogus@x.test": "FOOBAR", "dom.test": "REJECT domain",
		"lp@": "REJECT local part", "<>": "REJECT null", "loop@x.test": "loop",
	}
	return New(Config{
		Open: func(spec string) (Table, error) {
			switch spec {
			case "hash:senders":
				return senders, nil
			case "inline:net":
				return mapTable{"192.0": "REJECT"}, nil
			case "inline:dom":
				return mapTable{"b.test": "REJECT"}, nil
			case "fail:foo":
				return failTable{}, nil
			}
			return nil, errors.New("no such table")
		},
		Classes:    map[string]string{"myclass": "reject", "loop": "check_sender_access hash:senders"},
		MyNetworks: func(a netip.Addr) bool { return a.String() == "10.0.0.1" },
		Destination: func(_ context.Context, a address.Address) (bool, error) {
			if a.Domain == "broken.test" {
				return false, errors.New("no answer")
			}
			return a.Domain == "here.test", nil
		},
		Listed: func(_ context.Context, a address.Address, rcpt bool) error {
			if a.Domain == "here.test" && a.Local != "bob" {
				status, class := "5.1.0", "Sender"
				if rcpt {
					status, class = "5.1.1", "Recipient"
				}
				return dsn.New(550, status, "<%s>: %s address rejected: User unknown in local recipient table", a, class)
			}
			return nil
		},
		DNS: fakeDNS{}, Parents: true,
		Warn: func(f string, args ...any) { *warned = append(*warned, f) },
	})
}

// What is refused, and in which words: those of Postfix 3.7.11, which was asked
// the same.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		at                     string // the list is for: client, helo, sender, data, end; else recipient
		list, sender, want     string
		effect                 string
		rcpt, helo, name, sasl string
	}{
		{list: "check_sender_access hash:senders", sender: "rej@x.test", want: "554 5.7.1 <rej@x.test>: Sender address rejected: go away"},
		{list: "check_sender_access hash:senders", sender: "rej2@x.test", want: "554 5.7.1 <rej2@x.test>: Sender address rejected: Access denied"},
		{list: "check_sender_access hash:senders", sender: "def@x.test", want: "450 4.7.1 <def@x.test>: Sender address rejected: later"},
		{list: "check_sender_access hash:senders", sender: "c550@x.test", want: "550 5.7.9 <c550@x.test>: Sender address rejected: own text"},
		{list: "check_sender_access hash:senders", sender: "c450@x.test", want: "450 4.7.1 <c450@x.test>: Sender address rejected: own text"},
		{list: "check_sender_access hash:senders, reject", sender: "c521@x.test"},
		{list: "check_sender_access hash:senders reject", sender: "ok@x.test"},
		{list: "check_sender_access hash:senders", sender: "hold@x.test", effect: "hold: <hold@x.test>: Sender address triggers HOLD action"},
		{list: "check_sender_access hash:senders", sender: "hold2@x.test", effect: "hold: <hold2@x.test>: Sender address some reason"},
		{list: "check_sender_access hash:senders", sender: "disc@x.test", effect: "discard: <disc@x.test>: Sender address triggers DISCARD action"},
		{list: "check_sender_access hash:senders", sender: "warn@x.test", effect: "warn: hmm"},
		{list: "check_sender_access hash:senders", sender: "filt@x.test", effect: "filter: <filt@x.test>: Sender address triggers FILTER smtp:[127.0.0.1]:9"},
		{list: "check_sender_access hash:senders", sender: "redir@x.test", effect: "redirect: <redir@x.test>: Sender address triggers REDIRECT foo@sink.test"},
		{list: "check_sender_access hash:senders", sender: "prep@x.test", effect: "prepend: "},
		{list: "check_sender_access hash:senders", sender: "dip@x.test", want: "450 4.7.1 <dip@x.test>: Sender address rejected: foo"},
		{list: "check_sender_access hash:senders", sender: "dir@x.test"},
		{list: "check_sender_access hash:senders, reject", sender: "dir@x.test", want: "450 4.7.1 <dir@x.test>: Sender address rejected: foo"},
		{list: "check_sender_access hash:senders", sender: "list@x.test"},
		{list: "check_sender_access hash:senders", sender: "list@x.test", rcpt: "a@far.test", want: "554 5.7.1 <a@far.test>: Relay access denied"},
		{list: "check_sender_access hash:senders", sender: "cls@x.test", want: "554 5.7.1 <cls@x.test>: Sender address rejected: Access denied"},
		{list: "check_sender_access hash:senders", sender: "bogus@x.test", want: "451 4.3.5 Server configuration error"},
		{list: "check_sender_access hash:senders", sender: "loop@x.test", want: "451 4.3.5 Server configuration error"},
		{list: "check_sender_access hash:senders", sender: "a@sub.dom.test", want: "554 5.7.1 <a@sub.dom.test>: Sender address rejected: domain"},
		{list: "check_sender_access hash:senders", sender: "lp@foo.test", want: "554 5.7.1 <lp@foo.test>: Sender address rejected: local part"},
		{list: "check_sender_access hash:senders", sender: "", want: "554 5.7.1 <>: Sender address rejected: null"},
		{list: "check_recipient_access fail:foo", sender: "a@b.test", want: "451 4.3.5 <bob@here.test>: Recipient address rejected: Server configuration error"},
		{list: "check_recipient_access hash:none", sender: "a@b.test", want: "451 4.3.5 <bob@here.test>: Recipient address rejected: Server configuration error"},
		{list: "check_recipient_access", sender: "a@b.test", want: "451 4.3.5 Server configuration error"},
		{list: "foo_bar", sender: "a@b.test", want: "451 4.3.5 Server configuration error"},
		{list: "reject_non_fqdn_sender", sender: "a", want: "504 5.5.2 <a>: Sender address rejected: need fully-qualified address"},
		{list: "reject_non_fqdn_recipient", rcpt: "root", want: "504 5.5.2 <root>: Recipient address rejected: need fully-qualified address"},
		{list: "reject_unknown_sender_domain", sender: "a@none.test", want: "450 4.1.8 <a@none.test>: Sender address rejected: Domain not found"},
		{list: "reject_unknown_sender_domain permit", sender: "a@temp.test", want: "450 4.1.8 <a@temp.test>: Sender address rejected: Domain not found"},
		{list: "reject_unknown_sender_domain", sender: "a@good.test"},
		{at: "helo", list: "reject_non_fqdn_helo_hostname", helo: "a", want: "504 5.5.2 <a>: Helo command rejected: need fully-qualified hostname"},
		{at: "helo", list: "reject_invalid_hostname", helo: "a_b!", want: "501 5.5.2 <a_b!>: Helo command rejected: Invalid name"},
		{at: "helo", list: "reject_unknown_helo_hostname", helo: "good.test.", want: "450 4.7.1 <good.test.>: Helo command rejected: Host not found"},
		{at: "helo", list: "reject_unknown_helo_hostname", helo: "foo.invalid.test", want: "450 4.7.1 <foo.invalid.test>: Helo command rejected: Host not found"},
		{at: "helo", list: "reject_invalid_helo_hostname reject_non_fqdn_helo_hostname", helo: "[192.0.2.1]"},
		{at: "client", list: "defer", want: "450 4.3.2 <mx.far.test[192.0.2.1]>: Client host rejected: Try again later"},
		{at: "client", list: "reject", want: "554 5.7.1 <mx.far.test[192.0.2.1]>: Client host rejected: Access denied"},
		{at: "helo", list: "reject", helo: "a", want: "554 5.7.1 <a>: Helo command rejected: Access denied"},
		{at: "sender", list: "reject", sender: "a@b.test", want: "554 5.7.1 <a@b.test>: Sender address rejected: Access denied"},
		{list: "reject", want: "554 5.7.1 <bob@here.test>: Recipient address rejected: Access denied"},
		{at: "data", list: "reject", want: "554 5.7.1 <DATA>: Data command rejected: Access denied"},
		{at: "end", list: "reject", want: "554 5.7.1 <END-OF-MESSAGE>: End-of-data rejected: Access denied"},
		{list: "warn_if_reject reject, defer", want: "450 4.3.2 <bob@here.test>: Recipient address rejected: Try again later", effect: "reject_warning: 554 5.7.1 <bob@here.test>: Recipient address rejected: Access denied"},
		{list: "defer_unauth_destination", rcpt: "root@foo.test", want: "454 4.7.1 <root@foo.test>: Relay access denied"},
		{list: "reject_unauth_destination", rcpt: "root@broken.test", want: "451 4.3.0 <root@broken.test>: Temporary lookup failure"},
		{list: "permit_auth_destination, reject", rcpt: "bob@here.test"},
		{list: "permit_sasl_authenticated reject_unauth_destination", rcpt: "root@foo.test", sasl: "joe"},
		{list: "reject_unlisted_sender", sender: "none@here.test", want: "550 5.1.0 <none@here.test>: Sender address rejected: User unknown in local recipient table"},
		{list: "reject_unlisted_recipient", rcpt: "none@here.test", want: "550 5.1.1 <none@here.test>: Recipient address rejected: User unknown in local recipient table"},
		{list: "reject_plaintext_session", want: "450 4.7.1 Session encryption is required"},
		{at: "sender", list: "check_client_access inline:net", want: "554 5.7.1 <mx.far.test[192.0.2.1]>: Client host rejected: Access denied"},
		{at: "client", list: "check_client_access inline:dom", name: "x.b.test", want: "554 5.7.1 <x.b.test[192.0.2.1]>: Client host rejected: Access denied"},
		{list: "check_helo_access { inline:dom, search_order = x }", helo: "a.b.test", want: "554 5.7.1 <a.b.test>: Helo command rejected: Access denied"},
		{list: "reject_rbl_client bl.test", want: "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using bl.test; see http://bl.test/"},
		{list: "reject_rbl_client bl.test=127.0.0.3"},
		{at: "client", list: "reject_unknown_client_hostname", name: "unknown", want: "450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]"},
		{list: "permit_mynetworks, check_policy_service unix:private/policy", want: "451 4.3.5 Server configuration error"},
	} {
		var warned []string
		p := testPolicy(&warned)
		stage, ok := map[string]Stage{"client": Client, "helo": Helo, "sender": Sender, "data": Data, "end": EndOfData}[c.at]
		if !ok {
			stage = Recipient
		}
		if c.rcpt == "" {
			c.rcpt = "bob@here.test"
		}
		if c.name == "" {
			c.name = "mx.far.test"
		}
		sender, rcpt := address.Parse(c.sender), address.Parse(c.rcpt)
		s := &Subject{ClientName: c.name, ReverseName: c.name, ClientAddr: netip.MustParseAddr("192.0.2.1"), Helo: c.helo, SASLUser: c.sasl, Sender: &sender, Recipient: &rcpt}
		err, effects := p.Check(t.Context(), s, p.Parse(stage, c.list))
		got := ""
		if err != nil {
			got = replyText(err)
		}
		if got != c.want {
			t.Errorf("%s (%s -> %s): got %q, want %q (%q)", c.list, c.sender, c.rcpt, got, c.want, warned)
		}
		eff := ""
		if len(effects) > 0 {
			eff = effects[0].Kind.String() + ": " + effects[0].Log
		}
		if eff != c.effect {
			t.Errorf("%s (%s): effect %q, want %q", c.list, c.sender, eff, c.effect)
		}
	}
}

func TestWords(t *testing.T) {
	got := Words(" permit_mynetworks,\n\tcheck_x { a, b = c } ,reject ")
	if want := []string{"permit_mynetworks", "check_x", "{ a, b = c }", "reject"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestKeys(t *testing.T) {
	p := New(Config{Delimiters: "+"})
	if got := strings.Join(p.addressKeys(address.Parse("a+b@x.y.test")), " "); got != "a+b@x.y.test a@x.y.test x.y.test .y.test .test a+b@ a@" {
		t.Error(got)
	}
	if got := strings.Join(addrKeys(netip.MustParseAddr("2001:db8::1")), " "); got != "2001:db8::1 2001:db8 2001" {
		t.Error(got)
	}
	if got := reversed(netip.MustParseAddr("2001:db8::1")); !strings.HasPrefix(got, "1.0.0.0.") || !strings.HasSuffix(got, "8.b.d.0.1.0.0.2") {
		t.Error(got)
	}
}

func TestHosts(t *testing.T) {
	h, err := ParseHosts([]string{"!192.0.2.9", "192.0.2.0/24", "[2001:db8::]/32", "10.0.0.1", "friend.test", ".sub.test", "hash:x"}, true,
		func(string) (Table, error) { return mapTable{"198.51.100.1": "ok"}, nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, addr string
		want       bool
	}{
		{"unknown", "192.0.2.1", true}, {"unknown", "192.0.2.9", false}, {"unknown", "2001:db8::1", true}, {"unknown", "10.0.0.1", true},
		{"unknown", "10.0.0.2", false}, {"a.friend.test", "203.0.113.1", true}, {"xfriend.test", "203.0.113.1", false},
		{"a.sub.test", "203.0.113.1", true}, {"unknown", "198.51.100.1", true},
	} {
		if got, err := h.Match(t.Context(), c.name, netip.MustParseAddr(c.addr)); got != c.want || err != nil {
			t.Errorf("%s[%s]: %v, %v", c.name, c.addr, got, err)
		}
	}
	if _, err := ParseHosts([]string{"192.0.2.1/24"}, false, nil); err == nil {
		t.Error("a network with host bits was taken")
	}
	if ok, _ := (*Hosts)(nil).Match(t.Context(), "x", netip.Addr{}); ok {
		t.Error("no list matches somebody")
	}
}
