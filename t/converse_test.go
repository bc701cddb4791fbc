package t

import (
	"bufio"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func init() {
	commands["converse"] = cmdConverse
	commands["say"] = cmdSay
	commands["hear"] = cmdHear
}

// talk is a connection that a script keeps open under a name.
type talk struct {
	net.Conn
	r *bufio.Reader
}

var talks sync.Map // work folder/name -> *talk

func talkOf(ts *testscript.TestScript, name string) *talk {
	v, ok := talks.Load(ts.Getenv("WORK") + "/" + name)
	if !ok {
		ts.Fatalf("no conversation %q", name)
	}
	return v.(*talk)
}

// converse name host:port: opens a conversation.
func cmdConverse(ts *testscript.TestScript, neg bool, args []string) {
	addr := args[1]
	if !strings.Contains(addr, ":") {
		addr = "127.0.0.1:" + addr
	}
	conn, err := net.Dial("tcp", addr)
	ts.Check(err)
	ts.Defer(func() { conn.Close() })
	talks.Store(ts.Getenv("WORK")+"/"+args[0], &talk{conn, bufio.NewReader(conn)})
}

// say name line: sends a line with CRLF.
func cmdSay(ts *testscript.TestScript, neg bool, args []string) {
	_, err := fmt.Fprintf(talkOf(ts, args[0]), "%s\r\n", args[1])
	ts.Check(err)
}

// hear name regexp: waits for a line that matches whole.
func cmdHear(ts *testscript.TestScript, neg bool, args []string) {
	t := talkOf(ts, args[0])
	re, err := regexp.Compile("^(?:" + args[1] + ")$")
	ts.Check(err)
	t.SetReadDeadline(time.Now().Add(patience))
	for {
		line, err := t.r.ReadString('\n')
		if err != nil {
			ts.Fatalf("%s, waiting for %q: %v", args[0], args[1], err)
		}
		if re.MatchString(strings.TrimRight(line, "\r\n")) {
			return
		}
	}
}
