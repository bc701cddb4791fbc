package smtpd

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/conf/maincf"
	"angarium/lib/maillog"
	"angarium/lib/smtp"
)

func read(t *testing.T, text string) *maincf.Config {
	t.Helper()
	c, err := maincf.Read(strings.NewReader("compatibility_level = 3.6\nmyhostname = mail.here.test\nmydestination = here.test\nlocal_recipient_maps =\nalias_maps =\n"+text), "main.cf")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var nolog = maillog.New(nil, "postfix/smtpd")

// Settings that would make an open relay keep us from starting, in Postfix' words.
func TestOpenRelay(t *testing.T) {
	for text, closed := range map[string]bool{
		"": true,
		"smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = permit_mynetworks":                            false,
		"smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination": true,
	} {
		_, err := config(read(t, text), nolog, nil)
		if (err == nil) != closed {
			t.Errorf("%q: %v", text, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "in parameter smtpd_relay_restrictions or smtpd_recipient_restrictions, specify at least one working instance of: reject_unauth_destination") {
			t.Error(err)
		}
	}
}

func TestSettings(t *testing.T) {
	c, err := config(read(t, "mynetworks = 10.0.0.0/8\nsmtpd_forbid_bare_newline = reject\nsmtpd_discard_ehlo_keywords = DSN, etrn\nsmtpd_helo_required = yes\nmessage_size_limit = 5000000000"), nolog, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := c.Server
	if s.BareNewline != smtp.RejectNewline || !s.HeloRequired || s.Size != 5000000000 || s.TLS != nil || strings.Join(s.Discard(nil), " ") != "dsn etrn" {
		t.Errorf("%+v", s)
	}
	if c.Banner != "mail.here.test ESMTP Postfix" || !c.Limit.Exempt("unknown", netip.MustParseAddr("10.1.2.3")) || c.Limit.Exempt("unknown", netip.MustParseAddr("192.0.2.1")) {
		t.Errorf("%+v", c)
	}
	if _, err := config(read(t, "smtpd_forbid_bare_newline = perhaps"), nolog, nil); err == nil {
		t.Error("a bad value went unseen")
	}
	c, err = config(read(t, "smtpd_tls_security_level = encrypt"), nolog, nil)
	if err != nil || !c.Server.TLSRequired || c.Server.TLS != nil {
		t.Errorf("without a certificate the client must be told to use TLS, and not be served without: %+v, %v", c.Server, err)
	}
}

func TestHosts(t *testing.T) {
	name := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(name, []byte("127.0.0.1 localhost lo # us\n::1 ip6\nbad\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := &hosts{file: name}
	if got := h.lookup(netip.MustParseAddr("127.0.0.1")); strings.Join(got, " ") != "localhost lo" {
		t.Error(got)
	}
	if got := h.lookup(netip.MustParseAddr("192.0.2.1")); got != nil {
		t.Error(got)
	}
}

func TestExpansionFilter(t *testing.T) {
	for in, want := range map[string]string{`\t\40!a\\z`: "\t !a\\z", `\101\n`: "A\n", `x\`: `x\`} {
		if got := unescape(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
	c, err := config(read(t, "smtpd_reject_footer = \\c; see $sender\nsmtpd_expansion_filter = abc@."), nolog, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Footer(t.Context(), "550 x"); got != `\c; see $sender` {
		t.Error(got)
	}
	if got := c.Expand("<$sender>", func(string) (string, bool) { return "a$b@c.x", true }); got != "<a_b@c._>" {
		t.Error(got)
	}
}
