package lmtpd

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/store"
)

// BenchmarkDelivery is a kept session that delivers 4 KB again and again.
func BenchmarkDelivery(b *testing.B) {
	dir := b.TempDir()
	st, err := store.Open(context.Background(), store.Config{
		ConfigDirectory: dir + "/conf", DefaultPartition: "p", Partitions: map[string]string{"p": dir + "/spool"},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	if _, err := st.Create(context.Background(), store.Entry{Name: mailbox.Inbox("bob")}); err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	srv := New(Config{Hostname: "here.test", Version: "x", Store: st, Seen: &Duplicates{Dir: dir + "/deliver"}})
	go func() {
		c, err := l.Accept()
		if err == nil {
			srv.Serve(context.Background(), c, maillog.New(maillog.ToWriter(&strings.Builder{}), "x"))
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	read := func(n int) {
		for n > 0 {
			line, err := r.ReadString('\n')
			if err != nil || line[0] > '3' {
				b.Fatal(line, err)
			}
			if line[3] == ' ' {
				n--
			}
		}
	}
	fmt.Fprint(c, "LHLO x\r\n")
	read(2)
	body := strings.Repeat(strings.Repeat("x", 70)+"\r\n", 55)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		fmt.Fprint(c, "MAIL FROM:<a@there.test>\r\nRCPT TO:<bob>\r\nDATA\r\n")
		read(3)
		fmt.Fprintf(c, "Subject: x\r\nMessage-ID: <%d@x>\r\nDate: now\r\n\r\n%s.\r\n", n, body)
		read(1)
	}
}
