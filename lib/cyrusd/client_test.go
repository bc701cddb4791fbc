package cyrusd

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"angarium/lib/conf/imapdconf"
	"angarium/lib/ipc"
	"angarium/lib/proclist"
	"angarium/lib/service"
)

// zone answers from two tables.
type zone struct {
	names map[string]string
	addrs map[string]string
}

func (z zone) LookupAddr(_ context.Context, ip string) ([]string, error) {
	if n := z.names[ip]; n != "" {
		return []string{n}, nil
	}
	return nil, errors.New("no such host")
}

func (z zone) LookupNetIP(_ context.Context, _, host string) (list []netip.Addr, err error) {
	for _, a := range strings.Fields(z.addrs[host]) {
		list = append(list, netip.MustParseAddr(a))
	}
	if list == nil {
		err = errors.New("no such host")
	}
	return list, err
}

func TestHostName(t *testing.T) {
	z := zone{
		names: map[string]string{
			"192.0.2.1": "pc.test.", "192.0.2.2": "liar.test.", "192.0.2.3": "lost.test.",
			"192.0.2.4": "pc]:_[1.test.", "192.0.2.5": "192.0.2.5", "2001:db8::1": "six.test.",
		},
		addrs: map[string]string{
			"pc.test.": "198.51.100.1 ::ffff:192.0.2.1", "liar.test.": "198.51.100.1",
			"pc]:_[1.test.": "192.0.2.4", "192.0.2.5": "192.0.2.5", "six.test.": "2001:db8::1",
		},
	}
	for ip, want := range map[string]string{
		"192.0.2.1":   "pc.test",
		"192.0.2.2":   "", // the name belongs to somebody else
		"192.0.2.3":   "",
		"192.0.2.4":   "",
		"192.0.2.5":   "",
		"192.0.2.9":   "",
		"2001:db8::1": "six.test",
		"":            "",
	} {
		if got := hostName(context.Background(), z, ip); got != want {
			t.Errorf("%s: %q, want %q", ip, got, want)
		}
	}
}

func TestPresent(t *testing.T) {
	dir := t.TempDir()
	c, err := imapdconf.Parse(strings.NewReader("configdirectory: "+dir+"\n"), "imapd.conf")
	if err != nil {
		t.Fatal(err)
	}
	// The folder is not there at first.
	leave := Present(&service.Service{Line: ipc.Line{Name: "imap"}, Imapd: c})(int64(os.Getpid()), "[192.0.2.1]", "bob", "user.bob")
	list, err := proclist.List(filepath.Join(dir, "proc"))
	if err != nil || len(list) != 1 || list[0].Service != "imap" || list[0].User != "bob" {
		t.Fatalf("%+v %v", list, err)
	}
	leave()
	if list, _ := proclist.List(filepath.Join(dir, "proc")); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}
