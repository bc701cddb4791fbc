package smmapd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/store"
)

type some map[string]error

func (s some) Find(_ context.Context, a address.Address) (store.Entry, error) {
	err, ok := s[a.String()]
	if !ok {
		err = store.ErrNotFound
	}
	return store.Entry{Name: "user.x"}, err
}

func TestAnswers(t *testing.T) {
	f := some{"bob@here.test": nil, "bad": mailbox.ErrBad, "down@here.test": errors.New("disk I/O error")}
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() { serve(context.Background(), b, f, nil); b.Close(); close(done) }()
	for _, c := range []struct{ in, want string }{
		{"19:cyrus bob@here.test,", "16:OK bob@here.test,"},
		{"9:cyrus ann,", "31:NOTFOUND Mailbox does not exist,"},
		{"9:cyrus bad,", "31:NOTFOUND Mailbox does not exist,"},
		{"20:cyrus down@here.test,", "21:TEMP System I/O error,"},
		{"4:what,", "31:PERM Bad protocol (missing key),"},
	} {
		if _, err := io.WriteString(a, c.in); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(c.want))
		if _, err := io.ReadFull(a, got); err != nil || string(got) != c.want {
			t.Errorf("%s: got %s, want %s", c.in, got, c.want)
		}
	}
	_, _ = io.WriteString(a, "x")
	<-done // whoever talks nonsense is left
}

// broken is a connection whose reads fail.
type broken struct {
	net.Conn
	text io.Reader
	err  error
}

func (b broken) SetDeadline(time.Time) error { return nil }
func (b broken) Read(p []byte) (int, error) {
	if n, err := b.text.Read(p); err == nil {
		return n, nil
	}
	return 0, b.err
}

// TestQuiet: only nonsense is worth a line; mail servers keep connections, and
// drop them.
func TestQuiet(t *testing.T) {
	for _, c := range []struct {
		text string
		err  error
		logs bool
	}{
		{"", io.EOF, false},
		{"", os.ErrDeadlineExceeded, false},
		{"", syscall.ECONNRESET, false},
		{"5:he", syscall.ECONNRESET, false},
		{"12", os.ErrDeadlineExceeded, false},
		{"x", io.EOF, true},
		{"5:hello;", io.EOF, true},
		{"99999:", io.EOF, true},
	} {
		var log bytes.Buffer
		serve(context.Background(), broken{text: strings.NewReader(c.text), err: c.err}, some{}, maillog.New(maillog.ToWriter(&log), "smmapd"))
		if (log.Len() > 0) != c.logs {
			t.Errorf("%q, %v: logged %q", c.text, c.err, log.String())
		}
	}
}

func FuzzNetstring(f *testing.F) {
	for _, s := range []string{"5:hello,", "0:,", ":", "99999999:", "5:hello;", "00005:hello,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := readNetstring(bufio.NewReader(strings.NewReader(in)))
		if err == nil && !strings.Contains(in, ":"+got+",") {
			t.Fatalf("%q from %q", got, in)
		}
	})
}
