package local

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"angarium/lib/agent"
	"angarium/lib/dsn"
	"angarium/lib/safefile"
)

// head writes what goes in front of the message, to a "command" or a "file".
func (j *job) head(w *bufio.Writer, what string, from bool, now time.Time) {
	sender := j.r.Sender.String()
	if from {
		who := sender
		if who == "" {
			who = "MAILER-DAEMON"
		}
		fmt.Fprintf(w, "From %s  %s\n", who, now.Format(time.ANSIC))
	}
	fmt.Fprintf(w, "Return-Path: <%s>\n", j.r.Sender.Quoted())
	original := j.to.Original
	if original.IsNull() {
		original = j.to.Address
	}
	fmt.Fprintf(w, "X-Original-To: %s\n", original)
	if slices.Contains(j.o.NoDelivered, what) {
		return
	}
	delivered := j.to.Delivered
	if delivered.IsNull() {
		delivered = j.to.Address
	}
	fmt.Fprintf(w, "Delivered-To: %s\n", delivered)
}

// body copies the message; in a mailbox file lines that begin with "From " are
// quoted, and an empty line follows the last one.
func (j *job) body(w *bufio.Writer, quote bool) error {
	r := bufio.NewReaderSize(j.r.Message.Content(), 32<<10)
	fresh, last := true, byte('\n')
	for {
		line, err := r.ReadSlice('\n')
		if quote && fresh && bytes.HasPrefix(line, []byte("From ")) {
			w.WriteByte('>')
		}
		if len(line) > 0 {
			w.Write(line)
			last = line[len(line)-1]
		}
		fresh = err == nil
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if err != io.EOF {
				return err
			}
			break
		}
	}
	if last != '\n' {
		w.WriteByte('\n')
	}
	if quote {
		w.WriteByte('\n')
	}
	return w.Flush()
}

// trouble is a failure of the file system, in the words of Postfix' local(8):
// which mailbox, which file (what begins with "file: "), which maildir. What a
// person must mend may be mended before the mail is too old, so all of it is
// temporary but what is the user's own fault.
func (j *job) trouble(name, what, doing string, err error) error {
	code := [3]int{4, 2, 0}
	switch {
	case errors.Is(err, syscall.EFBIG), errors.Is(err, syscall.EDQUOT):
		code = [3]int{5, 2, 2}
	case errors.Is(err, syscall.ENOSPC):
		code = [3]int{4, 3, 1}
	}
	var no syscall.Errno
	if !errors.As(err, &no) {
		doing = "" // our own words
	}
	var text string
	switch {
	case what == "maildir":
		text = "maildir delivery failed: "
	case j.o.Virtual:
		text = "delivery failed to mailbox " + name + ": "
	case what == "mailbox":
		text = fmt.Sprintf("cannot update mailbox %s for user %s. ", name, j.o.User.Name)
	default:
		text = fmt.Sprintf("cannot append message to file %s: ", name)
	}
	return &dsn.Error{Code: code, Text: text + doing + reason(err), Err: err}
}

func reason(err error) string {
	var no syscall.Errno
	if errors.As(err, &no) && no.Error() != "" {
		s := no.Error()
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return err.Error()
}

// mbox appends to a mailbox file under its locks. What was written of a message
// that fails is cut off again.
func (j *job) mbox(ctx context.Context, name, what string) agent.Result {
	if j.r.Verify {
		return sent("delivers to %s", what)
	}
	unlock, err := j.dotlock(ctx, name, what)
	if err != nil {
		return failed(err)
	}
	defer unlock()
	f, err := openMailbox(name)
	if err != nil {
		return failed(j.trouble(name, what, "cannot open file: ", err))
	}
	defer f.Close()
	if err := j.lock(ctx, f); err != nil {
		return failed(j.trouble(name, what, "unable to lock for exclusive access: ", err))
	}
	st, err := f.Stat()
	if err != nil {
		return failed(j.trouble(name, what, "cannot open file: ", err))
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && j.o.StrictOwner && int(sys.Uid) != j.o.User.UID {
		j.r.Log.Warnf("specify \"strict_mailbox_ownership = no\" to ignore mailbox ownership mismatch")
		return failed(j.trouble(name, what, "", fmt.Errorf("destination %s is not owned by recipient", name)))
	}
	if !st.Mode().IsRegular() {
		// A device such as /dev/null is written to, and not cut.
		w := bufio.NewWriter(f)
		j.head(w, "file", true, time.Now())
		if err := j.body(w, true); err != nil {
			return failed(j.trouble(name, what, "error writing message: ", err))
		}
		return sent("delivered to %s", what)
	}
	if j.o.SizeLimit > 0 && st.Size() >= j.o.SizeLimit {
		return failed(j.trouble(name, what, "error writing message: ", syscall.EFBIG))
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		w := bufio.NewWriterSize(&limited{f, j.o.SizeLimit, end}, 32<<10)
		j.head(w, "file", true, time.Now())
		if err = j.body(w, true); err == nil {
			err = f.Sync()
		}
	}
	if err != nil {
		_ = f.Truncate(end)
		return failed(j.trouble(name, what, "error writing message: ", err))
	}
	return sent("delivered to %s", what)
}

// limited fails a write that makes a mailbox too large.
type limited struct {
	f     *os.File
	limit int64
	at    int64
}

func (l *limited) Write(p []byte) (int, error) {
	if l.limit > 0 && l.at+int64(len(p)) > l.limit {
		return 0, syscall.EFBIG
	}
	n, err := l.f.Write(p)
	l.at += int64(n)
	return n, err
}

// openMailbox opens or makes a mailbox, never through a link that someone may
// have put in a shared directory.
func openMailbox(name string) (*os.File, error) {
	st, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	case err != nil:
		return nil, err
	case st.Mode()&os.ModeSymlink != 0:
		real, err := filepath.EvalSymlinks(name)
		if err != nil {
			return nil, err
		}
		if link, ok := st.Sys().(*syscall.Stat_t); !ok || link.Uid != 0 {
			return nil, errors.New("file is a symbolic link")
		}
		name = real
	case st.Mode().IsDir():
		return nil, syscall.EISDIR
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Nlink > 1 {
			f.Close()
			return nil, fmt.Errorf("file has %d hard links", sys.Nlink)
		}
	}
	return f, nil
}

func (j *job) lock(ctx context.Context, f *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(j.o.LockAttempts)*j.o.LockDelay)
	defer cancel()
	for _, how := range j.o.Locks {
		var err error
		switch how {
		case "fcntl":
			err = safefile.LockRange(ctx, f, safefile.Exclusive)
		case "flock":
			err = safefile.Lock(ctx, f, safefile.Exclusive)
		}
		if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOLCK) {
			return err
		}
	}
	return nil
}

// dotlock makes name.lock. Where a user's directory does not let us, other locks
// have to do: spool directories are often writable for root only.
func (j *job) dotlock(ctx context.Context, name, what string) (func(), error) {
	nothing := func() {}
	want := false
	for _, how := range j.o.Locks {
		want = want || how == "dotlock"
	}
	if !want || strings.HasPrefix(name, "/dev/") {
		return nothing, nil
	}
	lock := name + ".lock"
	for n := 0; ; n++ {
		f, err := os.OpenFile(lock, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
		if err == nil {
			f.Close()
			return func() { _ = os.Remove(lock) }, nil
		}
		switch {
		case errors.Is(err, fs.ErrExist):
		case j.o.Virtual:
			return nil, j.trouble(name, what, "unable to create lock file "+lock+": ", err)
		default:
			return nothing, nil
		}
		if st, err := os.Lstat(lock); err == nil && time.Since(st.ModTime()) > j.o.StaleLock {
			_ = os.Remove(lock)
			continue
		}
		if n >= j.o.LockAttempts {
			return nil, j.trouble(name, what, "unable to create lock file "+lock+": ", syscall.EEXIST)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(j.o.LockDelay):
		}
	}
}

// maildir writes a file of its own: complete and synced in tmp, then linked
// into new.
func (j *job) maildir(dir, what string) agent.Result {
	if j.r.Verify {
		return sent("delivers to %s", what)
	}
	var random [6]byte
	if _, err := rand.Read(random[:]); err != nil {
		return failed(err)
	}
	now := time.Now()
	name := fmt.Sprintf("%d.M%06dP%d_%s.%s", now.Unix(), now.Nanosecond()/1000, os.Getpid(), hex.EncodeToString(random[:]),
		strings.NewReplacer("/", "\\057", ":", "\\072").Replace(j.o.Hostname))
	tmp := filepath.Join(dir, "tmp", name)
	f, err := createIn(dir, tmp)
	if err != nil {
		err = j.trouble(dir, what, "create maildir file "+tmp+": ", err)
		if errors.Is(err, fs.ErrPermission) {
			j.r.Log.Warnf("maildir access problem for UID/GID=%d/%d: create maildir file %s: Permission denied", j.o.User.UID, j.o.User.GID, tmp)
			j.r.Log.Warnf("perhaps you need to create the maildirs in advance")
		}
		return failed(err)
	}
	defer os.Remove(tmp)
	w := bufio.NewWriterSize(f, 32<<10)
	j.head(w, "file", false, now)
	if err = j.body(w, false); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(tmp, filepath.Join(dir, "new", name))
	}
	if err == nil {
		err = (*safefile.FS)(nil).SyncDir(filepath.Join(dir, "new"))
	}
	if err != nil {
		return failed(j.trouble(dir, what, "error writing message: ", err))
	}
	return sent("delivered to %s", what)
}

// createIn makes a file in the tmp of a maildir, and what is missing of that.
func createIn(dir, tmp string) (*os.File, error) {
	for _, sub := range []string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}
