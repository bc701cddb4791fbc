// Package agent is the contract between the queue manager and whoever delivers
// for it: one message, some recipients with one next hop, an answer for each.
//
// The same function serves in-process (smtp, lmtp, error, discard) or behind a
// socket in a program with other rights (local, virtual, pipe), where the open
// queue file travels as a descriptor. The package does not know the queue's
// format nor any way of delivering.
package agent

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"angarium/lib/address"
	"angarium/lib/maillog"
)

// Message is an open message of the queue, safe for concurrent use.
type Message interface {
	// Content reads header and body from the start, lines ending in LF.
	// Each call gives an independent reader.
	Content() io.Reader
	// Size is the length of the content in octets, with LF line ends.
	Size() int64
}

// Notify is what the sender wants to hear about a recipient, RFC 3461, 4.1.
type Notify uint8

const (
	NotifyNever   Notify = 1 << iota // NEVER
	NotifySuccess                    // SUCCESS
	NotifyFailure                    // FAILURE
	NotifyDelay                      // DELAY
)

// WithoutSuccess is n for those to whom an alias leads, once the sender is told of
// the alias: a wish for nothing but success becomes NEVER, not the default.
func (n Notify) WithoutSuccess() Notify {
	if n == NotifySuccess {
		return NotifyNever
	}
	return n &^ NotifySuccess
}

// Recipient is one envelope recipient.
type Recipient struct {
	Address  address.Address
	Original address.Address // before rewriting and aliases; the log's orig_to
	ORCPT    string          // DSN original recipient, "rfc822;bob@here.test" with xtext taken off; or ""
	Notify   Notify          // 0: default (FAILURE, DELAY)
	Offset   int64           // where the queue file holds it; see queue

	// For agents with other rights: what an alias led to ("|command", "/file",
	// ":include:/file"; empty: the mailbox), and who owns that alias.
	Target, User string
	// Delivered is what Delivered-To: says, where that is not Address: the alias
	// that a delivery began with (frozen_delivered_to).
	Delivered address.Address
}

// Request is one delivery attempt.
type Request struct {
	QueueID    string
	Sender     address.Address
	EnvID      string // DSN ENVID, xtext taken off
	Ret        string // DSN RET: "", "FULL", "HDRS"
	Encoding   string // "7bit", "8bit", "" unknown
	SMTPUTF8   bool   // the message needs SMTPUTF8
	AskUTF8    bool   // its sender asked for SMTPUTF8: needed or not, it goes on
	Message    Message
	Recipients []Recipient
	NextHop    string // "[mx.example.org]:25", "unix:/run/lmtp", text for error
	Arrival    time.Time
	Activated  time.Time // when it entered the active queue
	Client     Client    // where the message came from, for pipe macros
	Seen       Seen      // and as XFORWARD tells it
	Log        *maillog.Logger
	Trace      bool // sendmail -bv, -v: report, and with Verify deliver nothing
	Verify     bool
	More       bool // more mail for this next hop is near: keep the connection
}

// Client is where a message came from; empty fields are unknown.
type Client struct {
	Name, Addr, Port, Helo, Proto string
	SASLMethod, SASLUser          string
}

// Seen is what the next server may log of where a message came from.
type Seen struct {
	Client Client
	Ident  string // the queue id under which the first server of this site has it
	Source string // "LOCAL", "REMOTE" (whose domain bare names get); "": unknown
}

// Result is what became of one recipient. Err nil: delivered. Relay, Timing and
// Reply are for the log line; DSN for reports ("2.0.0").
type Result struct {
	Err    error  // a *dsn.Error where it is classified
	Status string // DSN code when delivered, "2.0.0" if empty
	Text   string // the log's text in parentheses when delivered, "250 2.0.0 Ok"
	Relay  string // "mx.example.org[192.0.2.1]:25", "local", "none"
	Reuse  int    // conn_use; 0 or 1: a connection of its own
	Tag    string // of the log line, "postfix/pipe"; empty: the transport's
	// Setup and Transmit are the last two of the log's delays=a/b/c/d.
	Setup, Transmit time.Duration

	// Site says that Err is about the next hop as a whole (it was not reached, or
	// did not greet), not about this recipient: a reason to send it less at a time.
	Site bool
	// Action is what a DSN about success says: "delivered" or "relayed"; empty if
	// the next hop took over the duty to report, RFC 3461, 5.2.2.
	Action string
	// Onward is where the recipient goes instead, if neither delivered nor failed.
	Onward []Onward
}

// Onward is a place to which an agent passes a recipient on.
type Onward struct {
	To  address.Address
	Hop string // "transport:nexthop"; empty: To goes into a new message
}

// ErrNoTransport is wrapped by the results of an agent that is a program of its
// own and can't be reached.
var ErrNoTransport = errors.New("mail transport unavailable")

// Agent delivers to all recipients of r and answers for each, in order. It must
// return a Result for every recipient, also when ctx ends.
type Agent func(ctx context.Context, r *Request) []Result

// ORCPT is the original recipient of a DSN where the sender named none: the address
// as it was typed, with its type. RFC 3461, section 4.2; RFC 6533, section 3.
func ORCPT(typed string) string {
	if strings.IndexFunc(typed, func(r rune) bool { return r >= 0x80 }) >= 0 {
		return "utf-8;" + typed
	}
	return "rfc822;" + typed
}
