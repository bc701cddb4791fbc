package pipe

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/dsn"
)

type message string

func (m message) Content() io.Reader { return strings.NewReader(string(m)) }
func (m message) Size() int64        { return int64(len(m)) }

func request(text, from string, to ...string) *agent.Request {
	r := &agent.Request{QueueID: "ABC", Sender: address.Parse(from), Message: message(text), NextHop: "Next.Hop",
		Client: agent.Client{Name: "pc.test", Addr: "192.0.2.1", Port: "4000", Helo: "pc", Proto: "ESMTP", SASLUser: "bob", SASLMethod: "PLAIN"}}
	for _, a := range to {
		r.Recipients = append(r.Recipients, agent.Recipient{Address: address.Parse(a), Original: address.Parse("alias@x.test")})
	}
	return r
}

// words splits at blanks; braces keep words together, as in master.cf.
func words(s string) (out []string) {
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		end := strings.IndexByte(s, ' ')
		if s[0] == '{' {
			end = strings.IndexByte(s, '}') + 1
		}
		if end <= 0 || end > len(s) {
			end = len(s)
		}
		out, s = append(out, s[:end]), s[end:]
	}
	return out
}

func TestArguments(t *testing.T) {
	for _, c := range []struct{ line, from, want string }{
		{"argv=x $sender ${sender} $(sender) a${sender}b $$sender $$", "a@b.test", "x|a@b.test|a@b.test|a@b.test|aa@b.testb|$sender|$"},
		{"argv=x -f ${sender} -- ${recipient} end", "a@b.test", "x|-f|a@b.test|--|Bob+Ext@Here.Test|eve@there.test|end"},
		{"argv=x $user/$extension $mailbox $domain", "a@b.test", "x|Bob/Ext|eve/|Bob+Ext|eve|Here.Test|there.test"},
		{"flags=hu argv=x $recipient $user.$domain $nexthop", "a@b.test", "x|bob+ext@here.test|eve@there.test|bob.here.test|eve.there.test|next.hop"},
		{"argv=x $original_recipient $queue_id $size", "a@b.test", "x|alias@x.test|alias@x.test|ABC|5"},
		{"argv=x $client_hostname[$client_address]:$client_port $client_helo $client_protocol $sasl_method $sasl_username [$sasl_sender]", "a@b.test",
			"x|pc.test[192.0.2.1]:4000|pc|ESMTP|PLAIN|bob|[]"},
		{"argv=x $sender", "", "x|MAILER-DAEMON"},
		{"null_sender= argv=x $sender", "", "x|"},
		{"flags=q argv=x $sender", `a b@c.test`, `x|"a b"@c.test`},
		{"argv=x $sender", `a b@c.test`, `x|a b@c.test`},
		{"argv=x { two words } {$user x}", "", "x|two words|Bob x|eve x"},
		{"argv=x $sender", "$user ${queue_id}@c.test", "x|$user ${queue_id}@c.test"}, // no second expansion
	} {
		l, err := Parse(words("user=bob " + c.line))
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		o := Options{Line: *l, Delimiters: "+"}
		got, err := o.arguments(request("hello", c.from, "Bob+Ext@Here.Test", "eve@there.test"))
		if err != nil || !slices.Equal(got, strings.Split(c.want, "|")) {
			t.Errorf("%s:\n got %s, %v\nwant %s", c.line, strings.Join(got, "|"), err, c.want)
		}
	}
	for bad, want := range map[string]string{
		"$nonesuch":   `file /etc/master.cf: service svc: unknown macro name: "nonesuch"`,
		"${user?yes}": `file /etc/master.cf: service svc: unknown macro name: "user?yes"`,
		"x${sender":   `truncated macro reference: "${sender"`,
		"$(sender}":   `truncated macro reference: "$(sender}"`,
		"x $- y":      `empty macro name: "$- y"`,
	} {
		o := Options{Line: Line{Argv: []string{bad}}, Service: "svc", MasterCF: "/etc/master.cf"}
		if got, err := o.arguments(request("", "a@b.test", "c@d.test")); err == nil || err.Error() != want {
			t.Errorf("%s became %q, %v", bad, got, err)
		}
	}
}

func TestParse(t *testing.T) {
	for line, want := range map[string]string{
		"user=bob":                     "missing argv=",
		"argv=x":                       "missing user=",
		"user=bob size=x argv=y":       "bad size= value: x",
		"user=bob colour=red argv=y":   "unknown attribute name: colour",
		"user=bob nonsense argv=y":     "unknown attribute name: nonsense",
		"user=bob argv=":               "missing argv=",
		"user=bob flags=RZ argv=x":     "unknown flag: Z (ignored)",
		"user=b:g eol=\\r\\n argv=x y": "",
	} {
		if _, err := Parse(words(line)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", line, err)
		}
	}
	for in, want := range map[string]string{`\r\n`: "\r\n", `\012`: "\n", `a\\b`: `a\b`, `\0411`: "!1", `x\`: `x\`, `\q`: "q"} {
		if got := unescape(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func TestFlags(t *testing.T) {
	text := "Subject: x\n\nFrom me\n.dot\n..\nend"
	for flags, want := range map[string]string{
		"":   "Subject: x\n\nFrom me\n.dot\n..\nend\n",
		">":  "Subject: x\n\n>From me\n.dot\n..\nend\n",
		".":  "Subject: x\n\nFrom me\n..dot\n...\nend\n",
		"B":  "Subject: x\n\nFrom me\n.dot\n..\nend\n\n",
		"RO": "Return-Path: <\"a b\"@c.test>\nX-Original-To: alias@x.test\nSubject: x\n\nFrom me\n.dot\n..\nend\n",
	} {
		var b bytes.Buffer
		w := writer{&Line{Flags: flags, EOL: "\n"}, request(text, "a b@c.test", "bob@here.test")}
		if err := w.write(&b); err != nil || b.String() != want {
			t.Errorf("flags %s: %v %q", flags, err, b.String())
		}
	}
	var b bytes.Buffer
	w := writer{&Line{Flags: "F", EOL: "\r\n"}, request(strings.Repeat("x", 100_000)+"\ny\n", "", "bob@here.test")}
	if err := w.write(&b); err != nil || !strings.HasPrefix(b.String(), "From MAILER-DAEMON  ") || !strings.HasSuffix(b.String(), "x\r\ny\r\n") || b.Len() < 100_000 {
		t.Errorf("%v, %d octets", err, b.Len())
	}
}

func TestDeliver(t *testing.T) {
	o := Options{Service: "svc", Time: 10 * time.Second, Dir: "/", Env: []string{"PATH=/usr/bin:/bin"}}
	for _, c := range []struct{ line, text, want string }{
		{"argv=/bin/cat", "hello\n", "delivered via svc service (hello)"},
		{"argv=/bin/true", strings.Repeat("much to read\n", 50_000), "delivered via svc service"},
		{"argv=/bin/sh -c {echo 4.2.2 full; exit 1}", "x\n", "4.2.2 full "},
		{"argv=/bin/sh -c {exit 67}", "x\n", "5.1.1 user unknown"},
		{"argv=/bin/sh -c {kill -9 $$$$}", "x\n", `4.3.0 Command died with signal 9: "/bin/sh"`},
		{"size=3 argv=/bin/true", "hello\n", "5.2.3 message too large"},
		{"flags=D argv=/bin/true", "X: y\nDelivered-To: BOB@here.test\n\n", "5.4.6 mail forwarding loop for bob@here.test"},
		{"flags=D argv=/bin/true", "X: y\n\nDelivered-To: bob@here.test\n", "delivered via svc service"},
	} {
		l, err := Parse(words("user=bob " + c.line))
		if err != nil {
			t.Fatal(err)
		}
		o.Line = *l
		res := Deliver(context.Background(), o, request(c.text, "a@b.test", "bob@here.test"))[0]
		got := res.Text
		if res.Err != nil {
			e := dsn.From(res.Err, "")
			got = e.Status() + " " + e.Error()
		}
		if got != c.want || res.Relay != "svc" {
			t.Errorf("%s: %q by %s, want %q", c.line, got, res.Relay, c.want)
		}
	}
	o.Line = Line{Flags: "O", Argv: []string{"/bin/true"}}
	if res := Deliver(context.Background(), o, request("x\n", "a@b.test", "bob@here.test", "eve@here.test")); res[0].Err == nil || dsn.Permanent(res[0].Err) {
		t.Errorf("flag O for many recipients: %+v", res[0])
	}
	o.Line.Flags, o.Time = "", 100*time.Millisecond
	o.Line.Argv = []string{"/bin/sh", "-c", "sleep 60; echo no >" + t.TempDir() + "/late"}
	began := time.Now()
	if res := Deliver(context.Background(), o, request("x\n", "a@b.test", "bob@here.test")); res[0].Err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("the time limit: %+v", res[0])
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("${user}$(x)$$ $sender", "a@b.test")
	f.Add("$", "")
	f.Fuzz(func(t *testing.T, template, to string) {
		o := Options{Line: Line{Argv: []string{template}}, Delimiters: "+"}
		if out, err := o.arguments(request("x", "a@b.test", to, to)); err == nil && len(out) != 1 && len(out) != 2 {
			t.Errorf("%q became %q", template, out)
		}
		unescape(template)
	})
}
