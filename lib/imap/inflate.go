package imap

import (
	"errors"
	"io"
)

// Inflater reads a DEFLATE stream without header (RFC 1951), as COMPRESS has it
// (RFC 4978). Unlike compress/flate it hands on whatever the octets that arrived
// decide, before it waits for more: clients may end a command with zlib's
// Z_PARTIAL_FLUSH, after which the end of nothing is on its way.
//
// The stream is cut into units: the head of a block with its codes, a symbol, a
// piece of a stored block. A unit that has not arrived whole is read anew.
type Inflater struct {
	r io.Reader
	bits
	in     [4 << 10]byte // longer than any unit
	end    int           // of what arrived
	window [32 << 10]byte
	at     int // the place in window of the next octet
	full   bool

	block    blockKind
	final    bool // the last block
	stored   int  // octets of a stored block to come
	length   int  // octets of a copy to come, and how far back they are
	distance int
	literals huffman
	far      huffman
	err      error
}

type blockKind uint8

const (
	blockHead blockKind = iota // none is open
	blockStored
	blockHuffman
)

// bits is the place in the input: octets up to pos were taken, and n bits of them
// in hold are not used yet.
type bits struct {
	hold uint64
	n    uint
	pos  int
}

// ErrCorrupt is a stream that is none.
var ErrCorrupt = errors.New("corrupt deflate stream")

// NewInflater reads from r.
func NewInflater(r io.Reader) *Inflater { return &Inflater{r: r} }

func (d *Inflater) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) && d.err == nil {
		mark := d.bits
		k, ok := d.unit(b[n:])
		if n += k; ok || d.err != nil {
			continue
		}
		d.bits = mark
		if n > 0 {
			return n, nil
		}
		d.fill()
	}
	if n > 0 || len(b) == 0 {
		return n, nil
	}
	return 0, d.err
}

// fill reads more.
func (d *Inflater) fill() {
	d.unload()
	d.end = copy(d.in[:], d.in[d.pos:d.end])
	d.pos = 0
	n, err := d.r.Read(d.in[d.end:])
	if d.end += n; n == 0 && err != nil {
		if d.err = err; err == io.EOF {
			d.err = io.ErrUnexpectedEOF
		}
	}
}

// unload gives whole octets back that are held.
func (d *Inflater) unload() {
	d.pos -= int(d.n / 8)
	d.n %= 8
	d.hold &= 1<<d.n - 1
}

// need reports whether n bits are there.
func (d *Inflater) need(n uint) bool {
	for d.n < n {
		if d.pos == d.end {
			return false
		}
		d.hold |= uint64(d.in[d.pos]) << d.n
		d.pos++
		d.n += 8
	}
	return true
}

// take uses n bits that are there.
func (d *Inflater) take(n uint) int {
	v := int(d.hold & (1<<n - 1))
	d.hold >>= n
	d.n -= n
	return v
}

// unit reads the next one and writes at least one octet, or none, into b. It is
// not ok if something is missing.
func (d *Inflater) unit(b []byte) (n int, ok bool) {
	switch {
	case d.length > 0:
		return d.back(b), true
	case d.block == blockHuffman:
		return d.symbol(b)
	case d.block == blockStored:
		n = copy(b[:min(len(b), d.stored)], d.in[d.pos:d.end])
		for _, c := range b[:n] {
			d.put(c)
		}
		d.pos += n
		if d.stored -= n; d.stored == 0 {
			d.close()
			return n, true
		}
		return n, n > 0
	}
	return 0, d.head()
}

func (d *Inflater) put(c byte) {
	d.window[d.at] = c
	if d.at++; d.at == len(d.window) {
		d.at, d.full = 0, true
	}
}

// back copies what was written before.
func (d *Inflater) back(b []byte) int {
	n := min(len(b), d.length)
	for i := range b[:n] {
		b[i] = d.window[(d.at-d.distance)&(len(d.window)-1)]
		d.put(b[i])
	}
	d.length -= n
	return n
}

// close ends a block.
func (d *Inflater) close() {
	if d.block = blockHead; d.final {
		d.err = io.EOF
	}
}

// head reads the head of a block: RFC 1951, 3.2.3.
func (d *Inflater) head() bool {
	if !d.need(3) {
		return false
	}
	d.final = d.take(1) == 1
	switch d.take(2) {
	case 0:
		d.take(d.n % 8)
		if !d.need(32) {
			return false
		}
		n := d.take(16)
		if d.take(16) != n^0xffff {
			d.err = ErrCorrupt
			return false
		}
		d.unload()
		if d.block, d.stored = blockStored, n; n == 0 {
			d.close()
		}
		return true
	case 1:
		d.fixed()
	case 2:
		if !d.codes() {
			return false
		}
	default:
		d.err = ErrCorrupt
		return false
	}
	d.block = blockHuffman
	return true
}

// Extra bits and first values of lengths and distances: RFC 1951, 3.2.5.
var (
	lengthBase  = [...]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthExtra = [...]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	codeOrder   = [...]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
)

// symbol reads one of a block with codes, and what belongs to it.
func (d *Inflater) symbol(b []byte) (int, bool) {
	s, ok := d.decode(&d.literals)
	switch {
	case !ok:
		return 0, false
	case s < 256:
		b[0] = byte(s)
		d.put(b[0])
		return 1, true
	case s == 256:
		d.close()
		return 0, true
	case s-257 >= len(lengthBase):
		d.err = ErrCorrupt
		return 0, false
	}
	extra := uint(lengthExtra[s-257])
	if !d.need(extra) {
		return 0, false
	}
	length := int(lengthBase[s-257]) + d.take(extra)
	if s, ok = d.decode(&d.far); !ok {
		return 0, false
	}
	distance := s + 1
	if s >= 4 {
		extra = uint(s/2 - 1)
		if !d.need(extra) {
			return 0, false
		}
		distance = (2+s&1)<<extra + 1 + d.take(extra)
	}
	if s >= 30 || distance > d.at && !d.full {
		d.err = ErrCorrupt
		return 0, false
	}
	d.length, d.distance = length, distance
	return 0, true
}

// fixed sets the codes of RFC 1951, 3.2.6.
func (d *Inflater) fixed() {
	var lengths [288]uint8
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		default:
			lengths[i] = 8
		}
	}
	d.literals.set(lengths[:])
	var far [32]uint8 // two of which mean nothing
	for i := range far {
		far[i] = 5
	}
	d.far.set(far[:])
}

// codes reads those of the block: RFC 1951, 3.2.7.
func (d *Inflater) codes() bool {
	if !d.need(14) {
		return false
	}
	literals, far, coded := d.take(5)+257, d.take(5)+1, d.take(4)+4
	if literals > 286 || far > 30 {
		d.err = ErrCorrupt
		return false
	}
	var lengths [286 + 30]uint8
	for _, i := range codeOrder[:coded] {
		if !d.need(3) {
			return false
		}
		lengths[i] = uint8(d.take(3))
	}
	if !d.literals.set(lengths[:len(codeOrder)]) {
		d.err = ErrCorrupt
		return false
	}
	all := lengths[:literals+far]
	clear(all)
	for n := 0; n < len(all); {
		s, ok := d.decode(&d.literals)
		if !ok {
			return false
		}
		if s < 16 {
			all[n] = uint8(s)
			n++
			continue
		}
		extra, repeat := [...]uint{2, 3, 7}[s-16], [...]int{3, 3, 11}[s-16]
		if !d.need(extra) {
			return false
		}
		repeat += d.take(extra)
		if repeat > len(all)-n || s == 16 && n == 0 {
			d.err = ErrCorrupt
			return false
		}
		for range repeat {
			if s == 16 {
				all[n] = all[n-1]
			}
			n++
		}
	}
	if all[256] == 0 || !d.literals.set(all[:literals]) || !d.far.set(all[literals:]) {
		d.err = ErrCorrupt
		return false
	}
	return true
}

// fastBits are looked up at once; longer codes are rare.
const fastBits = 9

// huffman is a canonical code (RFC 1951, 3.2.2).
type huffman struct {
	fast   [1 << fastBits]uint16 // symbol<<4 | length; 0: longer, or none
	count  [16]uint16            // of codes of each length
	symbol [288]uint16           // in the order of their codes
}

// set makes the code from the lengths of its symbols; 0 for those that don't
// occur. It reports false for what is no code; one with a single symbol, or
// none, is all right (3.2.7).
func (h *huffman) set(lengths []uint8) bool {
	*h = huffman{}
	for _, l := range lengths {
		h.count[l]++
	}
	none := int(h.count[0])
	h.count[0] = 0
	left := 1
	var offset, next [17]uint16
	for l := 1; l < 16; l++ {
		if left = left<<1 - int(h.count[l]); left < 0 {
			return false
		}
		offset[l+1] = offset[l] + h.count[l]
		next[l+1] = (next[l] + h.count[l]) << 1
	}
	if used := len(lengths) - none; left > 0 && used > 0 && (used > 1 || h.count[1] != 1) {
		return false
	}
	for s, l := range lengths {
		if l == 0 {
			continue
		}
		h.symbol[offset[l]] = uint16(s)
		offset[l]++
		code := next[l]
		if next[l]++; l > fastBits {
			continue
		}
		back := 0 // codes arrive with their first bit lowest
		for i := range l {
			back |= int(code>>i&1) << (l - 1 - i)
		}
		for i := back; i < len(h.fast); i += 1 << l {
			h.fast[i] = uint16(s)<<4 | uint16(l)
		}
	}
	return true
}

// decode reads a symbol. It is not ok if bits are missing, or wrong.
func (d *Inflater) decode(h *huffman) (int, bool) {
	d.need(fastBits)
	if e := h.fast[d.hold&(1<<fastBits-1)]; e != 0 && uint(e&15) <= d.n {
		d.take(uint(e & 15))
		return int(e >> 4), true
	}
	code, first, index := 0, 0, 0
	for l := uint(1); l < 16; l++ {
		if !d.need(l) {
			return 0, false
		}
		code |= int(d.hold >> (l - 1) & 1)
		count := int(h.count[l])
		if code-count < first {
			d.take(l)
			return int(h.symbol[index+code-first]), true
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	d.err = ErrCorrupt
	return 0, false
}
