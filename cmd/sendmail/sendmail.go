// Command sendmail is the interface that every program knows: mail submission and
// a few more things, by the names sendmail, mailq and newaliases. See sendmail(1).
//
// It is a small program of its own because scripts start it thousands of times.
// It has no rights of its own. It hands messages to postdrop(1) as records, and
// replaces itself with postqueue, postalias, smtpd or postfix for the rest.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"angarium/lib/agent"
	"angarium/lib/cleanup"
	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/queueconf"
	"angarium/lib/maillog"
	"angarium/lib/queue"
	"angarium/lib/sysuser"
)

// mode is what the command is asked to be.
type mode int

const (
	deliver   mode = iota // -bm, also -bv
	list                  // -bp, mailq
	aliases               // -bi, -I, newaliases
	serve                 // -bs
	daemon                // -bd, -bl
	flush                 // -q
	flushSite             // -qRsite
	flushID               // -qIid
	nothing               // -bh, -q15m
)

// call is one call of the command.
type call struct {
	c    *cli.Cmd
	conf *maincf.Config
	log  *maillog.Logger
	mode mode
	uid  int

	dir       string // -C
	aliasFile string // -oA
	operand   string // of -qR, -qI

	sender    *string // -f
	fullName  *string // -F
	rewrite   string
	encoding  string
	notify    agent.Notify
	ret       string
	envID     string
	verp      string
	extract   bool // -t
	keepDots  bool // -i
	verify    bool // -bv
	verbose   int
	warnings  []string // until the log is open
	shownFrom string   // for messages
}

func main() {
	runtime.GOMAXPROCS(1) // there is nothing to do side by side
	cli.Exec(program)
}

// program is sendmail(1).
func program(_ context.Context, c *cli.Cmd) error {
	s := &call{c: c, rewrite: "local", uid: os.Getuid()}
	switch c.Name {
	case "mailq":
		s.mode = list
	case "newaliases":
		s.mode = aliases
	case "smtpd":
		s.mode = serve
	}
	args, usage := s.options()
	if err := s.open(); err != nil {
		return cli.Exit(cli.TempFail, "%w", err)
	}
	for _, w := range s.warnings {
		s.log.Warnf("%s", w)
	}
	err := usage
	if err == nil {
		err = s.check(args)
	}
	if err == nil {
		err = s.run(args)
	}
	if err == nil {
		return nil
	}
	var exit *cli.ExitError
	if errors.As(err, &exit) {
		return err
	}
	return s.fatal("%v", err)
}

// fatal logs an error, which also prints it, and ends the command.
func (s *call) fatal(format string, args ...any) error {
	s.log.Fatalf(format, args...)
	return cli.Exit(cli.TempFail, "")
}

func (s *call) open() (err error) {
	if s.dir != "" {
		// For the programs that we run.
		if err := os.Setenv("MAIL_CONFIG", s.dir); err != nil {
			return err
		}
	}
	if s.conf, err = maincf.Load(maincf.Dir(s.dir)); err != nil {
		return err
	}
	// In the log it is sendmail whatever it was called as; its user reads his name for it.
	s.log = queueconf.LogAs(s.conf, "sendmail", s.c.Name, s.c.Stderr)
	return nil
}

// check refuses what does not go together.
func (s *call) check(args []string) error {
	if s.extract && s.mode != deliver {
		return errors.New("-t can be used only in delivery mode")
	}
	for _, no := range []struct {
		given bool
		name  string
	}{{s.extract, "-t"}, {s.notify != 0, "-N"}, {s.ret != "", "-R"}, {s.verbose > 0, "-v"}} {
		if s.verify && no.given {
			return fmt.Errorf("%s option cannot be used with -bv", no.name)
		}
	}
	if len(args) > 0 {
		names := map[mode]string{list: "display queue mode", aliases: "alias initialization mode", serve: "stand-alone mode",
			daemon: "daemon mode", flush: "flush queue mode", flushSite: "flush site", flushID: "flush queue_id"}
		if name, ok := names[s.mode]; ok {
			return errors.New(name + " requires no recipient")
		}
	}
	return nil
}

func (s *call) run(args []string) error {
	command := s.conf.String("command_directory")
	switch s.mode {
	case list:
		return s.become(command, "postqueue", "-p")
	case flush:
		return s.become(command, "postqueue", "-f")
	case flushSite:
		return s.become(command, "postqueue", "-s", s.operand)
	case flushID:
		return s.become(command, "postqueue", "-i", s.operand)
	case aliases:
		files := s.conf.List("alias_database")
		if s.aliasFile != "" {
			files = []string{s.aliasFile}
		}
		if len(files) == 0 {
			return nil
		}
		return s.become(command, append([]string{"postalias", "--"}, files...)...)
	case serve:
		if err := s.maySubmit(); err != nil {
			return err
		}
		return s.become(s.conf.String("daemon_directory"), "smtpd", "-S")
	case daemon:
		return s.become(command, "postfix", "start")
	case nothing:
		return nil
	}
	return s.submit(args)
}

// become replaces this process with another program.
func (s *call) become(dir string, args ...string) error {
	path := filepath.Join(dir, args[0])
	args = append([]string{args[0]}, args[1:]...)
	err := syscall.Exec(path, args, os.Environ())
	return fmt.Errorf("execvp %s: %s", path, plain(err))
}

// plain is the system's word for an error.
func plain(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		text := errno.Error()
		return strings.ToUpper(text[:1]) + text[1:]
	}
	return err.Error()
}

// who names the sender and the user in messages.
func (s *call) who() string { return fmt.Sprintf("%s(%d)", s.shownFrom, s.uid) }

// from finds the sender's address and name.
func (s *call) from() (sender, name string, err error) {
	user, err := sysuser.LookupID(s.uid)
	if err != nil {
		return "", "", err
	}
	if s.sender != nil {
		sender = s.parseSender(*s.sender)
	} else if user == nil {
		return "", "", fmt.Errorf("no login name found for user ID %d", s.uid)
	} else {
		sender = user.Name
	}
	switch {
	case s.fullName != nil:
		name = *s.fullName
	case os.Getenv("NAME") != "":
		name = os.Getenv("NAME")
	case user != nil:
		name, _, _ = strings.Cut(user.Gecos, ",")
		if strings.Contains(name, "&") && user.Name != "" {
			name = strings.ReplaceAll(name, "&", strings.ToUpper(user.Name[:1])+user.Name[1:])
		}
	}
	return sender, strings.Map(func(r rune) rune {
		if r < ' ' || r == 127 {
			return ' '
		}
		return r
	}, name), nil
}

// parseSender reads the argument of -f: an address as headers have it. Of several
// the first one counts.
func (s *call) parseSender(text string) string {
	found := cleanup.Addresses(text)
	if trimmed := strings.TrimSpace(text); len(found) == 0 && (trimmed == "" || trimmed == "<>") {
		return ""
	}
	if len(found) != 1 || strings.Count(strings.ReplaceAll(text, `\"`, ""), `"`)%2 != 0 || strings.ContainsAny(text, "\r\n") {
		s.log.Warnf("-f option specified malformed sender: %s", text)
	}
	if len(found) == 0 {
		return ""
	}
	return found[0].Address.String()
}

// recipients reads the operands, each of which may be a list.
func recipients(args []string) []string {
	var list []string
	for _, arg := range args {
		found := cleanup.Addresses(arg)
		if len(found) == 0 {
			list = append(list, "") // postdrop and cleanup say what is wrong with it
		}
		for _, f := range found {
			list = append(list, f.Address.String())
		}
	}
	return list
}

// envelope makes the records before the content.
func (s *call) envelope(b []byte, sender, name string, rcpts []string) []byte {
	attr := func(name, value string) {
		if value != "" {
			b = queue.AppendRecord(b, queue.TypeAttr, name+"="+value)
		}
	}
	attr("envelope_id", s.envID)
	attr("ret_flags", s.ret)
	attr("rewrite_context", s.rewrite)
	b = queue.AppendRecord(b, queue.TypeFullName, name)
	b = queue.AppendRecord(b, queue.TypeSender, sender)
	if s.verp != "" {
		b = queue.AppendRecord(b, queue.TypeVerp, s.verp)
	}
	attr("encoding", s.encoding)
	switch {
	case s.verify:
		attr("trace_flags", fmt.Sprint(queue.TraceUserVerify))
	case s.verbose > 0:
		attr("trace_flags", fmt.Sprint(queue.TraceRecord))
	}
	for _, r := range rcpts {
		b = s.recipient(b, r)
	}
	return queue.AppendRecord(b, queue.TypeMessage, "")
}

func (s *call) recipient(b []byte, r string) []byte {
	if s.notify != 0 {
		b = queue.AppendRecord(b, queue.TypeAttr, fmt.Sprintf("notify_flags=%d", s.notify))
	}
	return queue.AppendRecord(b, queue.TypeRcpt, r)
}
