package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"angarium/lib/cli"
	"angarium/lib/queue"
)

var entries = []queue.Entry{
	{Dir: queue.Active, ID: "4F1A23C0", Arrival: time.Date(2026, 1, 5, 10, 0, 0, 0, time.Local), Size: 1834, Sender: "a@x.test", Recipients: []queue.Waiting{{Address: "b@y.test"}}},
	{Dir: queue.Deferred, ID: "51D269841CF", Arrival: time.Date(2026, 11, 22, 18, 40, 23, 0, time.Local), Size: 425, Expired: true, Sender: "MAILER-DAEMON", Recipients: []queue.Waiting{
		{Address: "b@y.test", Reason: "connect to 127.0.0.1[127.0.0.1]:2599: Connection refused"}, {Address: "c@y.test", Reason: "connect to 127.0.0.1[127.0.0.1]:2599: Connection refused"},
		{Address: "d\x1b@y.test", Reason: strings.Repeat("long ", 20)}}},
	{Dir: queue.Hold, ID: "4jXdvR0sdKz1SC95", Arrival: time.Date(2026, 11, 22, 18, 40, 23, 0, time.Local), Size: 1000000, Sender: `"a b"@x.test`},
}

func list(l *listing) string {
	var b bytes.Buffer
	l.w = &b
	for i := range entries {
		l.add(&entries[i])
	}
	l.end()
	return b.String()
}

// The columns are those that scripts cut.
func TestListing(t *testing.T) {
	short := `-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------
4F1A23C0*      1834 Mon Jan  5 10:00:00  a@x.test
                                         b@y.test

51D269841CF#     425 Sun Nov 22 18:40:23  MAILER-DAEMON
                    (connect to 127.0.0.1[127.0.0.1]:2599: Connection refused)
                                         b@y.test
                                         c@y.test
(` + strings.Repeat("long ", 20) + `)
                                         d?@y.test

4jXdvR0sdKz1SC95! 1000000 Sun Nov 22 18:40:23  "a b"@x.test

-- 978 Kbytes in 3 Requests.
`
	if got := list(&listing{}); got != short {
		t.Errorf("got\n%s\nwant\n%s", got, short)
	}
	long := list(&listing{long: true})
	for _, want := range []string{
		"----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------\n",
		"4F1A23C0*             1834 Mon Jan  5 10:00:00 a@x.test\n" + strings.Repeat(" ", 47) + "b@y.test\n",
	} {
		if !strings.Contains(long, want) {
			t.Errorf("no %q in\n%s", want, long)
		}
	}
	json := strings.Split(list(&listing{json: true}), "\n")
	if len(json) != 4 || !strings.HasPrefix(json[1], `{"queue_name": "deferred", "queue_id": "51D269841CF", "arrival_time": `) ||
		!strings.Contains(json[1], `, "message_size": 425, "forced_expire": true, "sender": "MAILER-DAEMON", "recipients": [{"address": "b@y.test", "delay_reason": "connect to `) ||
		!strings.Contains(json[1], `{"address": "d\u001B@y.test"`) || !strings.HasSuffix(json[2], `"sender": "\"a b\"@x.test", "recipients": []}`) {
		t.Errorf("%s", strings.Join(json, "\n"))
	}
	var b bytes.Buffer
	(&listing{w: &b}).end()
	if b.String() != "Mail queue is empty\n" {
		t.Errorf("%q", b.String())
	}
}

// Up it asks showq, down it reads the queue itself.
func TestUpAndDown(t *testing.T) {
	dir, err := os.MkdirTemp("", "pq") // short: socket names are at most 107 octets
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	os.MkdirAll(dir+"/spool/public", 0o700)
	os.MkdirAll(dir+"/spool/active", 0o700)
	os.WriteFile(filepath.Join(dir, "main.cf"), []byte("compatibility_level = 3.6\nmyhostname = here.test\nqueue_directory = "+dir+"/spool\n"), 0o644)
	call := func(args ...string) (string, string, int) {
		var out, errs bytes.Buffer
		c := &cli.Cmd{Name: "postqueue", Args: append([]string{"-c", dir}, args...), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}
		code := cli.Run(context.Background(), c, run)
		return out.String(), errs.String(), code
	}
	const down = "postqueue: warning: Mail system is down -- accessing queue directly (Connect to the Postfix showq service: No such file or directory)\n"
	if out, errs, code := call("-p"); out != "Mail queue is empty\n" || errs != down || code != 0 {
		t.Errorf("%d %q %q", code, out, errs)
	}
	for _, c := range []struct{ args, want string }{
		{"-f", "Cannot flush mail queue - mail system is down"},
		{"-s nosuch.test", `Flush service is not configured for destination "nosuch.test"`},
		{"-s a..b", `Cannot flush mail queue - invalid destination: "a..b"`},
		{"-i ../x", `Cannot flush queue ID - invalid name: "../x"`},
		{"-f -p", usage},
		{"-p x", usage},
		{"", usage},
	} {
		if _, errs, code := call(strings.Fields(c.args)...); errs != "postqueue: fatal: "+c.want+"\n" || code != cli.Unavailable {
			t.Errorf("%s: %d %s", c.args, code, errs)
		}
	}

	q, err := queue.Open(dir+"/spool", queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/spool/public/showq")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			q.WriteList(context.Background(), conn)
			conn.Close()
		}
	}()
	if out, errs, code := call("-p"); out != "Mail queue is empty\n" || errs != "" || code != 0 {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if out, errs, code := call("-j"); out != "" || errs != "" || code != 0 {
		t.Errorf("%d %q %q", code, out, errs)
	}
}
