package imapd

import (
	"encoding/base64"
	"runtime"
	"strings"
	"testing"
)

// TestBinaryBomb: a decoded part is not kept in memory, however small the piece
// that is asked for; and a NUL anywhere makes it a literal8.
func TestBinaryBomb(t *testing.T) {
	h := newHouse(t, nil)
	k := h.login("u1")
	data := strings.Repeat("0123456789", 800_000)
	var b strings.Builder
	b.WriteString("Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	for text := base64.StdEncoding.EncodeToString([]byte(data)); text != ""; text = text[min(76, len(text)):] {
		b.WriteString(text[:min(76, len(text))] + "\r\n")
	}
	k.ok("APPEND INBOX " + literal(strings.ReplaceAll(b.String(), "\r\n", "~")))
	k.ok("APPEND INBOX " + literal("Content-Transfer-Encoding: base64~~AAEC~"))
	k.ok("SELECT INBOX")
	k.ok("FETCH 1:2 BODYSTRUCTURE")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := k.ok("FETCH 1 (BINARY.PEEK[1]<7999997.10> BINARY.SIZE[1])")
	runtime.ReadMemStats(&after)
	if want := "* 1 FETCH (BINARY[1]<7999997> {3}789 BINARY.SIZE[1] 8000000)"; got[0] != want {
		t.Errorf("%.100q, want %q", got, want)
	}
	if kb := (after.TotalAlloc - before.TotalAlloc) >> 10; kb > 4000 {
		t.Errorf("%d KB were needed for 3 octets of 8 MB", kb)
	}
	if got := k.ok("FETCH 2 BINARY.PEEK[1]"); got[0] != "* 2 FETCH (BINARY[1] ~{3}\x00\x01\x02)" {
		t.Errorf("%q", got)
	}
}
