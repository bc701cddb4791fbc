package imapd

import (
	"errors"
	"io"
	"strconv"

	"angarium/lib/imap"
	"angarium/lib/store"
)

func imapNumber(n uint32) []byte { return strconv.AppendUint(nil, uint64(n), 10) }

// appendMessages is APPEND with MULTIAPPEND (RFC 3501, 6.3.11; RFC 3502): all of
// them or none.
func (s *session) appendMessages() {
	s.dec.SP()
	name := s.dec.Mailbox()
	if !s.dec.MoreArgs() {
		s.dec.Fail(imap.ErrMissing)
	}
	if !s.dec.OK() {
		return
	}
	// A mailbox that is not there, or full, is found out before the client sends.
	box, n, rights, err := s.open(name, store.RightInsert)
	if err != nil {
		s.NO(s.tryCreate(name, err))
		s.dec.Fail(errAnswered)
		return
	}
	defer box.Close()
	var drafts []*store.Draft
	defer func() {
		for _, d := range drafts {
			d.Abort()
		}
	}()
	var refused error
	for s.dec.OK() {
		var source store.Source
		source.Near = n
		size := s.appendHead(&source, rights)
		if !s.dec.OK() {
			break
		}
		if refused == nil {
			var d *store.Draft
			if d, refused = s.stage(source, size); refused == nil {
				drafts = append(drafts, d)
			}
		}
		s.dec.SkipLiteral()
		if !s.dec.Peek(' ') && !s.dec.Peek('\r') && !s.dec.Peek('\n') {
			s.dec.Bad("junk after literal")
		}
		if !s.dec.MoreArgs() {
			break
		}
	}
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	if refused != nil {
		s.NO(s.appendError(refused))
		return
	}
	done, err := box.Append(s.ctx, drafts...)
	if err != nil {
		s.NO(s.tryCreate(name, err))
		return
	}
	view, err := box.View(s.ctx)
	s.sync(true)
	if err != nil || rights&store.RightRead == 0 {
		s.OK("Completed")
		return
	}
	var uids imap.UIDSet
	for _, m := range done {
		uids.Add(imap.UID(m.UID))
	}
	b := append([]byte("[APPENDUID "), imapNumber(view.Status().UIDValidity)...)
	b = uids.Append(append(b, ' '))
	s.OK(string(b) + "] Completed")
}

// appendHead reads a message's flags and date, and the header of its literal.
func (s *session) appendHead(source *store.Source, rights store.Rights) (size int64) {
	if s.dec.Peek('(') {
		source.Flags, source.Keywords = splitFlags(s.dec.Flags("Invalid flag in Append command", false))
		s.dec.SP()
	}
	if s.dec.Peek('"') || !s.dec.Peek('{') && !s.dec.Peek('~') {
		source.Internal = s.dec.DateTime()
		s.dec.SP()
	}
	if rights&store.RightSeen == 0 {
		source.Flags &^= store.FlagSeen
	}
	if rights&store.RightDeleteMsg == 0 {
		source.Flags &^= store.FlagDeleted
	}
	if rights&store.RightWrite == 0 {
		source.Flags &= store.FlagSeen | store.FlagDeleted
		source.Keywords = nil
	}
	if source.Internal.IsZero() {
		source.Internal = s.conf.Now()
	}
	size, nonSync := s.dec.LiteralHeader()
	if !s.dec.OK() {
		return 0
	}
	limit := s.conf.MaxMessageSize
	switch {
	case size == 0:
		s.NO("Zero-length message literal")
		s.dec.Fail(errAnswered)
	case limit > 0 && size > limit:
		s.NO("[TOOBIG] Message size exceeds fixed limit")
		s.dec.Fail(errAnswered)
	case !nonSync:
		s.dec.Accept(size)
	}
	return size
}

// What may not be in a message.
var (
	errBareLF = errors.New("bare newlines")
	errNUL    = errors.New("NUL characters")
	err8Bit   = errors.New("non-ASCII characters in headers")
)

func (s *session) appendError(err error) string {
	for _, e := range [...]error{errBareLF, errNUL, err8Bit} {
		if errors.Is(err, e) {
			return "Message contains " + e.Error()
		}
	}
	return s.errorText(err)
}

// stage lets a message stream into the store.
func (s *session) stage(source store.Source, size int64) (*store.Draft, error) {
	check := &checker{r: s.dec.LiteralReader(), header: true, munge: s.conf.Munge8Bit, reject: s.conf.Reject8Bit}
	source.Reader = check
	source.Limit = size
	d, err := s.conf.Store.Stage(s.ctx, source)
	if check.failed != nil {
		if d != nil {
			d.Abort()
		}
		return nil, check.failed
	}
	return d, err
}

// checker reads a message and fails on what may not be in one. Octets pass
// unchanged unless munge is set.
type checker struct {
	r             io.Reader
	header        bool // still in the header
	start         bool // the last octet ended a line
	last          byte
	munge, reject bool
	failed        error
}

func (c *checker) Read(b []byte) (int, error) {
	if c.failed != nil {
		return 0, c.failed
	}
	n, err := c.r.Read(b)
	last := c.last
	for i, x := range b[:n] {
		switch {
		case x == '\n':
			if last != '\r' {
				c.failed = errBareLF
				return 0, c.failed
			}
			if c.start {
				c.header = false
			}
			c.start = true
		case x == 0:
			c.failed = errNUL
			return 0, c.failed
		case x != '\r':
			c.start = false
			if x >= 128 && c.header && (c.munge || c.reject) {
				if c.reject {
					c.failed = err8Bit
					return 0, c.failed
				}
				b[i] = 'X'
			}
		}
		last = x
	}
	c.last = last
	return n, err
}
