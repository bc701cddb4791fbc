// Package t runs the end-to-end scripts beside it: the real programs of bin/,
// a private server of their own for each, one behaviour a file. See
// github.com/rogpeppe/go-internal/testscript for the commands; ours are in
// commands_test.go.
package t

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
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
	unfinished(t)
	testscript.Run(t, testscript.Params{
		Dir:                 ".",
		Setup:               func(env *testscript.Env) error { return setup(env, bin) },
		Cmds:                commands,
		Condition:           condition,
		RequireExplicitExec: true,
	})
}

// unfinished looks for scripts that end themselves: testscript's own "stop" is a
// success, and hides whatever stands behind it. Ours that stops a server is "halt".
func unfinished(t *testing.T) {
	scripts, err := filepath.Glob("*.txt")
	if err != nil {
		t.Fatal(err)
	}
	stop := regexp.MustCompile(`(?m)^(\[[^\]]*\] *)*stop\b`)
	for _, name := range scripts {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		script, _, _ := strings.Cut(string(text), "\n-- ")
		if stop.MatchString(script) {
			t.Errorf("%s: what stands behind stop is never run: use halt, or skip", name)
		}
	}
}
