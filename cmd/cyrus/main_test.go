package cyrus

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFind(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"sbin/cyrus", "lib/cyrus/bin/cyr_expire", "lib/cyrus/bin/ctl_mboxlist", "lib/cyrus/bin/tls_prune"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"expire": "cyr_expire", "cyr_expire": "cyr_expire", "mboxlist": "ctl_mboxlist", "tls_prune": "tls_prune",
		"nosuch": "", "cyrus": "", "../sbin/cyrus": "", "bin": "",
	} {
		for _, dir := range []string{"sbin", "lib/cyrus/bin", "lib/angarium"} {
			path, ok := find(filepath.Join(root, dir), name)
			if ok != (want != "") || ok && filepath.Base(path) != want {
				t.Errorf("%s from %s: %q", name, dir, path)
			}
		}
	}
}
