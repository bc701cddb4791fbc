package store

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCompare(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	f.create("user.eve")
	for range f.Compare(bg) {
		t.Fatal("a sound store has differences")
	}
	spool := filepath.Join(f.dir, "spool/user")
	if err := os.Rename(filepath.Join(spool, "eve"), filepath.Join(spool, "mallory")); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for m, err := range f.Compare(bg) {
		if err != nil {
			t.Fatal(err)
		}
		got[string(m.Name)] = m.Listed
	}
	if len(got) != 2 || !got["user.eve"] || got["user.mallory"] {
		t.Errorf("differences: %v", got)
	}
}
