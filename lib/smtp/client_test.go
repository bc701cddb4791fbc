package smtp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	gosasl "github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/dsn"
)

// serveOn serves srv on loopback, and gives the address.
func serveOn(t testing.TB, srv *Server, begin func(*Conn) Session) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go srv.Serve(ctx, conn, begin)
		}
	}()
	return l.Addr().String()
}

func dial(t testing.TB, addr string, o ClientOptions) *Client {
	t.Helper()
	o.Host = "mx.test[127.0.0.1]"
	c, err := Dial(context.Background(), "tcp", addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func envelopes(names ...string) (out []Envelope) {
	for _, n := range names {
		out = append(out, Envelope{To: address.Parse(n)})
	}
	return out
}

// Client and server of this package against each other, in all the ways that a
// message can travel: what comes out is what went in.
func TestClientServer(t *testing.T) {
	bodies := []string{"", "Subject: x\n\n.\n..\n.dot\nend\n", "no end", "\x00\xff\n\rx\r\n\n", strings.Repeat("a line of text\n.\n", 9000)}
	for _, mode := range []struct {
		name              string
		discard           []string
		lmtp, chunk, tls_ bool
	}{
		{name: "pipelined"}, {name: "stepwise", discard: []string{"pipelining"}}, {name: "lmtp", lmtp: true},
		{name: "bdat", chunk: true}, {name: "bdat stepwise", chunk: true, discard: []string{"pipelining"}},
		{name: "lmtp bdat", chunk: true, lmtp: true}, {name: "tls", tls_: true},
	} {
		t.Run(mode.name, func(t *testing.T) {
			srv := testServer()
			srv.LMTP = mode.lmtp
			srv.TLS = testCert(t)
			sess := &testSession{perRcpt: mode.lmtp, reject: map[string]Reply{"no@b.test": {550, "5.1.1", "User unknown"}}}
			addr := serveOn(t, srv, func(*Conn) Session { return sess })
			ctx := context.Background()
			c := dial(t, addr, ClientOptions{LMTP: mode.lmtp, Discard: mode.discard})
			if err := c.Hello(ctx); err != nil {
				t.Fatal(err)
			}
			if mode.tls_ {
				if err := c.StartTLS(ctx, &tls.Config{InsecureSkipVerify: true}, nil); err != nil {
					t.Fatal(err)
				}
			}
			for i, b := range bodies {
				got := c.Send(ctx, &Message{From: address.Parse("a@b.test"), Size: int64(len(b)), Body: "8BITMIME", EnvID: "x y", Ret: "HDRS",
					Recipients: []Envelope{{To: address.Parse("b@b.test"), Notify: agent.NotifySuccess | agent.NotifyDelay, ORCPT: "rfc822;b+c@b.test"},
						{To: address.Parse("no@b.test")}, {To: address.Parse("q q@b.test")}},
					Content: strings.NewReader(b), Chunking: mode.chunk})
				var e *dsn.Error
				if got[0].Err != nil || got[2].Err != nil || !errors.As(got[1].Err, &e) {
					t.Fatalf("body %d: %+v", i, got)
				}
				if e.Error() != "host mx.test[127.0.0.1] said: 550 5.1.1 User unknown (in reply to RCPT TO command)" || e.Status() != "5.1.1" {
					t.Error(e)
				}
				want := "250 2.0.0 Ok: queued as 4675B9B2122"
				if mode.lmtp {
					want = "250 2.1.5 <b@b.test> Ok"
				}
				if got[0].Reply != want {
					t.Error(got[0].Reply)
				}
				if b != "" && !strings.HasSuffix(b, "\n") {
					b += "\n"
				}
				sess.mu.Lock()
				if len(sess.all) != i+1 || sess.all[i] != b {
					t.Errorf("body %d: %.60q became %.60q", i, b, sess.all[len(sess.all)-1])
				}
				sess.mu.Unlock()
			}
			if err := c.Reset(ctx); err != nil {
				t.Error(err)
			}
			all := c.Send(ctx, &Message{Recipients: envelopes("no@b.test"), Content: strings.NewReader("x\n")})
			if all[0].Err == nil || c.Broken() {
				t.Error(all, c.Broken())
			}
			_ = c.Quit(ctx)
		})
	}
}

// scripted is a server that says its lines, one after each line or dot it reads.
func scripted(t *testing.T, lines ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		for i, line := range lines {
			if i > 0 {
				for {
					got, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if !strings.HasPrefix(lines[i-1], "354") || got == ".\r\n" {
						break
					}
				}
			}
			_, _ = io.WriteString(conn, strings.ReplaceAll(line, "\n", "\r\n")+"\r\n")
		}
		if lines[len(lines)-1] == "wait" {
			time.Sleep(time.Second)
		}
	}()
	return l.Addr().String()
}

func TestClientFailures(t *testing.T) {
	for _, c := range []struct {
		name   string
		script []string
		want   string
		status string
	}{
		{"refused greeting", []string{"554 5.7.1 go away"}, "host mx.test[127.0.0.1] refused to talk to me: 554 5.7.1 go away", "5.7.1"},
		{"no greeting", []string{""}, "lost connection with mx.test[127.0.0.1] while receiving the initial server greeting", "4.4.2"},
		{"greeting in lines, no EHLO", []string{"220-a\n220 b", "502 no", "250 hello", "451 4.7.1 later"}, "host mx.test[127.0.0.1] said: 451 4.7.1 later (in reply to MAIL FROM command)", "4.7.1"},
		{"no HELO", []string{"220 b", "502 no", "550 neither"}, "host mx.test[127.0.0.1] refused to talk to me: 550 neither", "5.0.0"},
		{"lost at RCPT", []string{"220 b", "250 x", "250 ok"}, "lost connection with mx.test[127.0.0.1] while sending RCPT TO", "4.4.2"},
		{"DATA refused", []string{"220 b", "250 x", "250 ok", "250 ok", "554 5.5.1 no"}, "host mx.test[127.0.0.1] said: 554 5.5.1 no (in reply to DATA command)", "5.5.1"},
		{"end refused", []string{"220 b", "250 x", "250 ok", "250 ok", "354 go", "452 4.3.1 full"}, "host mx.test[127.0.0.1] said: 452 4.3.1 full (in reply to end of DATA command)", "4.3.1"},
		{"lost at the dot", []string{"220 b", "250 x", "250 ok", "250 ok", "354 go"}, "lost connection with mx.test[127.0.0.1] while sending end of data -- message may be sent more than once", "4.4.2"},
		{"pipelined, MAIL refused", []string{"220 b", "250-x\n250 PIPELINING", "550 5.1.8 no", "503 need MAIL", "503 need RCPT"}, "host mx.test[127.0.0.1] said: 550 5.1.8 no (in reply to MAIL FROM command)", "5.1.8"},
		{"pipelined, RCPT refused, 354 all the same", []string{"220 b", "250-x\n250 PIPELINING", "250 ok", "550 5.1.1 no", "354 go", "554 none"}, "host mx.test[127.0.0.1] said: 550 5.1.1 no (in reply to RCPT TO command)", "5.1.1"},
		{"552 for too many", []string{"220 b", "250 x", "250 ok", "552 too many"}, "host mx.test[127.0.0.1] said: 552 too many (in reply to RCPT TO command)", "5.0.0"},
		{"status of another class", []string{"220 b", "250 x", "450 5.1.1 odd"}, "host mx.test[127.0.0.1] said: 450 5.1.1 odd (in reply to MAIL FROM command)", "4.0.0"},
		{"too large", []string{"220 b", "250-x\n250 SIZE 3"}, "message size 10 exceeds size limit 3 of server mx.test[127.0.0.1]", "5.3.4"},
		{"time-out", []string{"220 b", "wait"}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := ClientOptions{}
			if c.name == "time-out" {
				c.script = []string{"220 b", "250 x", "250-wait"}
				o.MailTimeout = 30 * time.Millisecond
				c.want, c.status = "conversation with mx.test[127.0.0.1] timed out while sending MAIL FROM", "4.4.2"
				c.script = append(c.script, "never")
			}
			cl := dial(t, scripted(t, c.script...), o)
			err := cl.Hello(context.Background())
			if err == nil {
				err = cl.Send(context.Background(), &Message{From: address.Parse("a@b.test"), Size: 10, Recipients: envelopes("b@b.test"), Content: strings.NewReader("x\n.\n")})[0].Err
			}
			var e *dsn.Error
			if !errors.As(err, &e) {
				t.Fatalf("%v", err)
			}
			if e.Error() != c.want || e.Status() != c.status {
				t.Errorf("got %s %s\nwant %s %s", e.Status(), e, c.status, c.want)
			}
		})
	}
}

func TestDialRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	_, err = Dial(context.Background(), "tcp", addr, ClientOptions{Host: "mx.test[127.0.0.1]"})
	if err == nil || err.Error() != "connect to mx.test[127.0.0.1]:"+port+": Connection refused" {
		t.Error(err)
	}
}

// A context that ends must end a conversation that waits.
func TestClientContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	c := dial(t, scripted(t, "220 b", "250-wait", "never"), ClientOptions{})
	began := time.Now()
	if err := c.Hello(ctx); err == nil || time.Since(began) > 30*time.Second {
		t.Error(err, time.Since(began))
	}
}

// A message that can't be read must not end with a dot.
func TestReadErrorSendsNoDot(t *testing.T) {
	sess := &testSession{}
	c := dial(t, serveOn(t, testServer(), func(*Conn) Session { return sess }), ClientOptions{})
	if err := c.Hello(context.Background()); err != nil {
		t.Fatal(err)
	}
	bad := io.MultiReader(strings.NewReader("half\n"), iotestErr{})
	a := c.Send(context.Background(), &Message{Recipients: envelopes("b@b.test"), Content: bad})
	if a[0].Err == nil || !c.Broken() || dsn.Permanent(a[0].Err) {
		t.Error(a)
	}
	time.Sleep(20 * time.Millisecond)
	sess.mu.Lock()
	defer sess.mu.Unlock()
	if len(sess.all) > 0 {
		t.Error("half a message was delivered")
	}
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errors.New("disk trouble") }

func TestStuffer(t *testing.T) {
	for in, want := range map[string]string{
		"":              ".\r\n",
		"a":             "a\r\n.\r\n",
		".\n..\n":       "..\r\n...\r\n.\r\n",
		"12345678901\n": "1234567890\r\n 1\r\n.\r\n",
		"1234567890\n":  "1234567890\r\n.\r\n",
		"a\r\nb\n":      "a\r\r\nb\r\n.\r\n",
	} {
		for size := 1; size < 6; size++ {
			s := newStuffer(&ClientOptions{LineLimit: 10})
			for b := []byte(in); len(b) > 0; b = b[min(size, len(b)):] {
				s.write(b[:min(size, len(b))])
			}
			s.finish()
			if string(s.out) != want {
				t.Errorf("%q by %d: %q, want %q", in, size, s.out, want)
			}
		}
	}
	s := newStuffer(&ClientOptions{BlankCR: true})
	s.write([]byte("x\r.\r\nMAIL\r\r"))
	s.write([]byte("\n.\n"))
	s.finish()
	if got := string(s.out); got != "x . \r\nMAIL  \r\n..\r\n.\r\n" {
		t.Errorf("stray CR: %q", got)
	}
}

// go-smtp as a client of ours, and as a server for our client.
func TestForeignPeers(t *testing.T) {
	sess := &testSession{reject: map[string]Reply{"no@b.test": {550, "5.1.1", "User unknown"}}}
	srv := testServer()
	srv.TLS = testCert(t)
	addr := serveOn(t, srv, func(*Conn) Session { return sess })
	c, err := gosmtp.DialStartTLS(addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SendMail("a@b.test", []string{"b@b.test"}, strings.NewReader("Subject: x\r\n\r\n.dot\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.SendMail("a@b.test", []string{"no@b.test"}, strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), "User unknown") {
		t.Error(err)
	}
	_ = c.Quit()
	if len(sess.all) != 1 || sess.all[0] != "Subject: x\n\n.dot\n" {
		t.Errorf("%q", sess.all)
	}

	be := &foreignBackend{}
	fs := gosmtp.NewServer(be)
	fs.Domain, fs.AllowInsecureAuth = "foreign.test", true
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go fs.Serve(l)
	defer fs.Close()
	for _, chunk := range []bool{false, true} {
		cl := dial(t, l.Addr().String(), ClientOptions{})
		if err := cl.Hello(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := cl.Auth(context.Background(), plainClient{}); err != nil {
			t.Fatal(err)
		}
		a := cl.Send(context.Background(), &Message{From: address.Parse("a@b.test"), Recipients: envelopes("b@b.test", "no@b.test"), Content: strings.NewReader("Subject: y\n\n.\n..x\n"), Chunking: chunk})
		if a[0].Err != nil || a[1].Err == nil {
			t.Errorf("%+v", a)
		}
		if be.got.String() != "Subject: y\r\n\r\n.\r\n..x\r\n" {
			t.Errorf("chunking %v: %q", chunk, be.got.String())
		}
	}
}

type plainClient struct{}

func (plainClient) Start() (string, []byte, error) { return "PLAIN", []byte("\x00bob\x00secret"), nil }
func (plainClient) Next([]byte) ([]byte, error)    { return nil, errors.New("no challenge expected") }

type foreignBackend struct{ got bytes.Buffer }

func (b *foreignBackend) NewSession(*gosmtp.Conn) (gosmtp.Session, error) {
	return &foreignSession{b}, nil
}

type foreignSession struct{ b *foreignBackend }

func (s *foreignSession) AuthMechanisms() []string { return []string{"PLAIN"} }
func (s *foreignSession) Auth(string) (gosasl.Server, error) {
	return gosasl.NewPlainServer(func(_, user, pass string) error {
		if user != "bob" || pass != "secret" {
			return errors.New("no")
		}
		return nil
	}), nil
}
func (s *foreignSession) Mail(string, *gosmtp.MailOptions) error { return nil }
func (s *foreignSession) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	if strings.HasPrefix(to, "no@") {
		return &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 1, 1}, Message: "no"}
	}
	return nil
}
func (s *foreignSession) Data(r io.Reader) error {
	s.b.got.Reset()
	_, err := io.Copy(&s.b.got, r)
	return err
}
func (s *foreignSession) Reset()        {}
func (s *foreignSession) Logout() error { return nil }
