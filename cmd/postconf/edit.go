package postconf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"angarium/lib/conf/mastercf"
	"angarium/lib/logical"
)

// change is what is asked for one parameter of main.cf.
type change struct {
	name, value string
	found       int
}

// editMain changes main.cf: sets, comments out or removes parameters.
func (p *command) editMain(args []string) error {
	changes, err := p.mainChanges(args)
	if err != nil {
		return err
	}
	return p.rewrite("main.cf", func(path string, lines [][]byte, out *bytes.Buffer) error {
		var current *change // of the logical line that we are in
		for _, line := range lines {
			switch text := bytes.TrimLeft(line, logical.Blanks); {
			case len(text) == 0 || text[0] == '#':
				out.Write(line)
			case len(text) < len(line): // goes on from the line before
				if current == nil {
					out.Write(line)
				} else if p.mode&comment != 0 {
					out.WriteString("#" + string(line))
				}
			default:
				name := string(text)
				if i := bytes.IndexAny(text, blanks+"="); i >= 0 {
					name = name[:i]
				}
				current = nil
				if i := slices.IndexFunc(changes, func(c *change) bool { return c.name == name }); i >= 0 {
					current = changes[i]
				}
				p.mainLine(out, current, path, name, line)
			}
		}
		p.addMain(out, changes)
		return nil
	})
}

// mainLine writes the first line of a setting, or what takes its place.
func (p *command) mainLine(out *bytes.Buffer, c *change, path, name string, line []byte) {
	if c == nil {
		out.Write(line)
		return
	}
	if c.found++; c.found == 2 {
		p.warnf("%s: multiple entries for \"%s\"", path, name)
	}
	switch {
	case p.mode&edit != 0:
		fmt.Fprintf(out, "%s = %s\n", name, c.value)
	case p.mode&comment != 0:
		out.WriteString("#" + string(line))
	}
}

// addMain appends what was not there, in the order of the command line.
func (p *command) addMain(out *bytes.Buffer, changes []*change) {
	for _, c := range changes {
		if p.mode&edit != 0 && c.found == 0 {
			fmt.Fprintf(out, "%s = %s\n", c.name, c.value)
		}
	}
}

// mainChanges reads the operands.
func (p *command) mainChanges(args []string) ([]*change, error) {
	var changes []*change
	for _, arg := range args {
		if strings.Contains(arg, "\n") {
			return nil, errors.New("-e, -X, or -# accepts no multi-line input")
		}
		arg = strings.TrimLeft(arg, logical.Blanks)
		if strings.HasPrefix(arg, "#") {
			return nil, errors.New("-e, -X, or -# accepts no comment input")
		}
		c := &change{}
		if p.mode&edit != 0 {
			var err error
			if c.name, c.value, err = logical.NameValue(arg); err != nil {
				return nil, fmt.Errorf("%w: \"%s\"", err, arg)
			}
		} else {
			switch {
			case arg == "":
				return nil, errors.New("-X or -# requires non-blank parameter names")
			case strings.Contains(arg, "="):
				return nil, errors.New("-X or -# requires parameter names without value")
			}
			c.name = strings.TrimRight(arg, logical.Blanks)
		}
		if i := slices.IndexFunc(changes, func(e *change) bool { return e.name == c.name }); i >= 0 {
			p.warnf("ignoring earlier request: '%s = %s'", c.name, changes[i].value)
			changes = slices.Delete(changes, i, i+1)
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// rewrite makes a new file out of an old one. Whoever reads it sees all of it,
// as it was before or as it is after.
func (p *command) rewrite(name string, change func(path string, lines [][]byte, out *bytes.Buffer) error) error {
	path := filepath.Join(p.dir, name)
	r, err := begin(p.ctx, path)
	if err != nil {
		return err
	}
	defer r.abort()
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("open %s for reading: %s", path, reason(err))
	}
	var out bytes.Buffer
	if err := change(path, splitLines(text), &out); err != nil {
		return err
	}
	if err := r.commit(out.Bytes()); err != nil {
		return fmt.Errorf("close %s.tmp: %s", path, reason(err))
	}
	return nil
}

// splitLines keeps the newlines, and gives one to a last line without.
func splitLines(text []byte) [][]byte {
	var lines [][]byte
	r := bufio.NewReader(bytes.NewReader(text))
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			if len(line) > 0 {
				lines = append(lines, append(line, '\n'))
			}
			return lines
		}
		lines = append(lines, line)
	}
}

// masterEdit is what is asked for one service of master.cf.
type masterEdit struct {
	*request
	field int
	value string
}

// editMaster changes master.cf.
func (p *command) editMaster(args []string) error {
	reqs, err := p.masterEdits(args)
	if err != nil {
		return err
	}
	return p.rewrite("master.cf", func(path string, lines [][]byte, out *bytes.Buffer) error {
		gone := false // the entry that we are in is replaced, removed or commented out
		for i := 0; i < len(lines); i++ {
			line := lines[i]
			switch text := bytes.TrimLeft(line, logical.Blanks); {
			case len(text) == 0 || text[0] == '#':
				out.Write(line)
			case len(text) < len(line):
				if !gone {
					out.Write(line)
				} else if p.mode&comment != 0 {
					out.WriteString("#" + string(line))
				}
			default:
				used, matched, err := p.masterEntry(out, reqs, path, lines[i:], i+1)
				if err != nil {
					return err
				}
				gone = matched
				i += used
			}
		}
		return p.addMaster(out, reqs)
	})
}

// addMaster appends the entries that were not there.
func (p *command) addMaster(out *bytes.Buffer, reqs []*masterEdit) error {
	for _, r := range reqs {
		if r.hits > 0 {
			continue
		}
		if p.mode&masterEntries != 0 && p.mode&edit != 0 {
			e, err := mastercf.ParseEntry(r.value, p.warn)
			if err != nil {
				return parseError(err, r.text)
			}
			text, _ := formatEntry(&e, true, nil)
			out.WriteString(text)
		} else if p.mode&masterEntries == 0 {
			p.warnf("unmatched service_name/type: \"%s\"", r.text)
		}
	}
	return nil
}

func parseError(err error, text string) error {
	if errors.Is(err, mastercf.ErrFieldCount) {
		return fmt.Errorf("%w: \"%s\"", err, text)
	}
	return err
}

// masterEntry handles the entry that starts at lines[0]. used is how many of
// the lines after the first it has taken.
func (p *command) masterEntry(out *bytes.Buffer, reqs []*masterEdit, path string, lines [][]byte, number int) (used int, matched bool, err error) {
	name, kind, err := p.nameAndType(path, string(lines[0]), number)
	if err != nil {
		return 0, false, err
	}
	var entry *mastercf.Entry
	for _, r := range reqs {
		var whole *mastercf.Entry
		if p.mode&masterEntries != 0 && p.mode&edit != 0 {
			e, err := mastercf.ParseEntry(r.value, p.warn)
			if err != nil {
				return 0, false, parseError(err, r.text)
			}
			whole = &e
		}
		hit := r.matches(name, kind)
		// "-M a/inet='b inet ...'" takes the place of b/inet too.
		if !hit && (whole == nil || whole.Field[0] != name || whole.Field[1] != kind) {
			continue
		}
		matched = true
		r.hits++
		switch {
		case whole != nil:
			if r.hits == 1 {
				entry = whole
			}
		case p.mode&edit != 0 || p.mode&masterParams != 0 && p.mode&exclude != 0:
			if entry == nil {
				text, n := p.gather(out, lines)
				e, err := mastercf.ParseEntry(text, p.warn)
				if err != nil {
					if errors.Is(err, mastercf.ErrFieldCount) {
						err = fmt.Errorf("file %s: line %d: %w", path, number, err)
					}
					return 0, false, err
				}
				entry, used = &e, n
			}
			if err := p.changeEntry(entry, r); err != nil {
				return 0, false, err
			}
		}
	}
	switch {
	case entry != nil:
		text, _ := formatEntry(entry, true, nil)
		out.WriteString(text)
	case !matched:
		out.Write(lines[0])
	case p.mode&comment != 0:
		out.WriteString("#" + string(lines[0]))
	}
	return used, matched, nil
}

// gather joins an entry's lines; comments between them come out above it.
func (p *command) gather(out *bytes.Buffer, lines [][]byte) (text string, used int) {
	text = string(lines[0])
	for _, line := range lines[1:] {
		body := bytes.TrimLeft(line, logical.Blanks)
		if len(body) == len(line) && body[0] != '#' {
			break
		}
		used++
		if len(body) == 0 || body[0] == '#' {
			out.Write(line)
		} else {
			text += string(line)
		}
	}
	return text, used
}

func (p *command) changeEntry(e *mastercf.Entry, r *masterEdit) error {
	switch {
	case p.mode&masterFields != 0:
		return e.SetField(r.field, r.value, p.warn)
	case p.mode&edit != 0:
		e.SetOverride(r.parts[2], r.value)
	default:
		e.DropOverride(r.parts[2])
	}
	return nil
}

const masterOptions = "-Me, -Fe, -Pe, -X, or -#"

func (p *command) nameAndType(path, line string, number int) (name, kind string, err error) {
	words := strings.Fields(line)
	switch {
	case len(words) < 2:
		err = fmt.Errorf("file %s: line %d: specify service name and type on the same line", path, number)
	case strings.Contains(words[0], "="):
		err = fmt.Errorf("file %s: line %d: service name syntax \"%s\" is unsupported with %s", path, number, words[0], masterOptions)
	case strings.ContainsAny(words[1], "=/"):
		err = fmt.Errorf("file %s: line %d: service type syntax \"%s\" is unsupported with %s", path, number, words[1], masterOptions)
	default:
		return words[0], words[1], nil
	}
	return "", "", err
}

// masterEdits reads the operands.
func (p *command) masterEdits(args []string) ([]*masterEdit, error) {
	var reqs []*masterEdit
	for _, arg := range args {
		text := arg
		if strings.Contains(arg, "\n") {
			return nil, fmt.Errorf("%s accept no multi-line input", masterOptions)
		}
		arg = strings.TrimLeft(arg, logical.Blanks)
		if strings.HasPrefix(arg, "#") {
			return nil, fmt.Errorf("%s accept no comment input", masterOptions)
		}
		value := ""
		if p.mode&edit != 0 {
			var err error
			if arg, value, err = logical.NameValue(arg); err != nil {
				return nil, fmt.Errorf("%w: \"%s\"", err, text)
			}
		} else {
			if strings.Contains(arg, "=") {
				return nil, errors.New("-X or -# requires names without value")
			}
			arg = strings.TrimRight(arg, logical.Blanks)
		}
		r, err := p.masterEdit(arg, value)
		if err != nil {
			return nil, err
		}
		r.text = text
		reqs = append(reqs, r)
	}
	return reqs, nil
}

func (p *command) masterEdit(target, value string) (*masterEdit, error) {
	count, complaint := 3, "-Pe or -PX requires service_name/type/parameter"
	switch {
	case p.mode&masterEntries != 0:
		count, complaint = 2, "-Me, -MX or -M# requires service_name/type"
	case p.mode&masterFields != 0:
		complaint = "-Fe or -FX requires service_name/type/field_name"
	}
	r, ok := pattern(target, count, count)
	if !ok {
		return nil, errors.New(complaint)
	}
	m := &masterEdit{request: r, value: value}
	switch {
	case p.mode&masterFields != 0:
		var err error
		if m.field, err = fieldNumber(r.parts[2]); err != nil {
			return nil, err
		}
		if m.field < 0 {
			return nil, errors.New("-Fe does not accept wild-card field name")
		}
		if m.field < mastercf.FieldCommand && strings.ContainsAny(value, blanks) {
			return nil, errors.New("-Fe does not accept whitespace in non-command field")
		}
	case p.mode&masterParams != 0 && r.parts[2] == "*":
		return nil, errors.New("-Pe does not accept wild-card parameter name")
	case p.mode&masterParams != 0 && strings.ContainsAny(value, blanks):
		return nil, errors.New("-Pe does not accept whitespace in parameter value")
	}
	return m, nil
}
