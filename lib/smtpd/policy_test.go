package smtpd

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"angarium/lib/access"
)

// policyServer answers each request with what answer makes of it; "" hangs up.
func policyServer(t *testing.T, answer func(n int, request map[string]string) string) string {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "policy"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for n := 1; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				lines := bufio.NewScanner(conn)
				for {
					request := map[string]string{}
					for lines.Scan() && lines.Text() != "" {
						name, value, _ := strings.Cut(lines.Text(), "=")
						request[name] = value
					}
					if len(request) == 0 {
						return
					}
					a := answer(n, request)
					if a == "" {
						return
					}
					fmt.Fprintf(conn, "action=%s\n\n", a)
				}
			}()
		}
	}()
	return "unix:" + l.Addr().String()
}

func TestPolicyClient(t *testing.T) {
	var warned []string
	p := &PolicyClient{Warn: func(f string, args ...any) { warned = append(warned, fmt.Sprintf(f, args...)) }}
	c := PolicyConfig{Timeout: 10 * time.Second, MaxIdle: time.Minute, MaxTTL: time.Minute, RetryDelay: time.Millisecond, TryLimit: 2, DefaultAction: "451 4.3.5 no"}
	ctx := context.Background()

	// One connection serves many requests; when the server drops it, the next
	// request goes over a new one, and nobody notices.
	server := policyServer(t, func(n int, r map[string]string) string {
		if r["hangup"] == "yes" {
			return ""
		}
		return fmt.Sprintf("%s %d", r["say"], n)
	})
	for _, step := range []struct{ request, want string }{
		{"say=OK", "OK 1"}, {"say=DUNNO", "DUNNO 1"}, {"hangup=yes", "451 4.3.5 no"}, {"say=OK", "OK 3"},
	} {
		if got := p.Ask(ctx, server, c, []string{step.request}); got != step.want {
			t.Errorf("%s: %q, want %q", step.request, got, step.want)
		}
	}
	if len(warned) != 1 || !strings.HasPrefix(warned[0], "problem talking to server unix:") {
		t.Errorf("%q", warned)
	}

	warned = nil
	if got := p.Ask(ctx, "inet:127.0.0.1:1", c, nil); got != c.DefaultAction || len(warned) != 4 || !strings.HasPrefix(warned[0], "connect to 127.0.0.1:1: ") {
		t.Errorf("nobody there: %q, %q", got, warned)
	}
	if got := p.Ask(ctx, "carrier:pigeon", c, nil); got != c.DefaultAction {
		t.Errorf("bad endpoint: %q", got)
	}
	c.Timeout, c.TryLimit = 20*time.Millisecond, 1
	block := make(chan struct{})
	defer close(block)
	mute := policyServer(t, func(int, map[string]string) string { <-block; return "" })
	if got := p.Ask(ctx, mute, c, []string{"a=b"}); got != c.DefaultAction {
		t.Errorf("mute server: %q", got)
	}
}

// What a policy server hears: the names and their order are those of Postfix
// 3.7.11.
func TestPolicyAttributes(t *testing.T) {
	var heard [][]string
	h := newHouse(t, func(c *Config, ac *access.Config) {
		ac.Ask = func(_ context.Context, service string, s *access.Subject) string {
			heard = append(heard, Attributes(s, "ctx"))
			return "DUNNO"
		}
	})
	p := h.c.Policy
	h.c.Sender, h.c.EndOfData = p.Parse(access.Sender, "check_policy_service unix:x"), p.Parse(access.EndOfData, "check_policy_service unix:x")
	h.talk("EHLO x", `MAIL FROM:<"a b"@x.test> SIZE=100`, "RCPT TO:<bob@here.test>", "DATA", "a: b", "", "c", ".", "QUIT")
	if len(heard) != 2 {
		t.Fatalf("%d requests\n%s", len(heard), h.logged())
	}
	var names []string
	for _, a := range heard[0] {
		name, _, _ := strings.Cut(a, "=")
		names = append(names, name)
	}
	want := "request protocol_state protocol_name client_address client_name client_port reverse_client_name server_address server_port helo_name sender recipient " +
		"recipient_count queue_id instance size etrn_domain stress sasl_method sasl_username sasl_sender ccert_subject ccert_issuer ccert_fingerprint " +
		"ccert_pubkey_fingerprint encryption_protocol encryption_cipher encryption_keysize policy_context"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for i, want := range [][]string{
		{"protocol_state=RCPT", "sender=a b@x.test", "recipient=bob@here.test", "recipient_count=0", "queue_id=", "size=100", "policy_context=ctx"},
		{"protocol_state=END-OF-MESSAGE", "recipient=bob@here.test", "recipient_count=1", "queue_id=4F1A23C1"},
	} {
		all := "\n" + strings.Join(heard[i], "\n") + "\n"
		for _, w := range want {
			if !strings.Contains(all, "\n"+w+"\n") {
				t.Errorf("request %d lacks %q:%s", i, w, all)
			}
		}
	}
	instance := func(list []string) string { return list[14] }
	if instance(heard[0]) != instance(heard[1]) {
		t.Errorf("one message, two instances: %s, %s", instance(heard[0]), instance(heard[1]))
	}
}

// What the log says of a refusal is what the client heard.
func TestSoftBounceLog(t *testing.T) {
	h := newHouse(t, func(c *Config, _ *access.Config) { c.Server.SoftBounce = true })
	want := "454 4.7.1 <a@far.test>: Relay access denied"
	if out := h.talk("EHLO x", "MAIL FROM:<a@x.test>", "RCPT TO:<a@far.test>", "QUIT"); !strings.Contains(out, want+"\n") {
		t.Error(out)
	}
	if !strings.Contains(h.logged(), "reject: RCPT from mx.example.net[192.0.2.7]: "+want+"; from=") {
		t.Error(h.logged())
	}
}

// A client that a proxy speaks for is refused as if it had come itself.
func TestXClientRefused(t *testing.T) {
	h := newHouse(t, func(c *Config, _ *access.Config) {
		c.XClient, c.DelayReject = func(string, netip.Addr) bool { return true }, false
	})
	h.c.Client = h.c.Policy.Parse(access.Client, "reject_unknown_client_hostname")
	for name, refused := range map[string]int{"good.test": 0, "[UNAVAILABLE]": 2} {
		out := h.talk("EHLO x", "XCLIENT ADDR=198.51.100.1 NAME="+name, "EHLO x", "MAIL FROM:<a@x.test>", "QUIT")
		if strings.Count(out, "503 5.7.0 Error: access denied for unknown[198.51.100.1]") != refused {
			t.Error(out)
		}
	}
}
