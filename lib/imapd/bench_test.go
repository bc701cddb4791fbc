package imapd

import (
	"fmt"
	"strings"
	"testing"
)

// filled is a house whose u1 has n messages of about 4 KB in INBOX.
func filled(b *testing.B, n int) *talk {
	k := newHouse(b, nil).login("u1")
	msg := "From: Bob <bob@here.test>~To: eve@there.test~Subject: number %d~Date: Wed, 01 Jan 2020 10:00:00 +0100~Message-ID: <%d@here.test>~~" +
		strings.Repeat("a line of text that is about as long as they are~", 80)
	for i := 0; i < n; i += 100 {
		cmd := "APPEND INBOX"
		for j := range min(100, n-i) {
			cmd += " " + literal(fmt.Sprintf(msg, i+j, i+j))
		}
		k.ok(cmd)
	}
	k.ok("SELECT INBOX")
	return k
}

func BenchmarkFetch(b *testing.B) {
	k := filled(b, 1000)
	for _, c := range []struct{ name, cmd string }{
		{"flags", "FETCH 1:* (UID FLAGS)"},
		{"envelope", "FETCH 1:* (ENVELOPE BODYSTRUCTURE)"},
		{"header", "FETCH 1:* BODY.PEEK[HEADER.FIELDS (Subject From)]"},
		{"body", "FETCH 1:* BODY.PEEK[]"},
		{"search", "SEARCH TEXT nowhere"},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				k.ok(c.cmd)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "µs/msg")
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	k := filled(b, 100)
	cmd := "APPEND INBOX " + literal("Subject: x~~"+strings.Repeat("a line of text that is about as long as they are~", 80))
	for b.Loop() {
		k.ok(cmd)
	}
}
