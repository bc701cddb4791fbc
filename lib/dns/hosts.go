package dns

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// hostsFile is hosts(5), read again when it changed.
type hostsFile struct {
	name string

	mu      sync.Mutex
	checked time.Time
	mtime   time.Time
	size    int64
	byName  map[string][]netip.Addr
	byAddr  map[netip.Addr][]string
}

// checkEvery limits how often the file's time is asked for.
const checkEvery = 5 * time.Second

func (h *hostsFile) load() {
	if h.name == "" || time.Since(h.checked) < checkEvery {
		return
	}
	h.checked = time.Now()
	st, err := os.Stat(h.name)
	if err != nil || st.ModTime().Equal(h.mtime) && st.Size() == h.size {
		return
	}
	data, err := os.ReadFile(h.name)
	if err != nil {
		return // opened once, it may be out of reach now (chroot): keep what we know
	}
	h.mtime, h.size = st.ModTime(), st.Size()
	h.byName, h.byAddr = parseHosts(string(data))
}

func parseHosts(data string) (map[string][]netip.Addr, map[netip.Addr][]string) {
	byName, byAddr := map[string][]netip.Addr{}, map[netip.Addr][]string{}
	for line := range strings.Lines(data) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		ip, err := netip.ParseAddr(words[0])
		if err != nil {
			continue
		}
		ip = ip.Unmap()
		byAddr[ip] = append(byAddr[ip], words[1:]...)
		for _, w := range words[1:] {
			w = strings.ToLower(w)
			byName[w] = append(byName[w], ip)
		}
	}
	return byName, byAddr
}

func (h *hostsFile) lookup(host string, f Family) []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.load()
	var list []netip.Addr
	for _, ip := range h.byName[strings.ToLower(strings.TrimSuffix(host, "."))] {
		if f == Both || ip.Is4() == (f == IPv4) {
			list = append(list, ip)
		}
	}
	return list
}

func (h *hostsFile) names(ip netip.Addr) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.load()
	return h.byAddr[ip.Unmap()]
}
