package wire

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/dsn"
)

type message struct{ f *os.File }

func (m message) Content() io.Reader            { return m.f }
func (m message) Size() int64                   { return 5 }
func (m message) ForReading() (*os.File, error) { return os.Open(m.f.Name()) }

// TestAgent: what is asked at one end arrives at the other, with the file.
func TestAgent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "socket")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	answer := []agent.Result{
		{Text: "delivered", Status: "2.0.0", Relay: "local", Action: "delivered", Setup: time.Second},
		{Err: dsn.New(550, "5.1.1", "no such user")},
		{Err: io.ErrUnexpectedEOF},
		{Onward: []agent.Onward{{To: address.Parse("a@b"), Hop: "lmtp:x"}}},
		{Err: &dsn.Error{Code: [3]int{4, 2, 2}, Remote: &dsn.Remote{Host: "h", Reply: "450 x", Phase: "RCPT TO command"}}},
	}
	seen := make(chan *Request, 1)
	text := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r, f, err := Receive(c.(*net.UnixConn))
		if err != nil {
			t.Error(err)
			return
		}
		b, _ := io.ReadAll(f)
		f.Close()
		seen <- r
		text <- string(b)
		_ = Write(c, FromResults(answer))
	}()
	req := &agent.Request{QueueID: "ID", Sender: address.Parse("s@x"), NextHop: "hop", Message: message{f}, SMTPUTF8: true,
		Recipients: make([]agent.Recipient, len(answer))}
	req.Recipients[0] = agent.Recipient{Address: address.Parse("r@x"), Target: "|cmd", User: "joe", Offset: 7, Notify: agent.NotifyDelay}
	got := Agent(path)(context.Background(), req)
	if r := <-seen; !reflect.DeepEqual(r.Agent(nil).Recipients, req.Recipients) || r.QueueID != "ID" || r.Sender != req.Sender || !r.SMTPUTF8 || r.Size != 5 {
		t.Errorf("arrived as %+v", r)
	}
	if s := <-text; s != "hello" {
		t.Errorf("the file holds %q", s)
	}
	if len(got) != len(answer) || got[0].Text != "delivered" || got[0].Setup != time.Second || !dsn.Permanent(got[1].Err) || got[1].Err.Error() != "no such user" ||
		got[2].Err == nil || dsn.Permanent(got[2].Err) || got[3].Onward[0].Hop != "lmtp:x" || !strings.HasPrefix(got[4].Err.Error(), "host h said: 450 x") {
		t.Errorf("answers %+v", got)
	}
}

func TestNobodyThere(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := Agent(filepath.Join(t.TempDir(), "none"))(context.Background(), &agent.Request{Message: message{f}, Recipients: make([]agent.Recipient, 2)})
	if len(got) != 2 || got[1].Err == nil || dsn.Permanent(got[1].Err) || !got[0].Site {
		t.Errorf("%+v", got)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		_ = Read(strings.NewReader(string(b)), &r)
	})
}
