// Package cleanup makes a letter fit for the queue: it completes what a local
// writer left out, takes away headers that must not travel, rewrites and expands
// addresses by tables, watches limits, and then commits.
//
// It is called in-process by whoever brings mail: smtpd, qmgr for pickup, and
// the makers of notices. What comes from the network leaves as it came, octet by
// octet, but for headers that message_drop_headers names; only where the caller
// says that the writer is local are headers added or addresses completed.
//
// It promises that an error leaves nothing in the queue, and that a table that
// can't be asked fails the message for now rather than lose an alias. It does not
// know SMTP, nor where mail goes from here.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/checks"
	"angarium/lib/dsn"
	"angarium/lib/maillog"
	"angarium/lib/milter"
	"angarium/lib/queue"
)

// Table answers one question. Not finding the key is an answer; err means that
// the table could not be asked.
type Table interface {
	Lookup(ctx context.Context, key string) (value string, ok bool, err error)
}

// Config holds the settings; each has the name of its main.cf parameter beside it.
type Config struct {
	Hostname string // myhostname: for Message-Id and the owner of added addresses
	Origin   string // myorigin
	LogTag   string // "postfix/cleanup"

	// Local reports whether a domain is in mydestination or the like, so that
	// tables are also asked for the bare name. nil: Origin only.
	Local func(domain string) bool
	// Rewrite completes an address (append_at_myorigin and the like). nil: a bare
	// name gets "@" and the given domain.
	Rewrite func(a address.Address, domain string) address.Address

	Canonical          Mapping // canonical_maps
	SenderCanonical    Mapping // sender_canonical_maps
	RecipientCanonical Mapping // recipient_canonical_maps
	Masquerade         Masquerade
	VirtualAlias       Table // virtual_alias_maps; each nil if there is none
	SenderBcc          Table // sender_bcc_maps
	RecipientBcc       Table // recipient_bcc_maps
	AlwaysBcc          string
	EmptyRecipient     address.Address // empty_address_recipient; null: none
	Delimiters         string          // recipient_delimiter
	PropagateCanonical bool            // propagate_unmatched_extensions
	PropagateVirtual   bool

	HeaderSizeLimit int   // header_size_limit; 0: 102400
	HopLimit        int   // hopcount_limit; 0: 50
	SizeLimit       int64 // message_size_limit; 0: none
	MinFree         int64 // queue_minfree
	DuplicateLimit  int   // duplicate_filter_limit; 0: 1000
	ExpansionLimit  int   // virtual_alias_expansion_limit; 0: 1000
	RecursionLimit  int   // virtual_alias_recursion_limit; 0: 1000
	LengthLimit     int   // virtual_alias_address_length_limit, octets; 0: 1000
	TokenLimit      int   // header_address_token_limit; 0: 10240
	OwnerPlain      bool  // owner_request_special = no
	NoOriginal      bool  // enable_original_recipient = no
	ColumnFrom      bool  // header_from_format = obsolete: "address (name)"

	Checks      checks.Tables  // header_checks and the like
	MIME        checks.Options // limits, and which faults of the MIME structure cost a letter
	RejectChars string         // message_reject_characters, as octets
	StripChars  string         // message_strip_characters

	Milters      *milter.Config // non_smtpd_milters; nil: none
	MilterMacros milter.Lookup  // values that do not depend on the letter
	MilterChecks checks.Tables  // milter_header_checks

	DropHeaders  []string      // message_drop_headers; nil: bcc, content-length, resent-bcc, return-path
	AddMissing   bool          // always_add_missing_headers
	Undisclosed  string        // undisclosed_recipients_header
	RemoteDomain string        // remote_header_rewrite_domain
	DelayWarning time.Duration // delay_warning_time

	// Notify tells qmgr of a new message; nil: its next scan will find it.
	Notify func(id string)
	Now    func() time.Time
}

// Cleanup takes letters. It is safe for concurrent use.
type Cleanup struct {
	c    Config
	q    *queue.Queue
	drop map[string]bool
}

// New returns a Cleanup that puts its letters into q.
func New(c Config, q *queue.Queue) *Cleanup {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.HeaderSizeLimit, 102400)
	def(&c.HopLimit, 50)
	def(&c.DuplicateLimit, 1000)
	def(&c.ExpansionLimit, 1000)
	def(&c.RecursionLimit, 1000)
	def(&c.LengthLimit, 1000)
	def(&c.TokenLimit, 10240)
	c.MIME.HeaderSize = c.HeaderSizeLimit
	if c.Checks.Headers() || c.Checks.Body != nil || c.MIME.Report != 0 {
		c.MIME.Report |= checks.FaultNesting
	}
	if c.DropHeaders == nil {
		c.DropHeaders = []string{"bcc", "content-length", "resent-bcc", "return-path"}
	}
	if c.LogTag == "" {
		c.LogTag = "postfix/cleanup"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Local == nil {
		c.Local = func(domain string) bool { return strings.EqualFold(domain, c.Origin) }
	}
	if c.Rewrite == nil {
		c.Rewrite = appendDomain
	}
	drop := make(map[string]bool, len(c.DropHeaders))
	for _, name := range c.DropHeaders {
		drop[strings.ToLower(strings.TrimSuffix(name, ":"))] = true
	}
	return &Cleanup{c: c, q: q, drop: drop}
}

// appendDomain is append_at_myorigin; the null sender stays null.
func appendDomain(a address.Address, domain string) address.Address {
	if a.Domain == "" && a.Local != "" {
		a.Domain = domain
	}
	return a
}

// Envelope is what the caller knows before the recipients.
type Envelope struct {
	queue.Envelope
	Local bool  // local_header_rewrite_clients matched, or the sender is on this host
	Plain bool  // a notice of our own: no address is mapped, no BCC added
	Size  int64 // announced size; 0: unknown
	// AutoUTF8 asks for SMTPUTF8 if the header or an address turns out to need it
	// (smtputf8_autodetect_classes).
	AutoUTF8 bool
	Milters  *Milters // of the SMTP session; nil: Config.Milters, if there are any
	Log      *maillog.Logger
}

// Draft is a letter being taken. It is not safe for concurrent use.
type Draft struct {
	c     *Cleanup
	q     *queue.Draft
	env   Envelope
	log   *maillog.Logger
	ctx   context.Context // of Begin: Write has none, and may ask tables
	seen  map[string]struct{}
	size  int64 // content with CRLF line ends, as message_size_limit counts
	hold  bool
	err   error // of ours: nothing more is written
	ended bool

	// What header_checks and the like said.
	judged  bool       // no more is asked
	refused *dsn.Error // the letter is read to its end, and then this is the answer
	discard bool
	filter  string
	redir   string
	bccs    []string
	rcpt    string // the last recipient, for log lines

	milters *Milters          // nil: none, or they are done
	rcpts   []agent.Recipient // while there are milters
	spool   *spool            // the same

	scan     *checks.Scanner
	line     []byte // an incomplete line, where lines are looked at
	stripped []byte
	first    bool // the letter's own first line is to come
	hops     int
	has      uint16 // which headers were there
}

// Space reports 452 4.3.1 if the queue's disk can't take a message of this size:
// with what queue_minfree reserves, and half as much again as the largest message.
func (c *Cleanup) Space(size int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(c.q.Path(), &st); err != nil {
		return noSpace(err)
	}
	free := int64(st.Bavail) * st.Bsize
	if free <= c.c.MinFree || free <= size || free*2 < c.c.SizeLimit*3 {
		return noSpace(fmt.Errorf("not enough free space in mail queue: %d bytes < 1.5*message size limit", free))
	}
	return nil
}

func noSpace(err error) *dsn.Error {
	e := dsn.New(452, "4.3.1", "Insufficient system storage")
	e.Err = err
	return e
}

// Begin starts a letter. Its queue id is known at once.
func (c *Cleanup) Begin(ctx context.Context, e Envelope) (*Draft, error) {
	if e.Size > 0 && c.c.SizeLimit > 0 && e.Size > c.c.SizeLimit {
		return nil, dsn.New(552, "5.3.4", "Message size exceeds fixed limit")
	}
	if err := c.Space(e.Size); err != nil {
		return nil, err
	}
	if e.Rewrite == "" {
		e.Rewrite = "remote"
		if e.Local {
			e.Rewrite = "local"
		}
	}
	if e.Arrival.IsZero() {
		e.Arrival = c.c.Now()
	}
	d := &Draft{c: c, env: e, log: e.Log.As(c.c.LogTag), ctx: ctx, judged: e.Plain}
	opt := c.c.MIME
	if e.Plain {
		opt.Report = 0
	}
	d.scan = checks.NewScanner(opt)
	var failed error
	if !e.Plain {
		e.Sender = c.complete(e.Sender, true)
		e.Sender, failed = d.mapped(ctx, e.Sender, c.c.SenderCanonical, EnvelopeSender)
		d.env.Sender = e.Sender
		if c.c.DelayWarning > 0 && !e.Sender.IsNull() {
			e.Warn = e.Arrival.Add(c.c.DelayWarning)
		}
	}
	q, err := c.q.Create(ctx, e.Envelope)
	if err != nil {
		return nil, d.failed(err)
	}
	d.q = q
	if d.milters = e.Milters; d.milters == nil && c.c.Milters != nil && !e.Plain {
		d.milters = &Milters{}
	}
	if d.milters != nil {
		d.spool = &spool{dir: c.spoolDir()}
	}
	if failed != nil {
		_ = d.tableFailed(failed) // Commit will say so
	}
	if checks.EightBit(e.Sender.Local) || checks.EightBit(e.Sender.Domain) {
		d.sendOpt(queue.UTF8Sender)
	}
	if !e.Plain && c.c.SenderBcc != nil && !e.Sender.IsNull() {
		if err := d.bccFrom(ctx, c.c.SenderBcc, "sender_bcc_maps", e.Sender); err != nil {
			d.Abort()
			return nil, err
		}
	}
	return d, nil
}

// ID is the queue id.
func (d *Draft) ID() string { return d.q.ID() }

// Hold makes Commit put the letter into the hold directory.
func (d *Draft) Hold() { d.hold = true }

// Attr adds a named attribute to the envelope, before the first Write.
func (d *Draft) Attr(name, value string) error { return d.q.Attr(name, value) }

// Record adds a record to the envelope: a content filter or a redirection that an
// access table asked for. Of several of a kind the last one counts.
func (d *Draft) Record(t queue.Type, value string) error { return d.q.Record(t, []byte(value)) }

// failed classifies what the queue said, and keeps it for Commit.
func (d *Draft) failed(err error) error {
	if err == nil {
		return nil
	}
	if queue.ErrNoSpace(err) {
		err = noSpace(err)
	} else {
		e := dsn.From(err, "Error: queue file write error")
		if e.Reply == 0 {
			e.Reply = 451
		}
		err = e
	}
	d.err = err
	return err
}

// tableFailed is what happens when a table could not be asked, or passed a limit:
// the letter is read to its end, and then refused for now. It returns d.err.
func (d *Draft) tableFailed(err error) error {
	d.log.Warnf("%s: %v -- message not accepted, try again later", d.q.ID(), err)
	e := dsn.New(451, "4.3.0", "Error: queue file write error")
	var limit *expansionError
	if errors.As(err, &limit) {
		e = dsn.New(451, "4.6.0", "Alias expansion error")
	}
	e.Err = err
	d.refuse(e)
	return d.err
}

// Commit makes the letter ours: after nil it survives a power cut, and the caller
// may say so. After an error there is nothing left of it. A letter that a table
// discards is gone after nil, too.
func (d *Draft) Commit(ctx context.Context) error {
	if d.err == nil {
		d.endOfInput()
	}
	if d.err == nil && d.milters != nil {
		_ = d.filterLetter(ctx)
	}
	if d.err == nil && d.refused != nil {
		d.err = d.refused
	}
	if d.err == nil && !d.env.Plain {
		d.err = d.extras(ctx)
	}
	if d.err == nil && d.discard {
		d.Abort()
		return nil
	}
	if d.err == nil && d.q.Recipients() == 0 {
		d.err = dsn.New(550, "5.1.0", "Error: no recipients specified")
	}
	if d.err == nil && d.hold {
		d.err = d.failed(d.q.Hold())
	}
	if d.err != nil {
		err := d.err
		d.Abort()
		return err
	}
	if d.env.Encoding != "" { // what it turned out to be overrides what was said at first
		d.q.ExtraAttr("encoding", d.env.Encoding)
	}
	if err := d.q.Commit(ctx); err != nil {
		return d.failed(err)
	}
	d.ended = true
	if d.c.c.Notify != nil && !d.hold {
		d.c.c.Notify(d.q.ID())
	}
	return nil
}

// extras adds what stands behind the content: decisions of the checks, and copies.
func (d *Draft) extras(ctx context.Context) error {
	if d.filter != "" {
		if err := d.Record(queue.TypeFilter, d.filter); err != nil {
			return d.failed(err)
		}
	}
	if d.redir != "" {
		if err := d.Record(queue.TypeRedirect, d.redir); err != nil {
			return d.failed(err)
		}
	}
	if d.q.Recipients() > 0 {
		if err := d.bcc(ctx, d.c.c.AlwaysBcc); err != nil {
			return err
		}
	}
	for _, a := range d.bccs {
		if err := d.bcc(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// sendOpt notes what in the letter needs SMTPUTF8.
func (d *Draft) sendOpt(o queue.SendOpts) {
	if d.env.AutoUTF8 {
		o |= queue.UTF8Requested
	}
	d.q.SetSendOpts(d.q.SendOpts() | o)
}

// Recipients is how many recipients the letter has, after expansion.
func (d *Draft) Recipients() int { return d.q.Recipients() + len(d.rcpts) }

// Abort drops the letter. After Commit it does nothing.
func (d *Draft) Abort() {
	if d.q != nil {
		d.q.Abort()
	}
	if d.spool != nil {
		d.spool.close()
		d.spool = nil
	}
	if d.err == nil {
		d.err = context.Canceled
	}
}
