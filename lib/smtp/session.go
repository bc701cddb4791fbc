package smtp

import (
	"context"
	"crypto/tls"
	"io"
)

// Session is the behaviour behind one connection. The engine calls one hook at
// a time, in the order of the dialogue, never two at once. A zero Reply means
// the engine's own words for success; an error becomes a Reply by Fail.
type Session interface {
	// Connect is asked before the greeting; the reply is the banner. A zero
	// Reply greets with "220 host ESMTP" (LMTP: "220 host LMTP").
	Connect(ctx context.Context) Reply

	// Helo is HELO, EHLO or LHLO (verb in capitals) with the client's name.
	// A positive reply to EHLO and LHLO becomes the list of extensions.
	Helo(ctx context.Context, verb, name string) Reply

	// Mail begins a transaction.
	Mail(ctx context.Context, m Mail) Reply

	// Rcpt adds a recipient; the engine counts those with positive replies.
	Rcpt(ctx context.Context, r Rcpt) Reply

	// Data is asked before "354" (and before the first BDAT chunk is read).
	Data(ctx context.Context) Reply

	// Content reads the message to its end, header and body, lines ending in
	// LF. What it leaves unread the engine throws away. For SMTP one reply,
	// for LMTP one per accepted recipient, in order; a single one stands for
	// all. An error from body (lost connection, too large, bare LF) may be
	// returned as Fail(err); after a lost connection nobody reads the reply.
	Content(ctx context.Context, body io.Reader) []Reply

	// Reset ends a transaction without a message: RSET, HELO, STARTTLS, QUIT,
	// the end of the connection. It comes after every Mail with a positive
	// reply, also after Content; it may come when there is nothing to reset.
	Reset()

	// End is the last call. The connection is closed afterwards.
	End(End)
}

// End tells how a session ended.
type End struct {
	Reason Reason
	After  string // "CONNECT", "RCPT", "DATA (153 bytes)", "END-OF-MESSAGE"...
	Err    error  // what the connection said
}

// Reason is why a session ended.
type Reason int

const (
	Quit          Reason = iota // the client said QUIT, or the server 421/521
	Lost                        // lost connection
	TimedOut                    // timeout
	TooManyErrors               // too many errors
	Stopped                     // we are going down
	BareNewline                 // smtpd_forbid_bare_newline = reject
	Pipelined                   // smtpd_forbid_unauth_pipelining
)

// The following are second interfaces: a Session that has them offers more.

// Verifier answers VRFY. Without it: 252 2.0.0 and the address.
type Verifier interface {
	Vrfy(ctx context.Context, arg string) Reply
}

// Resetter answers RSET in its own words.
type Resetter interface{ Rset() Reply }

// Turner answers ETRN (RFC 1985). Without it ETRN is not offered.
type Turner interface {
	Etrn(ctx context.Context, site string) Reply
}

// Authenticator offers AUTH (RFC 4954).
type Authenticator interface {
	// Mechanisms are the names after "AUTH" now; none: AUTH is not offered.
	Mechanisms() []string
	// AuthAllowed is asked first; a negative reply is the answer.
	AuthAllowed(ctx context.Context) Reply
	// Auth begins an exchange; mech is as the client wrote it. A negative Reply
	// refuses.
	Auth(ctx context.Context, mech string) (Exchange, Reply)
	// AuthDone ends it; err is nil after success. x is nil if the initial response
	// was no base64: then Auth was not called. A zero Reply is
	// "235 2.7.0 Authentication successful" or "535 5.7.8 Error:
	// authentication failed: " and the reason.
	AuthDone(ctx context.Context, mech string, x Exchange, err error) Reply
}

// Exchange is the server's side of a SASL mechanism, as lib/sasl has it. The
// response is nil where the client sent no initial one. A challenge that comes
// with done is sent, and answered by an empty response, before success is told.
type Exchange interface {
	Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error)
}

// Securer hears of TLS.
type Securer interface {
	// StartTLS is asked before "220 2.0.0 Ready to start TLS"; the zero Reply
	// agrees.
	StartTLS(ctx context.Context) Reply
	// Secured is told how the handshake went; the connection ends if err is
	// not nil, or if it returns a negative Reply.
	Secured(ctx context.Context, state *tls.ConnectionState, err error) Reply
}

// Extender knows commands that the engine does not (XCLIENT, XFORWARD).
type Extender interface {
	// Extensions are further EHLO lines.
	Extensions() []string
	// Extend carries out a command; known is false if it does not know verb.
	Extend(ctx context.Context, verb, args string) (r Reply, known bool)
}

// Footer has more to say in refusals (4xx and 5xx). It returns the text, of one line
// or several, that goes out instead of r.Text.
type Footer interface {
	Footer(r Reply) string
}

// Watcher is told of what the engine saw and answered on its own, for the log.
type Watcher interface {
	Odd(what Oddity, verb, text string)
}

// Oddity is something that the engine saw.
type Oddity int

const (
	OddNonSMTP     Oddity = iota // a command of another protocol; text is the line
	OddLongLine                  // a command longer than the limit; text is its begin
	OddAddress                   // no address; text is what came instead
	OddNotify                    // bad NOTIFY; text is its value
	OddChunk                     // malformed BDAT; text is the line
	OddChunkSize                 // BDAT over the size limit
	OddNoChunk                   // BDAT 0 that is not the last
	OddPipelining                // a client that does not await its turn; text is what came
	OddBareNewline               // bare <LF> received, and forbidden
	OddNewlineNote               // bare <LF> received, to be noted
	OddDiscarded                 // smtpd_discard_ehlo_keywords; text is the list
	OddTooLarge                  // SIZE= over the limit; text is the answer, "; " and the sender
)
