package access

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"angarium/lib/address"
)

// zones is a small world: names and what the DNS says of them.
type zones map[string]string

func (z zones) get(kind, name string) ([]string, error) {
	if strings.HasSuffix(name, "trouble.test") {
		return nil, errors.New("no answer")
	}
	return strings.Fields(z[kind+" "+name]), nil
}

func (z zones) Mail(_ context.Context, d string) (bool, error) {
	mx, err := z.get("mx", d)
	if len(mx) == 1 && mx[0] == "." {
		return false, ErrNullMX
	}
	return len(mx) > 0, err
}

func (z zones) Host(_ context.Context, d string) (bool, error) {
	a, err := z.get("a", d)
	return len(a) > 0, err
}

func (z zones) MX(_ context.Context, d string) ([]string, error) { return z.get("mx", d) }
func (z zones) NS(_ context.Context, d string) ([]string, error) { return z.get("ns", d) }

func (z zones) Addrs(_ context.Context, h string) (list []netip.Addr, err error) {
	if a, err := netip.ParseAddr(h); err == nil {
		return []netip.Addr{a}, nil
	}
	words, err := z.get("a", h)
	for _, w := range words {
		list = append(list, netip.MustParseAddr(w))
	}
	return list, err
}

func (z zones) Block(ctx context.Context, q string) ([]netip.Addr, string, error) {
	a, err := z.Addrs(ctx, q)
	return a, z["txt "+q], err
}

// Restrictions that ask the DNS about servers and lists, or tables about logins:
// replies of Postfix 3.7.11 with the same zones.
func TestZones(t *testing.T) {
	world := zones{
		"mx evil.test": "mx.evil.test", "a mx.evil.test": "10.6.6.6", "ns evil.test": "ns.evil.test", "a ns.evil.test": "10.6.6.7",
		"ns good.test": "ns.good.test", "a onlya.test": "10.1.1.9", "mx null.test": ".", "mx ok.test": "ok.evil.test",
		"a listed.test.dbl.test": "127.0.0.2", "txt listed.test.dbl.test": "Domain listed", "a 7.2.0.192.bl.test": "127.0.0.9",
		"a 7.2.0.192.wl.test": "127.0.0.3",
	}
	servers := mapTable{"10.6.6.6": "REJECT mx", "ns.evil.test": "REJECT ns", "10.1.1": "REJECT a", "ok.evil.test": "OK"}
	var asked []string
	p := New(Config{
		DNS: world, Delimiters: "+",
		Open:         func(string) (Table, error) { return servers, nil },
		SenderLogins: mapTable{"owner@here.test": "user", "other@here.test": "a, b"},
		Final:        func(_ context.Context, d string) (bool, error) { return d == "here.test", nil },
		Ask: func(_ context.Context, service string, _ *Subject) string {
			asked = append(asked, service)
			return map[string]string{"unix:no": "REJECT policy says", "unix:slow": "DEFER_IF_PERMIT slow", "unix:empty": ""}[service]
		},
		Warn: func(string, ...any) {},
	})
	for _, c := range []struct{ list, sender, helo, sasl, want string }{
		{"check_sender_mx_access t:x", "a@evil.test", "", "", "554 5.7.1 <a@evil.test>: Sender address rejected: mx"},
		{"check_sender_ns_access t:x", "a@evil.test", "", "", "554 5.7.1 <a@evil.test>: Sender address rejected: ns"},
		{"check_sender_ns_access t:x", "a@sub.evil.test", "", "", "554 5.7.1 <a@sub.evil.test>: Sender address rejected: ns"},
		{"check_sender_a_access t:x", "a@onlya.test", "", "", "554 5.7.1 <a@onlya.test>: Sender address rejected: a"},
		{"check_sender_mx_access t:x", "a@onlya.test", "", "", "554 5.7.1 <a@onlya.test>: Sender address rejected: a"},
		{"check_sender_mx_access t:x", "a@good.test", "", "", ""},
		{"check_sender_mx_access t:x", "a@trouble.test", "", "", ""},
		{"check_sender_mx_access t:x", "a@[10.6.6.6]", "", "", "554 5.7.1 <a@[10.6.6.6]>: Sender address rejected: mx"},
		{"check_sender_mx_access t:x", "", "", "", ""},
		{"check_sender_mx_access t:x", "a@ok.test", "", "", "451 4.3.5 Server configuration error"},
		{"check_helo_mx_access t:x", "a@b.test", "evil.test", "", "554 5.7.1 <evil.test>: Helo command rejected: mx"},
		{"reject_rhsbl_sender dbl.test", "a@listed.test", "", "", "554 5.7.1 Service unavailable; Sender address [a@listed.test] blocked using dbl.test; Domain listed"},
		{"reject_rhsbl_helo dbl.test", "a@b.test", "listed.test", "", "554 5.7.1 Service unavailable; Helo command [listed.test] blocked using dbl.test; Domain listed"},
		{"reject_rhsbl_sender dbl.test", "a@free.test", "", "", ""},
		{"reject_rhsbl_sender dbl.test=127.0.0.[3..9]", "a@listed.test", "", "", ""},
		{"reject_rbl_client bl.test=127.0.0.[3..9;200]", "a@b.test", "", "", "554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using bl.test"},
		{"reject_rbl_client bl.test=127.0.0.[10..20;200]", "a@b.test", "", "", ""},
		{"permit_dnswl_client wl.test, reject", "a@b.test", "", "", ""},
		{"permit_dnswl_client wl.test=127.0.0.2, reject", "a@b.test", "", "", "554 5.7.1 <a@b.test>: Sender address rejected: Access denied"},
		{"reject_unknown_sender_domain", "a@null.test", "", "", "550 5.7.27 <a@null.test>: Sender address rejected: Domain null.test does not accept mail (nullMX)"},
		{"reject_unknown_helo_hostname", "a@b.test", "null.test", "", ""},
		{"reject_invalid_helo_hostname", "a@b.test", "[bad]", "", "501 5.5.2 <[bad]>: Helo command rejected: invalid ip address"},
		{"reject_sender_login_mismatch", "owner@here.test", "", "", "553 5.7.1 <owner@here.test>: Sender address rejected: not logged in"},
		{"reject_sender_login_mismatch", "OWNER+x@here.test", "", "user", ""},
		{"reject_sender_login_mismatch", "other@here.test", "", "user", "553 5.7.1 <other@here.test>: Sender address rejected: not owned by user user"},
		{"reject_sender_login_mismatch", "other@here.test", "", "B", ""},
		{"reject_sender_login_mismatch", "free@here.test", "", "user", "553 5.7.1 <free@here.test>: Sender address rejected: not owned by user user"},
		{"reject_sender_login_mismatch", "free@here.test", "", "", ""},
		{"reject_known_sender_login_mismatch", "free@here.test", "", "user", ""},
		{"reject_authenticated_sender_login_mismatch", "owner@here.test", "", "", ""},
		{"reject_unauthenticated_sender_login_mismatch", "other@here.test", "", "user", ""},
		{"check_policy_service unix:no", "a@b.test", "", "", "554 5.7.1 <a@b.test>: Sender address rejected: policy says"},
		{"check_policy_service unix:slow, reject", "a@b.test", "", "", "554 5.7.1 <a@b.test>: Sender address rejected: Access denied"},
		{"check_policy_service unix:slow", "a@b.test", "", "", "450 4.7.1 <a@b.test>: Sender address rejected: slow"},
		{"check_policy_service unix:empty", "a@b.test", "", "", ""},
		{"check_policy_service { unix:no, timeout=1s }", "a@b.test", "", "", ""},
		{"defer_if_permit", "a@b.test", "", "", "450 4.7.0 <a@b.test>: Sender address rejected: defer_if_permit requested"},
		{"sleep nonsense", "a@b.test", "", "", "451 4.3.5 Server configuration error"},
	} {
		from := address.Parse(c.sender)
		s := Subject{ClientName: "unknown", ReverseName: "unknown", ClientAddr: netip.MustParseAddr("192.0.2.7"), Helo: c.helo, SASLUser: c.sasl, Sender: &from}
		got := ""
		if err, _ := p.Check(context.Background(), &s, p.Parse(Sender, c.list)); err != nil {
			got = replyText(err)
		}
		if got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.list, c.sender, got, c.want)
		}
	}
	if want := "{ unix:no, timeout=1s }"; asked[len(asked)-1] != want {
		t.Errorf("asked %q, want %q", asked[len(asked)-1], want)
	}
}

// A bounce has one recipient.
func TestMultiRecipientBounce(t *testing.T) {
	p := New(Config{})
	null := address.Address{}
	for n, want := range map[int]string{1: "", 2: "550 5.5.3 <DATA>: Data command rejected: Multi-recipient bounce"} {
		got := ""
		if err, _ := p.Check(context.Background(), &Subject{Sender: &null, Recipients: n}, p.Parse(Data, "reject_multi_recipient_bounce")); err != nil {
			got = replyText(err)
		}
		if got != want {
			t.Errorf("%d recipients: %q", n, got)
		}
	}
}
