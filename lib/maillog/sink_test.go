package maillog

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 1, 5, 10, 0, 0, 0, time.Local)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.log")
	s, err := Open(Config{File: path, Prefixes: []string{"/nowhere", filepath.Dir(path)}})
	if err != nil {
		t.Fatal(err)
	}
	l := New(s, "postfix/smtpd")
	_ = s.Log(at, Info, "postfix/smtpd", 811, "connect from a[192.0.2.7]")
	l.Warnf("bad\nthing")
	lines := strings.Split(read(t, path), "\n")
	if want := "Jan  5 10:00:00 " + Host() + " postfix/smtpd[811]: connect from a[192.0.2.7]"; lines[0] != want {
		t.Errorf("%q, want %q", lines[0], want)
	}
	if !strings.HasSuffix(lines[1], "]: warning: bad?thing") || len(lines) != 3 {
		t.Errorf("%q", lines)
	}
	if _, err := Open(Config{File: path, Prefixes: []string{"/var"}}); err == nil {
		t.Error("a file outside of maillog_file_prefixes was accepted")
	}
}

// TestHost: the host of a line is the first label of the name that was given, in the
// file and on the way to postlogd.
func TestHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.log")
	for _, socket := range []string{"", filepath.Join(t.TempDir(), "nobody")} {
		s, err := Open(Config{File: path, Socket: socket, Host: "mx.here.test"})
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Log(at, Info, "a", 1, "hello")
	}
	line := "Jan  5 10:00:00 mx a[1]: hello\n"
	if got := read(t, path); got != line+line {
		t.Errorf("%q", got)
	}
}

// TestPrefixes: a prefix is a path, not a beginning of a name; and it may be the
// file itself, as the default "/var, /dev/stdout" says.
func TestPrefixes(t *testing.T) {
	prefixes := []string{"/var/", "/dev/stdout"}
	for file, want := range map[string]bool{
		"/dev/stdout": true, "/var/log/mail.log": true, "/var": true,
		"/variable/log": false, "/dev/stdout2": false, "/tmp/mail.log": false,
	} {
		if got := below(file, prefixes); got != want {
			t.Errorf("%s: %v, want %v", file, got, want)
		}
	}
	_, err := Open(Config{File: "/tmp/mail.log", Prefixes: prefixes})
	if want := "maillog_file value '/tmp/mail.log' does not match any prefix in maillog_file_prefixes"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.log")
	s, err := Open(Config{File: path})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Log(at, Info, "a", 1, "before")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	s.(*File).seen = time.Time{} // a second later
	_ = s.Log(at, Info, "a", 1, "after")
	if old, now := read(t, path+".1"), read(t, path); !strings.Contains(old, "before") || strings.Contains(old, "after") || !strings.Contains(now, "after") {
		t.Errorf("old %q, new %q", old, now)
	}
}

func TestSocketAndFallback(t *testing.T) {
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "mail.log"), filepath.Join(dir, "postlog")
	s, err := Open(Config{File: path, Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Log(at, Info, "a", 1, "nobody there")
	postlogd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(120 * time.Millisecond) // it doesn't ask for each line
	_ = s.Log(time.Now(), Info, "a", 1, "there now")
	_ = postlogd.SetReadDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 1000)
	n, err := postlogd.Read(b)
	if err != nil || !strings.HasSuffix(string(b[:n]), " a[1]: there now") {
		t.Errorf("%q %v", b[:n], err)
	}
	postlogd.Close()
	_ = s.Log(time.Now(), Info, "a", 1, "gone again")
	if got := read(t, path); !strings.Contains(got, "nobody there\n") || strings.Contains(got, "there now") || !strings.Contains(got, "gone again\n") {
		t.Errorf("%q", got)
	}
}

// TestSyslogRestart: lines of the time between are kept, in order.
func TestSyslogRestart(t *testing.T) {
	device := filepath.Join(t.TempDir(), "log")
	listen := func() *net.UnixConn {
		_ = os.Remove(device)
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: device, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		return c
	}
	next := func(c *net.UnixConn) string {
		b := make([]byte, 1000)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	first := listen()
	s, err := Open(Config{Device: device, Facility: "local3"})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Log(at, Warning, "cyrus/imap", 90, "hello")
	if got, want := next(first), "<156>Jan  5 10:00:00 cyrus/imap[90]: hello"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	first.Close()
	_ = s.Log(time.Now(), Info, "a", 1, "one")
	_ = s.Log(time.Now(), Info, "a", 1, "two")
	second := listen()
	time.Sleep(120 * time.Millisecond)
	_ = s.Log(time.Now(), Info, "a", 1, "three")
	for _, want := range []string{"one", "two", "three"} {
		if got := next(second); !strings.HasSuffix(got, ": "+want) {
			t.Errorf("%q, want %s", got, want)
		}
	}
	if _, err := Open(Config{Facility: "nosuch"}); err == nil {
		t.Error("unknown facility accepted")
	}
}

func TestSessionNumbers(t *testing.T) {
	l := New(ToWriter(&strings.Builder{}), "a")
	seen := map[int64]bool{l.Number(): true}
	var ends []func()
	for range 100 {
		s, done := l.Session()
		if seen[s.Number()] {
			t.Fatalf("[%d] twice", s.Number())
		}
		seen[s.Number()] = true
		ends = append(ends, done)
	}
	for _, done := range ends {
		done()
		done() // harmless
	}
	s, done := l.Session()
	if !seen[s.Number()] {
		t.Error("numbers are not given back")
	}
	done()
	for range resting {
		next, done := l.Session()
		defer done()
		if next.Number() == s.Number() {
			t.Fatalf("[%d] is used again at once", s.Number())
		}
	}
}

func TestReason(t *testing.T) {
	_, err := os.Open("/no/such/file")
	if got := Reason(err); got != "No such file or directory" {
		t.Errorf("%q", got)
	}
}

// TestSyslogComesBack: the last lines before a quiet time are not kept until the
// next one is written.
func TestSyslogComesBack(t *testing.T) {
	device := filepath.Join(t.TempDir(), "log")
	sink, err := Open(Config{Device: device})
	if err != nil {
		t.Fatal(err)
	}
	_ = sink.Log(time.Now(), Info, "postfix/smtpd", 1, "first")
	_ = sink.Log(time.Now(), Info, "postfix/smtpd", 1, "second")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: device, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 1024)
	for _, want := range []string{"first", "second"} {
		n, err := c.Read(b)
		if err != nil || !strings.HasSuffix(string(b[:n]), want) {
			t.Errorf("%q, %v, want %q", b[:n], err, want)
		}
	}
}
