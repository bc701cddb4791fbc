// Package mastercf reads master.cf of Postfix 2.x to 3.7: one service a line,
// what it listens on, how it is confined, and the command that serves it.
//
// Load gives the services as master(8) understands them. Entry is the view of
// postconf(1): fields as they were written, so that they can be shown and
// changed. The package opens no socket and resolves no host name.
package mastercf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"angarium/lib/logical"
)

// blanks separate the fields of an entry.
const blanks = " \t\r\n"

// Service is one entry of master.cf.
type Service struct {
	Name           string        // "smtp", "127.0.0.1:10025", "cleanup"
	Type           string        // inet unix fifo pass unix-dgram
	Private        bool          // socket in private/, not public/
	Unprivileged   bool          // runs as mail_owner
	Chroot         bool          // runs in queue_directory
	Wakeup         time.Duration // 0: never
	WakeupOnlyUsed bool          // the "?" after the wake-up time
	MaxProc        int           // 0: no limit; -1: "-", that is default_process_limit where set
	Command        string        // program name, below daemon_directory
	Args           []string      // its arguments; "-o {name = value}" stands as "-o" "name=value"
	Line           int           // of the entry's first line in the file
}

// Options are what main.cf has to say about master.cf.
type Options struct {
	// Chroot is what "-" means in the chroot column: true where
	// compatibility_level is below 1.
	Chroot bool
	// Disable is master_service_disable: "smtp/inet", "inet", "!smtp/inet"...
	Disable []string
	// Warn gets warnings; nil: nobody does.
	Warn func(text string)
}

func (o *Options) warnf(format string, args ...any) {
	if o.Warn != nil {
		o.Warn(fmt.Sprintf(format, args...))
	}
}

// Load reads the file, without the services that are disabled. Of two entries
// with the same name and type the last one counts, as in Postfix. An error has
// the file, the line, and Postfix's words.
func Load(path string, opt Options) ([]Service, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, openError(path, err)
	}
	defer f.Close()
	return Read(f, path, opt)
}

// Read is Load from an open file; path is its name in messages.
func Read(r io.Reader, path string, opt Options) ([]Service, error) {
	var services []Service
	at := make(map[[2]string]int)
	lines := logical.NewReader(r, path, opt.Warn)
	for lines.Next() {
		s, err := opt.service(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, lines.Line(), err)
		}
		s.Line = lines.Line()
		if Disabled(opt.Disable, s.Name, s.Type) {
			continue
		}
		key := [2]string{s.Name, s.Type}
		if i, dup := at[key]; dup {
			opt.warnf("duplicate master.cf entry for service \"%s\" (%d) -- using the last entry", services[i].Name, services[i].Line)
			services[i] = s
			continue
		}
		at[key] = len(services)
		services = append(services, s)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %s", path, reason(err))
	}
	return services, nil
}

// fields hands out the columns of one entry, left to right.
type fields struct {
	rest string
	err  error
}

func (f *fields) next(name, def string) string {
	if f.err != nil {
		return ""
	}
	word, rest, ok := logical.Token(f.rest, blanks)
	f.rest = rest
	switch {
	case !ok:
		f.err = fmt.Errorf("missing \"%s\" field", name)
	case word != "-":
		return word
	case def == "":
		f.err = fmt.Errorf("field \"%s\" has no default value", name)
	}
	return def
}

func (f *fields) yes(name, def string) bool {
	v := f.next(name, def)
	if f.err == nil && v != "y" && v != "n" {
		f.bad(name, v)
	}
	return v == "y"
}

// number reads digits and returns what follows them.
func (f *fields) number(name, def string) (n int, tail string) {
	v := f.next(name, def)
	if f.err != nil {
		return 0, ""
	}
	end := len(v) - len(strings.TrimLeft(v, "0123456789"))
	n, err := strconv.Atoi(v[:end])
	if err != nil || n > 1<<31-1 {
		f.bad(name, v)
	}
	return n, v[end:]
}

func (f *fields) bad(name, value string) {
	if f.err == nil {
		f.err = fmt.Errorf("field \"%s\": bad value: \"%s\"", name, value)
	}
}

// service reads one entry.
func (o *Options) service(text string) (Service, error) {
	var s Service
	f := &fields{rest: text}
	s.Name = f.next("service name", "-")
	s.Type = f.next("transport type", "")
	switch s.Type {
	case "inet", "unix", "fifo", "pass", "unix-dgram":
	default:
		if f.err == nil {
			f.err = fmt.Errorf("bad transport type: %s", s.Type)
		}
	}
	s.Private = f.yes("private", "y")
	if f.err == nil && s.Type == "inet" && s.Private {
		f.err = errors.New("inet service cannot be private")
	}
	s.Unprivileged = f.yes("unprivileged", "y")
	chroot := "n"
	if o.Chroot {
		chroot = "y"
	}
	s.Chroot = f.yes("chroot", chroot)
	seconds, tail := f.number("wakeup_time", "0")
	s.Wakeup = time.Duration(seconds) * time.Second
	s.WakeupOnlyUsed = seconds > 0 && strings.HasSuffix(tail, "?")
	if limit := f.next("max_proc", "unset"); limit == "unset" {
		s.MaxProc = -1
	} else {
		// Only the first character has to be a digit, as the peer reads it.
		g := &fields{rest: limit}
		s.MaxProc, _ = g.number("max_proc", "")
		if f.err == nil {
			f.err = g.err
		}
	}
	s.Command = f.next("command", "")
	if f.err != nil {
		return s, f.err
	}
	s.Args = arguments(logical.Tokens(f.rest, blanks), func(text string) { o.warnf("master.cf: %s", text) })
	return s, nil
}

// Overrides are the name=value of the -o options, in their order.
func (s *Service) Overrides() []string { return overrides(s.Args) }

func overrides(args []string) []string {
	var values []string
	for i := 0; i < len(args); i++ {
		if args[i] == "" || args[i][0] != '-' || args[i] == "--" {
			break
		}
		if args[i] == "-o" && i+1 < len(args) {
			i++
			values = append(values, args[i])
		}
	}
	return values
}

// arguments brings a daemon's arguments into one form: -vo name=value becomes
// -v -o name=value, -oname=value becomes -o name=value, and {text} loses its
// braces.
func arguments(args []string, warn func(string)) []string {
	plain := func(arg string) string {
		text, err := logical.Extract(arg)
		if err != nil {
			warn(err.Error())
		}
		return text
	}
	out := make([]string, 0, len(args))
	i := 0
	for ; i < len(args); i++ {
		arg := args[i]
		if arg[0] != '-' || arg == "--" {
			break
		}
		if o := strings.IndexByte(arg[1:], 'o'); o > 0 {
			out = append(out, arg[:1+o])
			arg = "-" + arg[1+o:]
		} else if o < 0 {
			out = append(out, arg)
			continue
		}
		value := arg[2:]
		if value == "" {
			if i++; i == len(args) {
				return append(out, "-o")
			}
			value = args[i]
		}
		if value[0] == '{' {
			value = plain(value)
			if name, v, err := logical.NameValue(value); err != nil {
				warn(fmt.Sprintf("%v: \"%s\"", err, value))
			} else {
				value = name + "=" + v
			}
		}
		out = append(out, "-o", value)
	}
	for ; i < len(args); i++ {
		out = append(out, plain(args[i]))
	}
	return out
}

// Disabled reports whether master_service_disable names the service: by type,
// or as name/type; "!" exempts, and the first match counts.
func Disabled(patterns []string, name, kind string) bool {
	for _, p := range patterns {
		p, not := strings.CutPrefix(p, "!")
		n, t, both := strings.Cut(p, "/")
		if !both && p == kind || both && n == name && t == kind {
			return !not
		}
	}
	return false
}

func openError(path string, err error) error {
	return fmt.Errorf("open %s: %w", path, reason(err))
}

// reason is an operating system error with strerror's capital letter; errors.Is
// still knows it.
func reason(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &sysError{err}
}

type sysError struct{ err error }

func (e *sysError) Error() string {
	s := e.err.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

func (e *sysError) Unwrap() error { return e.err }
