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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"angarium/lib/agent"
	"angarium/lib/agent/wire"
	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/deliver/local"
	"angarium/lib/dsn"
	"angarium/lib/ipc"
	"angarium/lib/maillog"
	"angarium/lib/queue"
	"angarium/lib/service"
	"angarium/lib/sysuser"
)

// childFlag as the only argument makes this process the child of another.
const childFlag = "--deliver"

func main() {
	if len(os.Args) == 2 && os.Args[1] == childFlag {
		os.Exit(child(os.Stdin, os.Stdout, os.NewFile(3, "queue file")))
	}
	cli.Exec(Main)
}

// Main serves private/local.
func Main(ctx context.Context, c *cli.Cmd) error {
	return service.Run(ctx, c, service.Daemon{Program: "local", Setup: setup})
}

func setup(_ context.Context, env *service.Env) (service.Handler, error) {
	owner, err := sysuser.Lookup(env.Main.String("mail_owner"))
	if err != nil {
		return nil, err
	}
	d := &daemon{peers: []int{0, os.Getuid()}}
	if owner != nil {
		d.peers = append(d.peers, owner.UID)
	}
	return d, nil
}

type daemon struct {
	peers []int // who may ask
}

// Serve answers the requests of one connection.
func (d *daemon) Serve(ctx context.Context, s *service.Session) {
	conn, ok := s.Conn.(*net.UnixConn)
	if !ok {
		return
	}
	if peer, err := ipc.Peer(conn); err != nil || !slices.Contains(d.peers, peer.UID) {
		s.Log.Warnf("request from uid %d refused", peer.UID)
		return
	}
	for {
		req, f, err := wire.Receive(conn)
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.Log.Warnf("bad request: %v", err)
			}
			return
		}
		o := options(s.Conf, req.NextHop)
		results := make([]agent.Result, len(req.Recipients))
		for i, r := range req.Recipients {
			results[i] = deliver(ctx, s.Log, o, req, r, f)
		}
		f.Close()
		if wire.Write(conn, wire.FromResults(results)) != nil {
			return
		}
	}
}

// options reads the settings; hop is where mail goes that no .forward file takes.
func options(conf *maincf.Config, hop string) local.Options {
	commands, files := conf.List("allow_mail_to_commands"), conf.List("allow_mail_to_files")
	return local.Options{
		Hostname: conf.String("myhostname"), ForwardPath: conf.List("forward_path"), Delimiters: conf.String("recipient_delimiter"),
		MailboxHop: hop, MailboxCommand: conf.String("mailbox_command"), HomeMailbox: conf.String("home_mailbox"),
		SpoolDir: conf.String("mail_spool_directory"), Locks: conf.List("mailbox_delivery_lock"),
		LockAttempts: conf.Int("deliver_lock_attempts"), LockDelay: conf.Duration("deliver_lock_delay"), StaleLock: conf.Duration("stale_lock_time"),
		SizeLimit: conf.Size("mailbox_size_limit"), CommandTime: conf.Duration("command_time_limit"), CommandShell: conf.String("local_command_shell"),
		ForwardCommand: slices.Contains(commands, "forward"), ForwardFile: slices.Contains(files, "forward"),
		IncludeCommand: slices.Contains(commands, "include"), IncludeFile: slices.Contains(files, "include"),
		ExportEnv: conf.List("export_environment"),
	}
}

// deliver runs one or two children: the first with the user's own groups looks
// for a .forward file, the second writes the mailbox with the spool's group.
func deliver(ctx context.Context, log *maillog.Logger, o local.Options, req *wire.Request, r agent.Recipient, f *os.File) agent.Result {
	user, err := sysuser.Lookup(r.User)
	if err != nil {
		return agent.Result{Err: dsn.From(err, "user database unavailable"), Relay: "local"}
	}
	if user == nil {
		return agent.Result{Err: local.Unknown(r.User), Relay: "local"}
	}
	o.User = local.User{Name: user.Name, Home: user.Home, Shell: user.Shell, UID: user.UID, GID: user.GID}
	res := run(ctx, log, o, req, r, f, nil)
	if !isMailbox(res) {
		return res
	}
	onward := res.Onward
	o.NoForward = true
	res = run(ctx, log, o, req, r, f, spoolGroup(o.SpoolDir))
	if res.Err == nil {
		res.Onward = onward
	}
	return res
}

// mailboxText is how ErrMailbox travels.
var mailboxText = local.ErrMailbox.Error()

func isMailbox(r agent.Result) bool { return r.Err != nil && r.Err.Error() == mailboxText }

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

// task is what the child is told.
type task struct {
	Options   local.Options
	Request   *wire.Request
	Recipient agent.Recipient
}

// run starts a child with the user's rights and reads its answer. Whatever goes
// wrong with the child itself is temporary.
func run(ctx context.Context, log *maillog.Logger, o local.Options, req *wire.Request, r agent.Recipient, f *os.File, groups []uint32) agent.Result {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", childFlag)
	cmd.Args[0] = "local"
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, "/"
	if tz, ok := os.LookupEnv("TZ"); ok {
		cmd.Env = append(cmd.Env, "TZ="+tz)
	}
	cmd.ExtraFiles = []*os.File{f}
	cred, err := credential(o.User, groups)
	if err != nil {
		log.Warnf("%s: %v", req.QueueID, err)
		return agent.Result{Err: &dsn.Error{Code: [3]int{4, 3, 0}, Text: err.Error()}, Relay: "local"}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Setsid: true}
	var in, out, say bytes.Buffer
	if err := wire.Write(&in, task{o, req, r}); err != nil {
		return agent.Result{Err: err, Relay: "local"}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &say
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	for line := range strings.Lines(say.String()) {
		log.Log(maillog.Warning, "%s: %s", req.QueueID, strings.TrimSpace(line))
	}
	var res []wire.Result
	if err == nil {
		err = wire.Read(&out, &res)
	}
	if err == nil && len(res) != 1 {
		err = fmt.Errorf("%d results", len(res))
	}
	if err != nil {
		log.Warnf("%s: delivery child: %v", req.QueueID, err)
		return agent.Result{Err: dsn.From(err, "local delivery failed"), Relay: "local"}
	}
	return wire.Results(res)[0]
}

// credential is what the child becomes; nil: it is the user already.
func credential(u local.User, more []uint32) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		if u.UID != os.Geteuid() {
			return nil, fmt.Errorf("cannot deliver as user %s(%d): running as uid %d without root's rights", u.Name, u.UID, os.Geteuid())
		}
		return nil, nil
	}
	if u.UID == 0 {
		return nil, fmt.Errorf("not delivering as user %s: alias it to a person", u.Name)
	}
	groups, err := sysuser.Groups(&sysuser.User{Name: u.Name, UID: u.UID, GID: u.GID})
	if err != nil {
		return nil, err
	}
	cred := &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
	for _, g := range groups {
		cred.Groups = append(cred.Groups, uint32(g))
	}
	if len(more) > 0 {
		cred.Gid = more[0] // a new mailbox belongs to the spool's group
	}
	return cred, nil
}

// child delivers; it is a user's process from its first instruction.
func child(in io.Reader, out io.Writer, f *os.File) int {
	syscall.Umask(0o077)
	var t task
	if err := wire.Read(in, &t); err != nil {
		fmt.Fprintf(os.Stderr, "request: %v\n", err)
		return 1
	}
	m, err := queue.ReadMessage(f)
	if err != nil {
		fmt.Fprintf(os.Stderr, "queue file: %v\n", err)
		return 1
	}
	r := t.Request.Agent(m)
	r.Log = maillog.New(errLog{}, "local")
	res := local.NewDoer(t.Options).Deliver(context.Background(), r, t.Recipient)
	if err := wire.Write(out, wire.FromResults([]agent.Result{res})); err != nil {
		return 1
	}
	return 0
}

// errLog sends log lines to the parent.
type errLog struct{}

func (errLog) Log(_ time.Time, _ maillog.Priority, _ string, _ int64, text string) error {
	_, err := fmt.Fprintln(os.Stderr, text)
	return err
}
