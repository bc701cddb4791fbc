// Package postconf shows and changes main.cf and master.cf. See postconf(1).
//
// What it prints is what Postfix 3.7's postconf prints, because scripts read
// it. Editing keeps every comment and the order of the file, and the new file
// takes the old one's place in one step.
package postconf

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/mastercf"
)

// mode is a set of options.
type mode uint

const (
	showServerSASL mode = 1 << iota // -a
	showClientSASL                  // -A
	expandBounce                    // -b
	_                               // -C, which is no mode
	defaults                        // -d
	edit                            // -e
	fold                            // -f
	masterFields                    // -F
	hideName                        // -h
	hideValue                       // -H
	showLocks                       // -l
	showMaps                        // -m
	masterEntries                   // -M
	explicit                        // -n
	override                        // -o
	mainParams                      // -p
	masterParams                    // -P
	dumpBounce                      // -t
	showTLS                         // -T
	evaluate                        // -x
	exclude                         // -X
	comment                         // -#
	notActed                        // -U
	describe                        // -D
)

// letters of the modes, in the order of their bits.
const letters = "aAbCdefFhHlmMnopPtTxX#UD"

func (m mode) String() string {
	var names []string
	for i := range letters {
		if m&(1<<i) != 0 {
			names = append(names, "-"+letters[i:i+1])
		}
	}
	return strings.Join(names, " ")
}

const (
	master = masterEntries | masterFields | masterParams
	edits  = edit | exclude | comment
	majors = showServerSASL | showClientSASL | expandBounce | showLocks | showMaps | dumpBounce | mainParams | master | showTLS | notActed | describe
)

// check refuses options that exclude each other, and options without effect.
func (m mode) check() error {
	for _, only := range []mode{
		majors,
		defaults | explicit | edits,
		fold | edits,
		evaluate | edits,
		override | defaults | edits,
		hideName | hideValue | edits,
	} {
		if n := m & only; n&(n-1) != 0 {
			return fmt.Errorf("specify one of %v", n)
		}
	}
	for _, pair := range [][2]mode{
		{showServerSASL, 0}, {showClientSASL, 0}, {expandBounce, 0}, {showLocks, 0}, {showMaps, 0}, {showTLS, 0}, {dumpBounce, 0}, {notActed, 0}, {describe, 0},
		{mainParams, edits | fold | hideName | hideValue | evaluate | defaults | explicit | override},
		{masterEntries, edits | fold | override | evaluate},
		{masterFields, edit | fold | hideName | hideValue | override | evaluate},
		{masterParams, edit | exclude | fold | hideName | hideValue | override | evaluate},
	} {
		if excess := m &^ (pair[0] | pair[1]); m&pair[0] != 0 && excess != 0 {
			return fmt.Errorf("with option %v, do not specify %v", pair[0], excess)
		}
	}
	return nil
}

// command is one call of postconf.
type command struct {
	*cli.Cmd
	ctx       context.Context
	mode      mode
	classes   flags
	overrides []string
	tls       string
	dir       string // where main.cf and master.cf are
	given     bool   // dir came from -c or MAIL_CONFIG
	out       *bufio.Writer
}

// Main is the program.
func Main(ctx context.Context, c *cli.Cmd) error {
	c.Fatal = func(err error) string { return c.Path + ": fatal: " + printable(err.Error()) }
	p := &command{Cmd: c, ctx: ctx, classes: anyClass, out: bufio.NewWriter(c.Stdout)}
	args, err := p.options()
	if err != nil {
		return err
	}
	if p.mode&majors == 0 {
		p.mode |= mainParams
	}
	if p.mode&(mainParams|master) != 0 && len(args) > 0 && strings.Contains(args[0], "=") {
		p.mode |= edit
	}
	if err := p.mode.check(); err != nil {
		return err
	}
	if p.mode&edit != 0 && len(args) == 0 {
		return errors.New("-e requires name=value argument")
	}
	if err := p.do(args); err != nil {
		p.out.Flush()
		return err
	}
	return p.out.Flush()
}

// options reads the command line up to the operands.
func (p *command) options() ([]string, error) {
	dir := ""
	for {
		letter, arg, ok, err := p.Getopt("+aAbc:C:dDefFhHlmMno:pPtT:UvxX#")
		if err != nil {
			fmt.Fprintf(p.Stderr, "%s: %v\n", p.Path, err)
			return nil, errors.New(usage(p.Path))
		}
		if !ok {
			break
		}
		switch letter {
		case 'c':
			if dir = arg; dir == "" {
				dir = "/" // a script's empty variable must not mean the system's own files
			}
			continue
		case 'v':
			continue
		case 'C':
			if p.classes, err = parseClasses(arg); err != nil {
				return nil, err
			}
			// The peer accepts -C without remembering that it was given.
			continue
		case 'b', 't':
			if p.mode&(expandBounce|dumpBounce) != 0 {
				return nil, errors.New("specify one of -b and -t")
			}
		case 'T':
			if p.mode&showTLS != 0 {
				//lint:ignore ST1005 these are the peer's words
				return nil, errors.New("At most one -T <mode> option may be specified")
			}
			p.tls = arg
		case 'o':
			p.overrides = append(p.overrides, arg)
		}
		p.mode |= 1 << strings.IndexByte(letters, letter)
	}
	p.given = dir != "" || os.Getenv("MAIL_CONFIG") != ""
	p.dir = maincf.Dir(dir)
	return p.Operands(), nil
}

func usage(name string) string {
	return "usage: " + name + " [-a (server SASL types)] [-A (client SASL types)] [-b (bounce templates)] [-c config_dir]" +
		" [-c param_class] [-d (parameter defaults)] [-e (edit configuration)] [-f (fold lines)] [-F (master.cf fields)]" +
		" [-h (no names)] [-H (no values)] [-l (lock types)] [-m (map types)] [-M (master.cf)] [-n (non-default parameters)]" +
		" [-o name=value (override parameter value)] [-p (main.cf, default)] [-P (master.cf parameters)] [-t (bounce templates)]" +
		" [-T compile-version|run-version|public-key-algorithms] [-v (verbose)] [-x (expand parameter values)] [-X (exclude)]" +
		" [-# (comment-out)] [name...]"
}

// do is the work itself.
func (p *command) do(args []string) error {
	switch m := p.mode; {
	case m&(expandBounce|dumpBounce) != 0:
		return p.bounceTemplates(args)
	case m&showMaps != 0:
		if _, err := p.load(); err != nil {
			return err
		}
		p.lines(mapTypes()...)
	case m&showLocks != 0:
		p.lines("flock", "fcntl", "dotlock")
	case m&showServerSASL != 0:
		p.lines("cyrus", "dovecot")
	case m&showClientSASL != 0:
		p.lines("cyrus")
	case m&showTLS != 0:
		return p.showTLS()
	case m&edits != 0:
		if len(args) == 0 {
			return errors.New("missing service argument")
		}
		if m&master != 0 {
			return p.editMaster(args)
		}
		return p.editMain(args)
	case m&master != 0:
		return p.showMaster(args)
	case m&notActed != 0:
		return p.showNotActedOn()
	case m&describe != 0:
		p.describe(args)
	default:
		return p.showMain(args)
	}
	return nil
}

// showMaster prints master.cf.
func (p *command) showMaster(args []string) error {
	entries, err := mastercf.ReadEntries(p.dir+"/master.cf", p.warn)
	if err != nil {
		return err
	}
	conf, err := p.load()
	if err != nil {
		return err
	}
	known := newKnown(p, conf, entries)
	known.services()
	if err := known.users(); err != nil {
		return err
	}
	switch {
	case p.mode&masterFields != 0:
		err = p.showFields(known, args)
	case p.mode&masterParams != 0:
		err = p.showMasterParams(known, args)
	default:
		err = p.showEntries(known, args)
	}
	if err != nil {
		return err
	}
	known.unusedMaster()
	return nil
}

// showMain prints main.cf.
func (p *command) showMain(args []string) error {
	conf := maincf.Empty(maincf.DefaultDir)
	var err error
	if p.mode&defaults == 0 {
		if conf, err = p.load(); err != nil {
			return err
		}
	}
	// Names in master.cf make parameter names; without it there are fewer.
	entries, err := mastercf.ReadEntries(p.dir+"/master.cf", p.warn)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		p.warn(err.Error())
	} else if err != nil {
		return err
	}
	known := newKnown(p, conf, entries)
	known.services()
	if p.mode&defaults == 0 {
		if err := known.users(); err != nil {
			return err
		}
	}
	if err := p.showParams(known, args); err != nil {
		return err
	}
	if p.mode&defaults == 0 {
		known.unusedMain()
		known.unusedMaster()
	}
	return nil
}

// load reads main.cf and lays the -o overrides on top.
func (p *command) load() (*maincf.Config, error) {
	conf, err := maincf.Load(p.dir)
	if err != nil {
		return nil, err
	}
	for _, w := range conf.Warnings() {
		p.warn(w)
	}
	if e, set := conf.Entry("config_directory"); set && p.given { // -c was the first to say so
		p.warnf("%s/main.cf, line %d: overriding earlier entry: config_directory=%s", p.dir, e.Line, p.dir)
	}
	if len(p.overrides) > 0 {
		return conf.With(p.overrides)
	}
	return conf, nil
}

// warn prints what was printed before, and then a warning.
func (p *command) warn(text string) {
	p.out.Flush()
	fmt.Fprintf(p.Stderr, "%s: warning: %s\n", p.Path, printable(text))
}

// printable replaces what may do things to a terminal, as the peer does in messages.
func printable(text string) string {
	b := []byte(text)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

func (p *command) warnf(format string, args ...any) { p.warn(fmt.Sprintf(format, args...)) }

func (p *command) lines(lines ...string) {
	for _, l := range lines {
		io.WriteString(p.out, l+"\n")
	}
}
