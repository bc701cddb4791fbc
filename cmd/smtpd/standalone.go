package smtpd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"angarium/lib/agent"
	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/queueconf"
	"angarium/lib/dsn"
	"angarium/lib/ipc"
	"angarium/lib/queue"
	"angarium/lib/smtp"
	"angarium/lib/smtpd"
)

// standAlone is sendmail -bs: a dialogue on standard input and output. What it
// takes goes to maildrop through postdrop, since the caller has no rights.
func standAlone(ctx context.Context, c *cli.Cmd) error {
	dir := ""
	for {
		letter, arg, ok, err := c.Getopt("Sc:vo:n:t:u:s:l")
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if letter == 'c' {
			dir = arg
		}
	}
	conf, err := maincf.Load(maincf.Dir(dir))
	if err != nil {
		return err
	}
	log := queueconf.Log(conf, "smtpd", nil)
	sc, err := config(conf, log, nil)
	if err != nil {
		return err
	}
	sc.Cleaner = &postdrop{command: filepath.Join(conf.String("command_directory"), "postdrop"), dir: conf.Dir(), stderr: c.Stderr}
	// Whoever runs this has a shell: he is no stranger, and may write to anybody.
	sc.Server.TLS, sc.Server.TLSRequired, sc.Server.TLSWrapper, sc.Auth = nil, false, false, nil
	sc.CheckRecipient, sc.CheckSender, sc.Policy, sc.Resolver = false, false, nil, nil
	sc.Server.BareNewline = smtp.AllowNewline             // printf is no smuggler
	sc.Flush = func(context.Context, string) smtp.Reply { // no daemon: nobody to ask
		log.Warnf("do not use ETRN in \"sendmail -bs\" mode")
		return smtp.Reply{Code: 458, Text: "Unable to queue messages"}
	}
	smtpd.New(*sc).Serve(ctx, &stdio{in: &crlf{r: c.Stdin}, out: c.Stdout}, log, false)
	return nil
}

// crlf puts a CR before each LF that has none: what printf(1) says has ends of lines
// and of DATA, too. The guards against smuggling are for strangers.
type crlf struct {
	r    io.Reader
	rest []byte // read and not yet given
	last byte
	err  error
}

func (c *crlf) Read(p []byte) (int, error) {
	if len(c.rest) == 0 && c.err == nil {
		var buf [4096]byte
		var n int
		n, c.err = c.r.Read(buf[:])
		c.rest = make([]byte, 0, n+16)
		for _, b := range buf[:n] {
			if b == '\n' && c.last != '\r' {
				c.rest = append(c.rest, '\r')
			}
			c.rest, c.last = append(c.rest, b), b
		}
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; n > 0 {
		return n, nil
	}
	return 0, c.err
}

// stdio makes a connection of standard input and output. It knows no time-outs:
// the other end is a program of the same user.
type stdio struct {
	in  io.Reader
	out io.Writer
}

func (s *stdio) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *stdio) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *stdio) Close() error                     { return nil }
func (s *stdio) LocalAddr() net.Addr              { return &net.UnixAddr{Net: "unix"} }
func (s *stdio) RemoteAddr() net.Addr             { return &net.UnixAddr{Net: "unix"} }
func (s *stdio) SetDeadline(time.Time) error      { return nil }
func (s *stdio) SetReadDeadline(time.Time) error  { return nil }
func (s *stdio) SetWriteDeadline(time.Time) error { return nil }

// postdrop is a smtpd.Cleaner that hands messages to postdrop(1).
type postdrop struct {
	command string
	dir     string // the configuration that it is to read
	stderr  io.Writer
}

func (p *postdrop) Space(int64) error { return nil }

var errPostdrop = errors.New("postdrop failed")

func failed(err error) error {
	return &dsn.Error{Reply: 451, Code: [3]int{4, 3, 0}, Text: "Error: queue file write error", Err: err}
}

func (p *postdrop) Begin(ctx context.Context, e smtpd.Envelope) (smtpd.Letter, error) {
	cmd := exec.CommandContext(ctx, p.command, "-r")
	cmd.Env = append(os.Environ(), "MAIL_CONFIG="+p.dir)
	cmd.Stderr = p.stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, failed(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, failed(err)
	}
	if err := cmd.Start(); err != nil {
		return nil, failed(err)
	}
	d := &dropped{cmd: cmd, in: in, w: bufio.NewWriterSize(in, 32<<10), out: bufio.NewReader(out)}
	hello, err := ipc.ReadAttrs(d.out)
	if d.id = ipc.Get(hello, "queue_id"); err != nil || d.id == "" {
		d.Abort()
		return nil, failed(errors.Join(errPostdrop, err))
	}
	if e.Ret != "" {
		d.record(queue.TypeAttr, "ret_flags="+map[string]string{"FULL": "1", "HDRS": "2"}[e.Ret])
	}
	if e.EnvID != "" {
		d.record(queue.TypeAttr, "envelope_id="+e.EnvID)
	}
	if e.Encoding != "" {
		d.record(queue.TypeAttr, "encoding="+e.Encoding)
	}
	d.record(queue.TypeSender, e.Sender.String())
	return d, nil
}

// dropped is a message on its way into maildrop.
type dropped struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	w       *bufio.Writer
	out     *bufio.Reader
	id      string
	err     error
	rest    []byte // of a line that is not complete
	content bool
	done    bool
}

func (d *dropped) record(t queue.Type, data string) {
	if _, err := d.w.Write(queue.AppendRecord(nil, t, data)); err != nil && d.err == nil {
		d.err = err
	}
}

func (d *dropped) ID() string { return d.id }

func (d *dropped) Recipient(_ context.Context, r agent.Recipient) error {
	if r.ORCPT != "" {
		d.record(queue.TypeAttr, "dsn_orig_rcpt="+r.ORCPT)
	}
	if r.Notify != 0 {
		d.record(queue.TypeAttr, "notify_flags="+strconv.Itoa(int(r.Notify)))
	}
	d.record(queue.TypeRcpt, r.Address.String())
	return nil
}

func (d *dropped) Trace(headers []byte) error {
	_, err := d.Write(headers)
	return err
}

func (d *dropped) Write(p []byte) (int, error) {
	if !d.content {
		d.content = true
		d.record(queue.TypeMessage, "")
	}
	n := len(p)
	for len(p) > 0 && d.err == nil {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			d.rest = append(d.rest, p...)
			p = nil
		} else {
			d.line(queue.TypeNorm, append(d.rest, p[:i]...))
			d.rest, p = d.rest[:0], p[i+1:]
		}
		for len(d.rest) > queue.LineLimit {
			d.line(queue.TypeCont, d.rest[:queue.LineLimit])
			d.rest = append(d.rest[:0], d.rest[queue.LineLimit:]...)
		}
	}
	if d.err != nil {
		return 0, failed(d.err)
	}
	return n, nil
}

func (d *dropped) line(t queue.Type, b []byte) {
	for len(b) > queue.LineLimit {
		d.record(queue.TypeCont, string(b[:queue.LineLimit]))
		b = b[queue.LineLimit:]
	}
	d.record(t, string(b))
}

func (d *dropped) Commit(context.Context) error {
	if len(d.rest) > 0 {
		d.line(queue.TypeNorm, d.rest)
	}
	d.record(queue.TypeExtra, "")
	d.record(queue.TypeEnd, "")
	if err := d.w.Flush(); err != nil && d.err == nil {
		d.err = err
	}
	d.in.Close()
	d.done = true
	end, err := ipc.ReadAttrs(d.out)
	_, _ = io.Copy(io.Discard, d.out)
	if werr := d.cmd.Wait(); err == nil {
		err = werr
	}
	if err == nil && ipc.Get(end, "status") != "0" {
		err = errPostdrop
	}
	if err = errors.Join(d.err, err); err != nil {
		return failed(err)
	}
	return nil
}

// Abort ends postdrop without the end record: it forgets the message.
func (d *dropped) Abort() {
	if d.done {
		return
	}
	d.done = true
	d.in.Close()
	_, _ = io.Copy(io.Discard, d.out)
	_ = d.cmd.Wait()
}

func (d *dropped) Hold()                             {}
func (d *dropped) Filter(string) error               { return nil }
func (d *dropped) Redirect(string) error             { return nil }
func (d *dropped) BCC(context.Context, string) error { return nil }
