package checks

import (
	"context"
	"fmt"
	"strings"
)

// Table answers one question. Not finding the key is an answer; err means that
// the table could not be asked.
type Table interface {
	Lookup(ctx context.Context, key string) (value string, ok bool, err error)
}

// Tables are header_checks and its kin; each nil if there is none.
type Tables struct {
	Header, MIME, Nested, Body Table
	// Names are the parameters that name them, for warnings.
	HeaderName, MIMEName, NestedName, BodyName string
	BodyLimit                                  int64 // body_checks_size_limit, octets of each body segment; 0: all
}

// Any reports whether there is a table.
func (t *Tables) Any() bool {
	return t.Header != nil || t.MIME != nil || t.Nested != nil || t.Body != nil
}

// Headers reports whether there is a table about headers.
func (t *Tables) Headers() bool { return t.Header != nil || t.MIME != nil || t.Nested != nil }

// Verb is what a table wants.
type Verb string

// The verbs of header_checks(5). Dunno stands for OK, too.
const (
	Dunno    Verb = "DUNNO"
	BCC      Verb = "BCC"
	Discard  Verb = "DISCARD"
	Filter   Verb = "FILTER"
	Hold     Verb = "HOLD"
	Ignore   Verb = "IGNORE"
	Info     Verb = "INFO"
	Pass     Verb = "PASS"
	Prepend  Verb = "PREPEND"
	Redirect Verb = "REDIRECT"
	Reject   Verb = "REJECT"
	Replace  Verb = "REPLACE"
	Strip    Verb = "STRIP"
	Warn     Verb = "WARN"
)

// Action is a verb and its text, as it can be carried out.
type Action struct {
	Verb Verb
	Text string
}

// LookupError says that a table could not be asked.
type LookupError struct {
	Name string // parameter
	Err  error
}

func (e *LookupError) Error() string {
	return e.Name + " map lookup problem -- message not accepted, try again later"
}

func (e *LookupError) Unwrap() error { return e.Err }

// ForHeader asks about a header. warn hears of a value that makes no sense; then
// the action is Dunno.
func (t *Tables) ForHeader(ctx context.Context, class Class, header string, warn func(string, ...any)) (Action, error) {
	table, name := t.Header, t.HeaderName
	switch class {
	case Multipart:
		table, name = t.MIME, t.MIMEName
	case Nested:
		table, name = t.Nested, t.NestedName
	}
	return ask(ctx, table, name, header, true, warn)
}

// ForBody asks about a body line, or a piece of one.
func (t *Tables) ForBody(ctx context.Context, line []byte, offset int64, warn func(string, ...any)) (Action, error) {
	if t.Body == nil || len(line) == 0 || t.BodyLimit > 0 && offset >= t.BodyLimit {
		return Action{Verb: Dunno}, nil
	}
	return ask(ctx, t.Body, t.BodyName, string(line), false, warn)
}

func ask(ctx context.Context, table Table, name, key string, header bool, warn func(string, ...any)) (Action, error) {
	if table == nil || key == "" {
		return Action{Verb: Dunno}, nil
	}
	value, ok, err := table.Lookup(ctx, key)
	if err != nil {
		return Action{}, &LookupError{name, err}
	}
	if !ok {
		return Action{Verb: Dunno}, nil
	}
	a, complaint := parse(value, name, header)
	if complaint != "" {
		warn("%s", complaint)
	}
	return a, nil
}

// parse reads a table's value. What makes no sense is Dunno, with a complaint in
// Postfix' words.
func parse(value, name string, header bool) (Action, string) {
	word, text := value, ""
	if i := strings.IndexAny(value, " \t"); i >= 0 {
		word, text = value[:i], strings.TrimLeft(value[i:], " \t\n\r\v\f")
	}
	a := Action{Verb(strings.ToUpper(word)), text}
	complaint := ""
	switch a.Verb {
	case Discard, Hold, Info, Pass, Reject, Strip, Warn, Ignore, Dunno:
	case "OK":
		a.Verb = Dunno
	case Filter:
		if text == "" {
			complaint = fmt.Sprintf("missing FILTER command argument in %s map", name)
		} else if !strings.Contains(text, ":") {
			complaint = fmt.Sprintf("bad FILTER command %s in %s -- need transport:destination", text, name)
		}
	case Prepend, Replace:
		if text == "" {
			complaint = fmt.Sprintf("%s action without text in %s map", a.Verb, name)
		} else if header && NameLen(text) == 0 {
			complaint = fmt.Sprintf("bad %s header text \"%s\" in %s map -- need \"headername: headervalue\"", a.Verb, text, name)
		}
	case Redirect:
		if !strings.Contains(text, "@") {
			complaint = fmt.Sprintf("bad REDIRECT target \"%s\" in %s map -- need user@domain", text, name)
		}
	case BCC:
		if !strings.Contains(text, "@") {
			complaint = fmt.Sprintf("bad BCC address \"%s\" in %s map -- need user@domain", text, name)
		}
	default:
		complaint = fmt.Sprintf("unknown command in %s map: %s", name, value)
	}
	if complaint != "" {
		return Action{Verb: Dunno}, complaint
	}
	return a, ""
}
