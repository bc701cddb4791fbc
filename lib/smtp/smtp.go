// Package smtp speaks SMTP (RFC 5321) and LMTP (RFC 2033), on both sides.
//
// The server engine (Server) reads commands, keeps the order of the dialogue
// and writes replies in the words of Postfix' smtpd(8); what is allowed is
// asked of a Session, one hook for each command. The client (Client) is what a
// delivery agent needs: one transaction with an answer for each recipient.
//
// It promises that message content passes unchanged, NULs and 8-bit bytes
// included, but for line ends (CRLF on the wire, LF in here) and the dots that
// the protocol adds; that nothing but CRLF.CRLF ends DATA; and that whatever
// was sent in clear before STARTTLS is forgotten. An idle connection holds no
// buffer worth the name.
//
// It does not know the disk, the queue, mailboxes, policies or the mail log.
package smtp

import (
	"strconv"
	"strings"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/dsn"
)

// Reply is an answer of the server. The zero Reply stands for the engine's own
// words for success ("250 2.1.5 Ok").
type Reply struct {
	Code   int    // 250; 421 and 521 end the session
	Status string // RFC 3463, "2.1.5"; empty: none is sent
	Text   string // lines parted by \n
}

// Replyf makes a Reply.
func Replyf(code int, status, text string) Reply { return Reply{code, status, text} }

// Fail is the reply for an error: that of the *dsn.Error in it, else a
// temporary one that tells nothing. Fail(nil) is the zero Reply.
func Fail(err error) Reply {
	e := dsn.From(err, "Error: internal error")
	if e == nil {
		return Reply{}
	}
	return Reply{e.ReplyCode(), e.Status(), e.Text}
}

// OK reports whether the reply is positive; the zero Reply is.
func (r Reply) OK() bool { return r.Code < 400 }

// Soft is the reply that soft_bounce makes of it: no failure is final.
func (r Reply) Soft() Reply {
	if r.Code < 500 {
		return r
	}
	r.Code -= 100
	if r.Status != "" {
		r.Status = "4" + r.Status[1:]
	}
	return r
}

// String is the reply in one line, as logs show it.
func (r Reply) String() string {
	s := strconv.Itoa(r.Code)
	if r.Status != "" {
		s += " " + r.Status
	}
	return s + " " + strings.ReplaceAll(r.Text, "\n", " ")
}

// Mail is the MAIL command, read.
type Mail struct {
	From     address.Address
	Raw      string // the path as it was sent, with its brackets
	Size     int64  // SIZE=, RFC 1870; 0: none
	Body     string // BODY=: "", "7BIT" or "8BITMIME"
	SMTPUTF8 bool   // RFC 6531
	Ret      string // RET=: "", "FULL", "HDRS"; RFC 3461
	EnvID    string // ENVID=, xtext taken off
	Auth     string // AUTH=, RFC 4954, xtext taken off
}

// Rcpt is the RCPT command, read.
type Rcpt struct {
	To     address.Address
	Raw    string       // the path as it was sent
	Notify agent.Notify // NOTIFY=; 0: none given
	ORCPT  string       // "rfc822;bob@here.test", xtext taken off
	// IgnoreQuota is Cyrus' IGNOREQUOTA, of LMTP only.
	IgnoreQuota bool
}
