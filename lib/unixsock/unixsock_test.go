package unixsock

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	if _, err := net.Dial("unix", path); !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("a plain dial fails otherwise than thought: %v", err)
	}
	var l net.Listener
	err := WithShortPath(path, func(p string) (err error) {
		l, err = net.Listen("unix", p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	defer l.Close()
	c, err := Dial(context.Background(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := Dial(context.Background(), "unix", path+"none"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Dial(context.Background(), "unix", dir+"/no/such"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
