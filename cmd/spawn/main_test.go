package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"angarium/lib/cli"
	"angarium/lib/ipc"
	"angarium/lib/master"
)

// TestMain is also master and spawn.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "master":
		cli.Exec(master.Postfix)
	case "spawn":
		cli.Exec(run)
	}
	os.Exit(m.Run())
}

func TestSpawn(t *testing.T) {
	user := "nobody"
	if os.Getuid() != 0 {
		out, err := exec.Command("id", "-un").Output()
		if err != nil {
			t.Fatal(err)
		}
		user = strings.TrimSpace(string(out))
	}
	uid, err := exec.Command("id", "-u", user).Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"etc", "spool/pid", "spool/public", "spool/private", "data", "bin"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"master", "spawn"} {
		if err := os.Symlink(self, filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"main.cf": fmt.Sprintf("compatibility_level = 3.6\nqueue_directory = %[1]s/spool\ndata_directory = %[1]s/data\ndaemon_directory = %[1]s/bin\n"+
			"maillog_file = %[1]s/log\nmaillog_file_prefixes = %[1]s\nmyhostname = mail.test\nmail_owner = %[2]s\n", dir, map[bool]string{true: "daemon", false: user}[os.Getuid() == 0]),
		"master.cf": fmt.Sprintf("policy unix - n n - 0 spawn user=%s argv=/bin/sh -c { read a; echo $a $(id -u); exit 3 }\n", user),
	} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0644); err != nil {
			t.Fatal(err)
		}
	}
	m := exec.Command(filepath.Join(dir, "bin/master"), "-c", filepath.Join(dir, "etc"), "-d")
	m.Stderr = os.Stderr
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = m.Process.Signal(syscall.SIGTERM)
		_ = m.Wait()
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		if !strings.Contains(string(log), "warning: command /bin/sh exit status 3") {
			t.Errorf("log:\n%s", log)
		}
	}()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		c, err := ipc.Dial(context.Background(), filepath.Join(dir, "spool/private/policy"))
		if err != nil {
			continue
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		fmt.Fprintln(c, "hello")
		got, err := io.ReadAll(c)
		if want := "hello " + string(uid); err != nil || string(got) != want {
			t.Errorf("%q %v, want %q", got, err, want)
		}
		return
	}
	t.Fatal("nobody answers")
}

func TestCredential(t *testing.T) {
	for _, user := range []string{"nosuchuserhere", "root:nosuchgrouphere"} {
		if _, err := credential(user, "postfix"); err == nil {
			t.Errorf("%s accepted", user)
		}
	}
	if _, err := credential("root", "postfix"); err == nil {
		t.Error("a command may run as root")
	}
}
