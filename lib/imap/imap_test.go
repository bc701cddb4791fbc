package imap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func decoder(s string) *Decoder {
	return NewDecoder(iotest.OneByteReader(strings.NewReader(s)), Limits{Word: 200, Line: 2000, Depth: 5, Keys: 20, Items: 20, SetSize: 10})
}

func TestStrings(t *testing.T) {
	for _, c := range []struct{ in, want, rest string }{
		{"atom rest\r\n", "atom", " rest"},
		{`"quoted \"x\" \\" rest` + "\r\n", `quoted "x" \`, " rest"},
		{"{5}\r\nab\r\nc rest\r\n", "ab\r\nc", " rest"},
		{"{5+}\r\nabcde\r\n", "abcde", ""},
		{"{0}\r\n\r\n", "", ""},
		{`""` + "\r\n", "", ""},
		{"INBOX.a]b\r\n", "INBOX.a]b", ""},
	} {
		d := decoder(c.in)
		asked := 0
		d.Continue = func() error { asked++; return nil }
		if got := d.AString(); got != c.want || d.Err() != nil {
			t.Errorf("%q: %q, %v", c.in, got, d.Err())
		}
		if rest := d.Line(); rest != c.rest {
			t.Errorf("%q: then %q", c.in, rest)
		}
		if want := strings.Contains(c.in, "}") && !strings.Contains(c.in, "+"); want != (asked == 1) {
			t.Errorf("%q: %d continuations", c.in, asked)
		}
	}
}

func TestFailures(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		in   string
		want error
		read func(*Decoder)
	}{
		{"\r\n", ErrTag, func(d *Decoder) { d.Tag() }},
		{"a\r\n", ErrTag, func(d *Decoder) { d.Tag() }},
		{"+ x\r\n", ErrTag, func(d *Decoder) { d.Tag() }},
		{" \r\n", ErrMissing, (*Decoder).SP},
		{"\r\n", ErrMissing, (*Decoder).SP},
		{" x\r\n", ErrExtra, (*Decoder).CRLF},
		{long + "\r\n", ErrLong, func(d *Decoder) { d.AString() }},
		{`"` + long + "\"\r\n", ErrLong, func(d *Decoder) { d.AString() }},
		{"{300}\r\n", ErrBig, func(d *Decoder) { d.AString() }},
		{"{300+}\r\n" + long + "\r\n", ErrBig, func(d *Decoder) { d.AString() }},
		{`"no end` + "\r\n", ErrMissing, func(d *Decoder) { d.AString() }},
		{"", io.EOF, func(d *Decoder) { d.AString() }},
		{"1:2:3\r\n", ErrSet, func(d *Decoder) { d.SeqSet() }},
		{"1,2,3,4,5,6,7,8,9,10,11\r\n", ErrSet, func(d *Decoder) { d.SeqSet() }},
		{"1:\r\n", ErrSet, func(d *Decoder) { d.SeqSet() }},
		{"4294967296\r\n", nil, func(d *Decoder) { d.Number() }},
	} {
		d := decoder(c.in)
		c.read(d)
		var bad *BadError
		if c.want == nil && !errors.As(d.Err(), &bad) || c.want != nil && d.Err() != c.want {
			t.Errorf("%.20q: %v, want %v", c.in, d.Err(), c.want)
		}
	}
}

// TestHugeNumbers: 4294967295 is a number like others (RFC 3501, section 9), and
// not "*"; what is greater finds nothing, but is no error, as in Cyrus.
func TestHugeNumbers(t *testing.T) {
	for in, want := range map[string]string{
		"1:4294967295": "1:4294967294", "4294967296": "4294967294", "99999999999999999999999:*": "4294967294:*", "4294967294": "4294967294",
	} {
		d := decoder(in + "\r\n")
		if got := string(d.UIDSet().Append(nil)); got != want || !d.OK() {
			t.Errorf("%s: %s, %v; want %s", in, got, d.Err(), want)
		}
	}
}

// TestSkip: after a refused command the next one is found, whatever literals the
// refused one had.
func TestSkip(t *testing.T) {
	for _, in := range []string{
		"a bad rest\r\n",
		"a bad {3+}\r\nx\r\n more {2+}\r\n\r\n\r\n",
		"a bad {30}\r\n", // a synchronizing literal that was never asked for
		"a bad \"{3+}\"\r\n",
		"a bad\n",
	} {
		d := decoder(in + "b next\r\n")
		d.Tag()
		d.SP()
		d.Word()
		d.Bad("no")
		if err := d.Skip(); err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		d.Begin()
		if tag := d.Tag(); tag != "b" {
			t.Errorf("%q: then tag %q, %v", in, tag, d.Err())
		}
	}
}

func TestSets(t *testing.T) {
	for _, c := range []struct {
		in, want string
		star     SeqNum
	}{
		{"1", "1", 10}, {"1:*", "1:10", 10}, {"*:4", "4:10", 10}, {"*", "10", 10},
		{"5,3,4", "3:5", 10}, {"1:3,2:6,9", "1:6,9", 10}, {"20:*", "10:20", 10}, {"7:5", "5:7", 10},
	} {
		d := decoder(c.in + "\r\n")
		set := d.SeqSet().Normal(c.star)
		if got := string(set.Append(nil)); got != c.want || d.Err() != nil {
			t.Errorf("%s: %s, %v", c.in, got, d.Err())
		}
		for n := SeqNum(1); n < 25; n++ {
			in := false
			for _, r := range set {
				in = in || r.Lo <= n && n <= r.Hi
			}
			if set.Contains(n) != in {
				t.Errorf("%s: Contains(%d) is %v", c.in, n, !in)
			}
		}
	}
}

func TestFetchItems(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"ALL", "FLAGS INTERNALDATE RFC822.SIZE ENVELOPE"},
		{"(flags uid body)", "FLAGS UID BODY"},
		{"body.peek[1.2.mime]<5.10>", "BODY[1.2.MIME]<5>"},
		{"(BODY[header.fields (a \"B\")] RFC822.SIZE)", "BODY[HEADER.FIELDS (a B)] RFC822.SIZE"},
		{"BODY[1.2.3]", "BODY[1.2.3]"}, {"BODY[]", "BODY[]"}, {"BINARY.SIZE[2]", "BINARY.SIZE[2]"},
		{"BODY[1.]", ""}, {"BODY[0]", ""}, {"BODY[MIME]", ""}, {"BODY[1]<5>", ""}, {"BODY[1]<5.0>", ""},
		{"FOO", ""}, {"(FLAGS", ""}, {"BINARY[TEXT]", ""}, {"BODY[HEADER.FIELDS]", ""}, {"", ""},
	} {
		d := decoder(c.in + "\r\n")
		var names []string
		for _, it := range d.FetchItems() {
			names = append(names, it.Name)
		}
		d.CRLF()
		if c.want == "" {
			if d.OK() {
				t.Errorf("%s: taken", c.in)
			}
		} else if got := strings.Join(names, " "); got != c.want || !d.OK() {
			t.Errorf("%s: %s, %v", c.in, got, d.Err())
		}
	}
}

func TestSearch(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []SearchOp // in prefix order
	}{
		{"ALL", []SearchOp{SearchAll}},
		{"UNSEEN FROM x", []SearchOp{SearchAnd, SearchFlag, SearchHeader}},
		{"OR (SEEN 1:3) NOT UID 4", []SearchOp{SearchOr, SearchAnd, SearchFlag, SearchSeq, SearchNot, SearchUID}},
		{"CHARSET UTF-8 TEXT {2+}\r\n\xc3\xa9", []SearchOp{SearchText}},
		{"RETURN (MIN) HEADER X-Y \"\"", []SearchOp{SearchHeader}},
		{"SENTSINCE 1-Feb-2020 OLDER 60 MODSEQ \"/flags/x\" all 5", []SearchOp{SearchAnd, SearchSentSince, SearchOlder, SearchModSeq}},
		{"NOT NOT NOT NOT NOT NOT NOT ALL", nil}, {"((((((((ALL))))))))", nil}, {strings.Repeat("ALL ", 30) + "ALL", nil},
		{"OR ALL", nil}, {"BEFORE yesterday", nil}, {"(ALL", nil}, {"KEYWORD", nil}, {"LARGER x", nil}, {"", nil},
	} {
		d := decoder(" " + c.in + "\r\n")
		a := d.SearchArgs()
		d.CRLF()
		if c.want == nil {
			if d.OK() {
				t.Errorf("%s: taken", c.in)
			}
			continue
		}
		var ops []SearchOp
		var walk func(k SearchKey)
		walk = func(k SearchKey) {
			ops = append(ops, k.Op)
			for _, s := range k.Keys {
				walk(s)
			}
		}
		walk(a.Key)
		if !reflect.DeepEqual(ops, c.want) || !d.OK() {
			t.Errorf("%s: %v, %v", c.in, ops, d.Err())
		}
	}
}

// TestBuffers: an idle decoder holds no buffer, and STARTTLS drops what came before.
func TestBuffers(t *testing.T) {
	long := "a NOOP " + strings.Repeat("x", 190) + "\r\n"
	d := NewDecoder(strings.NewReader(strings.Repeat(long, 3)+"injected"), Limits{})
	for range 3 {
		d.Begin()
		d.Line()
	}
	if d.Buffered() == 0 {
		t.Fatal("nothing is buffered: this test tests nothing")
	}
	d.Reset(strings.NewReader("b NOOP\r\n"))
	d.Begin()
	if len(d.buf) != len(d.small) {
		t.Error("an idle decoder holds a buffer")
	}
	if tag := d.Tag(); tag != "b" {
		t.Errorf("what came in clear was taken: %q", tag)
	}
}

func TestEncoder(t *testing.T) {
	var out bytes.Buffer
	e := NewEncoder(&out)
	e.AString("INBOX").Byte(' ').AString("a b").Byte(' ').AString("").Byte(' ').AString("nil").Byte(' ').AString("ü").Byte(' ').String(`q"q`)
	if e.Buffered() == 0 || out.Len() > 0 {
		t.Error("not buffered")
	}
	if err := e.Flush(); err != nil || e.buf != nil {
		t.Error("Flush", err)
	}
	if want := "INBOX \"a b\" \"\" \"nil\" {2}\r\nü {3}\r\nq\"q"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	out.Reset()
	big := strings.Repeat("0123456789", 20_000)
	e.LiteralHeader(int64(len(big)))
	if err := e.From(strings.NewReader(big), 0, int64(len(big))); err != nil {
		t.Error(err)
	}
	_ = e.CRLF().Flush()
	if want := fmt.Sprintf("{%d}\r\n%s\r\n", len(big), big); out.String() != want {
		t.Error("a large literal was changed")
	}
	out.Reset()
	if err := e.From(strings.NewReader("short"), 0, 10); err == nil {
		t.Error("a short read must be told")
	}
	if _ = e.Flush(); out.String() != "short\x00\x00\x00\x00\x00" {
		t.Errorf("the promised length was not kept: %q", out.String())
	}
}

func FuzzCommand(f *testing.F) {
	f.Add([]byte("a FETCH 1:*,5 (UID BODY.PEEK[1.HEADER.FIELDS (a b)]<0.5>)\r\nb NOOP\r\n"))
	f.Add([]byte("a SEARCH CHARSET UTF-8 OR (1:3 NOT BODY {3+}\r\nabc) SENTON 1-Jan-2020\r\n"))
	f.Add([]byte("a STORE 1 FLAGS (\\Seen x) \"1-Jan-2020 10:00:00 +0000\" {3}\r\nabc\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := NewDecoder(bytes.NewReader(b), Limits{Word: 1000, Line: 10_000, Depth: 10, Keys: 100, Items: 100, SetSize: 100})
		for range 20 {
			d.Begin()
			d.Tag()
			d.SP()
			switch word := d.Word(); word {
			case "FETCH":
				d.SP()
				d.SeqSet().Normal(100).Append(nil)
				d.SP()
				d.FetchItems()
			case "SEARCH":
				d.SearchArgs()
			case "STORE":
				d.SP()
				d.UIDSet()
				d.SP()
				d.Word()
				d.SP()
				d.Flags("bad", true)
			case "APPEND":
				d.SP()
				d.Mailbox()
				d.SP()
				d.DateTime()
				d.SP()
				d.LiteralHeader()
			default:
				d.SP()
				d.List(func() { d.AString() })
			}
			d.CRLF()
			if d.Skip() != nil {
				return
			}
		}
	})
}

func BenchmarkCommand(b *testing.B) {
	in := []byte("a1 UID FETCH 1:100 (FLAGS UID BODY.PEEK[HEADER.FIELDS (SUBJECT FROM DATE)])\r\n")
	b.ReportAllocs()
	r := bytes.NewReader(in)
	d := NewDecoder(r, Limits{})
	for b.Loop() {
		r.Reset(in)
		d.Begin()
		d.Tag()
		d.SP()
		d.Word()
		d.SP()
		d.Word()
		d.SP()
		d.UIDSet()
		d.SP()
		d.FetchItems()
		if d.CRLF(); !d.OK() {
			b.Fatal(d.Err())
		}
	}
}

// TestLiteralBomb: strings in literals count as part of the command, so that a
// list of them has an end.
func TestLiteralBomb(t *testing.T) {
	one := "{150+}\r\n" + strings.Repeat("x", 150) + " "
	d := decoder("(" + strings.Repeat(one, 19) + "x)\r\nnext\r\n")
	kept := 0
	d.List(func() { kept += len(d.String()) })
	if kept > 2000 || d.Err() != ErrBig {
		t.Errorf("%d octets kept: %v", kept, d.Err())
	}
	big := NewDecoder(strings.NewReader("{150+}\r\n"+strings.Repeat("x", 150)+"\r\n"), Limits{Word: 100})
	big.SetLimits(Limits{Word: 200})
	if s := big.String(); len(s) != 150 {
		t.Errorf("%d octets: %v", len(s), big.Err())
	}
}
