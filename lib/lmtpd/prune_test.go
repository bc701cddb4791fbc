package lmtpd

import (
	"fmt"
	"os"
	"testing"
	"time"
)

func TestPrune(t *testing.T) {
	at := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	d := &Duplicates{Dir: t.TempDir() + "/deliver", Keep: 10, Now: func() time.Time { return at }}
	if purged, all, err := d.Prune(at); purged != 0 || all != 0 || err != nil {
		t.Fatalf("nothing there: %d of %d, %v", purged, all, err)
	}
	for day := range 5 {
		for n := range day + 1 {
			d.Mark(fmt.Sprintf("<%d@h.test>", n), "", "user.bob")
		}
		at = at.AddDate(0, 0, 1)
	}
	at = at.AddDate(0, 0, -1) // the last of the five days, with five deliveries
	if purged, all, err := d.Prune(at.AddDate(0, 0, -2)); purged != 3 || all != 15 || err != nil {
		t.Errorf("purged %d of %d, %v", purged, all, err)
	}
	if purged, _, err := d.Prune(at.AddDate(0, 0, 30)); purged != 7 || err != nil {
		t.Errorf("all but today: %d, %v", purged, err)
	}
	n := 0
	for r, err := range d.All() {
		if err != nil || r.Day.Day() != at.Day() {
			t.Errorf("%v, %v", r, err)
		}
		n++
	}
	if n != 5 {
		t.Errorf("%d are left of today's 5", n)
	}
	if err := os.WriteFile(d.Dir+"/notes", []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, all, _ := d.Prune(at); all != 5 {
		t.Errorf("a foreign file was counted: %d", all)
	}
}
