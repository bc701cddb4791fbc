package cli

import (
	"context"
	"os"
	"path/filepath"
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
