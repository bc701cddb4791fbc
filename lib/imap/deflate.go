package imap

import (
	"bufio"
	"compress/flate"
	"io"
	"sync"
)

// Deflater writes a DEFLATE stream (RFC 1951), for COMPRESS. It has a compressor
// only between the first Write and Flush: one is 800 KB, and most connections
// are idle. The stream goes on with another one, which does not look back.
type Deflater struct {
	w io.Writer
	z *compressor
}

type compressor struct {
	*flate.Writer
	out *bufio.Writer // flate writes in small pieces
}

var compressors = sync.Pool{New: func() any {
	out := bufio.NewWriterSize(nil, 16<<10)
	z, err := flate.NewWriter(out, flate.DefaultCompression)
	if err != nil {
		panic(err) // only for a level that there is none
	}
	return &compressor{z, out}
}}

// NewDeflater writes to w.
func NewDeflater(w io.Writer) *Deflater { return &Deflater{w: w} }

func (d *Deflater) Write(b []byte) (int, error) {
	if d.z == nil {
		d.z = compressors.Get().(*compressor)
		d.z.out.Reset(d.w)
		d.z.Reset(d.z.out)
	}
	return d.z.Write(b)
}

// Flush sends everything, to the octet.
func (d *Deflater) Flush() error {
	if d.z == nil {
		return nil
	}
	err := d.z.Flush()
	if err == nil {
		err = d.z.out.Flush()
	}
	d.z.out.Reset(nil)
	compressors.Put(d.z)
	d.z = nil
	return err
}
