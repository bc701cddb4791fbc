package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Rule 5: <configdirectory>/epoch holds a number, the boot and "clean" or "open".
// Every index says in which epoch it was last known good. When the machine went
// down while the store was open, the next one to open it counts up, and each
// mailbox is verified at its first opening, not at start. kill -9 alone needs
// no verification: the page cache survived.
//
// Two lock files beside it: epoch.lock is held for a moment by whoever reads or
// writes epoch, epoch.users is held shared by each process as long as it has
// the store open.

type epochFile struct {
	number uint64
	boot   string
	clean  bool
}

func parseEpoch(text string) (e epochFile, err error) {
	var word string
	if _, err = fmt.Sscanf(text, "%d %s %s\n", &e.number, &e.boot, &word); err != nil {
		return e, err
	}
	e.clean = word == "clean"
	return e, nil
}

func (e epochFile) String() string {
	word := "open"
	if e.clean {
		word = "clean"
	}
	return fmt.Sprintf("%d %s %s\n", e.number, e.boot, word)
}

// openEpoch finds out in which epoch we are, and keeps a share in it.
func (s *Store) openEpoch() error {
	unlock, err := s.lockEpoch()
	if err != nil {
		return err
	}
	defer unlock()
	users, err := os.OpenFile(filepath.Join(s.conf.ConfigDirectory, "epoch.users"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	first := unix.Flock(int(users.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	if err := s.readEpoch(first); err != nil {
		users.Close()
		return err
	}
	if err := unix.Flock(int(users.Fd()), unix.LOCK_SH); err != nil {
		users.Close()
		return sysErr("flock epoch.users", err)
	}
	s.users = users
	return nil
}

func (s *Store) lockEpoch() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.conf.ConfigDirectory, "epoch.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, sysErr("flock epoch.lock", err)
	}
	return func() { f.Close() }, nil
}

func (s *Store) readEpoch(first bool) error {
	boot := s.bootID()
	text, err := os.ReadFile(filepath.Join(s.conf.ConfigDirectory, "epoch"))
	if errors.Is(err, fs.ErrNotExist) {
		s.epoch = uint64(s.now().Unix()) // one that no index knows, should the file have been lost
		return s.writeEpoch(epochFile{s.epoch, boot, false})
	}
	if err != nil {
		return err
	}
	e, err := parseEpoch(string(text))
	if err != nil {
		return fmt.Errorf("epoch: %w", err)
	}
	s.epoch = e.number
	if !first {
		return nil
	}
	if !e.clean && e.boot != boot {
		s.epoch++
		s.conf.Log.Warnf("the machine went down while the mail store was open: each mailbox will be verified when it is opened")
	}
	return s.writeEpoch(epochFile{s.epoch, boot, false})
}

func (s *Store) writeEpoch(e epochFile) error {
	d, err := os.Open(s.conf.ConfigDirectory)
	if err != nil {
		return err
	}
	defer d.Close()
	return writeFileAt(s, int(d.Fd()), "epoch", func(w io.Writer) error {
		_, err := io.WriteString(w, e.String())
		return err
	})
}

// closeEpoch gives our share back. The last one out syncs the partitions and
// notes an orderly stop.
func (s *Store) closeEpoch() error {
	unlock, err := s.lockEpoch()
	if err != nil {
		return err
	}
	defer unlock()
	defer s.users.Close()
	if err := unix.Flock(int(s.users.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // others are still there
	}
	for name, path := range s.conf.Partitions {
		err := s.syncPartition(path)
		if errors.Is(err, fs.ErrNotExist) { // whoever took the volume away has synced it
			s.conf.Log.Warnf("partition %s: %v", name, err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return s.writeEpoch(epochFile{s.epoch, s.bootID(), true})
}

func (s *Store) syncPartition(path string) error {
	fd, err := openat(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return s.syncFS(fd, "partition")
}

// bootID names this run of the machine, and this mount of the default partition
// (a copy of a disk's image, mounted on the same machine, has lost its page
// cache as well).
func (s *Store) bootID() string {
	if s.conf.BootID != "" {
		return s.conf.BootID
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	const uniqueMount = 0x4000 // STATX_MNT_ID_UNIQUE
	id := strings.TrimSpace(string(b))
	var st unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, s.conf.Partitions[s.conf.DefaultPartition], 0, uniqueMount, &st)
	if err == nil && st.Mask&uniqueMount != 0 {
		id = fmt.Sprintf("%s.%d", id, st.Mnt_id)
	}
	return id
}
