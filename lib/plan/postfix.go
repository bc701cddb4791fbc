package plan

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"angarium/lib/conf/maincf"
	"angarium/lib/conf/mastercf"
	"angarium/lib/ipc"
	"angarium/lib/sysuser"
)

// Load reads the master.cf beside conf and plans its processes.
func Load(ctx context.Context, conf *maincf.Config) (*Plan, error) {
	var notes []string
	services, err := mastercf.Load(filepath.Join(conf.Dir(), "master.cf"), mastercf.Options{
		Chroot:  oldDefaults(conf.String("compatibility_level")),
		Disable: conf.List("master_service_disable"),
		Warn:    func(text string) { notes = append(notes, text) },
	})
	if err != nil {
		return nil, err
	}
	pl, err := Postfix(ctx, conf, services)
	if err != nil {
		return nil, err
	}
	pl.Notes = append(notes, pl.Notes...)
	return pl, nil
}

// oldDefaults reports a compatibility_level below 1.
func oldDefaults(level string) bool { return level == "" || level[0] < '1' }

// Postfix plans the processes for the lines of a master.cf.
func Postfix(ctx context.Context, conf *maincf.Config, services []mastercf.Service) (*Plan, error) {
	b := &postfixPlan{conf: conf, plan: &Plan{}}
	if err := b.settings(); err != nil {
		return nil, err
	}
	for _, s := range services {
		if err := b.own(ctx, s); err != nil {
			return nil, err
		}
	}
	for _, s := range services {
		if err := b.stoodFor(ctx, s, services); err != nil {
			return nil, err
		}
	}
	return b.plan, nil
}

type postfixPlan struct {
	conf  *maincf.Config
	plan  *Plan
	queue string // queue_directory
	dir   string // daemon_directory
	limit int    // for "-": default_process_limit where main.cf sets it
	uid   int
	gid   int
	ipv4  bool
	ipv6  bool
}

func (b *postfixPlan) settings() error {
	c := b.conf
	b.queue, b.dir = c.String("queue_directory"), c.String("daemon_directory")
	if _, set := c.Raw("default_process_limit"); set {
		b.limit = c.Int("default_process_limit")
	}
	owner := c.String("mail_owner")
	if u, err := sysuser.Lookup(owner); err != nil {
		return fmt.Errorf("mail_owner %s: %w", owner, err)
	} else if u != nil {
		b.uid, b.gid = u.UID, u.GID
	}
	for _, p := range c.List("inet_protocols") {
		switch p {
		case "all":
			b.ipv4, b.ipv6 = true, true
		case "ipv4":
			b.ipv4 = true
		case "ipv6":
			b.ipv6 = true
		}
	}
	return c.Err()
}

// own makes the processes that the programs with lines of their own are.
func (b *postfixPlan) own(ctx context.Context, s mastercf.Service) error {
	who := servedBy(s.Command)
	if len(who.by) == 0 {
		if s.Command == "qmqpd" {
			b.plan.Notes = append(b.plan.Notes, fmt.Sprintf("service \"%s\" (%s): %s is %s", s.Name, s.Type, s.Command, who.why))
		}
		return nil
	}
	if who.by[0] != s.Command {
		return nil
	}
	line, err := b.line(ctx, s, true)
	if err != nil {
		return err
	}
	if who.single {
		line.Limit = 0
	}
	p := b.process(s, s.Command)
	if s.Type == "inet" || s.Type == "unix-dgram" || s.Wakeup > 0 {
		p.Eager = true
	}
	p.Lines = append(p.Lines, line)
	return nil
}

func (b *postfixPlan) process(s mastercf.Service, program string) *Process {
	p := Process{
		Program: program,
		Path:    filepath.Join(b.dir, program),
		Config:  b.conf.Dir(),
		Root:    !s.Unprivileged,
		Chroot:  s.Chroot,
		Args:    []string{"-n", s.Name, "-t", s.Type},
	}
	if s.Unprivileged {
		p.Args = append(p.Args, "-u")
	}
	if s.Chroot {
		p.Args = append(p.Args, "-c")
	}
	return b.plan.find(p)
}

// stoodFor hands a line to the programs that do its work. A process is made for it
// only if the line's sockets are wanted and its program has no line itself.
func (b *postfixPlan) stoodFor(ctx context.Context, s mastercf.Service, all []mastercf.Service) error {
	who := servedBy(s.Command)
	if len(who.by) == 0 || who.by[0] == s.Command {
		return nil
	}
	line, err := b.line(ctx, s, who.sockets)
	if err != nil {
		return err
	}
	if who.single {
		line.Limit = 0
	}
	if s.Command == "postscreen" {
		line.Limit = b.fronted(all)
	}
	for i, program := range who.by {
		processes := b.plan.Only(program)
		if len(processes) == 0 && who.sockets && i == 0 {
			processes = []*Process{b.process(s, program)}
		}
		for n, p := range processes {
			l := line
			if i > 0 || n > 0 {
				l.Sockets = nil // one process listens
			} else if len(l.Sockets) > 0 && (s.Type == "inet" || s.Wakeup > 0) {
				p.Eager = true
			}
			p.Lines = append(p.Lines, l)
		}
	}
	return nil
}

// fronted is the limit of the smtpd that a postscreen hands its clients to.
func (b *postfixPlan) fronted(all []mastercf.Service) int {
	for _, s := range all {
		if s.Type == "pass" && s.Command == "smtpd" {
			return b.maxProc(s)
		}
	}
	return 0
}

func (b *postfixPlan) maxProc(s mastercf.Service) int {
	if s.MaxProc < 0 {
		return b.limit
	}
	return s.MaxProc
}

func (b *postfixPlan) line(ctx context.Context, s mastercf.Service, sockets bool) (ipc.Line, error) {
	l := ipc.Line{
		Name: s.Name, Type: s.Type, Command: s.Command, Args: s.Args, Overrides: s.Overrides(),
		Limit: b.maxProc(s), Wakeup: s.Wakeup, WakeupUsed: s.WakeupOnlyUsed,
		Private: s.Private, Chroot: s.Chroot, Unprivileged: s.Unprivileged,
	}
	if !sockets {
		return l, nil
	}
	addrs, err := b.addresses(ctx, s)
	if err != nil {
		return l, err
	}
	for _, a := range addrs {
		l.Sockets = append(l.Sockets, ipc.Socket{Address: a, FD: -1})
	}
	return l, nil
}

// addresses are what a line listens on.
func (b *postfixPlan) addresses(ctx context.Context, s mastercf.Service) ([]ipc.Address, error) {
	if s.Type == "inet" {
		return b.inet(ctx, s.Name)
	}
	dir := "public"
	if s.Private {
		dir = "private"
	}
	a := ipc.Address{Network: "unix", Addr: filepath.Join(b.queue, dir, s.Name), Mode: 0666, UID: b.uid, GID: b.gid}
	switch s.Type {
	case "fifo":
		a.Network, a.Mode = "fifo", 0622
	case "unix-dgram":
		a.Network = "unixgram"
	case "unix", "pass":
	default:
		return nil, fmt.Errorf("bad transport type: %s", s.Type)
	}
	return []ipc.Address{a}, nil
}

// inet finds the addresses for "smtp", "25", "host:port", "[v6]:port". Without a
// host, inet_interfaces says where.
func (b *postfixPlan) inet(ctx context.Context, name string) ([]ipc.Address, error) {
	host, service := splitHostPort(name)
	port, err := Port(ctx, "tcp", service)
	if err != nil {
		return nil, err
	}
	if !b.ipv4 && !b.ipv6 {
		return nil, nil
	}
	hosts := []string{host}
	if host == "" {
		hosts = b.conf.List("inet_interfaces")
	}
	var out []ipc.Address
	for _, h := range hosts {
		ips, err := b.resolve(ctx, h)
		if err != nil {
			return nil, err
		}
		for _, ip := range ips {
			a := ipc.Address{Network: "tcp4", Addr: netip.AddrPortFrom(ip, uint16(port)).String()}
			if ip.Is6() {
				a.Network = "tcp6"
			}
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out, nil
}

// resolve gives the addresses of a host name or of a word of inet_interfaces,
// in the families that inet_protocols allows.
func (b *postfixPlan) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	var ips []netip.Addr
	switch strings.Trim(host, "[]") {
	case "all", "":
		ips = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	case "loopback-only":
		ips = loopbacks()
	default:
		var err error
		if ips, err = Resolve(ctx, strings.Trim(host, "[]")); err != nil {
			return nil, fmt.Errorf("host not found: %s", host)
		}
	}
	v6 := b.ipv6 && haveIPv6()
	ips = slices.DeleteFunc(ips, func(ip netip.Addr) bool { return ip.Is4() && !b.ipv4 || ip.Is6() && !v6 })
	if len(ips) == 0 {
		return nil, fmt.Errorf("no valid IP address found: %s", host)
	}
	return ips, nil
}

// loopbacks are the addresses of this machine that only it can reach.
func loopbacks() (ips []netip.Addr) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsLoopback() {
			ips = append(ips, p.Addr())
		}
	}
	return ips
}

// haveIPv6 asks whether this machine has an IPv6 address at all, if only ::1.
func haveIPv6() bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Is6()
	})
}

// Resolve gives the addresses of a host name, or the address that it is.
func Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips, err
}

// Port is a port's number, or what /etc/services says.
func Port(ctx context.Context, network, name string) (int, error) {
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < 1<<16 {
		return n, nil
	}
	n, err := net.DefaultResolver.LookupPort(ctx, network, name)
	if err == nil {
		return n, nil
	}
	// A small machine may have no /etc/services.
	switch name {
	case "smtp":
		return 25, nil
	case "submission":
		return 587, nil
	case "smtps", "submissions":
		return 465, nil
	case "pop3":
		return 110, nil
	case "pop3s":
		return 995, nil
	case "imap", "imap2":
		return 143, nil
	case "imaps":
		return 993, nil
	case "lmtp":
		return 24, nil
	case "sieve":
		return 4190, nil
	}
	return 0, fmt.Errorf("unknown service: %s", name)
}
