package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/cli"
	"angarium/lib/queue"
)

// house is a configuration whose programs write down how they were called.
func house(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("main.cf", "compatibility_level = 3.6\ncommand_directory = "+dir+"\ndaemon_directory = "+dir+
		"\nqueue_directory = "+dir+"/spool\nmaillog_file = "+dir+"/log\nmaillog_file_prefixes = /\nalias_database = hash:/a hash:/b\nmyhostname = here.test\n", 0o644)
	// The protocol of postdrop, as a shell can speak it.
	write("postdrop", `#!/bin/sh
printf 'protocol\0postdrop_protocol\0queue_id\0ABC\0\0'
cat >`+dir+`/records
printf 'status\000%s\0reason\0\0\0' "$(cat `+dir+`/status 2>/dev/null || echo 0)"
`, 0o755)
	return dir
}

// run calls sendmail, and returns the records that postdrop got, one a line.
func run(t *testing.T, dir, stdin string, args ...string) (records, stdout, stderr string, code int) {
	t.Helper()
	t.Setenv("MAIL_CONFIG", dir)
	t.Setenv("NAME", "Joe")
	os.Remove(filepath.Join(dir, "records"))
	var out, errs bytes.Buffer
	c := &cli.Cmd{Name: "sendmail", Args: args, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs}
	code = cli.Run(context.Background(), c, program)
	f, err := os.Open(filepath.Join(dir, "records"))
	if err != nil {
		return "", out.String(), errs.String(), code
	}
	defer f.Close()
	var b strings.Builder
	for r := queue.NewReader(f, 0); ; {
		typ, data, err := r.Read()
		if err == io.EOF {
			return b.String(), out.String(), errs.String(), code
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%c %s\n", typ, data)
	}
}

func TestSubmit(t *testing.T) {
	const (
		head = "A rewrite_context=local\nF Joe\nS a@b\n"
		text = "M \nN Subject: x\nN \nN hello\nX \n"
	)
	cases := []struct {
		name, stdin, args, want string
	}{
		{"plain", "Subject: x\n\nhello\n", "-f a@b bob", head + "R bob\n" + text + "E \n"},
		{"several", "Subject: x\n\nhello\n", "-fa@b -- bob,carol@c -d", head + "R bob\nR carol@c\nR -d\n" + text + "E \n"},
		{"dot", "Subject: x\n\nhello\n.\nmore\n", "-f a@b bob", head + "R bob\n" + text + "E \n"},
		{"dot is text", "Subject: x\n.\n", "-oi -f a@b bob", head + "R bob\nM \nN Subject: x\nN .\nX \nE \n"},
		{"CRLF", "Subject: x\r\n\r\nhello\r\n.\r\n", "-f a@b bob", head + "R bob\n" + text + "E \n"},
		{"mailbox", "From joe\n>From ann\nSubject: x\n\nhello\n", "-f a@b bob", head + "R bob\n" + text + "E \n"},
		{"no end of line", "x", "-f a@b bob", head + "R bob\nM \nL x\nX \nE \n"},
		{"long line", strings.Repeat("y", 2050) + "\n", "-f a@b bob", head + "R bob\nM \nL " + strings.Repeat("y", 2048) + "\nN yy\nX \nE \n"},
		{"-t", "To: Ann <ann@x>,\n (c) d\nBcc: e\nSubject: x\n\nTo: no\n", "-t -f a@b f", head + "R f\nM \nN To: Ann <ann@x>,\nN  (c) d\nN Bcc: e\nN Subject: x\nN \nN To: no\nX \nR ann@x\nR d\nR e\nE \n"},
		{"-t, resent", "Resent-Cc: r\nTo: no\n\n", "-t -f a@b", head + "M \nN Resent-Cc: r\nN To: no\nN \nX \nR r\nE \n"},
		{"-t, broken header", "To: r\nnone\nCc: no\n", "-t -f a@b", head + "M \nN To: r\nN \nN none\nN Cc: no\nX \nR r\nE \n"},
		{"DSN", "Subject: x\n\nhello\n", "-N success,delay -R hdrs -V env -B8BITMIME -f a@b bob",
			"A envelope_id=env\nA ret_flags=2\n" + head + "A encoding=8bit\nA notify_flags=10\nR bob\n" + text + "E \n"},
		{"VERP", "Subject: x\n\nhello\n", "-XV -f a@b bob", head + "V +=\nR bob\n" + text + "E \n"},
		{"probe", "", "-bv -f a@b bob ann", head + "A trace_flags=512\nR bob\nR ann\nM \nN From: a@b\nN Subject: probe\nL To:\nN \tbob,\nN \tann\nX \nE \n"},
		{"ignored", "Subject: x\n\nhello\n", "-odb -oem -U -Ac -x -h3 -m -c -f a@b bob", head + "R bob\n" + text + "E \n"},
	}
	dir := house(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, _, stderr, code := run(t, dir, c.stdin, strings.Fields(c.args)...)
			if got != c.want || code != 0 || stderr != "" {
				t.Errorf("status %d, %s\ngot\n%s\nwant\n%s", code, stderr, got, c.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	who := fmt.Sprintf("a@b(%d): ", os.Getuid())
	cases := []struct{ args, stdin, want string }{
		{"-f a@b", "x\n", who + "Recipient addresses must be specified on the command line or via the -t option"},
		{"-f a@b -t", "Subject: x\n", who + "No recipient addresses found in message header"},
		{"-Bfoo bob", "", "-B option needs 8BITMIME or 7BIT"},
		{"-bt", "", "unsupported: -bt"},
		{"-qf", "", "-qf is not implemented"},
		{"-qR", "", "specify: -qRsitename"},
		{"-n bob", "", "-n option not supported"},
		{"-t -bp", "", "-t can be used only in delivery mode"},
		{"-t -bv", "", "-t option cannot be used with -bv"},
		{"-bp bob", "", "display queue mode requires no recipient"},
		{"-bi bob", "", "alias initialization mode requires no recipient"},
		{"-XVab bob", "", "-V requires two characters from -=+"},
		{"-oA", "", "-oA requires pathname"},
		{"-bd", "", "execvp DIR/postfix: No such file or directory"},
		{"-Z", "", "usage: sendmail [options]"},
	}
	dir := house(t)
	for _, c := range cases {
		got, _, stderr, code := run(t, dir, c.stdin, strings.Fields(c.args)...)
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		if last := lines[len(lines)-1]; last != "sendmail: fatal: "+strings.ReplaceAll(c.want, "DIR", dir) || code != cli.TempFail {
			t.Errorf("%s: status %d, %s", c.args, code, stderr)
		}
		if strings.HasSuffix(got, "E \n") {
			t.Errorf("%s: postdrop got a complete message", c.args)
		}
	}
	os.WriteFile(filepath.Join(dir, "status"), []byte("4"), 0o644)
	if _, _, stderr, code := run(t, dir, "x\n", "-f", "a@b", "bob"); code != cli.TempFail || !strings.Contains(stderr, who+"message file too big") {
		t.Errorf("postdrop's refusal: status %d, %s", code, stderr)
	}
}

func FuzzContent(f *testing.F) {
	f.Add([]byte("From x\nTo: a\n b\n.\n"), true)
	f.Fuzz(func(t *testing.T, text []byte, extract bool) {
		var out bytes.Buffer
		w := &writer{out: &out}
		h := &header{w: w, done: !extract}
		for _, line := range bytes.Split(text, []byte("\n")) {
			h.line(line, true, true)
		}
		h.end()
		w.flush()
		r := queue.NewReader(&out, 0)
		for {
			if _, _, err := r.Read(); err == io.EOF {
				return
			} else if err != nil {
				t.Fatal(err)
			}
		}
	})
}
