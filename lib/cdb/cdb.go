// Package cdb reads and writes constant databases in D. J. Bernstein's format.
//
//	2048 bytes   256 pairs (position of a hash table, number of its slots)
//	records      key length, data length, key, data
//	256 tables   slots of (hash, position of the record); position 0: empty
//
// All numbers are 32 bit, little endian, so a file stays under 4 GiB. The first
// record of a key wins; further ones follow in the order they were added.
//
// It promises that a reader never sees half a file: a Writer fills a file of
// another name, and the caller renames it. It does not know what keys mean.
package cdb

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

const headSize = 2048

// ErrTooLarge is returned by a Writer whose file would pass 4 GiB.
var ErrTooLarge = errors.New("cdb: file would pass 4 GiB")

// ErrDamaged is returned for a file whose numbers point outside of it.
var ErrDamaged = errors.New("cdb: damaged file")

func hash(key string) uint32 {
	h := uint32(5381)
	for i := 0; i < len(key); i++ {
		h = h*33 ^ uint32(key[i])
	}
	return h
}

// Reader looks keys up. It is safe for concurrent use if its ReaderAt is.
type Reader struct {
	r    io.ReaderAt
	size int64
	head [headSize]byte
}

// NewReader reads the head of a file of the given size in octets.
func NewReader(r io.ReaderAt, size int64) (*Reader, error) {
	c := &Reader{r: r, size: size}
	if size < headSize {
		return nil, ErrDamaged
	}
	if _, err := r.ReadAt(c.head[:], 0); err != nil {
		return nil, err
	}
	return c, nil
}

// Get returns the first value of key.
func (c *Reader) Get(key string) (value string, ok bool, err error) {
	h := hash(key)
	pair := c.head[h%256*8:]
	table, slots := binary.LittleEndian.Uint32(pair), binary.LittleEndian.Uint32(pair[4:])
	if slots == 0 {
		return "", false, nil
	}
	if int64(table)+int64(slots)*8 > c.size {
		return "", false, ErrDamaged
	}
	var buf [512]byte
	slot := h / 256 % slots
	for range slots {
		b := buf[:8]
		if _, err := c.r.ReadAt(b, int64(table)+int64(slot)*8); err != nil {
			return "", false, err
		}
		at, pos := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		if pos == 0 {
			return "", false, nil
		}
		if at == h {
			value, ok, err := c.match(int64(pos), key, buf[:])
			if ok || err != nil {
				return value, ok, err
			}
		}
		if slot++; slot == slots {
			slot = 0
		}
	}
	return "", false, nil
}

// match returns the data of the record at pos if it has this key.
func (c *Reader) match(pos int64, key string, buf []byte) (string, bool, error) {
	n, err := c.r.ReadAt(buf, pos)
	if n < 8 {
		return "", false, errors.Join(ErrDamaged, err)
	}
	klen, dlen := int64(binary.LittleEndian.Uint32(buf)), int64(binary.LittleEndian.Uint32(buf[4:]))
	if pos+8+klen+dlen > c.size {
		return "", false, ErrDamaged
	}
	if klen != int64(len(key)) {
		return "", false, nil
	}
	if need := 8 + klen + dlen; need > int64(n) {
		buf = make([]byte, need)
		if _, err := c.r.ReadAt(buf, pos); err != nil {
			return "", false, err
		}
	}
	if string(buf[8:8+klen]) != key {
		return "", false, nil
	}
	return string(buf[8+klen : 8+klen+dlen]), true, nil
}

// Each calls f for every record in the order of the file, until f returns false.
func (c *Reader) Each(f func(key, value []byte) bool) error {
	end := int64(binary.LittleEndian.Uint32(c.head[:]))
	for i := 1; i < 256; i++ {
		end = min(end, int64(binary.LittleEndian.Uint32(c.head[i*8:])))
	}
	if end < headSize || end > c.size {
		return ErrDamaged
	}
	r := bufio.NewReaderSize(io.NewSectionReader(c.r, headSize, end-headSize), 64<<10)
	var lengths [8]byte
	for pos := int64(headSize); pos < end; {
		if _, err := io.ReadFull(r, lengths[:]); err != nil {
			return errors.Join(ErrDamaged, err)
		}
		klen, dlen := int64(binary.LittleEndian.Uint32(lengths[:])), int64(binary.LittleEndian.Uint32(lengths[4:]))
		if pos += 8 + klen + dlen; pos > end {
			return ErrDamaged
		}
		b := make([]byte, klen+dlen)
		if _, err := io.ReadFull(r, b); err != nil {
			return errors.Join(ErrDamaged, err)
		}
		if !f(b[:klen:klen], b[klen:]) {
			return nil
		}
	}
	return nil
}

// Writer makes a database on w, which must be empty. Close finishes it.
type Writer struct {
	w      io.WriteSeeker
	buf    *bufio.Writer
	pos    int64
	tables [256][]slot
}

type slot struct{ hash, pos uint32 }

// NewWriter starts a database.
func NewWriter(w io.WriteSeeker) (*Writer, error) {
	c := &Writer{w: w, buf: bufio.NewWriterSize(w, 64<<10), pos: headSize}
	_, err := c.buf.Write(make([]byte, headSize))
	return c, err
}

// Add appends a record.
func (c *Writer) Add(key, value string) error {
	end := c.pos + 8 + int64(len(key)) + int64(len(value))
	if end > math.MaxUint32 {
		return ErrTooLarge
	}
	h := hash(key)
	c.tables[h%256] = append(c.tables[h%256], slot{h, uint32(c.pos)})
	c.pos = end
	b := binary.LittleEndian.AppendUint32(c.buf.AvailableBuffer(), uint32(len(key)))
	c.buf.Write(binary.LittleEndian.AppendUint32(b, uint32(len(value)))) // bufio keeps the first error for Close
	c.buf.WriteString(key)
	_, err := c.buf.WriteString(value)
	return err
}

// Close writes the hash tables and the head. It does not close or sync the file.
func (c *Writer) Close() error {
	var head [headSize]byte
	for i, t := range c.tables {
		slots := uint32(len(t) * 2)
		if c.pos+int64(slots)*8 > math.MaxUint32 {
			return ErrTooLarge
		}
		binary.LittleEndian.PutUint32(head[i*8:], uint32(c.pos))
		binary.LittleEndian.PutUint32(head[i*8+4:], slots)
		out := make([]byte, slots*8)
		for _, s := range t {
			at := s.hash / 256 % slots
			for binary.LittleEndian.Uint32(out[at*8+4:]) != 0 {
				at = (at + 1) % slots
			}
			binary.LittleEndian.PutUint32(out[at*8:], s.hash)
			binary.LittleEndian.PutUint32(out[at*8+4:], s.pos)
		}
		if _, err := c.buf.Write(out); err != nil {
			return err
		}
		c.pos += int64(len(out))
	}
	if err := c.buf.Flush(); err != nil {
		return err
	}
	if _, err := c.w.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := c.w.Write(head[:]); err != nil {
		return fmt.Errorf("cdb: %w", err)
	}
	return nil
}
