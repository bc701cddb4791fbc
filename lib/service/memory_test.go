package service

import (
	"os"
	"path/filepath"
	"testing"
)

// TestGroupLimit: the limit may stand at any of the groups around ours.
func TestGroupLimit(t *testing.T) {
	root := t.TempDir()
	own := filepath.Join(root, "system.slice", "mail.service")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	limit := func(dir, text string) {
		if err := os.WriteFile(filepath.Join(dir, "memory.max"), []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		own, around string
		want        int64
	}{
		{"max", "max", 0},
		{"1000", "max", 1000},
		{"max", "2000", 2000},
		{"3000", "2000", 2000},
	} {
		limit(own, c.own)
		limit(filepath.Dir(own), c.around)
		if got := groupLimit(root, "/system.slice/mail.service"); got != c.want {
			t.Errorf("%s within %s: %d, want %d", c.own, c.around, got, c.want)
		}
	}
	if got := groupLimit(root, "/no/such"); got != 0 {
		t.Errorf("no groups: %d", got)
	}
}
