package maincf

import (
	"sort"
	"testing"
)

func TestTableIsSorted(t *testing.T) {
	if !sort.SliceIsSorted(params[:], func(i, j int) bool { return params[i].Name < params[j].Name }) {
		t.Fatal("params is not sorted: Find would miss some")
	}
}

func TestDefaultsParse(t *testing.T) {
	c := Empty(t.TempDir())
	for _, p := range Params() {
		switch p.Kind {
		case Bool:
			c.Bool(p.Name)
		case Int:
			c.Int(p.Name)
		case Long:
			c.Size(p.Name)
		case Time:
			c.Duration(p.Name)
		default:
			c.String(p.Name)
		}
		if err := c.Err(); err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
	}
}
