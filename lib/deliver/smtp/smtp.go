// Package smtp delivers to other mail servers by SMTP, and by LMTP, which
// Postfix' two programs of that name have in common as well.
//
// For one request it tries the next hops in turn, for each its addresses in the
// order of preference (RFC 5321, 5.1), over a kept connection where there is
// one, until every recipient has an answer. What happened on the way (a dead
// host) goes to the log; the last reason is the recipient's.
//
// It promises that only a server's own 5xx, or the DNS's certain "no such
// domain", is permanent. It does not know the queue, nor when to try again.
package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"angarium/lib/agent"
	"angarium/lib/dns"
	"angarium/lib/dsn"
	"angarium/lib/maillog"
	"angarium/lib/message"
	"angarium/lib/smtp"
	"angarium/lib/unixsock"
)

// Resolver is what of lib/dns is needed.
type Resolver interface {
	MX(ctx context.Context, domain string) ([]dns.MX, error)
	Host(ctx context.Context, host string, f dns.Family) (dns.Host, error)
	Alias(ctx context.Context, name string) (secure bool, err error)
	TLSA(ctx context.Context, name string) (list []dns.TLSA, secure bool, err error)
	Native(ctx context.Context, host string, f dns.Family) ([]netip.Addr, error)
}

// Config holds the values of one service line ("smtp", "relay", "lmtp").
type Config struct {
	LMTP     bool
	Hostname string // myhostname
	Helo     string // smtp_helo_name; "": Hostname
	Resolver Resolver

	Native        bool   // smtp_host_lookup begins with native, or DNS is disabled
	NoMX          bool   // disable_dns_lookups, smtp_dns_support_level = disabled
	IgnoreMXError bool   // ignore_mx_lookup_error
	Family        string // smtp_address_preference: any ipv4 ipv6
	Protocols     dns.Family
	KeepOrder     bool // smtp_randomize_addresses = no
	AddressLimit  int  // smtp_mx_address_limit; 0: none
	SessionLimit  int  // smtp_mx_session_limit; 0: none
	Port          string
	OwnAddresses  []netip.Addr // inet_interfaces, proxy_interfaces
	Fallback      []string     // smtp_fallback_relay
	BestMX        string       // best_mx_transport: where mail goes that would loop
	Bind4, Bind6  netip.Addr

	ConnectTimeout time.Duration // 0: none but the kernel's
	Client         smtp.ClientOptions
	KeepGreeting5x bool // smtp_skip_5xx_greeting = no: a 5xx greeting is final

	TLSPolicy Policy // for all sites; the zero value: no TLS
	// SitePolicy is smtp_tls_policy_maps; nil: there are none.
	SitePolicy func(ctx context.Context, nexthop string) (p Policy, ok bool, err error)
	// TLS makes the configuration for a policy; nil: no TLS. RootCAs are those of
	// the configuration: a server may be trusted by them alone.
	TLS  func(p Policy) (*tls.Config, error)
	DANE DANE
	// TLSLog: smtp_tls_loglevel is at least 1.
	TLSLog     bool
	TLSWrapper bool // smtp_tls_wrappermode

	// Auth returns how to log in, nil: not at all.
	Auth     func(ctx context.Context, at AuthAt) (Login, error)
	AuthHard bool // smtp_sasl_auth_soft_bounce = no: a refused password returns the mail

	CacheTime  time.Duration // smtp_connection_cache_time_limit; 0: no reuse
	ReuseTime  time.Duration // smtp_connection_reuse_time_limit
	ReuseCount int           // smtp_connection_reuse_count_limit; 0: none
	// CacheDemand keeps a connection while more mail for it is near
	// (smtp_connection_cache_on_demand), CacheFor in any case
	// (smtp_connection_cache_destinations; nil: nowhere).
	CacheDemand bool
	CacheFor    func(ctx context.Context, domain string) (bool, error)

	XForward    bool // smtp_send_xforward_command
	AssumeFinal bool // lmtp_assume_final
	NoDowngrade bool // disable_mime_output_conversion

	// DiscardFor is smtp_discard_ehlo_keyword_address_maps; nil: Client.Discard
	// holds for every server.
	DiscardFor func(ctx context.Context, ip string) (keywords []string, ok bool, err error)
}

// Agent delivers by SMTP or LMTP. Deliver is its agent.Agent.
type Agent struct {
	c     Config
	cache cache
}

// New returns an agent for c.
func New(c Config) *Agent {
	if c.Port == "" {
		c.Port = "25"
		if c.LMTP {
			c.Port = "24"
		}
	}
	if c.Helo == "" {
		c.Helo = c.Hostname
	}
	if c.ReuseTime == 0 {
		c.ReuseTime = 300 * time.Second
	}
	return &Agent{c: c, cache: cache{idle: map[string][]*session{}, limit: c.CacheTime}}
}

// Close ends idle connections.
func (a *Agent) Close() { a.cache.close() }

// place is one address of a next hop, ready to be connected to.
type place struct {
	network, address string
	host             string // as the name was looked up
	port             string
	name             string // "mx.example.org[192.0.2.1]"
	relay            string // with the port, for the log
	key              string // of the connection cache
	port25, notBest  bool   // may be ourselves, and is not the best exchanger

	// What DNSSEC says of it.
	realName string // of host, behind aliases
	secure   bool   // the addresses of realName are validated
	mxOf     string // host is a mail exchanger of this domain; "": it is none
	mxSecure bool   // and that is validated
}

func (a *Agent) tcp(host string, ip netip.Addr, port string) place {
	p := place{network: "tcp", host: host, port: port, address: net.JoinHostPort(ip.String(), port), port25: port == "25" && !a.c.LMTP}
	p.name = host + "[" + ip.String() + "]"
	p.relay = p.name + ":" + port
	return p
}

// delivery is one request under way.
type delivery struct {
	*Agent
	r       *agent.Request
	results []agent.Result
	left    []int // recipients without an answer
	last    error // why the hop before gave nothing
	began   time.Time
	site    bool
}

// Deliver is an agent.Agent.
func (a *Agent) Deliver(ctx context.Context, r *agent.Request) []agent.Result {
	d := &delivery{Agent: a, r: r, results: make([]agent.Result, len(r.Recipients)), began: time.Now(), site: true}
	for i := range r.Recipients {
		d.left = append(d.left, i)
	}
	hops := splitHops(r.NextHop)
	first := len(hops)
	if !a.c.LMTP {
		hops = append(hops, a.c.Fallback...)
	}
	for i, hop := range hops {
		if len(d.left) == 0 || ctx.Err() != nil {
			break
		}
		if i >= first && d.last != nil && dsn.Permanent(d.last) && !lookupFailed(d.last) {
			break
		}
		d.hop(ctx, hop, i == len(hops)-1)
	}
	if len(d.left) > 0 {
		err := d.last
		if err == nil {
			err = dsn.From(ctx.Err(), "delivery interrupted")
		}
		for _, i := range d.left {
			d.fail(i, err, "none", time.Since(d.began), 0)
		}
	}
	return d.results
}

func splitHops(s string) []string {
	hops := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' })
	if len(hops) == 0 {
		return []string{s}
	}
	return hops
}

func lookupFailed(err error) bool {
	var e *dns.Error
	return errors.As(err, &e)
}

func (d *delivery) fail(i int, err error, relay string, setup, transmit time.Duration) {
	d.results[i] = agent.Result{Err: err, Relay: relay, Setup: setup, Transmit: transmit, Site: d.site && !dsn.Permanent(err)}
}

// hop tries one next hop. Recipients it leaves have no final answer yet.
func (d *delivery) hop(ctx context.Context, hop string, lastHop bool) {
	places, err := d.places(ctx, hop)
	if err != nil {
		if d.last = err; errors.Is(err, errLoops) && d.c.BestMX != "" {
			d.passOn(hop)
		}
		return
	}
	sessions := 0
	for i, p := range places {
		if len(d.left) == 0 || ctx.Err() != nil {
			return
		}
		if d.c.SessionLimit > 0 && sessions >= d.c.SessionLimit {
			return
		}
		final := lastHop && (i == len(places)-1 || d.c.SessionLimit > 0 && sessions == d.c.SessionLimit-1)
		if d.try(ctx, hop, p, final) {
			sessions++
		}
	}
}

// passOn gives recipients that would loop to best_mx_transport.
func (d *delivery) passOn(hop string) {
	transport, next, _ := strings.Cut(d.c.BestMX, ":")
	if next == "" {
		next = hop
	}
	for _, i := range d.left {
		to := d.r.Recipients[i].Address
		d.r.Log.Infof("%s: passing <%s> to transport=%s", d.r.QueueID, to.Quoted(), transport)
		d.results[i] = agent.Result{Onward: []agent.Onward{{To: to, Hop: transport + ":" + next}}}
	}
	d.left = nil
}

// try carries the message to one address. It reports whether a session came
// about, which counts against smtp_mx_session_limit.
func (d *delivery) try(ctx context.Context, hop string, p place, final bool) bool {
	start := time.Now()
	p.key = p.relay
	if d.c.Auth != nil || d.c.TLSPolicy.mustMatch() || d.c.SitePolicy != nil { // what was said and shown was for this next hop
		p.key += " " + hop
	}
	for s := d.cache.take(p); s != nil; s = d.cache.take(p) {
		s.used++
		d.transfer(ctx, s, p, final, start)
		broken := s.client.Broken()
		d.part(ctx, s, p, hop)
		if len(d.left) == 0 || !broken || ctx.Err() != nil {
			return true
		}
		// An old connection that failed says nothing about the place.
	}
	s, err := d.open(ctx, hop, p)
	if err != nil {
		if errors.Is(err, errPolicy) { // nobody was asked for anything
			d.last = err
			return false
		}
		d.note(p, err, final)
		if (final || dsn.Permanent(d.last)) && !errors.Is(err, errConnect) { // it was there, and is named
			for _, i := range d.left {
				d.fail(i, d.last, p.relay, time.Since(start), 0)
			}
			d.left = nil
		}
		return false
	}
	d.transfer(ctx, s, p, final, start)
	d.part(ctx, s, p, hop)
	return true
}

// part takes leave of a session: it is kept for the next message, or ended.
func (d *delivery) part(ctx context.Context, s *session, p place, hop string) {
	if !s.client.Broken() && d.keep(ctx, s, hop) {
		// A transaction without recipients, say, is still open (RFC 5321, 4.1.4).
		if !s.client.InTransaction() || s.client.Reset(ctx) == nil {
			d.cache.put(p, s)
			return
		}
	}
	s.quit()
}

func (d *delivery) keep(ctx context.Context, s *session, hop string) bool {
	if d.c.CacheTime <= 0 || time.Since(s.began) > d.c.ReuseTime || d.c.ReuseCount > 0 && s.used >= d.c.ReuseCount {
		return false
	}
	if d.c.CacheDemand && d.r.More {
		return true
	}
	if d.c.CacheFor == nil {
		return false
	}
	ok, err := d.c.CacheFor(ctx, hopName(hop))
	if err != nil {
		d.r.Log.Warnf("smtp_connection_cache_destinations: %v", err)
	}
	return ok
}

// errConnect marks that no connection came about.
var errConnect = errors.New("no connection")

// note remembers why a place did not work, and tells the log: where there are
// several, only the last reason would be seen otherwise.
func (d *delivery) note(p place, err error, final bool) {
	var e *dsn.Error
	if errors.As(err, &e) && e.Code[0] == 5 && errors.Is(err, smtp.ErrGreeting) && !d.c.KeepGreeting5x {
		// smtp_skip_5xx_greeting: a server that turns everybody away now is
		// no verdict about this message.
		c := *e
		c.Code[0] = 4
		err = &c
	}
	if errors.Is(err, errConnect) {
		if p.network == "tcp" {
			d.r.Log.Infof("%s", err.Error())
		}
	} else if !final && !dsn.Permanent(err) {
		d.r.Log.Infof("%s: %s", d.r.QueueID, err.Error())
	}
	d.last = err
}

// connectError has the words of smtp(8).
func connectError(p place, err error) error {
	e := dsn.New(0, "4.4.1", "connect to %s: %s", p.relay, reason(err))
	e.Err = fmt.Errorf("%w: %w", errConnect, err)
	return e
}

func reason(err error) string {
	var no syscall.Errno
	switch {
	case errors.As(err, &no):
		return strerror(no)
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "Connection timed out"
	case errors.Is(err, context.Canceled):
		return "Operation canceled"
	}
	return err.Error()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// strerror is errno in the C library's words, which begin with a capital.
func strerror(no syscall.Errno) string {
	s := no.Error()
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// open connects, greets, secures and logs in.
func (d *delivery) open(ctx context.Context, hop string, p place) (*session, error) {
	policy, err := d.policy(ctx, hop, p)
	if err != nil {
		return nil, err
	}
	s, err := d.connect(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := d.secure(ctx, s, policy, hop, p); err != nil {
		s.quit()
		if policy.Level != "may" || !errors.Is(err, errTLS) {
			return nil, err
		}
		// Level "may": what can't be secured goes in clear, on a new connection.
		d.r.Log.Infof("%s: %s", d.r.QueueID, err.Error())
		if s, err = d.connect(ctx, p); err != nil {
			return nil, err
		}
		if err := s.client.Hello(ctx); err != nil {
			s.quit()
			return nil, err
		}
	}
	err = d.ourselves(s, p)
	if err == nil {
		err = d.login(ctx, s, hop, p)
	}
	if err != nil {
		s.quit()
		return nil, err
	}
	return s, nil
}

// ourselves is an error if the server has our name: what we gave it would come back.
func (d *delivery) ourselves(s *session, p place) error {
	if !p.port25 {
		return nil
	}
	greeting, hello := s.client.Names()
	if strings.EqualFold(greeting, d.c.Hostname) {
		d.r.Log.Warnf("host %s greeted me with my own hostname %s", p.relay, d.c.Hostname)
	}
	if !strings.EqualFold(hello, d.c.Hostname) {
		return nil
	}
	d.r.Log.Warnf("host %s replied to HELO/EHLO with my own hostname %s", p.relay, d.c.Hostname)
	if p.notBest {
		return dsn.New(0, "4.4.6", "mail for %s loops back to myself", d.r.NextHop)
	}
	return dsn.New(0, "5.4.6", "mail for %s loops back to myself", d.r.NextHop)
}

func (d *delivery) connect(ctx context.Context, p place) (*session, error) {
	if d.c.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.c.ConnectTimeout)
		defer cancel()
	}
	conn, err := d.dial(ctx, p)
	if err != nil {
		return nil, connectError(p, err)
	}
	o := d.c.Client
	o.LMTP, o.Helo, o.Host, o.Warn = d.c.LMTP, d.c.Helo, p.name, p.odd(d.r.Log)
	if o.Discard, err = d.discard(ctx, p); err != nil {
		conn.Close()
		return nil, err
	}
	return &session{conn: conn, client: smtp.NewClient(conn, o), began: time.Now(), used: 1}, nil
}

// odd logs what a server says that is no failure.
func (p place) odd(log *maillog.Logger) func(string) {
	return func(what string) {
		if strings.HasSuffix(what, " ") {
			log.Warnf("%s%s", what, p.relay)
		} else {
			log.Warnf("%s: %s", p.relay, what)
		}
	}
}

// keywords of smtp_discard_ehlo_keywords, in the order in which they are logged.
var keywords = []string{"8BITMIME", "AUTH", "ETRN", "PIPELINING", "SIZE", "VRFY", "XCLIENT", "XFORWARD", "STARTTLS", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8", "CHUNKING"}

// discard is what of the server's EHLO is not to be believed.
func (d *delivery) discard(ctx context.Context, p place) ([]string, error) {
	list := d.c.Client.Discard
	if ip, _, err := net.SplitHostPort(p.address); err == nil && d.c.DiscardFor != nil {
		special, ok, err := d.c.DiscardFor(ctx, ip)
		if err != nil {
			return nil, dsn.From(err, "smtp_discard_ehlo_keyword_address_maps lookup error")
		}
		if ok {
			list = special
		}
	}
	if len(list) == 0 || slices.Contains(list, "silent-discard") {
		return list, nil
	}
	text := ""
	for _, k := range keywords {
		if slices.Contains(list, strings.ToLower(k)) {
			text += " " + k
		}
	}
	d.r.Log.Infof("discarding %s keywords:%s", map[bool]string{true: "LHLO", false: "EHLO"}[d.c.LMTP], text)
	return list, nil
}

func (d *delivery) dial(ctx context.Context, p place) (net.Conn, error) {
	if bind := d.bind(p); bind.IsValid() {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: bind.AsSlice()}}
		return dialer.DialContext(ctx, p.network, p.address)
	}
	return unixsock.Dial(ctx, p.network, p.address)
}

func (d *delivery) bind(p place) netip.Addr {
	host, _, err := net.SplitHostPort(p.address)
	if p.network != "tcp" || err != nil {
		return netip.Addr{}
	}
	if strings.IndexByte(host, ':') >= 0 {
		return d.c.Bind6
	}
	return d.c.Bind4
}

var errTLS = errors.New("no TLS")

// secure greets and, as the level says, begins TLS.
func (d *delivery) secure(ctx context.Context, s *session, policy Policy, hop string, p place) error {
	must := policy.must()
	if d.c.TLS == nil || policy.none() || p.network == "unix" && !must {
		return s.client.Hello(ctx)
	}
	conf, err := d.c.TLS(policy)
	if err != nil {
		if must {
			return dsn.From(err, "TLS is required, but our TLS engine is unavailable")
		}
		return s.client.Hello(ctx)
	}
	policy = d.obey(policy, p)
	conf = anyone(conf, policy.serverName(hop, p.host))
	if d.c.TLSWrapper {
		if err := s.client.Handshake(ctx, conf); err != nil {
			return err
		}
		if err := d.trust(s, p, hop, conf, policy); err != nil {
			return err
		}
		return s.client.Hello(ctx)
	}
	if err := s.client.Hello(ctx); err != nil {
		return err
	}
	if _, ok := s.client.Extension("STARTTLS"); !ok {
		if must {
			return dsn.New(0, "4.7.4", "TLS is required, but was not offered by host %s", p.name)
		}
		return nil
	}
	var verdict error
	err = s.client.StartTLS(ctx, conf, func() error {
		verdict = d.trust(s, p, hop, conf, policy)
		return verdict
	})
	switch {
	case err == nil || verdict != nil:
		return verdict
	case errors.Is(err, smtp.ErrNoTLS) && !must && !s.client.Broken():
		return nil
	default:
		e := *dsn.From(err, "Cannot start TLS: handshake failure")
		e.Err = fmt.Errorf("%w: %w", errTLS, err)
		e.Code[0] = 4
		return &e
	}
}

// transfer sends the message over s. On a place that is not the final one, or
// when a kept connection turns out to be dead, recipients with a temporary
// failure are left for the next.
func (d *delivery) transfer(ctx context.Context, s *session, p place, final bool, start time.Time) {
	d.site = false
	if d.r.SMTPUTF8 {
		if _, ok := s.client.Extension("SMTPUTF8"); !ok {
			e := dsn.New(0, "5.6.7", "SMTPUTF8 is required, but was not offered by host %s", p.name)
			for _, i := range d.left {
				d.fail(i, e, p.relay, time.Since(start), 0)
			}
			d.left = nil
			return
		}
	}
	m := &smtp.Message{
		From: d.r.Sender, Size: d.r.Message.Size(), SMTPUTF8: d.r.AskUTF8,
		EnvID: d.r.EnvID, Ret: d.r.Ret, Probe: d.r.Verify,
	}
	if d.c.XForward {
		c := d.r.Seen.Client
		m.XForward = &smtp.XForward{Name: c.Name, Addr: c.Addr, Port: c.Port, Proto: c.Proto, Helo: c.Helo, Ident: d.r.Seen.Ident, Source: d.r.Seen.Source}
		m.Warn = func(reply, what string) { d.r.Log.Warnf("host %s said: %s (in reply to %s)", p.relay, reply, what) }
	}
	m.Broke = func(limit int) {
		d.r.Log.Infof("%s: breaking line > %d bytes with <CR><LF>SPACE", d.r.QueueID, limit)
	}
	if !m.Probe {
		m.Content = d.r.Message.Content()
		if _, ok := s.client.Extension("8BITMIME"); !ok && d.r.Encoding == "8bit" && !d.c.NoDowngrade && !d.r.SMTPUTF8 {
			m.Content = message.To7Bit(m.Content)
		}
	}
	switch d.r.Encoding {
	case "8bit":
		m.Body = "8BITMIME"
	case "7bit":
		m.Body = "7BIT"
	}
	_, hasDSN := s.client.Extension("DSN")
	for _, i := range d.left {
		rc := &d.r.Recipients[i]
		m.Recipients = append(m.Recipients, smtp.Envelope{To: rc.Address, Notify: rc.Notify, ORCPT: rc.ORCPT})
	}
	setup := time.Since(start)
	sent := time.Now()
	answers := s.client.Send(ctx, m)
	if c, ok := m.Content.(io.Closer); ok {
		c.Close()
	}
	transmit := time.Since(sent)
	if s.used > 1 && s.client.Broken() {
		final = false
	}

	var again []int
	for n, i := range d.left {
		if n >= len(answers) {
			again = append(again, i)
			continue
		}
		err := answers[n].Err
		if err != nil && !final && !dsn.Permanent(err) {
			again = append(again, i)
			d.last = err
			continue
		}
		res := agent.Result{Err: err, Relay: p.relay, Reuse: s.used, Setup: setup, Transmit: transmit}
		if err == nil {
			res.Text = answers[n].Reply
			res.Status = status(answers[n].Reply)
			res.Action = d.action(hasDSN)
		}
		d.results[i] = res
	}
	if len(again) > 0 && d.last != nil {
		d.r.Log.Infof("%s: %s", d.r.QueueID, d.last.Error())
	}
	d.left = again
}

// action is who reports success, RFC 3461, 5.2.2 and RFC 2033.
func (d *delivery) action(hasDSN bool) string {
	switch {
	case hasDSN:
		return ""
	case d.c.LMTP && d.c.AssumeFinal:
		return "delivered"
	}
	return "relayed"
}

// status takes the enhanced code from a reply, "250 2.0.0 Ok".
func status(reply string) string {
	words := strings.Fields(reply)
	if len(words) > 1 {
		if code, err := dsn.ParseCode(words[1]); err == nil && code[0] == 2 {
			return words[1]
		}
	}
	return "2.0.0"
}

// shuffle mixes the hosts of equal preference.
func shuffle[T any](list []T) {
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}
