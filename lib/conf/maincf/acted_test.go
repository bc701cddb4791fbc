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

// sources calls f with the text of every program file that may read main.cf.
func sources(t *testing.T, f func(path string, text []byte)) {
	t.Helper()
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
			if err == nil {
				f(slash, text)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// readNames finds the parameters that the tree's code asks for: names with an
// underscore anywhere in quotes, others as the first argument of some call, and
// suffixes that are joined to smtp or lmtp or to the name of a transport.
func readNames(t *testing.T) []string {
	t.Helper()
	full := regexp.MustCompile(`\w\(\s*"([A-Za-z0-9]+)"|"([A-Za-z0-9]+_[A-Za-z0-9_]+)"`)
	suffix := regexp.MustCompile(`\+\s*"(_[A-Za-z0-9_]+)"|Transport\w*\([^"()]+,\s*"([a-z_]+)"|\w\(\s*"(_[A-Za-z0-9_]+)"`)
	client := regexp.MustCompile(`\b(?:s\.)?p\s*\+\s*"([a-z][A-Za-z0-9_]+)"`) // p is "smtp_" or "lmtp_"
	found := map[string]bool{}
	add := func(name string) {
		if _, ok := Find(name); ok {
			found[name] = true
		}
	}
	label := regexp.MustCompile(`(?m)^\s*case ".*$`) // words of other files and protocols
	sources(t, func(_ string, text []byte) {
		text = label.ReplaceAll(text, nil)
		for _, m := range full.FindAllSubmatch(text, -1) {
			add(string(slices.Concat(m[1], m[2])))
		}
		for _, m := range client.FindAllSubmatch(text, -1) {
			add("smtp_" + string(m[1]))
			add("lmtp_" + string(m[1]))
		}
		for _, m := range suffix.FindAllSubmatch(text, -1) {
			s := string(slices.Concat(m[1], m[2], m[3]))
			add("smtp" + s)
			add("lmtp" + s)
			if def, ok := suffixDefault(s); ok {
				add(def)
			}
		}
	})
	if found["mynetworks"] {
		add("mynetworks_style") // Compute reads it
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

// A time read with Int, or a number read with Duration, would be wrong by its
// unit; a misspelt name would be empty for ever.
func TestGettersFit(t *testing.T) {
	getter := regexp.MustCompile(`\.(String|Int|Bool|Duration|Size|List)\("([A-Za-z0-9_]+)"\)`)
	fits := map[string][]Kind{
		"String": {String, Raw, Computed}, "List": {String, Raw, Computed},
		"Int": {Int}, "Size": {Long, Int}, "Bool": {Bool}, "Duration": {Time},
	}
	sources(t, func(path string, text []byte) {
		if !strings.Contains(string(text), "lib/conf/maincf\"") || strings.Contains(string(text), "lib/conf/imapdconf\"") {
			return
		}
		for _, m := range getter.FindAllSubmatch(text, -1) {
			if p, ok := Find(string(m[2])); !ok {
				t.Errorf("%s: %s: no such parameter", path, m[0])
			} else if !slices.Contains(fits[string(m[1])], p.Kind) {
				t.Errorf("%s: %s: the parameter is of type %v", path, m[0], p.Kind)
			}
		}
	})
}
