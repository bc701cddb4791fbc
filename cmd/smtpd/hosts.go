package smtpd

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// hosts remembers the hosts file for some seconds: each new client asks.
type hosts struct {
	file  string
	mu    sync.Mutex
	read  time.Time
	names map[netip.Addr][]string
}

// lookup gives the names of an address.
func (h *hosts) lookup(a netip.Addr) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.read) > 5*time.Second {
		h.read, h.names = time.Now(), make(map[netip.Addr][]string)
		b, _ := os.ReadFile(h.file)
		for line := range strings.Lines(string(b)) {
			line, _, _ = strings.Cut(line, "#")
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			if addr, err := netip.ParseAddr(f[0]); err == nil {
				addr = addr.Unmap()
				h.names[addr] = append(h.names[addr], f[1:]...)
			}
		}
	}
	return h.names[a]
}
