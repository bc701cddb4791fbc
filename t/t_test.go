// Package t runs the end-to-end scripts beside it: the real programs of bin/,
// a private server of their own for each, one behaviour a file. See
// github.com/rogpeppe/go-internal/testscript for the commands; ours are in
// commands_test.go.
package t

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestScripts(t *testing.T) {
	bin := os.Getenv("ANGARIUM_BIN")
	if bin == "" {
		var err error
		if bin, err = filepath.Abs("../bin"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(bin, "angarium")); err != nil {
		t.Fatalf("no programs in %s: run make first", bin)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 ".",
		Setup:               func(env *testscript.Env) error { return setup(env, bin) },
		Cmds:                commands,
		Condition:           condition,
		RequireExplicitExec: true,
	})
}
