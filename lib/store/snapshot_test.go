package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestSnapshotModel does random changes to snapshots and to a plain list, and
// compares; and what Since tells between any two of them.
func TestSnapshotModel(t *testing.T) {
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 1))
		var views []*view
		var models [][]Message
		var model []Message
		snap, next, modseq := &snapshot{}, UID(1), ModSeq(1)
		keep := func() {
			views = append(views, &view{snapshot: snap})
			models = append(models, slices.Clone(model))
		}
		keep()
		for range 120 {
			modseq++
			e := snap.edit()
			switch n := len(model); {
			case n == 0 || r.IntN(3) == 0: // new ones
				for range 1 + r.IntN(400) {
					next += UID(1 + r.IntN(2))
					m := Message{UID: next, ModSeq: modseq, Flags: Flags(r.IntN(2)) * FlagSeen}
					e.apply(&m)
					model = append(model, m)
				}
			case r.IntN(2) == 0: // flags
				for range 1 + r.IntN(10) {
					m := &model[r.IntN(n)]
					m.Flags ^= FlagSeen
					m.ModSeq = modseq
					e.apply(m)
				}
			default: // expunge a run
				from := r.IntN(n)
				to := min(n, from+1+r.IntN(600))
				for _, m := range model[from:to] {
					m.Flags |= flagGone
					m.ModSeq = modseq
					e.apply(&m)
				}
				model = slices.Delete(model, from, to)
			}
			snap = e.done()
			keep()
		}
		for i, v := range views {
			compare(t, v, models[i], next)
		}
		for range 60 {
			a := r.IntN(len(views))
			b := a + r.IntN(len(views)-a)
			compareSince(t, views[a], views[b], models[a], models[b])
		}
	}
}

func compare(t *testing.T, v *view, model []Message, next UID) {
	t.Helper()
	if v.Len() != len(model) {
		t.Fatalf("%d messages, want %d", v.Len(), len(model))
	}
	first := slices.IndexFunc(model, func(m Message) bool { return m.Flags&FlagSeen == 0 })
	if got := v.Status().FirstUnseen; got != first {
		t.Fatalf("first unseen %d, want %d", got, first)
	}
	for i, m := range model {
		if v.At(i) != m {
			t.Fatalf("at %d: %v, want %v", i, v.At(i), m)
		}
		if j, ok := v.Find(m.UID); !ok || j != i {
			t.Fatalf("find %d: %d %v", m.UID, j, ok)
		}
	}
	for u := UID(0); u < next+3; u += 7 {
		want, there := slices.BinarySearchFunc(model, u, func(m Message, u UID) int { return int(m.UID) - int(u) })
		if i, ok := v.Find(u); i != want || ok != there {
			t.Fatalf("find %d: %d %v, want %d %v", u, i, ok, want, there)
		}
	}
	set := UIDSet{{next / 4, next / 3}, {next / 2, next/2 + 600}}
	var got, want []UID
	for m := range v.among(set) {
		got = append(got, m.UID)
	}
	for _, m := range model {
		if set.Contains(m.UID) {
			want = append(want, m.UID)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("among: %v, want %v", got, want)
	}
}

func compareSince(t *testing.T, a, b *view, old, now []Message) {
	t.Helper()
	was := map[UID]int{}
	for i, m := range old {
		was[m.UID] = i
	}
	is := map[UID]int{}
	want := map[string]bool{}
	for i, m := range now {
		is[m.UID] = i
		if j, ok := was[m.UID]; !ok {
			want[fmt.Sprint(New, -1, i, m.UID)] = true
		} else if old[j].ModSeq != m.ModSeq {
			want[fmt.Sprint(Changed, j, i, m.UID)] = true
		}
	}
	for i, m := range old {
		if _, ok := is[m.UID]; !ok {
			want[fmt.Sprint(Gone, i, -1, m.UID)] = true
		}
	}
	last := UID(0)
	for c := range b.Since(a) {
		k := fmt.Sprint(c.Kind, c.Old, c.Now, c.Message.UID)
		if !want[k] || c.Message.UID <= last {
			t.Fatalf("%s: not wanted, or out of order", k)
		}
		last = c.Message.UID
		delete(want, k)
	}
	if len(want) > 0 {
		t.Fatalf("not told: %v", want)
	}
}

// TestUIDSetModel does the same for sets.
func TestUIDSetModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() (UIDSet, map[UID]bool) {
		var s UIDSet
		m := map[UID]bool{}
		for range r.IntN(12) {
			lo := UID(1 + r.IntN(60))
			hi := lo + UID(r.IntN(8))
			if r.IntN(2) == 0 {
				s.AddRange(hi, lo)
			} else {
				s.AddRange(lo, hi)
			}
			for u := lo; u <= hi; u++ {
				m[u] = true
			}
		}
		return s, m
	}
	for range 3000 {
		a, ma := random()
		b, mb := random()
		both, less := a.Intersect(b), a.Minus(b)
		n := 0
		for u := UID(1); u < 80; u++ {
			if a.Contains(u) != ma[u] || both.Contains(u) != (ma[u] && mb[u]) || less.Contains(u) != (ma[u] && !mb[u]) {
				t.Fatalf("%s and %s at %d: %s, %s", a, b, u, both, less)
			}
			if ma[u] {
				n++
			}
		}
		if a.Len() != n {
			t.Fatalf("%s: %d", a, a.Len())
		}
		for i := 1; i < len(a); i++ {
			if a[i].Lo <= a[i-1].Hi+1 {
				t.Fatalf("ranges touch: %s", a)
			}
		}
		if len(a) > 0 {
			if back, err := ParseUIDSet(a.String(), 0); err != nil || !slices.Equal(back, a) {
				t.Fatalf("%s: %s %v", a, back, err)
			}
		}
	}
}

func TestParseUIDSet(t *testing.T) {
	for in, want := range map[string]string{
		"1": "1", "3:1": "1:3", "*": "9", "5:*": "5:9", "12:*": "9:12", "1,2,3": "1:3", "4294967295": "4294967295", "1:4294967295,7": "1:4294967295",
	} {
		if s, err := ParseUIDSet(in, 9); err != nil || s.String() != want {
			t.Errorf("%q: %q %v, want %q", in, s, err, want)
		}
	}
	for _, bad := range []string{"", ",", "0", "01", "1,", "1:", ":1", "4294967296", "1 2", "1:2:3", "a", "-1"} {
		if s, err := ParseUIDSet(bad, 9); err == nil {
			t.Errorf("%q: %q, want an error", bad, s)
		}
	}
}

func FuzzUIDSet(f *testing.F) {
	f.Add("1:3,5,*", uint32(7))
	f.Fuzz(func(t *testing.T, in string, star uint32) {
		s, err := ParseUIDSet(in, UID(star))
		if err != nil || len(s) == 0 {
			return
		}
		if again, err := ParseUIDSet(s.String(), 0); err != nil || !slices.Equal(s, again) {
			t.Fatalf("%q: %s, %s, %v", in, s, again, err)
		}
	})
}

func FuzzMeta(f *testing.F) {
	f.Add("version 1\nuniqueid 0123456789abcdef\nuidvalidity 7\nacl \"a b\"\tlrs\nkeyword x\nannotation \"/a\" \"b\\nc\"\nend\n")
	f.Fuzz(func(t *testing.T, in string) {
		m, err := parseMeta([]byte(in))
		if err != nil {
			return
		}
		out := metaText(t, m)
		again, err := parseMeta([]byte(out))
		if err != nil || metaText(t, again) != out {
			t.Fatalf("%q became %q: %v", in, out, err)
		}
	})
}

func metaText(t *testing.T, m *meta) string {
	var b strings.Builder
	if err := m.write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func FuzzFileName(f *testing.F) {
	f.Add("1700000000.U7.0123abcd,S=5:2,FSa")
	f.Fuzz(func(t *testing.T, name string) {
		p := parseName(name, "0123abcd")
		if !p.ours {
			return
		}
		m := Message{UID: p.uid, Size: p.size, Internal: p.seconds, Named: p.letters}
		if q := parseName(m.fileName("0123abcd"), "0123abcd"); q.uid != p.uid || q.size != p.size || q.seconds != p.seconds || q.letters != p.letters {
			t.Fatalf("%q: %+v, then %+v", name, p, q)
		}
	})
}
