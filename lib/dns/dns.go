// Package dns asks the domain name system the few questions that mail has, over
// miekg/dns, by the rules of resolv.conf(5).
//
// An answer is one of three, and they are kept apart because mail depends on it:
// there are records; there are certainly none (Error with NotFound or NoData:
// bounce); or nobody could tell (any other error: try later).
//
// It keeps no cache: a caching resolver on the machine does that. It does not
// know what a mail exchanger is for.
package dns

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
)

// Config tells whom to ask. The zero value asks 127.0.0.1.
type Config struct {
	Servers  []string      // "host:port"
	Timeout  time.Duration // for one try of one server; 5 s
	Attempts int           // rounds over all servers; 2
	Rotate   bool
	Search   []string // only for Host with search
	NDots    int
	Hosts    string // hosts(5) file for native lookups; empty: none
	// DNSSEC asks the name server whether it has validated its answers, and takes
	// its word for it: it must be one that nobody stands before.
	DNSSEC bool
}

// FromResolvConf reads resolv.conf(5). A missing file means the local host, as
// in the C library.
func FromResolvConf(name string) (Config, error) {
	c := Config{Timeout: 5 * time.Second, Attempts: 2, NDots: 1, Hosts: "/etc/hosts"}
	f, err := mdns.ClientConfigFromFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	for _, s := range f.Servers {
		c.Servers = append(c.Servers, net.JoinHostPort(s, f.Port))
	}
	c.Timeout = time.Duration(f.Timeout) * time.Second
	c.Attempts, c.NDots, c.Search = f.Attempts, f.Ndots, f.Search
	return c, nil
}

// Kind is why there is no answer.
type Kind int

const (
	Temporary Kind = iota // nobody could tell
	NotFound              // NXDOMAIN: the name does not exist
	NoData                // the name exists, without records of this type
	Invalid               // no name that could be asked for
)

// Error says that a lookup gave nothing.
type Error struct {
	Name, Type string
	Kind       Kind
	Err        error
}

// Error has the words of Postfix' dns_lookup(3), as bounces and logs show them.
func (e *Error) Error() string {
	text := "Host not found, try again"
	switch e.Kind {
	case NotFound:
		text = "Host not found"
	case NoData:
		text = "Host found but no data record of requested type"
	case Invalid:
		text = "Malformed or unexpected name server reply"
	}
	return fmt.Sprintf("Host or domain name not found. Name service error for name=%s type=%s: %s", e.Name, e.Type, text)
}

func (e *Error) Unwrap() error { return e.Err }

// Missing reports whether it is certain that there is no such record.
func Missing(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind != Temporary
}

// KindOf is the kind of a lookup's error; unknown errors are Temporary.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Temporary
}

// MX is a mail exchanger. Host is without the final dot; "" is the null MX of
// RFC 7505.
type MX struct {
	Pref   uint16
	Host   string
	Secure bool // validated, where Config.DNSSEC asks for that
}

// Host is what a name leads to.
type Host struct {
	Addrs  []netip.Addr
	Name   string // behind aliases
	Secure bool   // all of it was validated
}

// TLSA is a record of RFC 6698: what the certificate of a server is to be.
type TLSA struct {
	Usage, Selector, Matching byte
	Data                      []byte
}

// Resolver asks. It is safe for concurrent use.
type Resolver struct {
	c     Config
	next  atomic.Uint32
	hosts hostsFile
}

// New returns a resolver for c.
func New(c Config) *Resolver {
	if len(c.Servers) == 0 {
		c.Servers = []string{"127.0.0.1:53"}
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Attempts <= 0 {
		c.Attempts = 2
	}
	return &Resolver{c: c, hosts: hostsFile{name: c.Hosts}}
}

// MX returns the mail exchangers of a domain, best first. The search list is
// never used for them.
func (r *Resolver) MX(ctx context.Context, domain string) ([]MX, error) {
	rrs, secure, err := r.question(ctx, domain, mdns.TypeMX)
	if err != nil {
		return nil, err
	}
	var list []MX
	for _, rr := range rrs {
		if mx, ok := rr.(*mdns.MX); ok {
			list = append(list, MX{mx.Preference, strings.TrimSuffix(mx.Mx, "."), secure})
		}
	}
	slices.SortStableFunc(list, func(a, b MX) int { return int(a.Pref) - int(b.Pref) })
	return list, nil
}

// NS returns the name servers of a zone.
func (r *Resolver) NS(ctx context.Context, zone string) ([]string, error) {
	rrs, err := r.ask(ctx, zone, mdns.TypeNS)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, rr := range rrs {
		if ns, ok := rr.(*mdns.NS); ok {
			list = append(list, strings.TrimSuffix(ns.Ns, "."))
		}
	}
	return list, nil
}

// Family chooses between address types.
type Family int

const (
	Both Family = iota
	IPv4
	IPv6
)

// Addrs returns the addresses of a host. An address literal is its own answer.
func (r *Resolver) Addrs(ctx context.Context, host string, f Family) ([]netip.Addr, error) {
	h, err := r.Host(ctx, host, f)
	return h.Addrs, err
}

// Host is Addrs with what else the answers tell.
func (r *Resolver) Host(ctx context.Context, host string, f Family) (Host, error) {
	h := Host{Name: strings.TrimSuffix(host, "."), Secure: true}
	if ip, err := netip.ParseAddr(host); err == nil {
		return Host{Addrs: []netip.Addr{ip.Unmap()}, Name: host}, nil
	}
	var first error
	for _, q := range []struct {
		t    uint16
		skip Family
	}{{mdns.TypeA, IPv6}, {mdns.TypeAAAA, IPv4}} {
		if f == q.skip {
			continue
		}
		rrs, secure, err := r.question(ctx, host, q.t)
		if err != nil {
			// A failure outweighs "no data"; else the last type is named.
			if first == nil || KindOf(first) != Temporary || KindOf(err) == Temporary {
				first = err
			}
			if e := (*Error)(nil); q.t == mdns.TypeA && f == Both && KindOf(err) == NotFound && errors.As(err, &e) {
				// NXDOMAIN holds for every type: nobody needs to ask again.
				c := *e
				c.Type = "AAAA"
				first = &c
				break
			}
			continue
		}
		h.Secure = h.Secure && secure
		for _, rr := range rrs {
			var ip net.IP
			h.Name = strings.TrimSuffix(rr.Header().Name, ".")
			switch rr := rr.(type) {
			case *mdns.A:
				ip = rr.A
			case *mdns.AAAA:
				ip = rr.AAAA
			}
			if a, ok := netip.AddrFromSlice(ip); ok {
				h.Addrs = append(h.Addrs, a.Unmap())
			}
		}
	}
	if len(h.Addrs) == 0 {
		return Host{}, first
	}
	return h, nil
}

// Alias reports whether a name is one and, then, whether that is validated.
func (r *Resolver) Alias(ctx context.Context, name string) (secure bool, err error) {
	_, secure, err = r.question(ctx, name, mdns.TypeCNAME)
	return secure, err
}

// TLSA returns the records of a name such as _25._tcp.mx.example.org, and whether
// they were validated.
func (r *Resolver) TLSA(ctx context.Context, name string) (list []TLSA, secure bool, err error) {
	rrs, secure, err := r.question(ctx, name, mdns.TypeTLSA)
	if err != nil {
		return nil, false, err
	}
	for _, rr := range rrs {
		t, ok := rr.(*mdns.TLSA)
		if !ok {
			continue
		}
		data, err := hex.DecodeString(t.Certificate)
		if err != nil {
			continue
		}
		list = append(list, TLSA{t.Usage, t.Selector, t.MatchingType, data})
	}
	return list, secure, nil
}

// Native returns the addresses that the machine itself would use: the hosts
// file first, then DNS with the search list (smtp_host_lookup = native).
func (r *Resolver) Native(ctx context.Context, host string, f Family) ([]netip.Addr, error) {
	if addrs := r.hosts.lookup(host, f); len(addrs) > 0 {
		return addrs, nil
	}
	if strings.HasSuffix(host, ".") || strings.Count(host, ".") >= max(r.c.NDots, 1) || len(r.c.Search) == 0 {
		return r.Addrs(ctx, host, f)
	}
	for _, s := range r.c.Search {
		addrs, err := r.Addrs(ctx, host+"."+s, f)
		if err == nil || !Missing(err) {
			return addrs, err
		}
	}
	return r.Addrs(ctx, host, f)
}

// HostsFile returns what the hosts file says about a name; nil if nothing.
func (r *Resolver) HostsFile(host string, f Family) []netip.Addr { return r.hosts.lookup(host, f) }

// PTR returns the names of an address, without final dots.
func (r *Resolver) PTR(ctx context.Context, ip netip.Addr) ([]string, error) {
	if names := r.hosts.names(ip); len(names) > 0 {
		return names, nil
	}
	arpa, err := mdns.ReverseAddr(ip.Unmap().String())
	if err != nil {
		return nil, &Error{Name: ip.String(), Type: "PTR", Kind: Invalid, Err: err}
	}
	rrs, err := r.ask(ctx, arpa, mdns.TypePTR)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, rr := range rrs {
		if p, ok := rr.(*mdns.PTR); ok {
			names = append(names, strings.TrimSuffix(p.Ptr, "."))
		}
	}
	return names, nil
}

// TXT returns text records, the strings of each joined.
func (r *Resolver) TXT(ctx context.Context, name string) ([]string, error) {
	rrs, err := r.ask(ctx, name, mdns.TypeTXT)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, rr := range rrs {
		if t, ok := rr.(*mdns.TXT); ok {
			list = append(list, strings.Join(t.Txt, ""))
		}
	}
	return list, nil
}

// ask returns the records of one type.
func (r *Resolver) ask(ctx context.Context, name string, qtype uint16) ([]mdns.RR, error) {
	rrs, _, err := r.question(ctx, name, qtype)
	return rrs, err
}

// question returns the records of one type, CNAMEs followed as far as the server
// answered them, and whether they were validated. At least one record, or an error.
func (r *Resolver) question(ctx context.Context, name string, qtype uint16) ([]mdns.RR, bool, error) {
	fail := func(k Kind, err error) ([]mdns.RR, bool, error) {
		return nil, false, &Error{Name: strings.TrimSuffix(name, "."), Type: mdns.TypeToString[qtype], Kind: k, Err: err}
	}
	if _, ok := mdns.IsDomainName(name); !ok || name == "" {
		return fail(Invalid, nil)
	}
	m := new(mdns.Msg)
	m.SetQuestion(mdns.Fqdn(name), qtype)
	m.SetEdns0(1232, r.c.DNSSEC)
	m.AuthenticatedData = r.c.DNSSEC
	reply, err := r.exchange(ctx, m)
	if err != nil {
		return fail(Temporary, err)
	}
	if reply.Rcode == mdns.RcodeNameError {
		return fail(NotFound, nil)
	}
	var found []mdns.RR
	for _, rr := range reply.Answer {
		if rr.Header().Rrtype == qtype {
			found = append(found, rr)
		}
	}
	if len(found) == 0 {
		return fail(NoData, nil)
	}
	return found, reply.AuthenticatedData, nil
}

// exchange tries the servers in turn until one gives an answer that means
// something: success, or "no such name".
func (r *Resolver) exchange(ctx context.Context, m *mdns.Msg) (*mdns.Msg, error) {
	var last error
	start := 0
	if r.c.Rotate {
		start = int(r.next.Add(1))
	}
	for n := 0; n < r.c.Attempts*len(r.c.Servers); n++ {
		server := r.c.Servers[(start+n)%len(r.c.Servers)]
		reply, err := r.once(ctx, m, server)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			last = err
			continue
		}
		switch reply.Rcode {
		case mdns.RcodeSuccess, mdns.RcodeNameError:
			return reply, nil
		case mdns.RcodeFormatError:
			m = m.Copy() // a server that does not know EDNS
			m.Extra = nil
		}
		last = fmt.Errorf("%s: %s", server, mdns.RcodeToString[reply.Rcode])
	}
	return nil, last
}

func (r *Resolver) once(ctx context.Context, m *mdns.Msg, server string) (*mdns.Msg, error) {
	c := mdns.Client{Net: "udp", Timeout: r.c.Timeout, UDPSize: 1232}
	reply, _, err := c.ExchangeContext(ctx, m, server)
	if err == nil && !reply.Truncated {
		return reply, nil
	}
	if err != nil && reply == nil {
		return nil, err
	}
	c.Net = "tcp"
	reply, _, err = c.ExchangeContext(ctx, m, server)
	return reply, err
}
