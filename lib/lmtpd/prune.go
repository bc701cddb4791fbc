package lmtpd

import (
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"
)

// dayForm is how the files of Duplicates are named.
const dayForm = "20060102"

// Remembered is one delivery that a Duplicates has not forgotten. Of the message
// and the mailbox there is only a hash.
type Remembered struct {
	Hash [16]byte
	Day  time.Time
}

// All gives what is remembered, the oldest first.
func (d *Duplicates) All() iter.Seq2[Remembered, error] {
	return func(yield func(Remembered, error) bool) {
		for day, name := range d.files() {
			data, err := os.ReadFile(name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				yield(Remembered{}, err)
				return
			}
			for ; len(data) >= 16; data = data[16:] {
				if !yield(Remembered{[16]byte(data), day}, nil) {
					return
				}
			}
		}
	}
}

// Prune forgets the days that were over before a time, and tells how many
// deliveries these were, and of how many. Today is never forgotten: others write
// in it.
func (d *Duplicates) Prune(before time.Time) (purged, all int, err error) {
	today := d.now().UTC().Format(dayForm)
	for day, name := range d.files() {
		st, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return purged, all, err
		}
		n := int(st.Size() / 16)
		all += n
		if filepath.Base(name) >= today || day.AddDate(0, 0, 1).After(before) {
			continue
		}
		if err := os.Remove(name); err != nil {
			return purged, all, err
		}
		purged += n
	}
	return purged, all, nil
}

// files are the days there are.
func (d *Duplicates) files() iter.Seq2[time.Time, string] {
	return func(yield func(time.Time, string) bool) {
		entries, err := os.ReadDir(d.Dir)
		if err != nil {
			return // nothing was ever delivered
		}
		for _, e := range entries {
			if day, err := time.Parse(dayForm, e.Name()); err == nil && !yield(day, filepath.Join(d.Dir, e.Name())) {
				return
			}
		}
	}
}
