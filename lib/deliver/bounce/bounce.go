// Package bounce writes home about mail: that it could not be delivered, that it
// is late, that it arrived where the sender asked for that, or where a probe
// would have gone. A notice is a multipart/report of RFC 3462 with the
// delivery status of RFC 3464, in the words and the order of Postfix' bounce(8),
// which many programs parse.
//
// It promises that nothing is ever written home about a notice: what fails on
// the way to the null sender goes to the postmaster at most, and from there
// nowhere. Whom NOTIFY excludes is left out (RFC 3461, 4.1).
//
// It does not know why recipients failed but from the log entries it is given,
// and submits what it wrote through one function of its caller's.
package bounce

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/queue"
)

// Kind is the occasion of a notice.
type Kind int

const (
	Failed  Kind = iota // undeliverable, or too old
	Delayed             // not yet delivered: delay_warning_time
	Success             // delivered, relayed or expanded, as DSN SUCCESS asks
	Verify              // sendmail -bv, -v
)

// Draft is a message being written; see cleanup.
type Draft interface {
	ID() string
	Recipient(ctx context.Context, r agent.Recipient) error
	io.Writer
	Commit(ctx context.Context) error
	Abort()
}

// Begin starts the submission of a notice.
type Begin func(ctx context.Context, sender address.Address, smtputf8 bool) (Draft, error)

// Config holds what main.cf says.
type Config struct {
	Hostname     string          // myhostname
	Origin       string          // myorigin, for bare names of recipients of notices
	MailName     string          // mail_name, "Postfix"
	DoubleBounce string          // double_bounce_sender
	Notify       map[string]bool // notify_classes: "2bounce", "bounce", "delay"
	// Who gets copies: 2bounce_notice_recipient and its like.
	DoubleRecipient, BounceRecipient, DelayRecipient address.Address

	SizeLimit     int64         // bounce_size_limit; 0: 50000
	DelayWarning  time.Duration // delay_warning_time
	QueueLifetime time.Duration // maximal_queue_lifetime
	UTF8          bool          // smtputf8_enable
	Now           func() time.Time
}

// Notice is what is to be reported about one message.
type Notice struct {
	Kind     Kind
	QueueID  string
	Sender   address.Address
	EnvID    string
	Ret      string // "FULL", "HDRS", ""
	SMTPUTF8 bool
	Arrival  time.Time
	Entries  iter.Seq2[queue.LogEntry, error]
	Message  agent.Message // nil if it can't be read any more
}

// Sent is a notice that was submitted.
type Sent struct {
	ID   string
	What string // for the log: "sender non-delivery notification"
}

// Bouncer writes notices.
type Bouncer struct {
	c     Config
	begin Begin
}

// New returns a bouncer that submits through begin.
func New(c Config, begin Begin) *Bouncer {
	if c.MailName == "" {
		c.MailName = "Postfix"
	}
	if c.DoubleBounce == "" {
		c.DoubleBounce = "double-bounce"
	}
	if c.SizeLimit <= 0 {
		c.SizeLimit = 50000
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Origin == "" {
		c.Origin = c.Hostname
	}
	for _, p := range []*address.Address{&c.DoubleRecipient, &c.BounceRecipient, &c.DelayRecipient} {
		if p.IsNull() {
			p.Local = "postmaster"
		}
	}
	return &Bouncer{c: c, begin: begin}
}

// doubleBounce is the sender of notices about notices.
func (b *Bouncer) doubleBounce() address.Address {
	return address.Address{Local: b.c.DoubleBounce, Domain: b.c.Hostname}
}

// IsDoubleBounce reports whether a is the address from which notices about
// notices come; mail to it is thrown away.
func (b *Bouncer) IsDoubleBounce(a address.Address) bool {
	return strings.EqualFold(a.Local, b.c.DoubleBounce) && strings.EqualFold(a.Domain, b.c.Hostname)
}

// Send writes the notices that n asks for, to the sender and to the postmaster.
// It returns what was submitted, which may be nothing; an error means that
// it must be tried again.
func (b *Bouncer) Send(ctx context.Context, n *Notice) ([]Sent, error) {
	entries, err := b.entries(n)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	what := [...]string{"non-delivery", "delay", "delivery status", "delivery status"}[n.Kind]
	if n.Sender.IsNull() || b.IsDoubleBounce(n.Sender) {
		if n.Kind != Failed || b.IsDoubleBounce(n.Sender) || !b.c.Notify["2bounce"] {
			return nil, nil
		}
		return b.submit(ctx, n, entries, b.doubleBounce(), b.c.DoubleRecipient, true, "postmaster "+what+" notification")
	}
	sent, err := b.submit(ctx, n, entries, address.Address{}, n.Sender, false, "sender "+what+" notification")
	if err != nil {
		return sent, err
	}
	var copyTo address.Address
	switch {
	case n.Kind == Failed && b.c.Notify["bounce"]:
		copyTo = b.c.BounceRecipient
	case n.Kind == Delayed && b.c.Notify["delay"]:
		copyTo = b.c.DelayRecipient
	default:
		return sent, nil
	}
	c := *n
	c.Ret = "HDRS" // the postmaster need not read other people's mail
	more, err := b.submit(ctx, &c, entries, b.doubleBounce(), copyTo, true, "postmaster "+what+" notification")
	return append(sent, more...), err
}

// entries are those the sender wants to hear of.
func (b *Bouncer) entries(n *Notice) ([]queue.LogEntry, error) {
	var list []queue.LogEntry
	for e, err := range n.Entries {
		if err != nil {
			return nil, err
		}
		switch {
		case n.Kind == Failed && e.Notify != 0 && e.Notify&agent.NotifyFailure == 0:
			continue
		case n.Kind == Delayed && e.Notify != 0 && e.Notify&agent.NotifyDelay == 0:
			continue
		}
		list = append(list, e)
	}
	return list, nil
}

func (b *Bouncer) submit(ctx context.Context, n *Notice, entries []queue.LogEntry, from, to address.Address, postmaster bool, what string) ([]Sent, error) {
	d, err := b.begin(ctx, from, n.SMTPUTF8)
	if err != nil {
		return nil, err
	}
	defer d.Abort()
	r := agent.Recipient{Address: to, Notify: agent.NotifyNever}
	if to.Domain == "" { // of a setting
		to.Domain = b.c.Origin
		r.Address, r.Original = to, r.Address
	}
	if err := d.Recipient(ctx, r); err != nil {
		return nil, err
	}
	w := &writer{Bouncer: b, n: n, w: bufio.NewWriter(d), postmaster: postmaster}
	w.boundary = fmt.Sprintf("%s.%d/%s", n.QueueID, b.c.Now().Unix(), b.c.Hostname)
	w.header(to)
	w.text(entries)
	w.status(entries)
	if err := w.original(); err != nil {
		return nil, err
	}
	w.printf("\n--%s--\n", w.boundary)
	if err := w.w.Flush(); err != nil {
		return nil, err
	}
	if err := d.Commit(ctx); err != nil {
		return nil, err
	}
	return []Sent{{d.ID(), what}}, nil
}
