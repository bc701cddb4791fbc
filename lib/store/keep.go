package store

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What is done when nobody waits: .index is synced a second after a change;
// names and .extra follow the flags, and expunged files are moved, once the
// mailbox was quiet for five; foreign hands are looked for.

const (
	syncAfter  = time.Second
	quietFor   = 5 * time.Second
	pollEvery  = 15 * time.Second // of a watched mailbox, rule 11
	lookEvery  = time.Second      // at most, for foreign hands, by those who ask for a View
	listEvery  = time.Hour        // cur/, even if its mtime stands still
	minExpunge = 10 * time.Minute
)

// upkeep is what waits to be done for a box.
type upkeep struct {
	mu      sync.Mutex
	kept    bool      // in Store.kept, with a reference
	last    time.Time // of the last change by us
	dirty   time.Time // since when .index is not synced; zero: it is
	names   bool      // some names are older than their flags
	moves   bool      // some expunged files are in cur/
	extra   bool      // .extra is out of date
	sweepAt time.Time // when the first expunged file's time is over; zero: never
	looked  time.Time // for foreign hands
}

// changed is called after each commit, with or without the lock held.
func (b *box) changed(kind NoticeKind) {
	now := b.st.now()
	b.keep.update(b, func(k *upkeep) {
		k.last = now
		if k.dirty.IsZero() {
			k.dirty = now
		}
	})
	b.st.tell(b.id, kind)
}

func (k *upkeep) named(b *box)    { k.update(b, func(k *upkeep) { k.names, k.extra = true, true }) }
func (k *upkeep) expunged(b *box) { k.update(b, func(k *upkeep) { k.moves = true }) }

// noteExtra marks .extra as old if it has to say something of these messages.
func (b *box) noteExtra(msgs []Message) {
	for i := range msgs {
		if hasExtra(&msgs[i]) {
			b.keep.update(b, func(k *upkeep) { k.extra = true })
			return
		}
	}
}

func (k *upkeep) update(b *box, fn func(*upkeep)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn(k)
	if !k.kept {
		k.kept = b.st.keepBox(b)
	}
}

// Tend does what is due now. A goroutine of the store calls it twice a second.
func (s *Store) Tend(ctx context.Context) {
	s.mu.Lock()
	boxes := make([]*box, 0, len(s.kept))
	for b := range s.kept {
		boxes = append(boxes, b)
	}
	s.mu.Unlock()
	for _, b := range boxes {
		if ctx.Err() != nil {
			return
		}
		b.tend(ctx, false)
	}
	s.pollWatched(ctx)
}

// tend does b's work; with force also what need not be done yet: at an orderly stop.
func (b *box) tend(ctx context.Context, force bool) {
	now := b.st.now()
	k := &b.keep
	k.mu.Lock()
	doSync := !k.dirty.IsZero() && (force || now.Sub(k.dirty) >= syncAfter)
	quiet := force || now.Sub(k.last) >= quietFor
	doNames, doExtra := quiet && (k.names || k.moves), quiet && k.extra
	doSweep := !k.sweepAt.IsZero() && !now.Before(k.sweepAt)
	if doNames {
		k.names, k.moves = false, false
	}
	if doExtra {
		k.extra = false
	}
	if doSync {
		k.dirty = time.Time{}
	}
	if doSweep {
		k.sweepAt = time.Time{}
	}
	k.mu.Unlock()
	b.work(ctx, doNames, doExtra, doSweep, doSync)

	k.mu.Lock()
	idle := k.dirty.IsZero() && !k.names && !k.moves && !k.extra && (k.sweepAt.IsZero() || force)
	drop := idle && k.kept
	if drop {
		k.kept = false
		b.st.mu.Lock()
		delete(b.st.kept, b)
		b.st.mu.Unlock()
	}
	k.mu.Unlock()
	if drop {
		b.st.putBox(b)
	}
}

func (b *box) work(ctx context.Context, doNames, doExtra, doSweep, doSync bool) {
	try := func(what string, err error) {
		if err != nil && !errors.Is(err, ErrNotFound) && ctx.Err() == nil {
			b.st.conf.Log.Errorf("%s: %s: %v", b.where(), what, err)
		}
	}
	if doNames {
		try("renaming", b.rename(ctx))
	}
	if doExtra {
		try("writing .extra", b.writeExtra(ctx))
	}
	if doSweep {
		try("removing expunged messages", b.sweep(ctx))
	}
	if doSync {
		try("sync of .index", b.syncIndex())
	}
}

// syncIndex is the one background fdatasync that rule 13 speaks of.
func (b *box) syncIndex() error {
	if err := b.hold(); err != nil {
		return err
	}
	defer b.release()
	fd, err := openat(b.dir, indexName, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b.st.syncs <- struct{}{}
	defer func() { <-b.st.syncs }()
	if err := unix.Fdatasync(fd); err != nil {
		return sysErr("fdatasync", err)
	}
	return nil
}

// noticeWork looks at what an index that was just read leaves to do: its last
// owner may have died before he did it. smu is held; keep.mu comes after it.
func (b *box) noticeWork(s *state) {
	names, moves, unswept := false, false, false
	for m := range s.view.all() {
		if lettersFor(m, s.meta.keywords) != m.Named {
			names = true
			break
		}
	}
	for i := range s.view.gone {
		f := s.view.gone[i].Flags
		moves = moves || f&flagMoved == 0
		unswept = unswept || f&flagSwept == 0
	}
	if !names && !moves && !unswept {
		return
	}
	b.keep.update(b, func(k *upkeep) {
		k.names, k.moves = k.names || names, k.moves || moves
		if unswept && b.st.conf.ExpungeKeep >= 0 && k.sweepAt.IsZero() {
			k.sweepAt = b.st.now().Add(time.Minute)
		}
	})
}
