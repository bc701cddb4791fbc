package imapdconf

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the list of options into the man page")

// The man page lists the options as the code has them.
func TestManPage(t *testing.T) {
	const name = "../../../man/imapd.conf.5"
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(data), "-update\n.Bl -tag -width Ds\n")
	_, after, ok2 := strings.Cut(rest, ".El\n.Sh FILES\n")
	if !ok1 || !ok2 {
		t.Fatal("the page has no place for the list")
	}
	var list strings.Builder
	for _, o := range Options() {
		list.WriteString(manEntry(o))
	}
	want := before + "-update\n.Bl -tag -width Ds\n" + list.String() + ".El\n.Sh FILES\n" + after
	if *update {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(data) {
		t.Error("man/imapd.conf.5 differs from the code; run: go test ./lib/conf/imapdconf -update")
	}
}

func manEntry(o Option) string {
	escape := func(s string) string {
		return strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\e`), "-", `\-`)
	}
	star := ""
	if o.Acted {
		star = "*"
	}
	s := fmt.Sprintf(".It Cm %s : Ns \" %s %s\"\n", o.Name, escape(Canonical(o, o.Default)), star)
	s = strings.ReplaceAll(strings.ReplaceAll(s, `  `, " "), ` "`+"\n", `"`+"\n")
	s += escape(o.Doc)
	switch {
	case o.Unit != 0:
		s += fmt.Sprintf(" (%c)", o.Unit)
	case o.Words != "":
		s += " (" + escape(strings.ReplaceAll(o.Words, "|", " ")) + ")"
	}
	if o.Preferred != "" {
		s += "; now\n.Cm " + o.Preferred
	} else if o.Deprecated != "" {
		s += "; since " + o.Deprecated + " not used any more"
	}
	return s + "\n"
}
