package smtp

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startPostfix starts a private Postfix and returns its SMTP address.
func startPostfix(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("Postfix starts as root only; the same table is checked against our own server")
	}
	if _, err := exec.LookPath("postfix"); err != nil {
		t.Skip("no Postfix here")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	// Not t.TempDir: its parents are closed to the user postfix.
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	_ = os.Chmod(dir, 0o755)
	for _, d := range []string{"etc", "spool", "data"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("chown", "postfix", filepath.Join(dir, "data")).CombinedOutput(); err != nil {
		t.Skipf("%s", out)
	}
	main := fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
maillog_file = %[1]s/log
maillog_file_prefixes = %[1]s
myhostname = mail.bench.test
mydestination = mail.bench.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_banner = $myhostname ESMTP
local_recipient_maps =
message_size_limit = 104857600
mailbox_size_limit = 0
smtpd_hard_error_limit = 1000
smtpd_soft_error_limit = 1000
fast_flush_domains = relay.test
alias_maps =
alias_database =
`, dir)
	master := addr + " inet n - n - - smtpd\n"
	for _, line := range []string{"cleanup unix n - n - 0 cleanup", "rewrite unix - - n - - trivial-rewrite", "proxymap unix - - n - - proxymap",
		"flush unix n - n - 0 flush", "postlog unix-dgram n - n - 1 postlogd", "bounce unix - - n - 0 bounce", "anvil unix - - n - 1 anvil"} {
		master += line + "\n"
	}
	for name, text := range map[string]string{"main.cf": main, "master.cf": master} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("postfix", "-c", filepath.Join(dir, "etc"), "start").CombinedOutput(); err != nil {
		t.Skipf("postfix start: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("postfix", "-c", filepath.Join(dir, "etc"), "abort").Run() })
	return addr
}

// TestPeer asks a real Postfix what TestDialogue asks us: the table must not
// drift from what it claims to be.
func TestPeer(t *testing.T) {
	addr := startPostfix(t)
	for _, script := range dialogues() {
		conn, err := net.Dial("tcp", addr)
		for range 50 {
			if err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
			conn, err = net.Dial("tcp", addr)
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		r := bufio.NewReader(conn)
		reply := func() string {
			var b strings.Builder
			for {
				l, err := r.ReadString('\n')
				b.WriteString(strings.ReplaceAll(l, "\r\n", "\n"))
				if err != nil || len(l) > 3 && l[3] == ' ' {
					return b.String()
				}
			}
		}
		if got := reply(); got != "220 mail.bench.test ESMTP\n" {
			t.Fatalf("greeting %q", got)
		}
		for i := 0; i < len(script); i += 2 {
			fmt.Fprintf(conn, "%s\r\n", script[i])
			if got := reply(); got != script[i+1] {
				t.Errorf("%.60q: Postfix says %q, the table %q", script[i], got, script[i+1])
			}
		}
		conn.Close()
	}
}
