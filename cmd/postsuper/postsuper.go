// Package postsuper tends the mail queue. See postsuper(1).
package postsuper

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/queueconf"
	"angarium/lib/maillog"
	"angarium/lib/queue"
	"angarium/lib/sysuser"
)

const usage = "usage: %s [-c config_dir] [-d queue_id (delete)] [-e queue_id (expire)] [-f queue_id (expire and/or un-hold)] [-h queue_id (hold)] [-H queue_id (un-hold)] [-p (purge temporary files)] [-r queue_id (requeue)] [-s (structure fix)] [-S (redundant structure fix)][-v (verbose)] [queue...]"

// action is one of -d -e -f -h -H -r: what is done to each message, and where it
// is looked for unless the command line names queues.
type action struct {
	letter byte
	do     func(q *queue.Queue, id string, dirs ...queue.Dir) (bool, error)
	dirs   []queue.Dir
	each   string // logged for each message that was named
	total  string // logged at the end
	ids    []string
	done   int
}

// actions stand in the order in which they are done and reported.
func actions() []*action {
	all := []queue.Dir{queue.Hold, queue.Incoming, queue.Active, queue.Deferred}
	return []*action{
		{letter: 'r', do: (*queue.Queue).Requeue, dirs: all, each: "requeued", total: "Requeued"},
		{letter: 'd', do: (*queue.Queue).Delete, dirs: append([]queue.Dir{queue.Maildrop}, all...), each: "removed", total: "Deleted"},
		{letter: 'e', do: (*queue.Queue).Expire, dirs: all, each: "expired", total: "Force-expired"},
		{letter: 'h', do: (*queue.Queue).Hold, dirs: all[1:], each: "placed on hold", total: "Placed on hold"},
		{letter: 'H', do: (*queue.Queue).Release, dirs: all[:1], each: "released from hold", total: "Released from hold"},
	}
}

// Main is postsuper(1).
func Main(_ context.Context, c *cli.Cmd) error {
	acts := actions()
	fix := queue.FixOptions{}
	dir, verbose := "", false
	for {
		letter, arg, ok, err := c.Getopt("+c:d:e:f:h:H:pr:sSv")
		if err != nil {
			fmt.Fprintf(c.Stderr, "%s: %v\n", c.Name, err)
			return cli.Exit(1, usage, c.Name)
		}
		if !ok {
			break
		}
		switch letter {
		case 'c':
			if !strings.HasPrefix(arg, "/") {
				return cli.Exit(1, "-c requires absolute pathname")
			}
			dir = arg
		case 'p':
			fix.Purge = true
		case 's':
			fix.Names = true
		case 'S':
			fix.Names, fix.Long = true, true
		case 'v':
			verbose = true
		default:
			for _, a := range acts {
				// -f is -e and -H at once.
				if a.letter == letter || letter == 'f' && (a.letter == 'e' || a.letter == 'H') {
					a.ids = append(a.ids, arg)
				}
			}
		}
	}
	conf, err := maincf.Load(maincf.Dir(dir))
	if err != nil {
		return err
	}
	q, err := queueconf.Open(conf)
	if err != nil {
		return err
	}
	if err := becomeOwner(conf.String("mail_owner"), q.Path()); err != nil {
		return err
	}
	s := &super{q: q, log: queueconf.Log(conf, c.Name, c.Stderr), stdin: c.Stdin}
	if s.dirs, err = directories(c.Operands()); err != nil {
		return s.fatal(err)
	}
	if err := s.run(acts, fix, verbose); err != nil {
		return s.fatal(err)
	}
	return nil
}

// becomeOwner gives root's rights up for those of mail_owner, since the names in
// the queue directories are not to be trusted with more. In a private queue that
// belongs to an ordinary user it is enough to be that user.
func becomeOwner(name, dir string) error {
	if os.Geteuid() != 0 {
		if info, err := os.Stat(dir + "/" + string(queue.Active)); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Geteuid() {
				return nil
			}
		}
		return cli.Exit(1, "use of this command is reserved for the superuser")
	}
	u, err := sysuser.Lookup(name)
	if err != nil {
		return err
	}
	if u == nil {
		return fmt.Errorf("unknown mail_owner configuration parameter value: %s", name)
	}
	if u.UID == 0 {
		return nil
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setgid(u.GID); err != nil {
		return err
	}
	return syscall.Setuid(u.UID)
}

func directories(names []string) ([]queue.Dir, error) {
	var dirs []queue.Dir
	for _, name := range names {
		switch d := queue.Dir(name); d {
		case queue.Maildrop, queue.Incoming, queue.Active, queue.Deferred, queue.Hold, queue.Corrupt,
			queue.Bounce, queue.Defer, queue.Trace, queue.Flush:
			dirs = append(dirs, d)
		default:
			return nil, fmt.Errorf("invalid directory name: %s", name)
		}
	}
	return dirs, nil
}

type super struct {
	q     *queue.Queue
	log   *maillog.Logger
	stdin io.Reader
	dirs  []queue.Dir // from the command line
}

// fatal logs an error, which also prints it, and ends the command.
func (s *super) fatal(err error) error {
	s.log.Fatalf("%v", err)
	return cli.Exit(1, "")
}

func (s *super) run(acts []*action, fix queue.FixOptions, verbose bool) error {
	asked := false
	for _, a := range acts {
		asked = asked || len(a.ids) > 0
	}
	if !asked && !fix.Purge && !fix.Names {
		fix.Purge, fix.Names = true, true
	}
	if fix.Purge || fix.Names {
		if err := s.fix(fix, verbose); err != nil {
			return err
		}
	}
	// As in Postfix, ALL comes before what is named, whatever the options' order.
	for _, everything := range []bool{true, false} {
		for _, a := range acts {
			if err := s.act(a, everything); err != nil {
				return err
			}
		}
	}
	for _, a := range acts {
		if len(a.ids) > 0 {
			s.log.Infof("%s: %s", a.total, messages(a.done))
		}
	}
	return nil
}

func (s *super) fix(fix queue.FixOptions, verbose bool) error {
	fix.Warn = s.log.Warnf
	fix.Info = func(string, ...any) {}
	if verbose {
		fix.Info = s.log.Infof
	}
	dirs := s.dirs
	if dirs == nil {
		// Not corrupt: what lies there is for a person to look at, as it is.
		dirs = []queue.Dir{queue.Maildrop, queue.Incoming, queue.Active, queue.Deferred, queue.Hold, queue.Flush, queue.Bounce, queue.Defer, queue.Trace}
	}
	renamed, err := s.q.Fix(dirs, fix)
	if renamed > 0 {
		s.log.Infof("Renamed to match inode number: %s", messages(renamed))
		s.log.Warnf("QUEUE FILE NAMES WERE CHANGED TO MATCH INODE NUMBERS")
	}
	if err != nil {
		s.log.Warnf("OPERATION INCOMPLETE -- RERUN COMMAND TO FIX THE QUEUE FIRST")
	}
	return err
}

// act does one kind of action: to everything (ALL), or to ids that are named or come
// from standard input ("-").
func (s *super) act(a *action, everything bool) error {
	dirs := a.dirs
	if s.dirs != nil {
		dirs = s.dirs
	}
	for _, id := range a.ids {
		if everything != (id == "ALL") {
			continue
		}
		var err error
		switch id {
		case "ALL":
			err = s.all(a, dirs)
		case "-":
			in := bufio.NewScanner(s.stdin)
			for err == nil && in.Scan() {
				if id := strings.TrimSpace(in.Text()); id != "" {
					err = s.one(a, id, dirs)
				}
			}
			if err == nil {
				err = in.Err()
			}
		default:
			err = s.one(a, id, dirs)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *super) one(a *action, id string, dirs []queue.Dir) error {
	if !queue.ValidID(id) {
		s.log.Warnf("invalid mail queue id: %s", id)
		return nil
	}
	ok, err := a.do(s.q, id, dirs...)
	if ok {
		a.done++
		s.log.Infof("%s: %s", id, a.each)
	}
	return err
}

func (s *super) all(a *action, dirs []queue.Dir) error {
	for _, d := range dirs {
		for id, err := range s.q.Scan(d) {
			if err != nil {
				return err
			}
			ok, err := a.do(s.q, id, d)
			if ok {
				a.done++
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func messages(n int) string {
	if n == 1 {
		return "1 message"
	}
	return fmt.Sprintf("%d messages", n)
}
