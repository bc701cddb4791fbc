package service

import (
	"bytes"
	"os"
	"runtime/debug"
	"strconv"
	"time"
)

// limitMemory makes the collector work harder before the machine runs out: three
// quarters of what the machine, or our control group, has. GOMEMLIMIT wins.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	total := memTotal()
	if b, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64); err == nil && (total == 0 || n < total) {
			total = n
		}
	}
	if total > 0 {
		debug.SetMemoryLimit(total / 4 * 3)
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
