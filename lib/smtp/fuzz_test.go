package smtp

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// Any path either fails or gives an address that, quoted, reads as itself.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"<a@b.test>", `<"a b"@[1.2.3.4]> SIZE=1`, "<@x,@y:c@d>", "a@b", "<(x)a@b>", `<a\ b@c>`, `\0\(`, "<>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		path, params, _ := cutPath(s)
		if len(path)+len(params) > len(s) {
			t.Fatal("longer than it was")
		}
		a, ok := parsePath(path, false)
		if !ok {
			return
		}
		if strings.ContainsAny(a.String(), "\r\n\x00") {
			t.Fatalf("%q: control characters in %q", s, a)
		}
		if a.Local == "" {
			return
		}
		if b, ok := parsePath("<"+a.Quoted()+">", true); !ok || b != a {
			t.Fatalf("%q: %q is read back as %q, %v", s, a, b, ok)
		}
	})
}

func FuzzParams(f *testing.F) {
	f.Add("SIZE=10 BODY=8BITMIME RET=FULL ENVID=a+2Bb SMTPUTF8 AUTH=<>")
	f.Add("NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+40b")
	f.Fuzz(func(t *testing.T, s string) {
		var m Mail
		parseMail(&m, s, allowed{true, true})
		if m.Size < 0 {
			t.Fatal("negative size")
		}
		var r Rcpt
		parseRcpt(&r, s, true, allowed{true, true})
		if v, ok := Unxtext(xtext(m.EnvID)); !ok || v != m.EnvID {
			t.Fatalf("%q", m.EnvID)
		}
	})
}

// slowUnstuff is the rule of RFC 5321, 4.5.2 and of "normalize", word by word.
func slowUnstuff(in string) (out string, end bool) {
	crlf := true
	for in != "" {
		i := strings.IndexByte(in, '\n')
		if i < 0 {
			return out, false
		}
		line, full := in[:i], i > 0 && in[i-1] == '\r'
		in = in[i+1:]
		if full {
			line = line[:i-1]
		}
		switch {
		case line == "." && crlf && full:
			return out, true
		case line == ".":
		default:
			out += strings.TrimPrefix(line, ".") + "\n"
		}
		crlf = full
	}
	return out, false
}

// The fast decoder agrees with the slow one, in place and in small pieces.
func FuzzData(f *testing.F) {
	for _, s := range []string{"a\r\n.\r\n", "a\n.\n.\r\n.\r\n", "..\r\r\n.\r\r\n\r\n.\r\n", ".\n.\r\n\r\n.\r\n"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		want, wantEnd := slowUnstuff(string(in))
		size = 1 + (size&0xffff)%17
		for _, piece := range []int{size, len(in) + 1} {
			var u unstuff
			var out, buf []byte
			end := false
			for rest := in; !end; {
				n := min(piece, len(rest))
				buf, rest = append(buf, rest[:n]...), rest[n:]
				for {
					var nd, ns int
					nd, ns, end = u.decode(buf, buf)
					out = append(out, buf[:nd]...)
					buf = buf[ns:]
					if ns == 0 || end {
						break
					}
				}
				if n == 0 {
					break
				}
			}
			if end != wantEnd || wantEnd && string(out) != want {
				t.Fatalf("%q by %d: got %q %v, want %q %v", in, piece, out, end, want, wantEnd)
			}
		}
	})
}

// Whatever a client says: no panic, no endless loop, nothing but replies.
func FuzzDialogue(f *testing.F) {
	f.Add([]byte(envelope + "DATA\r\nx\r\n.\r\nRSET\r\n"))
	f.Add([]byte(envelope + "BDAT 3\r\nabcBDAT 1 LAST\r\n\nAUTH PLAIN\r\n*\r\n"))
	f.Add([]byte("LHLO\r\nNOOP\nSTARTTLS\r\nETRN @x\r\nVRFY <a>\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		conn := &fakeConn{in: bytes.NewReader(in)}
		srv := testServer()
		srv.HardErrors = 20
		sess := &authSession{}
		srv.Serve(t.Context(), conn, func(*Conn) Session { return sess })
		if sess.end == nil {
			t.Fatal("the session was not told its end")
		}
		for l := range strings.SplitAfterSeq(conn.out.String(), "\r\n") {
			if l == "" {
				continue
			}
			if _, _, _, ok := parseReplyLine([]byte(strings.TrimSuffix(l, "\r\n"))); !ok || !strings.HasSuffix(l, "\r\n") {
				t.Fatalf("bad reply %q", l)
			}
		}
	})
}

// A server may say anything, too.
func FuzzReply(f *testing.F) {
	f.Add([]byte("220 x\r\n250-a\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354\r\n250 done\r\n"))
	f.Add([]byte("220 x\n250-SIZE\n250 AUTH=PLAIN\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := NewClient(&fakeConn{in: bytes.NewReader(in)}, ClientOptions{Host: "x"})
		if c.Hello(t.Context()) == nil {
			for _, a := range c.Send(t.Context(), &Message{Recipients: envelopes("a@b", "c@d"), Content: strings.NewReader("x\n")}) {
				if a.Err == nil && a.Reply == "" {
					t.Fatal("a recipient without an answer")
				}
			}
		}
	})
}

type fakeConn struct {
	in  io.Reader
	out bytes.Buffer
}

func (c *fakeConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *fakeConn) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *fakeConn) Close() error                { return nil }

func (c *fakeConn) SetDeadline(time.Time) error      { return nil }
func (c *fakeConn) SetReadDeadline(time.Time) error  { return nil }
func (c *fakeConn) SetWriteDeadline(time.Time) error { return nil }
func (c *fakeConn) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)} }
func (c *fakeConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
