package alias

import (
	"fmt"
	"strings"
	"testing"
)

func show(list []Target) string {
	var s []string
	for _, t := range list {
		s = append(s, strings.TrimPrefix(fmt.Sprintf("%T %s", t, t), "alias."))
	}
	return strings.Join(s, "; ")
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"bob", "Address bob"},
		{"bob, alice@x.test ,carol", "Address bob; Address alice@x.test; Address carol"},
		{`"|/usr/bin/prog -a 'b,c'"`, "Command |/usr/bin/prog -a 'b,c'"},
		{`|/usr/bin/prog`, "Command |/usr/bin/prog"},
		{`"|prog \"two words\""`, `Command |prog "two words"`},
		{"/var/mail/x, \"/var/my mail\"", "File /var/mail/x; File /var/my mail"},
		{":include:/etc/list", "Include :include:/etc/list"},
		{`":include: /etc/my list"`, "Include :include:/etc/my list"},
		{"Bob Builder <bob@x.test>, root", "Address bob@x.test; Address root"},
		{"bob (the (very) best), amy", "Address bob; Address amy"},
		{`"joe smith"@x.test`, "Address joe smith@x.test"},
		{`"joe smith"`, "Address joe smith"},
		{`\joe, x@y.test`, `Address \joe; Address x@y.test`},
		{",,bob,,", "Address bob"},
		{"", ""},
	} {
		got, err := Parse(c.in)
		if err != nil || show(got) != c.want {
			t.Errorf("Parse(%q) = %s, %v; want %s", c.in, show(got), err, c.want)
		}
	}
	for _, bad := range []string{`"open`, "<a@b", "(never", ":include:relative", "a@b@c", "|", `""`} {
		if got, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) = %s, want an error", bad, show(got))
		}
	}
}

func TestParseLines(t *testing.T) {
	got, err := ParseLines(strings.NewReader("# members\nbob\n\n  amy, /tmp/x\n"))
	if want := "Address bob; Address amy; File /tmp/x"; err != nil || show(got) != want {
		t.Errorf("got %s, %v; want %s", show(got), err, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`a,"|b c",/d,:include:/e`, `x <y@z>, "q\"`, `((`, `\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := Parse(s)
		if err != nil {
			return
		}
		for _, x := range list {
			if x.String() == "" {
				t.Errorf("empty target from %q", s)
			}
		}
	})
}
