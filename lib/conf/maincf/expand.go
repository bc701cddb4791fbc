package maincf

import (
	"fmt"
	"strconv"
	"strings"

	"angarium/lib/logical"
)

// Limits of one expansion: Postfix has the first; the second keeps a few lines
// of $a$a from growing without end.
const (
	maxNesting = 100
	maxPieces  = 100_000
)

// ExpandError says what was wrong with a $expression, in Postfix's words.
type ExpandError struct{ Detail string }

func (e *ExpandError) Error() string { return "macro processing error" }

// Expand replaces $name, ${name}, ${name?yes}, ${name:no}, ${name?{yes}:{no}} and
// ${{a} == {b} ? {yes} : {no}} in value, again and again until nothing is left to
// replace. lookup gives the value of a name; an unknown one counts as empty.
func Expand(value string, lookup func(name string) (string, bool)) (string, error) {
	if !strings.Contains(value, "$") {
		return value, nil
	}
	x := expander{lookup: lookup}
	x.parse(value)
	if x.err != nil {
		return "", x.err
	}
	return x.out.String(), nil
}

// References calls visit for each name that value mentions, in every branch.
func References(value string, visit func(name string)) error {
	if !strings.Contains(value, "$") {
		return nil
	}
	x := expander{scan: true, lookup: func(name string) (string, bool) { visit(name); return "", false }}
	x.parse(value)
	if x.err != nil {
		return x.err
	}
	return nil
}

type expander struct {
	lookup func(string) (string, bool)
	scan   bool // visit names, in all branches; expand nothing
	out    strings.Builder
	level  int
	pieces *int
	err    *ExpandError
}

func (x *expander) fail(format string, args ...any) {
	if x.err == nil {
		x.err = &ExpandError{fmt.Sprintf(format, args...)}
	}
}

// enter counts a piece of text and how deeply it is nested.
func (x *expander) enter(text string) bool {
	if x.pieces == nil {
		x.pieces = new(int)
	}
	*x.pieces++
	if x.level++; x.level > maxNesting+1 || *x.pieces > maxPieces {
		x.fail("unreasonable macro call nesting: \"%s\"", text)
	}
	return x.err == nil
}

// parse takes value apart into text and $expressions.
func (x *expander) parse(value string) {
	var text []byte
	flush := func() {
		if len(text) > 0 && x.enter(string(text)) {
			if !x.scan {
				x.out.Write(text)
			}
			x.level--
		}
		text = text[:0]
	}
	for i := 0; i < len(value) && x.err == nil; {
		c := value[i]
		i++
		if c != '$' {
			text = append(text, c)
			continue
		}
		if i < len(value) && value[i] == '$' {
			text = append(text, '$')
			i++
			continue
		}
		flush()
		var expr string
		if i < len(value) && (value[i] == '{' || value[i] == '(') {
			end := closing(value[i:])
			if end < 0 {
				x.fail("truncated macro reference: \"%s\"", value)
				return
			}
			expr = value[i+1 : i+end]
			i += end + 1
		} else {
			start := i
			for i < len(value) && nameChar(value[i]) {
				i++
			}
			expr = value[start:i]
		}
		if expr == "" {
			x.fail("empty macro name: \"%s\"", value)
			return
		}
		if x.err == nil && x.enter(expr) {
			x.expression(expr)
			x.level--
		}
	}
	if x.err == nil {
		flush()
	}
}

// closing is the index in s of what closes its first character.
func closing(s string) int {
	open, shut := s[0], byte('}')
	if open == '(' {
		shut = ')'
	}
	level := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case open:
			level++
		case shut:
			if level--; level == 0 {
				return i
			}
		}
	}
	return -1
}

func nameChar(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func trimLeft(s string) string { return strings.TrimLeft(s, logical.Blanks) }

func brace(s string) bool {
	s = trimLeft(s)
	return s != "" && s[0] == '{'
}

// payload splits "{text} rest" after blanks.
func (x *expander) payload(s string) (text, rest string) {
	s = trimLeft(s)
	end := closing(s)
	if end < 0 {
		x.fail("unbalanced {} in attribute expression: \"%s\"", s)
		return "", ""
	}
	return s[1:end], trimLeft(s[end+1:])
}

// expression handles what stood between ${ and }.
func (x *expander) expression(expr string) {
	var value, rest string
	var known bool
	op := byte(0)
	if brace(expr) {
		value, rest = x.relation(expr)
		if x.err != nil {
			return
		}
		known = true
		if rest != "" {
			if op = rest[0]; op != '?' && op != ':' {
				x.fail("\"?\" or \":\" expected at: \"...}>>>%.20s\"", rest)
				return
			}
			rest = rest[1:]
		}
	} else {
		name, tail, operator, ok := x.name(expr)
		if !ok {
			return
		}
		op, rest = operator, tail
		value, known = x.lookup(name)
	}
	switch op {
	case 0:
		if known && value != "" && !x.scan {
			x.parse(value)
		}
	case '?', ':':
		x.branches(op, value != "", rest)
	}
}

// name takes the attribute name off "name", "name ? yes" or "name : no".
func (x *expander) name(expr string) (name, rest string, op byte, ok bool) {
	s := trimLeft(expr)
	lead := len(expr) - len(s)
	for i := 0; ; i++ {
		tail := trimLeft(s[i:])
		if tail == "" {
			return s[:i], "", 0, true
		}
		if tail[0] == '?' || tail[0] == ':' {
			return s[:i], tail[1:], tail[0], true
		}
		if !nameChar(s[i]) {
			x.fail("attribute name syntax error at: \"...%s>>>%.20s\"", expr[:lead+i], s[i:])
			return "", "", 0, false
		}
	}
}

// branches expands what follows "?" or ":". Text in braces may be followed by
// the other branch; text without is the rest of the expression, whatever it holds.
func (x *expander) branches(op byte, truth bool, rest string) {
	if op == '?' {
		var yes string
		if brace(rest) {
			if yes, rest = x.payload(rest); x.err != nil {
				return
			}
		} else {
			yes, rest = rest, ""
		}
		if truth || x.scan {
			x.parse(yes)
		}
		if rest == "" || x.err != nil {
			return
		}
		if rest[0] != ':' {
			x.fail("\":\" expected at: \"...%s}>>>%.20s\"", yes, rest)
			return
		}
		rest = rest[1:]
	}
	no := rest
	if brace(rest) {
		if no, rest = x.payload(rest); x.err != nil {
			return
		}
	} else {
		rest = ""
	}
	if !truth || x.scan {
		x.parse(no)
	}
	if rest != "" {
		x.fail("unexpected input at: \"...%s}>>>%.20s\"", no, rest)
	}
}

// operators as the peer lists them, odd quotes included.
const operatorList = `"==" or "!="" or "<"" or "<="" or ">="" or ">"`

// relation evaluates {left} op {right}; true is a value that is not empty.
func (x *expander) relation(expr string) (value, rest string) {
	left, s := x.payload(expr)
	if x.err != nil {
		return "", ""
	}
	n := len(s) - len(strings.TrimLeft(s, "<>!=?+-*/~&|%"))
	op := s[:n]
	switch op {
	case "==", "!=", "<", "<=", ">=", ">":
	default:
		x.fail("%s expected at: \"...%s}>>>%.20s\"", operatorList, left, s)
		return "", ""
	}
	after := s[n:]
	suffix := after
	for i := 0; i <= len(after); i++ {
		if i == len(after) || !nameChar(after[i]) || after[i] == '_' {
			suffix, after = after[:i], after[i:]
			break
		}
	}
	if suffix != "" && suffix != "level" {
		x.fail("bad operator suffix at: \"...%s>>>%s\"", op, suffix)
		return "", ""
	}
	if !brace(after) {
		x.fail("\"{expression}\" expected at: \"...{%s} %s>>>%.20s\"", left, op, after)
		return "", ""
	}
	right, rest := x.payload(after)
	a, b := x.inner(left), x.inner(right)
	if x.err != nil || x.scan {
		return "", rest
	}
	if x.compare(a, op, suffix, b) {
		return "true", rest
	}
	return "", rest
}

// inner expands an operand.
func (x *expander) inner(text string) string {
	if x.err != nil {
		return ""
	}
	in := expander{lookup: x.lookup, scan: x.scan, level: x.level, pieces: x.pieces}
	in.parse(text)
	if in.err != nil {
		x.err = in.err
	}
	return in.out.String()
}

func (x *expander) compare(a, op, suffix, b string) bool {
	var order int
	if suffix == "level" {
		i, err := parseLevel(a)
		j, err2 := parseLevel(b)
		if err == nil {
			err = err2
		}
		if err != nil {
			x.fail("%v", err)
			return false
		}
		order = compareInt(i, j)
	} else if digits(a) && digits(b) {
		i, err := strconv.ParseInt(a, 10, 64)
		j, err2 := strconv.ParseInt(b, 10, 64)
		if err != nil || err2 != nil {
			x.fail("mac_exp_eval: bad conversion: %s", a)
			return false
		}
		order = compareInt(i, j)
	} else {
		order = strings.Compare(a, b)
	}
	switch op {
	case "==":
		return order == 0
	case "!=":
		return order != 0
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">=":
		return order >= 0
	}
	return order > 0
}

func compareInt(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// parseLevel makes one comparable number of a compatibility level: major,
// major.minor or major.minor.patch, the latter two up to 1023.
func parseLevel(s string) (int64, error) {
	var level int64
	parts := strings.Split(s, ".")
	for i := range 3 {
		var n int64
		if i < len(parts) {
			var err error
			limit := int64(1023)
			if i == 0 {
				limit = 1 << 40
			}
			if n, err = strconv.ParseInt(parts[i], 10, 64); err != nil || n < 0 || n > limit || len(parts) > 3 {
				return 0, fmt.Errorf("malformed compatibility level syntax: \"%s\"", s)
			}
		}
		level = level<<10 | n
	}
	return level, nil
}
