package cyrusd

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"angarium/lib/conf/imapdconf"
	"angarium/lib/maillog"
	"angarium/lib/proclist"
	"angarium/lib/service"
)

// nameTime is how long a client's name may take; its greeting waits meanwhile.
const nameTime = 2 * time.Second

// HostName is what the client's address is called in the log, "" if nothing. A
// name counts only if it leads back to the address: whoever has the address may
// give it any name. Slow answers are no answers.
func HostName(ctx context.Context, ip string) string { return hostName(ctx, net.DefaultResolver, ip) }

// resolver is net.Resolver.
type resolver interface {
	LookupAddr(ctx context.Context, ip string) ([]string, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

func hostName(ctx context.Context, r resolver, ip string) string {
	ctx, stop := context.WithTimeout(ctx, nameTime)
	defer stop()
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ""
	}
	names, err := r.LookupAddr(ctx, ip)
	if err != nil || len(names) == 0 || !plausible(names[0]) {
		return ""
	}
	back, err := r.LookupNetIP(ctx, "ip", names[0])
	if err != nil {
		return ""
	}
	for _, a := range back {
		if a.Unmap() == addr.Unmap().WithZone("") {
			return strings.TrimSuffix(names[0], ".")
		}
	}
	return ""
}

// plausible keeps out names that would read as something else in the log.
func plausible(name string) bool {
	_, err := netip.ParseAddr(strings.TrimSuffix(name, "."))
	return err != nil && len(name) <= 255 && !strings.ContainsFunc(name, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune("[]()<>@,;:\\\"", c)
	})
}

// Present keeps the list of who is connected to s, in proc_path.
func Present(s *service.Service) func(session int64, host, user, mailbox string) func() {
	dir, log := procPath(s.Imapd), s.Log
	return func(session int64, host, user, mailbox string) func() {
		e := proclist.Entry{ID: session, Service: s.Name, Host: host, User: user, Mailbox: mailbox}
		err := proclist.Put(dir, e)
		if errors.Is(err, fs.ErrNotExist) {
			_ = os.MkdirAll(dir, 0o755)
			err = proclist.Put(dir, e)
		}
		if err != nil { // nobody is shown as connected, no more
			log.Log(maillog.Debug, "can't tell who is connected: %v", err)
			return func() {}
		}
		return func() { _ = proclist.Remove(dir, session) }
	}
}

func procPath(c *imapdconf.Config) string {
	if dir := c.String("proc_path"); dir != "" {
		return dir
	}
	return filepath.Join(c.String("configdirectory"), "proc")
}
