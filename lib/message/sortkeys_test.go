package message

import (
	"slices"
	"testing"
)

func TestMessageIDs(t *testing.T) {
	for in, want := range map[string][]string{
		" <a@b> <c@d>\r\n\t<e@f>": {"a@b", "c@d", "e@f"},
		"<a@b><c@d>":              {"a@b", "c@d"},
		"text <a @\r\n b> <> (x)": {"a@b"},
		"<a@b <c@d> <e":           {"c@d"},
		`<"x>y"@z> no`:            {`x>y@z`},
		"Your message of Tue, 1":  nil,
	} {
		var got []string
		MessageIDs([]byte(in), func(id string) bool { got = append(got, id); return true })
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestSortKeys(t *testing.T) {
	for _, c := range []struct{ in, mailbox, display string }{
		{"Zoë B <bob@here.test>, x@y", "BOB", "ZOË B"},
		{"=?utf-8?q?=C3=84pfel?= <a@b>", "A", "ÄPFEL"},
		{" a_b@here.test", "A_B", "A_B@HERE.TEST"},
		{"list: a@b;", "LIST", "LIST"},
		{"", "", ""},
	} {
		if m, d := SortMailbox([]byte(c.in)), SortDisplay([]byte(c.in)); string(m) != c.mailbox || string(d) != c.display {
			t.Errorf("%q: %q %q, want %q %q", c.in, m, d, c.mailbox, c.display)
		}
	}
}
