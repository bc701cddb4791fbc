package maincf

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"angarium/lib/logical"
)

// noDomain is the domain of a host without one.
const noDomain = "localdomain"

// Compute gives the default of a parameter that depends on this host. Without
// an error it is what Postfix would find out too.
func (c *Config) Compute(name string) (string, error) {
	switch name {
	case "myhostname":
		return c.hostname()
	case "mydomain":
		return c.domain()
	case "mynetworks":
		return c.networks()
	}
	return "", nil
}

// hostname is the system's name, completed with mydomain if that is set.
func (c *Config) hostname() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return noDomain, fmt.Errorf("gethostname: %w", err)
	}
	if strings.Contains(name, ".") {
		return name, nil
	}
	domain := noDomain
	if v, set := c.Raw("mydomain"); set {
		// mydomain = $mydomain would come back here: only what the file says counts.
		if domain, err = eval(v, c.Raw); err != nil {
			return name, err
		}
	}
	return name + "." + domain, nil
}

// domain is myhostname without its first label.
func (c *Config) domain() (string, error) {
	var err error
	name, set := c.Raw("myhostname")
	if set {
		name, err = eval(name, c.withoutDomain)
	} else {
		name, err = c.hostname()
	}
	if _, rest, ok := strings.Cut(name, "."); ok {
		return rest, err
	}
	return noDomain, err
}

// withoutDomain is Lookup while mydomain itself is in question.
func (c *Config) withoutDomain(name string) (string, bool) {
	if name == "mydomain" {
		return c.Raw(name)
	}
	return c.Lookup(name)
}

// localAddr is an address of this host and its network.
type localAddr struct {
	addr netip.Addr
	bits int
}

// networks lists the networks that mynetworks_style trusts.
func (c *Config) networks() (string, error) {
	style, err := c.one("mynetworks_style")
	if err != nil {
		return "", err
	}
	switch {
	case len(logical.Tokens(style, logical.CommaBlanks)) != 1:
		return "", fmt.Errorf("bad mynetworks_style value: %s; specify exactly one value", style)
	case style != "host" && style != "subnet" && style != "class":
		return "", fmt.Errorf("unknown mynetworks mask style value \"%s\" in \"%s\"", style, style)
	}
	own, err := c.ownAddresses()
	if err != nil {
		return "", err
	}
	var out []string
	for _, a := range own {
		bits := a.bits
		switch style {
		case "host":
			bits = a.addr.BitLen()
		case "class":
			if a.addr.Is4() {
				bits = class(a.addr)
			}
		}
		p, err := a.addr.WithZone("").Prefix(bits)
		if err != nil {
			continue
		}
		text := p.Addr().String() + "/" + strconv.Itoa(bits)
		if p.Addr().Is6() {
			text = "[" + p.Addr().String() + "]/" + strconv.Itoa(bits)
		}
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return strings.Join(out, " "), nil
}

// one is an expanded value.
func (c *Config) one(name string) (string, error) {
	v, _ := c.Lookup(name)
	return Expand(v, c.Lookup)
}

// eval is Expand with an error in the words of whoever asks for a value.
func eval(value string, lookup func(string) (string, bool)) (string, error) {
	v, err := Expand(value, lookup)
	if err != nil {
		err = fmt.Errorf("dictionary mail_dict: %w", err)
	}
	return v, err
}

// class is the network size before CIDR.
func class(a netip.Addr) int {
	switch first := a.As4()[0]; {
	case first < 128:
		return 8
	case first < 192:
		return 16
	case first < 224:
		return 24
	}
	return 32
}

// ownAddresses are the addresses that inet_interfaces names, of the protocols
// that inet_protocols names, IPv4 first.
func (c *Config) ownAddresses() ([]localAddr, error) {
	protocols, err := c.one("inet_protocols")
	if err != nil {
		return nil, err
	}
	v4, v6 := false, false
	for _, p := range logical.Tokens(protocols, logical.CommaBlanks) {
		switch p {
		case "all":
			v4, v6 = true, true
		case "ipv4":
			v4 = true
		case "ipv6":
			v6 = true
		default:
			return nil, fmt.Errorf("unknown inet_protocols value \"%s\" in \"%s\"", p, protocols)
		}
	}
	local, err := localAddresses(v4, v6)
	if err != nil {
		return nil, err
	}
	interfaces, err := c.one("inet_interfaces")
	if err != nil {
		return nil, err
	}
	switch interfaces {
	case "all":
		return local, nil
	case "loopback-only":
		return slices.DeleteFunc(local, func(a localAddr) bool { return !a.addr.IsLoopback() }), nil
	}
	return named(interfaces, local, v4, v6)
}

// named are the local addresses that a list of hosts and addresses names.
func named(interfaces string, local []localAddr, v4, v6 bool) ([]localAddr, error) {
	var own []localAddr
	for _, name := range logical.Tokens(interfaces, logical.CommaBlanks) {
		addrs, err := resolve(strings.Trim(name, "[]"))
		if err != nil {
			return nil, fmt.Errorf("config variable inet_interfaces: host not found: %s", name)
		}
		addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return a.Is4() && !v4 || a.Is6() && !v6 })
		if len(addrs) == 0 {
			return nil, fmt.Errorf("config variable inet_interfaces: host not found: %s", name)
		}
		for _, a := range addrs {
			i := slices.IndexFunc(local, func(l localAddr) bool { return l.addr.WithZone("") == a })
			if i < 0 {
				return nil, fmt.Errorf("parameter inet_interfaces: no local interface found for %s", a)
			}
			if !slices.Contains(own, local[i]) {
				own = append(own, local[i])
			}
		}
	}
	return own, nil
}

func resolve(host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	names, err := net.LookupHost(host)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, n := range names {
		if a, err := netip.ParseAddr(n); err == nil {
			addrs = append(addrs, a.Unmap().WithZone(""))
		}
	}
	return addrs, nil
}

// localAddresses asks the kernel.
func localAddresses(v4, v6 bool) ([]localAddr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var four, six []localAddr
	for _, in := range interfaces {
		if in.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := in.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			ipnet, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			addr, ok := netip.AddrFromSlice(ipnet.IP)
			bits, _ := ipnet.Mask.Size()
			switch addr = addr.Unmap(); {
			case !ok:
			case addr.Is4() && v4:
				four = append(four, localAddr{addr, bits})
			case addr.Is6() && v6:
				six = append(six, localAddr{addr, bits})
			}
		}
	}
	return append(four, six...), nil
}
