package proclist

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
)

func TestList(t *testing.T) {
	dir := t.TempDir()
	me := int64(os.Getpid())
	want := []Entry{
		{ID: me, Service: "imap", Host: "[::1]"},
		{ID: 1<<pidBits | me, Service: "pop3", Host: "pc [192.0.2.1]", User: "bob", Mailbox: "user.bob", Command: "Idle"},
	}
	for _, e := range want {
		if err := Put(dir, e); err != nil {
			t.Fatal(err)
		}
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	dead := int64(gone.Process.Pid)
	if err := Put(dir, Entry{ID: dead, Service: "imap", Host: "x"}); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(dir, "README"), []byte("x"), 0o644)
	got, err := List(dir)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, strconv.FormatInt(dead, 10))); err == nil {
		t.Error("a dead process's entry stays")
	}
	if err := Remove(dir, me); err != nil {
		t.Error(err)
	}
	if got, _ := List(dir); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestNoForging(t *testing.T) {
	dir := t.TempDir()
	e := Entry{ID: int64(os.Getpid()), Service: "pop3", Host: "evil\tbob\nroot [192.0.2.1]", User: "a"}
	if err := Put(dir, e); err != nil {
		t.Fatal(err)
	}
	got, _ := List(dir)
	if len(got) != 1 || got[0].Host != "evil?bob?root [192.0.2.1]" || got[0].User != "a" {
		t.Errorf("%+v", got)
	}
}
