package maps

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func lookup(t *testing.T, spec, key string) (string, bool, error) {
	t.Helper()
	table, err := Open(spec, Options{})
	if err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	return table.Lookup(t.Context(), key)
}

func TestAMissingTableIsAnErrorNotAMiss(t *testing.T) {
	dir := t.TempDir()
	for _, kind := range []string{"hash", "cdb", "lmdb", "texthash", "regexp", "pcre", "cidr"} {
		_, ok, err := lookup(t, kind+":"+dir+"/nosuch", "key")
		var open *OpenError
		if ok || !errors.As(err, &open) || !strings.HasSuffix(err.Error(), "No such file or directory") {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
	for _, spec := range []string{"fail:x", "socketmap:unix:" + dir + "/none:map", "tcp:127.0.0.1:1", "unionmap:{static:a, fail:x}"} {
		if _, ok, err := lookup(t, spec, "key"); ok || err == nil {
			t.Errorf("%s: %v, %v", spec, ok, err)
		}
	}
}

func TestBadNames(t *testing.T) {
	for _, spec := range []string{"", "hash", "hash:", ":x", "nosuch:x", "inline:x", "inline:{}", "unionmap:{}", "pipemap:{a", "socketmap:unix:/x", "socketmap:foo:/x:y", "unix:shadow"} {
		if table, err := Open(spec, Options{}); err == nil {
			t.Errorf("%q opened as %T", spec, table)
		}
	}
}

func TestAChangedTableIsSeen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t")
	put := func(value string) {
		b := Create("hash", file, BuildOptions{})
		if err := b.Add("Key", value); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	put("old")
	table := newDB(file, false)
	if v, _, err := table.Lookup(t.Context(), "key"); v != "old" || err != nil {
		t.Fatal(v, err)
	}
	put("new")
	table.looked = time.Time{} // a second passes
	if v, _, err := table.Lookup(t.Context(), "key"); v != "new" || err != nil {
		t.Fatal(v, err)
	}
	os.Remove(file + ".cdb")
	table.looked = time.Time{}
	if _, ok, err := table.Lookup(t.Context(), "key"); ok || err == nil {
		t.Fatal("a table that was removed must not answer", ok, err)
	}
}

func TestPatterns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p")
	for _, c := range []struct{ kind, text, key, want string }{
		{"regexp", `/^(.*)@x$/ $1@y`, "Bob@X", "Bob@y"},
		{"regexp", `/a|ab/ <$0>`, "ab", ""}, // $0 is no group
		{"regexp", `/(a|ab)(c|bcd)/ $1-$2`, "abcd", "a-bcd"},
		{"regexp", `/^[\d]+$/ no`, "12", ""}, // POSIX: a backslash in brackets is itself
		{"regexp", `/(.)\1/ twice`, "abba", "twice"},
		{"regexp", `/a/!/b/ only-a`, "ab", ""},
		{"regexp", `/a/!/b/ only-a`, "ac", "only-a"},
		{"pcre", `/^(?!bad).*$/ fine`, "good", "fine"},
		{"pcre", `/^(?!bad).*$/ fine`, "bad", ""},
		{"pcre", `/a.b/ dot`, "a\nb", "dot"},
		{"pcre", `/a b/x joined`, "ab", "joined"},
		{"pcre", `/A/i case`, "a", ""},
		{"pcre", "if /^x/\nif /y$/\n/./ both\nendif\n/./ x only\nendif\n/./ none", "xay", "both"},
		{"pcre", "if /^x/\nif /y$/\n/./ both\nendif\n/./ x only\nendif\n/./ none", "xa", "x only"},
		{"pcre", "if /^x/\nif /y$/\n/./ both\nendif\n/./ x only\nendif\n/./ none", "a", "none"},
		{"pcre", "if !/^x/\n/./ not x\nendif", "a", "not x"},
	} {
		os.WriteFile(file, []byte(c.text+"\n"), 0o644)
		if got, ok, err := lookup(t, c.kind+":"+file, c.key); got != c.want || ok != (c.want != "") || err != nil {
			t.Errorf("%s %q of %q: %q, %v, %v", c.kind, c.text, c.key, got, ok, err)
		}
	}
}

func TestAHostilePatternEnds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p")
	os.WriteFile(file, []byte(`/^(\w+\s?)*\1$/ x`+"\n"), 0o644)
	start := time.Now()
	_, ok, err := lookup(t, "pcre:"+file, strings.Repeat("a", 60)+"!")
	if ok || err == nil || time.Since(start) > 10*time.Second {
		t.Fatalf("%v, %v after %v", ok, err, time.Since(start))
	}
}

func TestSocketmap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r, n := bufio.NewReader(c), 0; n < 3; n++ { // dies every three questions
					q, err := ReadNetstring(r, 1000)
					if err != nil {
						return
					}
					answer := map[string]string{"m bob": "OK bob@x", "m nobody": "NOTFOUND ", "m late": "TEMP try later", "m odd": "WHAT"}[q]
					WriteNetstring(c, answer)
				}
			}()
		}
	}()
	table, err := Open("socketmap:unix:"+path+":m", Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // over kept connections and dead ones
		if v, ok, err := table.Lookup(t.Context(), "Bob"); v != "bob@x" || !ok || err != nil {
			t.Fatal(v, ok, err)
		}
		if _, ok, err := table.Lookup(t.Context(), "nobody"); ok || err != nil {
			t.Fatal(ok, err)
		}
		for _, key := range []string{"late", "odd"} {
			if _, ok, err := table.Lookup(t.Context(), key); ok || err == nil {
				t.Fatal(key, ok, err)
			}
		}
	}
}

func TestASilentServerIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, spec := range []string{"socketmap:inet:" + l.Addr().String() + ":m", "tcp:" + l.Addr().String()} {
		table, err := Open(spec, Options{Timeout: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok, err := table.Lookup(context.Background(), "x"); ok || err == nil {
			t.Error(spec, ok, err)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add("a b\n c\n# d\ne")
	f.Fuzz(func(t *testing.T, text string) {
		Lines(strings.NewReader(text), func(n int, line string) error {
			key, value := SplitEntry(line)
			if len(key)+len(value) > len(line) {
				t.Fatalf("%q became %q and %q", line, key, value)
			}
			return nil
		})
		for _, kind := range []string{"regexp", "pcre"} {
			patternParser(kind)("fuzz", strings.NewReader(text), Options{})
		}
		parseCIDR("fuzz", strings.NewReader(text), Options{})
	})
}

func FuzzReadNetstring(f *testing.F) {
	f.Add("3:abc,")
	f.Add("99999999999:")
	f.Fuzz(func(t *testing.T, s string) {
		out, err := ReadNetstring(bufio.NewReader(strings.NewReader(s)), 1000)
		if err == nil && !strings.HasPrefix(strings.TrimLeft(s, "0"), strings.TrimLeft(fmt.Sprintf("%d:%s,", len(out), out), "0")) {
			t.Fatalf("%q became %q", s, out)
		}
	})
}

// TestOpenAny: a table of a type that nobody knows costs its look-ups, and not
// the daemon that names it.
func TestOpenAny(t *testing.T) {
	for _, spec := range []string{"nosuch:mail.aliases", "plainname", "socketmap:bad", "inline:bad"} {
		var warned string
		tab := OpenListAny([]string{spec}, Options{Warn: func(f string, a ...any) { warned = fmt.Sprintf(f, a...) }})
		if _, ok, err := tab.Lookup(context.Background(), "bob"); ok || err == nil {
			t.Errorf("%s: found %v, %v", spec, ok, err)
		}
		if !strings.HasPrefix(warned, spec+" is unavailable. ") {
			t.Errorf("%s: warned %q", spec, warned)
		}
	}
	both := OpenListAny([]string{"inline:{bob=here}", "nosuch:x"}, Options{})
	if v, ok, err := both.Lookup(context.Background(), "bob"); v != "here" || !ok || err != nil {
		t.Errorf("first table: %q %v %v", v, ok, err)
	}
	if _, ok, err := both.Lookup(context.Background(), "amy"); ok || err == nil {
		t.Errorf("second table: %v %v", ok, err)
	}
}
