package maillog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"angarium/lib/unixsock"
)

// Config says where the log goes.
type Config struct {
	// File is maillog_file: a path, or "/dev/stdout". Empty: syslog.
	File string
	// Prefixes is maillog_file_prefixes; File must be one of them or lie below one. None: anything goes.
	Prefixes []string
	// Socket is postlogd's (public/postlog). Where nobody answers there, lines are
	// appended to File, if this process may. Empty: append at once.
	Socket string
	// Facility is a syslog facility's name, "mail" if empty.
	Facility string
	// Device is where syslog listens, "/dev/log" if empty.
	Device string
	// Host is the host in the lines of File, of which the first label is shown: as
	// Postfix does it, myhostname. Empty: the machine's name. (To syslog no host is
	// said: the syslog daemon knows where it runs.)
	Host string
}

// Open returns the sink of a process. It fails only if the configuration makes no
// sense: a log that can't be written now may be there in a moment, and mail
// doesn't wait for it.
func Open(c Config) (Sink, error) {
	if c.File == "" {
		f, err := Facility(c.Facility)
		if err != nil {
			return nil, err
		}
		device := c.Device
		if device == "" {
			device = "/dev/log"
		}
		s := &syslogSink{device: device, facility: f}
		_ = s.connect()
		return s, nil
	}
	if len(c.Prefixes) > 0 && !below(c.File, c.Prefixes) {
		return nil, fmt.Errorf("maillog_file value '%s' does not match any prefix in maillog_file_prefixes", c.File)
	}
	file := NewFile(c.File)
	if c.Host != "" {
		file.host, _, _ = strings.Cut(c.Host, ".")
	}
	_ = file.Reopen() // while we have the rights
	if c.Socket == "" {
		return file, nil
	}
	return &socketSink{path: c.Socket, host: file.host, fallback: file}, nil
}

// below reports whether file is one of the prefixes, as /dev/stdout is by default, or
// lies below one.
func below(file string, prefixes []string) bool {
	for _, p := range prefixes {
		if rest, ok := strings.CutPrefix(file, strings.TrimSuffix(p, "/")); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// facilities are those of syslog(3).
var facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
	"authpriv", "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

// Facility is the number of a syslog facility; "" is mail.
func Facility(name string) (int, error) {
	name = strings.ToLower(strings.TrimPrefix(strings.ToUpper(name), "LOG_"))
	if name == "" {
		name = "mail"
	}
	for i, f := range facilities {
		if f == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("unknown syslog facility: %s", name)
}

// AppendLine appends a line as log files have it, without a newline.
func AppendLine(b []byte, t time.Time, host, tag string, num int64, text string) []byte {
	b = t.AppendFormat(b, time.Stamp)
	b = append(b, ' ')
	b = append(b, host...)
	b = append(b, ' ')
	b = appendTag(b, tag, num)
	return append(b, text...)
}

func appendTag(b []byte, tag string, num int64) []byte {
	b = append(b, tag...)
	b = append(b, '[')
	b = strconv.AppendInt(b, num, 10)
	return append(b, "]: "...)
}

// Host is the host name in log lines: the machine's, up to the first dot.
func Host() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	name, _, _ = strings.Cut(name, ".")
	return name
}

// A writerSink writes lines to something that takes them whole.
type writerSink struct {
	host string
	mu   sync.Mutex
	w    io.Writer
	buf  []byte
}

// ToWriter is a sink for a terminal or a test: a line a Write.
func ToWriter(w io.Writer) Sink { return &writerSink{host: Host(), w: w} }

func (s *writerSink) Log(t time.Time, _ Priority, tag string, num int64, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(AppendLine(s.buf[:0], t, s.host, tag, num, text), '\n')
	_, err := s.w.Write(s.buf)
	return err
}

// File is a log file that is appended to. Each line is one write(2) with O_APPEND,
// so that several processes can share a file.
type File struct {
	path string
	host string
	mu   sync.Mutex
	f    *os.File
	id   os.FileInfo // of f
	seen time.Time   // when the name was last looked at
	buf  []byte
}

// NewFile is the sink for a path. The file is opened when it is needed.
func NewFile(path string) *File { return &File{path: path, host: Host()} }

// Reopen opens the file anew, as after a rotation. If that fails the old one stays.
func (s *File) Reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reopen()
}

func (s *File) reopen() error {
	f, err := openLog(s.path)
	if err != nil {
		return err
	}
	if s.f != nil && s.f != os.Stdout && s.f != os.Stderr {
		s.f.Close()
	}
	s.f = f
	s.id, _ = f.Stat()
	return nil
}

// follow opens the file anew if its name belongs to another file now, or to none:
// someone has rotated it. It looks once a second.
func (s *File) follow(t time.Time) {
	if t.Sub(s.seen) < time.Second || s.id == nil || !s.id.Mode().IsRegular() {
		return
	}
	s.seen = t
	if fi, err := os.Stat(s.path); err != nil || !os.SameFile(fi, s.id) {
		_ = s.reopen() // if we may not, the old file is better than none
	}
}

// openLog opens for append. The standard streams may be sockets (systemd), which
// can't be opened by name.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0644)
	if err == nil {
		return f, nil
	}
	switch filepath.Clean(path) {
	case "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1":
		return os.Stdout, nil
	case "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2":
		return os.Stderr, nil
	}
	return nil, err
}

// Log appends a line.
func (s *File) Log(t time.Time, _ Priority, tag string, num int64, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(AppendLine(s.buf[:0], t, s.host, tag, num, text), '\n')
	return s.write()
}

// Append writes lines that are finished already, each with its newline.
func (s *File) Append(lines []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(s.buf[:0], lines...)
	return s.write()
}

func (s *File) write() error {
	if s.f == nil {
		if err := s.reopen(); err != nil {
			return err
		}
	}
	s.follow(time.Now())
	_, err := s.f.Write(s.buf)
	if cap(s.buf) > 1<<16 {
		s.buf = nil
	}
	return err
}

// A socketSink sends lines to postlogd, one datagram each, as Postfix' programs do.
type socketSink struct {
	path     string
	host     string
	fallback *File

	mu    sync.Mutex
	conn  net.Conn
	retry time.Time // no attempt to connect before
	buf   []byte
}

func (s *socketSink) Log(t time.Time, pri Priority, tag string, num int64, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = AppendLine(s.buf[:0], t, s.host, tag, num, text)
	for range 2 {
		if s.conn == nil {
			if time.Now().Before(s.retry) {
				break
			}
			c, err := unixsock.Dial(context.Background(), "unixgram", s.path)
			if err != nil {
				s.retry = time.Now().Add(100 * time.Millisecond)
				break
			}
			s.conn = c
		}
		// A postlogd that hangs must not hang the mail.
		_ = s.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
		if _, err := s.conn.Write(s.buf); err == nil {
			return nil
		}
		s.conn.Close()
		s.conn = nil
	}
	return s.fallback.Log(t, pri, tag, num, text)
}

// maxPending is how many lines are kept while syslog is away.
const maxPending = 512

// A syslogSink speaks RFC 3164, as syslog(3) does, to a device that may go away
// and come back at any time. Lines of the time between are kept, the first few
// hundred of them.
type syslogSink struct {
	device   string
	facility int

	mu      sync.Mutex
	conn    net.Conn
	stream  bool
	retry   time.Time
	pending []string
	trying  bool // a goroutine waits for the device
}

func (s *syslogSink) connect() error {
	var errs []error
	for _, network := range []string{"unixgram", "unix"} {
		c, err := net.Dial(network, s.device)
		if err == nil {
			s.conn, s.stream = c, network == "unix"
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *syslogSink) Log(t time.Time, pri Priority, tag string, num int64, text string) error {
	b := make([]byte, 0, 64+len(tag)+len(text))
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(s.facility<<3|int(pri)), 10)
	b = append(b, '>')
	b = t.AppendFormat(b, time.Stamp)
	b = append(b, ' ')
	b = append(appendTag(b, tag, num), text...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) < maxPending {
		s.pending = append(s.pending, string(b))
	}
	err := s.flush()
	if len(s.pending) > 0 && !s.trying {
		s.trying = true
		go s.waitForDevice()
	}
	return err
}

// waitForDevice sends what was kept when syslog is back: the next line of ours, with
// which it could go, may be hours away.
func (s *syslogSink) waitForDevice() {
	for tick := time.NewTicker(time.Second); ; <-tick.C {
		s.mu.Lock()
		if _ = s.flush(); len(s.pending) == 0 {
			s.trying = false
			s.mu.Unlock()
			tick.Stop()
			return
		}
		s.mu.Unlock()
	}
}

// flush sends what is pending, in order, and stops at the first line that fails twice.
func (s *syslogSink) flush() error {
	for fresh := s.conn == nil; len(s.pending) > 0; {
		if s.conn == nil {
			if time.Now().Before(s.retry) {
				return nil
			}
			if err := s.connect(); err != nil {
				s.retry = time.Now().Add(100 * time.Millisecond)
				return err
			}
		}
		line := s.pending[0]
		if s.stream {
			line += "\n"
		}
		_ = s.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
		if _, err := io.WriteString(s.conn, line); err != nil {
			s.conn.Close()
			s.conn = nil
			if fresh {
				s.pending = s.pending[1:] // too long, or something else that won't get better
				return err
			}
			fresh = true
			continue
		}
		s.pending = s.pending[1:]
	}
	s.pending = nil
	return nil
}
