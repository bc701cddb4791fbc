package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Rule 7: STORE writes records; the names follow here, at most 64 for each time
// the lock is held. Expunged files go to .expunged in the same way, rule 9.

const (
	renameBatch = 64
	expungedDir = ".expunged"
	extraName   = ".extra"
)

// rename brings the names up to date.
func (b *box) rename(ctx context.Context) error {
	for {
		n, err := b.renameSome(ctx)
		if err != nil || n == 0 {
			return err
		}
	}
}

func (b *box) renameSome(ctx context.Context) (int, error) {
	t, err := b.lock(ctx, true)
	if err != nil {
		return 0, err
	}
	defer t.end()
	s := t.state()
	var todo []Message
	for m := range s.view.all() {
		if lettersFor(m, s.meta.keywords) != m.Named {
			if todo = append(todo, *m); len(todo) == renameBatch {
				break
			}
		}
	}
	for i := range s.view.gone {
		if len(todo) == renameBatch {
			break
		}
		if m := &s.view.gone[i]; m.Flags&flagMoved == 0 {
			todo = append(todo, *m)
		}
	}
	if len(todo) == 0 {
		return 0, nil
	}
	return t.renameFiles(todo)
}

func (t *txn) renameFiles(todo []Message) (int, error) {
	ours := t.watchCur()
	if err := t.busy(0); err != nil {
		return 0, err
	}
	keywords := t.state().meta.keywords
	recs := todo[:0]
	for _, m := range todo {
		if err := t.b.st.fault("rename"); err != nil {
			return 0, err // busy stays: the next one verifies
		}
		if m.Flags&flagGone != 0 {
			if err := t.moveExpunged(&m); err != nil {
				return 0, err
			}
			recs = append(recs, m)
			continue
		}
		n := m
		n.Named = lettersFor(&m, keywords)
		err := unix.Renameat2(t.b.dir, "cur/"+m.fileName(t.b.tag), t.b.dir, "cur/"+n.fileName(t.b.tag), unix.RENAME_NOREPLACE)
		switch err {
		case nil:
			recs = append(recs, n)
		case unix.ENOENT, unix.EEXIST:
			ours = false // foreign hands: the listing will merge what they did
		default:
			return 0, sysErr("rename "+m.fileName(t.b.tag), err)
		}
	}
	if err := t.b.st.fault("renamed"); err != nil {
		return 0, err
	}
	t.recordCur(ours)
	if !ours {
		t.b.lookSoon()
	}
	return len(recs), t.commit(recs)
}

// moveExpunged moves a file out of the Maildir readers' sight.
func (t *txn) moveExpunged(m *Message) error {
	b := t.b
	name := m.fileName(b.tag)
	err := unix.Renameat(b.dir, "cur/"+name, b.dir, expungedDir+"/"+name)
	if err == unix.ENOENT {
		if merr := unix.Mkdirat(b.dir, expungedDir, 0o700); merr == nil || merr == unix.EEXIST {
			err = unix.Renameat(b.dir, "cur/"+name, b.dir, expungedDir+"/"+name)
		}
	}
	if err != nil && err != unix.ENOENT {
		return sysErr("rename "+name, err)
	}
	if err == unix.ENOENT { // under another name, or already there
		if p := t.findIn("cur", m.UID); p != "" {
			if err := unix.Renameat(b.dir, "cur/"+p, b.dir, expungedDir+"/"+name); err != nil {
				return sysErr("rename "+p, err)
			}
		}
	}
	m.Flags |= flagMoved
	keep := max(b.st.conf.ExpungeKeep, minExpunge)
	if b.st.conf.ExpungeKeep >= 0 {
		at := time.Unix(m.Saved, 0).Add(keep)
		b.keep.update(b, func(k *upkeep) {
			if k.sweepAt.IsZero() || at.Before(k.sweepAt) {
				k.sweepAt = at
			}
		})
	}
	return nil
}

func (t *txn) findIn(dir string, uid UID) string {
	names, err := listNames(t.b.dir, dir)
	if err != nil {
		return ""
	}
	for _, n := range names {
		if p := parseName(n, t.b.tag); p.ours && p.uid == uid {
			return n
		}
	}
	return ""
}

// sweep removes expunged messages whose time is over. What the index still says
// of them, that they vanished, stays.
func (b *box) sweep(ctx context.Context) error {
	keep := max(b.st.conf.ExpungeKeep, minExpunge)
	if b.st.conf.ExpungeKeep < 0 {
		return nil
	}
	t, err := b.lock(ctx, true)
	if err != nil {
		return err
	}
	defer t.end()
	now := b.st.now()
	var recs []Message
	var next time.Time
	for i := range t.state().view.gone {
		m := t.state().view.gone[i]
		if m.Flags&flagMoved == 0 || m.Flags&flagSwept != 0 {
			continue
		}
		if over := time.Unix(m.Saved, 0).Add(keep); over.After(now) {
			if next.IsZero() || over.Before(next) {
				next = over
			}
			continue
		}
		if err := unix.Unlinkat(b.dir, expungedDir+"/"+m.fileName(b.tag), 0); err != nil && err != unix.ENOENT {
			return sysErr("unlink", err)
		}
		m.Flags |= flagSwept
		recs = append(recs, m)
	}
	_ = unix.Unlinkat(b.dir, expungedDir, unix.AT_REMOVEDIR) // a large one never shrinks; fails if there is more
	b.keep.update(b, func(k *upkeep) { k.sweepAt = next })
	if len(recs) == 0 {
		return nil
	}
	return t.commit(recs)
}

// hasExtra reports whether a name can't say all about m: a date of saving that
// is not the internal one, keywords beyond the letters.
func hasExtra(m *Message) bool {
	return m.Saved != m.Internal || m.Keywords[0]>>maxLetters != 0 || m.Keywords[1] != 0
}

// writeExtra replaces .extra: as of which ModSeq, then one line a message.
//
//	modseq <modseq>
//	<uid> <saved> <keyword>...
func (b *box) writeExtra(ctx context.Context) error {
	v, err := b.view(ctx)
	if err != nil {
		return err
	}
	if err := b.hold(); err != nil {
		return err
	}
	defer b.release()
	return writeFileAt(b.st, b.dir, extraName, func(w io.Writer) error {
		out := bufio.NewWriter(w)
		fmt.Fprintf(out, "version 1\nmodseq %d\n", v.status.HighestModSeq)
		for m := range v.all() {
			if !hasExtra(m) {
				continue
			}
			fmt.Fprintf(out, "%d %d", m.UID, m.Saved)
			for i := maxLetters; i < len(v.keywords); i++ {
				if m.HasKeyword(i) {
					out.WriteString(" " + quoteWord(v.keywords[i]))
				}
			}
			out.WriteByte('\n')
		}
		return out.Flush()
	})
}

// extra is what .extra says of a message.
type extra struct {
	saved    int64
	keywords []string
}

// extras is what it says of all, as of modseq.
type extras struct {
	modseq ModSeq
	of     map[UID]extra
}

func (b *box) readExtra() (extras, error) {
	out := extras{of: map[UID]extra{}}
	fd, err := openat(b.dir, extraName, unix.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	f := os.NewFile(uintptr(fd), extraName)
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		w := strings.Fields(sc.Text())
		if len(w) < 2 {
			continue
		}
		uid, err1 := strconv.ParseUint(w[0], 10, 32)
		saved, err2 := strconv.ParseInt(w[1], 10, 64)
		if err1 != nil || err2 != nil {
			if w[0] == "modseq" && err2 == nil {
				out.modseq = ModSeq(saved)
			}
			continue // "version 1", or damaged: say less rather than nothing
		}
		x := extra{saved: saved}
		for _, k := range w[2:] {
			x.keywords = append(x.keywords, unquoteWord(k))
		}
		out.of[UID(uid)] = x
	}
	return out, nil
}

const dovecotKeywords = "dovecot-keywords"

// writeDovecotKeywords tells Maildir readers what the letters a-z mean.
func (b *box) writeDovecotKeywords() error {
	if err := b.hold(); err != nil {
		return err
	}
	defer b.release()
	keywords := b.state.Load().meta.keywords
	return writeFileAt(b.st, b.dir, dovecotKeywords, func(w io.Writer) error {
		out := bufio.NewWriter(w)
		for i, k := range keywords[:min(len(keywords), maxLetters)] {
			fmt.Fprintf(out, "%d %s\n", i, k)
		}
		return out.Flush()
	})
}

// readDovecotKeywords gives the names of the letters as others see them; where
// there is no such file they are ours.
func (b *box) readDovecotKeywords() [maxLetters]string {
	var out [maxLetters]string
	text, err := readFileAt(b.dir, dovecotKeywords, 1<<16)
	if err != nil {
		k := b.state.Load().meta.keywords
		copy(out[:], k[:min(len(k), maxLetters)])
		return out
	}
	for line := range strings.Lines(string(text)) {
		num, name, ok := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		if i, err := strconv.Atoi(num); ok && err == nil && i >= 0 && i < maxLetters {
			out[i] = name
		}
	}
	return out
}
