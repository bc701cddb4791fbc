package smtpd

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"angarium/lib/maillog"
)

func TestStatistics(t *testing.T) {
	var out strings.Builder
	log := maillog.New(maillog.ToWriter(&out), "postfix/anvil")
	l := NewLimits()
	l.Report(log)
	if out.Len() > 0 {
		t.Fatalf("nobody came, and yet: %s", out.String())
	}
	c := &Config{Service: "smtp", Limit: LimitConfig{Unit: time.Minute}}
	p := &peer{name: "unknown", addr: netip.MustParseAddr("192.0.2.7")}
	one, _ := l.enter(c, p, log)
	two, _ := l.enter(c, p, log)
	one()
	two()
	three, _ := l.enter(c, p, log)
	three()
	l.Report(log)
	for _, want := range []string{
		`postfix/anvil\[\d+\]: statistics: max connection rate 3/60s for \(smtp:192\.0\.2\.7\) at [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d\n`,
		`statistics: max connection count 2 for \(smtp:192\.0\.2\.7\) at `,
		`statistics: max cache size 1 at `,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "message rate") {
		t.Errorf("a rate that nobody counted:\n%s", out.String())
	}
	out.Reset()
	l.Report(log)
	if out.Len() > 0 {
		t.Errorf("said twice: %s", out.String())
	}
}
