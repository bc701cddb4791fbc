package queue

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
)

// Attr is a named attribute of the envelope.
type Attr struct{ Name, Value string }

// Envelope is what a queue file says about a message, but for its recipients.
type Envelope struct {
	Arrival  time.Time
	Created  time.Time // when the queue file was made; zero: now
	Sender   address.Address
	FullName string // of a local sender
	EnvID    string // DSN ENVID, xtext taken off
	Ret      string // DSN RET: "", "FULL", "HDRS"
	Encoding string // "7bit", "8bit", "" unknown
	SendOpts SendOpts
	Rewrite  string    // rewrite_context: "local" or "remote"
	LogIdent string    // the log_ident attribute; Create fills in the queue id where Client is known
	Trace    int       // trace_flags: what sendmail -bv and -v asked for
	Warn     time.Time // when to send a delay warning; zero: never
	Verp     string    // VERP delimiters such as "+="
	Filter   string    // content_filter
	Redirect string
	Client   agent.Client
	Reverse  string // reverse_client_name
	Server   string // address at which the client called
	SrvPort  string
	// LogClient is what the log and XFORWARD show; zero: Client.
	LogClient agent.Client
	// Attrs are all other attributes, in their order.
	Attrs []Attr
}

// SendOpts is the sixth number of the size record: what SMTPUTF8 handling needs.
type SendOpts int

// The bits of SendOpts.
const (
	UTF8Requested SendOpts = 1 << iota // MAIL FROM had SMTPUTF8, or smtputf8_autodetect_classes want it
	UTF8Header                         // the header has octets above 127
	UTF8Sender                         // the sender's address has
	UTF8Recipient                      // a recipient's address has
)

// SMTPUTF8 reports whether the message needs the extension: someone asked for it,
// and something in it does.
func (o SendOpts) SMTPUTF8() bool {
	return o&UTF8Requested != 0 && o&(UTF8Header|UTF8Sender|UTF8Recipient) != 0
}

// Trace flags, Postfix' DEL_REQ_FLAG values as the trace_flags attribute has them.
const (
	TraceMTAVerify   = 1 << 8  // address verification probe
	TraceUserVerify  = 1 << 9  // sendmail -bv
	TraceRecord      = 1 << 10 // sendmail -v
	attrEnvID        = "envelope_id"
	attrRet          = "ret_flags"
	attrCreated      = "create_time"
	attrNotify       = "notify_flags"
	attrORCPT        = "dsn_orig_rcpt"
	attrRewrite      = "rewrite_context"
	attrEncoding     = "encoding"
	attrLogIdent     = "log_ident"
	attrTrace        = "trace_flags"
	attrReverse      = "reverse_client_name"
	attrServer       = "server_address"
	attrServerPort   = "server_port"
	attrFamily       = "client_address_type"
	attrOrigin       = "log_message_origin"
	attrSASLMethod   = "sasl_method"
	attrSASLUser     = "sasl_username"
	maxEnvelopeBytes = 1 << 20 // of records before the recipients
)

// appendAttr appends an attribute; an empty value is left out.
func appendAttr(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	n := len(name) + 1 + len(value)
	b = append(b, byte(TypeAttr))
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	b = append(b, byte(n))
	b = append(b, name...)
	b = append(b, '=')
	return append(b, value...)
}

// appendTo writes the envelope in the order in which Postfix' smtpd and cleanup
// leave it.
func (e *Envelope) appendTo(b []byte, id string) []byte {
	b = AppendRecord(b, TypeTime, fmt.Sprintf("%d %d", e.Arrival.Unix(), e.Arrival.Nanosecond()/1000))
	b = appendAttr(b, attrCreated, strconv.FormatInt(e.Created.Unix(), 10))
	fromClient := e.Client.Addr != ""
	if e.LogIdent == "" && fromClient {
		e.LogIdent = id
	}
	b = appendAttr(b, attrLogIdent, e.LogIdent)
	b = appendAttr(b, attrRewrite, e.Rewrite)
	b = appendAttr(b, attrEnvID, e.EnvID)
	switch e.Ret {
	case "FULL":
		b = appendAttr(b, attrRet, "1")
	case "HDRS":
		b = appendAttr(b, attrRet, "2")
	}
	if e.Trace != 0 {
		b = appendAttr(b, attrTrace, strconv.Itoa(e.Trace))
	}
	if e.Filter != "" {
		b = AppendRecord(b, TypeFilter, e.Filter)
	}
	if e.FullName != "" {
		b = AppendRecord(b, TypeFullName, e.FullName)
	}
	b = AppendRecord(b, TypeSender, e.Sender.String())
	b = appendAttr(b, attrEncoding, e.Encoding)
	if fromClient {
		b = e.appendClient(b)
	}
	b = appendAttr(b, attrSASLMethod, e.Client.SASLMethod)
	b = appendAttr(b, attrSASLUser, e.Client.SASLUser)
	for _, a := range e.Attrs {
		b = appendAttr(b, a.Name, a.Value)
	}
	if e.Verp != "" {
		b = AppendRecord(b, TypeVerp, e.Verp)
	}
	if e.Redirect != "" {
		b = AppendRecord(b, TypeRedirect, e.Redirect)
	}
	if !e.Warn.IsZero() {
		b = AppendRecord(b, TypeWarn, fmt.Sprintf("%15d", e.Warn.Unix()))
	}
	return b
}

func (e *Envelope) appendClient(b []byte) []byte {
	log := e.LogClient
	if log.Addr == "" {
		log = e.Client
	}
	b = appendAttr(b, "log_client_name", log.Name)
	b = appendAttr(b, "log_client_address", log.Addr)
	b = appendAttr(b, "log_client_port", log.Port)
	b = appendAttr(b, attrOrigin, log.Name+"["+log.Addr+"]")
	b = appendAttr(b, "log_helo_name", log.Helo)
	b = appendAttr(b, "log_protocol_name", log.Proto)
	b = appendAttr(b, "client_name", e.Client.Name)
	b = appendAttr(b, attrReverse, e.Reverse)
	b = appendAttr(b, "client_address", e.Client.Addr)
	b = appendAttr(b, "client_port", e.Client.Port)
	b = appendAttr(b, attrServer, e.Server)
	b = appendAttr(b, attrServerPort, e.SrvPort)
	b = appendAttr(b, "helo_name", e.Client.Helo)
	b = appendAttr(b, "protocol_name", e.Client.Proto)
	family := "2" // AF_INET
	if strings.Contains(e.Client.Addr, ":") {
		family = "10" // AF_INET6
	}
	return appendAttr(b, attrFamily, family)
}

// take reads one record of the envelope into e. It reports whether it knew it.
func (e *Envelope) take(t Type, data []byte) (bool, error) {
	switch t {
	case TypeTime:
		var sec, usec int64
		s, u, _ := strings.Cut(string(data), " ")
		sec, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil {
			return true, fmt.Errorf("%w: bad arrival time: %.100q", ErrFormat, data)
		}
		usec, _ = strconv.ParseInt(u, 10, 64)
		e.Arrival = time.Unix(sec, usec%1e6*1000)
	case TypeFullName:
		e.FullName = string(data)
	case TypeFilter:
		e.Filter = string(data)
	case TypeRedirect:
		e.Redirect = string(data)
	case TypeVerp:
		e.Verp = string(data)
	case TypeSender:
		e.Sender = address.Parse(string(data))
	case TypeWarn:
		if sec, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64); err == nil && sec > 0 {
			e.Warn = time.Unix(sec, 0)
		}
	case TypeAttr:
		name, value, ok := strings.Cut(string(data), "=")
		if !ok {
			return true, fmt.Errorf("%w: bad attribute: %.100q", ErrFormat, data)
		}
		e.takeAttr(name, value)
	default:
		return false, nil
	}
	return true, nil
}

// takeAttr keeps an attribute at its place. Of a name that comes twice the last
// one counts: so a later stage corrects an earlier one.
func (e *Envelope) takeAttr(name, value string) {
	number := func() int { n, _ := strconv.Atoi(value); return n }
	switch name {
	case attrCreated:
		e.Created = time.Unix(int64(number()), 0)
	case attrLogIdent:
		e.LogIdent = value
	case attrRewrite:
		e.Rewrite = value
	case attrEnvID:
		e.EnvID = value
	case attrRet:
		e.Ret = [4]string{"", "FULL", "HDRS", ""}[number()&3]
	case attrTrace:
		e.Trace = number()
	case attrEncoding:
		e.Encoding = value
	case "log_client_name":
		e.LogClient.Name = value
	case "log_client_address":
		e.LogClient.Addr = value
	case "log_client_port":
		e.LogClient.Port = value
	case "log_helo_name":
		e.LogClient.Helo = value
	case "log_protocol_name":
		e.LogClient.Proto = value
	case attrOrigin, attrFamily: // made of the others
	case "client_name":
		e.Client.Name = value
	case attrReverse:
		e.Reverse = value
	case "client_address":
		e.Client.Addr = value
	case "client_port":
		e.Client.Port = value
	case attrServer:
		e.Server = value
	case attrServerPort:
		e.SrvPort = value
	case "helo_name":
		e.Client.Helo = value
	case "protocol_name":
		e.Client.Proto = value
	case attrSASLMethod:
		e.Client.SASLMethod = value
	case attrSASLUser:
		e.Client.SASLUser = value
	default:
		e.Attrs = append(e.Attrs, Attr{name, value})
	}
}

// sizes is the size record.
type sizes struct {
	data    int64 // octets of records between content's begin and end
	offset  int64 // where the first record of the content lies
	rcpts   int   // recipients at the beginning
	qmgr    int   // hints for the queue manager
	content int64
	opts    SendOpts
}

// The hints hold, from bit 1 up, the NOTIFY flags of all recipients. Bit 0 says
// that recipients and other records are mixed behind the content.

func (s sizes) String() string {
	return fmt.Sprintf("%15d %15d %15d %15d %15d %15d", s.data, s.offset, s.rcpts, s.qmgr, s.content, s.opts)
}

func parseSizes(data []byte) (s sizes, err error) {
	fields := bytes.Fields(data)
	var n [6]int64
	for i, f := range fields {
		if i < len(n) {
			if n[i], err = strconv.ParseInt(string(f), 10, 64); err != nil || n[i] < 0 {
				return s, fmt.Errorf("%w: bad size record: %.100q", ErrFormat, data)
			}
		}
	}
	if len(fields) < 2 || n[1] == 0 {
		return s, fmt.Errorf("%w: bad size record: %.100q", ErrFormat, data)
	}
	return sizes{n[0], n[1], int(n[2]), int(n[3]), n[4], SendOpts(n[5])}, nil
}
