package access

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"angarium/lib/address"
	"angarium/lib/dsn"
)

// one evaluates one restriction.
func (e *evaluation) one(it *item, depth int) (outcome, *dsn.Error) {
	s, c := e.s, &e.p.c
	switch it.name {
	case "permit":
		return permit, nil
	case "reject":
		return e.reject(c.RejectCode, "5.7.1", "Access denied")
	case "defer":
		return e.reject(c.DeferCode, "4.3.2", "Try again later")
	case "defer_if_permit":
		return e.ifPermit(e.reject(450, "4.7.0", "defer_if_permit requested"))
	case "defer_if_reject":
		_, s.ifReject = e.reject(450, "4.7.0", "defer_if_reject requested")
		return dunno, nil
	case "permit_mynetworks":
		return when(c.MyNetworks != nil && c.MyNetworks(s.ClientAddr))
	case "permit_sasl_authenticated":
		return when(s.SASLUser != "")
	case "permit_inet_interfaces":
		return when(c.Own != nil && c.Own(s.ClientAddr))
	case "reject_plaintext_session":
		if !s.TLS {
			return refuse, dsn.New(c.PlainReply, fit(c.PlainReply, "4.7.1"), "Session encryption is required")
		}
	case "reject_unauth_pipelining":
		if s.Pipelining {
			return e.reject(503, "5.5.0", "Improper use of SMTP command pipelining")
		}
	case "reject_multi_recipient_bounce":
		if s.Sender != nil && s.Sender.IsNull() && s.Recipients > 1 {
			return e.reject(c.MultiBounceCode, "5.5.3", "Multi-recipient bounce")
		}
	case "permit_auth_destination", "reject_unauth_destination", "defer_unauth_destination":
		return e.destination(it.name)
	case "reject_unlisted_recipient":
		return e.listed(s.Recipient, true)
	case "reject_unlisted_sender":
		return e.listed(s.Sender, false)
	case "reject_unknown_client_hostname", "reject_unknown_reverse_client_hostname":
		return e.clientName(it.name)
	case "reject_invalid_helo_hostname", "reject_non_fqdn_helo_hostname", "reject_unknown_helo_hostname":
		return e.helo(it.name)
	case "reject_non_fqdn_sender":
		return e.fqdn(s.Sender, classNames[Sender])
	case "reject_non_fqdn_recipient":
		return e.fqdn(s.Recipient, classNames[Recipient])
	case "reject_unknown_sender_domain":
		return e.domain(s.Sender, classNames[Sender], "4.1.8")
	case "reject_unknown_recipient_domain":
		return e.domain(s.Recipient, classNames[Recipient], "4.1.2")
	case "reject_rbl_client", "reject_rhsbl_client", "reject_rhsbl_reverse_client", "reject_rhsbl_helo", "reject_rhsbl_sender", "reject_rhsbl_recipient":
		return e.rbl(it.name, it.arg)
	case "permit_dnswl_client", "permit_rhswl_client":
		return e.white(it.name, it.arg)
	case "check_policy_service":
		if c.Ask == nil {
			return e.unfinished(it.name)
		}
		return e.action(it, c.Ask(e.ctx, it.arg, s), depth)
	case "sleep":
		return e.sleep(it.arg)
	case "reject_authenticated_sender_login_mismatch", "reject_unauthenticated_sender_login_mismatch",
		"reject_known_sender_login_mismatch", "reject_sender_login_mismatch":
		return e.ownership(it.name)
	default:
		if who, kind, ok := serverCheck(it.name); ok {
			return e.servers(it, who, kind, depth)
		}
		switch {
		case isTableCheck(it.name):
			return e.table(it, depth)
		case it.class != nil:
			return e.list(it.class, depth+1)
		case strings.HasPrefix(it.name, "check_"), strings.HasPrefix(it.name, "reject_rhsbl_"), strings.HasPrefix(it.name, "permit_"),
			strings.HasPrefix(it.name, "reject_unverified_"):
			return e.unfinished(it.name)
		}
		e.p.c.Warn("unknown smtpd restriction: %q", it.given)
		return e.serverError()
	}
	return dunno, nil
}

// unfinished is for what Postfix knows and we don't yet. Letting mail through
// that an admin wanted looked at would be worse than letting it wait.
func (e *evaluation) unfinished(name string) (outcome, *dsn.Error) {
	e.p.c.Warn("restriction %q is not implemented", name)
	return e.serverError()
}

func when(yes bool) (outcome, *dsn.Error) {
	if yes {
		return permit, nil
	}
	return dunno, nil
}

// ifPermit remembers a deferral for the case that all else lets the mail pass.
func (e *evaluation) ifPermit(_ outcome, err *dsn.Error) (outcome, *dsn.Error) {
	if e.s.warnOnly {
		return refuse, err
	}
	if e.s.ifPermit == nil {
		e.s.ifPermit = err
	}
	return dunno, nil
}

func (e *evaluation) destination(name string) (outcome, *dsn.Error) {
	r := e.s.Recipient
	if r == nil || e.p.c.Destination == nil {
		return dunno, nil
	}
	ours, err := e.p.c.Destination(e.ctx, *r)
	switch {
	case err != nil:
		e.p.c.Warn("%v", err)
		return refuse, dsn.New(451, "4.3.0", "<%s>: Temporary lookup failure", r)
	case ours:
		return when(name == "permit_auth_destination")
	case name == "reject_unauth_destination":
		return refuse, dsn.New(e.p.c.RelayCode, fit(e.p.c.RelayCode, "5.7.1"), "<%s>: Relay access denied", r)
	case name == "defer_unauth_destination":
		return refuse, dsn.New(454, "4.7.1", "<%s>: Relay access denied", r)
	}
	return dunno, nil
}

func (e *evaluation) listed(a *address.Address, recipient bool) (outcome, *dsn.Error) {
	if a == nil || a.IsNull() || e.p.c.Listed == nil {
		return dunno, nil
	}
	err := e.p.c.Listed(e.ctx, *a, recipient)
	if err == nil {
		return dunno, nil
	}
	var d *dsn.Error
	if !errors.As(err, &d) {
		e.p.c.Warn("%v", err)
		d = dsn.New(451, "4.3.0", "<%s>: Temporary lookup failure", a)
	}
	return refuse, d
}

func (e *evaluation) clientName(name string) (outcome, *dsn.Error) {
	s, code := e.s, e.p.c.UnknownClientCode
	if name == "reject_unknown_client_hostname" && s.ClientName == "unknown" {
		o, err := refuse, dsn.New(code, fit(code, "4.7.25"), "Client host rejected: cannot find your hostname, [%s]", s.ClientAddr)
		if s.NameFailed {
			err = dsn.New(450, "4.7.25", "%s", err.Text)
		}
		return o, err
	}
	if name == "reject_unknown_reverse_client_hostname" && s.ReverseName == "unknown" {
		return refuse, dsn.New(code, fit(code, "4.7.1"), "Client host rejected: cannot find your reverse hostname, [%s]", s.ClientAddr)
	}
	return dunno, nil
}

func (e *evaluation) helo(name string) (outcome, *dsn.Error) {
	h, c := e.s.Helo, &e.p.c
	if h == "" {
		return dunno, nil
	}
	class := classNames[Helo]
	literal := strings.HasPrefix(h, "[") && strings.HasSuffix(h, "]")
	plain := strings.TrimSuffix(h, ".")
	valid := false
	if literal {
		_, err := netip.ParseAddr(strings.TrimPrefix(strings.ToLower(h[1:len(h)-1]), "ipv6:"))
		valid = err == nil
	} else if _, err := netip.ParseAddr(h); err == nil {
		valid, literal = true, true
	} else {
		valid = hostname(plain)
	}
	switch name {
	case "reject_invalid_helo_hostname":
		if !valid {
			text := "Invalid name"
			if literal {
				text = "invalid ip address"
			}
			return blame(c.InvalidHostCode, "5.5.2", h, class, text)
		}
	case "reject_non_fqdn_helo_hostname":
		if !literal && (!valid || !strings.Contains(plain, ".")) || h[0] != '[' && literal {
			return blame(c.NonFQDNCode, "5.5.2", h, class, "need fully-qualified hostname")
		}
	case "reject_unknown_helo_hostname":
		if literal || c.DNS == nil {
			return dunno, nil
		}
		if strings.HasSuffix(h, ".") { // never looked up, and so not found
			return blame(c.UnknownHostCode, "4.7.1", h, class, "Host not found")
		}
		ok, err := c.DNS.Host(e.ctx, plain)
		if err == nil && !ok {
			if ok, err = c.DNS.Mail(e.ctx, plain); errors.Is(err, ErrNullMX) {
				ok, err = true, nil
			}
		}
		if err != nil {
			return e.ifPermit(blame(450, "4.7.1", h, class, "Host not found"))
		}
		if !ok {
			return blame(c.UnknownHostCode, "4.7.1", h, class, "Host not found")
		}
	}
	return dunno, nil
}

// hostname reports whether h is made of labels as host names are.
func hostname(h string) bool {
	if h == "" || len(h) > 255 {
		return false
	}
	digits := true
	for label := range strings.SplitSeq(h, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := 0; i < len(label); i++ {
			c := label[i]
			switch {
			case c >= '0' && c <= '9':
			case c|0x20 >= 'a' && c|0x20 <= 'z', c == '-', c == '_', c >= 0x80:
				digits = false
			default:
				return false
			}
		}
	}
	return !digits
}

func (e *evaluation) fqdn(a *address.Address, class string) (outcome, *dsn.Error) {
	if a == nil || a.IsNull() {
		return dunno, nil
	}
	d := strings.TrimSuffix(a.Domain, ".")
	if strings.HasPrefix(d, "[") || strings.Contains(d, ".") && hostname(d) {
		return dunno, nil
	}
	return blame(e.p.c.NonFQDNCode, "5.5.2", a.String(), class, "need fully-qualified address")
}

func (e *evaluation) domain(a *address.Address, class, status string) (outcome, *dsn.Error) {
	c := &e.p.c
	if a == nil || a.Domain == "" || strings.HasPrefix(a.Domain, "[") || c.DNS == nil {
		return dunno, nil
	}
	if c.Final != nil { // where mail ends here no DNS is needed
		if ours, err := c.Final(e.ctx, a.Domain); err == nil && ours {
			return dunno, nil
		}
	}
	ok, err := c.DNS.Mail(e.ctx, a.Domain)
	if errors.Is(err, ErrNullMX) {
		code, null := 550, "5.7.27"
		if class == classNames[Recipient] {
			code, null = 556, "5.1.10"
		}
		return blame(code, null, a.String(), class, "Domain "+a.Domain+" does not accept mail (nullMX)")
	}
	if err != nil {
		return e.ifPermit(blame(450, status, a.String(), class, "Domain not found"))
	}
	if !ok {
		return blame(c.UnknownAddressCode, status, a.String(), class, "Domain not found")
	}
	return dunno, nil
}

// sleep keeps a client waiting for some seconds.
func (e *evaluation) sleep(arg string) (outcome, *dsn.Error) {
	n, err := strconv.Atoi(arg)
	if err != nil || n < 0 || n > maxSleep {
		e.p.c.Warn("restriction sleep: bad argument %q", arg)
		return e.serverError()
	}
	select {
	case <-time.After(time.Duration(n) * time.Second):
	case <-e.ctx.Done():
	}
	return dunno, nil
}

// maxSleep is in seconds; no client waits longer.
const maxSleep = 300

// reversed is an address as DNSBL zones spell it, RFC 5782.
func reversed(a netip.Addr) string {
	a = a.Unmap()
	if a.Is4() {
		b := a.As4()
		return strconv.Itoa(int(b[3])) + "." + strconv.Itoa(int(b[2])) + "." + strconv.Itoa(int(b[1])) + "." + strconv.Itoa(int(b[0]))
	}
	const hex = "0123456789abcdef"
	b := a.As16()
	out := make([]byte, 0, 64)
	for i := 15; i >= 0; i-- {
		out = append(out, hex[b[i]&15], '.', hex[b[i]>>4], '.')
	}
	return string(out[:len(out)-1])
}

// table is check_*_access.
func (e *evaluation) table(it *item, depth int) (outcome, *dsn.Error) {
	if it.table == nil {
		if it.err == errBadArg {
			arg := it.arg
			if arg == "" {
				arg = it.name
			}
			e.p.c.Warn("restriction %s: bad argument %q: need maptype:mapname", it.name, arg)
			return e.serverError()
		}
		e.p.c.Warn("%s: %v", it.arg, it.err)
	}
	s := e.s
	var keys []string
	var name, class string
	switch it.name {
	case "check_client_access":
		name, class = s.clientID(), classNames[Client]
		keys = append(e.p.domainKeys(s.ClientName), addrKeys(s.ClientAddr)...)
	case "check_reverse_client_hostname_access":
		name, class = s.ReverseName, "Unverified Client host"
		keys = e.p.domainKeys(s.ReverseName)
	case "check_helo_access":
		if s.Helo == "" {
			return dunno, nil
		}
		name, class = s.Helo, classNames[Helo]
		keys = e.p.domainKeys(s.Helo)
	case "check_sender_access":
		if s.Sender == nil {
			return dunno, nil
		}
		name, class = s.Sender.String(), classNames[Sender]
		keys = e.p.addressKeys(e.p.resolved(e.ctx, *s.Sender))
	case "check_recipient_access":
		if s.Recipient == nil {
			return dunno, nil
		}
		name, class = s.Recipient.String(), classNames[Recipient]
		keys = e.p.addressKeys(e.p.resolved(e.ctx, *s.Recipient))
	case "check_etrn_access":
		name, class = s.Etrn, classNames[Etrn]
		keys = e.p.domainKeys(s.Etrn)
	case "check_sasl_access":
		if s.SASLUser == "" {
			return dunno, nil
		}
		name, class = s.SASLUser, "SASL login name"
		keys = []string{s.SASLUser}
	}
	in := &evaluation{p: e.p, s: s, ctx: e.ctx, name: name, class: class}
	return in.look(it, keys, depth)
}

// look asks a table for keys, one after the other; the first that is there counts.
func (e *evaluation) look(it *item, keys []string, depth int) (outcome, *dsn.Error) {
	for _, k := range keys {
		var value string
		ok, err := false, it.err
		if it.table != nil {
			value, ok, err = it.table.Lookup(e.ctx, k)
		}
		if err != nil {
			if it.table != nil {
				e.p.c.Warn("%s lookup error for %q", it.arg, k)
			}
			return blame(451, "4.3.5", e.name, e.class, "Server configuration error")
		}
		if ok {
			return e.action(it, value, depth)
		}
	}
	return dunno, nil
}

// resolved is an address as tables know it: complete, and without what routes it.
func (p *Policy) resolved(ctx context.Context, a address.Address) address.Address {
	if p.c.Resolve == nil || a.IsNull() {
		return a
	}
	r, err := p.c.Resolve(ctx, a)
	if err != nil {
		p.c.Warn("%v", err)
		return a
	}
	return r
}

// domainKeys are a name and its parents, access(5): without
// parent_domain_matches_subdomains these begin with a dot.
func (p *Policy) domainKeys(name string) []string {
	if name == "" {
		return nil
	}
	if strings.HasPrefix(name, "[") {
		return []string{name}
	}
	keys := []string{name}
	for rest := name; ; {
		i := strings.IndexByte(rest, '.')
		if i < 0 || i+1 == len(rest) {
			return keys
		}
		rest = rest[i:]
		if p.c.Parents {
			keys = append(keys, rest[1:])
		} else {
			keys = append(keys, rest)
		}
		rest = rest[1:]
	}
}

// addrKeys are an address and the networks that contain it, octet by octet.
func addrKeys(a netip.Addr) []string {
	if !a.IsValid() {
		return nil
	}
	a = a.Unmap()
	s, sep := a.String(), "."
	if a.Is6() {
		sep = ":"
	}
	keys := []string{s}
	for {
		i := strings.LastIndex(s, sep)
		if i <= 0 {
			return keys
		}
		s = strings.TrimRight(s[:i], sep)
		if s == "" {
			return keys
		}
		keys = append(keys, s)
	}
}

// addressKeys are user@domain, domain and parents, user@; with an extension the
// address without it, too.
func (p *Policy) addressKeys(a address.Address) []string {
	if a.IsNull() {
		return []string{p.c.NullKey}
	}
	keys := []string{a.String()}
	user, _, ext := address.SplitExtension(a.Local, p.c.Delimiters)
	if ext {
		keys = append(keys, address.Address{Local: user, Domain: a.Domain}.String())
	}
	keys = append(keys, p.domainKeys(a.Domain)...)
	keys = append(keys, a.Local+"@")
	if ext {
		keys = append(keys, user+"@")
	}
	return keys
}

// action is the right side of an access(5) table.
func (e *evaluation) action(it *item, value string, depth int) (outcome, *dsn.Error) {
	if strings.TrimSpace(value) == "" {
		e.p.c.Warn("access table %s entry %s has empty value", it.arg, e.name)
		return dunno, nil
	}
	word, text, _ := strings.Cut(strings.TrimSpace(value), " ")
	text = strings.TrimSpace(text)
	c := &e.p.c
	denied := text
	if denied == "" {
		denied = "Access denied"
	}
	trigger := func(kind EffectKind, arg string) (outcome, *dsn.Error) {
		log := "<" + e.name + ">: " + e.class + " triggers " + strings.ToUpper(word)
		switch kind {
		case Hold, Discard:
			log += " action"
			if text != "" {
				log = "<" + e.name + ">: " + e.class + " " + text
			}
		case Warn, Info:
			log = text
		case Prepend:
			log = ""
		default:
			log += " " + arg
		}
		e.effect(Effect{Kind: kind, Arg: arg, Log: log})
		if kind == Discard { // all is decided
			return permit, nil
		}
		return dunno, nil
	}
	switch strings.ToUpper(word) {
	case "OK", "RELAY":
		return permit, nil
	case "DUNNO":
		return dunno, nil
	case "REJECT":
		return e.coded(c.AccessMapReject, "5.7.1", denied)
	case "DEFER":
		return e.coded(c.AccessMapDefer, "4.7.1", denied)
	case "DEFER_IF_PERMIT":
		return e.ifPermit(e.coded(450, "4.7.1", orText(text, "Service unavailable")))
	case "DEFER_IF_REJECT":
		_, e.s.ifReject = e.coded(450, "4.7.1", orText(text, "Service unavailable"))
		return dunno, nil
	case "WARN":
		return trigger(Warn, text)
	case "INFO":
		return trigger(Info, text)
	case "HOLD":
		return trigger(Hold, text)
	case "DISCARD":
		return trigger(Discard, text)
	case "FILTER", "REDIRECT", "PREPEND", "BCC":
		if text == "" {
			c.Warn("access table %s entry %q has %s entry without value", it.arg, e.name, strings.ToUpper(word))
			return dunno, nil
		}
		if word := strings.ToUpper(word); word == "PREPEND" && strings.IndexByte(text, ':') <= 0 {
			c.Warn("access table %s entry %q requires PREPEND header: value", it.arg, e.name)
			return dunno, nil
		}
		return trigger(map[string]EffectKind{"FILTER": Filter, "REDIRECT": Redirect, "PREPEND": Prepend, "BCC": BCC}[strings.ToUpper(word)], text)
	}
	if code, err := strconv.Atoi(word); err == nil {
		switch {
		case text == "" || strings.Trim(value, "0123456789") == "": // a time stamp or the like
			return permit, nil
		case len(word) == 3 && code >= 400 && code <= 599:
			return e.coded(code, strconv.Itoa(code/100)+".7.1", text)
		}
	}
	return e.list(e.p.Parse(Recipient, value), depth+1)
}

func orText(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// coded refuses with a text that may begin with a status of its own.
func (e *evaluation) coded(code int, status, text string) (outcome, *dsn.Error) {
	first, rest, _ := strings.Cut(text, " ")
	if own, err := dsn.ParseCode(first); err == nil && own[0] == code/100 {
		status, text = first, strings.TrimSpace(rest)
		if text == "" {
			text = "Access denied"
		}
	}
	return e.reject(code, status, text)
}
