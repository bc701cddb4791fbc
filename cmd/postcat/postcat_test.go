package postcat

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/cli"
	"angarium/lib/queue"
)

// house has one message, 4F1A2 in the active directory. The expected output is
// what Postfix' own postcat prints of such files.
func house(t *testing.T) (dir, file string) {
	t.Helper()
	t.Setenv("TZ", "UTC")
	dir = t.TempDir()
	file = filepath.Join(dir, "spool/active/4F1A2")
	os.MkdirAll(filepath.Dir(file), 0o700)
	os.WriteFile(filepath.Join(dir, "main.cf"), []byte("compatibility_level = 3.6\nmyhostname = here.test\nqueue_directory = "+dir+"/spool\n"), 0o644)
	var b []byte
	add := func(t queue.Type, s string) { b = queue.AppendRecord(b, t, s) }
	add(queue.TypeSize, fmt.Sprintf("%15d %15d %15d %15d %15d %15d", 60, 231, 2, 0, 60, 0))
	add(queue.TypeAttr, "rewrite_context=local")
	add(queue.TypeFilter, "scan:x")
	add(queue.TypeSender, "a@x.test")
	add(queue.TypeDone, "b@y.test")
	add(queue.TypeRcpt, "c@y.test")
	add(queue.TypeMessage, "")
	add(queue.TypeNorm, "Subject: x")
	add(queue.TypeNorm, " folded")
	add(queue.TypeNorm, "")
	add(queue.TypeCont, "long ")
	add(queue.TypeNorm, "line")
	add(queue.TypeExtra, "")
	add(queue.TypeEnd, "")
	if err := os.WriteFile(file, b, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

func call(dir string, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	c := &cli.Cmd{Name: "postcat", Args: append([]string{"-c", dir}, args...), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}
	code = cli.Run(context.Background(), c, Main)
	return out.String(), errs.String(), code
}

func TestShow(t *testing.T) {
	dir, _ := house(t)
	cases := map[string]string{
		"-q":   "*** ENVELOPE RECORDS active/4F1A2 ***\nmessage_size:              60             231               2               0              60               0\nnamed_attribute: rewrite_context=local\ncontent_filter: scan:x\nsender: a@x.test\ndone_recipient: b@y.test\nrecipient: c@y.test\n*** MESSAGE CONTENTS active/4F1A2 ***\nSubject: x\n folded\n\nlong line\n*** HEADER EXTRACTED active/4F1A2 ***\n*** MESSAGE FILE END active/4F1A2 ***\n",
		"-qh":  "Subject: x\n folded\n",
		"-qb":  "\nlong line\n",
		"-qbh": "Subject: x\n folded\n\nlong line\n",
		"-qbv": "regular_text: \nunterminated_text: long \nregular_text: line\n",
		"-qhd": " 78 Subject: x\n 78  folded\n",
	}
	for args, want := range cases {
		if out, errs, code := call(dir, args, "4F1A2"); out != want || errs != "" || code != 0 {
			t.Errorf("%s: %d %s\ngot\n%s\nwant\n%s", args, code, errs, out, want)
		}
	}
	if out, _, _ := call(dir, "-qo", "4F1A2"); !strings.Contains(out, "\n       97 named_attribute: rewrite_context=local\n") {
		t.Errorf("offsets:\n%s", out)
	}
}

func TestErrors(t *testing.T) {
	dir, file := house(t)
	os.WriteFile(file+"x", []byte("A\x50short"), 0o600)
	for args, want := range map[string]string{
		"-q ../x":   "bad mail queue ID: ../x",
		"-q ABCDE1": "open queue file ABCDE1: No such file or directory",
		"/nosuch":   "open /nosuch: No such file or directory",
		file + "x":  "record read error",
		"-s x y":    "bad offset: x",
	} {
		if _, errs, code := call(dir, strings.Fields(args)...); errs != "postcat: fatal: "+want+"\n" || code != 1 {
			t.Errorf("%s: %d %s", args, code, errs)
		}
	}
}

// A ring of pointers ends.
func TestPointers(t *testing.T) {
	dir, file := house(t)
	b := queue.AppendRecord(nil, queue.TypePointer, fmt.Sprintf("%15d", 34))
	b = queue.AppendRecord(b, queue.TypeSender, "skipped@x.test!")
	b = queue.AppendRecord(b, queue.TypeSender, "a@x.test")
	b = queue.AppendRecord(b, queue.TypePointer, fmt.Sprintf("%15d", 34))
	os.WriteFile(file, b, 0o600)
	out, errs, code := call(dir, "-e", file)
	if code != 1 || !strings.Contains(errs, "bad pointer record") || strings.Contains(out, "skipped") {
		t.Errorf("%d %s %.200s", code, errs, out)
	}
}

// What is no queue file is passed over, and an empty one shows nothing.
func TestNoQueueFile(t *testing.T) {
	dir, file := house(t)
	for text, want := range map[string]string{"": "", "garbage\n": "postcat: warning: " + file + ": input is not a valid queue file\n"} {
		os.WriteFile(file, []byte(text), 0o600)
		if out, errs, code := call(dir, file); out != "" || errs != want || code != 0 {
			t.Errorf("%q: %d %q %q", text, code, out, errs)
		}
	}
}
