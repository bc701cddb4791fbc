package ctl_cyrusdb

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"angarium/lib/cli"
)

func TestRecoverAndCheckpoint(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CYRUS_CONFIG", filepath.Join(dir, "imapd.conf"))
	if os.Geteuid() == 0 {
		t.Setenv("CYRUS_USER", "root")
	}
	text := fmt.Sprintf("configdirectory: %[1]s/conf\npartition-default: %[1]s/spool\nmaillog_file: %[1]s/log\n", dir)
	if err := os.WriteFile(dir+"/imapd.conf", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) int {
		var b bytes.Buffer
		return cli.Run(context.Background(), &cli.Cmd{Name: "ctl_cyrusdb", Path: "ctl_cyrusdb", Args: args, Stdout: &b, Stderr: &b}, Main)
	}
	for _, args := range []string{"-r", "-c", "-r -x", "-xr"} {
		if code := run(strings.Fields(args)...); code != 0 {
			t.Fatalf("%s: %d", args, code)
		}
	}
	db := dir + "/conf/mailboxes.db"
	if err := os.WriteFile(db, bytes.Repeat([]byte("not a database. "), 512), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := run("-r"); code != 0 {
		t.Errorf("-r with a damaged list: %d", code)
	}
	log, _ := os.ReadFile(dir + "/log")
	n := 0
	for line := range strings.Lines(string(log)) {
		if regexp.MustCompile(`cyrus/ctl_cyrusdb\[\d+\]: (done )?(recovering|checkpointing) cyrus databases\n$`).MatchString(line) {
			n++
		}
	}
	if n != 10 || !strings.Contains(string(log), "mailboxes.db is damaged") {
		t.Errorf("%d lines as Cyrus has them:\n%s", n, log)
	}
	for _, args := range []string{"", "-r -c", "-q"} {
		if code := run(strings.Fields(args)...); code != cli.Usage {
			t.Errorf("%q: %d", args, code)
		}
	}
}
