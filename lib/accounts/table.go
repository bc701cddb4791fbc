package accounts

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// The file is a hash table whose records are only ever appended:
//
//	 0  "angusers"   magic
//	 8  version      uint32, 1
//	12  buckets      uint32, a power of two
//	16  seed         16 random octets, of the hash
//	32  checksum     uint32, CRC32C of the above
//	40  appended     uint64, records written so far: a hint only
//	64  heads        uint64 for each bucket: offset of its newest record, 0: none
//	    records      length uint32, CRC32C uint32, older uint64, then length octets
//
// All numbers are little-endian, records begin at multiples of 8. The CRC covers
// length, older and the octets. A record is synced before the head that points to
// it is written, and a head lies within one sector, so a crash leaves the
// account before or after its change; what no head reaches does not exist.
// Readers take no lock. Writers hold flock on the file, and replace it by rename
// when more was appended than there are buckets, so a look-up reads one record
// or two, however many accounts there are.
const (
	magic      = "angusers"
	headSize   = 64
	recHead    = 16
	minBuckets = 1024
	maxRecord  = 16 << 10
)

type table struct {
	dir        *os.File
	name, path string
	least      uint32 // buckets of a small file
	group      int    // of a new file; 0: as it comes

	mu  sync.RWMutex // readers hold it while they use cur
	cur *handle
}

// handle is the file, open.
type handle struct {
	f        *os.File
	dev, ino uint64
	buckets  uint32
	seed     [16]byte
}

// version tells one state of an account from another.
type version struct {
	seed [16]byte // of the file; inode numbers come again
	off  int64
}

var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

func (t *table) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cur != nil {
		t.cur.f.Close()
		t.cur = nil
	}
	return t.dir.Close()
}

// refresh opens the file if it was replaced since.
func (t *table) refresh() error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(t.dir.Fd()), t.name, &st, 0); err != nil {
		return &os.PathError{Op: "stat", Path: t.path, Err: err}
	}
	t.mu.RLock()
	same := t.cur != nil && t.cur.ino == st.Ino && t.cur.dev == uint64(st.Dev)
	t.mu.RUnlock()
	if same {
		return nil
	}
	h, err := t.open(unix.O_RDONLY)
	if err != nil {
		return err
	}
	t.mu.Lock()
	if t.cur != nil {
		t.cur.f.Close()
	}
	t.cur = h
	t.mu.Unlock()
	return nil
}

func (t *table) open(flags int) (*handle, error) {
	f, err := openAt(t.dir, t.name, flags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: t.path, Err: errors.Unwrap(err)}
	}
	h, err := readHeader(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", t.path, err)
	}
	return h, nil
}

func readHeader(f *os.File) (*handle, error) {
	var b [headSize]byte
	if _, err := f.ReadAt(b[:], 0); err != nil && err != io.EOF {
		return nil, err
	}
	if string(b[:8]) != magic {
		return nil, errors.New("not a user database of ours")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != 1 {
		return nil, fmt.Errorf("user database of a later version (%d)", v)
	}
	h := &handle{f: f, buckets: binary.LittleEndian.Uint32(b[12:]), seed: [16]byte(b[16:])}
	if crc32.Checksum(b[:32], castagnoli()) != binary.LittleEndian.Uint32(b[32:]) ||
		h.buckets == 0 || h.buckets&(h.buckets-1) != 0 {
		return nil, errors.New("user database is damaged")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	h.dev, h.ino = uint64(st.Dev), st.Ino
	return h, nil
}

// head is where the head of the account's bucket lies.
func (h *handle) head(user, realm string) int64 {
	sum := sha256.Sum256([]byte(string(h.seed[:]) + user + "\x00" + realm))
	return headSize + 8*int64(binary.LittleEndian.Uint32(sum[:])&(h.buckets-1))
}

func (h *handle) end() int64 { return headSize + 8*int64(h.buckets) }

func (h *handle) uint64(off int64) (uint64, error) {
	var b [8]byte
	if _, err := h.f.ReadAt(b[:], off); err != nil {
		return 0, unexpected(err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// record reads the one at off, and where the next older one of its bucket is.
func (h *handle) record(off int64) (r record, older int64, err error) {
	buf := make([]byte, 512) // most records fit
	n, err := h.f.ReadAt(buf, off)
	if err != nil && err != io.EOF {
		return r, 0, err
	}
	damaged := fmt.Errorf("user database is damaged at %d", off)
	if n < recHead {
		return r, 0, damaged
	}
	length := int(binary.LittleEndian.Uint32(buf))
	if length > maxRecord {
		return r, 0, damaged
	}
	if recHead+length > n {
		buf = make([]byte, recHead+length)
		if _, err := h.f.ReadAt(buf, off); err != nil {
			return r, 0, damaged
		}
	}
	buf = buf[:recHead+length]
	older = int64(binary.LittleEndian.Uint64(buf[8:]))
	// Records point backwards only, so a walk always ends.
	if sum(buf) != binary.LittleEndian.Uint32(buf[4:]) || older >= off || older < 0 {
		return r, 0, damaged
	}
	if r, err = decode(buf[recHead:]); err != nil {
		return r, 0, fmt.Errorf("%w: %w", damaged, err)
	}
	return r, older, nil
}

// sum is the checksum of a record with its head; the field itself is left out.
func sum(b []byte) uint32 {
	c := crc32.Update(0, castagnoli(), b[:4])
	return crc32.Update(c, castagnoli(), b[8:])
}

// get finds the newest record of an account. None is a deleted one.
func (h *handle) get(user, realm string) (record, version, error) {
	none := record{user: user, realm: realm, deleted: true}
	head, err := h.uint64(h.head(user, realm))
	if err != nil {
		return none, version{}, err
	}
	for off := int64(head); off != 0; {
		r, older, err := h.record(off)
		if err != nil {
			return none, version{}, err
		}
		if r.user == user && r.realm == realm {
			return r, version{h.seed, off}, nil
		}
		off = older
	}
	return none, version{}, nil
}

func (t *table) get(user, realm string) (record, version, error) {
	if err := t.refresh(); err != nil {
		return record{deleted: true}, version{}, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.cur == nil {
		return record{deleted: true}, version{}, os.ErrClosed
	}
	r, ver, err := t.cur.get(user, realm)
	if err != nil {
		err = fmt.Errorf("%s: %w", t.path, err)
	}
	return r, ver, err
}

// all yields the accounts of a file that is opened for it, bucket by bucket.
func (t *table) all() iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		h, err := t.open(unix.O_RDONLY)
		if err != nil {
			yield(record{}, err)
			return
		}
		defer h.f.Close()
		h.all(yield)
	}
}

func (h *handle) all(yield func(record, error) bool) {
	heads := make([]byte, 8*int(h.buckets))
	if _, err := h.f.ReadAt(heads, headSize); err != nil {
		yield(record{}, unexpected(err))
		return
	}
	for ; len(heads) > 0; heads = heads[8:] {
		var seen []string // a bucket holds few
	next:
		for off := int64(binary.LittleEndian.Uint64(heads)); off != 0; {
			r, older, err := h.record(off)
			if err != nil {
				yield(record{}, err)
				return
			}
			off = older
			key := r.user + "\x00" + r.realm
			for _, s := range seen {
				if s == key {
					continue next
				}
			}
			seen = append(seen, key)
			if !r.deleted && !yield(r, nil) {
				return
			}
		}
	}
}

// update changes one account under the lock: f gets its record, deleted if there
// is none, and changes that. When update returns nil the change is durable.
func (t *table) update(user, realm string, f func(*record) error) error {
	h, err := t.lock()
	if err != nil {
		return err
	}
	defer h.f.Close() // and the lock with it
	r, _, err := h.get(user, realm)
	if err != nil {
		return fmt.Errorf("%s: %w", t.path, err)
	}
	if err := f(&r); err != nil {
		return err
	}
	appended, err := h.append(&r)
	if err != nil {
		return fmt.Errorf("%s: %w", t.path, err)
	}
	if appended > uint64(h.buckets) {
		return t.rewrite(h)
	}
	return nil
}

// lock opens the file for writing, made if missing, and waits for its lock.
func (t *table) lock() (*handle, error) {
	for {
		h, err := t.open(unix.O_RDWR)
		if errors.Is(err, os.ErrNotExist) {
			err = t.install(t.name, false, func(f *os.File) error {
				_, err := f.Write(emptyTable(t.least))
				return err
			})
			if err == nil || errors.Is(err, os.ErrExist) {
				continue // look again: another process may have been quicker
			}
		}
		if err != nil {
			return nil, err
		}
		if err := flock(h.f); err != nil {
			h.f.Close()
			return nil, err
		}
		var st unix.Stat_t
		err = unix.Fstatat(int(t.dir.Fd()), t.name, &st, 0)
		if err == nil && st.Ino == h.ino && uint64(st.Dev) == h.dev {
			return h, nil
		}
		h.f.Close() // replaced while we waited
		if err != nil && err != unix.ENOENT {
			return nil, err
		}
	}
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}

func emptyTable(buckets uint32) []byte {
	b := make([]byte, headSize+8*int(buckets))
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], 1)
	binary.LittleEndian.PutUint32(b[12:], buckets)
	_, _ = rand.Read(b[16:32])
	binary.LittleEndian.PutUint32(b[32:], crc32.Checksum(b[:32], castagnoli()))
	return b
}

// encodeRecord is a record with its head.
func encodeRecord(r *record, older uint64) ([]byte, error) {
	data := r.encode()
	if len(data) > maxRecord {
		return nil, errors.New("account is too long")
	}
	b := make([]byte, recHead, recHead+len(data))
	binary.LittleEndian.PutUint32(b, uint32(len(data)))
	binary.LittleEndian.PutUint64(b[8:], older)
	b = append(b, data...)
	binary.LittleEndian.PutUint32(b[4:], sum(b))
	return b, nil
}

// append writes a record and then makes it count. It says how many were
// appended by now.
func (h *handle) append(r *record) (uint64, error) {
	st, err := h.f.Stat()
	if err != nil {
		return 0, err
	}
	head := h.head(r.user, r.realm)
	older, err := h.uint64(head)
	if err != nil {
		return 0, err
	}
	b, err := encodeRecord(r, older)
	if err != nil {
		return 0, err
	}
	off := (max(st.Size(), h.end()) + 7) &^ 7
	if _, err := h.f.WriteAt(b, off); err != nil {
		return 0, err
	}
	if err := h.f.Sync(); err != nil {
		return 0, err
	}
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(off))
	if _, err := h.f.WriteAt(n[:], head); err != nil {
		return 0, err
	}
	appended, err := h.uint64(40)
	if err != nil {
		return 0, err
	}
	appended++
	binary.LittleEndian.PutUint64(n[:], appended)
	if _, err := h.f.WriteAt(n[:], 40); err != nil {
		return 0, err
	}
	return appended, h.f.Sync()
}

// rewrite puts a file in place that holds the living accounts only, with room
// for as many again.
func (t *table) rewrite(old *handle) error {
	var live []record
	for r, err := range old.all {
		if err != nil {
			return fmt.Errorf("%s: %w", t.path, err)
		}
		live = append(live, r)
	}
	buckets := t.least
	for int(buckets) < 2*len(live) {
		buckets *= 2
	}
	head := emptyTable(buckets)
	binary.LittleEndian.PutUint64(head[40:], uint64(len(live)))
	h := &handle{buckets: buckets, seed: [16]byte(head[16:])}
	var body bytes.Buffer
	for i := range live {
		at := h.head(live[i].user, live[i].realm)
		b, err := encodeRecord(&live[i], binary.LittleEndian.Uint64(head[at:]))
		if err != nil {
			return err
		}
		body.Write(make([]byte, (8-body.Len()%8)%8))
		binary.LittleEndian.PutUint64(head[at:], uint64(h.end())+uint64(body.Len()))
		body.Write(b)
	}
	return t.install(t.name, true, func(f *os.File) error {
		if _, err := f.Write(head); err != nil {
			return err
		}
		_, err := body.WriteTo(f)
		return err
	})
}

// install puts a file in place, whole and durable, or not at all. With replace
// it takes the place, mode and owner of the old one; without, there must be none.
// A new file beside the database gets the database's mode and owner, so that
// who reads the one reads the other.
func (t *table) install(name string, replace bool, fill func(*os.File) error) error {
	temp := fmt.Sprintf(".%s.%s", name, rand.Text())
	f, err := openAt(t.dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	dir := int(t.dir.Fd())
	fail := func(err error) error {
		_ = unix.Unlinkat(dir, temp, 0)
		return err
	}
	mode := uint32(0o640)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, t.name, &st, 0); err == nil {
		mode = st.Mode & 0o777
		// Fails for who may not give files away; then the file is theirs.
		_ = f.Chown(int(st.Uid), int(st.Gid))
	} else if t.group != 0 {
		_ = f.Chown(-1, t.group)
	}
	if err := f.Chmod(os.FileMode(mode)); err != nil {
		return fail(err)
	}
	if err := fill(f); err != nil {
		return fail(err)
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	if replace {
		err = unix.Renameat(dir, temp, dir, name)
	} else {
		err = unix.Linkat(dir, temp, dir, name, 0)
		_ = unix.Unlinkat(dir, temp, 0)
	}
	if err != nil {
		return fail(err)
	}
	return t.dir.Sync()
}
