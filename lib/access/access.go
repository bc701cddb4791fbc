// Package access decides who may do what in an SMTP session: the restriction
// lists of main.cf (smtpd_client_restrictions and its sisters) and the tables
// of access(5), in the words of Postfix.
//
// It only decides. A refusal is a *dsn.Error; what else a table asks for (hold,
// discard, prepend...) is a list of Effects for the caller to carry out. Whether
// a domain is ours and an address exists is asked of the caller, who brings the
// answers of routing and of the recipient tables.
//
// It promises that what can't be asked never lets anybody in: a broken table or
// an unknown restriction answers 451, as does Postfix. It does not know the
// protocol, nor the queue.
package access

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"angarium/lib/address"
	"angarium/lib/dsn"
)

// Table answers one question; an error means that nobody may conclude anything.
type Table interface {
	Lookup(ctx context.Context, key string) (value string, ok bool, err error)
}

// DNS asks the domain name system. An error is temporary; a name that does not
// exist is the answer false.
type DNS interface {
	// Mail reports whether a domain has MX, A or AAAA records; ErrNullMX if it has
	// one that says it takes no mail.
	Mail(ctx context.Context, domain string) (bool, error)
	// Host reports whether a host has A or AAAA records.
	Host(ctx context.Context, host string) (bool, error)
	// Block asks a DNSBL: its addresses and its text.
	Block(ctx context.Context, query string) (addrs []netip.Addr, text string, err error)
}

// Config is what the lists are evaluated with. Reply codes of 0 are Postfix'
// defaults.
type Config struct {
	Open       func(spec string) (Table, error) // opens type:name
	Classes    map[string]string                // smtpd_restriction_classes and their lists
	MyNetworks func(netip.Addr) bool
	// Destination reports whether we take mail for this recipient at all: final
	// destination or relay domain, without a route of the sender's making.
	Destination func(ctx context.Context, rcpt address.Address) (bool, error)
	// Listed refuses an address of ours that does not exist; recipient tells
	// whether it is asked as one. An error that is no *dsn.Error is temporary.
	Listed func(ctx context.Context, a address.Address, recipient bool) error
	// Final reports whether a domain's mail ends here (relay domains' does not);
	// nil: no domain's.
	Final func(ctx context.Context, domain string) (bool, error)
	// Resolve brings an address into the form in which tables are asked for it;
	// nil: as it was given.
	Resolve func(ctx context.Context, a address.Address) (address.Address, error)
	DNS     DNS
	// Ask asks a policy server, and always knows an action. service is what stands
	// behind check_policy_service.
	Ask func(ctx context.Context, service string, s *Subject) string
	// RBLReply makes the reply to a client that is on a block list, code first
	// (rbl_reply_maps, default_rbl_reply); nil: the default of the latter.
	RBLReply     func(ctx context.Context, code int, h RBLHit, s *Subject) (string, error)
	SenderLogins Table // smtpd_sender_login_maps
	Own          func(netip.Addr) bool
	Parents      bool   // parent_domain_matches_subdomains holds smtpd_access_maps
	NullKey      string // smtpd_null_access_lookup_key; "": "<>"
	Delimiters   string // recipient_delimiter
	Warn         func(format string, args ...any)

	AccessMapReject, AccessMapDefer, RejectCode, DeferCode                      int
	RelayCode, NonFQDNCode, InvalidHostCode, UnknownHostCode                    int
	UnknownAddressCode, UnknownClientCode, RBLCode, PlainReply, MultiBounceCode int
}

// Subject is what is known of a session when a list is evaluated.
type Subject struct {
	ClientName  string // "unknown" if it can't be trusted
	ReverseName string // "unknown" if there is none
	ClientAddr  netip.Addr
	NameFailed  bool // the name could not be looked up, for now
	Helo        string
	SASLUser    string
	TLS         bool
	Pipelining  bool // the client did not await our answers
	Sender      *address.Address
	Recipient   *address.Address
	Etrn        string
	Recipients  int // so far
	Session     any // whatever Config.Ask needs to know beyond this

	ifPermit, ifReject *dsn.Error
	warnOnly           bool
	effects            []Effect
}

// Effect is what a list asks for beside yes and no.
type Effect struct {
	Kind EffectKind
	Arg  string // header, next hop, address, text
	Log  string // what to log behind "hold: RCPT from x: "; empty: nothing
}

// EffectKind names an effect; its String is the log's word.
type EffectKind int

const (
	Warning EffectKind = iota // warn_if_reject: the refusal that was not made
	Hold
	Discard
	Filter
	Redirect
	Prepend
	BCC
	Warn
	Info
)

func (k EffectKind) String() string {
	return [...]string{"reject_warning", "hold", "discard", "filter", "redirect", "prepend", "bcc", "warn", "info"}[k]
}

// Stage is which list of main.cf one is; it gives refusals their words.
type Stage int

const (
	Client Stage = iota
	Helo
	Sender
	Recipient
	Data
	EndOfData
	Etrn
)

var classNames = [...]string{"Client host", "Helo command", "Sender address", "Recipient address", "Data command", "End-of-data", "Etrn command"}

// Policy holds the configuration, and the classes once they are parsed.
type Policy struct {
	c       Config
	classes map[string]*List
}

// New makes a Policy.
func New(c Config) *Policy {
	for _, d := range []struct {
		code *int
		def  int
	}{{&c.AccessMapReject, 554}, {&c.AccessMapDefer, 450}, {&c.RejectCode, 554}, {&c.DeferCode, 450},
		{&c.RelayCode, 554}, {&c.NonFQDNCode, 504}, {&c.InvalidHostCode, 501}, {&c.UnknownHostCode, 450},
		{&c.UnknownAddressCode, 450}, {&c.UnknownClientCode, 450}, {&c.RBLCode, 554}, {&c.PlainReply, 450}, {&c.MultiBounceCode, 550}} {
		if *d.code == 0 {
			*d.code = d.def
		}
	}
	if c.NullKey == "" {
		c.NullKey = "<>"
	}
	if c.Warn == nil {
		c.Warn = func(string, ...any) {}
	}
	p := &Policy{c: c, classes: make(map[string]*List)}
	for name := range c.Classes {
		p.classes[name] = &List{} // they may name each other
	}
	for name, text := range c.Classes {
		*p.classes[name] = *p.Parse(Recipient, text)
	}
	return p
}

// List is a restriction list.
type List struct {
	stage Stage
	items []item
}

type item struct {
	name  string
	given string // the name as it was written
	arg   string
	table Table // of check_*_access
	err   error // why there is none
	class *List
}

// Empty reports whether the list says nothing.
func (l *List) Empty() bool { return l == nil || len(l.items) == 0 }

// Has reports whether one of the restrictions stands in the list itself.
func (l *List) Has(names ...string) bool {
	for _, it := range l.items {
		for _, n := range names {
			if it.name == n {
				return true
			}
		}
	}
	return false
}

// Parse reads a list and opens its tables. What is wrong with it shows when it
// is evaluated, as with Postfix: mail is deferred, and a warning is logged.
func (p *Policy) Parse(stage Stage, text string) *List {
	l := &List{stage: stage}
	words := Words(text)
	for i := 0; i < len(words); i++ {
		it := item{name: words[i], given: words[i]}
		if kind, name, ok := strings.Cut(it.name, ":"); ok && kind != "" && name != "" && !strings.HasPrefix(it.name, "{") {
			it.arg, it.name = it.name, tableOf(stage) // a bare table: old lists
		} else {
			it.name = canonical(it.name)
		}
		if it.arg == "" && needsArg(it.name) && i+1 < len(words) {
			i++
			it.arg = words[i]
		}
		switch {
		case isTableCheck(it.name):
			it.table, it.err = p.open(it.arg)
		case p.classes[it.name] != nil:
			it.class = p.classes[it.name]
		}
		l.items = append(l.items, it)
	}
	return l
}

func tableOf(s Stage) string {
	return [...]string{"check_client_access", "check_helo_access", "check_sender_access", "check_recipient_access",
		"check_recipient_access", "check_recipient_access", "check_etrn_access"}[s]
}

// canonical replaces the names of old versions.
func canonical(name string) string {
	name = strings.ToLower(name)
	switch name {
	case "permit_auth_destination", "reject_unauth_destination", "check_relay_domains":
		return strings.Replace(name, "check_relay_domains", "reject_unauth_destination", 1)
	case "reject_unknown_client":
		return "reject_unknown_client_hostname"
	case "reject_invalid_hostname":
		return "reject_invalid_helo_hostname"
	case "reject_unknown_hostname":
		return "reject_unknown_helo_hostname"
	case "reject_non_fqdn_hostname":
		return "reject_non_fqdn_helo_hostname"
	case "check_recipient_maps":
		return "reject_unlisted_recipient"
	}
	return name
}

func isTableCheck(name string) bool {
	switch name {
	case "check_client_access", "check_reverse_client_hostname_access", "check_helo_access", "check_sender_access",
		"check_recipient_access", "check_etrn_access", "check_sasl_access":
		return true
	}
	_, _, ok := serverCheck(name)
	return ok
}

func needsArg(name string) bool {
	switch name {
	case "reject_rbl_client", "reject_rhsbl_client", "reject_rhsbl_helo", "reject_rhsbl_sender", "reject_rhsbl_recipient",
		"reject_rhsbl_reverse_client", "permit_dnswl_client", "permit_rhswl_client", "check_policy_service", "sleep":
		return true
	}
	return isTableCheck(name) || strings.HasPrefix(name, "check_") && strings.HasSuffix(name, "_access")
}

var errBadArg = errors.New("need maptype:mapname")

func (p *Policy) open(spec string) (Table, error) {
	if strings.HasPrefix(spec, "{") {
		if w := Words(spec[1 : len(spec)-1]); len(w) > 0 {
			spec = w[0]
		}
	}
	if kind, name, ok := strings.Cut(spec, ":"); !ok || kind == "" || name == "" {
		return nil, errBadArg
	}
	if p.c.Open == nil {
		return nil, errors.New("no tables here")
	}
	return p.c.Open(spec)
}

// Words parts a list at commas and blanks; what stands in braces stays whole.
func Words(s string) []string {
	var out []string
	depth, start := 0, -1
	for i := 0; i <= len(s); i++ {
		if i < len(s) {
			switch c := s[i]; {
			case c == '{':
				depth++
			case c == '}' && depth > 0:
				depth--
			}
		}
		sep := i == len(s) || depth == 0 && strings.IndexByte(", \t\r\n", s[i]) >= 0
		switch {
		case sep && start >= 0:
			out = append(out, s[start:i])
			start = -1
		case !sep && start < 0:
			start = i
		}
	}
	return out
}

// outcome of one restriction or list.
type outcome int

const (
	dunno outcome = iota
	permit
	refuse
)

// Check evaluates lists one after the other: each may permit, which ends that
// list only, or refuse, which ends all. A nil error lets the command pass.
// Effects hold either way.
func (p *Policy) Check(ctx context.Context, s *Subject, lists ...*List) (*dsn.Error, []Effect) {
	s.effects = nil
	s.ifPermit, s.ifReject, s.warnOnly = nil, nil, false
	for _, l := range lists {
		if l.Empty() {
			continue
		}
		name, class := s.named(l.stage)
		e := &evaluation{p: p, s: s, ctx: ctx, name: name, class: class}
		if o, err := e.list(l, 0); o == refuse {
			if err.Code[0] == 5 && s.ifReject != nil {
				err = s.ifReject
			}
			return err, s.effects
		}
	}
	return s.ifPermit, s.effects
}

// named is who a stage is about.
func (s *Subject) named(stage Stage) (name, class string) {
	class = classNames[stage]
	switch stage {
	case Client:
		name = s.clientID()
	case Helo:
		name = s.Helo
	case Sender:
		name = addr(s.Sender)
	case Recipient:
		name = addr(s.Recipient)
	case Data:
		name = "DATA"
	case EndOfData:
		name = "END-OF-MESSAGE"
	case Etrn:
		name = s.Etrn
	}
	return name, class
}

func addr(a *address.Address) string {
	if a == nil {
		return ""
	}
	return a.String()
}

func (s *Subject) clientID() string { return s.ClientName + "[" + s.ClientAddr.String() + "]" }

// evaluation is one walk through a list; name and class are whom refusals blame.
type evaluation struct {
	p           *Policy
	s           *Subject
	ctx         context.Context
	name, class string
}

// maxDepth limits tables that name classes that name tables.
const maxDepth = 20

func (e *evaluation) list(l *List, depth int) (outcome, *dsn.Error) {
	if depth > maxDepth {
		e.p.c.Warn("restriction classes call each other without end")
		return e.serverError()
	}
	for i := range l.items {
		it := &l.items[i]
		if it.name == "warn_if_reject" {
			e.s.warnOnly = true
			continue
		}
		o, err := e.one(it, depth)
		warn := e.s.warnOnly
		e.s.warnOnly = false
		switch {
		case o == refuse && warn:
			e.effect(Effect{Kind: Warning, Arg: replyText(err), Log: replyText(err)})
		case o != dunno:
			return o, err
		}
	}
	return dunno, nil
}

func replyText(e *dsn.Error) string {
	return fmt.Sprintf("%d %s %s", e.ReplyCode(), e.Status(), e.Text)
}

func (e *evaluation) effect(f Effect) { e.s.effects = append(e.s.effects, f) }

func (e *evaluation) serverError() (outcome, *dsn.Error) {
	return refuse, dsn.New(451, "4.3.5", "Server configuration error")
}

// reject refuses with the class of this evaluation.
func (e *evaluation) reject(code int, status, text string) (outcome, *dsn.Error) {
	return blame(code, status, e.name, e.class, text)
}

func blame(code int, status, name, class, text string) (outcome, *dsn.Error) {
	return refuse, dsn.New(code, fit(code, status), "<%s>: %s rejected: %s", name, class, text)
}

// fit makes the class of a status that of its reply code: codes are settings.
func fit(code int, status string) string {
	if c := byte('0' + code/100); c == '4' || c == '5' {
		return string(c) + status[1:]
	}
	return status
}
