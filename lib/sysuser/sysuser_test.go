package sysuser

import (
	"os"
	"testing"
)

func TestLookup(t *testing.T) {
	root, err := Lookup("root")
	if err != nil || root == nil || root.UID != 0 || root.Home == "" {
		t.Fatalf("root is %+v, %v", root, err)
	}
	if same, err := LookupID(0); err != nil || same == nil || same.UID != 0 {
		t.Fatalf("user 0 is %+v, %v", same, err)
	}
	for _, name := range []string{"no-such-user-here", "", "a:b", "x\ny"} {
		if u, err := Lookup(name); u != nil || err != nil {
			t.Errorf("%q is %+v, %v", name, u, err)
		}
	}
	if g, err := LookupGroup("root"); err != nil || g == nil || g.GID != 0 {
		t.Errorf("group root is %+v, %v", g, err)
	}
	if ids, err := Groups(root); err != nil || len(ids) == 0 || ids[0] != root.GID {
		t.Errorf("groups of root: %v, %v", ids, err)
	}
}

func TestDamagedLines(t *testing.T) {
	for _, f := range [][]string{nil, {"a"}, {"a", "x", "notanumber", "1", "", "", ""}} {
		if u := user(f); u != nil {
			t.Errorf("%q became %+v", f, u)
		}
	}
}

func TestMissingFileIsAnError(t *testing.T) {
	if err := eachLine(t.TempDir()+"/none", nil); !os.IsNotExist(err) {
		t.Fatal(err)
	}
}
