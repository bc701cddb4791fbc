package smtpd

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	"angarium/lib/dns"
	"angarium/lib/maillog"
)

// peer is the client, as far as the network tells.
type peer struct {
	name    string // forward-confirmed, or "unknown"
	reverse string // as the reverse zone has it, or "unknown"
	addr    netip.Addr
	port    string
	failed  bool // the name could not be looked up, for now
	server  netip.AddrPort
}

// id is the client in the log: "mx.example.net[192.0.2.7]".
func (p *peer) id() string { return p.name + "[" + p.address() + "]" }

// address is the client's address, or "unknown" where XCLIENT said so.
func (p *peer) address() string {
	if !p.addr.IsValid() {
		return "unknown"
	}
	return p.addr.String()
}

// nameTime is how long a client's name may take; afterwards it is unknown.
const nameTime = 10 * time.Second

// peer finds out who is calling. A name counts only if it leads back to the
// address; other clients are "unknown".
func (d *Daemon) peer(ctx context.Context, conn net.Conn, log *maillog.Logger) *peer {
	p := &peer{name: "unknown", reverse: "unknown", port: "0"}
	a, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok { // a Unix socket or a pipe: somebody on this host
		p.name, p.reverse, p.addr = "localhost", "localhost", netip.AddrFrom4([4]byte{127, 0, 0, 1})
		return p
	}
	ap := a.AddrPort()
	p.addr = ap.Addr().Unmap().WithZone("")
	p.port = itoa(int(ap.Port()))
	if l, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		p.server = netip.AddrPortFrom(l.AddrPort().Addr().Unmap(), l.AddrPort().Port())
	}
	if d.c.Resolver == nil {
		return p
	}
	ctx, cancel := context.WithTimeout(ctx, nameTime)
	defer cancel()
	names, err := d.c.Resolver.PTR(ctx, p.addr)
	if err != nil || len(names) == 0 {
		p.failed = isTemporary(err)
		return p
	}
	name := strings.TrimSuffix(names[0], ".")
	if !plausible(name) {
		log.Warnf("numeric or malformed hostname for %s: %.100s", p.addr, maillog.Printable(name))
		return p
	}
	p.reverse = name
	addrs, err := d.c.Resolver.Addrs(ctx, name)
	for _, back := range addrs {
		if back.Unmap() == p.addr {
			p.name = name
			return p
		}
	}
	p.failed = isTemporary(err)
	if err != nil {
		why := "Temporary failure in name resolution" // getaddrinfo(3)'s words
		if dns.Missing(err) {
			why = "Name or service not known"
		}
		log.Warnf("hostname %s does not resolve to address %s: %s", name, p.addr, why)
	} else {
		log.Warnf("hostname %s does not resolve to address %s", name, p.addr)
	}
	return p
}

func isTemporary(err error) bool {
	if err == nil {
		return false
	}
	t, ok := err.(interface{ Temporary() bool })
	return ok && t.Temporary()
}

// plausible keeps out names that would read as something else in a log or a
// header.
func plausible(name string) bool {
	if name == "" || len(name) > 255 {
		return false
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("[]()<>@,;:\\\"", c) >= 0 {
			return false
		}
	}
	return true
}
