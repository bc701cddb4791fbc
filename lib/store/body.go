package store

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// body is an open message: openat, pread into the caller's buffer, close. The
// size is in the record.
type body struct {
	fd   int
	size int64
}

func (f *body) Size() int64 { return f.size }

func (f *body) Close() error {
	if f.fd < 0 {
		return fs.ErrClosed
	}
	err := unix.Close(f.fd)
	f.fd = -1
	return err
}

func (f *body) ReadAt(b []byte, off int64) (int, error) {
	if off >= f.size {
		return 0, io.EOF
	}
	short := int64(len(b)) > f.size-off
	if short {
		b = b[:f.size-off]
	}
	n, err := pread(f.fd, b, off)
	if err == nil && (short || n < len(b)) {
		err = io.EOF
	}
	return n, err
}

// Body opens a message's content, rule 10: by the name in the record; if that
// is not there, by the name in the newest record, then in .expunged, then by UID.
func (h *handle) Body(ctx context.Context, uid UID) (Body, error) {
	b := h.b
	if err := b.hold(); err != nil {
		return nil, err
	}
	defer b.release()
	s := b.state.Load()
	if s.view != nil {
		if _, m := s.view.find(uid); m != nil {
			if f, err := b.openNamed("cur/", m); err == nil {
				return f, nil
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	s, err := b.catchUp(ctx, true)
	if err != nil {
		return nil, err
	}
	_, m := s.view.find(uid)
	if m == nil {
		m = s.view.findGone(uid)
	}
	if m == nil || m.Flags&flagSwept != 0 {
		return nil, ErrGone
	}
	for _, dir := range [...]string{"cur/", expungedDir + "/"} {
		f, err := b.openNamed(dir, m)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	name, err := b.findFile(ctx, uid)
	if err != nil {
		return nil, err
	}
	fd, err := openat(b.dir, name, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &body{fd, m.Size}, nil
}

func (b *box) openNamed(dir string, m *Message) (*body, error) {
	var buf [128]byte
	name := m.appendName(append(buf[:0], dir...), b.tag)
	fd, err := openat(b.dir, string(name), unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &body{fd, m.Size}, nil
}

// findFile looks for a message's file by its UID, under the lock, so that our
// own renames are not under way. It returns the name relative to the mailbox.
func (b *box) findFile(ctx context.Context, uid UID) (string, error) {
	t, err := b.lock(ctx, true)
	if err != nil {
		return "", err
	}
	defer t.end()
	for _, dir := range [...]string{"cur", expungedDir} {
		names, err := listNames(b.dir, dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, n := range names {
			if p := parseName(n, b.tag); p.ours && p.uid == uid {
				return dir + "/" + n, nil
			}
		}
	}
	return "", ErrGone
}

// listAll lists a directory, unsorted.
func listAll(dirfd int, dir string) ([]string, error) {
	fd, err := openat(dirfd, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	return f.Readdirnames(-1)
}

// listNames lists a directory's files, unsorted, without those that begin with a dot.
func listNames(dirfd int, dir string) ([]string, error) {
	names, err := listAll(dirfd, dir)
	if err != nil {
		return nil, err
	}
	out := names[:0]
	for _, n := range names {
		if !strings.HasPrefix(n, ".") {
			out = append(out, n)
		}
	}
	return out, nil
}
