// Package postlogd writes the mail log. See postlogd(8).
//
// It takes finished lines, one datagram each, from programs that may not open the
// log file themselves, and appends them. It trusts nobody: what can't be printed
// is replaced, and a line has a limit. Anyone who may reach public/postlog can
// write a line that looks like any other.
package postlogd

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"angarium/lib/cli"
	"angarium/lib/maillog"
	"angarium/lib/service"
)

// Main runs the daemon.
func Main(ctx context.Context, c *cli.Cmd) error {
	return service.Run(ctx, c, service.Daemon{Program: "postlogd", Setup: setup})
}

func setup(_ context.Context, env *service.Env) (service.Handler, error) {
	path := env.Main.String("maillog_file")
	if path == "" {
		// The sender has syslog, too; a line here is one of someone who hasn't heard.
		sink, err := maillog.Open(maillog.Config{Facility: env.Main.String("syslog_facility")})
		return &daemon{syslog: sink}, err
	}
	// Open knows which prefixes are allowed.
	if _, err := maillog.Open(maillog.Config{File: path, Prefixes: env.Main.List("maillog_file_prefixes")}); err != nil {
		return nil, err
	}
	d := &daemon{file: maillog.NewFile(path)}
	if err := d.file.Reopen(); err != nil {
		return nil, fmt.Errorf("open logfile '%s': %w", path, err)
	}
	return d, nil
}

type daemon struct {
	file   *maillog.File
	syslog maillog.Sink

	mu  sync.Mutex
	buf []byte
}

// Serve is not for us: there is only a datagram socket.
func (d *daemon) Serve(context.Context, *service.Session) {}

// flushSize is how much is written at once at most.
const flushSize = 32 << 10

// ServePacket takes one line.
func (d *daemon) ServePacket(_ context.Context, s *service.Service, b []byte, _ net.Addr) {
	if d.file == nil {
		_ = d.syslog.Log(time.Now(), maillog.Info, s.Log.Tag(), s.Log.Number(), maillog.Printable(string(b)))
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 127 {
			c = '?'
		}
		d.buf = append(d.buf, c)
	}
	d.buf = append(d.buf, '\n')
	if len(d.buf) >= flushSize {
		d.flush()
	}
}

// FlushPackets writes what has come since the last write.
func (d *daemon) FlushPackets() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flush()
}

func (d *daemon) flush() {
	if len(d.buf) == 0 {
		return
	}
	if err := d.file.Append(d.buf); err != nil {
		fmt.Fprintf(os.Stderr, "postlogd: %v\n", err)
	}
	d.buf = d.buf[:0]
}
