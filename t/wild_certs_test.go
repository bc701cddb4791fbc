package t

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// certify makes an authority, in ca.pem, and what servers show: "good" for mx.wild.test
// and mx. of every domain, "other" for another name, "expired", "self" without authority,
// "nonsense" that no client can use.
func (n *wild) certify(dir string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(n.t, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	must(n.t, err)
	var b bytes.Buffer
	must(n.t, pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	must(n.t, os.WriteFile(filepath.Join(dir, "ca.pem"), b.Bytes(), 0o644))
	n.certs = map[string]tls.Certificate{"nonsense": {}}
	parsed, err := x509.ParseCertificate(der)
	must(n.t, err)
	words := digests("CA", parsed)
	caDER := der
	for i, name := range []string{"good", "other", "expired", "self"} {
		host, names := "mx.wild.test", []string{"mx.wild.test"}
		if name == "other" {
			host, names = "mx.other.test", []string{"mx.other.test"}
		} else {
			for i := range wildCases {
				names = append(names, "mx."+wildCases[i].domain())
			}
		}
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(n.t, err)
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: host}, DNSNames: names,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		parent, signer := ca, key
		switch name {
		case "expired":
			c.NotAfter = time.Now().Add(-time.Minute)
		case "self":
			parent, signer = c, own
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &own.PublicKey, signer)
		must(n.t, err)
		n.certs[name] = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own}
		if name == "good" {
			sum := sha256.Sum256(der)
			own, err := x509.ParseCertificate(der)
			must(n.t, err)
			words = append(words, digests("GOOD", own)...)
			n.certs["chain"] = tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: n.certs[name].PrivateKey}
			n.fingerprint = strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
		}
	}
	n.keys = strings.NewReplacer(words...)
}

// digests are what a TLSA record may have of a certificate: WHO-CERT-256 and so on.
func digests(who string, cert *x509.Certificate) []string {
	var list []string
	for name, data := range map[string][]byte{"CERT": cert.Raw, "KEY": cert.RawSubjectPublicKeyInfo} {
		list = append(list, who+"-"+name+"-256", fmt.Sprintf("%x", sha256.Sum256(data)), who+"-"+name+"-512", fmt.Sprintf("%x", sha512.Sum512(data)),
			who+"-"+name+"-0", fmt.Sprintf("%x", data))
	}
	return list
}
