package message

import "time"

// ParseDate reads a Date: field, RFC 5322, section 3.3 with the obsolete forms
// of 4.3 and some that occur: no weekday, two-digit years, a month in full, no
// seconds, zone names, comments. zone is in seconds east of UTC.
func ParseDate(value []byte) (sent int64, zone int32, ok bool) {
	s := scanner{value}
	month := monthOf(s.word()) // "Nov 3, 2001" and asctime's form begin with it
	s.blanks()
	s.take(',')
	if month == 0 {
		month = monthOf(s.word())
	}
	day, d := s.number()
	if d == 0 || day < 1 || day > 31 {
		return 0, 0, false
	}
	s.blanks()
	for s.take('-') || s.take(',') || s.take('.') {
		s.blanks()
	}
	if month == 0 {
		month = monthOf(s.word())
	}
	if month == 0 {
		return 0, 0, false
	}
	s.blanks()
	for s.take('-') || s.take(',') || s.take('.') {
		s.blanks()
	}
	year, d := s.number()
	s.blanks()
	hour, minute, second := 0, 0, 0
	asctime := s.take(':') // it has the time before the year: this was the hour
	if asctime {
		hour = year
	} else {
		if d < 2 {
			return 0, 0, false
		}
		s.take(',')
		hour, d = s.number()
		s.blanks()
		if d == 0 {
			hour = 0
		} else if !s.take(':') && !s.take('.') {
			return 0, 0, false
		}
	}
	minute, _ = s.number()
	s.blanks()
	if s.take(':') || s.take('.') {
		second, _ = s.number()
	}
	zone = parseZone(&s)
	if asctime {
		if year, d = s.number(); d == 0 {
			return 0, 0, false
		}
	}
	switch { // RFC 5322, 4.3
	case d <= 2 && year < 50:
		year += 2000
	case year < 1000: // "102" and "0102" are 2002, counted by programs of the last century
		year += 1900
	}
	if year < 1900 || year > 9999 || hour > 24 || minute > 59 || second > 61 {
		return 0, 0, false
	}
	t := time.Date(year, month, day, hour, minute, second, 0, time.UTC)
	return t.Unix() - int64(zone), zone, true
}

// word reads letters.
func (s *scanner) word() []byte {
	s.blanks()
	i := 0
	for i < len(s.b) && (s.b[i]|32 >= 'a' && s.b[i]|32 <= 'z') {
		i++
	}
	w := s.b[:i]
	s.b = s.b[i:]
	return w
}

// number reads up to six digits.
func (s *scanner) number() (n, digits int) {
	s.blanks()
	for len(s.b) > 0 && '0' <= s.b[0] && s.b[0] <= '9' && digits < 6 {
		n = n*10 + int(s.b[0]-'0')
		digits++
		s.b = s.b[1:]
	}
	return n, digits
}

func monthOf(w []byte) time.Month {
	if len(w) < 3 {
		return 0
	}
	m := uint32(w[0]|32)<<16 | uint32(w[1]|32)<<8 | uint32(w[2]|32)
	const names = "janfebmaraprmayjunjulaugsepoctnovdec"
	for i := 0; i < 12; i++ {
		n := names[3*i : 3*i+3]
		if m == uint32(n[0])<<16|uint32(n[1])<<8|uint32(n[2]) {
			return time.Month(i + 1)
		}
	}
	return 0
}

// parseZone reads +hhmm, or a name of RFC 5322, 4.3. What it doesn't know is UTC.
func parseZone(s *scanner) int32 {
	s.blanks()
	sign := int32(1)
	switch {
	case s.take('+'):
	case s.take('-'):
		sign = -1
	default:
		name := s.word()
		if len(name) != 3 || name[2]|32 != 't' {
			return 0
		}
		hours := int32(0)
		switch name[0] | 32 {
		case 'e':
			hours = -5
		case 'c':
			hours = -6
		case 'm':
			hours = -7
		case 'p':
			hours = -8
		}
		if hours != 0 && name[1]|32 == 'd' {
			hours++
		}
		return hours * 3600
	}
	n, digits := int32(0), 0
	for len(s.b) > 0 && '0' <= s.b[0] && s.b[0] <= '9' && digits < 4 {
		n = n*10 + int32(s.b[0]-'0')
		digits++
		s.b = s.b[1:]
	}
	if digits <= 2 {
		n *= 100
	}
	if n/100 > 14 || n%100 > 59 {
		return 0
	}
	return sign * (n/100*3600 + n%100*60)
}
