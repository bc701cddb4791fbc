package t

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func init() {
	commands["imapfetch"] = cmdIMAPFetch
	commands["popfetch"] = cmdPOPFetch
}

var literal = regexp.MustCompile(`\{(\d+)\}\r\n$`)

// imapfetch host:port user password dir: each message of INBOX as a file.
func cmdIMAPFetch(ts *testscript.TestScript, neg bool, args []string) {
	conn, err := net.Dial("tcp", "127.0.0.1:"+args[0])
	ts.Check(err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	dir := ts.MkAbs(args[3])
	ts.Check(os.MkdirAll(dir, 0o755))
	fmt.Fprintf(conn, "a login %s %s\r\nb examine inbox\r\nc fetch 1:* body.peek[]\r\n", args[1], args[2])
	n := 0
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		ts.Check(err)
		if strings.HasPrefix(line, "c ") || strings.Contains(line, " NO ") || strings.Contains(line, " BAD ") {
			if !strings.HasPrefix(line, "c OK") {
				ts.Fatalf("%s", line)
			}
			return
		}
		if m := literal.FindStringSubmatch(line); m != nil {
			size, err := strconv.Atoi(m[1])
			ts.Check(err)
			data := make([]byte, size)
			_, err = io.ReadFull(r, data)
			ts.Check(err)
			n++
			ts.Check(os.WriteFile(filepath.Join(dir, strconv.Itoa(n)), data, 0o644))
		}
	}
}

// popfetch host:port user password dir: each message as a file.
func cmdPOPFetch(ts *testscript.TestScript, neg bool, args []string) {
	conn, err := net.Dial("tcp", "127.0.0.1:"+args[0])
	ts.Check(err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	dir := ts.MkAbs(args[3])
	ts.Check(os.MkdirAll(dir, 0o755))
	r := bufio.NewReader(conn)
	ask := func(command string) string {
		if command != "" {
			fmt.Fprintf(conn, "%s\r\n", command)
		}
		line, err := r.ReadString('\n')
		ts.Check(err)
		if !strings.HasPrefix(line, "+OK") {
			ts.Fatalf("%s: %s", command, line)
		}
		return line
	}
	ask("")
	ask("USER " + args[1])
	ask("PASS " + args[2])
	count, err := strconv.Atoi(strings.Fields(ask("STAT"))[1])
	ts.Check(err)
	for n := 1; n <= count; n++ {
		ask(fmt.Sprint("RETR ", n))
		var data []byte
		for {
			line, err := r.ReadString('\n')
			ts.Check(err)
			if line == ".\r\n" {
				break
			}
			data = append(data, strings.TrimPrefix(line, ".")...)
		}
		ts.Check(os.WriteFile(filepath.Join(dir, strconv.Itoa(n)), data, 0o644))
	}
	ask("QUIT")
}
