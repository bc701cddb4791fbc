package t

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func init() {
	commands["imapstate"] = cmdIMAPState
	commands["notlower"] = cmdNotLower
}

// imapstate port user password file mailbox...: all that a client can see of some
// mailboxes goes to file; UIDNEXT and HIGHESTMODSEQ go to file.counters.
func cmdIMAPState(ts *testscript.TestScript, neg bool, args []string) {
	conn, err := net.Dial("tcp", "127.0.0.1:"+args[0])
	ts.Check(err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	var all, counters bytes.Buffer
	do := func(w io.Writer, command string) {
		fmt.Fprintf(conn, "t %s\r\n", command)
		for {
			line, err := r.ReadString('\n')
			ts.Check(err)
			if strings.HasPrefix(line, "t ") {
				if !strings.HasPrefix(line, "t OK") {
					ts.Fatalf("%s: %s", command, line)
				}
				return
			}
			// \Recent is the session's: one flag that no file has to keep.
			io.WriteString(w, strings.Replace(strings.Replace(line, `\Recent `, "", 1), `\Recent`, "", 1))
			if m := literal.FindStringSubmatch(line); m != nil {
				n, _ := strconv.ParseInt(m[1], 10, 64)
				_, err := io.CopyN(w, r, n)
				ts.Check(err)
			}
		}
	}
	do(io.Discard, "LOGIN "+args[1]+" "+args[2])
	do(&all, `LIST "" "*"`)
	do(&all, `LSUB "" "*"`)
	for _, box := range args[4:] {
		do(&all, "STATUS "+box+" (MESSAGES UNSEEN UIDVALIDITY MAILBOXID)")
		do(&counters, "STATUS "+box+" (UIDNEXT HIGHESTMODSEQ)")
		do(&all, "GETACL "+box)
		do(&all, "GETQUOTAROOT "+box)
		do(io.Discard, "EXAMINE "+box)
		do(&all, "FETCH 1:* (UID FLAGS INTERNALDATE SAVEDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE EMAILID BODY.PEEK[])")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), all.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[3]+".counters"), counters.Bytes(), 0o600))
}

// notlower before after: no number of the second file is lower than its
// counterpart in the first.
func cmdNotLower(ts *testscript.TestScript, neg bool, args []string) {
	number := regexp.MustCompile(`\b[0-9]+\b`)
	before := number.FindAllString(ts.ReadFile(args[0]), -1)
	after := number.FindAllString(ts.ReadFile(args[1]), -1)
	if len(before) == 0 || len(before) != len(after) {
		ts.Fatalf("%d numbers, and %d", len(before), len(after))
	}
	for i := range before {
		a, _ := strconv.ParseUint(before[i], 10, 64)
		b, _ := strconv.ParseUint(after[i], 10, 64)
		if b < a {
			ts.Fatalf("number %d went from %d to %d:\n%s\n%s", i+1, a, b, ts.ReadFile(args[0]), ts.ReadFile(args[1]))
		}
	}
}
