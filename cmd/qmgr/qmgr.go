// Package qmgr is the queue manager's program: it reads main.cf, introduces the
// scheduler to the queue, the router, the agents and cleanup, and answers on
// the sockets of qmgr, pickup, showq, flush, bounce and their like, for which it
// stands in. See qmgr(8).
//
// It trusts what stands in the queue directory, and whoever may write to its
// sockets to ask for tries, but for nothing else.
package qmgr

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"angarium/lib/address"
	"angarium/lib/cleanup"
	"angarium/lib/cli"
	"angarium/lib/conf/mailconf"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/queueconf"
	"angarium/lib/deliver/bounce"
	"angarium/lib/deliver/local"
	"angarium/lib/ipc"
	"angarium/lib/maillog"
	"angarium/lib/maps"
	"angarium/lib/qmgr"
	"angarium/lib/queue"
	"angarium/lib/route"
	"angarium/lib/safefile"
	"angarium/lib/service"
)

// Main runs the queue manager.
func Main(ctx context.Context, c *cli.Cmd) error {
	return service.Run(ctx, c, service.Daemon{Program: "qmgr", Setup: setup})
}

// daemon is one queue manager.
type daemon struct {
	conf    *maincf.Config
	log     *maillog.Logger
	queue   *queue.Queue
	cleanup *cleanup.Cleanup
	posted  *cleanup.Cleanup // for what people on this machine post
	filter  string           // content_filter of that

	flushable *route.List // fast_flush_domains
	m         *qmgr.Manager
	agents    []io.Closer
	file      *os.File // pid/unix.qmgr
}

func setup(_ context.Context, env *service.Env) (service.Handler, error) {
	d := &daemon{conf: env.Main, log: env.Log}
	q, err := queueconf.Open(d.conf)
	if err != nil {
		return nil, err
	}
	d.queue = q
	if d.file, err = d.lockFile(); err != nil { // in a directory of root
		return nil, err
	}
	router, err := mailconf.Router(env.Conf("trivial-rewrite", ""), d.log)
	if err != nil {
		return nil, err
	}
	cc, err := mailconf.Cleanup(env.Conf("cleanup", d.conf.String("cleanup_service_name")), router, d.log)
	if err != nil {
		return nil, err
	}
	// Notices and what aliases forward were judged when they, or their cause, came in.
	mailconf.NoChecks(&cc)
	cc.Milters = nil
	cc.Notify = func(id string) { d.m.Notice(id) } // no way over a socket to ourselves
	d.cleanup = cleanup.New(cc, q)
	if err := d.pickupCleanup(env, router); err != nil {
		return nil, err
	}
	if d.flushable, err = mailconf.Domains(d.conf, "fast_flush_domains", d.log); err != nil {
		return nil, err
	}
	expander, err := d.expander(router)
	if err != nil {
		return nil, err
	}
	transports, err := d.transports(env)
	if err != nil {
		return nil, err
	}
	own, notices := env.Conf("qmgr", ""), env.Conf("bounce", d.conf.String("bounce_service_name"))
	conf := qmgr.Config{
		Queue: q, Log: d.log, Prefix: d.conf.String("syslog_name") + "/", Resolver: router, Transports: transports, Outside: d.outside,
		Local: expander, Bounce: bounce.New(bounceConfig(notices), d.notice), Forward: d.forward, Pickup: d.pickup,
		ActiveLimit: own.Int("qmgr_message_active_limit"), Recipients: own.Int("qmgr_message_recipient_limit"), MinRecipients: own.Int("qmgr_message_recipient_minimum"),
		RefillDelay:    own.Duration("default_recipient_refill_delay"),
		TransportRetry: own.Duration("transport_retry_time"), ClogWarn: own.Duration("qmgr_clog_warn_time"),
		QueueRunDelay: own.Duration("queue_run_delay"), MinBackoff: atLeastSome(own, "minimal_backoff_time"),
		MaxBackoff: atLeastSome(own, "maximal_backoff_time"), Lifetime: atLeastSome(own, "maximal_queue_lifetime"),
		BounceLifetime: atLeastSome(own, "bounce_queue_lifetime"), DeferTransport: map[string]bool{},
		Rewrite: router.Rewrite, SoftBounce: own.Bool("soft_bounce"), FilterNextHop: own.String("default_filter_nexthop"),
	}
	for _, name := range own.List("defer_transports") {
		conf.DeferTransport[name] = true
	}
	for _, c := range []*maincf.Config{d.conf, own, notices} {
		if err := c.Err(); err != nil {
			return nil, err
		}
	}
	d.m = qmgr.New(conf)
	return d, nil
}

// atLeastSome is a time for which 0 means "at once", as in maximal_queue_lifetime
// (one try and no more), and not "as usual".
func atLeastSome(conf *maincf.Config, name string) time.Duration { return max(conf.Duration(name), 1) }

func bounceConfig(conf *maincf.Config) bounce.Config {
	c := bounce.Config{
		Hostname: conf.String("myhostname"), Origin: conf.String("myorigin"), MailName: conf.String("mail_name"),
		DoubleBounce: conf.String("double_bounce_sender"), Notify: map[string]bool{}, SizeLimit: conf.Size("bounce_size_limit"),
		DelayWarning: conf.Duration("delay_warning_time"), QueueLifetime: conf.Duration("maximal_queue_lifetime"),
		UTF8:            conf.Bool("smtputf8_enable"),
		DoubleRecipient: address.Parse(conf.String("2bounce_notice_recipient")),
		BounceRecipient: address.Parse(conf.String("bounce_notice_recipient")),
		DelayRecipient:  address.Parse(conf.String("delay_notice_recipient")),
	}
	for _, class := range conf.List("notify_classes") {
		c.Notify[class] = true
	}
	return c
}

// expander reads what local(8) decides in this process.
func (d *daemon) expander(router *route.Router) (*local.Expander, error) {
	c := local.Config{
		MailboxTransport: d.conf.String("mailbox_transport"), FallbackTransport: d.conf.String("fallback_transport"),
		LuserRelay: d.conf.String("luser_relay"), Delimiters: d.conf.String("recipient_delimiter"),
		OwnerSpecial: d.conf.Bool("owner_request_special"), ExpandOwner: d.conf.Bool("expand_owner_alias"),
		DefaultUser: d.conf.String("default_privs"), ForwardPath: d.conf.List("forward_path"), ForwardFilter: d.conf.String("forward_expansion_filter"),
		AllowCommand: has(d.conf.List("allow_mail_to_commands"), "alias"), AllowFile: has(d.conf.List("allow_mail_to_files"), "alias"),
		ThawedDelivered: !d.conf.Bool("frozen_delivered_to"),
		Warn:            d.log.As(d.conf.String("syslog_name") + "/local").Warnf,
		Propagate:       has(d.conf.List("propagate_unmatched_extensions"), "alias"),
		Resolve: func(ctx context.Context, a address.Address) (address.Address, bool, error) {
			a = router.Rewrite(a)
			res, err := router.Resolve(ctx, address.Address{}, a)
			return a, err == nil && res.Class == route.Local && res.Transport == "local", err
		},
	}
	for _, spec := range d.conf.List("alias_maps") {
		t := maps.OpenAny(spec, maps.Options{Warn: d.log.Warnf})
		c.Aliases = append(c.Aliases, local.Alias{Table: t, Name: spec, Owner: "root"})
	}
	users, err := maps.Open("unix:passwd.byname", maps.Options{Warn: d.log.Warnf})
	if err != nil {
		return nil, err
	}
	c.Users = users
	for name, p := range map[string]*local.Table{"mailbox_transport_maps": &c.MailboxTransportMap, "fallback_transport_maps": &c.FallbackMap} {
		if t, err := mailconf.Table(d.conf, name, d.log); err != nil {
			return nil, err
		} else if t != nil {
			*p = t
		}
	}
	return local.NewExpander(c), nil
}

func has(list []string, word string) bool {
	for _, w := range list {
		if w == word {
			return true
		}
	}
	return false
}

// notice starts a bounce or the like.
func (d *daemon) notice(ctx context.Context, sender address.Address, smtputf8 bool) (bounce.Draft, error) {
	e := cleanup.Envelope{Local: true, Log: d.log}
	e.Sender, e.Arrival = sender, time.Now()
	if smtputf8 {
		e.SendOpts = queue.UTF8Requested
	}
	return d.begin(ctx, e, "")
}

// forward starts a message that carries m on.
func (d *daemon) forward(ctx context.Context, m *queue.Message, sender, via address.Address) (bounce.Draft, error) {
	e := cleanup.Envelope{Log: d.log}
	e.Sender, e.Arrival, e.EnvID, e.Ret, e.Encoding, e.SendOpts = sender, time.Now(), m.EnvID, m.Ret, m.Encoding, m.SendOpts
	e.Rewrite = "local"
	draft, err := d.begin(ctx, e, "")
	if err != nil {
		return nil, err
	}
	if !slices.Contains(d.conf.List("prepend_delivered_header"), "forward") {
		return draft, nil
	}
	if _, err := fmt.Fprintf(draft, "Delivered-To: %s\n", via); err != nil {
		draft.Abort()
		return nil, err
	}
	return draft, nil
}

// begin starts a letter of ours with its Received: line.
func (d *daemon) begin(ctx context.Context, e cleanup.Envelope, from string) (*cleanup.Draft, error) {
	return d.beginWith(ctx, d.cleanup, e, from)
}

func (d *daemon) beginWith(ctx context.Context, c *cleanup.Cleanup, e cleanup.Envelope, from string) (*cleanup.Draft, error) {
	draft, err := c.Begin(ctx, e)
	if err != nil {
		return nil, err
	}
	err = draft.Trace(fmt.Appendf(nil, "Received: by %s (%s%s)\n\tid %s; %s\n", d.conf.String("myhostname"), d.conf.String("mail_name"), from,
		draft.ID(), cleanup.Date(e.Arrival)))
	if err != nil {
		draft.Abort()
		return nil, err
	}
	return draft, nil
}

// Run manages the queue, once no other queue manager does.
func (d *daemon) Run(ctx context.Context) error {
	defer d.file.Close()
	// The process before us finishes what is on the wire.
	if err := safefile.Lock(ctx, d.file, safefile.Exclusive); err != nil {
		return fmt.Errorf("%s: %w", d.file.Name(), err)
	}
	defer func() {
		for _, a := range d.agents {
			_ = a.Close()
		}
	}()
	return d.m.Run(ctx)
}

// lockFile opens the file whose lock says which process manages the queue.
func (d *daemon) lockFile() (*os.File, error) {
	name := filepath.Join(d.queue.Path(), "pid", "unix.qmgr")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.Mkdir(filepath.Dir(name), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	}
	return f, err
}

// Drain ends Run when a successor is there.
func (d *daemon) Drain(ctx context.Context) { d.m.Drain(ctx) }

// Wake is the clock of master.cf's wake-up column, or a byte in a named pipe.
func (d *daemon) Wake(_ context.Context, s *service.Service, request []byte) {
	for _, b := range request {
		d.trigger(s.Command, b)
	}
}

func (d *daemon) trigger(command string, b byte) {
	switch {
	case command == "pickup":
		d.m.Trigger('P')
	case command != "qmgr" && command != "nqmgr" && command != "oqmgr":
	case b == '\n' || b == 0:
	default:
		d.m.Trigger(b)
	}
}

// Serve answers on one of the sockets that we stand in for.
func (d *daemon) Serve(ctx context.Context, s *service.Session) {
	switch s.Command {
	case "qmgr", "nqmgr", "oqmgr", "pickup":
		d.serveTrigger(s)
	case "showq":
		if err := d.queue.WriteList(ctx, s.Conn); err != nil && ctx.Err() == nil {
			s.Log.Warnf("showq: %v", err)
		}
	case "flush":
		d.serveFlush(s)
	}
}

// maxTrigger bounds a line of the socket: "N", an id, LF.
const maxTrigger = 128

// serveTrigger reads Postfix' one-byte requests, and "N<id>\n" from cleanup,
// which keeps its connection.
func (d *daemon) serveTrigger(s *service.Session) {
	r := bufio.NewReaderSize(s.Conn, 4096)
	for {
		b, err := r.ReadByte()
		if err != nil {
			return
		}
		if b != 'N' {
			d.trigger(s.Command, b)
			continue
		}
		line, err := r.ReadSlice('\n')
		if err != nil || len(line) > maxTrigger {
			return
		}
		d.m.Notice(strings.TrimSpace(string(line)))
	}
}

// flushSite tries what waits for a site, if fast_flush_domains has it. There are
// no logs for each site as in Postfix: the deferred queue is looked through.
func (d *daemon) flushSite(s *service.Session, site string) string {
	ok, err := d.flushable.Match(context.Background(), site)
	switch {
	case err != nil:
		s.Log.Warnf("fast_flush_domains: %v", err)
		return "-1"
	case !ok:
		return "4"
	}
	d.m.FlushSite(site)
	return "0"
}

// serveFlush is flush(8): tries for one site or one message.
func (d *daemon) serveFlush(s *service.Session) {
	_, err := s.Conn.Write(ipc.EndAttrs(ipc.AppendAttrs(nil, ipc.Attr{Name: "protocol", Value: "queue_flush_protocol"})))
	if err != nil {
		return
	}
	attrs, err := ipc.ReadAttrs(bufio.NewReader(io.LimitReader(s.Conn, 1<<16)))
	if err != nil {
		return
	}
	status := "3" // a bad request
	switch ipc.Get(attrs, "request") {
	case "send_site":
		status = d.flushSite(s, ipc.Get(attrs, "site"))
	case "send_file":
		if id := ipc.Get(attrs, "queue_id"); queue.ValidID(id) {
			d.m.TryNow(id)
			status = "0"
		}
	case "add", "refresh", "purge":
		status = "0"
	}
	_, _ = s.Conn.Write(ipc.EndAttrs(ipc.AppendAttrs(nil, ipc.Attr{Name: "status", Value: status})))
}
