package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// pages are the programs that read getopt(3) letters, and where.
var pages = map[string]string{
	"postcat.1": "postcat/postcat.go", "postconf.1": "postconf/postconf.go", "postdrop.1": "postdrop/postdrop.go",
	"postfix.1": "postfix/postfix.go", "postkick.1": "postkick/postkick.go", "postlog.1": "postlog/postlog.go",
	"postqueue.1": "postqueue/postqueue.go", "postsuper.1": "postsuper/postsuper.go",
	"saslpasswd2.8": "saslpasswd2/saslpasswd2.go", "sasldblistusers2.8": "sasldblistusers2/sasldblistusers2.go",
	"cyr_expire.8": "cyr_expire/expire.go", "ctl_deliver.8": "cyr_expire/deliver.go", "cyr_info.8": "cyr_info/cyr_info.go",
	"ctl_cyrusdb.8": "ctl_cyrusdb/main.go", "ctl_mboxlist.8": "ctl_mboxlist/main.go",
	"master.8": "../lib/master/postfix.go", "cyrmaster.8": "../lib/master/cyrus.go",
}

var (
	spec = regexp.MustCompile(`Getopt\("\+?([^"]+)"\)`)
	one  = regexp.MustCompile(`\b\w+\.(?:String|Bool|Count|Strings)\('(.)'`)
	flag = regexp.MustCompile(`\bFl ([A-Za-z#]+)`)
)

// A page tells of every option that its program takes, and of no other.
func TestOptionsInPages(t *testing.T) {
	for page, source := range pages {
		code := letters(t, "../"+source, func(text string, add func(string)) {
			for _, m := range spec.FindAllStringSubmatch(text, -1) {
				add(strings.ReplaceAll(m[1], ":", ""))
			}
			for _, m := range one.FindAllStringSubmatch(text, -1) {
				add(m[1])
			}
		})
		page = "../../man/" + page
		named := letters(t, page, func(text string, add func(string)) { optionLines(text, add, ".It Fl ", ".Op ", ".Nm ", ".Fl ") })
		offered := letters(t, page, func(text string, add func(string)) { optionLines(text, add, ".It Fl ", ".Op ", ".Nm ") })
		for l := range code {
			if !named[l] && l != 'h' { // -h shows the usage, as any wrong letter does
				t.Errorf("%s does not tell of -%c", page, l)
			}
		}
		for l := range offered {
			if !code[l] {
				t.Errorf("%s tells of -%c, which %s does not take", page, l, source)
			}
		}
	}
}

// optionLines finds the letters behind Fl in lines that begin with one of the macros.
func optionLines(text string, add func(string), macros ...string) {
	for line := range strings.Lines(text) {
		line = strings.NewReplacer(`\&`, "", " , Fl ", "", " , ", "").Replace(line)
		for _, macro := range macros {
			if strings.HasPrefix(line, macro) {
				for _, m := range flag.FindAllStringSubmatch(line, -1) {
					add(m[1])
				}
			}
		}
	}
}

func letters(t *testing.T, file string, find func(string, func(string))) map[rune]bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	set := map[rune]bool{}
	find(string(text), func(s string) {
		for _, r := range s {
			set[r] = true
		}
	})
	if len(set) == 0 {
		t.Errorf("no options found in %s: this test looks for them in the wrong way", file)
	}
	return set
}

// Every program has a page, which tells how it ends.
func TestPages(t *testing.T) {
	for name := range commands {
		text, err := os.ReadFile("../../man/" + name + ".1")
		if err != nil {
			text, err = os.ReadFile("../../man/" + name + ".8")
		}
		if err != nil {
			t.Errorf("no page for %s", name)
		} else if !strings.HasPrefix(string(text), ".so ") && !strings.Contains(string(text), "\n.Sh EXIT STATUS\n") {
			t.Errorf("the page of %s has no EXIT STATUS", name)
		}
	}
}
