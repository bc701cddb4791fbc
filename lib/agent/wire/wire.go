// Package wire carries agent requests over a unix socket to programs with other
// rights: local, virtual, pipe.
//
// A request is one frame: four octets of length, most significant first, and
// JSON. The open queue file travels as a descriptor with the first octet. The
// answer is a frame with the results. A connection may carry many requests, one
// after the other.
//
// The package does not read the queue file; both ends know its format.
package wire

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/dsn"
	"angarium/lib/ipc"
)

// maxFrame bounds what is read of a frame.
const maxFrame = 16 << 20

// Request is an agent.Request without what can't travel.
type Request struct {
	QueueID, EnvID, Ret, Encoding, NextHop string
	Sender                                 address.Address
	SMTPUTF8, Trace, Verify                bool
	Size                                   int64
	Arrival, Activated                     time.Time
	Client                                 agent.Client
	Recipients                             []agent.Recipient
}

// Result is an agent.Result.
type Result struct {
	Class, Subject, Detail, Reply int // of the error; Class 0: none
	Err, Unix                     string
	Remote                        *dsn.Remote
	Status, Text, Relay, Action   string
	Tag                           string
	Setup, Transmit               time.Duration
	Site                          bool
	Onward                        []agent.Onward
}

// Filer is a message with a file: what can be sent.
type Filer interface {
	// ForReading opens the file for someone who must not change it.
	ForReading() (*os.File, error)
}

// From makes a Request of r.
func From(r *agent.Request) *Request {
	return &Request{
		QueueID: r.QueueID, EnvID: r.EnvID, Ret: r.Ret, Encoding: r.Encoding, NextHop: r.NextHop, Sender: r.Sender,
		SMTPUTF8: r.SMTPUTF8, Trace: r.Trace, Verify: r.Verify, Size: r.Message.Size(), Arrival: r.Arrival, Activated: r.Activated,
		Client: r.Client, Recipients: r.Recipients,
	}
}

// Agent is the request for an agent at the other end.
func (r *Request) Agent(m agent.Message) *agent.Request {
	return &agent.Request{
		QueueID: r.QueueID, EnvID: r.EnvID, Ret: r.Ret, Encoding: r.Encoding, NextHop: r.NextHop, Sender: r.Sender,
		SMTPUTF8: r.SMTPUTF8, Trace: r.Trace, Verify: r.Verify, Arrival: r.Arrival, Activated: r.Activated, Client: r.Client, Recipients: r.Recipients,
		Message: m,
	}
}

// FromResults makes results ready to travel. An error nobody classified stays
// temporary.
func FromResults(list []agent.Result) []Result {
	out := make([]Result, len(list))
	for i, r := range list {
		out[i] = Result{Status: r.Status, Text: r.Text, Relay: r.Relay, Action: r.Action, Tag: r.Tag, Setup: r.Setup, Transmit: r.Transmit, Site: r.Site, Onward: r.Onward}
		if r.Err != nil {
			e := dsn.From(r.Err, r.Err.Error())
			out[i].Class, out[i].Subject, out[i].Detail, out[i].Reply = e.Code[0], e.Code[1], e.Code[2], e.Reply
			out[i].Err, out[i].Remote, out[i].Unix = e.Text, e.Remote, e.Unix
			if e.Text == "" {
				out[i].Err = e.Error()
			}
		}
	}
	return out
}

// Results is the other direction.
func Results(list []Result) []agent.Result {
	out := make([]agent.Result, len(list))
	for i, r := range list {
		out[i] = agent.Result{Status: r.Status, Text: r.Text, Relay: r.Relay, Action: r.Action, Tag: r.Tag, Setup: r.Setup, Transmit: r.Transmit, Site: r.Site, Onward: r.Onward}
		if r.Class != 0 {
			out[i].Err = &dsn.Error{Reply: r.Reply, Code: [3]int{r.Class, r.Subject, r.Detail}, Text: r.Err, Remote: r.Remote, Unix: r.Unix}
		}
	}
	return out
}

// Write writes a frame.
func Write(w io.Writer, v any) error {
	b, err := frame(v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func frame(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(b) > maxFrame {
		return nil, errors.New("request too long")
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...), nil
}

// Read reads a frame.
func Read(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	return readBody(r, head, v)
}

func readBody(r io.Reader, head [4]byte, v any) error {
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return errors.New("request too long")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// Send writes a request with the open queue file.
func Send(c *net.UnixConn, r *Request, f *os.File) error {
	b, err := frame(r)
	if err != nil {
		return err
	}
	if err := ipc.SendFiles(c, b[:4], f); err != nil {
		return err
	}
	_, err = c.Write(b[4:])
	return err
}

// Receive reads a request and the file that came with it. io.EOF: there are no
// more.
func Receive(c *net.UnixConn) (*Request, *os.File, error) {
	var head [4]byte
	n, files, err := ipc.ReceiveFiles(c, head[:])
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil && n < 4 {
		_, err = io.ReadFull(c, head[n:])
	}
	r := &Request{}
	if err == nil {
		err = readBody(c, head, r)
	}
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("%d descriptors instead of one", len(files))
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, nil, err
	}
	return r, files[0], nil
}

// Agent is an agent.Agent that asks a program behind a socket. What goes wrong
// on the way there is temporary.
func Agent(path string) agent.Agent {
	return func(ctx context.Context, r *agent.Request) []agent.Result {
		list, err := ask(ctx, path, r)
		if err == nil && len(list) != len(r.Recipients) {
			err = errors.New("wrong number of results")
		}
		if err == nil {
			return list
		}
		list = make([]agent.Result, len(r.Recipients))
		for i := range list {
			list[i] = agent.Result{Err: &dsn.Error{Code: [3]int{4, 3, 0}, Text: "mail transport unavailable", Err: noTransport{err}}, Relay: "none", Site: true}
		}
		return list
	}
}

// noTransport is why the program could not be asked.
type noTransport struct{ err error }

func (n noTransport) Error() string        { return reason(n.err) }
func (n noTransport) Unwrap() error        { return n.err }
func (n noTransport) Is(target error) bool { return target == agent.ErrNoTransport }

func reason(err error) string {
	var no syscall.Errno
	if errors.As(err, &no) && no.Error() != "" {
		return strings.ToUpper(no.Error()[:1]) + no.Error()[1:]
	}
	return err.Error()
}

func ask(ctx context.Context, path string, r *agent.Request) ([]agent.Result, error) {
	m, ok := r.Message.(Filer)
	if !ok {
		return nil, errors.New("the message has no file")
	}
	f, err := m.ForReading()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := ipc.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := Send(c, From(r), f); err != nil {
		return nil, err
	}
	var list []Result
	if err := Read(c, &list); err != nil {
		return nil, err
	}
	return Results(list), nil
}
