package floors

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestImports fails on an import that goes upwards or sideways, and on a package
// that has no floor. Tests of a package may look downwards only, too.
func TestImports(t *testing.T) {
	root := "../.."
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if rel != "." && rel != "lib" && rel != "cmd" && !strings.HasPrefix(rel, "lib/") && !strings.HasPrefix(rel, "cmd/") || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		from := filepath.Dir(rel)
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			to, ours := strings.CutPrefix(name, "angarium/")
			if !ours || strings.HasSuffix(f.Name.Name, "_test") && to == from {
				continue
			}
			seen++
			a, b := Floor(from), Floor(to)
			switch {
			case a < 0:
				t.Errorf("%s: no floor for %s", rel, from)
			case b < 0:
				t.Errorf("%s: no floor for %s", rel, to)
			case b >= a && !strings.HasPrefix(to, from+"/"):
				t.Errorf("%s (%s) imports %s (%s)", rel, Name(a), to, Name(b))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Fatal("no imports found: this test looks in the wrong place")
	}
}

func TestUpwardImportWouldFail(t *testing.T) {
	if !(Floor("lib/queue") < Floor("lib/cleanup") && Floor("lib/cleanup") < Floor("lib/qmgr") && Floor("lib/qmgr") < Floor("cmd/qmgr")) {
		t.Fatal("the floors are out of order")
	}
	if Floor("lib/store") != Floor("lib/imap") {
		t.Fatal("state and protocols share a floor: neither may know the other")
	}
	if Floor("lib/nosuch") != -1 {
		t.Fatal("an unknown package must have no floor")
	}
}
