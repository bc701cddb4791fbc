// Command postdrop puts a message from sendmail(1) into the maildrop directory. See
// postdrop(1).
//
// It is set-gid to the only group that may create files there, and so a small
// program of its own that does one thing: it copies records from standard input
// into a new file, lets pass no record and no attribute that a stranger has no
// business to set, and removes the file if anything goes wrong.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/queueconf"
	"angarium/lib/ipc"
	"angarium/lib/maillog"
	"angarium/lib/queue"
)

func main() {
	runtime.GOMAXPROCS(1) // there is nothing to do side by side
	cli.Exec(run)
}

const usage = "usage: %s [-c config_dir] [-v]"

func run(ctx context.Context, c *cli.Cmd) error {
	dir := ""
	for {
		letter, arg, ok, err := c.Getopt("+c:rv")
		if err != nil {
			fmt.Fprintf(c.Stderr, "%s: %v\n", c.Name, err)
			return cli.Exit(1, usage, c.Name)
		}
		if !ok {
			break
		}
		if letter == 'c' {
			dir = arg
		}
	}
	conf, err := queueconf.Setgid(dir)
	if err != nil {
		var d *queueconf.DirError
		if errors.As(err, &d) {
			c.Infof("error: %s", d.Detail())
		}
		return err
	}
	log := queueconf.Log(conf, c.Name, c.Stderr)
	err = drop(ctx, c, conf, log)
	if err != nil && err != errRefused {
		log.Fatalf("%v", err)
	}
	if err != nil {
		return cli.Exit(1, "")
	}
	return nil
}

// status codes of the protocol: what cleanup(8) says of a message.
const (
	statusOK    = 0
	statusBad   = 1
	statusWrite = 2
	statusSize  = 4
)

func drop(ctx context.Context, c *cli.Cmd, conf *maincf.Config, log *maillog.Logger) error {
	uid := os.Getuid()
	if name, ok := queueconf.Authorized(conf, "authorized_submit_users", uid); !ok {
		return cli.Exit(1, "User %s(%d) is not allowed to submit mail", name, uid)
	}
	if maps := conf.String("local_login_sender_maps"); maps != "static:*" {
		return fmt.Errorf("local_login_sender_maps: only static:* is supported: %s", maps)
	}
	q, err := queueconf.Open(conf)
	if err != nil {
		return err
	}
	d := create(q, log)
	defer d.Abort()
	// What is not complete must not stay when the terminal is closed.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE)
	go func() {
		<-signals
		_ = os.Remove(q.Path() + "/" + q.Name(queue.Maildrop, d.ID()))
		os.Exit(1)
	}()

	reply(c.Stdout, "protocol", "postdrop_protocol", "queue_id", d.ID())
	p := &copier{d: d, log: log, uid: uid, limit: conf.Size("message_size_limit")}
	if err := p.copy(bufio.NewReaderSize(c.Stdin, 16<<10)); err != nil {
		if err == errGone {
			return nil
		}
		return err
	}
	signal.Stop(signals)
	if p.status == statusOK {
		if err := d.Commit(ctx); err != nil {
			p.status, p.reason = statusWrite, err.Error()
		}
	}
	reply(c.Stdout, "status", strconv.Itoa(p.status), "reason", p.reason)
	if p.status != statusOK {
		if p.status != statusBad {
			log.Warnf("uid=%d: %s", uid, p.reason)
		}
		return errRefused
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	// pickup looks into maildrop once a minute, too.
	_ = ipc.Trigger(ctx, q.Path()+"/public/"+conf.String("pickup_service_name"), []byte("W"))
	return nil
}

// create makes the file. Where that is not possible it goes on trying: whoever
// mends the directory has the mail, and its sender may be gone by then.
func create(q *queue.Queue, log *maillog.Logger) *queue.Draft {
	for {
		d, err := q.CreateRaw(queue.Maildrop, queue.ModeMaildrop)
		if err == nil {
			return d
		}
		text := err.Error()
		var at *fs.PathError
		var no syscall.Errno
		if errors.As(err, &at) && errors.As(err, &no) {
			reason := no.Error()
			text = fmt.Sprintf("create file %s: %s", strings.TrimPrefix(at.Path, q.Path()+"/"), strings.ToUpper(reason[:1])+reason[1:])
		}
		log.Warnf("mail_queue_enter: %s", text)
		time.Sleep(10 * time.Second)
	}
}

func reply(w io.Writer, pairs ...string) {
	var b []byte
	for i := 0; i < len(pairs); i += 2 {
		b = ipc.AppendAttrs(b, ipc.Attr{Name: pairs[i], Value: pairs[i+1]})
	}
	// If sendmail is gone there is nobody to tell.
	_, _ = w.Write(ipc.EndAttrs(b))
}

// errGone says that the input ended early: sendmail gave the message up.
var errGone = errors.New("unexpected end of input")

// errRefused says that sendmail was told why the message was not taken.
var errRefused = errors.New("message refused")

// copier copies the records of one message.
type copier struct {
	d      *queue.Draft
	log    *maillog.Logger
	uid    int
	limit  int64
	size   int64
	rcpts  int
	status int
	reason string
}

// sections are the three parts of a submission: which records each may hold. The
// first one of each ends it.
var sections = [...]string{"MFSRVA", "XLN", "ERA"}

// copy reads up to the end record.
func (p *copier) copy(in io.Reader) error {
	now := time.Now()
	p.put(queue.TypeTime, fmt.Appendf(nil, "%d %d", now.Unix(), now.Nanosecond()/1000))
	r := queue.NewReader(in, 0)
	for section := 0; section < len(sections); {
		t, data, err := r.Read()
		switch {
		case err == io.EOF:
			return errGone
		case err != nil:
			p.log.Warnf("stdin: unexpected EOF in data, record type %d length %d", t, len(data))
			return fmt.Errorf("uid=%d: malformed input", p.uid)
		case strings.IndexByte(sections[section], byte(t)) < 0:
			return fmt.Errorf("uid=%d: unexpected record type: %d", p.uid, t)
		}
		if byte(t) == sections[section][0] {
			section++
		}
		if !p.allowed(t, data) {
			continue
		}
		p.put(t, data)
	}
	if p.status == statusOK && p.rcpts == 0 {
		p.status = statusBad
	}
	return nil
}

// allowed tells whether a record of a permitted type may pass.
func (p *copier) allowed(t queue.Type, data []byte) bool {
	switch t {
	case queue.TypeAttr:
		return p.attribute(string(data))
	case queue.TypeSender:
		if strings.IndexByte(string(data), 0) >= 0 {
			p.status, p.reason = statusBad, "NUL in FROM record"
		}
	case queue.TypeRcpt:
		p.rcpts++
	}
	return true
}

func (p *copier) attribute(text string) bool {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		p.log.Warnf("uid=%d: ignoring malformed record: missing '=' after attribute name: %.200s", p.uid, text)
		return false
	}
	switch name {
	case "envelope_id", "ret_flags", "notify_flags", "dsn_orig_rcpt", "trace_flags":
		return true
	case "encoding":
		ok = value == "7bit" || value == "8bit" || value == ""
	case "rewrite_context":
		ok = value == "local" || value == "remote"
	default:
		ok = false
	}
	if !ok {
		p.log.Warnf("uid=%d: ignoring attribute record: %.200s", p.uid, text)
	}
	return ok
}

// put writes a record unless the message has failed already: the rest of it is
// then read and dropped, so that sendmail gets to read the status.
func (p *copier) put(t queue.Type, data []byte) {
	if p.status != statusOK {
		return
	}
	p.size += int64(len(data) + 2)
	if p.limit > 0 && p.size > p.limit {
		p.status, p.reason = statusSize, "File too large"
		return
	}
	if err := p.d.Record(t, data); err != nil {
		p.status, p.reason = statusWrite, err.Error()
	}
}
