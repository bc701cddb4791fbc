package queue

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

// TestReadDir: the same as os.ReadDir and stat(2) say, for more than one buffer full.
func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 2000 {
		name := fmt.Sprintf("%05X%X", i, i)
		if err := os.WriteFile(dir+"/"+name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := stat(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprint(name, info.Inode, false))
	}
	if err := os.Mkdir(dir+"/A", 0o700); err != nil {
		t.Fatal(err)
	}
	list, err := readDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		if e.dir != (e.name == "A") {
			t.Errorf("%s: directory %v", e.name, e.dir)
		}
		if !e.dir {
			got = append(got, fmt.Sprint(e.name, e.inode, e.dir))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
	if _, err := readDir(dir + "/none"); !os.IsNotExist(err) {
		t.Errorf("no directory: %v", err)
	}
}
