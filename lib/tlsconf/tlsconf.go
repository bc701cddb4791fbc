// Package tlsconf makes TLS configurations from the values of main.cf and
// imapd.conf, and names what was agreed in OpenSSL's words for the log.
//
// Certificates are read once at start and again when their files change, so
// that a renewed one is served without a restart. It does not know which
// service asks.
package tlsconf

import (
	"crypto/tls"
)

// Server are the settings of a listening side.
type Server struct {
	CertFile, KeyFile     string   // PEM; KeyFile "" : in CertFile
	ECCertFile, ECKeyFile string   // a second certificate, tried first
	ChainFiles            []string // smtpd_tls_chain_files: keys and chains; used instead of the above
	CAFile, CAPath        string   // for client certificates
	AskClientCert         bool     // smtpd_tls_ask_ccert
	RequireClientCert     bool     // smtpd_tls_req_ccert
	Protocols             string   // ">=TLSv1.2", "!SSLv2, !SSLv3, !TLSv1"
	NoTickets             bool
}

// Config makes the configuration, or says what is wrong with the files. The
// returned configuration reloads changed files by itself (it looks at most
// once a second, at a handshake).
func (s Server) Config() (*tls.Config, error) { panic("not written yet") }

// Client are the settings of a connecting side.
type Client struct {
	CertFile, KeyFile string
	CAFile, CAPath    string
	Protocols         string
	ServerName        string // SNI
	Verify            bool   // else any certificate is taken (level may, encrypt)
}

// Config makes the configuration.
func (c Client) Config() (*tls.Config, error) { panic("not written yet") }

// Describe is the end of the log line "TLS connection established from x: ",
// "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 ...".
func Describe(state *tls.ConnectionState) string { panic("not written yet") }
