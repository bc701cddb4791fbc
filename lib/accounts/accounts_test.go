package accounts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"angarium/lib/sasl"
)

var ctx = context.Background()

func open(t testing.TB, path string, opt Options) *DB {
	t.Helper()
	d, err := Open(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func fresh(t testing.TB) (*DB, string) {
	path := filepath.Join(t.TempDir(), "users")
	return open(t, path, Options{Realm: "Mail.Test", DefaultDomain: "here.test", Iterations: 10}), path
}

func set(t testing.TB, d *DB, user, realm, password string) {
	t.Helper()
	if err := d.Set(ctx, user, realm, password); err != nil {
		t.Fatal(err)
	}
}

func TestNames(t *testing.T) {
	d, path := fresh(t)
	set(t, d, "Bob", "", "one")
	set(t, d, "ann", "Other.Test", "two")
	set(t, d, "eve", "here.test", "three")
	for _, c := range []struct{ user, password, id string }{
		{"bob", "one", "bob"},
		{"BOB", "one", "bob"},
		{"bob@mail.test", "one", "bob"},
		{"bob@HERE.test", "one", "bob"},
		{"bob@other.test", "one", ""},
		{"ann@other.test", "two", "ann@other.test"},
		{"ann", "two", ""},
		{"eve", "three", "eve"},
		{"eve@here.test", "three", "eve"},
		{"bob", "One", ""},
		{"bob", "", ""},
		{"", "one", ""},
		{"bob\n", "one", ""},
		{"bob", strings.Repeat("x", 5000), ""},
	} {
		id, err := d.Verify(ctx, c.user, c.password)
		if id != c.id || (err == nil) != (c.id != "") || err != nil && !sasl.Refused(err) {
			t.Errorf("Verify(%q, %.10q) = %q, %v; want %q", c.user, c.password, id, err, c.id)
		}
		if name := d.Name(c.user); c.id != "" && name != c.id {
			t.Errorf("Name(%q) = %q, want %q", c.user, name, c.id)
		}
	}
	k := open(t, path, Options{Realm: "mail.test", KeepCase: true})
	if _, err := k.Verify(ctx, "BOB", "one"); !sasl.Refused(err) {
		t.Errorf("names that differ by case are one with KeepCase: %v", err)
	}
}

func TestLogWords(t *testing.T) {
	d, _ := fresh(t)
	set(t, d, "bob", "", "one")
	_, err := d.Verify(ctx, "bob", "x")
	if got := fmt.Sprint(err); got != "SASL(-13): authentication failure: checkpass failed" {
		t.Error(got)
	}
	_, err = d.Verify(ctx, "nobody", "x")
	if got := fmt.Sprint(err); got != "SASL(-13): user not found: checkpass failed" {
		t.Error(got)
	}
}

func TestLife(t *testing.T) {
	d, path := fresh(t)
	if _, err := d.Verify(ctx, "bob", "one"); err == nil || sasl.Refused(err) {
		t.Errorf("without a database nobody may conclude anything: %v", err)
	}
	set(t, d, "bob", "", "one")
	other := open(t, path, Options{Realm: "mail.test"}) // another process
	check := func(password string, want int) {
		t.Helper()
		_, err := d.Verify(ctx, "bob", password)
		var e *sasl.Error
		if got := 0; errors.As(err, &e) {
			got = e.Code
			if got != want {
				t.Errorf("%s: code %d, want %d", password, got, want)
			}
		} else if want != 0 || err != nil {
			t.Errorf("%s: %v, want code %d", password, err, want)
		}
	}
	check("one", 0)
	check("one", 0) // remembered
	set(t, other, "bob", "", "two")
	check("one", sasl.CodeBadAuth)
	check("two", 0)
	if err := other.Disable(ctx, "bob", "", true); err != nil {
		t.Fatal(err)
	}
	check("two", sasl.CodeDisabled)
	check("one", sasl.CodeBadAuth)
	if err := other.Disable(ctx, "bob", "", false); err != nil {
		t.Fatal(err)
	}
	check("two", 0)
	if err := other.Delete(ctx, "bob", ""); err != nil {
		t.Fatal(err)
	}
	check("two", sasl.CodeBadAuth)
	if err := other.Delete(ctx, "bob", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("second Delete: %v", err)
	}
	set(t, other, "bob", "", "two")
	check("two", 0)
}

func TestBadArguments(t *testing.T) {
	d, path := fresh(t)
	for _, c := range [][3]string{{"", "r", "p"}, {"a\nb", "r", "p"}, {"a", "r\n", "p"}, {"a", "r", ""}, {"a", "r", "p\n"}, {strings.Repeat("a", 600), "", "p"}} {
		if err := d.Set(ctx, c[0], c[1], c[2]); err == nil {
			t.Errorf("Set(%.10q) was taken", c)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a refused account made a file")
	}
}

// Growing means that the file is replaced; open handles must follow, and nothing
// may get lost or come back.
func TestGrowth(t *testing.T) {
	d, path := fresh(t)
	reader := open(t, path, Options{Realm: "mail.test", Iterations: 10})
	d.table.least = 4
	for i := range 60 {
		set(t, d, fmt.Sprintf("u%d", i), "", fmt.Sprint("p", i))
		if i%3 == 0 {
			if err := d.Delete(ctx, fmt.Sprintf("u%d", i), ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	if d.table.cur == nil {
		if err := d.table.refresh(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 60 {
		_, err := reader.Verify(ctx, fmt.Sprintf("u%d", i), fmt.Sprint("p", i))
		if (err == nil) != (i%3 != 0) {
			t.Errorf("u%d: %v", i, err)
		}
	}
	n := 0
	for a, err := range d.All(ctx) {
		if err != nil || a.Realm != "mail.test" {
			t.Fatal(a, err)
		}
		n++
	}
	if n != 40 {
		t.Errorf("%d accounts, want 40", n)
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestManyWriters(t *testing.T) {
	_, path := fresh(t)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			d, err := Open(path, Options{Realm: "r", Iterations: 1})
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			d.table.least = 4
			for i := range 10 {
				if err := d.Set(ctx, fmt.Sprintf("w%du%d", w, i), "", "p"); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	d := open(t, path, Options{Realm: "r"})
	n := 0
	for _, err := range d.All(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 80 {
		t.Errorf("%d accounts, want 80", n)
	}
}

// A crash between any two writes leaves the account before or after the change.
func TestCrash(t *testing.T) {
	d, path := fresh(t)
	set(t, d, "bob", "", "old")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	set(t, d, "bob", "", "new")
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head := len(emptyTable(minBuckets))
	for n := len(before); n <= len(after); n++ {
		torn := append(append([]byte{}, before[:head]...), after[head:n]...) // head not yet written
		expect(t, torn, "old")
		zeros := append(append([]byte{}, torn...), make([]byte, len(after)-n)...) // length reached the disk, content did not
		expect(t, zeros, "old")
	}
	expect(t, after, "new")
	// And writing goes on behind the debris.
	torn := append(append([]byte{}, before...), after[len(before):len(before)+5]...)
	p := expect(t, torn, "old")
	e := open(t, p, Options{Realm: "mail.test", Iterations: 10})
	set(t, e, "bob", "", "third")
	data, _ := os.ReadFile(p)
	expect(t, data, "third")
}

func expect(t *testing.T, data []byte, password string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path, Options{Realm: "mail.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Verify(ctx, "bob", password); err != nil {
		t.Errorf("%s: %v", password, err)
	}
	return path
}

// A damaged file is trouble, never "no such user".
func TestDamage(t *testing.T) {
	d, path := fresh(t)
	set(t, d, "bob", "", "one")
	good, _ := os.ReadFile(path)
	record := bytes.Index(good, []byte("user bob"))
	for _, i := range []int{record, record + 3, record - recHead, record - 1, len(good) - 2} {
		bad := append([]byte{}, good...)
		bad[i] ^= 1
		p := filepath.Join(t.TempDir(), "users")
		os.WriteFile(p, bad, 0o600)
		e := open(t, p, Options{Realm: "mail.test"})
		if _, err := e.Verify(ctx, "bob", "one"); err == nil || sasl.Refused(err) {
			t.Errorf("octet %d changed: %v", i-record, err)
		}
		if err := e.Set(ctx, "bob", "", "two"); err == nil {
			t.Errorf("octet %d changed: wrote into a damaged file", i-record)
		}
	}
	for _, text := range []string{"", "hello", "\x00\x05\x31\x62 some other database of long ago, with more than sixty-four octets"} {
		p := filepath.Join(t.TempDir(), "users")
		os.WriteFile(p, []byte(text), 0o600)
		if _, err := Open(p, Options{}); err == nil {
			t.Errorf("%q was taken for a database", text)
		}
	}
}

func TestSecrets(t *testing.T) {
	d, path := fresh(t)
	set(t, d, "ann", "", "early")
	if d.Secrets() {
		t.Fatal("secrets without a key")
	}
	if err := d.EnableSecrets(); err != nil {
		t.Fatal(err)
	}
	if err := d.EnableSecrets(); err != nil {
		t.Fatal("second time:", err)
	}
	set(t, d, "bob", "", "one")
	if err := d.SetVerifier(ctx, "eve", "", "two"); err != nil {
		t.Fatal(err)
	}
	other := open(t, path, Options{Realm: "mail.test"})
	if secret, id, err := other.Secret(ctx, "Bob"); secret != "one" || id != "bob" || err != nil {
		t.Errorf("%q %q %v", secret, id, err)
	}
	for _, user := range []string{"ann", "eve", "nobody"} {
		if _, _, err := other.Secret(ctx, user); !sasl.Refused(err) {
			t.Errorf("%s: %v", user, err)
		}
	}
	data, _ := os.ReadFile(path)
	if bytes.Contains(data, []byte("one")) {
		t.Error("the password lies in clear")
	}
	os.WriteFile(path+".key", bytes.Repeat([]byte{7}, 32), 0o600)
	if _, _, err := open(t, path, Options{Realm: "mail.test"}).Secret(ctx, "bob"); err == nil || sasl.Refused(err) {
		t.Errorf("another key: %v", err)
	}
}

// TestUnknownTakesAsLong measures the work, not the time: other programs of the
// machine have no part in it.
func TestUnknownTakesAsLong(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	path := filepath.Join(t.TempDir(), "users")
	d := open(t, path, Options{Realm: "r", Iterations: 40000})
	set(t, d, "bob", "", "one")
	took := func(user string) time.Duration {
		best := time.Hour
		for range 3 {
			start := threadTime(t)
			d.Verify(ctx, user, "wrong")
			best = min(best, threadTime(t)-start)
		}
		return best
	}
	known, unknown := took("bob"), took("nobody")
	if unknown < known/2 || known < unknown/2 {
		t.Errorf("wrong password %v, unknown user %v", known, unknown)
	}
}

// threadTime is the processor time that this thread has used.
func threadTime(t *testing.T) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestFutureLinesStay(t *testing.T) {
	in := "user bob\nrealm r\ncolour green and blue\n"
	r, err := decode([]byte(in))
	if err != nil || string(r.encode()) != in {
		t.Errorf("%q %v", r.encode(), err)
	}
}

func FuzzDecode(f *testing.F) {
	r := record{user: "bob", realm: "r", verifier: newVerifier("p", 1), secret: "x", disabled: true}
	f.Add(r.encode())
	f.Add([]byte("user a\nscram-sha-256 1 AA== AA== AA==\ndeleted\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decode(data)
		if err != nil {
			return
		}
		again, err := decode(r.encode())
		if err != nil || again.user != r.user || again.deleted != r.deleted {
			t.Errorf("%q became %q: %v", data, r.encode(), err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	path := filepath.Join(b.TempDir(), "users")
	d := open(b, path, Options{Realm: "r"})
	set(b, d, "bob", "", "one")
	b.Run("remembered", func(b *testing.B) {
		for b.Loop() {
			d.Verify(ctx, "bob", "one")
		}
	})
	b.Run("wrong", func(b *testing.B) {
		for b.Loop() {
			d.Verify(ctx, "bob", "two")
		}
	})
}

// A database without accounts can be made first, so that whoever adds one later,
// root with saslpasswd2 for instance, leaves it to its owner and group.
func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sasldb2")
	d, err := Open(path, Options{Realm: "here.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for range 2 { // one that is there stays
		if err := d.Create(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.Set(t.Context(), "joe", "", "sesame"); err != nil {
		t.Fatal(err)
	}
	if err := d.Create(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Verify(t.Context(), "joe", "sesame"); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
