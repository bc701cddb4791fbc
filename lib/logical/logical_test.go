package logical

import (
	"slices"
	"strings"
	"testing"
)

func TestLines(t *testing.T) {
	var warnings []string
	r := NewReader(strings.NewReader(" stray\n# c\none\n#c\n\n two\n\t\n # c\n\tthree\nfour # not a comment\n\nfive"), "f", func(s string) { warnings = append(warnings, s) })
	type line struct {
		text string
		at   int
	}
	var got []line
	for r.Next() {
		got = append(got, line{r.Text(), r.Line()})
	}
	want := []line{{"one two\tthree", 3}, {"four # not a comment", 10}, {"five", 12}}
	if !slices.Equal(got, want) || r.Err() != nil {
		t.Errorf("%v %v, want %v", got, r.Err(), want)
	}
	if len(warnings) != 1 || warnings[0] != `f: logical line must not start with whitespace: " stray"` {
		t.Errorf("warnings %q", warnings)
	}
}

func TestLongLine(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	r := NewReader(strings.NewReader(long+"\n"+long+"\n"), "f", nil)
	n := 0
	for r.Next() {
		if n++; r.Text() != long || r.Line() != n {
			t.Fatalf("line %d at %d has %d bytes", n, r.Line(), len(r.Text()))
		}
	}
	if n != 2 {
		t.Fatalf("%d lines", n)
	}
}

func TestTokens(t *testing.T) {
	for _, k := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{" , ,", nil},
		{"a b,c", []string{"a", "b", "c"}},
		{"a {b c} x{d, e}f g", []string{"a", "{b c}", "x{d, e}f", "g"}},
		{"{a {b c} d} e", []string{"{a {b c} d}", "e"}},
		{"a {b c", []string{"a", "{b c"}},
		{"a} b", []string{"a}", "b"}},
	} {
		if got := Tokens(k.text, CommaBlanks); !slices.Equal(got, k.want) {
			t.Errorf("%q: %q, want %q", k.text, got, k.want)
		}
	}
}

func TestExtract(t *testing.T) {
	for _, k := range []struct{ text, want, err string }{
		{"a", "a", ""},
		{"{ a b }", "a b", ""},
		{"{a{b}c}", "a{b}c", ""},
		{"{a", "a", "missing '}' in \"{a\""},
		{"{a}b", "a", "syntax error after '}' in \"{a}b\""},
		{"{a} ", "a", ""},
	} {
		got, err := Extract(k.text)
		if got != k.want || (err == nil) != (k.err == "") || err != nil && err.Error() != k.err {
			t.Errorf("%q: %q %v, want %q %s", k.text, got, err, k.want, k.err)
		}
	}
}

func TestNameValue(t *testing.T) {
	for _, k := range []struct{ text, name, value, err string }{
		{"a=b", "a", "b", ""},
		{" a = b c ", "a", "b c", ""},
		{"a=", "a", "", ""},
		{"a = = b", "a", "= b", ""},
		{"a", "", "", "missing '=' after attribute name"},
		{"a b = c", "", "", "missing '=' after attribute name"},
		{"=b", "", "", "missing attribute name"},
		{"", "", "", "missing attribute name"},
	} {
		name, value, err := NameValue(k.text)
		if name != k.name || value != k.value || (err == nil) != (k.err == "") || err != nil && err.Error() != k.err {
			t.Errorf("%q: %q %q %v", k.text, name, value, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add("a\n b\n#c\n")
	f.Add("\x00a\n") // a line that is over before it begins
	f.Fuzz(func(t *testing.T, text string) {
		r := NewReader(strings.NewReader(text), "f", nil)
		last := 0
		for r.Next() {
			if s := r.Text(); s == "" && r.buf[0] != 0 || s != "" && (space(s[0]) || s[0] == '#') || r.Line() <= last {
				t.Fatalf("line %d: %q", r.Line(), s)
			}
			last = r.Line()
		}
	})
}
