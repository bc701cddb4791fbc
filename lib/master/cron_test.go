package master

import (
	"testing"
	"time"
)

func TestCron(t *testing.T) {
	day := func(s string) time.Time {
		d, err := time.ParseInLocation("2006-01-02 15:04", s, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, c := range []struct{ schedule, from, want string }{
		{"30 4 * * *", "2026-01-05 10:00", "2026-01-06 04:30"},
		{"30 4 * * *", "2026-01-05 04:29", "2026-01-05 04:30"},
		{"30 4 * * *", "2026-01-05 04:30", "2026-01-06 04:30"},
		{"*/20 * * * *", "2026-01-05 10:41", "2026-01-05 11:00"},
		{"0 0 1 1 *", "2026-01-05 10:00", "2027-01-01 00:00"},
		{"0 9 * * 1-5", "2026-01-09 09:00", "2026-01-12 09:00"}, // Friday to Monday
		{"0 9 * * 7", "2026-01-05 10:00", "2026-01-11 09:00"},
		{"0 9 13 * 5", "2026-01-05 10:00", "2026-01-09 09:00"}, // either will do
		{"5,10 3-4 * * *", "2026-01-05 03:10", "2026-01-05 04:05"},
		{"0 0 29 2 *", "2026-01-05 10:00", "2028-02-29 00:00"},
	} {
		cron, err := ParseCron(c.schedule)
		if err != nil {
			t.Fatal(err)
		}
		if got := cron.Next(day(c.from)); !got.Equal(day(c.want)) {
			t.Errorf("%s from %s: %s, want %s", c.schedule, c.from, got, c.want)
		}
	}
	never, err := ParseCron("0 0 31 2 *")
	if err != nil || !never.Next(day("2026-01-05 10:00")).IsZero() {
		t.Errorf("February 31: %v", err)
	}
	for _, bad := range []string{"", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "x * * * *"} {
		if _, err := ParseCron(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func TestJobAt(t *testing.T) {
	j := Job{At: 4*60 + 1}
	now := time.Date(2026, 1, 5, 4, 1, 0, 0, time.UTC)
	if got := j.next(now); !got.Equal(now.AddDate(0, 0, 1)) {
		t.Errorf("at 04:01: %s", got)
	}
	if got := j.next(now.Add(-time.Second)); !got.Equal(now) {
		t.Errorf("before 04:01: %s", got)
	}
	if got := (&Job{At: -1}).next(now); !got.IsZero() {
		t.Errorf("never: %s", got)
	}
}

func FuzzParseCron(f *testing.F) {
	f.Add("*/5 1-3,7 * 2 0")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCron(s)
		if err != nil {
			return
		}
		now := time.Date(2026, 1, 5, 10, 0, 0, 0, time.UTC)
		if n := c.Next(now); !n.IsZero() && !n.After(now) {
			t.Errorf("%q: %s is not after %s", s, n, now)
		}
	})
}
