package qmgr

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"angarium/lib/address"
	smtpagent "angarium/lib/deliver/smtp"
	"angarium/lib/dsn"
)

type passwords map[string]string

func (p passwords) Lookup(_ context.Context, key string) (string, bool, error) {
	v, ok := p[key]
	if v == "DOWN" {
		return "", false, errors.New("down")
	}
	return v, ok, nil
}

func (passwords) Close() error { return nil }

// TestLogin: whose password is taken, and how it is sent.
func TestLogin(t *testing.T) {
	table := passwords{"joe@x.test": "joe:1", "@y.test": "all:2", "mx.far.test": "host:3", "[far.test]:587": "hop:4", "down.test": "DOWN"}
	at := smtpagent.AuthAt{NextHop: "[far.test]:587", Host: "MX.far.test", Sender: address.Parse("joe+x@x.test"), Offered: []string{"PLAIN", "cram-md5"}}
	plain := func(a *smtpagent.AuthAt) { a.Offered = []string{"PLAIN"} }
	for _, c := range []struct {
		what   string
		a      passwordTable
		change func(*smtpagent.AuthAt)
		want   string // mechanism and initial response, or error
	}{
		{"the host", passwordTable{clear: true}, plain, "PLAIN \x00host\x003"},
		{"the next hop", passwordTable{clear: true}, func(a *smtpagent.AuthAt) { plain(a); a.Host = "other.test" }, "PLAIN \x00hop\x004"},
		{"the sender", passwordTable{clear: true, bySender: true, delimiters: "+"}, plain, "PLAIN \x00joe\x001"},
		{"his domain", passwordTable{clear: true, bySender: true}, func(a *smtpagent.AuthAt) { plain(a); a.Sender = address.Parse("z@y.test") }, "PLAIN \x00all\x002"},
		{"a bounce", passwordTable{clear: true, bySender: true}, func(a *smtpagent.AuthAt) { plain(a); a.Sender = address.Address{} }, "PLAIN \x00host\x003"},
		{"a stranger", passwordTable{}, func(a *smtpagent.AuthAt) { a.Host, a.NextHop = "a.test", "b.test" }, ""},
		{"a table that is down", passwordTable{}, func(a *smtpagent.AuthAt) { a.Host = "down.test" }, "down"},
		{"the best", passwordTable{clear: true}, nil, "CRAM-MD5 "},
		{"a filter", passwordTable{clear: true, filter: []string{"!CRAM-MD5", "static:all"}}, nil, "PLAIN \x00host\x003"},
		{"nothing left", passwordTable{clear: true, filter: []string{"login"}}, nil, "no compatible mechanism"},
		{"not in clear", passwordTable{}, plain, "no mechanism available"},
		{"but with TLS", passwordTable{clearTLS: true}, func(a *smtpagent.AuthAt) { plain(a); a.TLS = true }, "PLAIN \x00host\x003"},
		{"only to who is known", passwordTable{clearSure: true}, func(a *smtpagent.AuthAt) { plain(a); a.TLS = true }, "no mechanism available"},
		{"to who is known", passwordTable{clearSure: true}, func(a *smtpagent.AuthAt) { plain(a); a.TLS, a.Verified = true, true }, "PLAIN \x00host\x003"},
	} {
		here := at
		if c.change != nil {
			c.change(&here)
		}
		c.a.table = table
		l, err := c.a.login(context.Background(), here)
		got := ""
		if err != nil {
			got = err.Error()
		} else if l != nil {
			mech, initial, _ := l.Start()
			got = mech + " " + string(initial)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// TestRefusals: a password that was refused is not tried again, a new one is.
func TestRefusals(t *testing.T) {
	a := passwordTable{table: passwords{"mx.far.test": "me:old"}, clear: true, refused: &refusals{keep: time.Hour, list: map[string]refusal{}}}
	at := smtpagent.AuthAt{Host: "mx.far.test", Offered: []string{"PLAIN"}}
	try := func() (smtpagent.Login, error) { return a.login(context.Background(), at) }
	l, err := try()
	if err != nil {
		t.Fatal(err)
	}
	l.Refused(&dsn.Error{Reply: 454, Code: [3]int{4, 7, 0}})
	if _, err := try(); err != nil {
		t.Errorf("after \"later\": %v", err)
	}
	l.Refused(&dsn.Error{Reply: 535, Code: [3]int{5, 7, 8}, Remote: &dsn.Remote{Reply: "535 5.7.8 no"}})
	if _, err := try(); err == nil || !strings.Contains(err.Error(), "SASL [CACHED] authentication failed; server mx.far.test said: 535 5.7.8 no") {
		t.Errorf("again: %v", err)
	}
	a.table = passwords{"mx.far.test": "me:new"}
	if _, err := try(); err != nil {
		t.Errorf("another password: %v", err)
	}
}
