package tlsconf

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
)

// Trust is the first word of the log line of a server: "Anonymous" without a
// client certificate, else "Trusted" or "Untrusted".
func Trust(conf *tls.Config, state *tls.ConnectionState) string {
	if len(state.PeerCertificates) == 0 {
		return "Anonymous"
	}
	chain := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		chain.AddCert(c)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: conf.ClientCAs, Intermediates: chain,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil || conf.ClientCAs == nil {
		return "Untrusted"
	}
	return "Trusted"
}

// Describe is the end of the log line "TLS connection established from x: ",
// as OpenSSL's names make it in Postfix: "TLSv1.3 with cipher
// TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 ...". server and
// client are the certificates shown; nil: none, or not known. Only TLSv1.3
// tells more than the cipher.
func Describe(state *tls.ConnectionState, server, client *x509.Certificate) string {
	name, bits := Cipher(state.CipherSuite)
	s := fmt.Sprintf("%s with cipher %s (%d/%d bits)", Protocol(state), name, bits, bits)
	if state.Version < tls.VersionTLS13 {
		return s
	}
	if group := groupName(state.CurveID); group != "" {
		s += " key-exchange " + group
	}
	return s + signature("server", server) + signature("client", client)
}

// Protocol is "TLSv1.3".
func Protocol(state *tls.ConnectionState) string {
	for _, v := range versions {
		if v.number == state.Version {
			return v.name
		}
	}
	return "TLS"
}

func groupName(id tls.CurveID) string {
	switch id {
	case 0:
		return ""
	case tls.X25519:
		return "X25519"
	case tls.CurveP256:
		return "ECDHE (prime256v1)"
	case tls.CurveP384:
		return "ECDHE (secp384r1)"
	case tls.CurveP521:
		return "ECDHE (secp521r1)"
	}
	return id.String()
}

// signature names a key and the digest that goes with it.
func signature(side string, cert *x509.Certificate) string {
	if cert == nil {
		return ""
	}
	kind, digest := "", "SHA256"
	switch k := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		kind = fmt.Sprintf("RSA-PSS (%d bits)", k.N.BitLen())
	case ed25519.PublicKey:
		return " " + side + "-signature ED25519"
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			kind = "ECDSA (prime256v1)"
		case elliptic.P384():
			kind, digest = "ECDSA (secp384r1)", "SHA384"
		default:
			kind, digest = "ECDSA (secp521r1)", "SHA512"
		}
	default:
		return ""
	}
	return " " + side + "-signature " + kind + " " + side + "-digest " + digest
}

// Cipher is OpenSSL's name of a cipher suite, and its strength.
func Cipher(id uint16) (name string, bits int) {
	name = tls.CipherSuiteName(id)
	bits = 128
	switch {
	case strings.Contains(name, "_256_") || strings.Contains(name, "CHACHA20"):
		bits = 256
	case strings.Contains(name, "3DES"):
		bits = 112
	}
	kx, rest, ok := strings.Cut(strings.TrimPrefix(name, "TLS_"), "_WITH_")
	if !ok { // TLSv1.3 names are the same everywhere
		return name, bits
	}
	switch {
	case strings.HasPrefix(rest, "CHACHA20"):
		rest = "CHACHA20-POLY1305"
	case strings.HasPrefix(rest, "3DES"):
		rest = "DES-CBC3-SHA"
	case strings.HasPrefix(rest, "RC4"):
		rest = "RC4-SHA"
	default:
		rest = strings.ReplaceAll(strings.Replace(rest, "AES_", "AES", 1), "_CBC", "")
	}
	if kx != "RSA" {
		rest = kx + "-" + rest
	}
	return strings.ReplaceAll(rest, "_", "-"), bits
}

// Short is what Cyrus logs of a session: "TLSv1.3 with cipher
// TLS_AES_128_GCM_SHA256 (128/128 bits new)".
func Short(state *tls.ConnectionState) string {
	kind := "new"
	if state.DidResume {
		kind = "reused"
	}
	name, bits := Cipher(state.CipherSuite)
	return fmt.Sprintf("%s with cipher %s (%d/%d bits %s)", Protocol(state), name, bits, bits, kind)
}
