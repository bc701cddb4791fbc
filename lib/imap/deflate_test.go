package imap

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// texts compress well, badly, not at all, and from far back.
func texts() []string {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var words strings.Builder
	for words.Len() < 200_000 {
		words.WriteString([]string{"FETCH ", "BODY[] ", "x", "\r\n", "lorem ipsum "}[r.IntN(5)])
		words.WriteByte(byte('a' + r.ExpFloat64()))
	}
	return []string{"", "a", "a1 NOOP\r\n", strings.Repeat("z", 70_000), string(noise), words.String(), string(noise[:32<<10]) + string(noise[:32<<10])}
}

func TestInflater(t *testing.T) {
	for i, text := range texts() {
		for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
			var b bytes.Buffer
			w, _ := flate.NewWriter(&b, level)
			_, _ = io.WriteString(w, text)
			_ = w.Close()
			for _, r := range []io.Reader{bytes.NewReader(b.Bytes()), iotest.OneByteReader(bytes.NewReader(b.Bytes()))} {
				got, err := io.ReadAll(NewInflater(r))
				if err != nil || string(got) != text {
					t.Fatalf("text %d, level %d: %d octets, want %d; %v", i, level, len(got), len(text), err)
				}
			}
			if b.Len() < 20_000 {
				got, err := io.ReadAll(iotest.OneByteReader(NewInflater(bytes.NewReader(b.Bytes()[:b.Len()-1]))))
				if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.HasPrefix(text, string(got)) {
					t.Fatalf("text %d, level %d, cut: %v", i, level, err)
				}
			}
		}
	}
}

// stalled gives its octets and then fails the test: somebody waits for more.
type stalled struct {
	t *testing.T
	b []byte
}

func (s *stalled) Read(b []byte) (int, error) {
	if len(s.b) == 0 {
		s.t.Error("waits for more than has been sent")
		return 0, io.EOF
	}
	n := copy(b, s.b)
	s.b = s.b[n:]
	return n, nil
}

// TestPartialFlush: zlib's deflateInit2(-15), then "a1 NOOP\r\n" and "a2 LIST \"\" *\r\n",
// each ended with Z_PARTIAL_FLUSH, as mutt does. Each command is there when its
// octets are.
func TestPartialFlush(t *testing.T) {
	s := &stalled{t: t}
	d := NewInflater(s)
	for _, c := range partialFlush {
		s.b = []byte(c.sent)
		got := make([]byte, len(c.text))
		if _, err := io.ReadFull(d, got); err != nil || string(got) != c.text {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

func TestDeflater(t *testing.T) {
	var b bytes.Buffer
	d := NewDeflater(&b)
	var all strings.Builder
	r := NewInflater(&b)
	for _, text := range texts() {
		all.WriteString(text)
		for part := text; len(part) > 0; {
			n := min(len(part), 64<<10)
			if _, err := io.WriteString(d, part[:n]); err != nil {
				t.Fatal(err)
			}
			part = part[n:]
		}
		if err := d.Flush(); err != nil || d.z != nil {
			t.Fatal(err, d.z)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != text {
			t.Fatal("what was flushed is not what comes out", err)
		}
	}
}

// FuzzInflater: what it makes of anything is what compress/flate makes of it.
func FuzzInflater(f *testing.F) {
	for _, text := range texts()[:4] {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, 9)
		_, _ = io.WriteString(w, text)
		_ = w.Close()
		f.Add(b.Bytes())
	}
	f.Add([]byte("\x00\x05\x00\xfa\xffhello\x01\x00\x00\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		want, wrong := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), 1<<20))
		got, err := io.ReadAll(io.LimitReader(NewInflater(iotest.HalfReader(bytes.NewReader(b))), 1<<20))
		if (err == nil) != (wrong == nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%d octets, %v; compress/flate: %d, %v", len(got), err, len(want), wrong)
		}
	})
}

var partialFlush = []struct{ sent, text string }{
	{"\x4a\x34\x54\xf0\xf3\xf7\x0f\xe0\xe5\x02\x08", "a1 NOOP\r\n"},
	{"\xa0\x44\x23\x05\x1f\xcf\xe0\x10\x05\x25\x25\x05\x2d\x5e\x2e\x80\x00", "a2 LIST \"\" *\r\n"},
	{"\x4a\x34\x46\xe1\x99\x20\xf3\x00\x02", "a3 LIST \"\" *\r\na4 LIST \"\" *\r\n"},
	{"\x28\xd1\x54\xc1\xc7\xdf\xdd\x3f\x34\x84\x97\x0b\x20", "a5 LOGOUT\r\n"},
}
