package store

import (
	"bytes"
	"os"
	"testing"

	"angarium/lib/maillog"
)

// TestSyncOfGone: a mailbox that is deleted or renamed before its index was synced
// is nobody's trouble; a lost index is.
func TestSyncOfGone(t *testing.T) {
	f := newFixture(t)
	var log bytes.Buffer
	f.Store.conf.Log = maillog.New(maillog.ToWriter(&log), "store")
	o := f.another()
	for _, c := range []struct {
		what string
		do   func() error
		logs bool
	}{
		{"deleted", func() error { return f.Delete(bg, "user.bob.a") }, false},
		{"renamed", func() error { return f.Rename(bg, "user.bob.a", "user.bob.b", "") }, false},
		{"deleted elsewhere", func() error { return o.Delete(bg, "user.bob.a") }, false},
		{"renamed elsewhere", func() error { return o.Rename(bg, "user.bob.a", "user.bob.c", "") }, false},
		{"index lost", func() error { return os.Remove(f.path("user.bob.a", indexName)) }, true},
	} {
		log.Reset()
		f.create("user.bob.a")
		must(t, f.deliver("user.bob.a", letter(1)))
		m := f.mailbox("user.bob.a")
		f.change(m, SetOf(1), FlagOp{Flags: FlagFlagged})
		must(t, c.do())
		f.now.Add(int64(syncAfter))
		f.SyncIndexes(bg)
		if (log.Len() > 0) != c.logs {
			t.Errorf("%s: logged %q", c.what, log.String())
		}
		m.Close()
	}
}
