package cdb

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func build(t testing.TB, records [][2]string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.cdb")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := w.Add(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func open(t testing.TB, data []byte) *Reader {
	t.Helper()
	r, err := NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sample(n int) [][2]string {
	out := [][2]string{{"", "empty key"}, {"empty value", ""}, {"long", string(bytes.Repeat([]byte("x"), 5000))}, {"twice", "1"}, {"twice", "2"}}
	for i := range n {
		out = append(out, [2]string{fmt.Sprint("key", i), fmt.Sprint("value ", i)})
	}
	return out
}

func TestReadsWhatItWrote(t *testing.T) {
	records := sample(3000)
	data, err := os.ReadFile(build(t, records))
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, data)
	for _, rec := range records {
		want := rec[1]
		if rec[0] == "twice" {
			want = "1" // the first record of a key wins
		}
		if got, ok, err := r.Get(rec[0]); got != want || !ok || err != nil {
			t.Fatalf("Get(%q) = %q, %v, %v", rec[0], got, ok, err)
		}
	}
	if _, ok, err := r.Get("nobody"); ok || err != nil {
		t.Fatal("found what is not there", err)
	}
	i := 0
	err = r.Each(func(k, v []byte) bool {
		if string(k) != records[i][0] || string(v) != records[i][1] {
			t.Fatalf("record %d is %q, %q", i, k, v)
		}
		i++
		return true
	})
	if i != len(records) || err != nil {
		t.Fatalf("%d of %d records, %v", i, len(records), err)
	}
}

// The file equals, byte for byte, what tinycdb makes of the same records.
func TestEqualsTinycdb(t *testing.T) {
	tiny, err := exec.LookPath("cdb")
	if err != nil {
		t.Skip("tinycdb's cdb command is not installed")
	}
	var in bytes.Buffer
	records := sample(500)
	for _, r := range records {
		fmt.Fprintf(&in, "+%d,%d:%s->%s\n", len(r[0]), len(r[1]), r[0], r[1])
	}
	in.WriteByte('\n')
	theirs := filepath.Join(t.TempDir(), "theirs.cdb")
	cmd := exec.Command(tiny, "-c", theirs)
	cmd.Stdin = &in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want, _ := os.ReadFile(theirs)
	got, _ := os.ReadFile(build(t, records))
	if !bytes.Equal(got, want) {
		t.Fatalf("files differ: %d and %d octets", len(got), len(want))
	}
}

func FuzzReader(f *testing.F) {
	data, _ := os.ReadFile(build(f, sample(20)))
	f.Add(data, "key3")
	f.Add(data[:headSize], "x")
	f.Fuzz(func(t *testing.T, data []byte, key string) {
		r, err := NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		r.Get(key)
		r.Each(func(k, v []byte) bool { return true })
	})
}

func BenchmarkGet(b *testing.B) {
	data, _ := os.ReadFile(build(b, sample(100000)))
	r := open(b, data)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, ok, _ := r.Get("key77777"); !ok {
			b.Fatal("missing")
		}
	}
}
