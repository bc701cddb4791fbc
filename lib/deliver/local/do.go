package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/alias"
	"angarium/lib/dsn"
)

// User is whose rights a Doer has.
type User struct {
	Name, Home, Shell string
	UID, GID          int
}

// Options are what main.cf says to a Doer.
type Options struct {
	User        User
	Hostname    string
	ForwardPath []string
	// ForwardFilter are the characters that a value in ForwardPath may have, others
	// become "_"; empty: all. DirFilter is the same for CommandDir.
	ForwardFilter, DirFilter string
	Delimiters               string
	// NoForward: a .forward was looked for before, with the user's own groups;
	// now only the mailbox is written.
	NoForward      bool
	MailboxHop     string // "transport:nexthop" for who has no .forward
	MailboxCommand string
	HomeMailbox    string // "Maildir/" or "Mailbox"
	SpoolDir       string // mail_spool_directory; ends in "/" for maildirs
	Locks          []string
	LockAttempts   int
	LockDelay      time.Duration
	StaleLock      time.Duration
	SizeLimit      int64 // mailbox_size_limit; 0: none
	CommandTime    time.Duration
	CommandShell   string // local_command_shell
	ForwardCommand bool   // allow_mail_to_commands holds forward
	ForwardFile    bool   // allow_mail_to_files holds forward
	IncludeCommand bool
	IncludeFile    bool
	Env            []string // what commands see besides the envelope: export_environment
	QueueDir       string   // where they run where CommandDir is empty
	CommandDir     string   // command_execution_directory, with $home and the like
	NoDelivered    []string // "command", "file": they get no Delivered-To:
	DefaultUser    string   // default_privs
	// Virtual: User.Home is the mailbox itself, as virtual(8) writes it.
	Virtual         bool
	StrictOwner     bool // strict_mailbox_ownership
	DirPermissions  os.FileMode
	FilePermissions os.FileMode
}

// ErrMailbox is the answer of a first call: there is no .forward file, write
// the mailbox in a second one.
var ErrMailbox = errors.New("deliver to the mailbox")

// WantsMailbox reports whether a first call asks for a second one. Where another
// target failed for good, Err says that, and Text what is left to do.
func WantsMailbox(r agent.Result) bool {
	return r.Err != nil && (r.Err.Error() == ErrMailbox.Error() || r.Text == ErrMailbox.Error())
}

// Doer delivers with the rights that the process has: those of one user.
type Doer struct{ o Options }

// NewDoer returns a Doer for o.
func NewDoer(o Options) *Doer {
	if o.LockAttempts <= 0 {
		o.LockAttempts = 20
	}
	if o.LockDelay <= 0 {
		o.LockDelay = time.Second
	}
	if o.StaleLock <= 0 {
		o.StaleLock = 500 * time.Second
	}
	if o.CommandTime <= 0 {
		o.CommandTime = 1000 * time.Second
	}
	return &Doer{o}
}

// job is one recipient.
type job struct {
	*Doer
	r  *agent.Request
	to agent.Recipient
}

// Deliver does what the recipient's Target asks for.
func (d *Doer) Deliver(ctx context.Context, r *agent.Request, to agent.Recipient) agent.Result {
	j := &job{d, r, to}
	res := j.deliver(ctx)
	if res.Relay == "" {
		res.Relay = "local"
	}
	return res
}

// split is the local part of the address and its extension, which names no
// directories.
func (j *job) split() (user, ext string) {
	user, ext, _ = address.SplitExtension(j.to.Address.Local, j.o.Delimiters)
	if strings.Contains(ext, "/") {
		j.r.Log.Warnf("%s: address with illegal extension: %s", j.r.QueueID, j.to.Address.Local)
		ext = ""
	}
	return user, ext
}

func failed(err error) agent.Result { return agent.Result{Err: err} }

func sent(format string, args ...any) agent.Result {
	return agent.Result{Text: fmt.Sprintf(format, args...), Action: "delivered"}
}

func (j *job) deliver(ctx context.Context) agent.Result {
	switch target := j.to.Target; {
	case strings.HasPrefix(target, "|"):
		return j.command(ctx, target[1:])
	case strings.HasPrefix(target, "/"):
		return j.file(ctx, target)
	case strings.HasPrefix(target, ":include:"):
		return j.include(ctx, strings.TrimPrefix(target, ":include:"))
	case target != "":
		return failed(dsn.New(0, "5.3.5", "bad target: %s", target))
	}
	if !j.o.NoForward {
		if res, done := j.forward(ctx); done {
			return res
		}
		if j.o.MailboxHop != "" {
			return agent.Result{Onward: []agent.Onward{{To: j.to.Address, Hop: j.o.MailboxHop}}}
		}
		return failed(ErrMailbox)
	}
	switch {
	case j.o.Virtual:
		return j.virtual(ctx)
	case j.o.MailboxCommand != "":
		return j.command(ctx, j.o.MailboxCommand)
	case j.o.HomeMailbox != "":
		name := j.o.User.Home + "/" + j.o.HomeMailbox
		if strings.HasSuffix(name, "/") {
			return j.maildir(name, "maildir")
		}
		return j.mbox(ctx, name, "mailbox")
	case strings.HasSuffix(j.o.SpoolDir, "/"):
		return j.maildir(j.o.SpoolDir+j.o.User.Name+"/", "maildir")
	}
	return j.mbox(ctx, j.o.SpoolDir+"/"+j.o.User.Name, "mailbox")
}

// virtual writes a mailbox of someone who has no account.
func (j *job) virtual(ctx context.Context) agent.Result {
	if name := j.o.User.Home; strings.HasSuffix(name, "/") {
		return j.maildir(name, "maildir")
	}
	return j.mbox(ctx, j.o.User.Home, "mailbox")
}

func (j *job) file(ctx context.Context, name string) agent.Result {
	if strings.HasSuffix(name, "/") {
		return j.maildir(name, "maildir")
	}
	return j.mbox(ctx, name, "file: "+name)
}

// maxForward bounds a .forward or :include: file.
const maxForward = 10 << 20

// open opens a file that says where mail goes; it must be its owner's alone.
func (j *job) open(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		sys, ok := st.Sys().(*syscall.Stat_t)
		switch {
		case !st.Mode().IsRegular():
			err = fmt.Errorf("file %s is not a regular file", name)
		case !ok || int(sys.Uid) != j.o.User.UID && sys.Uid != 0:
			err = fmt.Errorf("file %s has bad owner uid %d", name, sys.Uid)
		case st.Mode().Perm()&0o002 != 0: // the group is the user's own on many systems
			err = fmt.Errorf("file %s is world writable", name)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// forward follows the user's .forward file, if there is one. A file that is not
// to be trusted is as good as none, as in Postfix, so that mail is not lost.
func (j *job) forward(ctx context.Context) (agent.Result, bool) {
	_, ext := j.split()
	for _, name := range ForwardFiles(j.o.ForwardPath, j.o.User.Name, j.o.User.Home, ext, j.o.Delimiters, j.o.ForwardFilter) {
		f, err := j.open(name)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			continue
		case err != nil:
			var no syscall.Errno
			if errors.As(err, &no) {
				err = fmt.Errorf("cannot open file %s: %s", name, reason(err))
			}
			j.r.Log.Warnf("%v", err)
			continue
		}
		targets, err := alias.ParseLines(io.LimitReader(f, maxForward))
		f.Close()
		if err != nil {
			return failed(dsn.From(err, "error reading forwarding file: "+name)), true
		}
		if len(targets) == 0 {
			return agent.Result{}, false
		}
		return j.all(ctx, targets, j.o.ForwardCommand, j.o.ForwardFile), true
	}
	return agent.Result{}, false
}

func (j *job) include(ctx context.Context, name string) agent.Result {
	f, err := j.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		j.r.Log.Warnf("unable to lookup :include: file %s: %s", name, reason(err))
		return failed(&dsn.Error{Code: [3]int{5, 3, 5}, Text: "mail system configuration error", Err: err})
	}
	if err != nil {
		return failed(&dsn.Error{Code: [3]int{4, 2, 4}, Text: "unable to open include file " + name, Err: err})
	}
	defer f.Close()
	targets, err := alias.ParseLines(io.LimitReader(f, maxForward))
	if err != nil {
		return failed(dsn.From(err, "error reading include file: "+name))
	}
	return j.all(ctx, targets, j.o.IncludeCommand, j.o.IncludeFile)
}

// all delivers to every target. Addresses go on as a new message; what is ours
// is done here. A failure that may pass stops it, for the next try does all of it
// again: a doubled letter is better than a lost one. What fails for good does not
// keep the others from theirs.
func (j *job) all(ctx context.Context, targets []alias.Target, commands, files bool) agent.Result {
	var res agent.Result
	var onward []agent.Onward
	var bad error
	own := false
	for _, t := range targets {
		if a, ok := t.(alias.Address); ok {
			if j.self(a.Address) {
				own = true
			} else {
				onward = append(onward, agent.Onward{To: a.Address})
			}
			continue
		}
		one := j.target(ctx, t, commands, files)
		onward = append(onward, one.Onward...)
		switch {
		case WantsMailbox(one): // it stands in an :include: file
			own = true
			if bad == nil && dsn.Permanent(one.Err) {
				bad = one.Err
			}
		case one.Err == nil:
			res = one
		case !dsn.Permanent(one.Err):
			return failed(one.Err)
		case bad == nil:
			bad = one.Err
		}
	}
	if own {
		// The mailbox is written by a second call, with the mail spool's group.
		if j.o.MailboxHop == "" {
			if bad == nil {
				bad = ErrMailbox
			}
			return agent.Result{Err: bad, Text: ErrMailbox.Error(), Onward: onward}
		}
		onward = append(onward, agent.Onward{To: j.to.Address, Hop: j.o.MailboxHop})
	}
	if bad != nil || len(onward) > 0 {
		return agent.Result{Err: bad, Onward: onward}
	}
	return res
}

// target does what a file says that is no address.
func (j *job) target(ctx context.Context, t alias.Target, commands, files bool) agent.Result {
	switch t := t.(type) {
	case alias.Command:
		if !commands {
			return failed(dsn.New(0, "5.7.1", "mail to command is restricted"))
		}
		return j.command(ctx, t.Line)
	case alias.File:
		if !files {
			return failed(dsn.New(0, "5.7.1", "mail to file is restricted"))
		}
		return j.file(ctx, t.Name)
	case alias.Include:
		return j.include(ctx, t.Name)
	}
	return failed(dsn.New(0, "5.3.5", "bad target: %s", t))
}

// self reports whether an address in a .forward is the user's own mailbox.
func (j *job) self(a address.Address) bool {
	local := strings.TrimPrefix(a.Local, `\`)
	if a.Domain != "" && !strings.EqualFold(a.Domain, j.to.Address.Domain) && !strings.EqualFold(a.Domain, j.o.Hostname) {
		return false
	}
	user, _, _ := address.SplitExtension(local, j.o.Delimiters)
	return strings.EqualFold(user, j.o.User.Name)
}
