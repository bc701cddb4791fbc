// Package dsn holds the words for failure and the notices made of them.
//
// One Error value becomes an SMTP or LMTP reply, a line of the mail log, the
// fields of a delivery status notification and the exit status of a command.
// What the sender may read (Text, Remote) and what only the log needs (Err) are
// kept apart.
//
// It promises that doubt keeps the mail: an error that nobody classified is
// temporary. It does not know where messages lie, nor who is asking.
package dsn

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Error is a delivery or protocol failure, classified. See RFC 3463.
type Error struct {
	Reply  int     // SMTP code, such as 550; 0: by class of Code
	Code   [3]int  // RFC 3463, such as {4, 2, 2}
	Text   string  // for the sender; says nothing about this host
	Remote *Remote // what the other side said, and in which phase; nil if nobody did
	Unix   string  // what a program said, for the Diagnostic-Code of a notice ("x-unix"); may be empty
	SASL   string  // what our own SASL library said ("x-sasl"); may be empty
	Err    error   // for the log; may be nil
}

// Remote is what another server said to us.
type Remote struct {
	Host  string // "mx.example.org[192.0.2.1]"
	Reply string // its reply, lines joined by a blank: "550 5.1.1 no such user"
	Phase string // "RCPT TO command", "end of DATA command"; empty: unknown
}

// New makes an Error from a reply code, a dotted status code and a text for the
// sender. It panics if the status is not of the form "5.1.1": a slip of ours.
func New(reply int, status, format string, args ...any) *Error {
	code, err := ParseCode(status)
	if err != nil {
		panic(err)
	}
	return &Error{Reply: reply, Code: code, Text: fmt.Sprintf(format, args...)}
}

// ParseCode reads a status code of RFC 3463, section 2.
func ParseCode(s string) (code [3]int, err error) {
	rest := s
	for i := range code {
		part := rest
		if i < 2 {
			var ok bool
			if part, rest, ok = strings.Cut(rest, "."); !ok {
				return code, fmt.Errorf("bad status code: %q", s)
			}
		}
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 || n > 999 || len(part) > 3 {
			return code, fmt.Errorf("bad status code: %q", s)
		}
		code[i] = n
	}
	if c := code[0]; c != 2 && c != 4 && c != 5 {
		return code, fmt.Errorf("bad status class: %q", s)
	}
	return code, nil
}

// Status is the code as it is written, "5.1.1".
func (e *Error) Status() string {
	return fmt.Sprintf("%d.%d.%d", e.Code[0], e.Code[1], e.Code[2])
}

// ReplyCode is the SMTP code: Reply, or the plainest one of the class.
func (e *Error) ReplyCode() int {
	switch {
	case e.Reply != 0:
		return e.Reply
	case e.Code[0] == 5:
		return 550
	case e.Code[0] == 2:
		return 250
	}
	return 451
}

// Error is what the mail log shows in parentheses behind a status: Text, else
// what the other side said.
func (e *Error) Error() string {
	if r := e.Remote; r != nil && e.Text == "" {
		s := fmt.Sprintf("host %s said: %s", r.Host, r.Reply)
		if r.Phase != "" {
			s += " (in reply to " + r.Phase + ")"
		}
		return s
	}
	if e.Text == "" && e.Err != nil {
		return e.Err.Error()
	}
	return e.Text
}

func (e *Error) Unwrap() error { return e.Err }

// Permanent reports whether trying again is useless. Only an Error that says
// so is permanent: a failure we do not understand must never bounce mail.
func Permanent(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code[0] == 5
}

// From returns err as an Error: itself if it is one, else a temporary one with
// the given text for the sender and err for the log. From(nil) is nil.
func From(err error, text string) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: [3]int{4, 3, 0}, Text: text, Err: err}
}
