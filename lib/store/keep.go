package store

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What is done when nobody waits: .index is synced within a second of a change;
// names and .extra follow the flags, and expunged files are moved, once the
// mailbox was quiet for five; foreign hands are looked for.

const (
	syncAfter  = 400 * time.Millisecond // rule 13 promises a second, and the disk needs some of it
	tickEvery  = 200 * time.Millisecond
	manySyncs  = 32 // at a time: they share the journal's commits
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
	dirty   time.Time // since when .index has what only it knows and is not synced; zero: it is
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

// arrived is called after new messages were added. Their names say all, and are
// durable already.
func (b *box) arrived(msgs []Message) {
	now := b.st.now()
	b.keep.mu.Lock()
	b.keep.last = now
	b.keep.mu.Unlock()
	for i := range msgs {
		if hasExtra(&msgs[i]) {
			b.keep.update(b, func(k *upkeep) {
				k.extra = true
				if k.dirty.IsZero() {
					k.dirty = now
				}
			})
			break
		}
	}
	b.st.tell(b.id, Messages)
}

func (k *upkeep) named(b *box)    { k.update(b, func(k *upkeep) { k.names, k.extra = true, true }) }
func (k *upkeep) expunged(b *box) { k.update(b, func(k *upkeep) { k.moves = true }) }

func (k *upkeep) update(b *box, fn func(*upkeep)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn(k)
	if !k.kept {
		k.kept = b.st.keepBox(b)
	}
}

// Tend does what is due now. A goroutine of the store calls it again and again.
func (s *Store) Tend(ctx context.Context) {
	s.SyncIndexes(ctx)
	for _, b := range s.keptBoxes() {
		if ctx.Err() != nil {
			return
		}
		b.tend(ctx, false)
	}
	s.pollWatched(ctx)
}

func (s *Store) keptBoxes() []*box {
	s.mu.Lock()
	defer s.mu.Unlock()
	boxes := make([]*box, 0, len(s.kept))
	for b := range s.kept {
		boxes = append(boxes, b)
	}
	return boxes
}

// SyncIndexes makes durable what was changed long enough ago, for all mailboxes
// at once: one after the other, a thousand busy ones would take seconds. It has a
// goroutine of its own, for names may take long.
func (s *Store) SyncIndexes(ctx context.Context) { s.syncIndexes(ctx, false) }

func (s *Store) syncIndexes(ctx context.Context, all bool) {
	now := s.now()
	var work sync.WaitGroup
	places := make(chan struct{}, manySyncs)
	for _, b := range s.keptBoxes() {
		if ctx.Err() != nil {
			break
		}
		if !b.keep.syncDue(now, all) {
			continue
		}
		places <- struct{}{}
		work.Go(func() {
			defer func() { <-places }()
			// What is not there needs no sync; who opens it says what that means.
			if err := b.syncIndex(); err != nil && !isStale(err) {
				s.conf.Log.Errorf("%s: sync of .index: %v", b.where(), err)
			}
		})
	}
	work.Wait()
}

// syncDue reports whether .index is to be synced, and that it is being done.
func (k *upkeep) syncDue(now time.Time, force bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dirty.IsZero() || !force && now.Sub(k.dirty) < syncAfter {
		return false
	}
	k.dirty = time.Time{}
	return true
}

// tend does b's work; with force also what need not be done yet: at an orderly stop.
func (b *box) tend(ctx context.Context, force bool) {
	now := b.st.now()
	k := &b.keep
	k.mu.Lock()
	quiet := force || now.Sub(k.last) >= quietFor
	doNames, doExtra := quiet && (k.names || k.moves), quiet && k.extra
	doSweep := !k.sweepAt.IsZero() && !now.Before(k.sweepAt)
	if doNames {
		k.names, k.moves = false, false
	}
	if doExtra {
		k.extra = false
	}
	if doSweep {
		k.sweepAt = time.Time{}
	}
	k.mu.Unlock()
	b.work(ctx, doNames, doExtra, doSweep)

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

func (b *box) work(ctx context.Context, doNames, doExtra, doSweep bool) {
	try := func(what string, err error) {
		if err != nil && !errors.Is(err, ErrNotFound) && ctx.Err() == nil {
			b.st.conf.Log.Errorf("%s: %s: %v", b.where(), what, err)
		}
	}
	if doNames {
		try("renaming", b.rename(ctx))
		try("tidying .cache", b.tidyCache(ctx))
	}
	if doExtra {
		try("writing .extra", b.writeExtra(ctx))
	}
	if doSweep {
		try("removing expunged messages", b.sweep(ctx))
	}
}

// syncIndex is the background sync that rule 13 speaks of. An index that has
// replaced another needs its name synced as well.
func (b *box) syncIndex() error {
	if err := b.hold(); err != nil {
		return err
	}
	defer b.release()
	fresh := b.freshIndex.Swap(false)
	fd, err := openat(b.dir, indexName, unix.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if _, noMeta := fstatat(b.dir, metaName); errors.Is(noMeta, fs.ErrNotExist) {
			return b.missing() // with all the mailbox, deleted or renamed
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := b.st.fault("index sync"); err != nil {
		return err
	}
	if fresh {
		if err := b.st.fsync(fd, "index"); err != nil {
			return err
		}
		return b.st.fsync(b.dir, nameOf("index"))
	}
	return b.st.fdatasync(fd, "index")
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
