package t

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
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
			n.fingerprint = strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
		}
	}
}
