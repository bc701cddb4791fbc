package pop3

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// pair is a Conn whose input is given in pieces, and what it wrote.
type fake struct {
	net.Conn
	pieces []string
	out    bytes.Buffer
	writes int
	reads  []int // length of the output at each read
}

func (f *fake) Read(b []byte) (int, error) {
	f.reads = append(f.reads, f.out.Len())
	if len(f.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(b, f.pieces[0])
	if f.pieces[0] = f.pieces[0][n:]; f.pieces[0] == "" {
		f.pieces = f.pieces[1:]
	}
	return n, nil
}

func (f *fake) Write(b []byte) (int, error)      { f.writes++; return f.out.Write(b) }
func (f *fake) SetReadDeadline(time.Time) error  { return nil }
func (f *fake) SetWriteDeadline(time.Time) error { return nil }
func (f *fake) Close() error                     { return nil }

func TestReadCommand(t *testing.T) {
	long := strings.Repeat("x", MaxLine)
	for _, c := range []struct {
		pieces []string
		want   string
	}{
		{[]string{"user bob\r\n"}, "USER|bob;EOF"},
		{[]string{"us", "er b", "ob\r", "\nquit\n"}, "USER|bob;QUIT|;EOF"},
		{[]string{"PASS  a b \r\n"}, "PASS| a b ;EOF"},
		{[]string{"\r\n\n"}, "|;|;EOF"},
		{[]string{"NOOP"}, "EOF"},
		{[]string{long + "\r\nNOOP\r\n"}, "line too long;NOOP|;EOF"},
		{[]string{long[:MaxLine-1] + "\nNOOP\r\n"}, strings.ToUpper(long[:MaxLine-1]) + "|;NOOP|;EOF"},
		{[]string{strings.Repeat(long, 20) + "\n"}, "short buffer"},
		{[]string{strings.Repeat("NOOP\r\n", 100)}, strings.Repeat("NOOP|;", 100) + "EOF"},
	} {
		f := &fake{pieces: c.pieces}
		conn := NewConn(f, time.Second)
		var got []string
		for {
			cmd, err := conn.ReadCommand()
			if err != nil {
				got = append(got, err.Error())
				if errors.Is(err, ErrTooLong) {
					continue
				}
				break
			}
			got = append(got, cmd.Verb+"|"+cmd.Arg)
		}
		if s := strings.Join(got, ";"); s != c.want {
			t.Errorf("%.60q: %.200q, want %.200q", c.pieces, s, c.want)
		}
	}
}

// Nothing big is held while the client thinks.
func TestIdleHoldsNothing(t *testing.T) {
	f := &fake{pieces: []string{strings.Repeat("NOOP\r\n", 200)}}
	c := NewConn(f, time.Second)
	for {
		if _, err := c.ReadCommand(); err != nil {
			break
		}
		c.OK("")
	}
	if c.big != nil || c.out != nil {
		t.Error("a buffer is held")
	}
	if f.writes > 20 {
		t.Errorf("%d writes for 200 pipelined commands", f.writes)
	}
	if got := f.out.String(); got != strings.Repeat("+OK\r\n", 200) {
		t.Errorf("%q", got)
	}
	if last := f.reads[len(f.reads)-1]; last != 200*5 {
		t.Errorf("waited with replies unsent: %d", last)
	}
}

func TestBody(t *testing.T) {
	for _, c := range [][2]string{
		{"", ".\r\n"},
		{"a\r\n", "a\r\n.\r\n"},
		{"a", "a\r\n.\r\n"},
		{"a\r", "a\r\n.\r\n"},
		{"\r", "\r\n.\r\n"},
		{".", "..\r\n.\r\n"},
		{"..\r\n", "...\r\n.\r\n"},
		{"a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n.\r\n"},
		{"a\n.b\r\n", "a\n..b\r\n.\r\n"},
		{"a.\r\n\r\n.\r\n.\r\n", "a.\r\n\r\n..\r\n..\r\n.\r\n"},
		{"\x00\xff\r\n", "\x00\xff\r\n.\r\n"},
	} {
		if got := body(t, c[0]); got != c[1] {
			t.Errorf("%q: %q, want %q", c[0], got, c[1])
		}
	}
	// Dots at every place around the joints of the pieces.
	for _, at := range []int{outSize/2 - 2, outSize/2 - 1, outSize / 2, outSize/2 + 1, outSize - 1, outSize} {
		text := strings.Repeat("x", at-1) + "\n.y\n" + strings.Repeat(".\n", 70000)
		if got := unstuff(body(t, text)); got != text {
			t.Errorf("dot at %d: got lost", at)
		}
	}
}

func body(t *testing.T, text string) string {
	t.Helper()
	f := &fake{}
	c := NewConn(f, time.Second)
	if err := c.Body(strings.NewReader(text), int64(len(text))); err != nil {
		t.Fatal(err)
	}
	c.Flush()
	return f.out.String()
}

// unstuff is what a client does that ends lines at LF.
func unstuff(s string) string {
	s = strings.TrimSuffix(s, ".\r\n")
	return strings.ReplaceAll("\n"+s, "\n..", "\n.")[1:]
}

func TestBodyShorterThanItsSize(t *testing.T) {
	f := &fake{}
	c := NewConn(f, time.Second)
	if err := c.Body(strings.NewReader("abc\r\n"), 10); err == nil {
		t.Error("no error")
	}
	c.Flush()
	if strings.HasSuffix(f.out.String(), ".\r\n") {
		t.Error("a cut message looks whole")
	}
}

func TestTop(t *testing.T) {
	long := "A: " + strings.Repeat("x", 100000) + "\r\n\r\nb\r\nc\r\n"
	for _, c := range []struct {
		text  string
		lines int
		want  string
	}{
		{"A: b\r\n\r\none\r\ntwo\r\n", 0, "A: b\r\n\r\n"},
		{"A: b\r\n\r\none\r\ntwo\r\n", 1, "A: b\r\n\r\none\r\n"},
		{"A: b\r\n\r\none\r\ntwo\r\n", 9, "A: b\r\n\r\none\r\ntwo\r\n"},
		{"A: b\r\n\r\n\r\n\r\nx", 1, "A: b\r\n\r\n\r\n"},
		{"A: b\n\none\n", 0, "A: b\n\n"},
		{"\r\nbody\r\n", 0, "\r\n"},
		{"A: b", 5, "A: b"},
		{"", 5, ""},
		{long, 1, long[:len(long)-3]},
	} {
		end, err := Top(strings.NewReader(c.text), int64(len(c.text)), c.lines)
		if err != nil || c.text[:end] != c.want {
			t.Errorf("%.40q %d: %d %v", c.text, c.lines, end, err)
		}
	}
}

func TestSASL(t *testing.T) {
	for _, c := range []struct {
		line, want string
		err        error
	}{
		{"Ym9i", "bob", nil}, {"", "", nil}, {"=", "", nil}, {"*", "", ErrCancelled}, {"!", "", ErrBase64}, {"Ym9", "", ErrBase64},
	} {
		f := &fake{pieces: []string{c.line + "\r\n"}}
		got, err := NewConn(f, time.Second).ReadResponse([]byte("Hi"))
		if string(got) != c.want || err != c.err || f.out.String() != "+ SGk=\r\n" {
			t.Errorf("%q: %q %v %q", c.line, got, err, f.out.String())
		}
		if err == nil && got == nil {
			t.Errorf("%q: an empty response must not look like none", c.line)
		}
	}
}

func FuzzConn(f *testing.F) {
	f.Add([]byte("USER bob\r\nRETR 1\r\n"), []byte("A: b\r\n\r\n.x\r\n"))
	f.Add([]byte("\n\r\n\x00"), []byte("..\r"))
	f.Fuzz(func(t *testing.T, in, text []byte) {
		fk := &fake{pieces: []string{string(in[:len(in)/2]), string(in[len(in)/2:])}}
		if len(in) < 2 {
			fk.pieces = nil
		}
		c := NewConn(fk, time.Second)
		for {
			if _, err := c.ReadCommand(); err != nil && err != ErrTooLong {
				break
			}
		}
		if end, err := Top(bytes.NewReader(text), int64(len(text)), 2); err != nil || end > int64(len(text)) {
			t.Fatal(end, err)
		}
		got := unstuff(body(t, string(text)))
		if !strings.HasPrefix(got, string(text)) || len(got) > len(text)+2 {
			t.Fatalf("%q became %q", text, got)
		}
	})
}

func BenchmarkBody(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		text := strings.Repeat(strings.Repeat("x", 70)+"\r\n", size/72)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			c := NewConn(discard{}, time.Second)
			for b.Loop() {
				c.OK("Message follows")
				c.Body(strings.NewReader(text), int64(len(text)))
				c.Flush()
			}
		})
	}
}

type discard struct{ net.Conn }

func (discard) Write(b []byte) (int, error)      { return len(b), nil }
func (discard) SetWriteDeadline(time.Time) error { return nil }
