// Command postqueue shows and flushes the mail queue. See postqueue(1).
//
// It is set-gid to the group that may talk to the queue manager's sockets, and so a
// small program of its own. It trusts its caller with nothing but the choice of
// what to ask; who may ask is in authorized_mailq_users and authorized_flush_users.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/queueconf"
	"angarium/lib/ipc"
	"angarium/lib/maillog"
	"angarium/lib/queue"
	"angarium/lib/unixsock"
)

func main() { cli.Exec(run) }

const usage = "usage: postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site"

func run(ctx context.Context, c *cli.Cmd) error {
	var mode byte
	var dir, operand string
	for {
		letter, arg, ok, err := c.Getopt("+c:fi:jps:v")
		if err != nil {
			fmt.Fprintf(c.Stderr, "%s: %v\n", c.Name, err)
			return cli.Exit(cli.Unavailable, usage)
		}
		if !ok {
			break
		}
		switch letter {
		case 'c':
			dir = arg
		case 'v':
		default:
			if mode != 0 {
				return cli.Exit(cli.Unavailable, usage)
			}
			mode, operand = letter, arg
		}
	}
	if mode == 0 || len(c.Operands()) > 0 {
		return cli.Exit(cli.Unavailable, usage)
	}
	conf, err := queueconf.Setgid(dir)
	if err != nil {
		var d *queueconf.DirError
		if errors.As(err, &d) {
			c.Infof("error: %s", d.Detail())
		}
		return cli.Exit(cli.Unavailable, "%w", err)
	}
	p := &post{c: c, conf: conf, log: queueconf.Log(conf, c.Name, c.Stderr), public: conf.String("queue_directory") + "/public/"}
	err = p.do(ctx, mode, operand)
	var exit *cli.ExitError
	if errors.As(err, &exit) && exit.Err != nil { // the log keeps what went wrong, too
		p.log.Fatalf("%v", exit.Err)
		return cli.Exit(exit.Code, "")
	}
	return err
}

func (p *post) do(ctx context.Context, mode byte, operand string) error {
	switch mode {
	case 'p', 'j':
		return p.show(ctx, mode == 'j')
	case 'f':
		return p.flush(ctx)
	case 's':
		return p.flushSite(ctx, operand)
	}
	return p.flushFile(ctx, operand)
}

type post struct {
	c      *cli.Cmd
	conf   *maincf.Config
	log    *maillog.Logger
	public string // the directory of the sockets
}

// show asks showq for the queue, or reads the queue itself where there is no
// answer and the caller has the right to.
func (p *post) show(ctx context.Context, json bool) error {
	uid := os.Getuid()
	if name, ok := queueconf.Authorized(p.conf, "authorized_mailq_users", uid); !ok {
		return cli.Exit(cli.Unavailable, "User %s(%d) is not allowed to view the mail queue", name, uid)
	}
	out := bufio.NewWriter(p.c.Stdout)
	list := &listing{w: out, json: json, long: p.conf.Bool("enable_long_queue_ids")}
	conn, err := unixsock.Dial(ctx, "unix", p.public+p.conf.String("showq_service_name"))
	if err != nil {
		err = p.direct(ctx, list, uid, err)
	} else {
		defer conn.Close()
		if err = queue.ReadList(conn, list.add); err != nil {
			err = cli.Exit(cli.IOErr, "malformed showq server response")
		}
	}
	if err == nil {
		list.end()
	}
	if ferr := out.Flush(); ferr != nil && err == nil && !errors.Is(ferr, syscall.EPIPE) {
		err = cli.Exit(cli.IOErr, "output write error: %s", plain(ferr))
	}
	return err
}

// direct lists the queue without showq.
func (p *post) direct(ctx context.Context, list *listing, uid int, down error) error {
	text := fmt.Sprintf("Connect to the %s showq service: %s", p.conf.String("mail_name"), plain(down))
	q, err := queueconf.Open(p.conf)
	if err != nil {
		return err
	}
	if uid != 0 && !owns(q.Path(), uid) {
		return cli.Exit(cli.Unavailable, "Queue report unavailable - mail system is down (%s)", text)
	}
	p.log.Warnf("Mail system is down -- accessing queue directly (%s)", text)
	return q.List(ctx, list.add)
}

// owns reports whether a user owns the queue's own directories, which is what
// mail_owner does.
func owns(dir string, uid int) bool {
	info, err := os.Stat(dir + "/" + string(queue.Active))
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == uid
}

func (p *post) mayFlush() error {
	uid := os.Getuid()
	if name, ok := queueconf.Authorized(p.conf, "authorized_flush_users", uid); !ok {
		return cli.Exit(cli.Unavailable, "User %s(%d) is not allowed to flush the mail queue", name, uid)
	}
	return nil
}

var errDown = cli.Exit(cli.Unavailable, "Cannot flush mail queue - mail system is down")

// flush makes the queue manager try everything again: forget dead destinations,
// scan all, deferred and incoming; and pickup look into maildrop.
func (p *post) flush(ctx context.Context) error {
	if err := p.mayFlush(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if ipc.Trigger(ctx, p.public+p.conf.String("queue_service_name"), []byte("FADI")) != nil ||
		ipc.Trigger(ctx, p.public+p.conf.String("pickup_service_name"), []byte("W")) != nil {
		return errDown
	}
	return nil
}

// flushSite asks for delivery of what waits for a site (ETRN).
func (p *post) flushSite(ctx context.Context, site string) error {
	if err := p.mayFlush(); err != nil {
		return err
	}
	if !validSite(site) {
		return cli.Exit(cli.Unavailable, "Cannot flush mail queue - invalid destination: %q", cut(site))
	}
	if !p.flushes(site) {
		return cli.Exit(cli.Unavailable, "Flush service is not configured for destination %q", site)
	}
	return p.ask(ctx, site, ipc.Attr{Name: "request", Value: "send_site"}, ipc.Attr{Name: "site", Value: site})
}

// flushes reports whether fast_flush_domains names a site or a domain above it.
func (p *post) flushes(site string) bool {
	site = strings.ToLower(site)
	for _, d := range p.conf.List("fast_flush_domains") {
		d = strings.ToLower(d)
		if strings.Contains(d, ":") || strings.HasPrefix(d, "/") { // a table: the server knows
			return true
		}
		if site == d || strings.HasSuffix(site, "."+strings.TrimPrefix(d, ".")) {
			return true
		}
	}
	return false
}

// flushFile asks for delivery of one message.
func (p *post) flushFile(ctx context.Context, id string) error {
	if err := p.mayFlush(); err != nil {
		return err
	}
	if !queue.ValidID(id) {
		return cli.Exit(cli.Unavailable, "Cannot flush queue ID - invalid name: %q", cut(id))
	}
	return p.ask(ctx, id, ipc.Attr{Name: "request", Value: "send_file"}, ipc.Attr{Name: "queue_id", Value: id})
}

// What the flush service answers.
const (
	flushOK   = "0"
	flushBad  = "3"
	flushDeny = "4"
)

func (p *post) ask(ctx context.Context, what string, attrs ...ipc.Attr) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	name := p.conf.String("flush_service_name")
	conn, err := unixsock.Dial(ctx, "unix", p.public+name)
	if err != nil {
		p.log.Warnf("connect to public/%s: %s", name, plain(err))
		return errDown
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	in := bufio.NewReader(conn)
	if hello, err := ipc.ReadAttrs(in); err != nil || ipc.Get(hello, "protocol") != "queue_flush_protocol" {
		return errDown
	}
	if _, err := conn.Write(ipc.EndAttrs(ipc.AppendAttrs(nil, attrs...))); err != nil {
		return errDown
	}
	reply, err := ipc.ReadAttrs(in)
	if err != nil {
		return errDown
	}
	switch status := ipc.Get(reply, "status"); status {
	case flushOK:
		return nil
	case flushDeny:
		return cli.Exit(cli.Unavailable, "Flush service is not configured for destination %q", what)
	case flushBad:
		return cli.Exit(cli.Unavailable, "Invalid request: %q", what)
	case "-1":
		return errDown
	default:
		return cli.Exit(cli.Software, "Unknown flush server reply status %s", status)
	}
}

// validSite reports whether s is a host name or an address, maybe in brackets.
func validSite(s string) bool {
	if strings.HasPrefix(s, "[") {
		s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
		return net.ParseIP(strings.TrimPrefix(s, "IPv6:")) != nil || validSite(s)
	}
	if s == "" || len(s) > 255 {
		return false
	}
	for _, label := range strings.Split(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r > 127) {
				return false
			}
		}
	}
	return true
}

// cut shortens a stranger's text for a message.
func cut(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
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

// listing prints entries as they come.
type listing struct {
	w     io.Writer
	json  bool
	long  bool // room for long queue ids
	count int
	size  int64
}

func (l *listing) add(e *queue.Entry) error {
	if l.json {
		l.addJSON(e)
	} else {
		l.addText(e)
	}
	return nil
}

func (l *listing) addText(e *queue.Entry) {
	head, item := "%-11s %7s %-20s %s\n", "%-11s %7d %20.20s %s\n"
	names := []any{"-Queue ID-", "--Size--", "----Arrival Time----", "-Sender/Recipient-------"}
	if l.long {
		head, item = "%-17s %8s %-19s %s\n", "%-17s %8d %19.19s %s\n"
		names = []any{"----Queue ID-----", "--Size--", "---Arrival Time----", "--Sender/Recipient------"}
	}
	if l.count == 0 {
		fmt.Fprintf(l.w, head, names...)
	} else {
		fmt.Fprintln(l.w)
	}
	l.count++
	l.size += e.Size
	mark := ""
	switch {
	case e.Expired:
		mark = "#"
	case e.Dir == queue.Active:
		mark = "*"
	case e.Dir == queue.Hold:
		mark = "!"
	}
	fmt.Fprintf(l.w, item, e.ID+mark, e.Size, e.Arrival.Format("Mon Jan _2 15:04:05 2006"), printable(e.Sender))
	last := ""
	for _, r := range e.Recipients {
		if r.Reason != last {
			if last = r.Reason; last != "" {
				fmt.Fprintf(l.w, "%*s(%s)\n", max(0, 76-len(last)), "", printable(last))
			}
		}
		fmt.Fprintf(l.w, head, "", "", "", printable(r.Address))
	}
}

func (l *listing) end() {
	switch {
	case l.json:
	case l.count == 0:
		fmt.Fprintln(l.w, "Mail queue is empty")
	case l.count == 1:
		fmt.Fprintf(l.w, "\n-- %d Kbytes in 1 Request.\n", l.size/1024)
	default:
		fmt.Fprintf(l.w, "\n-- %d Kbytes in %d Requests.\n", l.size/1024, l.count)
	}
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 127 {
			return '?'
		}
		return r
	}, s)
}

func (l *listing) addJSON(e *queue.Entry) {
	fmt.Fprintf(l.w, `{"queue_name": %s, "queue_id": %s, "arrival_time": %d, "message_size": %d, "forced_expire": %t, "sender": %s, "recipients": [`,
		quote(string(e.Dir)), quote(e.ID), e.Arrival.Unix(), e.Size, e.Expired, quote(e.Sender))
	for i, r := range e.Recipients {
		if i > 0 {
			io.WriteString(l.w, ", ")
		}
		fmt.Fprintf(l.w, `{"address": %s`, quote(r.Address))
		if r.Reason != "" {
			fmt.Fprintf(l.w, `, "delay_reason": %s`, quote(r.Reason))
		}
		io.WriteString(l.w, "}")
	}
	io.WriteString(l.w, "]}\n")
}

// quote makes a JSON string, RFC 8259, section 7.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 127:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
