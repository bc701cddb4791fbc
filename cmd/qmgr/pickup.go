package qmgr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/cleanup"
	"angarium/lib/conf/mailconf"
	"angarium/lib/dsn"
	"angarium/lib/queue"
	"angarium/lib/route"
	"angarium/lib/service"
)

// pickupCleanup reads the settings of the pickup line, and of the cleanup line that
// it names.
func (d *daemon) pickupCleanup(env *service.Env, router *route.Router) error {
	conf := env.Conf("pickup", "")
	c, err := mailconf.Cleanup(env.Conf("cleanup", conf.String("cleanup_service_name")), router, d.log)
	if err != nil {
		return err
	}
	c.Notify = func(id string) { d.m.Notice(id) }
	mailconf.Overrides(&c, conf.List("receive_override_options"))
	d.filter, d.posted = conf.String("content_filter"), cleanup.New(c, d.queue)
	return nil
}

// pickup takes a file from maildrop, as postdrop left it, through cleanup into
// the queue. Who wrote it is the file's owner, whatever stands inside.
func (d *daemon) pickup(ctx context.Context, id string) error {
	name := d.queue.Path() + "/" + d.queue.Name(queue.Maildrop, id)
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.Mode().IsRegular() || sys.Nlink > 1 {
		return fmt.Errorf("not a regular file with one name")
	}
	if st.Mode().Perm()&0o100 == 0 { // postdrop is still writing, or died
		if time.Since(st.ModTime()) > 24*time.Hour {
			return os.Remove(name)
		}
		return nil
	}
	p := &submission{d: d, r: queue.NewReader(f, 0), uid: int(sys.Uid)}
	err = p.take(ctx, st.ModTime())
	switch {
	case err == nil:
	case errors.Is(err, queue.ErrFormat), errors.Is(err, io.ErrUnexpectedEOF):
		d.log.Warnf("maildrop/%s: %v: moved to corrupt", id, err)
		return d.queue.Move(id, queue.Maildrop, queue.Corrupt)
	case dsn.Permanent(err):
		d.log.Warnf("maildrop/%s: error writing %s: %v", id, id, err)
		return d.queue.Move(id, queue.Maildrop, queue.Corrupt)
	default:
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// submission is a maildrop file being read.
type submission struct {
	d     *daemon
	r     *queue.Reader
	uid   int
	env   cleanup.Envelope
	rcpts []agent.Recipient
	next  agent.Recipient // attributes that came before its R record
}

func (p *submission) take(ctx context.Context, at time.Time) error {
	log, end := p.d.log.As(p.d.conf.String("syslog_name") + "/pickup").Session()
	defer end()
	p.env.Local, p.env.Log, p.env.Arrival = true, log, at
	classes := p.d.conf.List("smtputf8_autodetect_classes")
	p.env.AutoUTF8 = p.d.conf.Bool("smtputf8_enable") && (has(classes, "sendmail") || has(classes, "all"))
	if err := p.envelope(); err != nil {
		return err
	}
	p.env.Filter = p.d.filter
	draft, err := p.d.beginWith(ctx, p.d.posted, p.env, fmt.Sprintf(", from userid %d", p.uid))
	if err != nil {
		return err
	}
	defer draft.Abort()
	log.Infof("%s: uid=%d from=<%s>", draft.ID(), p.uid, p.env.Sender.Quoted())
	for _, r := range p.rcpts {
		if err := draft.Recipient(ctx, r); err != nil {
			return err
		}
	}
	if err := p.content(draft); err != nil {
		return err
	}
	if err := p.extracted(ctx, draft); err != nil {
		return err
	}
	return draft.Commit(ctx)
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", queue.ErrFormat, fmt.Sprintf(format, args...))
}

func (p *submission) envelope() error {
	seen := false
	for {
		t, data, err := p.r.Read()
		if err != nil {
			return unexpected(err)
		}
		switch t {
		case queue.TypeMessage:
			if !seen {
				return bad("no sender")
			}
			return nil
		case queue.TypeSender:
			p.env.Sender = address.Parse(string(data))
			seen = true
		case queue.TypeFullName:
			p.env.FullName = string(data)
		case queue.TypeTime: // the file's own time counts: the writer is not trusted
		case queue.TypeVerp:
			p.env.Verp = string(data)
		case queue.TypeAttr:
			p.attr(string(data))
		default:
			if err := p.recipient(t, data); err != nil {
				return err
			}
		}
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// recipient takes records that are about one recipient.
func (p *submission) recipient(t queue.Type, data []byte) error {
	switch t {
	case queue.TypeRcpt:
		p.next.Address = address.Parse(string(data))
		p.rcpts = append(p.rcpts, p.next)
		p.next = agent.Recipient{}
	case queue.TypeDone, queue.TypeCanceled: // has it, or was taken off: what was said before is about him
		p.next = agent.Recipient{}
	case queue.TypeOrigRcpt:
		p.next.Original = address.Parse(string(data))
	case queue.TypeDSNOrcpt:
		p.next.ORCPT = string(data)
	case queue.TypeDSNNote:
		n, _ := strconv.Atoi(string(data))
		p.next.Notify = agent.Notify(n & 15)
	case queue.TypeSize, queue.TypeEnd, queue.TypeExtra, queue.TypeRRTo, queue.TypeErrTo, queue.TypePriority, queue.TypeWarn:
	default:
		return bad("record type %q in a submission", byte(t))
	}
	return nil
}

// attr takes what a submitter may say about its letter, and nothing else.
func (p *submission) attr(s string) {
	name, value, _ := strings.Cut(s, "=")
	n, _ := strconv.Atoi(value)
	switch name {
	case "encoding":
		p.env.Encoding = value
	case "rewrite_context":
		if p.env.Local = value != "remote"; !p.env.Local {
			p.env.Rewrite = value
		}
	case "envelope_id":
		p.env.EnvID = value
	case "ret_flags":
		p.env.Ret = [4]string{"", "FULL", "HDRS", ""}[n&3]
	case "trace_flags":
		p.env.Trace = n & (queue.TraceUserVerify | queue.TraceRecord)
	case "smtputf8_flags", "sendopts":
		p.env.SendOpts |= queue.SendOpts(n) & queue.UTF8Requested
	case "dsn_orig_rcpt":
		p.next.ORCPT = value
	case "notify_flags":
		p.next.Notify = agent.Notify(n & 15)
	}
}

func (p *submission) content(w io.Writer) error {
	for {
		t, data, err := p.r.Read()
		if err != nil {
			return unexpected(err)
		}
		switch t {
		case queue.TypeNorm:
			data = append(data, '\n')
			fallthrough
		case queue.TypeCont:
			if _, err := w.Write(data); err != nil {
				return err
			}
		case queue.TypeExtra:
			return nil
		default:
			return bad("record type %q in the content", byte(t))
		}
	}
}

// extracted takes the recipients of sendmail -t, which stand behind the content.
func (p *submission) extracted(ctx context.Context, draft *cleanup.Draft) error {
	p.rcpts = nil
	for {
		t, data, err := p.r.Read()
		if err != nil {
			return unexpected(err)
		}
		if t == queue.TypeEnd {
			break
		}
		if t == queue.TypeAttr {
			p.attr(string(data))
			continue
		}
		if err := p.recipient(t, data); err != nil {
			return err
		}
	}
	for _, r := range p.rcpts {
		if err := draft.Recipient(ctx, r); err != nil {
			return err
		}
	}
	return nil
}
