package milter

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// What a filter may ask for (SMFIF_*). 1<<8, other macros, is among them.
const actions = 0x1ff

// The steps that a filter can do without (SMFIP_*), and what else it may ask for.
const (
	stepRejected = 1 << 11 // wants refused recipients, too
	stepSkip     = 1 << 10 // may say skip
	stepLeading  = 1 << 20 // wants the blank before a header's value
)

// noStep and noReply are the bits by which a filter says that it does not want an
// event, or does not answer it.
var (
	noStep  = map[Event]uint32{EventConnect: 1 << 0, EventHelo: 1 << 1, EventMail: 1 << 2, EventRcpt: 1 << 3, EventBody: 1 << 4, EventHeader: 1 << 5, EventEOH: 1 << 6, EventUnknown: 1 << 8, EventData: 1 << 9}
	noReply = map[Event]uint32{EventHeader: 1 << 7, EventConnect: 1 << 12, EventHelo: 1 << 13, EventMail: 1 << 14, EventRcpt: 1 << 15, EventData: 1 << 16, EventUnknown: 1 << 17, EventEOH: 1 << 18, EventBody: 1 << 19}
)

// offered are the steps of each version.
var offered = map[int]uint32{2: 0x7f, 3: 0x1ff, 4: 0x3ff, 6: 0x1fffff}

const (
	maxReply  = 2 << 20 // octets of a reply: a body piece may be a megabyte
	chunkSize = 65535   // octets of a body piece that is sent
)

// conn is the dialogue with one filter.
type conn struct {
	f      *Filter
	c      *Config
	conn   net.Conn
	r      *bufio.Reader
	steps  uint32
	macros map[Event][]string
	state  state
	def    Verdict // for what comes after the state left open

	skipHeaders, skipBody bool // the filter has seen enough of this letter
}

func orElse(d, def time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return def
}

func (f *conn) warnf(format string, args ...any) {
	if f.c.Warn != nil {
		f.c.Warn(format, args...)
	}
}

// broken ends the dialogue after a failure of communication.
func (f *conn) broken() Verdict {
	f.def = Verdict{Refuse, textTempfail}
	switch f.f.Default {
	case "accept":
		f.def = Verdict{}
	case "reject":
		f.def = Verdict{Refuse, "550 5.5.0 Service unavailable"}
	case "quarantine":
		f.def = Verdict{Kind: Hold}
	case "shutdown":
		f.def = Verdict{Kind: Disconnect}
	}
	return f.end()
}

// misconfigured ends it after a mistake in the settings, or a reply without sense.
func (f *conn) misconfigured() Verdict {
	f.def = Verdict{Refuse, "451 4.3.5 Server configuration problem - try again later"}
	if f.f.Default == "accept" {
		f.def = Verdict{}
	}
	return f.end()
}

func (f *conn) end() Verdict {
	f.state = failed
	if f.conn != nil {
		f.conn.Close()
		f.conn = nil
	}
	return f.def
}

// dial connects and agrees on the protocol.
func (f *conn) dial(ctx context.Context) (Verdict, bool) {
	network, address, err := Address(f.f.Name)
	if err != nil {
		f.warnf("%v", err)
		return f.misconfigured(), false
	}
	ctx, cancel := context.WithTimeout(ctx, orElse(f.f.ConnectTimeout, 30*time.Second))
	defer cancel()
	dial := f.c.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	f.conn, err = dial(ctx, network, address)
	if err != nil {
		f.conn = nil
		f.warnf("connect to Milter service %s: %s", f.f.Name, reason(err))
		return f.broken(), false
	}
	f.r = bufio.NewReader(f.conn)
	if v, ok := f.negotiate(); !ok {
		return v, false
	}
	return Verdict{}, true
}

// reason is the error of the system within err.
func reason(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			break
		}
		err = inner
	}
	if s := err.Error(); s != "" {
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return "Unknown error"
}

func (f *conn) negotiate() (Verdict, bool) {
	version := f.f.Protocol
	if version == 0 {
		version = 6
	}
	steps, ok := offered[version]
	if !ok {
		f.warnf("milter %s: bad protocol information: %d", f.f.Name, version)
		return f.misconfigured(), false
	}
	acts := uint32(actions)
	if version < 6 {
		acts = 0x3f
	}
	var data [12]byte
	binary.BigEndian.PutUint32(data[0:], uint32(version))
	binary.BigEndian.PutUint32(data[4:], acts)
	binary.BigEndian.PutUint32(data[8:], steps)
	wait := orElse(f.f.CommandTimeout, 30*time.Second)
	if err := f.send(eventOptions, data[:], wait); err != nil {
		f.warnf("milter %s: write error in initial handshake", f.f.Name)
		return f.broken(), false
	}
	cmd, reply, err := f.receive(wait)
	switch {
	case err != nil:
		f.warnf("milter %s: can't read %s reply packet header: %s", f.f.Name, eventNames[eventOptions], reason(err))
		f.warnf("milter %s: read error in initial handshake", f.f.Name)
	case Event(cmd) != eventOptions:
		f.warnf("milter %s: unexpected reply \"%c\" in initial handshake", f.f.Name, cmd)
	case len(reply) < 12:
		f.warnf("milter %s: read error in initial handshake", f.f.Name)
	default:
		theirs, want := binary.BigEndian.Uint32(reply), binary.BigEndian.Uint32(reply[4:])
		f.steps = binary.BigEndian.Uint32(reply[8:]) & steps
		if theirs > uint32(version) {
			f.warnf("milter %s: protocol version %d conflict with MTA protocol version %d", f.f.Name, theirs, version)
			break
		}
		if want&^acts != 0 {
			f.warnf("milter %s: request mask 0x%x conflict with MTA request mask 0x%x", f.f.Name, want, acts)
			break
		}
		f.takeMacros(reply[12:])
		return Verdict{}, true
	}
	return f.broken(), false
}

// stages are the events for which a filter may ask for macros of its own (SMFIM_*).
var stages = [...]Event{EventConnect, EventHelo, EventMail, EventRcpt, EventData, EventEOM, EventEOH}

func (f *conn) takeMacros(data []byte) {
	for len(data) >= 4 {
		stage := binary.BigEndian.Uint32(data)
		names, rest, ok := strings.Cut(string(data[4:]), "\x00")
		if !ok {
			return
		}
		if stage < uint32(len(stages)) {
			if f.macros == nil {
				f.macros = make(map[Event][]string)
			}
			f.macros[stages[stage]] = strings.FieldsFunc(names, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' })
		}
		data = []byte(rest)
	}
}

// send writes a packet: its length, the command, the data.
func (f *conn) send(e Event, data []byte, wait time.Duration) error {
	_ = f.conn.SetDeadline(time.Now().Add(wait))
	b := make([]byte, 5, 5+len(data))
	binary.BigEndian.PutUint32(b, uint32(len(data)+1))
	b[4] = byte(e)
	_, err := f.conn.Write(append(b, data...))
	return err
}

func (f *conn) receive(wait time.Duration) (byte, []byte, error) {
	_ = f.conn.SetDeadline(time.Now().Add(wait))
	return readReply(f.r)
}

// readReply reads a packet; memory grows as data arrives, a length is but a claim.
func readReply(r io.Reader) (cmd byte, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > maxReply {
		return 0, nil, fmt.Errorf("bad length: %d", n)
	}
	if n <= 4096 {
		data = make([]byte, n-1)
		_, err = io.ReadFull(r, data)
	} else if data, err = io.ReadAll(io.LimitReader(r, int64(n-1))); err == nil && len(data) < int(n-1) {
		err = io.ErrUnexpectedEOF
	}
	return head[4], data, err
}

// sendMacros sends what the filter shall know with an event.
func (f *conn) sendMacros(e Event, m Lookup, wait time.Duration) error {
	stage := e
	switch e { // these have no list of their own
	case EventHeader:
		stage = EventEOH
	case EventBody:
		stage = EventEOM
	}
	names, own := f.macros[stage]
	if !own {
		names = f.c.Macros[stage]
	}
	if m == nil || len(names) == 0 {
		return nil
	}
	data := []byte{byte(e)}
	for _, name := range names {
		if v, ok := m(name); ok {
			data = append(append(append(append(data, name...), 0), v...), 0)
		}
	}
	return f.send(eventMacro, data, wait)
}

// event tells the filter one thing and takes its answer. edits is nil but at the end
// of the message.
func (f *conn) event(e Event, data []byte, m Lookup, edits Edits) Verdict {
	if f.conn == nil || f.state != open {
		return f.def
	}
	if f.steps&noStep[e] != 0 {
		return Verdict{}
	}
	wait := orElse(f.f.CommandTimeout, 30*time.Second)
	switch e {
	case EventHeader, EventEOH, EventBody, EventEOM:
		wait = orElse(f.f.ContentTimeout, 300*time.Second)
	}
	err := f.sendMacros(e, m, wait)
	if err == nil {
		err = f.send(e, data, wait)
	}
	if err != nil {
		f.warnf("milter %s: error writing command: %s", f.f.Name, reason(err))
		return f.broken()
	}
	if f.steps&noReply[e] != 0 {
		return Verdict{}
	}
	for {
		cmd, reply, err := f.receive(wait)
		if err != nil {
			f.warnf("milter %s: can't read %s reply packet header: %s", f.f.Name, eventNames[e], reason(err))
			return f.broken()
		}
		if v, done := f.reply(e, cmd, reply, edits); done {
			return v
		}
	}
}

// reply carries out one reply; done is false where more of them follow.
func (f *conn) reply(e Event, cmd byte, data []byte, edits Edits) (v Verdict, done bool) {
	connecting := e == EventConnect || e == EventHelo
	refuse := func(text string) (Verdict, bool) {
		if connecting {
			f.state, f.def = rejectConn, Verdict{Refuse, text}
		}
		return Verdict{Refuse, text}, true
	}
	switch cmd {
	case 'c': // continue
		return Verdict{}, true
	case 'p': // progress: be patient
		return Verdict{}, false
	case 's': // skip
		f.skipHeaders, f.skipBody = f.skipHeaders || e == EventHeader, f.skipBody || e == EventBody
		return Verdict{}, true
	case 'a': // accept
		f.state, f.def = acceptMessage, Verdict{}
		if connecting {
			f.state = acceptConn
		}
		return Verdict{}, true
	case 'r': // reject
		return refuse(textReject)
	case 't': // tempfail
		return refuse(textTempfail)
	case 'd': // discard
		return Verdict{Kind: Discard}, true
	case 'q': // quarantine; its reason is logged by whoever holds the letter
		return f.held(e)
	case '4': // shutdown
		f.state, f.def = rejectConn, Verdict{Kind: Disconnect}
		return f.def, true
	case 'f': // connection failure
		return f.broken(), true
	case 'y':
		text, ok := replyText(data)
		if !ok {
			f.warnf("milter %s: malformed reply: %.100q", f.f.Name, data)
			return f.misconfigured(), true
		}
		return refuse(text)
	}
	if e != EventEOM || edits == nil {
		f.warnf("milter %s: unexpected filter response %q after event %s", f.f.Name, cmd, eventNames[e])
		return f.broken(), true
	}
	return f.edit(cmd, data, edits)
}

// held: a quarantine does not end the replies at the end of a message.
func (f *conn) held(e Event) (Verdict, bool) {
	if e == EventEOM {
		f.def = Verdict{Kind: Hold}
		return f.def, false
	}
	return Verdict{Kind: Hold}, true
}

// replyText checks the reply that a filter makes up: "550 5.7.1 text", maybe in
// several lines. %% is %, and a single % is nothing.
func replyText(data []byte) (string, bool) {
	s, _, _ := strings.Cut(string(data), "\x00")
	if len(s) < 5 || s[0] != '4' && s[0] != '5' || !digit(s[1]) || !digit(s[2]) || s[3] != ' ' && s[3] != '-' || s[4] != s[0] {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if i++; i == len(s) {
				break
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), true
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// edit carries out a wish for a change.
func (f *conn) edit(cmd byte, data []byte, edits Edits) (Verdict, bool) {
	index := -1
	if cmd == 'm' || cmd == 'i' {
		if len(data) < 4 {
			f.warnf("milter %s: short packet", f.f.Name)
			return f.broken(), true
		}
		index, data = int(int32(binary.BigEndian.Uint32(data))), data[4:]
	}
	if cmd == 'b' {
		err := edits.ReplaceBody(data)
		return f.edited(err)
	}
	s := strings.Split(string(data), "\x00")
	arg := func(i int) string {
		if i < len(s) {
			return s[i]
		}
		return ""
	}
	if arg(0) == "" && cmd != 'e' || len(s) < 2 {
		f.warnf("milter %s: malformed request %q", f.f.Name, cmd)
		return f.misconfigured(), true
	}
	var err error
	switch cmd {
	case 'h':
		err = edits.AddHeader(arg(0), arg(1))
	case 'i':
		if index < 0 {
			f.warnf("milter %s: bad insert header index: %d", f.f.Name, index)
			return f.misconfigured(), true
		}
		err = edits.InsertHeader(index, arg(0), arg(1))
	case 'm':
		if index == 0 {
			index = 1
		}
		if index < 0 {
			f.warnf("milter %s: bad change header index: %d", f.f.Name, index)
			return f.misconfigured(), true
		}
		err = edits.ChangeHeader(index, arg(0), arg(1))
	case '+', '2':
		err = edits.AddRecipient(arg(0), arg(1))
	case '-':
		err = edits.DeleteRecipient(arg(0))
	case 'e':
		err = edits.ChangeFrom(arg(0), arg(1))
	default:
		f.warnf("milter %s: unexpected filter response %q after event %s", f.f.Name, cmd, eventNames[EventEOM])
		return f.broken(), true
	}
	return f.edited(err)
}

// edited: a change that could not be made costs the letter, for now.
func (f *conn) edited(err error) (Verdict, bool) {
	if err != nil {
		f.warnf("milter %s: %v", f.f.Name, err)
		return Verdict{Refuse, "451 4.3.0 queue file write error"}, true
	}
	return Verdict{}, false
}

// errDone ends Content.Each early: the filter has spoken.
var errDone = errors.New("done")

func (f *conn) message(content Content, edits Edits, eoh, eom Lookup) (v Verdict) {
	if f.conn == nil || f.state != open {
		return f.def
	}
	f.skipHeaders, f.skipBody = f.steps&noStep[EventHeader] != 0, f.steps&noStep[EventBody] != 0
	var chunk []byte
	say := func(e Event, data []byte, m Lookup) error {
		if v = f.event(e, data, m, nil); v.Kind != Pass || f.state != open {
			return errDone
		}
		return nil
	}
	flush := func() error {
		if len(chunk) == 0 || f.skipBody {
			return nil
		}
		err := say(EventBody, chunk, eom)
		chunk = chunk[:0]
		return err
	}
	err := content.Each(func(name, value string) error {
		if f.skipHeaders {
			return nil
		}
		if f.steps&stepLeading == 0 {
			value = strings.TrimPrefix(value, " ")
		}
		return say(EventHeader, []byte(name+"\x00"+value+"\x00"), eoh)
	}, func() error { return say(EventEOH, nil, eoh) }, func(p []byte) error {
		for len(p) > 0 && !f.skipBody {
			n := min(len(p), chunkSize-len(chunk))
			chunk, p = append(chunk, p[:n]...), p[n:]
			if len(chunk) == chunkSize {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if errors.Is(err, errDone) {
		return v
	}
	if err != nil {
		f.warnf("milter %s: %v", f.f.Name, err)
		return Verdict{Refuse, "451 4.3.0 queue file write error"}
	}
	v = f.event(EventEOM, nil, eom, edits)
	if v.Kind == Pass && f.def.Kind == Hold {
		v = f.def
	}
	f.def = Verdict{}
	if f.state == acceptMessage {
		f.state = open
	}
	return v
}

func (f *conn) abort() {
	if f.conn == nil || f.state == failed || f.state == acceptConn || f.state == rejectConn {
		return
	}
	f.state, f.def = open, Verdict{}
	if err := f.send(eventAbort, nil, orElse(f.f.CommandTimeout, 30*time.Second)); err != nil {
		f.broken()
	}
}

func (f *conn) close() {
	if f.conn == nil {
		return
	}
	_ = f.send(eventQuit, nil, 5*time.Second)
	f.conn.Close()
	f.conn = nil
}
