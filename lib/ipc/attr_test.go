package ipc

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestAttrs(t *testing.T) {
	want := []Attr{{"request", "send_site"}, {"site", ""}, {"long", strings.Repeat("x", 20_000)}}
	r := bufio.NewReader(bytes.NewReader(EndAttrs(AppendAttrs(nil, want...))))
	got, err := ReadAttrs(r)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v", got, err)
	}
	if _, err := ReadAttrs(r); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for _, bad := range []string{"a", "a\x00", "a\x00b", "a\x00b\x00", strings.Repeat("x", 2*maxAttr)} {
		if _, err := ReadAttrs(bufio.NewReader(strings.NewReader(bad))); err == nil || err == io.EOF {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func FuzzReadAttrs(f *testing.F) {
	f.Add([]byte("protocol\x00x\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) { ReadAttrs(bufio.NewReader(bytes.NewReader(b))) })
}
