package mailsetup

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"embed"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"
	"time"
)

//go:embed files
var files embed.FS

// writeConfiguration makes the folders, the configuration files and, if there
// is none, the certificate.
func (s *setup) writeConfiguration() error {
	if s.Private {
		for _, d := range []string{s.Postfix + "/sasl", s.SSL, s.Spool, s.ImapSpool, s.SocketDir, s.Lib + "/postfix", s.Log} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
	} else if err := os.MkdirAll(s.Postfix+"/sasl", 0o755); err != nil {
		return err
	}
	for name, to := range map[string]string{
		"main.cf":    s.Postfix + "/main.cf",
		"master.cf":  s.Postfix + "/master.cf",
		"smtpd.conf": s.Postfix + "/sasl/smtpd.conf",
		"imapd.conf": s.ImapdConf,
		"cyrus.conf": s.CyrusConf,
	} {
		if err := s.writeFile(name, to, 0o644); err != nil {
			return err
		}
	}
	if _, err := os.Stat(s.Postfix + "/aliases"); errors.Is(err, os.ErrNotExist) {
		if err := s.writeFile("aliases", s.Postfix+"/aliases", 0o644); err != nil {
			return err
		}
	}
	return s.certificate()
}

func (s *setup) writeFile(name, to string, mode os.FileMode) error {
	text, err := s.render(name)
	if err != nil {
		return err
	}
	tmp := to + ".new"
	if err := os.WriteFile(tmp, text, mode); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

func (s *setup) render(name string) ([]byte, error) {
	t, err := template.ParseFS(files, "files/"+name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, s)
	return b.Bytes(), err
}

// certificate makes a self-signed one for the host, good for ten years.
func (s *setup) certificate() error {
	certFile, keyFile := s.SSL+"/cert.pem", s.SSL+"/key.pem"
	if _, err := os.Stat(certFile); err == nil {
		return nil
	}
	if err := os.MkdirAll(s.SSL, 0o755); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	cert := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: s.Hostname},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(10, 0, 0),
		DNSNames:     []string{s.Hostname, "localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:         true,

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// finish builds the alias table, lets postfix make the queue's folders, and
// writes the README.
func (s *setup) finish(ctx context.Context) error {
	for _, cmd := range [][]string{
		{"postalias", "-c", s.Postfix, "hash:" + s.Postfix + "/aliases"},
		{"postfix", "-c", s.Postfix, "check"},
	} {
		out, err := exec.CommandContext(ctx, filepath.Join(s.Bin, cmd[0]), cmd[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", cmd[0], err, bytes.TrimSpace(out))
		}
	}
	if !s.Private {
		return nil
	}
	return s.writeFile("README", s.Readme, 0o600) // passwords stand in it
}
