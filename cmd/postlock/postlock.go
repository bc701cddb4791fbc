// Package postlock runs a command while a mailbox file is locked. See postlock(1).
package postlock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/maillog"
)

const usage = "usage: postlock [-c config_dir] [-l lock_style] [-v] folder command..."

// Main locks as the local delivery agent locks, runs the command, and ends with its
// exit status.
func Main(ctx context.Context, c *cli.Cmd) error {
	o, words, err := parse(c)
	if err != nil || len(words) < 2 {
		return cli.Exit(cli.TempFail, "%s", usage)
	}
	conf, err := maincf.Load(maincf.Dir(o.dir))
	if err != nil {
		return cli.Exit(cli.TempFail, "%v", err)
	}
	style := o.style
	if style == "" {
		style = conf.String("mailbox_delivery_lock")
	}
	l := lock{
		path:     words[0],
		attempts: max(1, conf.Int("deliver_lock_attempts")),
		delay:    conf.Duration("deliver_lock_delay"),
		stale:    conf.Duration("stale_lock_time"),
	}
	if err := l.parse(style); err != nil {
		return cli.Exit(cli.TempFail, "%v", err)
	}
	if err := l.take(); err != nil {
		return cli.Exit(cli.TempFail, "open file %s: %v", words[0], err)
	}
	defer l.give()
	return run(ctx, c, words[1:])
}

type options struct{ dir, style string }

// parse stops at the folder: what follows are the command's own options.
func parse(c *cli.Cmd) (o options, words []string, err error) {
	args := c.Args
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		a := args[0]
		args = args[1:]
		if a == "--" {
			break
		}
		if strings.Trim(a[1:], "v") == "" {
			continue
		}
		value := a[2:]
		if value == "" {
			if len(args) == 0 {
				return o, nil, errors.New("no argument")
			}
			value, args = args[0], args[1:]
		}
		switch a[1] {
		case 'c':
			o.dir = value
		case 'l':
			o.style = value
		default:
			return o, nil, errors.New("unknown option")
		}
	}
	return o, args, nil
}

func run(ctx context.Context, c *cli.Cmd, words []string) error {
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return cli.Exit(max(exit.ExitCode(), 1), "") // -1: killed by a signal
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		return cli.Exit(1, "execvp %s: No such file or directory", words[0])
	}
	return cli.Exit(1, "execvp %s: %s", words[0], maillog.Reason(err))
}

// lock is a lock on a mailbox, by the methods that mailbox_delivery_lock names.
type lock struct {
	path                  string
	dotlock, flock, fcntl bool
	attempts              int
	delay, stale          time.Duration

	file *os.File
}

func (l *lock) parse(style string) error {
	for _, word := range strings.FieldsFunc(style, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		switch word {
		case "dotlock":
			l.dotlock = true
		case "flock":
			l.flock = true
		case "fcntl":
			l.fcntl = true
		default:
			return fmt.Errorf("unknown mailbox_delivery_lock value \"%s\" in \"%s\"", word, style)
		}
	}
	return nil
}

// take gets all the locks, the lock file first, or none.
func (l *lock) take() (err error) {
	if l.dotlock {
		if err := l.create(); err != nil {
			return fmt.Errorf("unable to create lock file %s.lock: %s", l.path, maillog.Reason(err))
		}
	}
	defer func() {
		if err != nil {
			l.give()
		}
	}()
	if l.file, err = os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0600); err != nil {
		return errors.New(maillog.Reason(err))
	}
	fd := l.file.Fd()
	if l.flock {
		if err := l.retry(func() error { return unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
			return fmt.Errorf("unable to set exclusive lock: %s", maillog.Reason(err))
		}
	}
	if l.fcntl {
		whole := unix.Flock_t{Type: unix.F_WRLCK}
		if err := l.retry(func() error { return unix.FcntlFlock(fd, unix.F_SETLK, &whole) }); err != nil {
			return fmt.Errorf("unable to set exclusive lock: %s", maillog.Reason(err))
		}
	}
	return nil
}

// create makes the lock file. One that nobody has touched for long belongs to a
// process that died.
func (l *lock) create() error {
	name := l.path + ".lock"
	return l.retry(func() error {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0)
		if err == nil {
			return f.Close()
		}
		if fi, e := os.Stat(name); e == nil && time.Since(fi.ModTime()) > l.stale {
			_ = os.Remove(name)
		}
		return err
	})
}

// retry tries as often as deliver_lock_attempts says, while someone else has the lock.
func (l *lock) retry(try func() error) (err error) {
	for i := range l.attempts {
		if i > 0 {
			time.Sleep(l.delay)
		}
		if err = try(); err == nil || !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return err
		}
	}
	return err
}

func (l *lock) give() {
	if l.file != nil {
		l.file.Close()
	}
	if l.dotlock {
		_ = os.Remove(l.path + ".lock")
	}
}
