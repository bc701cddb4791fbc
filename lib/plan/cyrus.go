package plan

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"angarium/lib/conf/cyrusconf"
	"angarium/lib/ipc"
)

// Cyrus plans the processes for the SERVICES of a cyrus.conf. Commands without a
// path are looked for in bin. A line that makes no sense is left out, with a
// note in Cyrus' words; the others go on.
func Cyrus(ctx context.Context, imapdConf string, services []cyrusconf.Entry, bin string) *Plan {
	pl := &Plan{}
	seen := map[string]bool{}
	for i := range services {
		e := &services[i]
		words := e.Words()
		if len(words) == 0 || e.String("listen", "") == "" {
			pl.note("unable to find command or port for service '%s'", e.Name)
			continue
		}
		if seen[e.Name] {
			pl.note("multiple entries for service '%s'", e.Name)
			continue
		}
		seen[e.Name] = true
		sockets, err := cyrusSockets(ctx, e)
		if err != nil {
			pl.note("%s, disabling %s", err, e.Name)
			continue
		}
		p := pl.find(Process{
			Program: filepath.Base(words[0]),
			Path:    CyrusProgram(bin, words[0]),
			Args:    words[1:],
			Config:  configOf(words[1:], imapdConf),
		})
		p.Eager = p.Eager || e.Int("prefork", 0) > 0 || e.Int("babysit", 0) > 0
		p.Lines = append(p.Lines, ipc.Line{
			Name: e.Name, Type: cyrusType(sockets), Command: p.Program, Args: words[1:],
			Limit: max(0, e.Int("maxchild", -1)), Unprivileged: true, Sockets: sockets,
		})
	}
	return pl
}

func (pl *Plan) note(format string, args ...any) {
	pl.Notes = append(pl.Notes, fmt.Sprintf(format, args...))
}

// CyrusProgram is where a command of cyrus.conf lies.
func CyrusProgram(bin, command string) string {
	if strings.HasPrefix(command, "/") {
		return command
	}
	return filepath.Join(bin, command)
}

// configOf finds the -C of a command line: the imapd.conf of that service.
func configOf(args []string, fallback string) string {
	for i, a := range args {
		if rest, ok := strings.CutPrefix(a, "-C"); ok {
			if rest != "" {
				return rest
			}
			if i+1 < len(args) {
				return args[i+1]
			}
		}
	}
	return fallback
}

func cyrusType(sockets []ipc.Socket) string {
	switch sockets[0].Network {
	case "unix":
		return "unix"
	case "unixgram":
		return "unix-dgram"
	case "udp4", "udp6":
		return "udp"
	}
	return "inet"
}

// cyrusSockets reads listen= and proto=.
func cyrusSockets(ctx context.Context, e *cyrusconf.Entry) ([]ipc.Socket, error) {
	listen, proto := e.String("listen", ""), e.String("proto", "tcp")
	if !slices.Contains([]string{"tcp", "tcp4", "tcp6", "udp", "udp4", "udp6"}, proto) {
		return nil, fmt.Errorf("invalid proto '%s'", proto)
	}
	if strings.HasPrefix(listen, "/") {
		network := "unix"
		if strings.HasPrefix(proto, "udp") {
			network = "unixgram"
		}
		return []ipc.Socket{{Address: ipc.Address{Network: network, Addr: listen, Mode: 0777}, FD: -1}}, nil
	}
	host, service := splitHostPort(listen)
	port, err := Port(ctx, proto[:3], service)
	if err != nil {
		return nil, fmt.Errorf("invalid listen '%s'", listen)
	}
	ips := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if host != "" {
		if ips, err = Resolve(ctx, host); err != nil {
			return nil, fmt.Errorf("invalid listen '%s'", listen)
		}
	}
	v6 := haveIPv6()
	var sockets []ipc.Socket
	for _, ip := range ips {
		if ip.Is6() && (!v6 || strings.HasSuffix(proto, "4")) || ip.Is4() && strings.HasSuffix(proto, "6") {
			continue
		}
		network := proto[:3] + "4"
		if ip.Is6() {
			network = proto[:3] + "6"
		}
		sockets = append(sockets, ipc.Socket{Address: ipc.Address{Network: network, Addr: netip.AddrPortFrom(ip, uint16(port)).String()}, FD: -1})
	}
	if len(sockets) == 0 {
		return nil, fmt.Errorf("invalid listen '%s'", listen)
	}
	return sockets, nil
}
