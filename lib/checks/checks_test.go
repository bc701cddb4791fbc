package checks_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"angarium/lib/checks"
)

// teller writes down what a Scanner finds.
type teller struct{ strings.Builder }

func (t *teller) Header(class checks.Class, h []byte) error {
	fmt.Fprintf(t, "%c %q\n", "hmn"[class], h)
	return nil
}
func (t *teller) EndHeader() error { t.WriteString("end\n"); return nil }
func (t *teller) Body(line []byte, whole bool, at int64) error {
	fmt.Fprintf(t, "b%d %q %t\n", at, line, whole)
	return nil
}
func (t *teller) Fault(f checks.Fault, text string) { fmt.Fprintf(t, "fault %s: %s\n", f, text) }

func scan(o checks.Options, text string) string {
	t := &teller{}
	s := checks.NewScanner(o)
	for line := range strings.Lines(text) {
		line, whole := strings.CutSuffix(line, "\n")
		if err := s.Line([]byte(line), whole, t); err != nil {
			return err.Error()
		}
	}
	s.End(t)
	return t.String()
}

func TestScanner(t *testing.T) {
	all := checks.FaultNesting | checks.Fault8bitHeader | checks.Fault8bitBody | checks.FaultDomain
	for _, c := range []struct {
		name, in, want string
		o              checks.Options
	}{
		{"plain", "A: b\n c\n\nx\n\ny\n", "h \"A: b\\n c\"\nend\nb0 \"\" true\nb0 \"x\" true\nb1 \"\" true\nb1 \"y\" true\n", checks.Options{}},
		{"no header", "x\ny", "end\nb0 \"\" true\nb0 \"x\" true\nb1 \"y\" false\n", checks.Options{}},
		{"nothing", "", "end\n", checks.Options{}},
		{"parts", "Content-Type: multipart/x; boundary=q\n\npre\n--q\nX: y\n\ntext\n--q--\n--q\n",
			"m \"Content-Type: multipart/x; boundary=q\"\nend\nb0 \"\" true\nb0 \"pre\" true\nb3 \"--q\" true\nm \"X: y\"\nb0 \"\" true\nb0 \"text\" true\nb4 \"--q--\" true\nb9 \"--q\" true\n", checks.Options{}},
		{"enclosed", "Content-Type: message/rfc822\n\nSubject: in\n\nx\n", "m \"Content-Type: message/rfc822\"\nend\nb0 \"\" true\nn \"Subject: in\"\nb0 \"\" true\nb0 \"x\" true\n", checks.Options{}},
		{"digest", "Content-Type: multipart/digest; boundary=\"a b\"\n\n--a b\n\nSubject: in\n\n", "m \"Content-Type: multipart/digest; boundary=\\\"a b\\\"\"\nend\nb0 \"\" true\nb0 \"--a b\" true\nb0 \"\" true\nn \"Subject: in\"\nb0 \"\" true\n", checks.Options{}},
		{"MIME off", "Content-Type: message/rfc822\n\nSubject: in\n", "h \"Content-Type: message/rfc822\"\nend\nb0 \"\" true\nb0 \"Subject: in\" true\n", checks.Options{NoMIME: true}},
		{"faults", "Subject: \xff\nContent-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n\n\xff\n",
			"fault improper use of 8-bit data in message header: Subject: \xff\nh \"Subject: \\xff\"\nm \"Content-Type: message/rfc822\"\nm \"Content-Transfer-Encoding: base64\"\nend\nfault invalid message/* or multipart/* encoding domain: base64\nb0 \"\" true\nb0 \"\" true\nfault improper use of 8-bit data in message body: \xff\nb0 \"\\xff\" true\n", checks.Options{Report: all}},
		{"limit", "X: 123456\n 789\n abc\n\n", "h \"X: 123456\\n 789\"\nend\nb0 \"\" true\n", checks.Options{HeaderSize: 10}},
	} {
		if got := scan(c.o, c.in); got != c.want {
			t.Errorf("%s: got\n%swant\n%s", c.name, got, c.want)
		}
	}
}

// However deep a letter nests, memory is bounded.
func TestNesting(t *testing.T) {
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, "Content-Type: multipart/x; boundary=b%d.\n\n--b%d.\n", i, i)
	}
	got := scan(checks.Options{Nesting: 10, Report: checks.FaultNesting}, b.String())
	if strings.Count(got, "fault MIME nesting exceeds safety limit") != 1 || strings.Count(got, "m \"Content-Type") != 12 {
		t.Error(got)
	}
}

type table map[string]string

func (m table) Lookup(_ context.Context, key string) (string, bool, error) {
	if v := m[key]; v == "!" {
		return "", false, errors.New("down")
	}
	v, ok := m[key]
	return v, ok, nil
}

func TestActions(t *testing.T) {
	for value, want := range map[string]string{
		"reject  go away": "REJECT go away", "DUNNO": "DUNNO ", "ok x": "DUNNO x", "FILTER": "DUNNO |missing FILTER command argument in header_checks map",
		"FILTER x": "DUNNO |bad FILTER command x in header_checks -- need transport:destination", "FILTER smtp:x": "FILTER smtp:x",
		"PREPEND x": "DUNNO |bad PREPEND header text \"x\" in header_checks map -- need \"headername: headervalue\"", "REPLACE A: b": "REPLACE A: b",
		"REDIRECT x": "DUNNO |bad REDIRECT target \"x\" in header_checks map -- need user@domain", "what now": "DUNNO |unknown command in header_checks map: what now",
	} {
		tables := checks.Tables{Header: table{"k: v": value}, HeaderName: "header_checks"}
		said := ""
		a, err := tables.ForHeader(context.Background(), checks.Primary, "k: v", func(f string, args ...any) { said += "|" + fmt.Sprintf(f, args...) })
		if got := string(a.Verb) + " " + a.Text + said; err != nil || got != want {
			t.Errorf("%q: %q, want %q, %v", value, got, want, err)
		}
	}
	tables := checks.Tables{Body: table{"x": "!", "y": "WARN"}, BodyName: "body_checks", BodyLimit: 5}
	if _, err := tables.ForBody(context.Background(), []byte("x"), 0, nil); err == nil || err.Error() != "body_checks map lookup problem -- message not accepted, try again later" {
		t.Error(err)
	}
	if a, err := tables.ForBody(context.Background(), []byte("y"), 5, nil); err != nil || a.Verb != checks.Dunno {
		t.Error(a, err)
	}
}

func FuzzScanner(f *testing.F) {
	f.Add("Content-Type: multipart/x; boundary=q; boundary=\"(\\\"\n\n--q\nX: y\n\ntext\n--q--\n")
	f.Add("content-type : message/rfc822 (a (b)\nContent-Transfer-Encoding: base64\n\n\n\xff")
	f.Fuzz(func(t *testing.T, text string) {
		got := scan(checks.Options{Report: 0xff, HeaderSize: 100}, text)
		if strings.Count(got, "end\n") != 1 && !strings.Contains(text, "end") {
			t.Errorf("%q", got)
		}
	})
}
