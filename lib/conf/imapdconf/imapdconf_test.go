package imapdconf

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse(strings.NewReader("configdirectory: /var/imap\n"+text), "imapd.conf")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestValues(t *testing.T) {
	c := parse(t, `
# how a set-up of long ago looks
Admins: cyrus  root
partition-default: /var/spool/imap
partition-Second: /mnt/two
defaultpartition: Default
allowplaintext: no
imap_allowplaintext: yes
pop3_allowplaintext: 1
tls_cert_file: /etc/cert.pem
sasl_mech_list: PLAIN LOGIN
pop3_sasl_mech_list: CRAM-MD5
timeout: 45
imap_timeout: 1h30m
popexpiretime: -1
sieve_maxscriptsize: 64
maxmessagesize: 10485760
maxquoted: 64K
virtdomains: yes
event_groups: quota flags
sieve_extensions: imapflags
postmaster: one \
  two
`)
	imap, pop3 := c.Service("imap"), c.Service("POP3")
	for _, b := range []struct {
		name      string
		got, want any
	}{
		{"admins", c.List("admins"), []string{"cyrus", "root"}},
		{"allowplaintext", c.Bool("allowplaintext"), false},
		{"imap_allowplaintext", imap.Bool("allowplaintext"), true},
		{"pop3_allowplaintext", pop3.Bool("allowplaintext"), true},
		{"deprecated", c.String("tls_server_cert"), "/etc/cert.pem"},
		{"timeout", c.Duration("timeout"), 45 * time.Minute},
		{"imap_timeout", imap.Duration("timeout"), 90 * time.Minute},
		{"default duration", c.Duration("failedloginpause"), 3 * time.Second},
		{"no duration", c.Duration("popminpoll"), time.Duration(0)},
		{"negative duration", c.Duration("popexpiretime"), -24 * time.Hour},
		{"kilobytes", c.Size("sieve_maxscriptsize"), int64(65536)},
		{"octets", c.Size("maxmessagesize"), int64(10485760)},
		{"suffix", c.Size("maxquoted"), int64(65536)},
		{"enum", c.Enum("virtdomains"), "on"},
		{"enum default", c.Enum("uidl_format"), "cyrus"},
		{"bit on", c.Has("event_groups", "quota"), true},
		{"bit off", c.Has("event_groups", "message"), false},
		{"bit by its old name", c.Has("sieve_extensions", "imap4flags"), true},
		{"folder", c.String("lmtpsocket"), "/var/imap/socket/lmtp"},
		{"partition", c.String("defaultpartition"), "default"},
		{"continued", c.String("postmaster"), "one   two"},
	} {
		if s, ok := b.want.([]string); ok {
			if !slices.Equal(b.got.([]string), s) {
				t.Errorf("%s: %v, want %v", b.name, b.got, b.want)
			}
		} else if b.got != b.want {
			t.Errorf("%s: %v, want %v", b.name, b.got, b.want)
		}
	}
	if v, _ := c.SASL("mech_list"); v != "PLAIN LOGIN" {
		t.Error(v)
	}
	if v, _ := pop3.SASL("mech_list"); v != "CRAM-MD5" {
		t.Error(v)
	}
	if _, set := c.SASL("sasldb_path"); set {
		t.Error("sasl_sasldb_path is not set")
	}
	if p := c.Partitions(); !slices.Equal(p, []Partition{{"default", "/var/spool/imap"}, {"second", "/mnt/two"}}) {
		t.Error(p)
	}
	if _, set := c.Raw("allowapop"); set || !c.Bool("allowapop") {
		t.Error("allowapop")
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"nocolon":                             "invalid option name on line 2 of configuration file imapd.conf",
		": x":                                 "invalid option name on line 2 of configuration file imapd.conf",
		"@foo: x":                             "invalid directive on line 2 of configuration file imapd.conf",
		"admins:":                             "empty option value on line 2 of configuration file",
		"timeout: soon":                       "unparsable duration 'soon' for timeout in line 2",
		"imap_timeout: soon":                  "unparsable duration 'soon' for timeout in line 2",
		"virtdomains: perhaps":                "invalid value 'perhaps' for virtdomains in line 2",
		"foo: 1\n\\\nfoo: 2":                  "option 'foo' was specified twice in config file (second occurrence on line 4)",
		"@include: /nonexistent":              "can't open configuration file /nonexistent: No such file or directory",
		"timeout: 99999999999d":               "unparsable duration '99999999999d' for timeout in line 2",
		"maxquoted: 99999999999999999999":     "non-integer value for maxquoted in line 2",
		"maxquoted: k":                        "non-integer value for maxquoted in line 2",
		"sieve_maxscriptsize: 1_000":          "non-integer value for sieve_maxscriptsize in line 2",
		"allowapop: oui":                      "non-switch value for allowapop in line 2",
		"httpmodules: caldav\nhttpmodules: x": "option 'httpmodules' was specified twice in config file (second occurrence on line 3)",
	} {
		_, err := Parse(strings.NewReader("configdirectory: /x\n"+text+"\n"), "imapd.conf")
		if err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := Parse(strings.NewReader("admins: x\n"), "imapd.conf"); err == nil {
		t.Error("no configdirectory, and no complaint")
	}
}

func TestInclude(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "imapd.conf")
	os.WriteFile(name, []byte("configdirectory: /x\n@include: more.conf\nfoo: bar\n"), 0o644)
	os.WriteFile(filepath.Join(dir, "more.conf"), []byte("\nadmins: inc\nbaz: 1\nallownewnews: yes\nautocreatequota: 3\nsasl_mech_list: y\nlmtp_timeout: 3\n"), 0o644)
	c, err := Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if c.String("admins") != "inc" {
		t.Error(c.String("admins"))
	}
	more := filepath.Join(dir, "more.conf")
	want := []Warning{
		{more, 3, "unknown option 'baz'"},
		{more, 4, "option 'allownewnews' is not acted on"},
		{more, 5, "Option 'autocreatequota' is deprecated in favor of 'autocreate_quota' since version 2.5.0."},
		{name, 3, "unknown option 'foo'"},
	}
	if got := c.Warnings(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if got := c.Warnings("imap"); len(got) != 5 || got[3] != (Warning{more, 7, "unknown option 'lmtp_timeout'"}) {
		t.Errorf("with the services known: %v", got)
	}
	os.WriteFile(more, []byte("@include: "+name+"\n"), 0o644)
	if _, err := Load(name); err == nil || !strings.Contains(err.Error(), "included twice") {
		t.Errorf("a circle: %v", err)
	}
}

func TestWrongNamesPanic(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	parse(t, "").Bool("admins")
}

func FuzzParse(f *testing.F) {
	f.Add("admins: a\\\nb\n@include: /x\nimap_timeout: 1d2h\nmaxquoted: 0x1F\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(strings.ToLower(text), "@include") {
			return // of whatever lies on this machine
		}
		c, err := Parse(strings.NewReader("configdirectory: /x\n"+text), "f")
		if err != nil {
			return
		}
		c.Warnings()
		c.Unknown(nil)
		for _, o := range Options() {
			c.Service("imap").String(o.Name)
		}
	})
}
