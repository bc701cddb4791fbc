// Package milter speaks the mail filter protocol of Sendmail 8, versions 2 to 6, from
// the side of the mail server: a Session tells a chain of Filters what a client does
// and what its letter says, and learns what they want.
//
// It promises that a filter which does not answer, or makes no sense, costs what its
// Filter.Default says and nothing else, that a Session waits no longer than the
// time-outs, and that a reply takes memory only as its octets arrive. It does not know
// the queue: who calls it carries out the Edits.
package milter

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"
)

// Filter is one program. A zero time-out stands for Postfix' default.
type Filter struct {
	Name           string // as the settings have it: "inet:host:port", "unix:path"; for log lines
	Protocol       int    // milter_protocol: 2, 3, 4 or 6; 0: 6
	Default        string // milter_default_action: accept, reject, tempfail, quarantine, shutdown; "": tempfail
	ConnectTimeout time.Duration
	CommandTimeout time.Duration
	ContentTimeout time.Duration
}

// Config is what the sessions of a service have in common. It must not change.
type Config struct {
	Filters []Filter
	Macros  map[Event][]string // names that are sent with an event, such as "i" or "{auth_type}"
	Warn    func(format string, args ...any)
	// Dial connects; nil: net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Event is a step of the dialogue, by its letter in the protocol.
type Event byte

// The events.
const (
	EventConnect Event = 'C'
	EventHelo    Event = 'H'
	EventMail    Event = 'M'
	EventRcpt    Event = 'R'
	EventData    Event = 'T'
	EventHeader  Event = 'L'
	EventEOH     Event = 'N'
	EventBody    Event = 'B'
	EventEOM     Event = 'E'
	EventUnknown Event = 'U'
	eventAbort   Event = 'A'
	eventQuit    Event = 'Q'
	eventMacro   Event = 'D'
	eventOptions Event = 'O'
)

var eventNames = map[Event]string{
	EventConnect: "SMFIC_CONNECT", EventHelo: "SMFIC_HELO", EventMail: "SMFIC_MAIL", EventRcpt: "SMFIC_RCPT", EventData: "SMFIC_DATA",
	EventHeader: "SMFIC_HEADER", EventEOH: "SMFIC_EOH", EventBody: "SMFIC_BODY", EventEOM: "SMFIC_BODYEOB", EventUnknown: "SMFIC_UNKNOWN",
	eventOptions: "SMFIC_OPTNEG",
}

// Verdict is what the filters say about an event. The zero value lets it pass.
type Verdict struct {
	Kind Kind
	Text string // Refuse: "550 5.7.1 text"; further lines follow "\r\n550-..."
}

// Kind is the kind of a Verdict.
type Kind int

// The kinds.
const (
	Pass       Kind = iota
	Refuse          // Text is the reply to the client
	Discard         // take it and forget it
	Hold            // quarantine
	Disconnect      // 421
)

const (
	textTempfail = "451 4.7.1 Service unavailable - try again later"
	textReject   = "550 5.7.1 Command rejected"
)

// Client is who connected.
type Client struct {
	Name string // "unknown" if it has none
	Addr string // "192.0.2.1", "2001:db8::1"; "": unknown
	Port int
}

// Lookup gives the value of a macro; ok is false if there is none now.
type Lookup func(name string) (value string, ok bool)

// Edits are what filters change in a letter, in their order.
type Edits interface {
	AddHeader(name, value string) error
	// InsertHeader puts a header before the one at index, counted from 0 at the top.
	InsertHeader(index int, name, value string) error
	// ChangeHeader replaces the index-th header of that name, counted from 1; an
	// empty value deletes it.
	ChangeHeader(index int, name, value string) error
	// ReplaceBody comes in pieces: the first takes the place of all that was there.
	ReplaceBody(piece []byte) error
	AddRecipient(addr, args string) error
	DeleteRecipient(addr string) error
	ChangeFrom(addr, args string) error
}

// Content gives a letter to the filters; it is called once for each of them.
type Content interface {
	// Each calls header for every header with the value as it stands, without the
	// first blank, then eoh, then body with pieces that have CRLF line ends.
	// It stops at the first error and returns it.
	Each(header func(name, value string) error, eoh func() error, body func([]byte) error) error
}

// state is how far a filter wants to hear of things.
type state int

const (
	open          state = iota
	acceptMessage       // no more about this message
	acceptConn          // nor about this client
	rejectConn
	failed
)

// Session is one client's dialogue with all filters. It is not safe for concurrent use.
type Session struct {
	c       *Config
	filters []*conn
}

// Begin opens a session; the filters are connected by Connect.
func (c *Config) Begin() *Session {
	s := &Session{c: c}
	for i := range c.Filters {
		s.filters = append(s.filters, &conn{f: &c.Filters[i], c: c})
	}
	return s
}

// each asks the filters in their order; the first that does not let pass decides.
func (s *Session) each(ask func(*conn) Verdict) (v Verdict) {
	held := false
	for _, f := range s.filters {
		v = ask(f)
		if v.Kind == Hold {
			held = true
			continue
		}
		if v.Kind != Pass {
			return v
		}
	}
	if held {
		return Verdict{Kind: Hold}
	}
	return Verdict{}
}

// Connect tells who is there.
func (s *Session) Connect(ctx context.Context, cl Client, m Lookup) Verdict {
	return s.each(func(f *conn) Verdict {
		if v, ok := f.dial(ctx); !ok {
			return v
		}
		data := append([]byte(cl.Name), 0)
		switch {
		case cl.Addr == "":
			data = append(data, 'U')
		case strings.Contains(cl.Addr, ":"):
			data = append(append(data, '6', byte(cl.Port>>8), byte(cl.Port)), cl.Addr+"\x00"...)
		default:
			data = append(append(data, '4', byte(cl.Port>>8), byte(cl.Port)), cl.Addr+"\x00"...)
		}
		return f.event(EventConnect, data, m, nil)
	})
}

// Helo tells the client's name for itself.
func (s *Session) Helo(name string, m Lookup) Verdict {
	return s.each(func(f *conn) Verdict { return f.event(EventHelo, append([]byte(name), 0), m, nil) })
}

// args are the arguments of MAIL and RCPT: "<addr>" and the ESMTP parameters.
func args(list []string) []byte { return append([]byte(strings.Join(list, "\x00")), 0) }

// Mail tells the sender, in angle brackets, and the parameters.
func (s *Session) Mail(list []string, m Lookup) Verdict {
	return s.each(func(f *conn) Verdict {
		if f.state == acceptMessage {
			f.state = open
		}
		return f.event(EventMail, args(list), m, nil)
	})
}

// Rcpt tells a recipient, in angle brackets, and the parameters.
func (s *Session) Rcpt(list []string, m Lookup) Verdict {
	return s.each(func(f *conn) Verdict { return f.event(EventRcpt, args(list), m, nil) })
}

// WantsRejects reports whether a filter wants to hear of refused recipients, too.
func (s *Session) WantsRejects() bool {
	for _, f := range s.filters {
		if f.state == open && f.steps&stepRejected != 0 {
			return true
		}
	}
	return false
}

// RejectedRcpt tells the filters that asked for it of a refused recipient; what they
// say changes nothing.
func (s *Session) RejectedRcpt(list []string, m Lookup) {
	for _, f := range s.filters {
		if f.steps&stepRejected != 0 {
			_ = f.event(EventRcpt, args(list), m, nil)
		}
	}
}

// Data tells of DATA or the first BDAT.
func (s *Session) Data(m Lookup) Verdict {
	return s.each(func(f *conn) Verdict { return f.event(EventData, nil, m, nil) })
}

// Unknown tells a command that we do not know.
func (s *Session) Unknown(line string, m Lookup) Verdict {
	return s.each(func(f *conn) Verdict { return f.event(EventUnknown, append([]byte(line), 0), m, nil) })
}

// Message gives a letter to the filters, and their wishes to edits. What one filter
// changes the next one sees if content shows it.
func (s *Session) Message(content Content, edits Edits, eoh, eom Lookup) Verdict {
	return s.each(func(f *conn) Verdict { return f.message(content, edits, eoh, eom) })
}

// Abort ends the message.
func (s *Session) Abort() {
	for _, f := range s.filters {
		f.abort()
	}
}

// Close ends the session.
func (s *Session) Close() {
	for _, f := range s.filters {
		f.close()
	}
}

// Address parts "inet:host:port" and "unix:path" as net.Dial wants them.
func Address(name string) (network, address string, err error) {
	kind, rest, ok := strings.Cut(name, ":")
	if !ok || kind == "" || rest == "" {
		return "", "", endpointError(name)
	}
	switch kind {
	case "unix", "local":
		return "unix", rest, nil
	case "inet", "inet6":
		if !strings.Contains(rest, ":") {
			rest = ":" + rest
		}
		if strings.Contains(rest, "@") { // port@host, as Sendmail writes it
			port, host, _ := strings.Cut(rest, "@")
			rest = net.JoinHostPort(host, strings.TrimPrefix(port, ":"))
		}
		if strings.HasPrefix(rest, ":") {
			rest = "localhost" + rest
		}
		return "tcp", rest, nil
	}
	return "", "", fmt.Errorf("invalid transport name: %s in Milter service: %s", kind, name)
}

// endpointError is for a name that is none, in Postfix' words.
type endpointError string

func (e endpointError) Error() string {
	return `Milter service needs transport:endpoint instead of "` + string(e) + `"`
}
