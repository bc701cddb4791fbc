package queue

import (
	"bytes"
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dirent is what a directory says of a file, without a look at the file. Of a long
// queue that is a fraction of the time.
type dirent struct {
	name  string
	inode uint64 // on some file systems (overlays) another one than stat(2) tells
	dir   bool
}

// readDir returns what is in a directory, in no order. It is read to its end before
// anything is returned: the caller may rename.
func readDir(dir string) ([]dirent, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var list []dirent
	room := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, room)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &os.PathError{Op: "getdents", Path: dir, Err: err}
		case n <= 0:
			return list, nil
		}
		for b := room[:n]; len(b) > 0; {
			var e dirent
			var kind byte
			e, kind, b = parseDirent(b)
			if e.name == "." || e.name == ".." || e.name == "" {
				continue
			}
			if e.dir = kind == unix.DT_DIR; kind == unix.DT_UNKNOWN {
				info, err := stat(dir + "/" + e.name)
				if err != nil {
					continue // gone
				}
				e.dir = info.Mode.IsDir()
			}
			list = append(list, e)
		}
	}
}

// parseDirent takes one linux_dirent64 from the front of b.
func parseDirent(b []byte) (e dirent, kind byte, rest []byte) {
	const (
		reclen = unsafe.Offsetof(unix.Dirent{}.Reclen)
		typ    = unsafe.Offsetof(unix.Dirent{}.Type)
		name   = unsafe.Offsetof(unix.Dirent{}.Name)
	)
	n := int(binary.NativeEndian.Uint16(b[reclen:]))
	if n <= int(name) || n > len(b) {
		return e, 0, nil
	}
	e.inode, kind = binary.NativeEndian.Uint64(b), b[typ]
	text := b[name:n]
	if i := bytes.IndexByte(text, 0); i >= 0 {
		text = text[:i]
	}
	e.name = string(text)
	return e, kind, b[n:]
}
