package queue_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/powercut"
	"angarium/lib/queue"
	"angarium/lib/safefile"
)

// cutter is a queue whose power is cut, on copies, at each step and after each commit.
type cutter struct {
	t      *testing.T
	disk   *powercut.Disk
	left   safefile.Op // a sync that is left out
	rand   *rand.Rand
	q      *queue.Queue
	draft  string            // path of the file being written
	ours   map[string]string // id -> content: those that were committed
	broken []string
}

func newCutter(t *testing.T, left safefile.Op, seed uint64) *cutter {
	c := &cutter{t: t, left: left, rand: rand.New(rand.NewPCG(2, seed)), ours: map[string]string{}}
	c.q = open(t, queue.Options{FS: &safefile.FS{Hook: c.step}})
	for _, d := range []queue.Dir{queue.Incoming, queue.Active, queue.Deferred} {
		if err := os.MkdirAll(filepath.Join(c.q.Path(), string(d)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if c.disk, err = powercut.New(c.q.Path(), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.disk.Close)
	return c
}

func (c *cutter) step(op safefile.Op, name string) error {
	if c.disk == nil {
		return nil
	}
	c.cut(c.rand)
	if op == c.left {
		return nil
	}
	switch op {
	case safefile.OpSync: // the file may have got its id since it was opened
		return c.disk.SyncPath(c.draft)
	case safefile.OpDir:
		return c.disk.SyncPath(name)
	}
	return nil
}

// cut looks what is left of the queue: all that was committed, once, and nothing else
// that counts.
func (c *cutter) cut(r *rand.Rand) {
	dst := filepath.Join(c.t.TempDir(), "cut")
	if err := c.disk.Image(dst, r); err != nil {
		c.t.Fatal(err)
	}
	defer os.RemoveAll(dst)
	q, err := queue.Open(dst, queue.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	for id, want := range c.ours {
		dir, ok := q.Find(id, queue.Incoming, queue.Active, queue.Deferred)
		if !ok {
			c.broken = append(c.broken, id+" is lost")
			continue
		}
		m, err := q.OpenMessage(dir, id)
		if err != nil {
			c.broken = append(c.broken, fmt.Sprintf("%s: %v", id, err))
			continue
		}
		got, err := io.ReadAll(m.Content())
		m.Close()
		if err != nil || string(got) != want {
			c.broken = append(c.broken, fmt.Sprintf("%s has %d octets, not %d: %v", id, len(got), len(want), err))
		}
	}
}

// story commits letters, and moves them on.
func (c *cutter) story() {
	for n := range 4 {
		d, err := c.q.Create(context.Background(), letterEnvelope)
		if err != nil {
			c.t.Fatal(err)
		}
		c.draft = filepath.Join(c.q.Path(), c.q.Name(queue.Incoming, d.ID()))
		_ = d.Recipient(rcpt("b@there.test"))
		text := strings.Repeat(fmt.Sprintf("a line of letter %d\n", n), 2000)
		if _, err := io.WriteString(d, text); err != nil {
			c.t.Fatal(err)
		}
		if err := d.Commit(context.Background()); err != nil {
			c.t.Fatal(err)
		}
		c.ours[d.ID()] = text
		c.cut(nil)
		if err := c.q.Move(d.ID(), queue.Incoming, queue.Active); err != nil {
			c.t.Fatal(err)
		}
		c.cut(nil)
		if n%2 == 0 {
			if err := c.q.Move(d.ID(), queue.Active, queue.Deferred); err != nil {
				c.t.Fatal(err)
			}
		}
		c.cut(c.rand)
	}
}

// TestPowerCut: what was committed survives, whatever of the unsynced came to the disk;
// and each of the two syncs is needed for that.
func TestPowerCut(t *testing.T) {
	for seed := range uint64(4) {
		c := newCutter(t, "", seed)
		if c.story(); len(c.broken) > 0 {
			t.Errorf("seed %d: %s", seed, strings.Join(c.broken, "\n"))
		}
	}
	for _, left := range []safefile.Op{safefile.OpSync, safefile.OpDir} {
		c := newCutter(t, left, 1)
		if c.story(); len(c.broken) == 0 {
			t.Errorf("without %s nothing is lost", left)
		} else {
			t.Logf("without %s: %s", left, c.broken[0])
		}
	}
}
