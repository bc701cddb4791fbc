// Package cyrus runs a command of the mail store by a short name, as Debian's
// cyrus(8) does: "cyrus expire -E 3". See cyrus(8).
package cyrus

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"angarium/lib/cli"
)

// Main is cyrus.
func Main(_ context.Context, c *cli.Cmd) error {
	if len(c.Args) == 0 || strings.HasPrefix(c.Args[0], "-") || c.Args[0] == "help" {
		return cli.Exit(1, "usage: cyrus COMMAND [ARGS]")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	path, ok := find(filepath.Dir(self), c.Args[0])
	if !ok {
		return cli.Exit(1, "command not found: %s", c.Args[0])
	}
	args := append([]string{filepath.Base(path)}, c.Args[1:]...)
	return os.NewSyscallError("exec "+path, syscall.Exec(path, args, os.Environ()))
}

// find looks for a command beside us, and where make install puts them.
func find(dir, name string) (string, bool) {
	if strings.Contains(name, "/") || name == "cyrus" {
		return "", false
	}
	for _, d := range []string{dir, filepath.Join(dir, "../cyrus/bin"), filepath.Join(dir, "../lib/cyrus/bin")} {
		for _, prefix := range []string{"", "cyr_", "ctl_"} {
			path := filepath.Join(d, prefix+name)
			if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
				return path, true
			}
		}
	}
	return "", false
}
