package powercut

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// watched is a folder with dir/ and dir/old in it, both durable.
func watched(t *testing.T) (d *Disk, root string) {
	root = t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "dir"), 0o700))
	must(t, os.WriteFile(filepath.Join(root, "dir", "old"), []byte("old"), 0o600))
	d, err := New(root, nil)
	must(t, err)
	t.Cleanup(d.Close)
	return d, root
}

// found is the state after a cut: name=content of each file.
func found(t *testing.T, d *Disk, r *rand.Rand) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "image")
	must(t, d.Image(dst, r))
	var out []string
	must(t, filepath.WalkDir(dst, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dst, path)
		out = append(out, rel+"="+strings.ReplaceAll(string(data), "\x00", "0"))
		return err
	}))
	return strings.Join(out, " ")
}

// images are the states that some seeds find.
func images(t *testing.T, d *Disk) map[string]bool {
	seen := map[string]bool{}
	for i := range uint64(60) {
		seen[found(t, d, rand.New(rand.NewPCG(1, i)))] = true
	}
	return seen
}

func same(t *testing.T, what string, got map[string]bool, want ...string) {
	t.Helper()
	ok := len(got) == len(want)
	for _, w := range want {
		ok = ok && got[w]
	}
	if !ok {
		t.Errorf("%s: found %q, want %q", what, fmt.Sprint(got), want)
	}
}

// A new file needs two syncs: of its content, and of its name.
func TestNewFile(t *testing.T) {
	d, root := watched(t)
	path := filepath.Join(root, "dir", "new")
	must(t, os.WriteFile(path, []byte("new"), 0o600))
	same(t, "no sync", images(t, d), "dir/old=old", "dir/new= dir/old=old", "dir/new=new dir/old=old", "dir/new=000 dir/old=old")
	must(t, d.SyncPath(path))
	same(t, "content synced", images(t, d), "dir/old=old", "dir/new=new dir/old=old")
	if got := found(t, d, nil); got != "dir/old=old" {
		t.Errorf("content synced: %s", got)
	}
	must(t, d.SyncPath(filepath.Join(root, "dir")))
	same(t, "name synced", images(t, d), "dir/new=new dir/old=old")
	must(t, os.Remove(path))
	same(t, "removed", images(t, d), "dir/old=old", "dir/new=new dir/old=old")
}

// A name alone does not bring the content.
func TestNameWithoutContent(t *testing.T) {
	d, root := watched(t)
	must(t, os.WriteFile(filepath.Join(root, "dir", "new"), []byte("new"), 0o600))
	must(t, d.SyncPath(filepath.Join(root, "dir")))
	if got := found(t, d, nil); got != "dir/new= dir/old=old" {
		t.Error(got)
	}
}

// A rename is one change, in one directory, across two, and over another file.
func TestRename(t *testing.T) {
	d, root := watched(t)
	in := func(elem ...string) string { return filepath.Join(append([]string{root}, elem...)...) }
	must(t, os.Rename(in("dir", "old"), in("dir", "other")))
	same(t, "in one directory", images(t, d), "dir/old=old", "dir/other=old")
	must(t, os.Rename(in("dir", "other"), in("top")))
	same(t, "across two", images(t, d), "dir/old=old", "top=old")
	must(t, d.SyncPath(root))
	same(t, "the new one synced", images(t, d), "top=old")

	must(t, os.Mkdir(in("made"), 0o700))
	must(t, os.Rename(in("top"), in("made", "top")))
	must(t, d.SyncPath(root))
	same(t, "the old one synced", images(t, d), "made/top=old")
	must(t, os.Rename(in("made", "top"), in("top")))
	must(t, d.SyncTree(root))

	must(t, os.WriteFile(in("temp"), []byte("next"), 0o600))
	must(t, d.SyncPath(in("temp")))
	must(t, os.Rename(in("temp"), in("top")))
	same(t, "over another", images(t, d), "top=old", "top=next")
	must(t, d.SyncTree(root))
	same(t, "all synced", images(t, d), "top=next")
}

// Two names of one file stay two names, and modes are content.
func TestLinksAndModes(t *testing.T) {
	d, root := watched(t)
	must(t, os.Link(filepath.Join(root, "dir", "old"), filepath.Join(root, "link")))
	must(t, d.SyncPath(root))
	must(t, os.Chmod(filepath.Join(root, "link"), 0o700))
	for _, mode := range []fs.FileMode{0o600, 0o700} {
		dst := filepath.Join(t.TempDir(), "image")
		must(t, d.Image(dst, nil))
		a, err := os.Stat(filepath.Join(dst, "link"))
		must(t, err)
		b, err := os.Stat(filepath.Join(dst, "dir", "old"))
		must(t, err)
		if !os.SameFile(a, b) || a.Mode().Perm() != mode {
			t.Errorf("%v %v, want %v", a.Mode(), os.SameFile(a, b), mode)
		}
		must(t, d.SyncPath(filepath.Join(root, "link")))
	}
}

// The same seed finds the same state.
func TestSeed(t *testing.T) {
	d, root := watched(t)
	for i := range 20 {
		must(t, os.WriteFile(filepath.Join(root, fmt.Sprint(i)), []byte("x"), 0o600))
	}
	a, b := found(t, d, rand.New(rand.NewPCG(1, 2))), found(t, d, rand.New(rand.NewPCG(1, 2)))
	if a != b || len(images(t, d)) < 30 {
		t.Errorf("%s\n%s", a, b)
	}
}
