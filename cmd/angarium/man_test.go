package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"angarium/lib/cli"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/maincf"
)

// Programs that are binaries of their own: where the letters stand that they give
// to getopt, or a program of this binary that has the same.
var sources = map[string]string{
	"postdrop": "../postdrop/postdrop.go", "postqueue": "../postqueue/postqueue.go", "sendmail": "../sendmail/options.go",
	"master": "../../lib/master/postfix.go", "cyrmaster": "../../lib/master/cyrus.go",
	"local": "qmgr", "virtual": "qmgr", "pipe": "qmgr", "spawn": "qmgr",
}

// Services take what their master gives them, which its page tells of for all.
var services = map[string]string{
	"smtpd": "master", "qmgr": "master", "postlogd": "master", "local": "master", "virtual": "master", "pipe": "master", "spawn": "master",
	"imapd": "cyrmaster", "pop3d": "cyrmaster", "lmtpd": "cyrmaster", "smmapd": "cyrmaster",
}

// These read no letters.
var without = []string{"cyrus", "postlock", "mailsetup"}

// spec is what a program asks getopt for: a wrong option ends it there.
func spec(t *testing.T, name string) string {
	if main, ok := commands[name]; ok {
		c := &cli.Cmd{Name: name, Path: name, Args: []string{"-\x01"}, Stdin: strings.NewReader(""), Stdout: new(bytes.Buffer), Stderr: new(bytes.Buffer)}
		if err := main(context.Background(), c); err == nil {
			t.Errorf("%s takes any option", name)
		}
		return c.Spec()
	}
	source, ok := sources[name]
	if !ok {
		t.Fatalf("%s: where does it read its options?", name)
	}
	if commands[source] != nil {
		return spec(t, source)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?:Getopt\(|letters = )"\+?([^"]+)"`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no option letters in %s", source)
	}
	return string(m[1])
}

// mdocFlags are the options in a line of mdoc, without their arguments: the words
// behind Fl, up to what ends it.
func mdocFlags(line string) (flags []string) {
	in := false
	for _, w := range strings.Fields(line) {
		switch {
		case w == "Fl":
			in = true
		case w == "," || w == "|":
		case len(w) == 2 && w[0] >= 'A' && w[0] <= 'Z' && w[1] >= 'a' && w[1] <= 'z': // another macro
			in = false
		case in:
			flags = append(flags, strings.TrimPrefix(w, `\&`))
		}
	}
	return flags
}

// letters are the options that such words mean to getopt: "MX" is -M and -X where
// neither has an argument, "qRsite" is -q.
func letters(word, spec string) (out []byte) {
	for i := range len(word) {
		out = append(out, word[i])
		if at := strings.IndexByte(spec, word[i]); at >= 0 && strings.HasPrefix(spec[at+1:], ":") {
			break
		}
	}
	return out
}

// optionsIn are the options that a page has entries for, and those in its
// synopsis. An entry in the section SERVICES is about other programs.
func optionsIn(t *testing.T, file, spec string, services bool) (told, offered []byte) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	section := ""
	for line := range strings.Lines(string(text)) {
		if s, ok := strings.CutPrefix(line, ".Sh "); ok {
			section = strings.TrimSpace(s)
		}
		for _, f := range mdocFlags(line) {
			switch {
			case (section == "SERVICES") != services:
			case strings.HasPrefix(line, ".It Fl "):
				told = append(told, letters(f, spec)...)
			case section == "SYNOPSIS":
				offered = append(offered, letters(f, spec)...)
			}
		}
	}
	return told, offered
}

// A page has an entry for every option that its program takes, and its entries
// and synopsis have no other.
func TestOptionsInPages(t *testing.T) {
	files := pages(t)
	for name, file := range files {
		if slices.Contains(without, name) {
			continue
		}
		spec := spec(t, name)
		told, offered := optionsIn(t, file, spec, false)
		if m := services[name]; m != "" {
			common, _ := optionsIn(t, files[m], spec, true)
			told = append(told, common...)
			if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "\n.Xr "+m+" 8") {
				t.Errorf("%s does not refer to %s(8) (%v)", filepath.Base(file), m, err)
			}
		}
		for _, l := range []byte(strings.ReplaceAll(spec, ":", "")) {
			if !slices.Contains(told, l) {
				t.Errorf("%s has no entry for -%c", filepath.Base(file), l)
			}
		}
		for _, l := range append(told, offered...) {
			if !strings.ContainsRune(spec, rune(l)) || l == ':' {
				t.Errorf("%s tells of -%c, which %s does not take", filepath.Base(file), l, name)
			}
		}
	}
}

// pages are all programs, and the files of their pages.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	page := func(name string) {
		for _, section := range []string{"1", "8"} {
			file := "../../man/" + name + "." + section
			if text, err := os.ReadFile(file); err == nil {
				if link, ok := strings.CutPrefix(string(text), ".so "); ok {
					file = "../../man/" + filepath.Base(strings.TrimSpace(link))
				}
				all[name] = file
				return
			}
		}
		t.Errorf("no page for %s", name)
	}
	for name := range commands {
		page(name)
	}
	for name := range sources {
		page(name)
	}
	return all
}

// Every page of a program, or of a service that has a name of its own, tells how it ends.
func TestExitStatus(t *testing.T) {
	files, err := filepath.Glob("../../man/*.[18]")
	if err != nil || len(files) == 0 {
		t.Fatal("no pages", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		} else if !strings.HasPrefix(string(text), ".so ") && !strings.Contains(string(text), "\n.Sh EXIT STATUS\n") {
			t.Errorf("%s has no EXIT STATUS", filepath.Base(file))
		}
	}
}

// Every page is in order, as mandoc sees it, but for lines that are long for a
// terminal, and for pages that are not installed on this machine.
func TestMandoc(t *testing.T) {
	if _, err := exec.LookPath("mandoc"); err != nil {
		t.Skip("mandoc is not installed")
	}
	files, err := filepath.Glob("../../man/*.[1-8]")
	if err != nil || len(files) == 0 {
		t.Fatal("no pages", err)
	}
	args := []string{"-T", "lint", "-W", "style"}
	for _, file := range files {
		if text, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(text), ".so ") {
			args = append(args, file)
		}
	}
	out, _ := exec.Command("mandoc", args...).Output() // it fails if there is anything to say
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "input text line longer than") && !strings.Contains(line, "referenced manual not found") {
			t.Error(strings.TrimSpace(line))
		}
	}
}

// The parameters that a page tells of, outside BUGS, are acted on.
func TestParametersInPages(t *testing.T) {
	files, err := filepath.Glob("../../man/*.[1-8]")
	if err != nil || len(files) == 0 {
		t.Fatal("no pages", err)
	}
	word := regexp.MustCompile(`[A-Za-z0-9]+_[A-Za-z0-9_]+|[a-z]{6,}`)
	seen := 0
	for _, file := range files {
		if filepath.Base(file) == "imapd.conf.5" { // lists them all, and marks them
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		told, _, _ := strings.Cut(string(text), "\n.Sh BUGS\n")
		for line := range strings.Lines(told) {
			if !strings.HasPrefix(line, ".Va ") && !strings.HasPrefix(line, ".Cm ") && !strings.HasPrefix(line, ".It Va ") {
				continue
			}
			for _, name := range word.FindAllString(line, -1) {
				_, postfix := maincf.Find(name)
				o, cyrus := imapdconf.Lookup(name)
				if postfix || cyrus {
					seen++
				}
				if (postfix || cyrus) && !maincf.ActedOn(name) && !o.Acted {
					t.Errorf("%s tells of %s, which nothing obeys", filepath.Base(file), name)
				}
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d parameters found: this test looks for them in the wrong way", seen)
	}
}
