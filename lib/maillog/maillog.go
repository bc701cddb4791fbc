// Package maillog writes the mail log.
//
// A line is "Mon DD HH:MM:SS host program[number]: text", as syslog and Postfix'
// maillog_file have it, because pflogsumm, fail2ban and many scripts read it.
// They pair lines by program[number]; one of our processes serves many
// sessions, so each live session or delivery gets a number of its own
// (Logger.Session), and only what the process says for itself carries its pid.
//
// It promises one write per line, and never fails its caller. It does not know
// the events: who logs a delivery gives the text.
package maillog

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Priority is a syslog severity, RFC 5424 table 2.
type Priority int

const (
	Emerg Priority = iota
	Alert
	Crit
	Err
	Warning
	Notice
	Info
	Debug
)

// A Sink takes finished lines: a file, syslog, postlogd's socket. It must be
// safe for concurrent use. An error it returns is dropped: mail goes on.
type Sink interface {
	Log(t time.Time, pri Priority, tag string, num int64, text string) error
}

// Logger writes lines under one program name and one number. The zero number
// is never written. A nil *Logger drops everything.
type Logger struct {
	sink Sink
	tag  string
	num  int64
}

// New returns the logger of this process: tag is "postfix/smtpd" or
// "cyrus/imap", the number is the pid.
func New(sink Sink, tag string) *Logger {
	return &Logger{sink: sink, tag: tag, num: int64(os.Getpid())}
}

// Tag is the program name that the lines carry.
func (l *Logger) Tag() string {
	if l == nil {
		return ""
	}
	return l.tag
}

// Number is the number in brackets.
func (l *Logger) Number() int64 {
	if l == nil {
		return 0
	}
	return l.num
}

// As returns a logger with another program name and the same number.
func (l *Logger) As(tag string) *Logger {
	if l == nil {
		return nil
	}
	c := *l
	c.tag = tag
	return &c
}

// Session returns a logger whose number no other live session has, in this
// process or another, and a function that gives the number back.
func (l *Logger) Session() (s *Logger, done func()) {
	if l == nil {
		return nil, func() {}
	}
	slot := slots.take()
	c := *l
	c.num = int64(slot)<<pidBits | int64(os.Getpid())
	var once sync.Once
	return &c, func() { once.Do(func() { slots.give(slot) }) }
}

// Linux gives out pids below 2^22 (PID_MAX_LIMIT in proc(5)), so a slot above
// these bits makes a number that is unique on this machine.
const pidBits = 22

var slots slotSet

// resting is how many numbers must be free before one is used again. During a
// reload two processes may write the log, and the last line of a session then
// comes a moment after the first of the next.
const resting = 64

// slotSet hands out numbers from 1 up, and again those that have been free longest.
type slotSet struct {
	mu   sync.Mutex
	free []int
	next int
}

func (s *slotSet) take() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) > resting {
		slot := s.free[0]
		s.free = s.free[1:]
		return slot
	}
	s.next++
	return s.next
}

func (s *slotSet) give(slot int) {
	s.mu.Lock()
	s.free = append(s.free, slot)
	s.mu.Unlock()
}

// Log writes one line. Control characters become "?", as in Postfix, so that a
// stranger's text can't forge a line.
func (l *Logger) Log(pri Priority, format string, args ...any) {
	if l == nil || l.sink == nil {
		return
	}
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	_ = l.sink.Log(time.Now(), pri, l.tag, l.num, Printable(text))
}

// Infof logs an ordinary event.
func (l *Logger) Infof(format string, args ...any) { l.Log(Info, format, args...) }

// Warnf logs "warning: " and the text.
func (l *Logger) Warnf(format string, args ...any) { l.Log(Warning, "warning: "+format, args...) }

// Errorf logs "error: " and the text.
func (l *Logger) Errorf(format string, args ...any) { l.Log(Err, "error: "+format, args...) }

// Fatalf logs "fatal: " and the text; the caller then ends.
func (l *Logger) Fatalf(format string, args ...any) { l.Log(Crit, "fatal: "+format, args...) }

// Panicf logs "panic: " and the text.
func (l *Logger) Panicf(format string, args ...any) { l.Log(Crit, "panic: "+format, args...) }

// Printable replaces what is not printable in a log line. Bytes above 127 stay
// where they are UTF-8.
func Printable(s string) string {
	bad := func(c byte) bool { return c < ' ' || c == 127 }
	plain := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; bad(c) || c > 127 {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	b := []byte(s)
	changed := false
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if bad(b[i]) || r == utf8.RuneError && n == 1 {
			b[i] = '?'
			changed = true
		}
		i += n
	}
	if !changed {
		return s
	}
	return strings.TrimRight(string(b), "?\n")
}
