package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/cli"
	"angarium/lib/maillog"
	"angarium/lib/queue"
)

func call(t *testing.T, input string, settings ...string) (stdout, stderr string, code int, files []string) {
	t.Helper()
	dir := t.TempDir()
	spool := filepath.Join(dir, "spool")
	text := "compatibility_level = 3.6\nmyhostname = here.test\nqueue_directory = " + spool + "\nmaillog_file = " + dir + "/log\nmaillog_file_prefixes = /\n" + strings.Join(settings, "\n") + "\n"
	if err := os.WriteFile(filepath.Join(dir, "main.cf"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(spool+"/maildrop", 0o700); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	c := &cli.Cmd{Name: "postdrop", Args: []string{"-r", "-c", dir}, Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errs}
	code = cli.Run(context.Background(), c, run)
	files, _ = filepath.Glob(spool + "/maildrop/*")
	return out.String(), errs.String(), code, files
}

func records(pairs ...string) string {
	var b []byte
	for _, p := range pairs {
		b = queue.AppendRecord(b, queue.Type(p[0]), p[1:])
	}
	return string(b)
}

func TestDrop(t *testing.T) {
	uid := fmt.Sprintf("uid=%d: ", os.Getuid())
	cases := []struct {
		name, input string
		status      string // on standard output
		stderr      string
		code        int
	}{
		{"good", records("Arewrite_context=local", "FJoe", "Sa@b", "Rc@d", "M", "Nx", "Ly", "X", "Re@f", "E"), "0", "", 0},
		{"strange attribute", records("Aclient_name=evil", "Sa", "Rb", "M", "X", "E"), "0", "warning: " + uid + "ignoring attribute record: client_name=evil\n", 0},
		{"no attribute", records("Anotify_flags", "Sa", "Rb", "M", "X", "E"), "0", "warning: " + uid + "ignoring malformed record: missing '=' after attribute name: notify_flags\n", 0},
		{"strange context", records("Arewrite_context=mine", "Sa", "Rb", "M", "X", "E"), "0", "warning: " + uid + "ignoring attribute record: rewrite_context=mine\n", 0},
		{"nothing", "", "", "", 0},
		{"given up", records("Sa", "Rb", "M", "Nx"), "", "", 0},
		{"no recipient", records("Sa", "M", "X", "E"), "1", "", 1},
		{"NUL", records("Sa\x00b", "Rc", "M", "X", "E"), "1", "", 1},
		{"garbage", "garbage", "", "warning: stdin: unexpected EOF in data, record type 103 length 97\nfatal: " + uid + "malformed input\n", 1},
		{"size record", records("C1 2", "Sa"), "", "fatal: " + uid + "unexpected record type: 67\n", 1},
		{"time record", records("T1 2", "Sa"), "", "fatal: " + uid + "unexpected record type: 84\n", 1},
		{"content filter", records("Lx:y", "Sa"), "", "fatal: " + uid + "unexpected record type: 76\n", 1},
		{"recipient in content", records("Sa", "M", "Rb"), "", "fatal: " + uid + "unexpected record type: 82\n", 1},
		{"pointer", records("p0"), "", "fatal: " + uid + "unexpected record type: 112\n", 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			out, stderr, code, files := call(t, c.input)
			fields := strings.Split(out, "\x00")
			status := ""
			if len(fields) > 6 && fields[5] == "status" {
				status = fields[6]
			}
			if len(fields) < 4 || fields[1] != "postdrop_protocol" || !queue.ValidID(fields[3]) || status != c.status {
				t.Errorf("said %q", out)
			}
			if got := strings.ReplaceAll(stderr, "postdrop: ", ""); got != c.stderr || code != c.code {
				t.Errorf("status %d, %s", code, stderr)
			}
			if taken := c.status == "0"; taken != (len(files) == 1) {
				t.Fatalf("files: %v", files)
			}
			if len(files) == 1 {
				if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != queue.ModeMaildrop || filepath.Base(files[0]) != fields[3] {
					t.Errorf("%v %v", info.Mode(), err)
				}
			}
		})
	}
	out, _, code, files := call(t, records("Sa", "Rb", "M", "N"+strings.Repeat("x", 2000), "X", "E"), "message_size_limit = 1000")
	if code != 1 || len(files) > 0 || !strings.Contains(out, "status\x004\x00reason\x00File too large") {
		t.Errorf("too large: %d %q %v", code, out, files)
	}
	if _, stderr, code, files := call(t, records("Sa", "Rb", "M", "X", "E"), "local_login_sender_maps = hash:/x"); code != 1 || len(files) > 0 || stderr == "" {
		t.Errorf("a rule that can't be kept: %d %v", code, files)
	}
}

func FuzzCopy(f *testing.F) {
	f.Add([]byte(records("Arewrite_context=local", "FJoe", "Sa@b", "Rc@d", "M", "Nx", "Ly", "X", "Re@f", "E")))
	q, err := queue.Open(f.TempDir(), queue.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := q.CreateRaw(queue.Maildrop, queue.ModeMaildrop)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Abort()
		p := &copier{d: d, log: maillog.New(nil, "x")}
		p.copy(bytes.NewReader(b))
	})
}
