package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// handle is a mailbox opened by one user.
type handle struct {
	b      *box
	name   mailbox.Name
	user   User
	closed atomic.Bool
}

var _ Mailbox = (*handle)(nil)

// Open opens a mailbox. It asks for no right: that is the caller's business,
// before or after, with Rights.
func (s *Store) Open(ctx context.Context, name mailbox.Name, as User) (Mailbox, error) {
	var b *box
	err := s.find(ctx, name, func(e *Entry) (err error) {
		b, err = s.getBox(ctx, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &handle{b: b, name: name, user: as}, nil
}

func (h *handle) Close() error {
	if !h.closed.Swap(true) {
		h.b.st.putBox(h.b)
	}
	return nil
}

func (h *handle) ID() ID             { return h.b.id }
func (h *handle) Name() mailbox.Name { return h.name }

func (h *handle) View(ctx context.Context) (View, error) {
	v, err := h.b.view(ctx)
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (h *handle) Rights(ctx context.Context) (Rights, error) {
	e, err := h.b.st.list.byID(ctx, h.b.id)
	if err != nil {
		return 0, err
	}
	return e.RightsOf(h.user), nil
}

func (h *handle) Append(ctx context.Context, drafts ...*Draft) ([]Message, error) {
	items := make([]item, len(drafts))
	for i, d := range drafts {
		items[i] = item{
			flags: d.Flags & SystemFlags, keywords: d.Keywords, internal: d.Internal.Unix(),
			size: d.Size, guid: d.GUID, cache: d.cache, from: d.link, open: d.open,
		}
		defer d.Abort()
	}
	msgs, err := h.b.add(ctx, items, false)
	if err != nil {
		return nil, err
	}
	return msgs, h.b.settle(msgs)
}

// CopyTo links messages into another mailbox of this store: there first, durable,
// then, for a move, expunged here. Never are two mailboxes locked at once.
func (h *handle) CopyTo(ctx context.Context, to Mailbox, uids UIDSet, move bool) ([]Pair, error) {
	dst, ok := to.(*handle)
	if !ok || dst.b.st != h.b.st {
		return nil, errors.New("store: CopyTo another store")
	}
	v, err := h.b.view(ctx)
	if err != nil {
		return nil, err
	}
	if err := h.b.hold(); err != nil {
		return nil, err
	}
	defer h.b.release()
	if err := dst.b.hold(); err != nil {
		return nil, err
	}
	defer dst.b.release()
	var items []item
	var pairs []Pair
	cache := h.b.openCache()
	defer cache.close()
	for m := range v.among(uids) {
		it := item{
			flags: m.Flags & SystemFlags, internal: m.Internal, size: m.Size, guid: m.GUID,
			cache: cache.raw(m),
		}
		for i, k := range v.keywords {
			if m.HasKeyword(i) {
				it.keywords = append(it.keywords, k)
			}
		}
		msg := *m
		it.from = func(dirfd int, name string) error { return h.b.linkOut(&msg, dirfd, name) }
		it.open = func() (Body, error) { return h.Body(ctx, msg.UID) }
		items = append(items, it)
		pairs = append(pairs, Pair{From: m.UID})
	}
	if len(items) == 0 {
		return nil, nil
	}
	msgs, err := dst.b.add(ctx, items, move && h.b.sameRoot(dst.b))
	if err != nil {
		return nil, err
	}
	if err := dst.b.settle(msgs); err != nil {
		return nil, err
	}
	var moved UIDSet
	for i := range msgs {
		pairs[i].To = msgs[i].UID
		moved.Add(pairs[i].From)
	}
	if move {
		if _, err := h.Expunge(ctx, moved); err != nil {
			return pairs, err
		}
		if err := h.b.syncIndex(); err != nil { // rule 13: MOVE is for good
			return pairs, err
		}
	}
	return pairs, nil
}

// linkOut links a message's file elsewhere. It may just be getting a new name;
// it is looked for without this mailbox's lock, since the other one's is held.
func (b *box) linkOut(m *Message, dirfd int, name string) error {
	err := unix.Linkat(b.dir, "cur/"+m.fileName(b.tag), dirfd, name, 0)
	for try := 0; err == unix.ENOENT && try < 3; try++ {
		names, lerr := listNames(b.dir, "cur")
		if lerr != nil {
			return lerr
		}
		for _, n := range names {
			if p := parseName(n, b.tag); p.ours && p.uid == m.UID {
				err = unix.Linkat(b.dir, "cur/"+n, dirfd, name, 0)
				break
			}
		}
	}
	return err
}

func (b *box) sameRoot(o *box) bool {
	return b.state.Load().meta.quotaRoot == o.state.Load().meta.quotaRoot
}

// Recent gives the UID up to which messages are not \Recent any more.
func (h *handle) Recent(ctx context.Context, claim bool) (UID, error) {
	b := h.b
	if !claim {
		if err := b.hold(); err != nil {
			return 0, err
		}
		defer b.release()
		s, err := b.catchUp(ctx, false)
		if err != nil {
			return 0, err
		}
		return s.hdr.recent, nil
	}
	if s := b.state.Load(); s.hdr.recent+1 == s.hdr.uidNext {
		return s.hdr.recent, nil
	}
	t, err := b.lock(ctx, false)
	if err != nil {
		return 0, err
	}
	defer t.end()
	was := t.hdr.recent
	if t.state().ino == 0 || was+1 == t.hdr.uidNext {
		return was, nil
	}
	n := t.hdr
	n.recent, n.recents = n.uidNext-1, 0
	return was, t.writeHeader(n)
}

// LockPOP keeps a second POP session out, in any process, while deliveries go on.
func (h *handle) LockPOP(ctx context.Context) (func(), error) {
	if err := h.b.hold(); err != nil {
		return nil, err
	}
	defer h.b.release()
	fd, err := openat(h.b.dir, ".pop", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		if err == unix.EWOULDBLOCK {
			return nil, ErrBusy
		}
		return nil, sysErr("flock", err)
	}
	return sync.OnceFunc(func() { unix.Close(fd) }), nil
}
