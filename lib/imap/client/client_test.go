package client

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

func read(s string) (Response, error) {
	c := &Client{r: bufio.NewReader(strings.NewReader(s))}
	return c.Read()
}

func TestResponses(t *testing.T) {
	for _, c := range []struct{ in, kind, want string }{
		{"* OK [CAPABILITY IMAP4rev1 IDLE] mail.test ready\r\n", "OK", `* [{OK false []}] [{CAPABILITY false []} {IMAP4rev1 false []} {IDLE false []}] "mail.test ready"`},
		{"a NO nothing\r\n", "NO", `a [{NO false []}] [] "nothing"`},
		{"* 5 EXISTS\r\n", "EXISTS", `* [{5 false []} {EXISTS false []}] [] ""`},
		{"* 1 FETCH (UID 3 BODY[HEADER.FIELDS (a b)]<0> {3}\r\n\"x) FLAGS (\\Seen))\r\n", "FETCH",
			`* [{1 false []} {FETCH false []} { false [{UID false []} {3 false []} {BODY[HEADER.FIELDS (a b)]<0> false []} {"x) true []} {FLAGS false []} { false [{\Seen false []}]}]}] [] ""`},
		{`* LIST (\HasNoChildren) "." "a \"b\\"` + "\r\n", "LIST", `* [{LIST false []} { false [{\HasNoChildren false []}]} {. true []} {a "b\ true []}] [] ""`},
		{"+ go ahead\r\n", "", `+ [] [] " go ahead"`},
	} {
		r, err := read(c.in)
		if got := fmt.Sprintf("%s %v %v %q", r.Tag, r.Values, r.Code, r.Text); got != c.want || err != nil || r.Kind() != c.kind {
			t.Errorf("%q\n got %s, %v\nwant %s", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{"", "*", "* (", "* \"", "* {5}\r\nabc", "* {99999999999}\r\n", "* " + strings.Repeat("(", 1000), "\r\n", "* a)\r\n"} {
		if r, err := read(in); err == nil {
			t.Errorf("%.20q: %v", in, r)
		}
	}
}

func TestDo(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		defer b.Close()
		r := bufio.NewReader(b)
		_, _ = io.WriteString(b, "* OK hello\r\n")
		line, _ := r.ReadString('\n')
		_, _ = io.WriteString(b, "+ go on\r\n")
		body := make([]byte, 7)
		_, _ = io.ReadFull(r, body)
		_, _ = fmt.Fprintf(b, "* TOLD %q %q\r\nc1 OK [APPENDUID 1 2] done\r\n", strings.TrimSpace(line), body)
		_, _ = r.ReadString('\n')
		_, _ = io.WriteString(b, "c2 NO no\r\n")
	}()
	c, err := New(a)
	if err != nil || c.Greeting.Text != "hello" {
		t.Fatal(err)
	}
	told, final, err := c.Do("APPEND x ", Literal("abcde"))
	if err != nil || len(told) != 1 || told[0].Values[1].Text != "c1 APPEND x {5}" || final.Code[2].Text != "2" {
		t.Error(told, final, err)
	}
	_, _, err = c.Do("NOOP")
	var refused *Error
	if !errors.As(err, &refused) || err.Error() != "NO no" {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("* 1 FETCH (BODY[] {3}\r\nabc UID 4)\r\n")
	f.Add("a OK [X (y)] z\r\n")
	f.Fuzz(func(_ *testing.T, s string) { _, _ = read(s) })
}
