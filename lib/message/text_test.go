package message

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestDecodeWords(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain", "plain"},
		{"=?utf-8?q?Gr=C3=BC=C3=9Fe?= to all", "Grüße to all"},
		{"=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?_b=E9?=\r\n =?utf-8?b?w6k=?= c", "a béé c"},
		{"=?utf-8*en?q?x?=", "x"},
		{"=?nosuch?q?x=41?=", "xA"},
		{"=?utf-8?x?y?= =?broken =?utf-8?q?ok?=", "=?utf-8?x?y?= =?broken ok"},
		{"caf\xe9", "café"},
		{" folded\r\n\there", "folded\there"},
		{"=?utf-8?q?cut=C?=", "cut=C"},
		{"=?utf-8?b?!!?=", ""},
	} {
		if got := string(DecodeWords([]byte(c.in))); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

func TestDecoder(t *testing.T) {
	for _, c := range []struct {
		e        Encoding
		in, want string
	}{
		{QuotedPrintable, "a=3Db=\r\nc=\nd = e=X=", "a=bcd = e=X"},
		{QuotedPrintable, "a b  \r\nc=20 \t\nd = \r\ne=\t\nf  ", "a b\r\nc \nd ef"},
		{QuotedPrintable, "  \r\n\t=20\r\n=4\r\n= 4=", "\r\n\t \r\n=4\r\n= 4"},
		{QuotedPrintable, "=\r", "=\r"},
		{QuotedPrintable, "x" + strings.Repeat(" ", 4000) + "\r\ny", "x\r\ny"},
		{QuotedPrintable, "x" + strings.Repeat(" ", 9000) + "y=", "x" + strings.Repeat(" ", 9000) + "y"},
		{QuotedPrintable, "=" + strings.Repeat(" ", 9000) + "y", "=" + strings.Repeat(" ", 9000) + "y"},
		{QuotedPrintable, strings.Repeat("x", 5000) + "=41", strings.Repeat("x", 5000) + "A"},
		{Base64, "aGVs\r\nbG8=", "hello"},
		{Base64, "aGVsbG8", "hello"},
		{Base64, "aGk=aGk=", "hihi"},
		{Base64, "??a G-k*=", "hi"},
		{EightBit, "a=3D", "a=3D"},
	} {
		for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in))} {
			got, err := io.ReadAll(Decoder(r, c.e))
			if string(got) != c.want || err != nil {
				t.Errorf("%.30q: %.30q, %v", c.in, got, err)
			}
		}
	}
}

func TestMatcher(t *testing.T) {
	msg := "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\nunseen preamble\r\n" +
		"--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nCaf=E9 au la=\r\nit\r\n" +
		"--b\r\nContent-Type: text/plain; charset=koi8-r\r\n\r\n\xf0\xd2\xc9\xd7\xc5\xd4\r\n" +
		"--b\r\nContent-Type: application/octet-stream\r\n\r\nhidden\r\n" +
		"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\n" + strings.Repeat("x", 9000) + "Needle\r\n--b--\r\n"
	s := ParseBytes([]byte(msg))
	r := bytes.NewReader([]byte(msg))
	for _, c := range []struct {
		text         string
		header, body bool
	}{
		{"CAFÉ AU LAIT", false, true},
		{"lait привет", false, false},
		{"привет", false, true},
		{"hidden", false, false},
		{"preamble", false, false},
		{"INNER", false, true},
		{"needle", false, true},
		{"grüße", true, false},
		{"GRÜẞE", true, false},
		{"subject: gr", true, false},
		{"", true, true},
	} {
		m := NewMatcher(c.text)
		body, err := m.MatchBody(s, r)
		if body != c.body || err != nil {
			t.Errorf("%q in the body: %v, %v", c.text, body, err)
		}
		if got := m.MatchHeader([]byte(msg)); got != c.header {
			t.Errorf("%q in the header: %v", c.text, got)
		}
	}
	for cut := range 20 { // wherever a chunk ends
		text := strings.Repeat("é", 4080+cut) + "Fündling"
		if ok, _ := NewMatcher("fÜnd").MatchReader(strings.NewReader(text)); !ok {
			t.Errorf("not found behind %d", cut)
		}
	}
}

func TestBaseSubject(t *testing.T) {
	for _, c := range []struct {
		in, want string
		reply    bool
	}{
		{"hello", "hello", false},
		{"Re: hello", "hello", true},
		{"RE[2]: Fwd:  [list] hello (fwd) ", "hello", true},
		{"[list] Re: [x] hello  there", "hello there", true},
		{"[only]", "[only]", false},
		{"[Fwd: hello]", "hello", true},
		{"Regarding", "Regarding", false},
		{"=?utf-8?q?Re:_gr=C3=BC=C3=9Fe?=", "grüße", true},
		{"Re:", "", true},
		{"[a] [b] Re: [c]", "[c]", true},
		{"[a] [b]", "[b]", false},
		{"[a] Re: [b] re: [c] x", "x", true},
	} {
		got, reply := BaseSubject([]byte(c.in))
		if string(got) != c.want || reply != c.reply {
			t.Errorf("%q: %q %v", c.in, got, reply)
		}
	}
}

// TestSubjectBomb: the time is in proportion to the length.
func TestSubjectBomb(t *testing.T) {
	for _, s := range []string{"[a] ", "re: ", "(fwd)", "re[a]: ", "[fwd: ", "[a] [fwd: "} {
		start := time.Now()
		BaseSubject([]byte(strings.Repeat(s, 200_000/len(s))))
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%q: %v", s, took)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add([]byte("=?utf-8?q?Re:_x=C3?= =?iso-2022-jp?b?GyRCJCI=?= [a] (fwd)"), "x")
	f.Add([]byte("a=3D=\r\naGVs bG8="), "é")
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		BaseSubject(b)
		ParseDate(b)
		for e := range Unknown {
			if _, err := io.ReadAll(Decoder(bytes.NewReader(b), e)); err != nil {
				t.Fatal(err)
			}
		}
		m := NewMatcher(text)
		whole := m.Match(b)
		if streamed, err := m.MatchReader(iotest.HalfReader(bytes.NewReader(b))); err != nil || streamed != whole && len(text) > 0 && !bytes.ContainsFunc(b, func(r rune) bool { return r >= 128 }) {
			t.Fatalf("streamed %v, at once %v: %v", streamed, whole, err)
		}
		m.MatchBody(ParseBytes(b), bytes.NewReader(b))
	})
}
