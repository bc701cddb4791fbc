package saslpasswd2

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/accounts"
	"angarium/lib/cli"
)

func run(stdin string, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	c := &cli.Cmd{Name: "saslpasswd2", Path: "saslpasswd2", Args: args, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs}
	code = cli.Run(context.Background(), c, Main)
	return out.String(), errs.String(), code
}

// Exit codes and words as Debian's saslpasswd2 has them, but for the last case of
// "no such user": it says nothing there and changes nothing.
func TestCalls(t *testing.T) {
	db := filepath.Join(t.TempDir(), "db")
	verify := func(user, password string) bool {
		t.Helper()
		d, err := accounts.Open(db, accounts.Options{Realm: "r"})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		_, err = d.Verify(context.Background(), user, password)
		return err == nil
	}
	for _, c := range []struct {
		stdin string
		args  string
		out   string
		err   string
		code  int
	}{
		{"pw\n", "-p -c -u r bob", "", "", 0},
		{"", "-p -c -u r x", "", "saslpasswd2: invalid parameter supplied\n", 7},
		{"\n", "-p -c -u r x", "", "saslpasswd2: invalid parameter supplied\n", 7},
		{"new", "-p -u r bob", "", "", 0},
		{"a\na\n", "-c -u r eve", "Password: \nAgain (for verification): \n", "", 0},
		{"a\nb\n", "-c -u r eve", "Password: \nAgain (for verification): \n", "saslpasswd2: passwords don't match; aborting\n", 7},
		{"pw", "-p -cn -u r ann", "", "", 0},
		{"", "-d -u r nobody", "", "", 0},
		{"", "-d -u r eve", "", "", 0},
		{"pw", "-p -u r nobody", "", "saslpasswd2: user not found\n", 20},
	} {
		out, errs, code := run(c.stdin, append([]string{"-f", db}, strings.Fields(c.args)...)...)
		if out != c.out || errs != c.err || code != c.code {
			t.Errorf("%s: %d %q %q, want %d %q %q", c.args, code, out, errs, c.code, c.out, c.err)
		}
	}
	if !verify("bob", "new") || verify("bob", "pw") || verify("eve", "a") || !verify("ann", "pw") {
		t.Error("the accounts are not as they were set")
	}
	for _, args := range []string{"", "a b", "-c -d bob", "-x bob", "-h"} {
		if _, errs, code := run("", strings.Fields(args)...); code != 1 || !strings.Contains(errs, "usage: saslpasswd2 ") {
			t.Errorf("%q: %d %q", args, code, errs)
		}
	}
	if _, errs, code := run("pw", "-p", "-c", "-f", "/nonexistent/db", "-u", "r", "q"); code != 1 || !strings.HasPrefix(errs, "saslpasswd2: generic failure") {
		t.Errorf("%d %q", code, errs)
	}
}
