package smtpd

import (
	"strings"

	"angarium/lib/address"
	"angarium/lib/maillog"
	"angarium/lib/smtp"
)

// queueID is the message's, or NOQUEUE.
func (s *session) queueID() string {
	if s.letter == nil {
		return "NOQUEUE"
	}
	return s.letter.ID()
}

// whatsUp is the line of refusals and their like, which many programs read:
// "NOQUEUE: reject: RCPT from x[addr]: 554 5.7.1 ...; from=<a> to=<b> proto=ESMTP helo=<x>".
func (s *session) whatsUp(what, verb, text string) {
	var b strings.Builder
	b.WriteString(s.queueID() + ": " + what + ": " + verb + " from " + s.peer.id() + ": " + text + ";")
	if s.sender != nil {
		b.WriteString(" from=<" + external(*s.sender) + ">")
	}
	switch {
	case s.rcpt != nil:
		b.WriteString(" to=<" + external(*s.rcpt) + ">")
	case s.rcpts == 1:
		b.WriteString(" to=<" + s.only + ">")
	}
	b.WriteString(" proto=" + s.protocol())
	if h := s.heloName(); h != "" {
		b.WriteString(" helo=<" + h + ">")
	}
	s.log.Infof("%s", b.String())
}

// external is an address as the log shows it: quoted where it has to be.
func external(a address.Address) string {
	if a.Local == "" && a.Domain != "" {
		return `""@` + a.Domain
	}
	return maillog.Printable(a.Quoted())
}

// Odd: see smtp.Watcher.
func (s *session) Odd(what smtp.Oddity, verb, text string) {
	id := s.peer.id()
	if what == smtp.OddPipelining {
		text = strings.NewReplacer("\r", "\\r", "\n", "\\n", "\t", "\\t").Replace(text)
	}
	text = maillog.Printable(text)
	switch what {
	case smtp.OddNonSMTP:
		s.log.Warnf("non-SMTP command from %s: %.100s", id, text)
	case smtp.OddLongLine:
		s.log.Warnf("%s: request longer than %d: %.30s...", id, len(text), text)
	case smtp.OddAddress:
		s.log.Warnf("Illegal address syntax from %s in %s command: %.200s", id, verb, text)
	case smtp.OddNotify:
		s.log.Warnf("unknown DSN NOTIFY command value \"%.100s\"", text)
	case smtp.OddChunk:
		s.log.Warnf("%s: malformed BDAT command syntax from %s: %.100s", s.queueID(), id, text)
	case smtp.OddChunkSize:
		s.log.Warnf("%s: BDAT request from %s exceeds message size limit", s.queueID(), id)
	case smtp.OddNoChunk:
		s.log.Warnf("%s: null BDAT request from %s", s.queueID(), id)
	case smtp.OddPipelining:
		s.log.Infof("improper command pipelining after %s from %s: %s", verb, id, text)
	case smtp.OddBareNewline:
		s.whatsUp("reject", verb, text)
	case smtp.OddNewlineNote:
		s.whatsUp("info", verb, "bare <LF> received")
	case smtp.OddDiscarded:
		s.log.Infof("discarding EHLO keywords: %s", text)
	case smtp.OddTooLarge:
		answer, from, _ := strings.Cut(text, "; ")
		a := address.Parse(from)
		s.sender = &a
		s.whatsUp("reject", verb, answer)
		s.sender = nil
	}
}

// End logs how it ended, and what was said.
func (s *session) End(e smtp.End) {
	what := ""
	switch e.Reason {
	case smtp.Lost:
		if e.After != "END-OF-MESSAGE" { // all is well, but for the missing QUIT
			what = "lost connection"
		}
	case smtp.TimedOut:
		what = "timeout"
	case smtp.TooManyErrors:
		what = "too many errors"
	}
	if what != "" {
		s.log.Infof("%s after %s from %s", what, e.After, s.peer.id())
	}
	counts := ""
	if s.conn != nil {
		counts = s.conn.Counts()
	}
	s.log.Infof("disconnect from %s%s", s.peer.id(), counts)
}
