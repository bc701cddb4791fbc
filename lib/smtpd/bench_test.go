package smtpd

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"angarium/lib/access"
	"angarium/lib/agent"
	"angarium/lib/maillog"
	"angarium/lib/route"
	"angarium/lib/smtp"
)

type nullCleaner struct{}

func (nullCleaner) Space(int64) error                               { return nil }
func (nullCleaner) Begin(context.Context, Envelope) (Letter, error) { return nullLetter{}, nil }

type nullLetter struct{}

func (nullLetter) ID() string                                       { return "4675B9B2122" }
func (nullLetter) Recipient(context.Context, agent.Recipient) error { return nil }
func (nullLetter) Trace([]byte) error                               { return nil }
func (nullLetter) Write(p []byte) (int, error)                      { return len(p), nil }
func (nullLetter) Commit(context.Context) error                     { return nil }
func (nullLetter) Abort()                                           {}
func (nullLetter) Hold()                                            {}
func (nullLetter) Filter(string) error                              { return nil }
func (nullLetter) Redirect(string) error                            { return nil }
func (nullLetter) BCC(context.Context, string) error                { return nil }

// BenchmarkMessage4K is one kept session over loopback, all restrictions as
// they are by default, with a Cleaner that does nothing. The client counts, too.
func BenchmarkMessage4K(b *testing.B) {
	r := route.New(route.Config{MyHostname: "mail.here.test", MyOrigin: "here.test", AppendAtMyOrigin: true, MyDestination: domains{"here.test"}, LocalTransport: "local:x", DefaultTransport: "smtp"})
	rcpts := &Recipients{Router: r, Local: mapTable{"bob": "x"}}
	p := access.New(access.Config{MyNetworks: func(a netip.Addr) bool { return a.IsLoopback() }, Destination: rcpts.Destination, Listed: rcpts.Listed})
	d := New(Config{Server: &smtp.Server{Hostname: "mail.here.test"}, Banner: "mail.here.test ESMTP Postfix", MyName: "mail.here.test", DelayReject: true, RelayFirst: true, CheckRecipient: true,
		Policy: p, Relay: p.Parse(access.Recipient, "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination"), Recipients: rcpts, Cleaner: nullCleaner{}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			d.Serve(context.Background(), conn, maillog.New(maillog.ToWriter(io.Discard), "postfix/smtpd"), false)
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	say := func(s []byte) {
		if _, err := conn.Write(s); err != nil {
			b.Fatal(err)
		}
		for {
			line, err := in.ReadSlice('\n')
			if err != nil || line[0] > '3' {
				b.Fatalf("%q %v", line, err)
			}
			if line[3] == ' ' {
				return
			}
		}
	}
	say(nil)
	say([]byte("EHLO a\r\n"))
	body := []byte(strings.Repeat(strings.Repeat("x", 70)+"\r\n", 57) + ".\r\n")
	mail, rcpt, data := []byte("MAIL FROM:<a@b.test>\r\n"), []byte("RCPT TO:<bob@here.test>\r\n"), []byte("DATA\r\n")
	b.SetBytes(4 << 10)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		say(mail)
		say(rcpt)
		say(data)
		say(body)
	}
}
