package smtp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"angarium/lib/dns"
	"angarium/lib/dsn"
)

// places looks up where a next hop is: "unix:/path", "inet:host:port",
// "[host]:port", "host:port", "host". Brackets mean: no MX.
func (d *delivery) places(ctx context.Context, hop string) ([]place, error) {
	if path, ok := strings.CutPrefix(hop, "unix:"); ok {
		name := d.c.Hostname + "[" + path + "]"
		return []place{{network: "unix", address: path, host: d.c.Hostname, name: name, relay: name}}, nil
	}
	hop, inet := strings.CutPrefix(hop, "inet:")
	host, port, bare, err := splitHop(hop, d.c.Port)
	if err != nil {
		return nil, err
	}
	mx := !bare && !inet && !d.c.LMTP && !d.c.NoMX
	if ip, err := netip.ParseAddr(host); err == nil {
		mx = false
		if d.c.Protocols == dns.IPv4 && ip.Unmap().Is6() || d.c.Protocols == dns.IPv6 && ip.Unmap().Is4() {
			return nil, dsn.New(0, "5.4.4", "Name service error for %s: invalid host or domain name", host)
		}
	}
	if mx {
		return d.exchangers(ctx, host, port)
	}
	h, err := d.addresses(ctx, host)
	if err != nil {
		return nil, hostError(host, err)
	}
	return d.limit(d.spread(h, host, port)), nil
}

// splitHop reads host and port; the port may be a service name.
func splitHop(hop, defaultPort string) (host, port string, bare bool, err error) {
	bad := func() (string, string, bool, error) {
		return "", "", false, dsn.New(0, "4.3.5", "bad destination syntax: %s", hop)
	}
	host, port = hop, defaultPort
	if strings.HasPrefix(hop, "[") {
		i := strings.IndexByte(hop, ']')
		if i < 0 {
			return bad()
		}
		host, bare = hop[1:i], true
		if rest := hop[i+1:]; rest != "" {
			if rest[0] != ':' {
				return bad()
			}
			port = rest[1:]
		}
		if len(host) > 5 && strings.EqualFold(host[:5], "ipv6:") {
			host = host[5:]
		}
	} else if i := strings.LastIndexByte(hop, ':'); i >= 0 && strings.Count(hop, ":") == 1 {
		host, port = hop[:i], hop[i+1:]
	}
	if host == "" || port == "" {
		return bad()
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		n, err := net.LookupPort("tcp", port)
		if err != nil {
			return "", "", false, dsn.New(0, "4.3.5", "unknown service: %s/tcp", port)
		}
		port = strconv.Itoa(n)
	}
	return host, port, bare, nil
}

func (d *delivery) addresses(ctx context.Context, host string) (dns.Host, error) {
	switch {
	case d.c.Resolver == nil:
		ip, err := netip.ParseAddr(host)
		return dns.Host{Addrs: []netip.Addr{ip}, Name: host}, err
	case d.c.Native || d.c.NoMX:
		list, err := d.c.Resolver.Native(ctx, host, d.c.Protocols)
		return dns.Host{Addrs: list, Name: host}, err
	}
	return d.c.Resolver.Host(ctx, host, d.c.Protocols)
}

// hostError classifies a failed lookup: only "certainly not there" is permanent.
func hostError(host string, err error) error {
	switch dns.KindOf(err) {
	case dns.NotFound, dns.NoData, dns.Invalid:
		e := dsn.New(0, "5.4.4", "%s", err.Error())
		e.Err = err
		return e
	}
	e := dsn.New(0, "4.4.3", "%s", err.Error())
	e.Err = err
	return e
}

// exchangers are the addresses of a domain's mail exchangers, best first; a
// domain without MX records is its own (RFC 5321, 5.1).
func (d *delivery) exchangers(ctx context.Context, domain, port string) ([]place, error) {
	mxs, err := d.c.Resolver.MX(ctx, domain)
	switch kind := dns.KindOf(err); {
	case err == nil && len(mxs) == 1 && mxs[0].Host == "":
		return nil, dsn.New(0, "5.1.10", "Domain %s does not accept mail (nullMX)", domain) // RFC 7505
	case err != nil && (kind == dns.NoData || kind == dns.NotFound || kind == dns.Temporary && d.c.IgnoreMXError):
		h, err := d.addresses(ctx, domain)
		if err != nil {
			return nil, hostError(domain, err)
		}
		if port == "25" && d.ours(h.Addrs) {
			return nil, loops(domain)
		}
		return d.limit(d.spread(h, domain, port)), nil
	case err != nil:
		return nil, hostError(domain, err)
	}
	return d.resolveMX(ctx, domain, port, mxs)
}

func loops(domain string) error {
	e := dsn.New(0, "5.4.6", "mail for %s loops back to myself", domain)
	e.Err = errLoops
	return e
}

// errLoops is that the best way to a domain leads to this machine.
var errLoops = errors.New("loops back")

// resolveMX finds the addresses of all exchangers. If one of them is this
// machine, it and what is no better than it is left out: mail must not go
// round in circles.
func (d *delivery) resolveMX(ctx context.Context, domain, port string, mxs []dns.MX) ([]place, error) {
	var all []place
	var last error
	for len(mxs) > 0 {
		n := 1
		for n < len(mxs) && mxs[n].Pref == mxs[0].Pref {
			n++
		}
		level := slices.Clone(mxs[:n])
		mxs = mxs[n:]
		if !d.c.KeepOrder {
			shuffle(level)
		}
		var group []place
		for _, mx := range level {
			if _, err := netip.ParseAddr(mx.Host); err == nil {
				d.r.Log.Warnf("numeric domain name in resource data of MX record for %s: %s", domain, mx.Host)
			}
			h, err := d.addresses(ctx, mx.Host)
			if err != nil {
				if last == nil || !dns.Missing(err) {
					last = err
				}
				continue
			}
			if port == "25" && d.ours(h.Addrs) {
				if len(all) == 0 {
					return nil, loops(domain)
				}
				return d.limit(all), nil
			}
			for _, p := range d.spread(h, mx.Host, port) {
				p.notBest, p.mxOf, p.mxSecure = len(all) > 0, domain, mx.Secure
				group = append(group, p)
			}
		}
		all = append(all, group...)
	}
	if len(all) == 0 {
		d.r.Log.Warnf("no MX host for %s has a valid address record", domain)
		return nil, hostError(domain, last)
	}
	return d.limit(all), nil
}

func (d *delivery) ours(addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(ip netip.Addr) bool { return slices.Contains(d.c.OwnAddresses, ip) })
}

// spread orders the addresses of one host by smtp_address_preference.
func (d *delivery) spread(h dns.Host, host, port string) []place {
	addrs := slices.Clone(h.Addrs)
	if !d.c.KeepOrder {
		shuffle(addrs)
	}
	switch d.c.Family {
	case "ipv4", "ipv6":
		first := d.c.Family == "ipv4"
		slices.SortStableFunc(addrs, func(a, b netip.Addr) int {
			switch {
			case a.Is4() == b.Is4():
				return 0
			case a.Is4() == first:
				return -1
			}
			return 1
		})
	}
	list := make([]place, len(addrs))
	for i, ip := range addrs {
		list[i] = d.tcp(host, ip, port)
		list[i].realName, list[i].secure = h.Name, h.Secure
	}
	return list
}

func (d *delivery) limit(list []place) []place {
	if n := d.c.AddressLimit; n > 0 && len(list) > n {
		return list[:n]
	}
	return list
}
