package imapd

import (
	"bufio"
	"compress/flate"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// squeezed is a connection after COMPRESS, as a client has it.
type squeezed struct {
	net.Conn
	r io.Reader
	w *flate.Writer
}

func (s *squeezed) Read(b []byte) (int, error) { return s.r.Read(b) }

func (s *squeezed) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	if err == nil {
		err = s.w.Flush()
	}
	return n, err
}

// counted is how many octets came.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += n
	return n, err
}

// TestCompress: both directions, literals of both kinds, IDLE, and a message that
// is longer than every buffer.
func TestCompress(t *testing.T) {
	h := newHouse(t, nil)
	k := h.login("u1")
	if got := k.cmd("COMPRESS DEFLATE"); !slices.Equal(got, []string{"x OK DEFLATE active"}) {
		t.Fatal(got)
	}
	w, err := flate.NewWriter(k.conn, flate.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{Reader: k.conn}
	k.conn = &squeezed{k.conn, flate.NewReader(c), w}
	k.r = bufio.NewReader(k.conn)

	if got := k.ok("CAPABILITY"); strings.Contains(got[0], "COMPRESS") {
		t.Error("COMPRESS is offered while it is active: ", got)
	}
	if got := k.cmd("COMPRESS DEFLATE"); got[0] != "x BAD [COMPRESSIONACTIVE] DEFLATE active via COMPRESS" {
		t.Error(got)
	}
	letter := "Subject: long~~" + strings.Repeat("all work and no play makes jack a dull boy~", 10_000)
	k.ok("APPEND INBOX " + literal(letter))
	if got := k.cmd("APPEND INBOX {18}"); got[0] != "+ go ahead" {
		t.Fatal(got)
	}
	k.send("Subject: short\r\n\r\n\r\n")
	if l := k.line(); !strings.Contains(l, " OK [APPENDUID ") {
		t.Error(l)
	}
	k.ok("SELECT INBOX")
	before := c.n
	got := k.ok("FETCH 1 BODY.PEEK[]")
	if !strings.HasSuffix(got[0], "}"+letter+")") {
		t.Errorf("%.100q", got)
	}
	if sent := c.n - before; sent > len(letter)/50 {
		t.Errorf("%d octets were sent for a letter of %d", sent, len(letter))
	}
	if got := k.cmd("IDLE"); !slices.Equal(got, []string{"+ idling"}) {
		t.Error(got)
	}
	h.login("u1").ok("APPEND INBOX " + literal("Subject: news~~"))
	for l := k.line(); !strings.HasSuffix(l, "EXISTS"); l = k.line() {
		if l == "" {
			t.Fatal("gone")
		}
	}
	k.send("DONE\r\n")
	k.ok("LOGOUT")
}
