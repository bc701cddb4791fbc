// Package unixsock reaches unix sockets by paths that are longer than a socket
// address holds (107 bytes): a private server may lie deep.
package unixsock

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MaxPath is the longest path that sockaddr_un holds, in bytes; see unix(7).
const MaxPath = 107

// WithShortPath calls f with a name for path that fits into a socket address.
// The name is good during the call only.
func WithShortPath(path string, f func(string) error) error {
	if len(path) <= MaxPath {
		return f(path)
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(dir)
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path)))
}

// Dial connects to an address of any network; for "unix", "unixgram" and
// "unixpacket" the path may be long.
func Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	var d net.Dialer
	switch network {
	case "unix", "unixgram", "unixpacket":
		err = WithShortPath(address, func(p string) (err error) {
			conn, err = d.DialContext(ctx, network, p)
			return err
		})
		return conn, err
	}
	return d.DialContext(ctx, network, address)
}
