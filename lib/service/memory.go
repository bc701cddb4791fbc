package service

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// limitMemory makes the collector work harder before the machine runs out: three
// quarters of what the machine, or our control group, has. GOMEMLIMIT wins.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	total := memTotal()
	if n := groupLimit("/sys/fs/cgroup", ownGroup()); n > 0 && (total == 0 || n < total) {
		total = n
	}
	if total > 0 {
		debug.SetMemoryLimit(total / 4 * 3)
	}
}

// ownGroup is our control group as /proc/self/cgroup names it, "/" where there is none.
func ownGroup() string {
	b, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(b)) {
		if group, ok := strings.CutPrefix(line, "0::"); ok { // version 2, see cgroups(7)
			return strings.TrimSpace(group)
		}
	}
	return "/"
}

// groupLimit is the least memory.max of a control group and of those around it, in
// bytes: a unit's MemoryMax= may stand at its slice. 0: no limit.
func groupLimit(root, group string) (least int64) {
	for dir := filepath.Clean("/" + group); ; dir = filepath.Dir(dir) {
		if b, err := os.ReadFile(filepath.Join(root, dir, "memory.max")); err == nil {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
			if err == nil && (least == 0 || n < least) {
				least = n
			}
		}
		if dir == "/" {
			return least
		}
	}
}

// memTotal is what /proc/meminfo says, in bytes; 0: unknown.
func memTotal() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 2 || string(fields[0]) != "MemTotal:" {
		return 0
	}
	n, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return n << 10
}

// giveMemoryBack returns memory to the system once a burst is over: when fewer
// than a quarter of the sessions of its peak are left.
func (k *child) giveMemoryBack() {
	const burst = 64
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	var peak int64
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-tick.C:
		}
		n := k.active.Load()
		peak = max(peak, n)
		if peak >= burst && n < peak/4 {
			debug.FreeOSMemory()
			peak = n
		}
	}
}
