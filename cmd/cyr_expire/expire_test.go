package cyr_expire

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"angarium/lib/cli"
	"angarium/lib/lmtpd"
	"angarium/lib/mailbox"
	"angarium/lib/store"
)

// set makes a private set-up, and a store as it was two days ago.
func set(t *testing.T) (dir string, st *store.Store) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("CYRUS_CONFIG", filepath.Join(dir, "imapd.conf"))
	if os.Geteuid() == 0 {
		t.Setenv("CYRUS_USER", "root") // the test stays who it is
	}
	text := fmt.Sprintf("configdirectory: %[1]s/conf\npartition-default: %[1]s/spool\ndefaultpartition: default\n"+
		"maillog_file: %[1]s/log\nexpunge_mode: delayed\ndelete_mode: delayed\n", dir)
	if err := os.WriteFile(dir+"/imapd.conf", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(context.Background(), store.Config{
		ConfigDirectory: dir + "/conf", DefaultPartition: "default", Partitions: map[string]string{"default": dir + "/spool"},
		Manual: true, DelayedDelete: true, ExpungeKeep: -1,
		Now: func() time.Time { return time.Now().Add(-48 * time.Hour) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir, st
}

func create(t *testing.T, st *store.Store, name mailbox.Name, annotations map[string]string) store.Mailbox {
	t.Helper()
	ctx := context.Background()
	if _, err := st.Create(ctx, store.Entry{Name: name, Annotations: annotations}); err != nil {
		t.Fatal(err)
	}
	m, err := st.Open(ctx, name, store.User{ID: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func put(t *testing.T, st *store.Store, m store.Mailbox, date string) {
	t.Helper()
	ctx := context.Background()
	d, err := st.Stage(ctx, store.Source{Reader: strings.NewReader("Date: " + date + "\r\nSubject: x\r\n\r\nhello\r\n")})
	if err == nil {
		_, err = m.Append(ctx, d)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func expire(t *testing.T, args ...string) (code int, out, log string) {
	t.Helper()
	var b bytes.Buffer
	c := &cli.Cmd{Name: "cyr_expire", Path: "cyr_expire", Args: args, Stdout: &b, Stderr: &b}
	code = cli.Run(context.Background(), c, Main)
	text, _ := os.ReadFile(filepath.Join(filepath.Dir(os.Getenv("CYRUS_CONFIG")), "log"))
	return code, b.String(), string(text)
}

func want(t *testing.T, text string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p + "$").MatchString(text) {
			t.Errorf("%q is missing in:\n%s", p, text)
		}
	}
}

func TestExpire(t *testing.T) {
	dir, st := set(t)
	ctx := context.Background()
	old, fresh := "Mon, 5 Jan 2004 10:00:00 +0000", time.Now().Format(time.RFC1123Z)
	bob := create(t, st, "user.bob", nil)
	for range 3 {
		put(t, st, bob, old)
	}
	if _, err := bob.Expunge(ctx, store.SetOf(1, 2)); err != nil {
		t.Fatal(err)
	}
	create(t, st, "user.bob.Lists", map[string]string{annotation + "expire": "30"})
	news := create(t, st, "user.bob.Lists.news", nil) // inherits
	put(t, st, news, old)
	put(t, st, news, fresh)
	create(t, st, "user.bob.Gone", nil)
	if err := st.Delete(ctx, "user.bob.Gone"); err != nil {
		t.Fatal(err)
	}
	seen := &lmtpd.Duplicates{Dir: dir + "/conf/deliver", Keep: 9, Now: func() time.Time { return time.Now().AddDate(0, 0, -5) }}
	seen.Mark("<1@h.test>", "", "user.bob")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	if code, out, log := expire(t, "-E", "3", "-X", "7", "-D", "7"); code != 0 || out != "" {
		t.Errorf("%d %q", code, out)
	} else {
		want(t, log,
			`cyrus/cyr_expire\[\d+\]: Expired 1 and expunged 0 out of 5 messages from 4 mailboxes`,
			`cyrus/cyr_expire\[\d+\]: Removed 0 deleted mailboxes`,
			`cyrus/cyr_expire\[\d+\]: duplicate_prune: pruning back 3.00 days`,
			`cyrus/cyr_expire\[\d+\]: duplicate_prune: purged 1 out of 1 entries`)
	}
	if code, out, log := expire(t, "-E3", "-X", "36h", "-D1", "-v"); code != 0 {
		t.Errorf("%d %q", code, out)
	} else {
		want(t, out, `^Expunging deleted messages in mailboxes older than 1.50 days`, `^Removing deleted mailboxes older than 1.00 days`,
			`^Expired 0 and expunged 2 out of 5 messages from 4 mailboxes`, `^Removing: DELETED.user.bob.Gone.[0-9A-F]{8}`)
		want(t, log, `: Expired 0 and expunged 2 out of 5 messages from 4 mailboxes`, `: Removed 1 deleted mailboxes`)
	}
	if code, _, log := expire(t, "-X", "0", "-u", "bob", "-p", "user.bob.Lists"); code != 0 {
		t.Error(code)
	} else {
		want(t, log, `: Expired 0 and expunged 0 out of 2 messages from 2 mailboxes`)
	}
}

func TestSwitches(t *testing.T) {
	dir, st := set(t)
	bob := create(t, st, "user.bob", map[string]string{annotation + "expire": "30"})
	put(t, st, bob, "Mon, 5 Jan 2004 10:00:00 +0000")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, log := expire(t, "-a", "-X1"); !strings.Contains(log, "Expired 0 and expunged 0 out of 1 messages from 1 mailboxes") {
		t.Errorf("-a looks at annotations:\n%s", log)
	}
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"", cli.Usage, "Missing arguments"},
		{"-E x", cli.Usage, "bad duration: x"},
		{"-X -1", cli.Usage, "bad duration: -1"},
		{"-z", cli.Usage, "invalid option -- 'z'"},
		{"-E 3 -C " + dir + "/none", cli.Config, "none"},
	} {
		if code, out, _ := expire(t, strings.Fields(c.args)...); code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s: %d %q", c.args, code, out)
		}
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"3": 72 * time.Hour, "1.5d": 36 * time.Hour, "12h": 12 * time.Hour, "30m": 30 * time.Minute, "90s": 90 * time.Second, "0": 0,
		"": -1, "x": -1, "-3": -1, "3w": -1, "1e300": -1, "NaN": -1, "Inf": -1,
	} {
		got, err := duration(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestDeliver(t *testing.T) {
	dir, st := set(t)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	seen := &lmtpd.Duplicates{Dir: dir + "/conf/deliver"}
	seen.Mark("<1@h.test>", "", "user.bob")
	run := func(main cli.Main, args ...string) (int, string) {
		var b bytes.Buffer
		code := cli.Run(context.Background(), &cli.Cmd{Name: "ctl_deliver", Path: "ctl_deliver", Args: args, Stdout: &b, Stderr: &b}, main)
		return code, b.String()
	}
	if code, out := run(DeliverMain, "-d"); code != 0 || !regexp.MustCompile(`^it is NOW: \d+\nid: [0-9a-f]{32} +\tat: \d+\ngot 1 entries\n$`).MatchString(out) {
		t.Errorf("-d: %d %q", code, out)
	}
	if code, out := run(DeliverMain, "-E", "3"); code != 0 || !strings.Contains(out, "deprecated") {
		t.Errorf("-E: %d %q", code, out)
	}
	if code, _ := run(DeliverMain); code != cli.Usage {
		t.Errorf("without arguments: %d", code)
	}
	if code, out := run(TLSMain); code != 0 || out != "" {
		t.Errorf("tls_prune: %d %q", code, out)
	}
}
