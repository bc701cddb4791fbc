package sasldblistusers2

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/accounts"
	"angarium/lib/cli"
)

func TestList(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	db, err := accounts.Open(file, accounts.Options{Realm: "r"})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, user := range []string{"bob", "ann@other.test"} {
		if err := db.Set(context.Background(), user, "", "pw"); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"-f", file}, {file}} {
		var out, errs bytes.Buffer
		c := &cli.Cmd{Name: "sasldblistusers2", Args: args, Stdout: &out, Stderr: &errs}
		if code := cli.Run(context.Background(), c, Main); code != 0 || errs.Len() > 0 {
			t.Errorf("%d %s", code, &errs)
		}
		got := out.String()
		if !strings.Contains(got, "bob@r: userPassword\n") || !strings.Contains(got, "ann@other.test: userPassword\n") || strings.Count(got, "\n") != 2 {
			t.Errorf("%q", got)
		}
	}
	var out, errs bytes.Buffer
	c := &cli.Cmd{Name: "sasldblistusers2", Args: []string{"-f", file + ".none"}, Stdout: &out, Stderr: &errs}
	if code := cli.Run(context.Background(), c, Main); code != 0 || !strings.HasPrefix(errs.String(), "listusers failed") {
		t.Errorf("%d %q", code, errs.String())
	}
}
