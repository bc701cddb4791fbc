package store

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Rule 3: the file .index.
//
//	0    header slot, 256 bytes      written in turn; the good one with the
//	512  header slot                 greater counter is the newest
//	1024 records of 104 bytes        only ever appended; the last one of a UID wins
//
// The header slot is the commit: what lies beyond its end does not exist. Every
// CRC (Castagnoli) covers the mailbox's uniqueid, the generation, the place and
// the content, so that neither zeros, nor another mailbox's index, nor an older
// piece of this one is ever believed. It is read and written with pread and
// pwrite: a mapping ends the process when the file shrinks, and shows torn writes.

const (
	indexName    = ".index"
	indexNewName = ".index.new"
	indexMagic   = 0x3178644967_6e41 // "AngIdx1"
	slotSize     = 256
	slotStep     = 512
	recordsAt    = 2 * slotStep
	recordSize   = 104
)

// header is one slot.
type header struct {
	counter  uint64 // of slots written
	gen      uint64 // generation: goes up when the file is replaced
	epoch    uint64 // of the store when it was last known good
	curIno   uint64
	curMtime int64 // of cur/ after our last change there, ns; 0: look
	newMtime int64 // of new/ when nothing was left in it
	listed   int64 // when cur/ was listed last, seconds
	end      int64 // of the records
	cacheEnd int64 // of .cache
	size     int64 // sum of the messages' sizes
	modseq   ModSeq
	history  ModSeq // what vanished before it is not known
	uidNext  UID
	recent   UID // messages above it are \Recent

	uidValidity uint32
	flags       uint32 // headerBusy
	live, gone  uint32 // messages; records of UIDs that are not any more
	dead        uint32 // records that a later one replaced
	unseen      uint32
	deleted     uint32
	recents     uint32 // messages above recent
	told        UID    // while busy: UIDNEXT as clients may know it
}

// headerBusy stands in a header while links or renames are under way: whoever
// takes the lock and finds it knows that the one before died there.
const headerBusy = 1

// headerDoubt stands in it after an fsync failed: nobody knows what the disk has.
const headerDoubt = 2

var (
	errTorn   = errors.New("index: bad checksum")
	errTooNew = errors.New("index was written by a newer program")
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// seal is what the CRCs of a mailbox's index begin with, in one generation.
type seal uint32

func sealOf(id ID, gen uint64) seal {
	b := binary.LittleEndian.AppendUint64([]byte(id), gen)
	return seal(crc32.Checksum(b, castagnoli()))
}

// sum covers uniqueid and generation, the content, and the place.
func (s seal) sum(off int64, b []byte) uint32 {
	return crc32.Update(uint32(s), castagnoli(), b) + uint32(off>>3)*0x9e3779b1
}

func (h *header) encode(b []byte, id ID) {
	le := binary.LittleEndian
	clear(b[:slotSize])
	for i, v := range [...]uint64{
		indexMagic, h.counter, h.gen, h.epoch, h.curIno, uint64(h.curMtime), uint64(h.newMtime), uint64(h.listed),
		uint64(h.end), uint64(h.cacheEnd), uint64(h.size), uint64(h.modseq), uint64(h.history),
	} {
		le.PutUint64(b[8+8*i:], v)
	}
	for i, v := range [...]uint32{
		uint32(h.uidNext), uint32(h.recent), h.uidValidity, h.flags, h.live, h.gone, h.dead, h.unseen, h.deleted, h.recents, uint32(h.told),
	} {
		le.PutUint32(b[112+4*i:], v)
	}
	le.PutUint32(b, sealOf(id, 0).sum(int64(h.counter&1)*slotStep, b[8:slotSize]))
}

// decode reads slot i out of b.
func (h *header) decode(b []byte, id ID, i int) error {
	le := binary.LittleEndian
	if le.Uint32(b) != sealOf(id, 0).sum(int64(i)*slotStep, b[8:slotSize]) {
		return errTorn
	}
	var u [13]uint64
	for i := range u {
		u[i] = le.Uint64(b[8+8*i:])
	}
	if u[0] != indexMagic {
		return errTooNew
	}
	var w [11]uint32
	for i := range w {
		w[i] = le.Uint32(b[112+4*i:])
	}
	*h = header{
		counter: u[1], gen: u[2], epoch: u[3], curIno: u[4], curMtime: int64(u[5]), newMtime: int64(u[6]), listed: int64(u[7]),
		end: int64(u[8]), cacheEnd: int64(u[9]), size: int64(u[10]), modseq: ModSeq(u[11]), history: ModSeq(u[12]),
		uidNext: UID(w[0]), recent: UID(w[1]), uidValidity: w[2], flags: w[3], live: w[4], gone: w[5], dead: w[6],
		unseen: w[7], deleted: w[8], recents: w[9], told: UID(w[10]),
	}
	if h.end < recordsAt || (h.end-recordsAt)%recordSize != 0 {
		return errTorn
	}
	return nil
}

// readHeader reads the newest slot. A bad one is just being written, or damaged:
// then the other one tells of a time that is over, and must not be believed.
func readHeader(fd int, id ID) (header, error) {
	h, good, err := readSlots(fd, id)
	if err == nil && good < 2 {
		err = errTorn
	}
	return h, err
}

// readSlots reads the newest good slot, and tells how many are good.
func readSlots(fd int, id ID) (_ header, good int, _ error) {
	var b [slotStep + slotSize]byte
	n, err := pread(fd, b[:], 0)
	if err != nil {
		return header{}, 0, err
	}
	var h [2]header
	var errs [2]error
	for i := range h {
		if n < i*slotStep+slotSize {
			errs[i] = errTorn
			continue
		}
		if errs[i] = h[i].decode(b[i*slotStep:][:slotSize], id, i); errs[i] == nil {
			good++
		}
	}
	switch {
	case errors.Is(errs[0], errTooNew) || errors.Is(errs[1], errTooNew):
		return header{}, 0, errTooNew
	case errs[0] == nil && (errs[1] != nil || h[0].counter > h[1].counter):
		return h[0], good, nil
	case errs[1] == nil:
		return h[1], good, nil
	}
	return header{}, 0, errTorn
}

// writeHeader writes h into the older slot: the commit.
func writeHeader(fd int, id ID, h *header) error {
	h.counter++
	var b [slotSize]byte
	h.encode(b[:], id)
	if err := pwrite(fd, b[:], int64(h.counter&1)*slotStep); err != nil {
		h.counter--
		return err
	}
	return nil
}

// Flags of the store's own, in a record's flags.
const (
	flagGone  Flags = 1 << 31 // expunged
	flagMoved Flags = 1 << 30 // its file is in .expunged
	flagSwept Flags = 1 << 29 // its file is no more
)

func (m *Message) encode(b []byte, s seal, off int64) {
	le := binary.LittleEndian
	le.PutUint32(b[4:], uint32(m.UID))
	le.PutUint32(b[8:], uint32(m.Flags))
	le.PutUint32(b[12:], m.Named)
	for i, v := range [...]uint64{
		m.Keywords[0], m.Keywords[1], uint64(m.ModSeq), uint64(m.Created), uint64(m.Size),
		uint64(m.Internal), uint64(m.Saved), m.cache,
	} {
		le.PutUint64(b[16+8*i:], v)
	}
	copy(b[80:96], m.GUID[:])
	clear(b[96:recordSize])
	le.PutUint32(b, s.sum(off, b[4:recordSize]))
}

func (m *Message) decode(b []byte, s seal, off int64) error {
	le := binary.LittleEndian
	if le.Uint32(b) != s.sum(off, b[4:recordSize]) {
		return errTorn
	}
	*m = Message{
		UID: UID(le.Uint32(b[4:])), Flags: Flags(le.Uint32(b[8:])), Named: le.Uint32(b[12:]),
		Keywords: [2]uint64{le.Uint64(b[16:]), le.Uint64(b[24:])},
		ModSeq:   ModSeq(le.Uint64(b[32:])), Created: ModSeq(le.Uint64(b[40:])), Size: int64(le.Uint64(b[48:])),
		Internal: int64(le.Uint64(b[56:])), Saved: int64(le.Uint64(b[64:])), cache: le.Uint64(b[72:]),
		GUID: [16]byte(b[80:96]),
	}
	return nil
}

// readRecords reads the records from one offset to another, in pieces, and
// calls each for them in order. The message is good during the call.
func readRecords(fd int, id ID, gen uint64, from, to int64, each func(*Message)) error {
	buf := make([]byte, min(to-from, 1024*recordSize))
	s := sealOf(id, gen)
	var m Message
	for from < to {
		n, err := pread(fd, buf[:min(int64(len(buf)), to-from)], from)
		if err != nil {
			return err
		}
		if n < recordSize {
			return errTorn // shorter than its header says
		}
		for i := 0; i+recordSize <= n; i += recordSize {
			if err := m.decode(buf[i:], s, from); err != nil {
				return err
			}
			each(&m)
			from += recordSize
		}
	}
	return nil
}

// pread reads until b is full or the file ends.
func pread(fd int, b []byte, off int64) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Pread(fd, b[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, sysErr("pread", err)
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

func pwrite(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return sysErr("pwrite", err)
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

func sysErr(op string, err error) error {
	return &fs.PathError{Op: op, Path: "mailbox", Err: err}
}
