package local

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/dsn"
)

type letter string

func (l letter) Content() io.Reader { return strings.NewReader(string(l)) }
func (l letter) Size() int64        { return int64(len(l)) }

const text = "Subject: x\n\nFrom here\nbody\n"

func doer(t *testing.T, change func(o *Options)) (*Doer, string) {
	home := t.TempDir()
	o := Options{
		User:     User{Name: "bob", Home: home, UID: os.Getuid(), GID: os.Getgid(), Shell: "/bin/sh"},
		Hostname: "here.test", Delimiters: "+", SpoolDir: home + "/spool", Locks: []string{"fcntl", "dotlock"},
		LockAttempts: 2, LockDelay: 10 * time.Millisecond, ForwardCommand: true, ForwardFile: true,
	}
	if err := os.Mkdir(o.SpoolDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&o)
	}
	return NewDoer(o), home
}

func (d *Doer) try(to, target string) agent.Result {
	r := &agent.Request{Sender: address.Parse("a@x.test"), Message: letter(text)}
	return d.Deliver(context.Background(), r, agent.Recipient{Address: address.Parse(to), Original: address.Parse("list@here.test"), Target: target})
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMbox(t *testing.T) {
	d, home := doer(t, func(o *Options) { o.NoForward = true })
	for range 2 {
		if res := d.try("bob@here.test", ""); res.Err != nil || res.Text != "delivered to mailbox" || res.Relay != "local" {
			t.Fatalf("%+v", res)
		}
	}
	name := home + "/spool/bob"
	got := strings.SplitAfter(read(t, name), "\n")
	if !strings.HasPrefix(got[0], "From a@x.test  ") {
		t.Errorf("first line %q", got[0])
	}
	want := "Return-Path: <a@x.test>\nX-Original-To: list@here.test\nDelivered-To: bob@here.test\nSubject: x\n\n>From here\nbody\n\n"
	if s := strings.Join(got[1:9], ""); s != want {
		t.Errorf("got %q", s)
	}
	if len(got) != 19 || !strings.HasPrefix(got[9], "From a@x.test") {
		t.Errorf("%d lines; the second message begins with %q", len(got), got[9])
	}
	if st, _ := os.Stat(name); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if _, err := os.Stat(name + ".lock"); err == nil {
		t.Error("the lock file is still there")
	}
}

func TestMailboxTrouble(t *testing.T) {
	d, home := doer(t, func(o *Options) { o.NoForward, o.SizeLimit = true, 300 })
	name := home + "/spool/bob"
	if res := d.try("bob@here.test", ""); res.Err != nil {
		t.Fatal(res.Err)
	}
	size := len(read(t, name))
	res := d.try("bob@here.test", "")
	if e := dsn.From(res.Err, ""); e == nil || e.Status() != "5.2.2" {
		t.Errorf("full: %v", res.Err)
	}
	if len(read(t, name)) != size {
		t.Error("a part of the message was left in the mailbox")
	}
	if err := os.WriteFile(name+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if res := d.try("bob@here.test", ""); res.Err == nil || dsn.Permanent(res.Err) || !strings.Contains(res.Err.Error(), "unable to create lock file") {
		t.Errorf("locked: %v", res.Err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(name+".lock", old, old); err != nil {
		t.Fatal(err)
	}
	d.o.SizeLimit = 0
	if res := d.try("bob@here.test", ""); res.Err != nil {
		t.Errorf("a stale lock: %v", res.Err)
	}
	if os.Getuid() != 0 {
		// Root's links are followed, nobody else's.
		if err := os.Symlink(name, home+"/spool/link"); err != nil {
			t.Fatal(err)
		}
		if res := d.try("bob@here.test", home+"/spool/link"); res.Err == nil {
			t.Error("a mailbox that is a link was written")
		}
	}
	if err := os.Link(name, home+"/spool/second"); err != nil {
		t.Fatal(err)
	}
	if res := d.try("bob@here.test", ""); res.Err == nil || dsn.Permanent(res.Err) {
		t.Errorf("a mailbox with two names: %v", res.Err)
	}
}

func TestMaildir(t *testing.T) {
	d, home := doer(t, func(o *Options) { o.NoForward, o.HomeMailbox = true, "Maildir/" })
	if res := d.try("bob@here.test", ""); res.Err != nil || res.Text != "delivered to maildir" {
		t.Fatalf("%+v", res)
	}
	files, _ := filepath.Glob(home + "/Maildir/new/*")
	if len(files) != 1 {
		t.Fatalf("files %v", files)
	}
	if want := "Return-Path: <a@x.test>\nX-Original-To: list@here.test\nDelivered-To: bob@here.test\n" + text; read(t, files[0]) != want {
		t.Errorf("got %q", read(t, files[0]))
	}
	if left, _ := filepath.Glob(home + "/Maildir/tmp/*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCommand(t *testing.T) {
	d, home := doer(t, nil)
	for _, c := range []struct{ line, want string }{
		{"cat > $HOME/out; echo $RECIPIENT $SENDER $EXTENSION >> $HOME/out", "delivered"},
		{"exit 75", "4.3.0 temporary failure"},
		{"echo nobody; exit 67", "5.1.1 user unknown. Command output: nobody "},
		{"exit 1", `5.3.0 Command died with status 1: "exit 1"`},
		{"kill -9 $$", `4.3.0 Command died with signal 9: "kill -9 $$"`},
		{"echo 4.2.1 closed today; exit 1", "4.2.1 closed today "},
		{"true", "delivered"}, // does not read its input
	} {
		res := d.try("bob+ext@here.test", "|"+c.line)
		got := "delivered"
		if res.Err != nil {
			e := dsn.From(res.Err, "")
			got = e.Status() + " " + e.Error()
		} else if res.Text != "delivered to command: "+c.line {
			t.Errorf("text %q", res.Text)
		}
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.line, got, c.want)
		}
	}
	if out := read(t, home+"/out"); !strings.Contains(out, "\nDelivered-To: bob+ext@here.test\nSubject: x\n\nFrom here\n") || !strings.HasSuffix(out, "bob+ext@here.test a@x.test ext\n") {
		t.Errorf("the command got %q", out)
	}
	d.o.CommandTime = 50 * time.Millisecond
	if res := d.try("bob@here.test", "|sleep 5"); res.Err == nil || !strings.HasPrefix(res.Err.Error(), "Command time limit exceeded") || !dsn.Permanent(res.Err) {
		t.Errorf("%v", res.Err)
	}
}

func TestForward(t *testing.T) {
	d, home := doer(t, nil)
	name := home + "/.forward"
	if res := d.try("bob@here.test", ""); !errors.Is(res.Err, ErrMailbox) {
		t.Errorf("no .forward: %+v", res)
	}
	write := func(name, s string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(name, "x@far.test, amy\n# comment\n", 0o644)
	if res := d.try("bob@here.test", ""); res.Err != nil || len(res.Onward) != 2 || res.Onward[0].To.String() != "x@far.test" || res.Onward[1].To.String() != "amy" {
		t.Errorf("addresses: %+v", res)
	}
	write(home+"/.forward+work", "|cat > "+home+"/work\n", 0o600)
	if res := d.try("bob+work@here.test", ""); res.Err != nil || !strings.HasPrefix(res.Text, "delivered to command") {
		t.Errorf("extension: %+v", res)
	}
	write(name, "\\bob, x@far.test, "+home+"/copy\n", 0o644)
	if res := d.try("bob@here.test", ""); !errors.Is(res.Err, ErrMailbox) || len(res.Onward) != 1 {
		t.Errorf("with own mailbox: %+v", res)
	}
	read(t, home+"/copy")
	d.o.MailboxHop = "lmtp:unix:/run/lmtp"
	if res := d.try("bob@here.test", ""); res.Err != nil || len(res.Onward) != 2 || res.Onward[1].Hop != "lmtp:unix:/run/lmtp" {
		t.Errorf("own mailbox by mailbox_transport: %+v", res)
	}
	write(name, "x@far.test\n", 0o666)
	if res := d.try("bob@here.test", ""); len(res.Onward) != 1 || res.Onward[0].Hop == "" {
		t.Errorf("a file that others may write must not count: %+v", res)
	}
	write(home+"/list", "a@far.test\nb@far.test\n|cmd\n", 0o644)
	if res := d.try("bob@here.test", ":include:"+home+"/list"); !dsn.Permanent(res.Err) {
		t.Errorf("a command in an :include: file: %+v", res)
	}
}

// A probe (sendmail -bv) tells where mail would go, and leaves nothing there.
func TestProbe(t *testing.T) {
	d, home := doer(t, func(o *Options) { o.NoForward = true })
	for target, want := range map[string]string{
		"": "delivers to mailbox", "|touch " + home + "/ran": "delivers to command: touch " + home + "/ran",
		home + "/file": "delivers to file: " + home + "/file", home + "/dir/": "delivers to maildir",
	} {
		r := &agent.Request{Message: letter(text), Verify: true}
		if res := d.Deliver(context.Background(), r, agent.Recipient{Address: address.Parse("bob@here.test"), Target: target}); res.Err != nil || res.Text != want {
			t.Errorf("%s: %+v", target, res)
		}
	}
	list, err := os.ReadDir(home)
	if err != nil || len(list) != 1 {
		t.Errorf("left behind: %v %v", list, err)
	}
	if list, err = os.ReadDir(d.o.SpoolDir); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v %v", list, err)
	}
}

// Nothing that a .forward file names is forgotten because of what stands before it.
func TestForwardAll(t *testing.T) {
	for _, c := range []struct{ forward, include, text, onward string }{
		{":include:INC, amy@far.test", "bob", ErrMailbox.Error(), "amy@far.test"},
		{":include:INC, amy@far.test", "/HOME/no", "mail to file is restricted", "amy@far.test"},
		{"\"|exit 67\", amy@far.test", "", "user unknown", "amy@far.test"},
		{"\"|exit 75\", amy@far.test", "", "temporary failure", ""},
		{"|/no/such/program x, amy@far.test", "", "temporary failure. Command output: local: fatal: execvp /no/such/program: No such file or directory ", ""},
		// the mailbox, too, which a second call writes
		{"\\bob, \"|exit 67\", amy@far.test", "", "user unknown (mailbox)", "amy@far.test"},
		{":include:INC, \"|exit 67\"", "bob", "user unknown (mailbox)", ""},
		{"\"|exit 75\", bob", "", "temporary failure", ""},
	} {
		d, home := doer(t, nil)
		forward := strings.ReplaceAll(c.forward, "INC", home+"/inc")
		for name, text := range map[string]string{".forward": forward, "inc": c.include} {
			if err := os.WriteFile(filepath.Join(home, name), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		res := d.try("bob@here.test", "")
		var onward []string
		for _, o := range res.Onward {
			onward = append(onward, o.To.String())
		}
		if text, ok := strings.CutSuffix(c.text, " (mailbox)"); ok {
			c.text = text
			if !WantsMailbox(res) {
				t.Errorf("%s: the mailbox is forgotten", c.forward)
			}
		}
		if res.Err == nil || res.Err.Error() != c.text || strings.Join(onward, " ") != c.onward {
			t.Errorf("%s: %v, %v", c.forward, res.Err, onward)
		}
	}
}

// TestCommandDirectory: command_execution_directory, in which a stranger's characters
// mean nothing.
func TestCommandDirectory(t *testing.T) {
	d, home := doer(t, func(o *Options) {
		o.CommandDir, o.DirFilter = "$home/${extension}", "/abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	})
	for _, dir := range []string{"a_b", "c"} {
		if err := os.Mkdir(home+"/"+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for to, want := range map[string]string{
		"bob+a;b@here.test":  home + "/a_b",
		"bob+c@here.test":    home + "/c",
		"bob@here.test":      home,
		"bob+c/../x@x.test":  home, // no extension
		"bob+none@here.test": "temporary failure",
	} {
		res := d.try(to, "|pwd >&2; exit 69")
		if e := dsn.From(res.Err, ""); res.Err == nil || strings.TrimSpace(strings.TrimPrefix(e.Text, "service unavailable. Command output: ")) != want {
			t.Errorf("%s: %v, want %s", to, res.Err, want)
		}
	}
}

// TestNoDelivered: prepend_delivered_header.
func TestNoDelivered(t *testing.T) {
	d, home := doer(t, func(o *Options) { o.NoForward, o.NoDelivered = true, []string{"file"} })
	d.try("bob@here.test", home+"/box")
	d.try("bob@here.test", "|cat >"+home+"/out")
	if strings.Contains(read(t, home+"/box"), "Delivered-To:") || !strings.Contains(read(t, home+"/out"), "Delivered-To: bob@here.test\n") {
		t.Errorf("%q %q", read(t, home+"/box"), read(t, home+"/out"))
	}
	d.o.NoDelivered = []string{"command"}
	d.try("bob@here.test", "|cat >"+home+"/out")
	if strings.Contains(read(t, home+"/out"), "Delivered-To:") {
		t.Errorf("%q", read(t, home+"/out"))
	}
}

// TestForwardFilter: what an address may do to the name of a file.
func TestForwardFilter(t *testing.T) {
	const filter = "abcdefghijklmnopqrstuvwxyz/."
	if got := ForwardFiles([]string{"$home/.forward+${extension}"}, "bob", "/home/bob", "a;b$", "+", filter); !slices.Equal(got, []string{"/home/bob/.forward+a_b_"}) {
		t.Errorf("%q", got)
	}
	d, home := doer(t, nil)
	if err := os.MkdirAll(home+"/.forward+a", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(home+"/other", []byte("x@far.test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if res := d.try("bob+a/../other@here.test", ""); !errors.Is(res.Err, ErrMailbox) {
		t.Errorf("an address chose a file: %+v", res)
	}
}
