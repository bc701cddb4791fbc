package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FromOS is the call that this process is.
func FromOS() *Cmd {
	return &Cmd{
		Name:   filepath.Base(os.Args[0]),
		Path:   os.Args[0],
		Args:   os.Args[1:],
		Stdin:  os.Stdin,
		Stdout: os.Stdout,
		Stderr: os.Stderr,
	}
}

// Exec runs main for this process and ends it. It is the whole main function
// of the programs that are binaries of their own.
func Exec(main Main) { os.Exit(Run(context.Background(), FromOS(), main)) }

// Terminal reports whether a person reads w. Commands that cron and init scripts
// run are silent where nobody does: what they say is in the log.
func Terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
