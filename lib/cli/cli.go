// Package cli reads command lines as the old commands do: getopt(3) letters,
// joined or separate arguments (-fsender, -c dir, -vv), options after operands
// unless POSIXLY_CORRECT is set or "--" was seen.
//
// A command is a function Main(context.Context, *Cmd) error; what it returns
// becomes a message on standard error and an exit status of sysexits.h. The
// package knows no command and no configuration file.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Exit statuses of sysexits.h, as sendmail and the Cyrus tools return them.
const (
	Usage       = 64
	DataErr     = 65
	NoInput     = 66
	NoUser      = 67
	NoHost      = 68
	Unavailable = 69
	Software    = 70
	OSErr       = 71
	OSFile      = 72
	CantCreate  = 73
	IOErr       = 74
	TempFail    = 75
	Protocol    = 76
	NoPerm      = 77
	Config      = 78
)

// Main is a command.
type Main func(context.Context, *Cmd) error

// Cmd is one call of a command.
type Cmd struct {
	Name   string   // how it was called, without the path
	Path   string   // argv[0] as given
	Args   []string // what follows the name
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	// Log, if set, gets what Infof and its like write, too: "warning: text".
	Log func(text string)

	// Fatal shapes the message for an error, without a newline; nil: "name: fatal: text".
	Fatal func(err error) string

	letters string
	opts    []option
	pending []string // arguments not read yet
	cluster string   // letters left of -abc
	rest    []string // operands
}

type option struct {
	letter byte
	set    func(arg string) error
	arg    bool
}

// ExitError ends a command with a status. A nil Err prints nothing.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// Exit returns an error that ends the command with code and, if format is not
// empty, with a message.
func Exit(code int, format string, args ...any) error {
	e := &ExitError{Code: code}
	if format != "" {
		e.Err = fmt.Errorf(format, args...)
	}
	return e
}

// Getopt returns the next option letter and its argument; ok is false when none
// are left (then Operands holds the rest). spec is as in getopt(3): "c:v". A spec
// that begins with '+' ends the options at the first operand.
func (c *Cmd) Getopt(spec string) (letter byte, arg string, ok bool, err error) {
	if c.letters == "" {
		c.letters, c.pending = spec+" ", c.Args
	}
	if c.cluster == "" {
		for {
			if len(c.pending) == 0 {
				return 0, "", false, nil
			}
			a := c.pending[0]
			if a == "--" {
				c.rest, c.pending = append(c.rest, c.pending[1:]...), nil
				return 0, "", false, nil
			}
			if len(a) > 1 && a[0] == '-' {
				c.cluster, c.pending = a[1:], c.pending[1:]
				break
			}
			if strings.HasPrefix(spec, "+") || os.Getenv("POSIXLY_CORRECT") != "" {
				c.rest, c.pending = append(c.rest, c.pending...), nil
				return 0, "", false, nil
			}
			c.rest, c.pending = append(c.rest, a), c.pending[1:]
		}
	}
	letter, c.cluster = c.cluster[0], c.cluster[1:]
	i := strings.IndexByte(spec, letter)
	if letter == ':' || letter == '+' || i < 0 {
		return letter, "", false, Exit(Usage, "invalid option -- '%c'", letter)
	}
	if i+1 < len(spec) && spec[i+1] == ':' {
		switch {
		case c.cluster != "":
			arg, c.cluster = c.cluster, ""
		case len(c.pending) > 0:
			arg, c.pending = c.pending[0], c.pending[1:]
		default:
			return letter, "", false, Exit(Usage, "option requires an argument -- '%c'", letter)
		}
	}
	return letter, arg, true, nil
}

// Spec is what the command asks for, in the manner of getopt(3); "" if it has not
// looked at its options yet.
func (c *Cmd) Spec() string { return strings.TrimLeft(strings.TrimSuffix(c.letters, " "), "+") }

// Rest are the arguments that Getopt has not looked at yet; none in the midst of
// joined letters. With Skip, a command can take an argument that getopt can't read.
func (c *Cmd) Rest() []string {
	if c.letters == "" {
		return c.Args
	}
	if c.cluster != "" {
		return nil
	}
	return c.pending
}

// Skip passes over the next n arguments of Rest.
func (c *Cmd) Skip(n int) {
	if c.letters == "" {
		c.letters, c.pending = " ", c.Args
	}
	c.pending = c.pending[n:]
}

// Operands are the arguments that are not options, once Getopt said "none left".
func (c *Cmd) Operands() []string { return c.rest }

// String declares an option with an argument; the name documents it.
func (c *Cmd) String(letter byte, name, value string) *string {
	p := &value
	c.opts = append(c.opts, option{letter, func(a string) error { *p = a; return nil }, true})
	return p
}

// Strings declares an option that may stand several times.
func (c *Cmd) Strings(letter byte, name string) *[]string {
	p := new([]string)
	c.opts = append(c.opts, option{letter, func(a string) error { *p = append(*p, a); return nil }, true})
	return p
}

// Bool declares a switch.
func (c *Cmd) Bool(letter byte) *bool {
	p := new(bool)
	c.opts = append(c.opts, option{letter, func(string) error { *p = true; return nil }, false})
	return p
}

// Count declares a switch that may be repeated, such as -v.
func (c *Cmd) Count(letter byte) *int {
	p := new(int)
	c.opts = append(c.opts, option{letter, func(string) error { *p++; return nil }, false})
	return p
}

// Parse reads the declared options and returns the operands.
func (c *Cmd) Parse() ([]string, error) {
	var spec strings.Builder
	for _, o := range c.opts {
		spec.WriteByte(o.letter)
		if o.arg {
			spec.WriteByte(':')
		}
	}
	for {
		letter, arg, ok, err := c.Getopt(spec.String())
		if err != nil {
			return nil, err
		}
		if !ok {
			return c.rest, nil
		}
		for _, o := range c.opts {
			if o.letter == letter {
				if err := o.set(arg); err != nil {
					return nil, err
				}
			}
		}
	}
}

// Printf writes to standard output.
func (c *Cmd) Printf(format string, args ...any) { fmt.Fprintf(c.Stdout, format, args...) }

// Infof writes "name: text" to standard error.
func (c *Cmd) Infof(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	fmt.Fprintf(c.Stderr, "%s: %s\n", c.Name, text)
	if c.Log != nil {
		c.Log(text)
	}
}

// Warnf writes "name: warning: text" to standard error.
func (c *Cmd) Warnf(format string, args ...any) { c.Infof("warning: "+format, args...) }

// Run calls main and returns the exit status: 0, the code of an ExitError, or 1.
func Run(ctx context.Context, c *Cmd, main Main) int {
	err := main(ctx, c)
	if err == nil {
		return 0
	}
	code := 1
	var e *ExitError
	if errors.As(err, &e) {
		code = e.Code
		if e.Err == nil {
			return code
		}
	}
	if c.Fatal != nil {
		fmt.Fprintln(c.Stderr, c.Fatal(err))
	} else {
		c.Infof("fatal: %v", err)
	}
	return code
}
