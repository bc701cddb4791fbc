// Package deputy is what the agents with root's rights share: local, virtual and
// pipe. A request and the open queue file come from the queue manager over a
// socket; for each delivery a child of this same program takes on the rights of
// one user, and only then looks at the message.
//
// It promises that only root, mail_owner and who we are may ask; that no child
// ever runs as root; that nothing a child runs has the queue file; and that whatever goes wrong with a child is temporary. It
// does not know how a message is delivered.
package deputy

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

	"golang.org/x/sys/unix"

	"angarium/lib/agent"
	"angarium/lib/agent/wire"
	"angarium/lib/conf/maincf"
	"angarium/lib/dsn"
	"angarium/lib/ipc"
	"angarium/lib/maillog"
	"angarium/lib/queue"
	"angarium/lib/service"
	"angarium/lib/sysuser"
)

// flag as the only argument makes a process the child of another.
const flag = "--deliver"

// queueFile is the descriptor on which a child finds the queue file.
const queueFile = 3

// IsChild reports whether this process was started to deliver: a main function
// asks this first, and calls Child.
func IsChild() bool { return len(os.Args) == 2 && os.Args[1] == flag }

// Request is what a parent asked for, in a form that can travel.
type Request = wire.Request

// Handler answers requests: Deliver for each of them.
type Handler struct {
	// Deliver answers for all recipients of a request; f is its queue file.
	Deliver func(ctx context.Context, s *service.Session, r *Request, f *os.File) []agent.Result
	peers   []int
}

// NewHandler looks up who may ask.
func NewHandler(conf *maincf.Config) (*Handler, error) {
	h := &Handler{peers: []int{0, os.Getuid()}}
	owner, err := sysuser.Lookup(conf.String("mail_owner"))
	if err != nil {
		return nil, err
	}
	if owner != nil {
		h.peers = append(h.peers, owner.UID)
	}
	return h, nil
}

// Serve answers the requests of one connection.
func (h *Handler) Serve(ctx context.Context, s *service.Session) {
	conn, ok := s.Conn.(*net.UnixConn)
	if !ok {
		return
	}
	if peer, err := ipc.Peer(conn); err != nil || !slices.Contains(h.peers, peer.UID) {
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
		results := h.Deliver(ctx, s, req, f)
		f.Close()
		for i := range results {
			results[i].Tag = s.Log.Tag()
		}
		if wire.Write(conn, wire.FromResults(results)) != nil {
			return
		}
	}
}

// Order is a delivery that a child is to do.
type Order[T any] struct {
	Program string              // its name in ps(1)
	Cred    *syscall.Credential // nil: as we are
	Chroot  string              // entered before the rights are given up
	Request *Request
	Task    T
}

// Run starts a child with the rights of o and gives its answers, one for each
// recipient of the request.
func Run[T any](ctx context.Context, log *maillog.Logger, o Order[T], f *os.File) []agent.Result {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", flag)
	cmd.Args[0] = o.Program
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, "/"
	if tz, ok := os.LookupEnv("TZ"); ok {
		cmd.Env = append(cmd.Env, "TZ="+tz)
	}
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if o.Chroot == "" {
		cmd.SysProcAttr.Credential, o.Cred = o.Cred, nil
	}
	var in, out, say bytes.Buffer
	var list []wire.Result
	err := wire.Write(&in, o)
	if err == nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &say
		cmd.WaitDelay = 10 * time.Second
		err = cmd.Run()
	}
	for line := range strings.Lines(say.String()) {
		log.Log(maillog.Warning, "%s", strings.TrimSpace(line))
	}
	if err == nil {
		err = wire.Read(&out, &list)
	}
	if n := len(o.Request.Recipients); err == nil && len(list) != n {
		err = fmt.Errorf("%d results for %d recipients", len(list), n)
	}
	if err != nil {
		log.Warnf("%s: delivery child: %v", o.Request.QueueID, err)
		return All(o.Request, agent.Result{Err: dsn.From(err, o.Program+" delivery failed")})
	}
	return wire.Results(list)
}

// All is one answer for all recipients.
func All(r *Request, res agent.Result) []agent.Result {
	return slices.Repeat([]agent.Result{res}, len(r.Recipients))
}

// Child is the main function of a child: it does what the parent's Order says,
// and returns its exit status. Without a chroot it is the user's process from its
// first instruction.
func Child[T any](do func(ctx context.Context, task T, r *agent.Request) []agent.Result) int {
	syscall.Umask(0o077)
	// The queue file names all recipients: it is not for the commands that we run, nor
	// for the user, who could look into a process of his.
	syscall.CloseOnExec(queueFile)
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "prctl: %v\n", err)
		return 1
	}
	fail := func(what string, err error) int {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		return 1
	}
	var o Order[T]
	if err := wire.Read(os.Stdin, &o); err != nil {
		return fail("request", err)
	}
	if o.Chroot != "" {
		if err := enter(o.Chroot, o.Cred); err != nil {
			return fail("chroot("+o.Chroot+")", err)
		}
	}
	m, err := queue.ReadMessage(os.NewFile(queueFile, "queue file"))
	if err != nil {
		return fail("queue file", err)
	}
	r := o.Request.Agent(sized{m})
	r.Log = maillog.New(errLog{}, o.Program)
	if err := wire.Write(os.Stdout, wire.FromResults(do(context.Background(), o.Task, r))); err != nil {
		return 1
	}
	return 0
}

// sized tells agents the size that Postfix tells, as the queue manager does.
type sized struct{ *queue.Message }

func (s sized) Size() int64 { return s.DataSize() }

// enter changes the root directory and gives root's rights up.
func enter(dir string, cred *syscall.Credential) error {
	if err := syscall.Chroot(dir); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil || cred == nil {
		return err
	}
	groups := make([]int, len(cred.Groups))
	for i, g := range cred.Groups {
		groups[i] = int(g)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return err
	}
	if err := syscall.Setgid(int(cred.Gid)); err != nil {
		return err
	}
	return syscall.Setuid(int(cred.Uid))
}

// errLog sends log lines to the parent.
type errLog struct{}

func (errLog) Log(_ time.Time, _ maillog.Priority, _ string, _ int64, text string) error {
	_, err := fmt.Fprintln(os.Stderr, text)
	return err
}

// Credential is what a child becomes for a user; nil: it is that user already. An
// ordinary user can't become anyone.
func Credential(name string, uid, gid int, groups ...uint32) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		if uid != os.Geteuid() {
			return nil, fmt.Errorf("cannot deliver as user %s(%d): running as uid %d without root's rights", name, uid, os.Geteuid())
		}
		return nil, nil
	}
	if uid == 0 {
		return nil, fmt.Errorf("not delivering as user %s: alias it to a person", name)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: groups}, nil
}
