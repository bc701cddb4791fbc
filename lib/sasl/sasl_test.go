package sasl

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"testing"
)

// users is a Verifier of one user, bob, with the password "tim's".
type users struct{}

var errDisk = errors.New("disk on fire")

func (users) Verify(_ context.Context, user, password string) (string, error) {
	if user == "disk" {
		return "", errDisk
	}
	if strings.ToLower(user) != "bob" || password != "tim's" {
		return "", &Error{Code: CodeBadAuth, Text: "checkpass failed"}
	}
	return "bob", nil
}

func (users) Secret(_ context.Context, user string) (string, string, error) {
	if strings.ToLower(user) != "bob" {
		return "", "", &Error{Code: CodeNoUser, Text: "no secret in database"}
	}
	return "tim's", "bob", nil
}

// Name knows that names are written in any case, and have no slashes.
func (users) Name(user string) string {
	if strings.Contains(user, "/") {
		return ""
	}
	return strings.ToLower(user)
}

func (users) Scram(_ context.Context, name, user string) (ScramKeys, string, error) {
	k := keysFor(sha256.New, "tim's")
	if strings.ToLower(user) != "bob" {
		return k, "", nil
	}
	return k, "bob", nil
}

func keysFor(h func() hash.Hash, password string) ScramKeys {
	salt := []byte("salt")
	salted, _ := pbkdf2.Key(h, password, salt, 10, h().Size())
	client := mac(h, salted, "Client Key")
	sum := h()
	sum.Write(client)
	return ScramKeys{Salt: salt, Iterations: 10, StoredKey: sum.Sum(nil), ServerKey: mac(h, salted, "Server Key")}
}

func mac(h func() hash.Hash, key []byte, text string) []byte {
	m := hmac.New(h, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// TestServers plays responses; "-" is none at all. The last word of want is how it ends.
func TestServers(t *testing.T) {
	for _, c := range []struct {
		mech      string
		responses []string
		challenge []string
		authcid   string
		authzid   string
		err       string
	}{
		{"PLAIN", []string{"\x00Bob\x00tim's"}, nil, "bob", "", ""},
		{"plain", []string{"-", "\x00bob\x00tim's"}, []string{""}, "bob", "", ""},
		{"PLAIN", []string{"ann\x00bob\x00tim's"}, nil, "bob", "ann", ""},
		{"PLAIN", []string{"Bob\x00Bob\x00tim's"}, nil, "bob", "bob", ""},
		{"PLAIN", []string{"BOB\x00bob\x00tim's"}, nil, "bob", "bob", ""},
		{"PLAIN", []string{"Ann\x00bob\x00tim's"}, nil, "bob", "ann", ""},
		{"PLAIN", []string{"../x\x00bob\x00tim's"}, nil, "bob", "", "SASL(-14)"},
		{"PLAIN", []string{"\x00bob\x00wrong"}, nil, "bob", "", "SASL(-13): authentication failure: checkpass failed"},
		{"PLAIN", []string{"\x00disk\x00x"}, nil, "disk", "", "disk on fire"},
		{"PLAIN", []string{"bob"}, nil, "", "", "SASL(-5)"},
		{"PLAIN", []string{"\x00bob"}, nil, "", "", "SASL(-5)"},
		{"PLAIN", []string{"\x00\x00x"}, nil, "", "", "SASL(-5)"},
		{"PLAIN", []string{"\x00bob\x00tim's\x00more"}, nil, "", "", "SASL(-5)"},
		{"PLAIN", []string{""}, nil, "", "", "SASL(-5)"},
		{"PLAIN", []string{"\x00bob\x00" + strings.Repeat("x", 5000)}, nil, "", "", "SASL(-5)"},
		{"LOGIN", []string{"-", "Bob", "tim's"}, []string{"Username:", "Password:"}, "bob", "", ""},
		{"LOGIN", []string{"Bob", "tim's"}, []string{"Password:"}, "bob", "", ""},
		{"LOGIN", []string{"-", "bob", ""}, []string{"Username:", "Password:"}, "bob", "", "SASL(-13)"},
		{"EXTERNAL", []string{"-", ""}, []string{""}, "cert", "", ""},
		{"EXTERNAL", []string{"ann"}, nil, "cert", "ann", ""},
	} {
		s, err := NewServer(c.mech, users{}, Options{Host: "h", External: "cert"})
		if err != nil {
			t.Fatal(err)
		}
		var challenges []string
		done := false
		for _, r := range c.responses {
			in := []byte(r)
			if r == "-" {
				in = nil
			}
			var ch []byte
			ch, done, err = s.Next(context.Background(), in)
			if err == nil && !done {
				challenges = append(challenges, string(ch))
			}
		}
		name := fmt.Sprintf("%s %.20q", c.mech, c.responses)
		if !done || !slices.Equal(challenges, c.challenge) {
			t.Errorf("%s: done %v, challenges %q", name, done, challenges)
		}
		if got := fmt.Sprint(err); (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(got, c.err) {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
		if a, z := s.Identity(); a != c.authcid || z != c.authzid {
			t.Errorf("%s: identity %q %q", name, a, z)
		}
	}
}

func TestCRAM(t *testing.T) {
	// The example of RFC 2195, 2.
	if got := CRAM("tanstaaftanstaaf", []byte("<1896.697170952@postoffice.reston.mci.net>")); got != "b913a602c7eda7a495b4e6e7334d3890" {
		t.Error(got)
	}
	for _, c := range []struct{ user, password, want string }{
		{"Bob", "tim's", ""},
		{"bob", "wrong", "SASL(-13)"},
		{"nobody", "tim's", "SASL(-20)"},
		{"", "tim's", "SASL(-5)"},
	} {
		s, _ := NewServer("cram-md5", users{}, Options{Host: "here.test"})
		challenge, done, err := s.Next(context.Background(), nil)
		if done || err != nil || !strings.HasSuffix(string(challenge), "@here.test>") {
			t.Fatalf("%q %v %v", challenge, done, err)
		}
		cl, _ := NewClient("CRAM-MD5", Credentials{User: c.user, Password: c.password})
		response, _ := cl.Next(challenge)
		_, done, err = s.Next(context.Background(), response)
		if got := fmt.Sprint(err); !done || (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(got, c.want) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if a, b := Stamp("h"), Stamp("h"); a == b {
		t.Error("the same challenge twice")
	}
}

// A client of RFC 5802, written out, against the server.
func TestSCRAM(t *testing.T) {
	for _, c := range []struct {
		user, password, want string
		meddle               func(string) string
	}{
		{user: "Bob", password: "tim's"},
		{user: "bob", password: "wrong", want: "SASL(-13)"},
		{user: "nobody", password: "tim's", want: "SASL(-13)"},
		{user: "bob", password: "tim's", want: "SASL(-5)", meddle: func(s string) string { return strings.Replace(s, "c=biws", "c=eSws", 1) }},
		{user: "bob", password: "tim's", want: "SASL(-5)", meddle: func(s string) string { return strings.Replace(s, "r=abc", "r=abd", 1) }},
		{user: "bob", password: "tim's", want: "SASL(-5)", meddle: func(s string) string { return s[:20] }},
	} {
		s, _ := NewServer("SCRAM-SHA-256", users{}, Options{})
		if ch, done, err := s.Next(context.Background(), nil); len(ch) != 0 || done || err != nil {
			t.Fatal(ch, done, err)
		}
		bare := "n=" + c.user + ",r=abc"
		first, _, err := s.Next(context.Background(), []byte("n,,"+bare))
		if err != nil {
			t.Fatal(err)
		}
		nonce, rest, _ := strings.Cut(string(first), ",")
		if rest != "s=c2FsdA==,i=10" || !strings.HasPrefix(nonce, "r=abc") || len(nonce) < 20 {
			t.Fatalf("%s", first)
		}
		without := "c=biws," + nonce
		auth := bare + "," + string(first) + "," + without
		salted, _ := pbkdf2.Key(sha256.New, c.password, []byte("salt"), 10, 32)
		key := mac(sha256.New, salted, "Client Key")
		stored := sha256.Sum256(key)
		proof := make([]byte, 32)
		subtle.XORBytes(proof, key, mac(sha256.New, stored[:], auth))
		final := without + ",p=" + base64.StdEncoding.EncodeToString(proof)
		if c.meddle != nil {
			final = c.meddle(final)
		}
		last, done, err := s.Next(context.Background(), []byte(final))
		if got := fmt.Sprint(err); !done || (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(got, c.want) {
			t.Errorf("%s %s: %v", c.user, c.password, err)
		}
		if err == nil {
			server := mac(sha256.New, salted, "Server Key")
			if want := "v=" + base64.StdEncoding.EncodeToString(mac(sha256.New, server, auth)); string(last) != want {
				t.Errorf("%s, want %s", last, want)
			}
			if id, _ := s.Identity(); id != "bob" {
				t.Error(id)
			}
		}
	}
}

func TestOffer(t *testing.T) {
	for _, c := range []struct {
		offer Offer
		want  string
	}{
		{Offer{}, ""},
		{Offer{Cleartext: true}, "PLAIN LOGIN"},
		{Offer{Cleartext: true, Secrets: true, Scram: []string{"SCRAM-SHA-256"}}, "SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN"},
		{Offer{Secrets: true, External: true}, "EXTERNAL CRAM-MD5"},
		{Offer{List: []string{"login", "GSSAPI", "plain", "LOGIN"}, Cleartext: true}, "LOGIN PLAIN"},
		{Offer{List: []string{"PLAIN", "CRAM-MD5"}, Secrets: true}, "CRAM-MD5"},
	} {
		if got := strings.Join(c.offer.Mechanisms(), " "); got != c.want {
			t.Errorf("%+v: %q, want %q", c.offer, got, c.want)
		}
	}
}

func TestClients(t *testing.T) {
	if got := Choose([]string{"login", "PLAIN", "GSSAPI"}, true); got != "PLAIN" {
		t.Error(got)
	}
	if got := Choose([]string{"LOGIN", "PLAIN"}, false); got != "" {
		t.Error("a password in clear:", got)
	}
	if got := Choose([]string{"cram-md5", "PLAIN"}, false); got != "CRAM-MD5" {
		t.Error(got)
	}
	for _, mech := range []string{"PLAIN", "LOGIN"} {
		s, _ := NewServer(mech, users{}, Options{})
		c, err := NewClient(mech, Credentials{User: "bob", Password: "tim's"})
		if err != nil {
			t.Fatal(err)
		}
		response, _ := c.Start()
		for {
			challenge, done, err := s.Next(context.Background(), response)
			if err != nil {
				t.Fatal(mech, err)
			}
			if done {
				break
			}
			if response, err = c.Next(challenge); err != nil {
				t.Fatal(mech, err)
			}
		}
	}
	if _, err := NewClient("GSSAPI", Credentials{}); err == nil {
		t.Error("GSSAPI")
	}
}

func FuzzServers(f *testing.F) {
	f.Add("PLAIN", []byte("\x00bob\x00tim's"), []byte(""))
	f.Add("LOGIN", []byte("bob"), []byte("tim's"))
	f.Add("CRAM-MD5", []byte(""), []byte("bob 0123"))
	f.Add("SCRAM-SHA-256", []byte("n,a=x=2C,n=bob,r=abc"), []byte("c=biws,r=abc,p=AA=="))
	f.Fuzz(func(t *testing.T, mech string, a, b []byte) {
		s, err := NewServer(mech, users{}, Options{})
		if err != nil {
			return
		}
		for _, r := range [][]byte{a, b} {
			_, done, err := s.Next(context.Background(), r)
			if err != nil {
				return
			}
			if id, _ := s.Identity(); done && id != "bob" {
				t.Fatalf("let in as %q by %q %q", id, a, b)
			}
			if done {
				return
			}
		}
	})
}
