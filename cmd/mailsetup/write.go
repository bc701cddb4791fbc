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
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"angarium/lib/cli"
)

//go:embed files
var files embed.FS

// file is a configuration file: the template's name and where it goes.
type file struct{ name, to string }

// configuration are the files whose being there means that there is a server.
func (s *setup) configuration() []file {
	return []file{
		{"main.cf", s.Postfix + "/main.cf"},
		{"master.cf", s.Postfix + "/master.cf"},
		{"smtpd.conf", s.Postfix + "/sasl/smtpd.conf"},
		{"imapd.conf", s.ImapdConf},
		{"cyrus.conf", s.CyrusConf},
	}
}

// writeConfiguration makes the folders and what is missing of the configuration
// files and the certificate. With anew it writes the files that are there, too,
// but neither aliases, which people fill, nor the certificate.
func (s *setup) writeConfiguration(anew bool) error {
	dirs := []string{s.Postfix + "/sasl", s.SSL}
	if s.Private {
		dirs = append(dirs, s.Spool, s.Lib, s.Log)
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, f := range append(s.configuration(), file{"aliases", s.Aliases}) {
		if _, err := os.Lstat(f.to); err == nil && (!anew || f.to == s.Aliases) {
			s.oldAliases = f.to == s.Aliases
			continue
		}
		text, err := s.render(f.name)
		if err == nil {
			err = writeFile(f.to, text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return s.certificate()
}

// writeFile makes the file at once, so that it is never there in part.
func writeFile(to string, text []byte, mode os.FileMode) error {
	if real, err := filepath.EvalSymlinks(to); err == nil {
		to = real // a link to a file kept elsewhere stays one
	}
	tmp := to + ".new"
	os.Remove(tmp)
	if err := os.WriteFile(tmp, text, mode); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

func (s *setup) render(name string) ([]byte, error) {
	t, err := template.New(name).Funcs(template.FuncMap{"sh": shellWord}).ParseFS(files, "files/"+name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, s)
	return b.Bytes(), err
}

// shellWord is s as one word of a command line.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// certificate makes a self-signed one for the host, good for ten years.
func (s *setup) certificate() error {
	certFile, keyFile := s.SSL+"/cert.pem", s.SSL+"/key.pem"
	if _, err := os.Stat(certFile); err == nil {
		return nil
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
	if err := writeFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return writeFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// finish builds the alias table, lets postfix make the queue's folders, and
// writes the README.
func (s *setup) finish(ctx context.Context, c *cli.Cmd) error {
	for _, cmd := range [][]string{
		{"postalias", "-c", s.Postfix, "hash:" + s.Aliases},
		{"postfix", "-c", s.Postfix, "check"},
	} {
		run := exec.CommandContext(ctx, filepath.Join(s.Bin, cmd[0]), cmd[1:]...)
		run.Stderr = c.Stderr // a terminal gets what else is in the log only
		if err := run.Run(); err != nil {
			return fmt.Errorf("%s: %w (see the mail log)", cmd[0], err)
		}
	}
	if !s.Private {
		return nil
	}
	text, err := s.render("README")
	if err != nil {
		return err
	}
	return writeFile(s.Readme, text, 0o600) // passwords stand in it
}
