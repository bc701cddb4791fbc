package maincf

import (
	"flag"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write obeyed.go anew")

// readNames finds the parameters that the tree's code asks for: names that are
// the first argument of some call, and suffixes that are joined to smtp or lmtp
// or to the name of a transport.
func readNames(t *testing.T) []string {
	t.Helper()
	full := regexp.MustCompile(`\w\(\s*"([A-Za-z0-9_]+)"`)
	suffix := regexp.MustCompile(`\+\s*"(_[A-Za-z0-9_]+)"|Transport\w*\([^"()]+,\s*"([a-z_]+)"|\w\(\s*"(_[A-Za-z0-9_]+)"`)
	found := map[string]bool{}
	add := func(name string) {
		if _, ok := Find(name); ok {
			found[name] = true
		}
	}
	for _, root := range []string{"../../../lib", "../../../cmd"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			slash := filepath.ToSlash(path)
			if d.IsDir() && (strings.HasSuffix(slash, "conf/maincf") || strings.HasSuffix(slash, "cmd/postconf")) {
				return filepath.SkipDir
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range full.FindAllSubmatch(text, -1) {
				add(string(m[1]))
			}
			for _, m := range suffix.FindAllSubmatch(text, -1) {
				s := string(slices.Concat(m[1], m[2], m[3]))
				add("smtp" + s)
				add("lmtp" + s)
				if def, ok := suffixDefault(s); ok {
					add(def)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for size := -1; size != len(found); {
		// What a default refers to is obeyed through it.
		size = len(found)
		for name := range maps.Clone(found) {
			if p, _ := Find(name); p.Kind != Raw {
				References(p.Default, add)
			}
		}
	}
	return slices.Sorted(func(yield func(string) bool) {
		for name := range found {
			if !yield(name) {
				return
			}
		}
	})
}

func TestActedOn(t *testing.T) {
	names := readNames(t)
	if *update {
		text, err := os.ReadFile("obeyed.go")
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(text), "{\n")
		if err := os.WriteFile("obeyed.go", []byte(head+"{\n\t\""+strings.Join(names, "\",\n\t\"")+"\",\n}\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, name := range acted {
		if !slices.Contains(names, name) {
			t.Errorf("acted says that %s is obeyed, but nothing reads it", name)
		}
	}
	for _, name := range names {
		if !ActedOn(name) {
			t.Logf("%s is read somewhere; is it obeyed? (-update)", name)
		}
	}
}
