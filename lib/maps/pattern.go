package maps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/dlclark/regexp2"
)

// matchTimeout bounds one match of a pattern that needs backtracking; a pattern
// that takes longer is an error of the look-up, not a miss.
const matchTimeout = time.Second

// matcher finds the groups of a pattern in a key; nil: no match.
type matcher interface {
	match(key string) (groups []string, err error)
	groups() int
}

// patternRule is a line of a regexp_table(5) or pcre_table(5).
type patternRule struct {
	conds  []condition
	value  []piece
	skipTo int // as in cidrRule
}

type condition struct {
	re     matcher
	negate bool
}

// piece is literal text or the number of a group.
type piece struct {
	text  string
	group int // -1: text
}

type patternTable []patternRule

func (t patternTable) Lookup(_ context.Context, key string) (string, bool, error) {
	for i := 0; i < len(t); i++ {
		r := &t[i]
		groups, ok, err := r.match(key)
		switch {
		case err != nil:
			return "", false, err
		case r.skipTo != 0 && !ok:
			i = r.skipTo - 1
		case r.skipTo == 0 && ok:
			return r.expand(groups), true, nil
		}
	}
	return "", false, nil
}

func (r *patternRule) match(key string) (groups []string, ok bool, err error) {
	for i, c := range r.conds {
		g, err := c.re.match(key)
		if err != nil {
			return nil, false, err
		}
		if (g == nil) != c.negate {
			return nil, false, nil
		}
		if i == 0 {
			groups = g
		}
	}
	return groups, true, nil
}

func (r *patternRule) expand(groups []string) string {
	if len(r.value) == 1 && r.value[0].group < 0 {
		return r.value[0].text
	}
	var b strings.Builder
	for _, p := range r.value {
		if p.group < 0 {
			b.WriteString(p.text)
		} else if p.group < len(groups) {
			b.WriteString(groups[p.group])
		}
	}
	return b.String()
}

func patternParser(kind string) func(string, io.Reader, Options) (Table, error) {
	skipping := map[string]string{"regexp": "skipping this rule", "pcre": "ignoring this rule"}[kind]
	return func(file string, r io.Reader, o Options) (Table, error) {
		var t patternTable
		var ifs []int
		err := Lines(r, func(number int, line string) error {
			word, rest, _ := strings.Cut(line, " ")
			isIf := len(line) > 2 && strings.EqualFold(line[:2], "if") && !isAlnum(line[2])
			switch {
			case strings.EqualFold(word, "endif") && rest == "":
				if len(ifs) == 0 {
					o.warnf("%s map %s, line %d: ignoring ENDIF without matching IF", kind, file, number)
					return nil
				}
				t[ifs[len(ifs)-1]].skipTo = len(t)
				ifs = ifs[:len(ifs)-1]
				return nil
			case isIf:
				line = strings.TrimSpace(line[2:])
			}
			rule, err := parseRule(kind, line, isIf)
			switch {
			case err == errUnrecognized:
				o.warnf("%s map %s, line %d: %v", kind, file, number, err)
				return nil
			case err != nil:
				o.warnf("%s map %s, line %d: %v: %s", kind, file, number, err, skipping)
				return nil
			}
			if isIf {
				ifs = append(ifs, len(t))
			}
			t = append(t, rule)
			return nil
		})
		for _, i := range ifs {
			o.warnf("%s map %s: IF has no matching ENDIF", kind, file)
			t[i].skipTo = len(t)
		}
		return t, err
	}
}

// errUnrecognized is a line that begins with a letter, and so with no pattern.
var errUnrecognized = errors.New("ignoring unrecognized request")

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// parseRule reads "/pattern/flags value", with "!" for no match, and for
// regexp: also "/pattern/!/pattern/".
func parseRule(kind, line string, isIf bool) (rule patternRule, err error) {
	for {
		negate := false
		for strings.HasPrefix(line, "!") {
			negate, line = !negate, strings.TrimSpace(line[1:])
		}
		if line == "" {
			return rule, errors.New("no regexp")
		}
		delim := line[0]
		if isAlnum(delim) {
			return rule, errUnrecognized
		}
		if delim == '\\' || isSpace(delim) {
			return rule, fmt.Errorf("invalid regexp delimiter %q", string(delim))
		}
		end := 1
		for end < len(line) && line[end] != delim {
			if line[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(line) {
			return rule, fmt.Errorf("no closing regexp delimiter %q", string(delim))
		}
		pattern, rest := line[1:end], line[end+1:]
		n := 0
		for n < len(rest) && !isSpace(rest[n]) && rest[n] != '!' {
			n++
		}
		re, err := compile(kind, pattern, rest[:n])
		if err != nil {
			return rule, err
		}
		rule.conds = append(rule.conds, condition{re, negate})
		line = rest[n:]
		if kind == "regexp" && strings.HasPrefix(line, "!") && len(rule.conds) == 1 {
			continue
		}
		break
	}
	line = strings.TrimSpace(line)
	if isIf {
		return rule, nil
	}
	first := rule.conds[0]
	rule.value, err = parseValue(line, first.re.groups(), first.negate)
	return rule, err
}

// parseValue parts the result text at $1, ${1}, $(1) and $$.
func parseValue(s string, groups int, negate bool) ([]piece, error) {
	var out []piece
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			out = append(out, piece{text.String(), -1})
			text.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '$' {
			text.WriteByte(s[i])
			continue
		}
		rest := s[i+1:]
		if strings.HasPrefix(rest, "$") {
			text.WriteByte('$')
			i++
			continue
		}
		digits, skip := rest, 0
		if rest != "" && (rest[0] == '{' || rest[0] == '(') {
			end := strings.IndexByte(rest, map[byte]byte{'{': '}', '(': ')'}[rest[0]])
			if end < 0 {
				return nil, errors.New("bad replacement syntax")
			}
			digits, skip = rest[1:end], end+1
		} else {
			n := 0
			for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
				n++
			}
			digits, skip = rest[:n], n
		}
		n, err := strconv.Atoi(digits)
		switch {
		case err != nil:
			return nil, fmt.Errorf("unknown macro name %q", digits)
		case negate:
			return nil, errors.New("negative match may not have $number")
		case n < 1 || n > groups:
			return nil, fmt.Errorf("out of range replacement index \"%d\"", n)
		}
		flush()
		out = append(out, piece{group: n})
		i += skip
	}
	flush()
	if out == nil {
		out = []piece{{"", -1}}
	}
	return out, nil
}

// compile makes a matcher. Patterns that RE2 can't do (backreferences, look
// ahead) get a backtracking engine with a time limit.
func compile(kind, pattern, flags string) (matcher, error) {
	caseless, multi, dotAll, extended := true, false, kind == "pcre", kind == "regexp"
	anchored, ungreedy := false, false
	for _, f := range flags {
		switch {
		case f == 'i':
			caseless = !caseless
		case f == 'm':
			multi = !multi
		case f == 'x':
			extended = !extended
		case f == 's' && kind == "pcre":
			dotAll = !dotAll
		case f == 'A' && kind == "pcre":
			anchored = !anchored
		case f == 'U' && kind == "pcre":
			ungreedy = !ungreedy
		case (f == 'E' || f == 'X') && kind == "pcre":
		default:
			return nil, fmt.Errorf("unknown regexp option %q", string(f))
		}
	}
	if kind == "regexp" {
		if !extended {
			pattern = basicToExtended(pattern)
		}
		pattern, extended, dotAll = posixBrackets(pattern), false, !multi
	}
	if anchored {
		pattern = `\A(?:` + pattern + `)`
	}
	mode := ""
	for _, m := range []struct {
		on bool
		c  string
	}{{caseless, "i"}, {multi, "m"}, {dotAll, "s"}, {ungreedy, "U"}} {
		if m.on {
			mode += m.c
		}
	}
	if !extended { // RE2 has no (?x)
		source := pattern
		if mode != "" {
			source = "(?" + mode + ")" + pattern
		}
		if re, err := regexp.Compile(source); err == nil {
			if kind == "regexp" {
				re.Longest()
			}
			return re2{re}, nil
		}
	}
	return compileBacktracking(pattern, caseless, multi, dotAll, extended)
}

func compileBacktracking(pattern string, caseless, multi, dotAll, extended bool) (matcher, error) {
	var opt regexp2.RegexOptions
	for _, m := range []struct {
		on  bool
		opt regexp2.RegexOptions
	}{{caseless, regexp2.IgnoreCase}, {multi, regexp2.Multiline}, {dotAll, regexp2.Singleline}, {extended, regexp2.IgnorePatternWhitespace}} {
		if m.on {
			opt |= m.opt
		}
	}
	re, err := regexp2.Compile(pattern, opt)
	if err != nil {
		return nil, fmt.Errorf("error in regexp: %w", err)
	}
	re.MatchTimeout = matchTimeout
	return backtracking{re}, nil
}

type re2 struct{ re *regexp.Regexp }

func (m re2) match(key string) ([]string, error) { return m.re.FindStringSubmatch(key), nil }
func (m re2) groups() int                        { return m.re.NumSubexp() }

type backtracking struct{ re *regexp2.Regexp }

func (m backtracking) groups() int { return len(m.re.GetGroupNumbers()) - 1 }

func (m backtracking) match(key string) ([]string, error) {
	found, err := m.re.FindStringMatch(key)
	if err != nil || found == nil {
		return nil, err
	}
	var out []string
	for _, g := range found.Groups() {
		out = append(out, g.String())
	}
	return out, nil
}

// posixBrackets writes a POSIX pattern so that RE2 means the same: inside of
// brackets a backslash is a plain character, and \< \> are word boundaries.
func posixBrackets(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case c == '\\' && i+1 < len(p):
			i++
			if p[i] == '<' || p[i] == '>' {
				b.WriteString(`\b`)
			} else {
				b.WriteByte(c)
				b.WriteByte(p[i])
			}
		case c == '[':
			end := bracketEnd(p, i)
			if end < 0 {
				b.WriteByte(c)
				continue
			}
			b.WriteString(bracket(p[i+1 : end]))
			i = end
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// bracketEnd is the place of the "]" that ends the bracket expression at i.
func bracketEnd(p string, i int) int {
	j := i + 1
	if j < len(p) && p[j] == '^' {
		j++
	}
	if j < len(p) && p[j] == ']' {
		j++
	}
	for ; j < len(p); j++ {
		if p[j] == '[' && j+1 < len(p) && strings.IndexByte(":.=", p[j+1]) >= 0 {
			end := strings.Index(p[j+2:], string(p[j+1])+"]")
			if end < 0 {
				return -1
			}
			j += end + 3
			continue
		}
		if p[j] == ']' {
			return j
		}
	}
	return -1
}

func bracket(inner string) string {
	var b strings.Builder
	b.WriteByte('[')
	if strings.HasPrefix(inner, "^") {
		b.WriteByte('^')
		inner = inner[1:]
	}
	for i := 0; i < len(inner); i++ {
		switch c := inner[i]; {
		case c == '[' && i+1 < len(inner) && inner[i+1] == ':':
			end := strings.Index(inner[i:], ":]")
			b.WriteString(inner[i : i+end+2])
			i += end + 1
		case c == '\\' || c == '[' || c == ']':
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte(']')
	return b.String()
}

// basicToExtended turns the quoting of a basic regular expression around.
func basicToExtended(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case c == '\\' && i+1 < len(p):
			i++
			if strings.IndexByte("(){}", p[i]) < 0 {
				b.WriteByte(c)
			}
			b.WriteByte(p[i])
		case strings.IndexByte("(){}+?|", c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
