// Package command runs a program that gets a message, as local(8) and pipe(8) do:
// with a time limit, and with its end put in Postfix' words.
//
// The exit status is one of sysexits.h; a status code (RFC 3463) at the start of
// the output says more, and wins. It promises that no program outlives its time
// limit, nor its children as far as they stay in its process group. It does not
// know the message, nor whose rights it runs with: those of the caller.
package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"angarium/lib/dsn"
)

// Command is one call of a program.
type Command struct {
	Argv []string
	Name string // what messages call it
	// Exec begins what is said where the program can't be run, as Postfix' child
	// process says it on its output: "local: fatal: execvp".
	Exec string
	Dir  string
	Env  []string
	Time time.Duration
	// Feed writes what the program reads. That the program does not want all of
	// it is no failure.
	Feed func(io.Writer) error
}

// Run runs the program. The output is what it said, on one line; err is a
// *dsn.Error if it failed.
func (c *Command) Run(ctx context.Context) (output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.Time)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	var out capped
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		// fork, chdir and exec fail alike
		if dir := syscall.Access(c.Dir, 1); c.Dir != "" && dir != nil {
			err = &fs.PathError{Op: "chdir", Path: c.Dir, Err: dir}
		}
		return "", c.notRun(err)
	}
	ferr := c.Feed(in)
	in.Close()
	err = cmd.Wait()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return "", out.failure("5.3.0", "internal software error", "Command time limit exceeded: \"%s\"%s", c.Name, out.quote())
	}
	if err == nil && ferr != nil && !errors.Is(ferr, syscall.EPIPE) {
		err = ferr
	}
	if err != nil {
		return "", c.end(err, &out)
	}
	return strings.TrimSpace(out.line()), nil
}

// NoDirectory reports whether a program could not be run because its directory
// can't be entered.
func NoDirectory(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path) && path.Op == "chdir"
}

// notRun is a program that could not be started: it may be there tomorrow.
func (c *Command) notRun(err error) error {
	e := &dsn.Error{Code: [3]int{4, 3, 0}, Text: "temporary failure", Unix: "temporary failure", Err: err}
	if !NoDirectory(err) {
		e.Unix = fmt.Sprintf("%s %s: %s ", c.Exec, c.Argv[0], Reason(err))
		e.Text += ". Command output: " + e.Unix
	}
	return e
}

// Reason is a system error as C libraries spell it.
func Reason(err error) string {
	var no syscall.Errno
	if errors.Is(err, exec.ErrNotFound) {
		no = syscall.ENOENT
	} else if !errors.As(err, &no) {
		return err.Error()
	}
	s := no.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

// end puts a program's end in Postfix' words.
func (c *Command) end(err error, out *capped) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return dsn.From(err, "error talking to command")
	}
	st, _ := exit.Sys().(syscall.WaitStatus)
	if st.Signaled() {
		return out.failure("4.3.0", "internal software error", "Command died with signal %d: \"%s\"%s", int(st.Signal()), c.Name, out.quote())
	}
	if status, rest, ok := strings.Cut(strings.TrimLeft(out.line(), " "), " "); ok {
		if code, err := dsn.ParseCode(status); err == nil && code[0] != 2 {
			rest = strings.TrimLeft(rest, " ")
			return &dsn.Error{Code: code, Text: rest, Unix: rest}
		}
	}
	if status, text, ok := sysexit(st.ExitStatus()); ok {
		return out.failure(status, text, "%s%s", text, out.quote())
	}
	unknown := fmt.Sprintf("unknown mail system error %d", st.ExitStatus())
	return out.failure("5.3.0", unknown, "Command died with status %d: \"%s\"%s", st.ExitStatus(), c.Name, out.quote())
}

// sysexit is what an exit status of sysexits.h means.
func sysexit(status int) (code, text string, ok bool) {
	switch status {
	case 64:
		return "5.3.0", "command line usage error", true
	case 65:
		return "5.6.0", "data format error", true
	case 66:
		return "5.3.0", "cannot open input", true
	case 67:
		return "5.1.1", "user unknown", true
	case 68:
		return "5.1.2", "host name unknown", true
	case 69:
		return "5.3.0", "service unavailable", true
	case 70:
		return "5.3.0", "internal software error", true
	case 71:
		return "4.3.0", "system resource problem", true
	case 72:
		return "5.3.0", "critical OS file missing", true
	case 73:
		return "5.2.0", "can't create user output file", true
	case 74:
		return "5.3.0", "input/output error", true
	case 75:
		return "4.3.0", "temporary failure", true
	case 76:
		return "5.5.0", "remote error in protocol", true
	case 77:
		return "5.7.0", "permission denied", true
	case 78:
		return "5.3.5", "local configuration error", true
	}
	return "", "", false
}

// capped keeps the beginning of what a program says.
type capped struct{ b bytes.Buffer }

const maxOutput = 4096

func (c *capped) Write(p []byte) (int, error) {
	if room := maxOutput - c.b.Len(); room > 0 {
		c.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// line is the output with a blank for each line end and control character.
func (c *capped) line() string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 127 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(c.b.String(), "?"))
}

// failure is an error whose diagnostic code is the output, or else what the exit
// status says.
func (c *capped) failure(status, text, format string, args ...any) error {
	e := dsn.New(0, status, format, args...)
	if e.Unix = text; c.b.Len() > 0 {
		e.Unix = c.line()
	}
	return e
}

func (c *capped) quote() string {
	if c.b.Len() == 0 {
		return ""
	}
	return ". Command output: " + c.line()
}
