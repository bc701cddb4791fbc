package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
)

// nullSession takes everything and keeps nothing.
type nullSession struct{ testSession }

func (s *nullSession) Content(_ context.Context, body io.Reader) []Reply {
	_, err := io.Copy(io.Discard, writerToOnly{body})
	if err != nil {
		return []Reply{Fail(err)}
	}
	return nil
}

// writerToOnly keeps io.Discard from reading with its own buffer.
type writerToOnly struct{ r io.Reader }

func (w writerToOnly) Read(p []byte) (int, error) { return w.r.Read(p) }
func (w writerToOnly) WriteTo(d io.Writer) (int64, error) {
	return w.r.(io.WriterTo).WriteTo(struct{ io.Writer }{d})
}

// BenchmarkMessage4K is one kept session: MAIL, RCPT, DATA, 4 KB.
func BenchmarkMessage4K(b *testing.B) { benchmarkMessage(b, 4<<10) }

// BenchmarkMessage100K is mostly the reading of content.
func BenchmarkMessage100K(b *testing.B) { benchmarkMessage(b, 100<<10) }

func benchmarkMessage(b *testing.B, size int) {
	sess := &nullSession{}
	addr := serveOn(b, testServer(), func(*Conn) Session { return sess })
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	say := func(s []byte) {
		if _, err := conn.Write(s); err != nil {
			b.Fatal(err)
		}
		for {
			l, err := r.ReadSlice('\n')
			if err != nil || l[0] > '3' {
				b.Fatalf("%q %v", l, err)
			}
			if l[3] == ' ' {
				return
			}
		}
	}
	say(nil)
	say([]byte("EHLO a\r\n"))
	line := strings.Repeat("x", 70) + "\r\n"
	body := []byte(strings.Repeat(line, size/len(line)) + ".\r\n")
	mail, rcpt, data := []byte("MAIL FROM:<a@b.test>\r\n"), []byte("RCPT TO:<b@b.test>\r\n"), []byte("DATA\r\n")
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		say(mail)
		say(rcpt)
		say(data)
		say(body)
	}
}

// TestIdleMemory holds the promise of the package comment: under 24 KB for a
// connection that waits, 48 KB with TLS, our side and the test's together.
func TestIdleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("opens hundreds of connections")
	}
	for _, c := range []struct {
		name  string
		tls   bool
		limit uint64
	}{{"plain", false, 24 << 10}, {"tls", true, 48 << 10}} {
		const n = 300
		srv := testServer()
		srv.TLS = testCert(t)
		srv.TLSWrapper = c.tls
		addr := serveOn(t, srv, func(*Conn) Session { return &testSession{} })
		measure := func() uint64 {
			for range 4 { // stacks shrink by half at each collection
				runtime.GC()
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapInuse + m.StackInuse
		}
		open := func() net.Conn {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Skip(err)
			}
			var rw net.Conn = conn
			if c.tls {
				rw = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			}
			buf := make([]byte, 512)
			_, err = rw.Read(buf)
			if err == nil {
				_, err = io.WriteString(rw, "EHLO a\r\n")
			}
			if err == nil {
				_, err = rw.Read(buf)
			}
			if err != nil {
				t.Fatal(err)
			}
			return conn // the client's TLS state is not ours to count
		}
		var conns [n]net.Conn
		warm := open()
		before := measure()
		for i := range conns {
			conns[i] = open()
		}
		after := measure()
		each := uint64(0)
		if after > before {
			each = (after - before) / n
		}
		t.Logf("%s: %d bytes for each idle connection", c.name, each)
		if each > c.limit {
			t.Errorf("%s: %d bytes for each idle connection, want at most %d", c.name, each, c.limit)
		}
		for _, conn := range conns {
			conn.Close()
		}
		warm.Close()
	}
}
