package milter

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// program is a filter: it notes what it hears, and answers an event with the packets
// that answers holds for it, else with continue.
type program struct {
	heard   strings.Builder
	answers map[Event]string // packets as "r" or "y550 5.7.1 no\x00", parted by |
	steps   uint32
	actions uint32
}

func packet(s string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(s)))
	return append(b, s...)
}

func (p *program) serve(c net.Conn, done chan<- struct{}) {
	defer close(done)
	defer c.Close()
	for {
		cmd, data, err := readReply(c)
		if err != nil {
			return
		}
		if e := Event(cmd); e == eventOptions {
			reply := []byte{'O'}
			for _, n := range []uint32{6, p.actions, p.steps} {
				reply = binary.BigEndian.AppendUint32(reply, n)
			}
			c.Write(packet(string(reply)))
			continue
		} else if fmt.Fprintf(&p.heard, "%c %q\n", cmd, data); e == eventMacro || e == eventAbort || e == eventQuit {
			continue
		} else if a, ok := p.answers[e]; ok {
			for s := range strings.SplitSeq(a, "|") {
				c.Write(packet(s))
			}
			continue
		}
		c.Write(packet("c"))
	}
}

type sample struct{ log strings.Builder }

func (s *sample) Each(h func(string, string) error, eoh func() error, body func([]byte) error) error {
	if err := h("Subject", " x"); err != nil {
		return err
	}
	if err := eoh(); err != nil {
		return err
	}
	return body(bytes.Repeat([]byte("a"), 70000))
}
func (s *sample) note(f string, a ...any) error { fmt.Fprintf(&s.log, f+"\n", a...); return nil }
func (s *sample) AddHeader(n, v string) error   { return s.note("add %s:%s", n, v) }
func (s *sample) InsertHeader(i int, n, v string) error {
	return s.note("insert %d %s:%s", i, n, v)
}
func (s *sample) ChangeHeader(i int, n, v string) error { return s.note("change %d %s:%s", i, n, v) }
func (s *sample) ReplaceBody(p []byte) error            { return s.note("body %q", p) }
func (s *sample) AddRecipient(a, args string) error     { return s.note("rcpt %s %s", a, args) }
func (s *sample) DeleteRecipient(a string) error        { return s.note("not %s", a) }
func (s *sample) ChangeFrom(a, args string) error       { return s.note("from %s %s", a, args) }

// run takes a letter through a filter and returns the verdicts, what was changed and
// what was warned about.
func run(t *testing.T, p *program, def string) (verdicts []Verdict, s *sample, warned string) {
	t.Helper()
	done := make(chan struct{})
	c := &Config{Filters: []Filter{{Name: "inet:filter:1", Default: def, CommandTimeout: 5 * time.Second, ContentTimeout: 5 * time.Second}},
		Macros: map[Event][]string{EventMail: {"i", "{mail_addr}", "{none}"}},
		Warn:   func(f string, a ...any) { warned += fmt.Sprintf(f, a...) + "\n" },
		Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go p.serve(theirs, done)
			return ours, nil
		}}
	macros := func(name string) (string, bool) { return "<" + name + ">", name != "{none}" }
	m := c.Begin()
	s = &sample{}
	verdicts = append(verdicts, m.Connect(context.Background(), Client{"mx.test", "192.0.2.7", 25}, macros), m.Helo("h.test", macros),
		m.Mail([]string{"<a@b>", "SIZE=3"}, macros), m.Rcpt([]string{"<c@d>"}, macros), m.Data(macros), m.Message(s, s, macros, macros))
	m.Close()
	<-done
	return verdicts, s, warned
}

func TestDialogue(t *testing.T) {
	p := &program{actions: actions}
	v, _, warned := run(t, p, "")
	for _, v := range v {
		if v.Kind != Pass {
			t.Error(v)
		}
	}
	want := `C "mx.test\x004\x00\x19192.0.2.7\x00"
H "h.test\x00"
D "Mi\x00<i>\x00{mail_addr}\x00<{mail_addr}>\x00"
M "<a@b>\x00SIZE=3\x00"
R "<c@d>\x00"
T ""
L "Subject\x00x\x00"
N ""
`
	if got := p.heard.String(); !strings.HasPrefix(got, want) || strings.Count(got, "\nB ") != 2 || !strings.HasSuffix(got, "E \"\"\nQ \"\"\n") || warned != "" {
		t.Errorf("%.600s %s", got, warned)
	}
}

func TestReplies(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers map[Event]string
		def     string
		at      int // which verdict
		want    Verdict
		edits   string
	}{
		{"reject", map[Event]string{EventRcpt: "r"}, "", 3, Verdict{Refuse, "550 5.7.1 Command rejected"}, ""},
		{"tempfail", map[Event]string{EventMail: "t"}, "", 2, Verdict{Refuse, "451 4.7.1 Service unavailable - try again later"}, ""},
		{"a client stays refused", map[Event]string{EventConnect: "r"}, "", 3, Verdict{Refuse, "550 5.7.1 Command rejected"}, ""},
		{"accept", map[Event]string{EventMail: "a", EventEOM: "r"}, "", 5, Verdict{}, ""},
		{"discard", map[Event]string{EventEOM: "d"}, "", 5, Verdict{Kind: Discard}, ""},
		{"shutdown", map[Event]string{EventHelo: "4"}, "", 1, Verdict{Kind: Disconnect}, ""},
		{"quarantine", map[Event]string{EventEOM: "qwhy\x00|c"}, "", 5, Verdict{Kind: Hold}, ""},
		{"reply", map[Event]string{EventRcpt: "y554 5.7.9 100%% no%\x00"}, "", 3, Verdict{Refuse, "554 5.7.9 100% no"}, ""},
		{"bad reply", map[Event]string{EventRcpt: "y250 2.0.0 fine\x00"}, "", 3, Verdict{Refuse, "451 4.3.5 Server configuration problem - try again later"}, ""},
		{"nonsense", map[Event]string{EventRcpt: "?"}, "accept", 3, Verdict{}, ""},
		{"nonsense, reject", map[Event]string{EventRcpt: "hA\x00b\x00"}, "reject", 4, Verdict{Refuse, "550 5.5.0 Service unavailable"}, ""},
		{"skip", map[Event]string{EventBody: "s"}, "", 5, Verdict{}, ""},
		{"edits", map[Event]string{EventEOM: "p|hA\x00b\x00|i\x00\x00\x00\x02I\x00 c\x00|m\x00\x00\x00\x00C\x00\x00|bnew|+<x@y>\x00|2<z@y>\x00NOTIFY=NEVER\x00|-<q@y>\x00|e<>\x00|c"}, "", 5, Verdict{},
			"add A:b\ninsert 2 I: c\nchange 1 C:\nbody \"new\"\nrcpt <x@y> \nrcpt <z@y> NOTIFY=NEVER\nnot <q@y>\nfrom <> \n"},
		{"short edit", map[Event]string{EventEOM: "i\x00\x00"}, "", 5, Verdict{Refuse, textTempfail}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &program{actions: actions, answers: c.answers}
			v, s, warned := run(t, p, c.def)
			if v[c.at] != c.want || s.log.String() != c.edits {
				t.Errorf("%v, want %v; %s %s", v, c.want, s.log.String(), warned)
			}
			if c.name == "skip" && strings.Count(p.heard.String(), "\nB ") != 1 {
				t.Error("more of the body after skip")
			}
		})
	}
}

// A filter that can't be reached costs what milter_default_action says.
func TestUnreachable(t *testing.T) {
	for def, want := range map[string]Verdict{
		"": {Refuse, textTempfail}, "accept": {}, "reject": {Refuse, "550 5.5.0 Service unavailable"}, "quarantine": {Kind: Hold}, "shutdown": {Kind: Disconnect},
	} {
		c := &Config{Filters: []Filter{{Name: "inet:filter:1", Default: def}},
			Dial: func(context.Context, string, string) (net.Conn, error) { return nil, io.ErrClosedPipe }}
		m := c.Begin()
		if v := m.Connect(context.Background(), Client{}, nil); v != want {
			t.Errorf("%q: %v", def, v)
		}
		if v := m.Mail([]string{"<>"}, nil); v != want {
			t.Errorf("%q, MAIL: %v", def, v)
		}
		m.Close()
	}
}

func FuzzReply(f *testing.F) {
	f.Add(byte('E'), packet("y550-5.7.1 a\r\n550 5.7.1 b\x00"))
	f.Add(byte('E'), append(packet("m\x00\x00\x00\x01A\x00b\x00"), packet("c")...))
	f.Add(byte('R'), []byte{0xff, 0xff, 0xff, 0xff, 'c'})
	f.Fuzz(func(t *testing.T, event byte, stream []byte) {
		r := bytes.NewReader(stream)
		c := &conn{f: &Filter{Name: "inet:x:1"}, c: &Config{}}
		s := &sample{}
		for {
			cmd, data, err := readReply(r)
			if err != nil {
				return
			}
			if len(data) > len(stream) {
				t.Fatal("more than there was")
			}
			if _, done := c.reply(Event(event), cmd, data, s); done {
				return
			}
		}
	})
}
