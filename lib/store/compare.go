package store

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"path/filepath"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
)

// Mismatch is a mailbox that only the list has, or only a partition.
type Mismatch struct {
	Name      mailbox.Name
	Partition string
	Path      string
	Listed    bool // there is no directory; else there is no entry
}

// Compare gives the differences between the list and the partitions. It changes
// nothing: RebuildList and AddFound do.
func (s *Store) Compare(ctx context.Context) iter.Seq2[Mismatch, error] {
	return func(yield func(Mismatch, error) bool) {
		for e, err := range s.List(ctx, Query{Deleted: true}) {
			if err != nil {
				yield(Mismatch{}, err)
				return
			}
			path := filepath.Join(s.conf.Partitions[e.Partition], e.Name.Path())
			_, err = fstatat(unix.AT_FDCWD, filepath.Join(path, metaName))
			if errors.Is(err, fs.ErrNotExist) && !yield(Mismatch{e.Name, e.Partition, path, true}, nil) {
				return
			}
		}
		for e, err := range s.scan(ctx) {
			if err != nil {
				yield(Mismatch{}, err)
				return
			}
			if _, err := s.list.get(ctx, e.Name); err == nil {
				continue
			} else if !errors.Is(err, ErrNotFound) {
				yield(Mismatch{}, err)
				return
			}
			path := filepath.Join(s.conf.Partitions[e.Partition], e.Name.Path())
			if !yield(Mismatch{e.Name, e.Partition, path, false}, nil) {
				return
			}
		}
	}
}
