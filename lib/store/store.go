package store

import (
	"container/list"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/mailbox"
	"angarium/lib/maillog"
)

// Config is what a store needs to know. Only the first three are required.
type Config struct {
	ConfigDirectory  string
	Partitions       map[string]string // name -> path
	DefaultPartition string

	Log *maillog.Logger // may be nil

	// DelayedDelete keeps deleted mailboxes below DELETED (delete_mode: delayed).
	DelayedDelete bool
	// ExpungeKeep is how long an expunged message's file is kept, at least ten
	// minutes; negative: until cyr_expire (expunge_mode: delayed).
	ExpungeKeep time.Duration
	// DefaultACL is what new shared mailboxes get (defaultacl).
	DefaultACL ACL
	// MaxOpen is how many mailboxes nobody uses may keep their descriptors; 0: 1,000.
	MaxOpen int

	// For tests.
	Now   func() time.Time        // nil: time.Now
	Fault func(step string) error // called between the steps of each commit
	// Sync stands in for fsync(2) and fdatasync(2) of fd, and syncfs(2) if tree is set.
	Sync   func(what string, fd int, tree bool) error
	BootID string // "": the kernel's, and the mount's
	Manual bool   // no background goroutine: the test calls Tend
}

// Store is the mail of one machine. It is safe for concurrent use, by any number of processes.
type Store struct {
	conf    Config
	epoch   uint64
	users   *os.File // our share of the epoch
	nonce   string   // tells this opening from all others
	count   atomic.Uint64
	list    *mailboxList
	hub     *hub
	syncs   chan struct{} // rule 4's pool of fsyncs
	waiting chan struct{} // rule 2's places in the kernel's queue
	buffers sync.Pool

	fds struct {
		mu   sync.Mutex
		idle *list.List // of boxes with open descriptors and no users
		max  int
	}

	mu    sync.Mutex
	boxes map[ID]*box
	kept  map[*box]struct{} // those with work to be done

	stop context.CancelFunc
	done sync.WaitGroup
}

var (
	_ Directory     = (*Store)(nil)
	_ Deliverer     = (*Store)(nil)
	_ Subscriptions = (*Store)(nil)
)

// alert is the priority of what must not happen.
const alert = maillog.Alert

// Open opens the store and makes what is not there yet.
func Open(ctx context.Context, conf Config) (*Store, error) {
	s := &Store{
		conf: conf, nonce: newNonce(),
		syncs: make(chan struct{}, maxSyncs), waiting: make(chan struct{}, maxSyncs),
		boxes: map[ID]*box{}, kept: map[*box]struct{}{},
	}
	s.buffers.New = newStageBuffer
	s.fds.idle = list.New()
	if s.fds.max = conf.MaxOpen; s.fds.max <= 0 {
		s.fds.max = 1000
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if err := s.openEpoch(); err != nil {
		return nil, err
	}
	s.list = newList(s)
	ok := false
	defer func() {
		if !ok {
			_ = s.list.close()
			_ = s.closeEpoch()
		}
	}()
	if _, err := s.list.open(ctx); err != nil {
		return nil, err
	}
	if err := s.finishMoves(ctx); err != nil {
		return nil, err
	}
	var err error
	if s.hub, err = newHub(s); err != nil {
		return nil, err
	}
	bg, stop := context.WithCancel(context.Background())
	s.stop = stop
	if !conf.Manual {
		s.done.Go(func() { s.background(bg, s.SyncIndexes) })
		s.done.Go(func() { s.background(bg, s.Tend) })
	}
	ok = true
	return s, nil
}

func newNonce() string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// prepare makes the folders and tries what the store stands on.
func (s *Store) prepare() error {
	if _, ok := s.conf.Partitions[s.conf.DefaultPartition]; !ok {
		return fmt.Errorf("%w: %q", ErrPartition, s.conf.DefaultPartition)
	}
	if err := os.MkdirAll(s.conf.ConfigDirectory, 0o750); err != nil {
		return err
	}
	known, err := s.knownPartitions()
	if err != nil {
		return err
	}
	for name, path := range s.conf.Partitions {
		stage := filepath.Join(path, stageDir)
		if err = noVolume(path); err == nil || !known[name] {
			err = os.MkdirAll(stage, 0o700)
		}
		if err != nil {
			// A volume that is not there makes its mailboxes inaccessible, no others.
			if name == s.conf.DefaultPartition {
				return fmt.Errorf("partition %s: %w", name, err)
			}
			s.conf.Log.Errorf("partition %s: %v", name, err)
			continue
		}
		if err := tryFlock(stage); err != nil {
			return fmt.Errorf("partition %s (%s): %w", name, path, err)
		}
		s.cleanStage(stage)
		if !known[name] {
			if err := s.notePartition(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// partitionsName is the file that knows which partitions were there once, a name
// a line: of those, one that is empty is a volume that is not mounted, and
// nothing must be made there, nor taken for deleted.
const partitionsName = "partitions"

func (s *Store) knownPartitions() (map[string]bool, error) {
	text, err := os.ReadFile(filepath.Join(s.conf.ConfigDirectory, partitionsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	known := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		known[strings.TrimSuffix(line, "\n")] = true
	}
	return known, nil
}

func (s *Store) notePartition(name string) error {
	f, err := os.OpenFile(filepath.Join(s.conf.ConfigDirectory, partitionsName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(name + "\n") // one write: no line is ever mixed with another process'
	return errors.Join(err, f.Close())
}

// noVolume tells why there is nothing at a partition's path: not even .stage, nor
// anything else.
func noVolume(path string) error {
	if _, err := fstatat(unix.AT_FDCWD, filepath.Join(path, stageDir)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	empty, err := dirEmpty(unix.AT_FDCWD, path)
	if err == nil && empty {
		err = fmt.Errorf("%s is empty, and was not: is its volume mounted? (if it shall begin anew, make %s there)", path, stageDir)
	}
	return err
}

// tryFlock refuses a file system on which two descriptors don't exclude each other.
func tryFlock(dir string) error {
	f, err := os.CreateTemp(dir, "lock")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	g, err := os.Open(f.Name())
	if err != nil {
		return err
	}
	defer g.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("flock does not work here: %w", err)
	}
	if err := unix.Flock(int(g.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		return errors.New("flock does not exclude here")
	}
	return nil
}

// stageLife is longer than any delivery takes.
const stageLife = 24 * time.Hour

// cleanStage removes what others left behind when they died.
func (s *Store) cleanStage(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if st, err := fstatat(unix.AT_FDCWD, path); err == nil && s.now().Sub(time.Unix(st.Ctim.Unix())) > stageLife {
			_ = os.Remove(path)
		}
	}
}

func (s *Store) background(ctx context.Context, work func(context.Context)) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.tendSafely(ctx, work)
		}
	}
}

// tendSafely keeps one mailbox's panic from ending the work for all.
func (s *Store) tendSafely(ctx context.Context, work func(context.Context)) {
	defer func() {
		if r := recover(); r != nil {
			s.conf.Log.Panicf("store: %v", r)
		}
	}()
	work(ctx)
}

// Close ends the background work, writes what waits to be written, and notes an
// orderly stop if no other process has the store open.
func (s *Store) Close() error {
	s.stop()
	s.done.Wait()
	s.syncIndexes(context.Background(), true)
	for _, b := range s.keptBoxes() {
		b.tend(context.Background(), true)
	}
	s.hub.close()
	err := s.list.close()
	if cerr := s.closeEpoch(); err == nil {
		err = cerr
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, b := range s.boxes {
		delete(s.boxes, id)
		b.forget()
	}
	return err
}

func (s *Store) now() time.Time {
	if s.conf.Now != nil {
		return s.conf.Now()
	}
	return time.Now()
}

func (s *Store) fault(step string) error {
	if s.conf.Fault != nil {
		return s.conf.Fault(step)
	}
	return nil
}

// Partition is a partition's path, "" if there is none of this name.
func (s *Store) Partition(name string) string { return s.conf.Partitions[name] }

// dirOf is a mailbox's directory.
func (s *Store) dirOf(partition string, name mailbox.Name) (string, error) {
	root, ok := s.conf.Partitions[partition]
	if !ok {
		return "", fmt.Errorf("%w: %s", ErrPartition, partition)
	}
	return filepath.Join(root, name.Path()), nil
}

// pathOf is where a mailbox is now. One that was deleted is nowhere, though its
// files may wait below DELETED.
func (s *Store) pathOf(id ID) (string, error) {
	e, err := s.list.byID(context.Background(), id)
	if err != nil {
		return "", err
	}
	if e.Name.IsDeleted() {
		return "", ErrNotFound
	}
	return s.dirOf(e.Partition, e.Name)
}

// getBox finds the box of a mailbox, or makes it, and takes a reference.
func (s *Store) getBox(ctx context.Context, e *Entry) (*box, error) {
	path, err := s.dirOf(e.Partition, e.Name)
	if err != nil {
		return nil, err
	}
	if !validID(e.ID) {
		return nil, fmt.Errorf("%s: bad uniqueid %q", e.Name, e.ID)
	}
	s.mu.Lock()
	b := s.boxes[e.ID]
	if b == nil || *b.path.Load() != path { // other processes rename, too
		b = &box{st: s, id: e.ID, tag: tagOf(e.ID), partition: e.Partition, dir: -1, index: -1, turn: make(chan struct{}, 1)}
		b.path.Store(&path)
		b.turn <- struct{}{}
		s.boxes[e.ID] = b
	}
	b.refs++
	s.mu.Unlock()

	b.loading.Lock()
	if b.state.Load() == nil {
		err = b.load(ctx)
	}
	b.loading.Unlock()
	if err != nil {
		s.mu.Lock()
		if s.boxes[e.ID] == b {
			delete(s.boxes, e.ID)
		}
		s.mu.Unlock()
		s.putBox(b)
		return nil, err
	}
	return b, nil
}

// putBox gives a reference back. The last one takes the snapshot with it; what
// costs little stays for the next delivery.
func (s *Store) putBox(b *box) {
	s.mu.Lock()
	b.refs--
	last := b.refs == 0
	if last && (len(s.boxes) > s.fds.max || s.boxes[b.id] != b) {
		if s.boxes[b.id] == b {
			delete(s.boxes, b.id)
		}
		b.forget()
	}
	s.mu.Unlock()
	if !last {
		return
	}
	b.smu.Lock()
	defer b.smu.Unlock()
	s.mu.Lock()
	last = b.refs == 0
	s.mu.Unlock()
	if st := b.state.Load(); last && st != nil && st.view != nil {
		n := *st
		n.view = nil
		b.state.Store(&n)
	}
}

// dropBox makes the next to open this mailbox begin anew: it has moved.
func (s *Store) dropBox(b *box) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.boxes[b.id] == b {
		delete(s.boxes, b.id)
	}
}

// forget closes the descriptors of a box that nobody uses.
func (b *box) forget() {
	f := &b.st.fds
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.users == 0 {
		if b.idle != nil {
			f.idle.Remove(b.idle)
		}
		b.closeFDs()
	}
}

// keepBox takes a reference for the work that waits.
func (s *Store) keepBox(b *box) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[b] = struct{}{}
	b.refs++
	return true
}
