// Command local delivers with the rights of the recipient: .forward and
// :include: files, mailboxes, files and commands. See local(8).
//
// It runs as root, and so does little itself: it takes a request and the open
// queue file from the queue manager, looks up the user, and starts a child with
// that user's uid, gid and groups, which opens the files and runs the command.
// Started as an ordinary user it delivers for that user only.
//
// It trusts mail_owner and root, who alone may connect, for what a request
// says; not what stands in a user's files.
package main

import (
	"context"
	"os"
	"slices"
	"strings"
	"syscall"

	"angarium/lib/agent"
	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/deliver/local"
	"angarium/lib/deputy"
	"angarium/lib/dsn"
	"angarium/lib/maillog"
	"angarium/lib/service"
	"angarium/lib/sysuser"
)

func main() {
	if deputy.IsChild() {
		os.Exit(deputy.Child(do))
	}
	cli.Exec(Main)
}

// Main serves private/local.
func Main(ctx context.Context, c *cli.Cmd) error {
	return service.Run(ctx, c, service.Daemon{Program: "local", Setup: setup})
}

func setup(_ context.Context, env *service.Env) (service.Handler, error) {
	h, err := deputy.NewHandler(env.Main)
	if err != nil {
		return nil, err
	}
	h.Deliver = func(ctx context.Context, s *service.Session, req *deputy.Request, f *os.File) []agent.Result {
		o := options(s.Conf, req.NextHop)
		results := make([]agent.Result, len(req.Recipients))
		for i := range req.Recipients {
			results[i] = deliver(ctx, s.Log, o, req, i, f)
		}
		return results
	}
	return h, nil
}

// options reads the settings; hop is where mail goes that no .forward file takes.
func options(conf *maincf.Config, hop string) local.Options {
	commands, files := conf.List("allow_mail_to_commands"), conf.List("allow_mail_to_files")
	return local.Options{
		Hostname: conf.String("myhostname"), ForwardPath: conf.List("forward_path"), ForwardFilter: conf.String("forward_expansion_filter"), Delimiters: conf.String("recipient_delimiter"),
		MailboxHop: hop, MailboxCommand: conf.String("mailbox_command"), HomeMailbox: conf.String("home_mailbox"),
		SpoolDir: conf.String("mail_spool_directory"), Locks: conf.List("mailbox_delivery_lock"),
		LockAttempts: conf.Int("deliver_lock_attempts"), LockDelay: conf.Duration("deliver_lock_delay"), StaleLock: conf.Duration("stale_lock_time"),
		SizeLimit: conf.Size("mailbox_size_limit"), CommandTime: conf.Duration("command_time_limit"), CommandShell: conf.String("local_command_shell"),
		ForwardCommand: slices.Contains(commands, "forward"), ForwardFile: slices.Contains(files, "forward"),
		IncludeCommand: slices.Contains(commands, "include"), IncludeFile: slices.Contains(files, "include"),
		Env: exported(conf), QueueDir: conf.String("queue_directory"), CommandDir: conf.String("command_execution_directory"),
		DirFilter: conf.String("execution_directory_expansion_filter"), NoDelivered: without(conf.List("prepend_delivered_header"), "command", "file"),
		DefaultUser: conf.String("default_privs"),
	}
}

// without is what of all does not stand in list.
func without(list []string, all ...string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return slices.Contains(list, s) })
}

// exported is what export_environment names: its own settings, those that
// import_environment makes, and what this process has.
func exported(conf *maincf.Config) []string {
	known := map[string]string{"MAIL_CONFIG": conf.Dir()}
	for _, e := range conf.List("import_environment") {
		if name, value, ok := strings.Cut(e, "="); ok {
			known[name] = value
		}
	}
	var env []string
	for _, name := range conf.List("export_environment") {
		if strings.Contains(name, "=") {
			env = append(env, name)
		} else if v, ok := known[name]; ok {
			env = append(env, name+"="+v)
		} else if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// deliver runs one or two children: the first with the user's own groups looks
// for a .forward file, the second writes the mailbox with the spool's group.
func deliver(ctx context.Context, log *maillog.Logger, o local.Options, req *deputy.Request, n int, f *os.File) agent.Result {
	one := *req
	one.Recipients = req.Recipients[n : n+1]
	r := one.Recipients[0]
	user, err := sysuser.Lookup(r.User)
	if err != nil {
		return agent.Result{Err: dsn.From(err, "user database unavailable"), Relay: "local"}
	}
	if user == nil {
		return agent.Result{Err: local.Unknown(r.User), Relay: "local"}
	}
	o.User = local.User{Name: user.Name, Home: user.Home, Shell: user.Shell, UID: user.UID, GID: user.GID}
	if r.Target != "" && r.User == o.DefaultUser { // his rights are lent, not his home
		o.User.Home, o.User.Shell = "", ""
	}
	res := run(ctx, log, o, &one, f, nil)
	if !local.WantsMailbox(res) {
		return res
	}
	o.NoForward = true
	box := run(ctx, log, o, &one, f, spoolGroup(o.SpoolDir))
	switch {
	case box.Err != nil && !dsn.Permanent(box.Err):
		return box // all of it is done again
	case dsn.Permanent(res.Err): // of another target; the sender hears of that
		res.Text = ""
		return res
	case box.Err == nil:
		box.Onward = res.Onward
	}
	return box
}

// spoolGroup is the group of a spool directory in which it may make files.
func spoolGroup(dir string) []uint32 {
	st, err := os.Stat(dir)
	if err != nil || st.Mode().Perm()&0o020 == 0 {
		return nil
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return []uint32{sys.Gid}
	}
	return nil
}

// run starts a child with the user's rights and reads its answer.
func run(ctx context.Context, log *maillog.Logger, o local.Options, req *deputy.Request, f *os.File, groups []uint32) agent.Result {
	cred, err := credential(o.User, groups)
	if err != nil {
		log.Warnf("%s: %v", req.QueueID, err)
		return agent.Result{Err: &dsn.Error{Code: [3]int{4, 3, 0}, Text: err.Error()}, Relay: "local"}
	}
	res := deputy.Run(ctx, log, deputy.Order[local.Options]{Program: "local", Cred: cred, Request: req, Task: o}, f)[0]
	if res.Relay == "" {
		res.Relay = "local"
	}
	return res
}

// credential is what the child becomes; nil: it is the user already.
func credential(u local.User, more []uint32) (*syscall.Credential, error) {
	cred, err := deputy.Credential(u.Name, u.UID, u.GID)
	if err != nil || cred == nil {
		return nil, err
	}
	groups, err := sysuser.Groups(&sysuser.User{Name: u.Name, UID: u.UID, GID: u.GID})
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		cred.Groups = append(cred.Groups, uint32(g))
	}
	if len(more) > 0 {
		cred.Gid = more[0] // a new mailbox belongs to the spool's group
	}
	return cred, nil
}

// do delivers in the child, for one recipient.
func do(ctx context.Context, o local.Options, r *agent.Request) []agent.Result {
	return []agent.Result{local.NewDoer(o).Deliver(ctx, r, r.Recipients[0])}
}
