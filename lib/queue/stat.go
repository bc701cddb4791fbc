package queue

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func stat(name string) (Info, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return Info{}, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return infoOf(&st), nil
}

func fstat(f *os.File) (Info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Info{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return infoOf(&st), nil
}

func infoOf(st *unix.Stat_t) Info {
	mode := os.FileMode(st.Mode & 0o777)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		mode |= os.ModeDir
	case unix.S_IFLNK:
		mode |= os.ModeSymlink
	default:
		mode |= os.ModeIrregular
	}
	return Info{
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec),
		Mode:    mode,
		Size:    st.Size,
		Inode:   st.Ino,
		Links:   uint64(st.Nlink),
	}
}
