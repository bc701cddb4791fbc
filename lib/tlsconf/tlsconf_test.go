package tlsconf

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func writePair(t *testing.T, dir, name string, serial int64, key crypto.Signer) (cert, keyFile string) {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "mail.test"}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"mail.test"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for file, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pk}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, keyFile
}

func ecKey(t *testing.T) crypto.Signer {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// handshake returns both sides' states and our certificate.
func handshake(t *testing.T, server, client *tls.Config) (s, c tls.ConnectionState, n Note) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	sc, cc := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() { done <- sc.HandshakeContext(WithNote(context.Background(), &n)) }()
	if err := cc.Handshake(); err != nil {
		t.Fatal(err)
	}
	go cc.Read(make([]byte, 1)) // tickets
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return sc.ConnectionState(), cc.ConnectionState(), n
}

// The lines are what Postfix 3.7.11 with OpenSSL 3.0 logs.
func TestDescribe(t *testing.T) {
	dir := t.TempDir()
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := writePair(t, dir, "rsa", 1, rk)
	ecCert, ecKeyFile := writePair(t, dir, "ec", 2, ecKey(t))
	for _, c := range []struct {
		srv  Server
		conf *tls.Config
		want string
	}{
		{Server{CertFile: cert, KeyFile: key}, &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}, "TLSv1.3 with cipher TLS_AES_128_GCM_SHA256 (128/128 bits) key-exchange X25519 server-signature RSA-PSS (2048 bits) server-digest SHA256"},
		{Server{CertFile: cert, KeyFile: key}, &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP256}}, "TLSv1.3 with cipher TLS_AES_128_GCM_SHA256 (128/128 bits) key-exchange ECDHE (prime256v1) server-signature RSA-PSS (2048 bits) server-digest SHA256"},
		{Server{CertFile: cert, KeyFile: key, ECCertFile: ecCert, ECKeyFile: ecKeyFile}, &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}, "TLSv1.3 with cipher TLS_AES_128_GCM_SHA256 (128/128 bits) key-exchange X25519 server-signature ECDSA (prime256v1) server-digest SHA256"},
		{Server{CertFile: cert, KeyFile: key}, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384}}, "TLSv1.2 with cipher ECDHE-RSA-AES256-GCM-SHA384 (256/256 bits)"},
		{Server{CertFile: cert, KeyFile: key}, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256}}, "TLSv1.2 with cipher ECDHE-RSA-CHACHA20-POLY1305 (256/256 bits)"},
		{Server{CertFile: cert, KeyFile: key}, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}}, "TLSv1.2 with cipher ECDHE-RSA-AES128-SHA (128/128 bits)"},
	} {
		conf, err := c.srv.Config()
		if err != nil {
			t.Fatal(err)
		}
		c.conf.InsecureSkipVerify = true
		s, _, n := handshake(t, conf, c.conf)
		if got := Describe(&s, n.Leaf, nil); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
		if got := Trust(conf, &s); got != "Anonymous" {
			t.Error(got)
		}
	}
	conf, err := Server{CertFile: cert, KeyFile: key, AskClientCert: true, CAFile: ecCert}.Config()
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{cert: "Untrusted", ecCert: "Trusted"} {
		cc, err := Client{CertFile: file, KeyFile: file[:len(file)-3] + "key"}.Config()
		if err != nil {
			t.Fatal(err)
		}
		s, _, _ := handshake(t, conf, cc)
		if got := Trust(conf, &s); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	cert, key := writePair(t, dir, "x", 1, ecKey(t))
	k, err := newKeys(Server{CertFile: cert, KeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 { k.checked = time.Time{}; return k.current()[0].Leaf.SerialNumber.Int64() }
	other, otherKey := writePair(t, dir, "y", 2, ecKey(t))
	if err := os.Rename(other, cert); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 1 {
		t.Errorf("a certificate whose key is still the old one is served: %d", got)
	}
	if err := os.Rename(otherKey, key); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("serial %d, want 2: the new certificate is not served", got)
	}
}

func TestChainFiles(t *testing.T) {
	dir := t.TempDir()
	var all []byte
	for i := range 2 {
		cert, key := writePair(t, dir, "c", int64(i+1), ecKey(t))
		kb, _ := os.ReadFile(key)
		cb, _ := os.ReadFile(cert)
		all = append(append(all, kb...), cb...)
	}
	certs, err := chains(all)
	if err != nil || len(certs) != 2 || certs[1].Leaf.SerialNumber.Int64() != 2 {
		t.Error(certs, err)
	}
	if _, err := chains(bytes.TrimSpace(nil)); err == nil {
		t.Error("nothing is no chain")
	}
	if _, err := (Server{CertFile: filepath.Join(dir, "none")}).Config(); err == nil {
		t.Error("a missing file went unseen")
	}
}

func TestVersions(t *testing.T) {
	for in, want := range map[string][2]uint16{
		"":                     {tls.VersionTLS10, tls.VersionTLS13},
		">=TLSv1.2":            {tls.VersionTLS12, tls.VersionTLS13},
		">=TLSv1, <=TLSv1.2":   {tls.VersionTLS10, tls.VersionTLS12},
		"!SSLv2, !SSLv3":       {tls.VersionTLS10, tls.VersionTLS13},
		"!SSLv2 !SSLv3 !TLSv1": {tls.VersionTLS11, tls.VersionTLS13},
		"!TLSv1.3":             {tls.VersionTLS10, tls.VersionTLS12},
		"TLSv1.2, tlsv1.3":     {tls.VersionTLS12, tls.VersionTLS13},
		"SSLv3, TLSv1":         {tls.VersionTLS10, tls.VersionTLS10},
		"SSLv3":                {},
		"=TLSv1":               {},
		"foo":                  {},
		">=TLSv1.3 <=TLSv1.2":  {},
	} {
		lo, hi, err := Versions(in)
		if lo != want[0] || hi != want[1] || (err == nil) != (want[0] != 0) {
			t.Errorf("%q: %x %x %v", in, lo, hi, err)
		}
	}
}
