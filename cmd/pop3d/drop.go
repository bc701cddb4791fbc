package pop3d

import (
	"context"
	"errors"

	"angarium/lib/mailbox"
	"angarium/lib/pop3d"
	"angarium/lib/store"
)

// opener shows the store to lib/pop3d.
type opener struct {
	store  *store.Store
	inbox  func(user string) mailbox.Name
	seen   bool // popuseimapflags
	create bool // an INBOX that is missing is made,

	newInbox store.Entry // such as this, but for the name
}

func (o *opener) Name(user string) string { return string(o.inbox(user)) }

func (o *opener) Open(ctx context.Context, user string) (pop3d.Maildrop, error) {
	name := o.inbox(user)
	mb, err := o.store.Open(ctx, name, store.User{ID: user})
	if errors.Is(err, store.ErrNotFound) && o.create {
		e := o.newInbox
		e.Name = name
		if _, err := o.store.Create(ctx, e); err != nil {
			return nil, err
		}
		mb, err = o.store.Open(ctx, name, store.User{ID: user})
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, pop3d.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	d := &drop{Mailbox: mb, seen: o.seen}
	if d.release, err = mb.LockPOP(ctx); err == nil {
		if d.view, err = mb.View(ctx); err == nil {
			return d, nil
		}
		d.release()
	}
	_ = mb.Close()
	if errors.Is(err, store.ErrBusy) {
		return nil, pop3d.ErrBusy
	}
	return nil, err
}

// drop is a mailbox as it was at login: its View does not change.
type drop struct {
	store.Mailbox
	view    store.View
	release func()
	seen    bool
}

func (d *drop) Name() string        { return string(d.Mailbox.Name()) }
func (d *drop) UIDValidity() uint32 { return d.view.Status().UIDValidity }
func (d *drop) Len() int            { return d.view.Len() }

func (d *drop) Message(i int) pop3d.Message {
	m := d.view.At(i)
	return pop3d.Message{UID: uint32(m.UID), Size: m.Size}
}

func (d *drop) Body(ctx context.Context, i int) (pop3d.Body, error) {
	return d.Mailbox.Body(ctx, d.view.At(i).UID)
}

func (d *drop) uids(which []int) store.UIDSet {
	var set store.UIDSet
	for _, i := range which {
		set.Add(d.view.At(i).UID)
	}
	return set
}

func (d *drop) Remove(ctx context.Context, which []int) error {
	_, err := d.Expunge(ctx, d.uids(which))
	return err
}

func (d *drop) Seen(ctx context.Context, which []int) error {
	if !d.seen {
		return nil
	}
	_, err := d.Change(ctx, d.uids(which), store.FlagOp{Mode: store.AddFlags, Flags: store.FlagSeen})
	return err
}

func (d *drop) Close() error {
	d.release()
	return d.Mailbox.Close()
}
