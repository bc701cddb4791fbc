package postconf

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"angarium/lib/conf/mastercf"
	"angarium/lib/logical"
)

const (
	lineLimit = 80
	indent    = "    "
	blanks    = " \t\r\n"
)

// line prints words with one blank between them, folded on request.
func (p *command) line(text string) {
	width := 0
	for text = strings.TrimLeft(text, blanks); text != ""; text = strings.TrimLeft(text, blanks) {
		end := strings.IndexAny(text, blanks)
		if end < 0 {
			end = len(text)
		}
		if width > 0 {
			if p.mode&fold == 0 || width+end < lineLimit {
				p.out.WriteByte(' ')
				width++
			} else {
				p.out.WriteString("\n" + indent)
				width = len(indent)
			}
		}
		p.out.WriteString(text[:end])
		width += end
		text = text[end:]
	}
	p.out.WriteByte('\n')
}

// showParams prints the parameters that were asked for, or all.
func (p *command) showParams(k *known, names []string) error {
	if len(names) > 0 {
		for _, name := range names {
			d, ok := k.params[name]
			if !ok {
				p.warnf("%s: unknown parameter", name)
				continue
			}
			if err := p.showParam(k, name, d); err != nil {
				return err
			}
		}
		return nil
	}
	all := make([]string, 0, len(k.params))
	for name, d := range k.params {
		if d.flags&p.classes != 0 {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	for _, name := range all {
		if err := p.showParam(k, name, k.params[name]); err != nil {
			return err
		}
	}
	return nil
}

func (p *command) showParam(k *known, name string, d *param) error {
	value, ok := "", false
	if p.mode&defaults == 0 {
		value, ok = k.set(name)
	}
	if !ok && p.mode&explicit == 0 {
		var err error
		if value, ok, err = k.def(name); err != nil {
			return err
		}
	}
	if !ok {
		return nil
	}
	if p.mode&evaluate != 0 && d.flags&raw == 0 {
		var err error
		if value, err = k.expand(value, nil); err != nil {
			return err
		}
	}
	p.pair(name, value)
	return nil
}

func (p *command) pair(name, value string) {
	switch {
	case p.mode&hideName != 0:
		p.line(value)
	case p.mode&hideValue != 0:
		p.line(name)
	default:
		p.line(name + " = " + value)
	}
}

// request is an operand of -M, -F or -P: a pattern of service/type/field.
type request struct {
	text  string
	parts []string
	hits  int
}

func (r *request) matches(name, kind string) bool {
	return (r.parts[0] == "*" || r.parts[0] == name) && (r.parts[1] == "*" || r.parts[1] == kind)
}

// pattern splits service/type/field; what is left out counts as "*".
func pattern(text string, least, most int) (*request, bool) {
	r := &request{text: text, parts: logical.Tokens(text, "/")}
	if strings.HasPrefix(text, "/") || len(r.parts) < least || len(r.parts) > most {
		return nil, false
	}
	for _, part := range r.parts {
		if part != "*" && strings.Contains(part, "*") {
			return nil, false
		}
	}
	for len(r.parts) < most {
		r.parts = append(r.parts, "*")
	}
	return r, true
}

func patterns(args []string, most int, complaint string) ([]*request, error) {
	var list []*request
	for _, arg := range args {
		r, ok := pattern(arg, 1, most)
		if !ok {
			return nil, errors.New(complaint)
		}
		list = append(list, r)
	}
	return list, nil
}

// each calls show for every service that is asked for: as often as it is.
func (p *command) each(k *known, requests []*request, show func(s *scope, r *request) (bool, error)) error {
	for _, s := range k.scopes {
		if len(requests) == 0 {
			if _, err := show(s, nil); err != nil {
				return err
			}
		}
		for _, r := range requests {
			if !r.matches(s.entry.Field[0], s.entry.Field[1]) {
				continue
			}
			hit, err := show(s, r)
			if err != nil {
				return err
			}
			if hit {
				r.hits++
			}
		}
	}
	for _, r := range requests {
		if r.hits == 0 {
			p.warnf("unmatched request: \"%s\"", r.text)
		}
	}
	return nil
}

// showEntries is -M.
func (p *command) showEntries(k *known, args []string) error {
	requests, err := patterns(args, 2, "-M option requires service_name[/type]")
	if err != nil {
		return err
	}
	return p.each(k, requests, func(s *scope, _ *request) (bool, error) {
		text, err := formatEntry(s.entry, p.mode&fold != 0, p.evaluator(k, s))
		p.out.WriteString(text)
		return true, err
	})
}

// evaluator expands -o values under -x.
func (p *command) evaluator(k *known, s *scope) func(string) (string, error) {
	if p.mode&evaluate == 0 {
		return nil
	}
	return func(value string) (string, error) { return k.expand(value, s) }
}

// formatEntry writes an entry of master.cf with the columns where they belong.
func formatEntry(e *mastercf.Entry, folded bool, eval func(string) (string, error)) (string, error) {
	w := &columns{folded: folded, eval: eval}
	goals := [...]int{0, 11, 17, 25, 33, 41, 49, 57}
	for f := range mastercf.Fields {
		if f > 0 {
			w.text(" ")
			for w.width < goals[f] {
				w.text(" ")
			}
		}
		w.text(e.Field[f])
	}
	// Here the peer counts two characters more for an option with a value.
	err := w.arguments(e.Field[mastercf.Fields:], 3)
	w.b.WriteByte('\n')
	return w.b.String(), err
}

// columns writes words and knows how wide the line has become.
type columns struct {
	b      strings.Builder
	width  int
	folded bool
	eval   func(string) (string, error)
}

func (w *columns) text(s string) {
	w.b.WriteString(s)
	w.width += len(s)
}

// arguments writes a daemon's arguments: each -o on a line of its own when
// folded, words with blanks in braces.
func (w *columns) arguments(args []string, extra int) error {
	options := true
	for i := 0; i < len(args); i++ {
		arg, value, has := args[i], "", false
		length := len(arg)
		switch {
		case options && (!strings.HasPrefix(arg, "-") || arg == "--"):
			options = false
			arg = quote(arg)
		case !options:
			arg = quote(arg)
		case strings.HasPrefix(arg, "-o") && i+1 < len(args):
			i++
			value, has = args[i], true
			w.width = lineLimit
			if w.eval != nil && arg == "-o" {
				var err error
				if value, err = w.eval(value); err != nil {
					return err
				}
			}
			value = quote(value)
			length += len(value) + extra
		}
		if !has {
			length = len(arg)
		}
		if !w.folded || w.width+1+length < lineLimit {
			w.text(" ")
		} else {
			w.b.WriteString("\n" + indent)
			w.width = len(indent)
		}
		w.text(arg)
		if has {
			w.text(" " + value)
			w.width = lineLimit
		}
	}
	return nil
}

func quote(arg string) string {
	if strings.ContainsAny(arg, blanks) {
		return "{" + arg + "}"
	}
	return arg
}

// showFields is -F.
func (p *command) showFields(k *known, args []string) error {
	requests, err := patterns(args, 3, "-F option requires service_name[/type[/field]]")
	if err != nil {
		return err
	}
	for _, r := range requests {
		if _, err := fieldNumber(r.parts[2]); err != nil {
			return err
		}
	}
	return p.each(k, requests, func(s *scope, r *request) (bool, error) {
		from, to := 0, mastercf.FieldCommand
		if r != nil && r.parts[2] != "*" {
			from, _ = fieldNumber(r.parts[2])
			to = from
		}
		for f := from; f <= to; f++ {
			if err := p.showField(k, s, f); err != nil {
				return true, err
			}
		}
		return true, nil
	})
}

func fieldNumber(name string) (int, error) {
	if i := slices.Index(mastercf.FieldNames(), name); i >= 0 || name == "*" {
		return i, nil
	}
	return 0, fmt.Errorf("invalid service attribute name: \"%s\"", name)
}

func (p *command) showField(k *known, s *scope, field int) error {
	w := &columns{folded: p.mode&fold != 0, eval: p.evaluator(k, s)}
	value := s.entry.Field[field]
	if p.mode&hideName == 0 {
		w.text(s.name + "/" + mastercf.FieldNames()[field])
		if p.mode&hideValue == 0 {
			w.text(" = ")
			if w.width+len(value) > lineLimit {
				w.b.WriteString("\n" + indent)
				w.width = len(indent)
			}
		}
	}
	var err error
	if p.mode&hideValue == 0 {
		w.text(value)
		if field == mastercf.FieldCommand {
			err = w.arguments(s.entry.Field[mastercf.Fields:], 1)
		}
	}
	p.out.WriteString(w.b.String() + "\n")
	return err
}

// showMasterParams is -P.
func (p *command) showMasterParams(k *known, args []string) error {
	requests, err := patterns(args, 3, "-P option requires service_name[/type[/parameter]]")
	if err != nil {
		return err
	}
	return p.each(k, requests, func(s *scope, r *request) (bool, error) {
		if s.values == nil {
			return false, nil
		}
		if r != nil && r.parts[2] != "*" {
			value, ok := s.values[r.parts[2]]
			if !ok {
				return false, nil
			}
			return true, p.showMasterParam(k, s, r.parts[2], value)
		}
		for _, e := range k.settings(s) {
			if err := p.showMasterParam(k, s, e.Name, e.Value); err != nil {
				return true, err
			}
		}
		return true, nil
	})
}

func (p *command) showMasterParam(k *known, s *scope, name, value string) error {
	if p.mode&evaluate != 0 {
		var err error
		if value, err = k.expand(value, s); err != nil {
			return err
		}
	}
	p.pair(s.name+"/"+name, value)
	return nil
}
