package maincf

import (
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
)

func TestTableIsSorted(t *testing.T) {
	if !sort.SliceIsSorted(params[:], func(i, j int) bool { return params[i].Name < params[j].Name }) {
		t.Fatal("params is not sorted: Find would miss some")
	}
	if !slices.IsSorted(acted[:]) {
		t.Fatal("acted is not sorted: ActedOn would miss some")
	}
	for _, p := range params {
		if p.Doc == "" {
			t.Errorf("%s has no description", p.Name)
		}
	}
	for _, name := range acted {
		if _, ok := Find(name); !ok {
			t.Errorf("acted names %s, which is no parameter", name)
		}
	}
}

func TestDefaultsParse(t *testing.T) {
	for _, level := range []string{"0", "1", "2", "3.6"} {
		c, err := Empty(t.TempDir()).With([]string{"compatibility_level=" + level})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range Params() {
			switch p.Kind {
			case Bool:
				c.Bool(p.Name)
			case Int:
				c.Int(p.Name)
			case Long:
				c.Size(p.Name)
			case Time:
				c.Duration(p.Name)
			default:
				c.String(p.Name)
			}
			if err := c.Err(); err != nil {
				t.Fatalf("%s: %v", p.Name, err)
			}
		}
	}
}

// conf reads text as main.cf.
func conf(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Read(strings.NewReader(text), "/x/main.cf")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestValues(t *testing.T) {
	c := conf(t, `
myhostname = mail.example.com
biff = NO
message_size_limit = 10000000000
maximal_queue_lifetime = 2w
queue_run_delay = 5m
bounce_queue_lifetime = 7
smtpd_timeout = ${stress?{10}:{300}}s
smtpd_junk_command_limit = ${stress?{1}:{99}}
mynetworks = 127.0.0.0/8, [::1]/128
	10.0.0.0/8
smtpd_recipient_restrictions = permit, check_client_access { cidr:{ {1.2.3.4/32 OK} }, timeout=3 } reject
forward_path = $home/.forward
mine = $theirs
theirs = ${mydomain}
`)
	check := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	check("biff", c.Bool("biff"), false)
	check("message_size_limit", c.Size("message_size_limit"), int64(10000000000))
	check("maximal_queue_lifetime", c.Duration("maximal_queue_lifetime"), 14*24*time.Hour)
	check("queue_run_delay", c.Duration("queue_run_delay"), 5*time.Minute)
	check("the unit of the default", c.Duration("bounce_queue_lifetime"), 7*24*time.Hour)
	check("smtpd_timeout", c.Duration("smtpd_timeout"), 300*time.Second)
	check("smtpd_junk_command_limit", c.Int("smtpd_junk_command_limit"), 99)
	check("a default with $names", c.String("mydestination"), "mail.example.com, localhost.example.com, localhost")
	check("mydomain", c.String("mydomain"), "example.com")
	check("left alone until delivery", c.String("forward_path"), "$home/.forward")
	check("names of one's own", c.String("mine"), "example.com")
	check("nobody's name", c.String("nosuch"), "")
	check("networks", strings.Join(c.List("mynetworks"), "|"), "127.0.0.0/8|[::1]/128|10.0.0.0/8")
	check("groups", strings.Join(c.List("smtpd_recipient_restrictions"), "|"), "permit|check_client_access|{ cidr:{ {1.2.3.4/32 OK} }, timeout=3 }|reject")
	check("config_directory", c.String("config_directory"), "/x")
	check("forbid bare newline", c.String("smtpd_forbid_bare_newline"), "normalize")
	check("version", c.String("mail_version"), "3.7.11")
	if err := c.Err(); err != nil {
		t.Error(err)
	}
	stressed, err := c.With([]string{"stress=yes", "mine = x"})
	if err != nil {
		t.Fatal(err)
	}
	check("under stress", stressed.Duration("smtpd_timeout"), 10*time.Second)
	check("override", stressed.String("mine"), "x")
	check("the original stays", c.String("mine"), "example.com")
}

func TestTransport(t *testing.T) {
	c := conf(t, "relay_destination_concurrency_limit = 7\ndefault_destination_concurrency_limit = 9\nslow_destination_rate_delay = 2m\nmd_time_limit = 30\n")
	for _, k := range []struct {
		service, suffix string
		want            int
	}{
		{"relay", "destination_concurrency_limit", 7},
		{"smtp", "destination_concurrency_limit", 9},
		{"local", "destination_concurrency_limit", 2},
		{"smtp", "_destination_recipient_limit", 50},
	} {
		if got := c.TransportInt(k.service, k.suffix); got != k.want {
			t.Errorf("%s %s: %d, want %d", k.service, k.suffix, got, k.want)
		}
	}
	if d := c.TransportDuration("slow", "destination_rate_delay"); d != 2*time.Minute {
		t.Errorf("slow: %v", d)
	}
	if d := c.TransportDuration("md", "time_limit"); d != 30*time.Second {
		t.Errorf("md: %v", d)
	}
	if d := c.TransportDuration("other", "time_limit"); d != 1000*time.Second {
		t.Errorf("other: %v", d)
	}
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}

func TestCompatibility(t *testing.T) {
	for _, k := range []struct{ level, append, style, relay, digest string }{
		{"0", "yes", "subnet", "$mydestination", "md5"},
		{"1", "no", "subnet", "$mydestination", "md5"},
		{"2", "no", "host", "", "md5"},
		{"3.6", "no", "host", "", "sha256"},
		{"3.10", "no", "host", "", "sha256"},
	} {
		c := conf(t, "mydestination = d\ncompatibility_level = "+k.level)
		relay := strings.ReplaceAll(k.relay, "$mydestination", "d")
		if got := c.String("append_dot_mydomain"); got != k.append {
			t.Errorf("%s: append_dot_mydomain = %s", k.level, got)
		}
		if got := c.String("mynetworks_style"); got != k.style {
			t.Errorf("%s: mynetworks_style = %s", k.level, got)
		}
		if got := c.String("relay_domains"); got != relay {
			t.Errorf("%s: relay_domains = %s", k.level, got)
		}
		if got := c.String("smtp_tls_fingerprint_digest"); got != k.digest {
			t.Errorf("%s: smtp_tls_fingerprint_digest = %s", k.level, got)
		}
		if below := c.CompatBelow("3.6"); below != (k.digest == "md5") {
			t.Errorf("%s: below 3.6: %v", k.level, below)
		}
	}
}

func TestBadValues(t *testing.T) {
	for _, k := range []struct{ line, want string }{
		{"biff = maybe", "bad boolean configuration: biff = maybe"},
		{"max_use = 10x", "bad numerical configuration: max_use = 10x"},
		{"max_use =", "bad numerical configuration: max_use = "},
		{"max_use = 99999999999", "bad numerical configuration: max_use = 99999999999"},
		{"max_use = 0", "invalid max_use parameter value 0 < 1"},
		{"delay_logging_resolution_limit = 9", "invalid delay_logging_resolution_limit parameter value 9 > 6"},
		{"max_idle = 3y", "parameter max_idle: bad time value or unit: 3y"},
		{"max_idle = -3s", "parameter max_idle: bad time value or unit: -3s"},
		{"max_idle = 3ss", "parameter max_idle: bad time value or unit: 3ss"},
		{"queue_directory =", "bad string length 0 < 1: queue_directory = "},
		{"default_verp_delimiters = +=x", "bad string length 3 > 2: default_verp_delimiters = +=x"},
		{"myorigin = ${", "parameter myorigin: macro processing error: truncated macro reference: \"${\""},
		{"myorigin = $myorigin", "parameter myorigin: macro processing error: unreasonable macro call nesting: \"myorigin\""},
		{"compatibility_level = x", "malformed compatibility level syntax: \"x\""},
	} {
		c := conf(t, k.line+"\n")
		name, _, _ := strings.Cut(k.line, " ")
		p, _ := Find(name)
		switch p.Kind {
		case Bool:
			if c.Bool(name) != (p.Default == "yes") {
				t.Errorf("%s: not the default", name)
			}
		case Int:
			c.Int(name)
		case Time:
			c.Duration(name)
		default:
			c.String(name)
			if name == "compatibility_level" {
				c.CompatBelow("2")
			}
		}
		if err := c.Err(); err == nil || err.Error() != k.want {
			t.Errorf("%s: %v, want %s", k.line, err, k.want)
		}
	}
}

func TestFileErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(dir)
	if want := "open " + dir + "/main.cf: No such file or directory"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	for _, k := range []struct{ text, want string }{
		{"# c\n\nfoo\n", "/x/main.cf, line 3: missing '=' after attribute name: \"foo\""},
		{"a = b\n c\nfoo bar = x\n  y\n", "/x/main.cf, line 3: missing '=' after attribute name: \"foo bar = x  y\""},
		{"=x", "/x/main.cf, line 1: missing attribute name: \"=x\""},
	} {
		if _, err := Read(strings.NewReader(k.text), "/x/main.cf"); err == nil || err.Error() != k.want {
			t.Errorf("%q: %v, want %s", k.text, err, k.want)
		}
	}
	c := conf(t, " a = b\nbiff=no\n\nbiff=yes\n")
	want := []string{`/x/main.cf: logical line must not start with whitespace: " a = b"`, "/x/main.cf, line 4: overriding earlier entry: biff=no"}
	if !slices.Equal(c.Warnings(), want) {
		t.Errorf("warnings %q, want %q", c.Warnings(), want)
	}
}

func TestOriginFromFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mailname")
	if err := os.WriteFile(file, []byte("example.org\nmore\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := conf(t, "myorigin = "+file).String("myorigin"); got != "example.org" {
		t.Errorf("myorigin = %q", got)
	}
}

func TestGrowthIsLimited(t *testing.T) {
	var text strings.Builder
	for c := 'a'; c < 'z'; c++ {
		text.WriteString(string(c) + "x = $" + string(c+1) + "x$" + string(c+1) + "x$" + string(c+1) + "x\n")
	}
	text.WriteString("zx = z\n")
	c := conf(t, text.String())
	c.String("ax")
	if c.Err() == nil {
		t.Error("3^25 letters were expanded")
	}
}

func FuzzRead(f *testing.F) {
	f.Add("biff = no\n more\n#c\nrelayhost = ${{$biff} == {no} ? {a} : {${biff?$(x)}}}\n")
	f.Add("a = $a\nb = ${a:${b?{c}:d}} $$ {x{y}} \n x")
	f.Add("compatibility_level = 3.6\nmyorigin = ${{$compatibility_level} <level {1} ? {} : {x}}\n=")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Read(strings.NewReader(text), "main.cf")
		if err != nil {
			return
		}
		for _, e := range c.Entries() {
			c.String(e.Name)
			c.List(e.Name)
			References(e.Value, func(string) {})
		}
		c.Int("max_use")
		c.Duration("max_idle")
		c.String("mydestination")
	})
}
