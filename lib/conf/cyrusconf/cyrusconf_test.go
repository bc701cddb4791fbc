package cyrusconf

import (
	"strings"
	"testing"
)

const sample = `# comment
START {
	recover  cmd="ctl_cyrusdb -r"   # behind a line
}
SERVICES {
	imap	cmd="imapd -U 30" listen="imap" prefork=0 maxchild=100
  lmtpunix  cmd="lmtpd" listen="/run/cyrus/socket/lmtp" PREFORK=1 maxchild=20x
}

EVENTS {
  delprune	cmd="/usr/sbin/cyrus expire -E 3" at=0401
}
DAEMON {
  idled cmd="idled" wait=y
}
OTHER {
  x-y what
}
`

func TestParse(t *testing.T) {
	c, err := Parse(strings.NewReader(sample), "f")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Start) != 1 || len(c.Services) != 2 || len(c.Events) != 1 || len(c.Daemons) != 1 || len(c.Warnings) != 1 {
		t.Fatalf("%+v", c)
	}
	lmtp := &c.Services[1]
	if lmtp.Name != "lmtpunix" || lmtp.Line != 7 || lmtp.String("listen", "") != "/run/cyrus/socket/lmtp" {
		t.Errorf("%+v", lmtp)
	}
	if lmtp.Int("prefork", 0) != 1 || lmtp.Int("maxchild", -1) != 20 || lmtp.Int("maxfds", 256) != 256 {
		t.Errorf("numbers of %+v", lmtp)
	}
	if w := c.Services[0].Words(); len(w) != 3 || w[2] != "30" {
		t.Errorf("words: %q", w)
	}
	if !c.Daemons[0].Bool("wait", false) || c.Events[0].String("at", "") != "0401" {
		t.Error("wait, at")
	}
}

func TestComplaints(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"SERVICES {\n  im-ap cmd=x\n}\n", "configuration file f: bad character '-' in name on line 2"},
		{"SERVICES {\n  imap cmd x\n}\n", "configuration file f: bad character ' ' in argument on line 2"},
		{"\nSTART {\n  imap cmd=\"x\n}\n", "configuration file f: missing \" on line 3"},
		{"START {\n imap " + strings.Repeat("a=b ", maxArguments+1) + "\n}\n", "configuration file f: too many arguments on line 2"},
	} {
		if _, err := Parse(strings.NewReader(c.text), "f"); err == nil || err.Error() != c.want {
			t.Errorf("%q: %v, want %s", c.text, err, c.want)
		}
	}
	if _, err := Load("/no/such/file"); err == nil || !strings.HasPrefix(err.Error(), "can't open configuration file /no/such/file: ") {
		t.Errorf("Load: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add("SERVICES {\n a b=\"c\" d=e\n")
	f.Add("}{\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(strings.NewReader(text), "f")
		if err != nil {
			return
		}
		for _, e := range c.Services {
			if e.Name == "" || strings.ContainsAny(e.Name, " \t\"") {
				t.Errorf("name %q", e.Name)
			}
			_ = e.Int("x", 0)
			_ = e.Bool("x", false)
		}
	})
}
