package smtp

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
)

// ClientOptions are the settings of a Client. The zero value is usable.
type ClientOptions struct {
	LMTP  bool
	Helo  string // our name in HELO, EHLO, LHLO; "": localhost
	Host  string // the server as errors and logs name it: "mx.example.org[192.0.2.1]"
	Plain bool   // smtp_never_send_ehlo

	// Time-outs of each step; 0: those of smtp(8).
	HeloTimeout, MailTimeout, RcptTimeout                  time.Duration // 300 s each
	DataInitTimeout, DataXferTimeout, DataDoneTimeout      time.Duration // 120 s, 180 s, 600 s
	StartTLSTimeout, RsetTimeout, QuitTimeout, AuthTimeout time.Duration // 300 s, 20 s, 300 s, 300 s

	Discard   []string // EHLO keywords to ignore, lower case
	LineLimit int      // smtp_line_length_limit; 0: 998. Longer lines are folded as smtp(8) does; < 0: never
}

// Client is one connection to a mail server. It is not safe for concurrent use.
// Every error of its methods is a *dsn.Error. After an error for which Broken
// reports true only Close is of use.
type Client struct {
}

// NewClient takes over a connection. Nothing is read or written yet.
func NewClient(conn net.Conn, o ClientOptions) *Client { panic("not written yet") }

// Dial connects and calls NewClient. The error says "connect to " + o.Host +
// ":port: Connection refused", as smtp(8) does, with status 4.4.1.
func Dial(ctx context.Context, network, address string, o ClientOptions) (*Client, error) {
	panic("not written yet")
}

// Hello reads the greeting and introduces us: EHLO, then HELO if the server
// does not know EHLO; LHLO for LMTP.
func (c *Client) Hello(ctx context.Context) error { panic("not written yet") }

// Extension is what the server said behind an EHLO keyword (in capitals).
func (c *Client) Extension(name string) (params string, ok bool) { panic("not written yet") }

// StartTLS asks for TLS, shakes hands, and says EHLO again.
func (c *Client) StartTLS(ctx context.Context, conf *tls.Config) error { panic("not written yet") }

// Handshake begins TLS at once (wrapper mode), before Hello.
func (c *Client) Handshake(ctx context.Context, conf *tls.Config) error { panic("not written yet") }

// TLS is the state of the secure layer, nil if there is none.
func (c *Client) TLS() *tls.ConnectionState { panic("not written yet") }

// Authenticator is the client's side of a SASL mechanism.
type ClientExchange interface {
	// Start names the mechanism; initial is nil if there is no initial response.
	Start() (mech string, initial []byte, err error)
	// Next answers a challenge.
	Next(challenge []byte) (response []byte, err error)
}

// Auth logs in (RFC 4954).
func (c *Client) Auth(ctx context.Context, x ClientExchange) error { panic("not written yet") }

// Message is one transaction.
type Message struct {
	From       address.Address
	Size       int64  // of the content with LF line ends; for SIZE=
	Body       string // "8BITMIME", "7BIT" or ""; sent if the server offers it
	SMTPUTF8   bool   // needs SMTPUTF8
	EnvID, Ret string // DSN; sent if the server offers it
	Recipients []Envelope
	Content    io.Reader // LF line ends
	Chunking   bool      // BDAT instead of DATA, if the server offers it
}

// Envelope is one recipient of a Message.
type Envelope struct {
	To     address.Address
	Notify agent.Notify
	ORCPT  string
}

// Answer is what became of one recipient: Err nil means the server took it,
// and Reply is its last word ("250 2.0.0 Ok: queued as 4F1A23C0").
type Answer struct {
	Err   error // *dsn.Error
	Reply string
}

// Send transfers a message, pipelined where the server allows, and answers for
// each recipient, in order.
func (c *Client) Send(ctx context.Context, m *Message) []Answer { panic("not written yet") }

// Reset says RSET: may the connection be used again?
func (c *Client) Reset(ctx context.Context) error { panic("not written yet") }

// Broken reports whether the connection is of no further use.
func (c *Client) Broken() bool { panic("not written yet") }

// Quit says QUIT, does not wait for the answer, and closes.
func (c *Client) Quit(ctx context.Context) error { panic("not written yet") }

// Close closes at once.
func (c *Client) Close() error { panic("not written yet") }
