package master

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Cron is a schedule of five fields as in crontab(5): minute hour day month weekday.
type Cron struct {
	minute, hour, day, month, weekday uint64 // bit n: n is chosen
	anyDay, anyWeekday                bool
}

// ParseCron reads "30 4 * * 1-5"; lists, ranges and steps as in crontab(5).
func ParseCron(s string) (*Cron, error) {
	f := strings.Fields(s)
	if len(f) != 5 {
		return nil, fmt.Errorf("bad cron schedule: %q", s)
	}
	c := &Cron{anyDay: f[2] == "*", anyWeekday: f[4] == "*"}
	for i, field := range []struct {
		to       *uint64
		low, top int
	}{{&c.minute, 0, 59}, {&c.hour, 0, 23}, {&c.day, 1, 31}, {&c.month, 1, 12}, {&c.weekday, 0, 7}} {
		bits, err := cronField(f[i], field.low, field.top)
		if err != nil {
			return nil, fmt.Errorf("bad cron schedule: %q", s)
		}
		*field.to = bits
	}
	if c.weekday&(1<<7) != 0 { // both 0 and 7 are Sunday
		c.weekday |= 1
	}
	return c, nil
}

func cronField(s string, low, top int) (bits uint64, err error) {
	for _, part := range strings.Split(s, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 {
				return 0, fmt.Errorf("bad step")
			}
		}
		from, to := low, top
		if span != "*" {
			a, b, isRange := strings.Cut(span, "-")
			if from, err = strconv.Atoi(a); err != nil {
				return 0, err
			}
			to = from
			if isRange {
				if to, err = strconv.Atoi(b); err != nil {
					return 0, err
				}
			} else if stepped {
				to = top
			}
		}
		if from < low || to > top || from > to {
			return 0, fmt.Errorf("out of range")
		}
		for n := from; n <= to; n += step {
			bits |= 1 << n
		}
	}
	return bits, nil
}

// Next is the first minute after t that the schedule names; zero: none in five years.
func (c *Cron) Next(t time.Time) time.Time {
	t = t.Truncate(time.Minute).Add(time.Minute)
	end := t.AddDate(5, 0, 0)
	for t.Before(end) {
		switch {
		case c.month&(1<<int(t.Month())) == 0:
			t = time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, t.Location())
		case !c.onDay(t):
			t = time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, t.Location())
		case c.hour&(1<<t.Hour()) == 0:
			// By addition: an hour that the clock jumps over can't be named by Date.
			t = t.Add(time.Hour - time.Duration(t.Minute())*time.Minute)
		case c.minute&(1<<t.Minute()) == 0:
			t = t.Add(time.Minute)
		default:
			return t
		}
	}
	return time.Time{}
}

// onDay: where both day and weekday are restricted, either will do, as in crontab(5).
func (c *Cron) onDay(t time.Time) bool {
	day := c.day&(1<<t.Day()) != 0
	weekday := c.weekday&(1<<int(t.Weekday())) != 0
	switch {
	case c.anyDay:
		return weekday
	case c.anyWeekday:
		return day
	}
	return day || weekday
}
