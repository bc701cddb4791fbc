// Package tlsconf makes TLS configurations from the values of main.cf and
// imapd.conf, and names what was agreed in OpenSSL's words for the log.
//
// Certificates are read once at start and again when their files change, so
// that a renewed one is served without a restart; while the new files do not
// fit together (key and certificate are rarely replaced in one instant) the old
// ones stay. It does not know which service asks.
package tlsconf

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Server are the settings of a listening side.
type Server struct {
	CertFile, KeyFile     string   // PEM; KeyFile "": in CertFile
	ECCertFile, ECKeyFile string   // a second certificate, preferred by who knows its kind
	ChainFiles            []string // smtpd_tls_chain_files: keys and chains; used instead of the above
	CAFile, CAPath        string   // for client certificates
	AskClientCert         bool     // smtpd_tls_ask_ccert
	RequireClientCert     bool     // smtpd_tls_req_ccert
	Protocols             string   // ">=TLSv1.2", "!SSLv2, !SSLv3, !TLSv1"
	NoTickets             bool     // no resumption
	// Open opens a file; nil: os.Open. A daemon without rights asks its parent.
	Open func(name string) (*os.File, error)
}

// Config makes the configuration, or says what is wrong with the files. It
// looks at most once a second, at a handshake, whether the files changed.
func (s Server) Config() (*tls.Config, error) {
	k, err := newKeys(s)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{GetCertificate: k.choose, SessionTicketsDisabled: s.NoTickets}
	if c.MinVersion, c.MaxVersion, err = Versions(s.Protocols); err != nil {
		return nil, err
	}
	if s.AskClientCert || s.RequireClientCert {
		if c.ClientCAs, err = pool(s.CAFile, s.CAPath, s.open); err != nil {
			return nil, err
		}
		c.ClientAuth = tls.RequestClientCert
		if s.RequireClientCert {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	return c, nil
}

func (s Server) open(name string) (*os.File, error) {
	if s.Open != nil {
		return s.Open(name)
	}
	return os.Open(name)
}

// Client are the settings of a connecting side.
type Client struct {
	CertFile, KeyFile string
	CAFile, CAPath    string
	Protocols         string
	ServerName        string // SNI, and the name to verify
	Verify            bool   // else any certificate is taken (levels may, encrypt)
}

// Config makes the configuration.
func (c Client) Config() (*tls.Config, error) {
	conf := &tls.Config{ServerName: c.ServerName, InsecureSkipVerify: !c.Verify}
	var err error
	if conf.MinVersion, conf.MaxVersion, err = Versions(c.Protocols); err != nil {
		return nil, err
	}
	if c.CAFile != "" || c.CAPath != "" {
		if conf.RootCAs, err = pool(c.CAFile, c.CAPath, os.Open); err != nil {
			return nil, err
		}
	}
	if c.CertFile != "" {
		cert, _, err := loadPair(c.CertFile, c.KeyFile, os.Open)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{*cert}
	}
	return conf, nil
}

var versions = []struct {
	name   string
	number uint16
}{{"SSLv2", 0x0200}, {"SSLv3", 0x0300}, {"TLSv1", tls.VersionTLS10}, {"TLSv1.1", tls.VersionTLS11}, {"TLSv1.2", tls.VersionTLS12}, {"TLSv1.3", tls.VersionTLS13}}

// Versions reads smtpd_tls_protocols and its like: bounds (">=TLSv1.2",
// "<=TLSv1.3"), exclusions ("!SSLv2, !SSLv3") or a list of names. The range must
// have no holes; what is older than TLSv1 is never spoken. Empty: TLSv1 and up.
func Versions(s string) (lowest, highest uint16, err error) {
	lowest, highest = tls.VersionTLS10, tls.VersionTLS13
	var named, excluded []uint16
	for _, word := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" \t\r\n,:", r) }) {
		op := word[:len(word)-len(strings.TrimLeft(word, "<>=!"))]
		n, ok := version(word[len(op):])
		if !ok {
			return 0, 0, fmt.Errorf("invalid TLS protocol list: %q", s)
		}
		switch op {
		case ">=":
			lowest = max(lowest, n)
		case "<=":
			highest = min(highest, n)
		case "!":
			excluded = append(excluded, n)
		case "":
			named = append(named, n)
		default:
			return 0, 0, fmt.Errorf("invalid TLS protocol list: %q", s)
		}
	}
	if len(named) > 0 {
		lo, hi := named[0], named[0]
		for _, n := range named {
			lo, hi = min(lo, n), max(hi, n)
		}
		lowest, highest = max(lowest, lo), min(highest, hi)
	}
	out := func(n uint16) bool {
		for _, e := range excluded {
			if e == n {
				return true
			}
		}
		return false
	}
	for lowest <= highest && out(lowest) {
		lowest++
	}
	for highest >= lowest && out(highest) {
		highest--
	}
	if lowest > highest {
		return 0, 0, fmt.Errorf("no TLS protocol is left of %q", s)
	}
	return lowest, highest, nil
}

func version(name string) (uint16, bool) {
	for _, v := range versions {
		if strings.EqualFold(v.name, name) {
			return v.number, true
		}
	}
	return 0, false
}

// pool reads CA certificates: a file, and every file of a directory. Neither
// set: the system's.
func pool(file, dir string, open func(string) (*os.File, error)) (*x509.CertPool, error) {
	if file == "" && dir == "" {
		return x509.SystemCertPool()
	}
	p := x509.NewCertPool()
	if file != "" {
		b, err := read(file, open)
		if err != nil {
			return nil, err
		}
		if !p.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("no certificate in %s", file)
		}
	}
	if dir != "" {
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if b, err := read(name, open); err == nil {
				p.AppendCertsFromPEM(b)
			}
		}
	}
	return p, nil
}

func read(name string, open func(string) (*os.File, error)) ([]byte, error) {
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4<<20))
}

// keys are the certificates in use, best first.
type keys struct {
	s       Server
	mu      sync.Mutex
	certs   []*tls.Certificate
	stamp   string    // sizes and times of the files
	checked time.Time // when they were looked at
}

func newKeys(s Server) (*keys, error) {
	k := &keys{s: s, checked: time.Now()}
	k.stamp = k.look()
	var err error
	k.certs, err = k.load()
	return k, err
}

func (k *keys) files() []string {
	if len(k.s.ChainFiles) > 0 {
		return k.s.ChainFiles
	}
	var out []string
	for _, f := range []string{k.s.CertFile, k.s.KeyFile, k.s.ECCertFile, k.s.ECKeyFile} {
		if f != "" {
			out = append(out, f)
		}
	}
	return out
}

func (k *keys) look() string {
	var b strings.Builder
	for _, name := range k.files() {
		if fi, err := os.Stat(name); err == nil {
			var ino uint64 // times are coarse, and renewing renames
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				ino = st.Ino
			}
			fmt.Fprintf(&b, "%d %d %d;", ino, fi.Size(), fi.ModTime().UnixNano())
		}
	}
	return b.String()
}

func (k *keys) load() ([]*tls.Certificate, error) {
	var certs []*tls.Certificate
	if len(k.s.ChainFiles) > 0 {
		var all []byte
		for _, name := range k.s.ChainFiles {
			b, err := read(name, k.s.open)
			if err != nil {
				return nil, err
			}
			all = append(append(all, b...), '\n')
		}
		return chains(all)
	}
	for _, p := range [][2]string{{k.s.ECCertFile, k.s.ECKeyFile}, {k.s.CertFile, k.s.KeyFile}} {
		if p[0] == "" {
			continue
		}
		cert, _, err := loadPair(p[0], p[1], k.s.open)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate is configured")
	}
	return certs, nil
}

func loadPair(certFile, keyFile string, open func(string) (*os.File, error)) (*tls.Certificate, []byte, error) {
	if keyFile == "" {
		keyFile = certFile
	}
	certPEM, err := read(certFile, open)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err := read(keyFile, open)
	if err != nil {
		return nil, nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot get RSA certificate from file %q: %w", certFile, err)
	}
	return &cert, certPEM, nil
}

// chains parts a file of keys, each followed by its chain.
func chains(all []byte) ([]*tls.Certificate, error) {
	var out []*tls.Certificate
	var key, certs []byte
	end := func() error {
		if key == nil && certs == nil {
			return nil
		}
		c, err := tls.X509KeyPair(certs, key)
		if err != nil {
			return err
		}
		out, key, certs = append(out, &c), nil, nil
		return nil
	}
	for {
		var b *pem.Block
		if b, all = pem.Decode(all); b == nil {
			break
		}
		if b.Type == "CERTIFICATE" {
			certs = append(certs, pem.EncodeToMemory(b)...)
			continue
		}
		if strings.HasSuffix(b.Type, "PRIVATE KEY") {
			if err := end(); err != nil {
				return nil, err
			}
			key = pem.EncodeToMemory(b)
		}
	}
	if err := end(); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, errors.New("no key and certificate in chain files")
	}
	return out, nil
}

// choose is tls.Config.GetCertificate.
func (k *keys) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certs := k.current()
	best := certs[len(certs)-1]
	if len(certs) > 1 {
		for _, c := range certs {
			if hello.SupportsCertificate(c) == nil {
				best = c
				break
			}
		}
	}
	if n, ok := hello.Context().Value(noteKey{}).(*Note); ok {
		n.Leaf = best.Leaf
	}
	return best, nil
}

func (k *keys) current() []*tls.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := time.Now(); now.Sub(k.checked) > time.Second {
		k.checked = now
		if stamp := k.look(); stamp != k.stamp {
			if certs, err := k.load(); err == nil {
				k.certs, k.stamp = certs, stamp
			}
		}
	}
	return k.certs
}

// Note is filled during a handshake with what the connection's state does not
// tell.
type Note struct {
	Leaf *x509.Certificate // ours, the one that was shown
}

type noteKey struct{}

// WithNote returns a context for HandshakeContext that fills n.
func WithNote(ctx context.Context, n *Note) context.Context {
	return context.WithValue(ctx, noteKey{}, n)
}
