package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"angarium/lib/mailbox"
)

func benchStore(b *testing.B) (*Store, *handle) {
	b.Helper()
	dir := b.TempDir()
	s, err := Open(bg, Config{ConfigDirectory: dir + "/conf", DefaultPartition: "p", Partitions: map[string]string{"p": dir + "/spool"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	if _, err := s.Create(bg, Entry{Name: "user.bob"}); err != nil {
		b.Fatal(err)
	}
	m, err := s.Open(bg, "user.bob", User{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { m.Close() })
	return s, m.(*handle)
}

// fill puts n records into a mailbox without files.
func fill(b *testing.B, m *handle, n int) {
	b.Helper()
	t, err := m.b.lock(bg, true)
	if err != nil {
		b.Fatal(err)
	}
	defer t.end()
	if err := t.ready(); err != nil {
		b.Fatal(err)
	}
	if err := t.ceilings(n); err != nil {
		b.Fatal(err)
	}
	for left := n; left > 0; {
		k := min(left, 10000)
		recs := make([]Message, k)
		for i := range recs {
			recs[i] = Message{UID: t.hdr.uidNext + UID(i), Size: 4096, Internal: 1, Saved: 1, ModSeq: 1}
		}
		t.hdr.uidNext += UID(k)
		if err := t.commit(recs); err != nil {
			b.Fatal(err)
		}
		left -= k
	}
}

func letter4k() string {
	return "From: a@here.test\r\nTo: b@here.test\r\nSubject: four kilobytes\r\nMessage-ID: <x@here.test>\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 55)
}

func BenchmarkAppend(b *testing.B) {
	s, m := benchStore(b)
	text := letter4k()
	b.ReportAllocs()
	for b.Loop() {
		d, err := s.Stage(bg, Source{Reader: strings.NewReader(text)})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.Append(bg, d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDeliver50(b *testing.B) {
	s, _ := benchStore(b)
	var targets []Target
	for i := range 50 {
		n := mailbox.Name(fmt.Sprintf("user.u%d", i))
		if _, err := s.Create(bg, Entry{Name: n}); err != nil {
			b.Fatal(err)
		}
		targets = append(targets, Target{Name: n})
	}
	text := letter4k()
	for b.Loop() {
		d, err := s.Stage(bg, Source{Reader: strings.NewReader(text)})
		if err != nil {
			b.Fatal(err)
		}
		for _, err := range s.Deliver(bg, d, targets) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N)*50/b.Elapsed().Seconds(), "deliveries/s")
}

func BenchmarkOpen100k(b *testing.B) {
	s, m := benchStore(b)
	fill(b, m, 100_000)
	m.Close()
	for b.Loop() {
		s.Tend(bg)
		s.mu.Lock() // as a new process would find it
		for id, x := range s.boxes {
			x.forget()
			delete(s.boxes, id)
			delete(s.kept, x)
		}
		s.mu.Unlock()
		h, err := s.Open(bg, "user.bob", User{})
		if err != nil {
			b.Fatal(err)
		}
		v, err := h.View(bg)
		if err != nil || v.Len() != 100_000 {
			b.Fatal(err, v.Len())
		}
		h.Close()
	}
}

func BenchmarkView(b *testing.B) {
	_, m := benchStore(b)
	fill(b, m, 1000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.View(bg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFlag(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			_, m := benchStore(b)
			fill(b, m, n)
			m.b.keep.last = time.Now().Add(time.Hour) // no renamer
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				if _, err := m.Change(bg, SetOf(UID(1+i%n)), FlagOp{Mode: FlagMode(i / n % 2), Flags: FlagSeen}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBody(b *testing.B) {
	s, m := benchStore(b)
	d, err := s.Stage(bg, Source{Reader: strings.NewReader(letter4k())})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := m.Append(bg, d); err != nil {
		b.Fatal(err)
	}
	if _, err := m.View(bg); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 8192)
	b.ReportAllocs()
	for b.Loop() {
		f, err := m.Body(bg, 1)
		if err != nil {
			b.Fatal(err)
		}
		if n, _ := f.ReadAt(buf, 0); n == 0 {
			b.Fatal("nothing read")
		}
		f.Close()
	}
}

func BenchmarkSince(b *testing.B) {
	_, m := benchStore(b)
	fill(b, m, 1_000_000)
	old, err := m.View(bg)
	if err != nil {
		b.Fatal(err)
	}
	if old.Len() != 1_000_000 {
		b.Fatal(old.Len())
	}
	if _, err := m.Change(bg, SetOf(500_000), FlagOp{Flags: FlagSeen}); err != nil {
		b.Fatal(err)
	}
	v, err := m.View(bg)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		n := 0
		for range v.Since(old) {
			n++
		}
		if n != 1 {
			b.Fatal(n)
		}
	}
}
