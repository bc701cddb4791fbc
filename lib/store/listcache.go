package store

import (
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// Every delivery and every command asks the list, which seldom changes. What was
// found is kept in memory, and is true as long as the number in the file
// mailboxes.db.gen stands still: whoever changes the list makes it odd before, and
// even again afterwards, under a lock. One who dies in between leaves it odd, and
// nobody believes what he has in memory until the next change. Other programs that
// write into mailboxes.db are noticed after two seconds.

const (
	cacheLife    = 2 * time.Second
	cacheEntries = 20_000
)

// generation is the number of the list's changes. Unless calm, one is under way.
func (d *database) generation() (gen uint64, calm bool) {
	var b [8]byte
	if n, err := d.gen.ReadAt(b[:], 0); n != len(b) && n != 0 {
		return 0, false
	} else if n == 0 && err == nil {
		return 0, false
	}
	gen = binary.LittleEndian.Uint64(b[:])
	return gen, gen&1 == 0
}

// changing is called before a change; done after it, whether it succeeded or not.
func (d *database) changing() (done func(), err error) {
	fd := int(d.gen.Fd())
	if err := flockWait(fd); err != nil {
		return nil, err
	}
	gen, _ := d.generation()
	gen |= 1
	if err := d.setGeneration(gen); err != nil {
		_ = unix.Flock(fd, unix.LOCK_UN)
		return nil, err
	}
	return func() {
		_ = d.setGeneration(gen + 1) // else it stays odd: slow, but right
		_ = unix.Flock(fd, unix.LOCK_UN)
	}, nil
}

func (d *database) setGeneration(gen uint64) error {
	_, err := d.gen.WriteAt(binary.LittleEndian.AppendUint64(nil, gen), 0)
	return err
}

// entryKey is either a name or an id.
type entryKey struct {
	name mailbox.Name
	id   ID
}

// entryCache holds entries as of one generation. They are shared: nobody may write
// into their slices.
type entryCache struct {
	mu      sync.RWMutex
	gen     uint64
	since   time.Time
	entries map[entryKey]Entry
}

func (c *entryCache) get(key entryKey, gen uint64) (Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.gen != gen || time.Since(c.since) > cacheLife {
		return Entry{}, false
	}
	e, ok := c.entries[key]
	return e, ok
}

func (c *entryCache) put(key entryKey, gen uint64, e Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil || c.gen != gen || time.Since(c.since) > cacheLife || len(c.entries) >= cacheEntries {
		c.gen, c.since, c.entries = gen, time.Now(), map[entryKey]Entry{}
	}
	c.entries[key] = e
}
