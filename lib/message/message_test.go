package message

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

// TestAsCyrus compares with what Cyrus 3.6.1 answered for the same octets.
func TestAsCyrus(t *testing.T) {
	// Where we mean to differ:
	ours := map[string]string{
		"noboundary S": `("TEXT" "PLAIN" ("CHARSET" "us-ascii") NIL NIL "7BIT" 12 3 NIL NIL NIL NIL)`, // the text is there, so show it
		"noboundary B": `("TEXT" "PLAIN" ("CHARSET" "us-ascii") NIL NIL "7BIT" 12 3)`,
		// A boundary can't end in a blank (RFC 2046, 5.1.1), so what was meant is clear.
		"barebl S": `(("TEXT" "PLAIN" ("CHARSET" "us-ascii") NIL NIL "7BIT" 1 0 NIL NIL NIL NIL) "MIXED" ("BOUNDARY" "a b  ") NIL NIL NIL)`,
		"barebl B": `(("TEXT" "PLAIN" ("CHARSET" "us-ascii") NIL NIL "7BIT" 1 0) "MIXED")`,
	}
	data, err := os.ReadFile("testdata/cyrus.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")[1:]
	for ; len(lines) >= 5; lines = lines[5:] {
		var v [4]string
		for i := range v {
			if v[i], err = strconv.Unquote(lines[i+1]); err != nil {
				t.Fatalf("%s: %v", lines[0], err)
			}
		}
		s := ParseBytes([]byte(v[0]))
		for i, got := range [][]byte{s.Envelope, s.BodyStructure, s.Body} {
			key := lines[0] + " " + "ESB"[i:i+1]
			want := v[i+1]
			if w, ok := ours[key]; ok {
				want = w
			}
			if string(got) != want {
				t.Errorf("%s\n got %q\nwant %q", key, got, want)
			}
		}
		// The same octets in pieces must say the same.
		p := NewParser()
		for _, c := range []byte(v[0]) {
			p.Write([]byte{c})
		}
		if one := p.Summary(); string(one.BodyStructure) != string(s.BodyStructure) || string(one.parts) != string(s.parts) {
			t.Errorf("%s octet by octet:\n got %s %x\nwant %s %x", lines[0], one.BodyStructure, one.parts, s.BodyStructure, s.parts)
		}
		back, err := Decode(s.Append(nil))
		if err != nil || fmt.Sprint(back) != fmt.Sprint(*s) {
			t.Errorf("%s: Decode(Append): %v", lines[0], err)
		}
	}
}

const letter = "From: a@b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\npre\r\n" +
	"--b\r\n\r\none\r\n" +
	"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n" +
	"--c\r\n\r\ntwo\r\n--c\r\nContent-Type: text/html\r\n\r\nthree\r\n--c--\r\n" +
	"--b--\r\nepilogue\r\n"

func TestParts(t *testing.T) {
	s := ParseBytes([]byte(letter))
	for _, c := range []struct{ path, header, body string }{
		{"", letter[:strings.Index(letter, "pre")], letter[strings.Index(letter, "pre"):]},
		{"1", "\r\n", "one"},
		{"2", "Content-Type: message/rfc822\r\n\r\n", letter[strings.Index(letter, "Subject"):strings.Index(letter, "\r\n--b--")]},
		{"2.1", "\r\n", "two"},
		{"2.2", "Content-Type: text/html\r\n\r\n", "three"},
		{"3", "", "none"},
		{"1.1", "", "none"},
		{"2.3", "", "none"},
		{"2.1.1", "", "none"},
		{"0", "", "none"},
	} {
		p, ok := s.Part(path(c.path))
		if !ok {
			if c.body != "none" {
				t.Errorf("%q: not found", c.path)
			}
			continue
		}
		if c.body == "none" {
			t.Errorf("%q: found %+v", c.path, p)
			continue
		}
		if got := letter[p.Header : p.Header+p.HeaderLen]; got != c.header {
			t.Errorf("%q: header %q, want %q", c.path, got, c.header)
		}
		if got := letter[p.Body : p.Body+p.BodyLen]; got != c.body {
			t.Errorf("%q: body %q, want %q", c.path, got, c.body)
		}
	}
	m, ok := s.Message(path("2"))
	if !ok || letter[m.Header:m.Body] != "Subject: in\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n" {
		t.Errorf("2.HEADER: %v %v", m, ok)
	}
	if _, ok := s.Message(path("1")); ok {
		t.Error("1.HEADER: a text has none")
	}
	single := ParseBytes([]byte("Subject: x\r\n\r\nbody"))
	if p, ok := single.Part(path("1")); !ok || p.Body != 14 || p.BodyLen != 4 {
		t.Errorf("BODY[1] of a single part: %v %v", p, ok)
	}
}

func path(s string) (p []uint32) {
	for _, x := range strings.Split(s, ".") {
		if n, err := strconv.Atoi(x); err == nil {
			p = append(p, uint32(n))
		}
	}
	return p
}

func TestParseReader(t *testing.T) {
	big := []byte(letter[:strings.Index(letter, "one")] + strings.Repeat("long body line\r\n", 20_000) + letter[strings.Index(letter, "one"):])
	want := ParseBytes(big)
	got, err := Parse(bytes.NewReader(big), int64(len(big)))
	if err != nil || !bytes.Equal(got.BodyStructure, want.BodyStructure) || !bytes.Equal(got.parts, want.parts) {
		t.Fatalf("%v\n got %s\nwant %s", err, got.BodyStructure, want.BodyStructure)
	}
	p := NewParser()
	if _, err := io.Copy(p, iotest.HalfReader(bytes.NewReader(big))); err != nil {
		t.Fatal(err)
	}
	if s := p.Summary(); !bytes.Equal(s.parts, want.parts) {
		t.Error("pieces differ")
	}
	if _, err := Parse(bytes.NewReader(big), int64(len(big))+1); err == nil {
		t.Error("a message that is shorter than it should be")
	}
}

func TestDamage(t *testing.T) {
	good := ParseBytes([]byte(letter)).Append(nil)
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x41
		if _, err := Decode(b); err == nil {
			t.Errorf("octet %d changed and nobody noticed", i)
		}
		if _, err := Decode(good[:i]); err == nil {
			t.Errorf("cut at %d and nobody noticed", i)
		}
	}
}

func TestNesting(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	s := ParseBytes([]byte(b.String()))
	if n := strings.Count(string(s.Body), "MIXED"); n > maxDepth {
		t.Errorf("%d levels", n)
	}
	b.Reset()
	b.WriteString("Content-Type: multipart/mixed; boundary=b\r\n\r\n")
	b.WriteString(strings.Repeat("--b\r\n", 3*maxParts))
	n := 0
	ParseBytes([]byte(b.String())).Walk(func(Part, int) bool { n++; return true })
	if n > maxParts {
		t.Errorf("%d parts", n)
	}
}

func TestDates(t *testing.T) {
	for _, c := range []struct {
		in   string
		want int64
		zone int32
	}{
		{"Fri, 21 Nov 1997 09:55:06 -0600", 880127706, -21600},
		{"21 Nov 97 09:55:06 GMT", 880106106, 0},
		{"Fri, 21 Nov 1997 09(comment):   55  :  06 -0600", 880127706, -21600},
		{"Fri Nov 21 09:55:06 1997", 880106106, 0},
		{"Friday, 21-Nov-97 09:55:06 EST", 880124106, -18000},
		{"Nov 21, 1997 09:55", 880106100, 0},
		{"21 November 1997 09:55 +0530", 880106100 - 19800, 19800},
		{"1 Jan 2100 00:00:00 +0000", 4102444800, 0},
		{"Mon, 04 Feb 0102 16:27:08 +0000", 1012840028, 0},
		{"", 0, 0}, {"yesterday", 0, 0}, {"32 Jan 2001 00:00:00", 0, 0}, {"1 Foo 2001", 0, 0},
	} {
		got, zone, ok := ParseDate([]byte(c.in))
		if got != c.want || zone != c.zone || ok != (c.want != 0) {
			t.Errorf("%q: %d %d %v, want %d %d", c.in, got, zone, ok, c.want, c.zone)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(letter))
	f.Add([]byte("Content-Type: multipart/digest; boundary=\"x\r\n\r\n--x\r\n--x--"))
	f.Add([]byte("To: a:b@c;<@d:e@f>(g\\)\r\n\x00\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := ParseBytes(b)
		s.Walk(func(p Part, _ int) bool {
			if p.Header < 0 || p.HeaderLen < 0 || p.BodyLen < 0 || p.Body+p.BodyLen > int64(len(b)) {
				t.Fatalf("part outside of the message: %+v of %d", p, len(b))
			}
			return true
		})
		back, err := Decode(s.Append(nil))
		if err != nil || !bytes.Equal(back.BodyStructure, s.BodyStructure) {
			t.Fatal(err)
		}
		p := NewParser()
		p.Write(b[:len(b)/2])
		p.Write(b[len(b)/2:])
		if h := p.Summary(); h.Sent != s.Sent || !bytes.Equal(h.Envelope, s.Envelope) {
			t.Fatalf("in two pieces: %s, at once: %s", h.Envelope, s.Envelope)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(ParseBytes([]byte(letter)).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Decode(b); err == nil {
			s.Part([]uint32{1, 2, 3})
			s.Walk(func(Part, int) bool { return true })
		}
	})
}

func BenchmarkParse(b *testing.B) {
	msg := []byte(strings.Replace(letter, "one", strings.Repeat("a line of some text that is as long as lines are\r\n", 100), 1))
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		ParseBytes(msg)
	}
}

func BenchmarkDecode(b *testing.B) {
	e := ParseBytes([]byte(letter)).Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(e); err != nil {
			b.Fatal(err)
		}
	}
}
