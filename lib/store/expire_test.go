package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"angarium/lib/mailbox"
)

func expungedFiles(f *fixture) int {
	names, _ := os.ReadDir(filepath.Join(f.dir, "spool/user/bob/.expunged"))
	return len(names)
}

func TestForget(t *testing.T) {
	f := newFixture(t)
	f.conf.ExpungeKeep = -1 // delayed
	f.close()
	f.open()
	f.create("user.bob")
	m := f.mailbox("user.bob")
	for n := range 4 {
		f.append(m, letter(n))
	}
	before := f.view(m).Status().HighestModSeq
	if _, err := m.Expunge(bg, SetOf(1)); err != nil {
		t.Fatal(err)
	}
	between := f.view(m).Status().HighestModSeq
	f.pass(time.Hour)
	if _, err := m.Expunge(bg, SetOf(2)); err != nil {
		t.Fatal(err)
	}
	f.pass(5 * time.Minute)
	now := time.Unix(0, f.now.Load())

	got, err := f.Forget(bg, "user.bob", now) // the second is too young, whatever is asked
	if err != nil || got != (Forgotten{Seen: 4, Files: 1, Records: 1}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if n := expungedFiles(f); n != 1 {
		t.Errorf("%d files in .expunged", n)
	}
	for _, c := range []struct {
		since ModSeq
		want  string
	}{{before, "1:2"}, {between, "2"}} {
		if gone, err := m.Vanished(bg, c.since, nil); err != nil || gone.String() != c.want {
			t.Errorf("vanished since %d: %s, %v, want %s", c.since, gone, err, c.want)
		}
	}
	if v := f.view(m); v.Len() != 2 || v.At(0).UID != 3 {
		t.Errorf("left: %v", uids(v))
	}
	if got, err := f.Forget(bg, "user.bob", now); err != nil || got != (Forgotten{Seen: 3}) {
		t.Errorf("again: %+v, %v", got, err)
	}
	if uid := f.append(m, letter(9)); uid != 5 {
		t.Errorf("UID %d was given after forgetting", uid)
	}
}

func TestForgetInterrupted(t *testing.T) {
	f := newFixture(t)
	f.conf.ExpungeKeep = -1
	f.close()
	f.open()
	f.create("user.bob")
	m := f.mailbox("user.bob")
	f.append(m, letter(1))
	f.append(m, letter(2))
	if _, err := m.Expunge(bg, SetOf(1)); err != nil {
		t.Fatal(err)
	}
	f.pass(time.Hour)
	f.Store.conf.Fault = func(step string) error {
		if step == "forget" {
			return errors.New("dead")
		}
		return nil
	}
	if _, err := f.Forget(bg, "user.bob", time.Unix(0, f.now.Load())); err == nil {
		t.Fatal("the fault had no effect")
	}
	f.Store.conf.Fault = nil
	got, err := f.Forget(bg, "user.bob", time.Unix(0, f.now.Load()))
	if err != nil || got.Records != 1 || got.Files != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if v := f.view(m); v.Len() != 1 || v.At(0).UID != 2 {
		t.Errorf("left: %v", uids(v))
	}
}

func TestDeletedAt(t *testing.T) {
	at := int64(0x6721A3F0)
	for name, want := range map[mailbox.Name]bool{
		deletedName("user.bob.Sent", at): true, deletedName("x.test!user.bob", at): true,
		"user.bob.6721A3F0": false, "DELETED.user.bob": false,
	} {
		if got, ok := DeletedAt(name); ok != want || ok && got.Unix() != at {
			t.Errorf("%s: %v, %v", name, got, ok)
		}
	}
}

func TestRecover(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"missing": os.Remove,
		"no database": func(path string) error {
			return os.WriteFile(path, []byte("my dog ate it, and then it ate yours"), 0o600)
		},
		"damaged inside": func(path string) error { return overwrite(path, 4096) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.create("user.bob")
			f.create("user.bob.Sent")
			m := f.mailbox("user.bob")
			f.append(m, letter(1))
			if err := f.Checkpoint(bg); err != nil {
				t.Fatal(err)
			}
			f.close()
			stray := filepath.Join(f.dir, "spool/.stage/left")
			if err := os.WriteFile(stray, []byte("half a letter"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := harm(filepath.Join(f.dir, "conf/mailboxes.db")); err != nil {
				t.Fatal(err)
			}
			s, err := Recover(bg, f.conf)
			if err != nil {
				t.Fatal(err)
			}
			f.Store = s
			for _, n := range []mailbox.Name{"user.bob", "user.bob.Sent"} {
				if _, err := s.Lookup(bg, n); err != nil {
					t.Errorf("%s: %v", n, err)
				}
			}
			if _, err := os.Stat(stray); !os.IsNotExist(err) {
				t.Errorf(".stage was not cleaned: %v", err)
			}
		})
	}
}

func TestRecoverLeavesOthersAlone(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	stray := filepath.Join(f.dir, "spool/.stage/on-its-way")
	if err := os.WriteFile(stray, []byte("half a letter"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Recover(bg, f.conf)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := os.Stat(stray); err != nil {
		t.Errorf("a delivery of another process was removed: %v", err)
	}
	if damaged, _ := filepath.Glob(filepath.Join(f.dir, "conf/*damaged*")); len(damaged) > 0 {
		t.Errorf("a good database was set aside: %v", damaged)
	}
}

func overwrite(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(bytes.Repeat([]byte("x"), 3*4096), at)
	return err
}

func TestCheckpoint(t *testing.T) {
	f := newFixture(t)
	f.create("user.bob")
	for range 2 {
		if err := f.Checkpoint(bg); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(f.dir, "conf/db.backup2")); !os.IsNotExist(err) {
		t.Errorf("an unchanged list was copied again: %v", err)
	}
	f.create("user.eve")
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(filepath.Join(f.dir, "conf/mailboxes.db"), later, later); err != nil {
		t.Fatal(err)
	}
	if err := f.Checkpoint(bg); err != nil {
		t.Fatal(err)
	}
	for _, copied := range []string{"db.backup1", "db.backup2"} {
		if bad, err := damagedDatabase(bg, filepath.Join(f.dir, "conf", copied, "mailboxes.db")); err != nil || bad != "" {
			t.Errorf("%s: %s %v", copied, bad, err)
		}
		if _, err := os.Stat(filepath.Join(f.dir, "conf", copied, "mailboxes.db")); err != nil {
			t.Error(err)
		}
	}
}
