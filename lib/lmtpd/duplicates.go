package lmtpd

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"angarium/lib/mailbox"
	"angarium/lib/maillog"
)

// Duplicates remembers which message went to which mailbox, so that one that
// comes again, through a list and directly, is stored once. A folder is another
// mailbox than the INBOX: a copy to bob+lists is none.
//
// A day is a file of 16-byte hashes, appended and never synced: to lose some
// costs a doubled message. All processes append to the same file and read what
// the others did. Days that are over are dropped after Keep of them.
type Duplicates struct {
	Dir  string
	Keep int              // days; 0: 3
	Now  func() time.Time // nil: time.Now
	Log  *maillog.Logger

	mu   sync.Mutex
	days map[string]*day
}

type day struct {
	f    *os.File
	read int64
	seen map[[16]byte]struct{}
}

func hashOf(id, date string, name mailbox.Name) [16]byte {
	h := sha256.Sum256([]byte(id + "\x00" + date + "\x00" + string(name)))
	return [16]byte(h[:16])
}

// Has reports whether the message went to the mailbox before. A nil Duplicates
// remembers nothing, and a message without Message-ID is never the same.
func (d *Duplicates) Has(id, date string, name mailbox.Name) bool {
	if d == nil || id == "" {
		return false
	}
	h := hashOf(id, date, name)
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.keep() {
		day, err := d.day(i)
		if err != nil {
			continue
		}
		if _, ok := day.seen[h]; ok {
			return true
		}
	}
	return false
}

// Mark remembers a delivery.
func (d *Duplicates) Mark(id, date string, name mailbox.Name) {
	if d == nil || id == "" {
		return
	}
	h := hashOf(id, date, name)
	d.mu.Lock()
	defer d.mu.Unlock()
	day, err := d.day(0)
	if err == nil {
		_, err = day.f.Write(h[:])
	}
	if err != nil {
		d.Log.Warnf("duplicate suppression: %v", err)
	}
}

func (d *Duplicates) keep() int {
	if d.Keep > 0 {
		return d.Keep
	}
	return 3
}

func (d *Duplicates) now() time.Time {
	if d.Now != nil {
		return d.Now()
	}
	return time.Now()
}

// day is the file of today less back days, read up to its end.
func (d *Duplicates) day(back int) (*day, error) {
	name := d.now().UTC().AddDate(0, 0, -back).Format("20060102")
	e := d.days[name]
	if e == nil {
		flags := os.O_RDWR | os.O_APPEND
		if back == 0 {
			flags |= os.O_CREATE
			d.drop()
		}
		f, err := os.OpenFile(filepath.Join(d.Dir, name), flags, 0o600)
		if os.IsNotExist(err) && back == 0 {
			if err = os.MkdirAll(d.Dir, 0o700); err == nil {
				f, err = os.OpenFile(filepath.Join(d.Dir, name), flags, 0o600)
			}
		}
		if err != nil {
			return nil, err
		}
		e = &day{f: f, seen: map[[16]byte]struct{}{}}
		if d.days == nil {
			d.days = map[string]*day{}
		}
		d.days[name] = e
	}
	return e, e.tail()
}

// tail reads what was appended since.
func (e *day) tail() error {
	st, err := e.f.Stat()
	if err != nil || st.Size()-e.read < 16 {
		return err
	}
	b := make([]byte, (st.Size()-e.read)/16*16)
	n, err := e.f.ReadAt(b, e.read)
	if n < len(b) {
		return fmt.Errorf("short read: %w", err)
	}
	for i := 0; i+16 <= n; i += 16 {
		e.seen[[16]byte(b[i:])] = struct{}{}
	}
	e.read += int64(n)
	return nil
}

// drop forgets the days that are over.
func (d *Duplicates) drop() {
	oldest := d.now().UTC().AddDate(0, 0, 1-d.keep()).Format("20060102")
	for name, e := range d.days {
		if name < oldest {
			e.f.Close()
			delete(d.days, name)
		}
	}
	entries, err := os.ReadDir(d.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if len(e.Name()) == len(oldest) && e.Name() < oldest {
			_ = os.Remove(filepath.Join(d.Dir, e.Name()))
		}
	}
}
