package store

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// Subscriptions: <configdirectory>/user/b/bob.sub, a name a line.

// userFile is the place of a user's file.
func (s *Store) userFile(userid, ext string) (dir, name string, err error) {
	if userid == "" || strings.ContainsAny(userid, "/\x00\n") || userid[0] == '.' || len(userid) > 240 {
		return "", "", ErrBadName
	}
	return filepath.Join(s.conf.ConfigDirectory, "user", strings.ToLower(userid[:1])), userid + ext, nil
}

// UserFiles is where a user's own files begin: with an ending such as ".sub" it
// is the path of one of them.
func (s *Store) UserFiles(userid string) (string, error) {
	dir, name, err := s.userFile(userid, "")
	return filepath.Join(dir, name), err
}

// Subscribed lists a user's subscriptions.
func (s *Store) Subscribed(_ context.Context, userid string) ([]mailbox.Name, error) {
	dir, name, err := s.userFile(userid, ".sub")
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []mailbox.Name
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" {
			out = append(out, mailbox.Name(line))
		}
	}
	return out, err
}

// Subscribe puts a name on a user's list or takes it off. It need not exist.
func (s *Store) Subscribe(ctx context.Context, userid string, n mailbox.Name, on bool) error {
	dir, name, err := s.userFile(userid, ".sub")
	if err != nil {
		return err
	}
	if err := s.makeDirs(s.conf.ConfigDirectory, dir); err != nil {
		return err
	}
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := flockWait(fd); err != nil {
		return err
	}
	names, err := s.Subscribed(ctx, userid)
	if err != nil {
		return err
	}
	i, there := slices.BinarySearch(names, n)
	switch {
	case there == on:
		return nil
	case on:
		names = slices.Insert(names, i, n)
	default:
		names = slices.Delete(names, i, i+1)
	}
	return writeFileAt(s, fd, name, func(w io.Writer) error {
		b := bufio.NewWriter(w)
		for _, n := range names {
			b.WriteString(string(n) + "\n")
		}
		return b.Flush()
	})
}
