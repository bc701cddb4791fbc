package imapd

import (
	"bytes"
	"fmt"
	"testing"

	"angarium/lib/imap"
)

// threads is what THREAD REFERENCES answers for messages given as their ids: the
// own one first, then those they refer to.
func threads(list ...[]string) string {
	var all []*threaded
	for i, ids := range list {
		all = append(all, &threaded{number: uint32(i + 1), pos: i, sent: int64(i), subject: fmt.Sprint("s", i), ids: ids})
	}
	var out bytes.Buffer
	s := &session{Encoder: imap.NewEncoder(&out)}
	for _, t := range byReferences(all) {
		s.tellThread(t)
	}
	_ = s.Flush()
	return out.String()
}

// TestReferences: what References can say that is not so.
func TestReferences(t *testing.T) {
	for _, c := range []struct {
		what string
		list [][]string
		want string
	}{
		{"nothing", nil, ""},
		{"an answer that came before the question", [][]string{{"b", "a"}, {"a"}}, "(2 1)"},
		{"itself", [][]string{{"a", "a"}}, "(1)"},
		{"each other", [][]string{{"a", "b"}, {"b", "a"}}, "(2 1)"},
		{"a ring of three", [][]string{{"a", "c"}, {"b", "a"}, {"c", "b"}}, "(3 1 2)"},
		{"others in a ring", [][]string{{"a", "x", "y", "x"}, {"b", "y", "x", "y"}}, "((1)(2))"},
		{"one id twice", [][]string{{"a"}, {"a"}, {"b", "a"}}, "(1 3)(2)"},
		{"no ids", [][]string{{""}, {""}}, "(1)(2)"},
		{"one missing between", [][]string{{"a"}, {"c", "a", "b"}}, "(1 2)"},
		{"a missing parent of two", [][]string{{"a", "x"}, {"b", "x"}}, "((1)(2))"},
		{"a missing parent of one", [][]string{{"a", "x"}, {"b"}}, "(1)(2)"},
		{"a missing grandparent", [][]string{{"a", "x", "y"}, {"b", "x", "z"}}, "((1)(2))"},
		{"the message knows its parent better than others do", [][]string{{"c", "a", "b"}, {"a"}, {"b"}}, "(2)(3 1)"},
	} {
		if got := threads(c.list...); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

// TestLongThread: a mailbox of a quarrel, in which each answers the one before.
func TestLongThread(t *testing.T) {
	const n = 30_000
	list := make([][]string, n)
	for i := range list {
		list[i] = []string{fmt.Sprint(i), fmt.Sprint(i - 1)}
	}
	got := threads(list...)
	if want := "(1 2 3 4 "; len(got) < n || got[:len(want)] != want || bytes.Count([]byte(got), []byte("(")) != 1 {
		t.Errorf("%.60s...", got)
	}
}
