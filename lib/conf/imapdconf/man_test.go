package imapdconf

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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

// No silent ignoring: the mark in the table says what the programs ask for.
func TestActed(t *testing.T) {
	ask := regexp.MustCompile(`(?:String|Int|Bool|Duration|Size|List|Enum|Has|Raw|file)\("(\w+)"`)
	asked := map[string]bool{"servername": true} // by ServerName
	for _, pattern := range []string{"../../../cmd/*/*.go", "../storeconf/*.go", "../../service/*.go", "../../plan/*.go", "../../master/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(name, "_test.go") || !strings.Contains(string(data), "imapdconf") && !strings.Contains(string(data), "Imapd") {
				continue
			}
			for _, m := range ask.FindAllStringSubmatch(string(data), -1) {
				asked[m[1]] = true
			}
		}
	}
	for _, o := range Options() {
		switch name := o.Name; {
		case o.Preferred != "": // its value moves there
		case asked[name] && !o.Acted:
			t.Errorf("%s is asked for, but not marked as acted on", name)
		case o.Acted && !asked[name]:
			t.Errorf("%s is marked as acted on, but nobody asks for it", name)
		}
	}
}
