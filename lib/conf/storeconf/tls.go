package storeconf

import (
	"crypto/tls"
	"strings"

	"angarium/lib/conf/imapdconf"
	"angarium/lib/tlsconf"
)

// TLS is the configuration that tls_server_cert and its kin ask for; nil where
// there is no certificate.
func TLS(c *imapdconf.Config) (*tls.Config, error) {
	file := func(name string) string {
		if v := c.String(name); v != "disabled" {
			return v
		}
		return ""
	}
	s := tlsconf.Server{
		CertFile: file("tls_server_cert"), KeyFile: file("tls_server_key"),
		CAFile: file("tls_client_ca_file"), CAPath: file("tls_client_ca_dir"),
		Protocols: protocols(c), NoTickets: c.Duration("tls_session_timeout") == 0,
	}
	if s.CertFile == "" {
		return nil, nil
	}
	return s.Config()
}

// protocols is tls_versions in the words of main.cf. Left alone it means TLS 1.2
// and later: the old default has versions that nobody should speak any more.
func protocols(c *imapdconf.Config) string {
	if _, set := c.Raw("tls_versions"); !set {
		return ">=TLSv1.2"
	}
	names := map[string]string{"tls1_0": "TLSv1", "tls1_1": "TLSv1.1", "tls1_2": "TLSv1.2", "tls1_3": "TLSv1.3"}
	var list []string
	for _, v := range c.List("tls_versions") {
		if name, ok := names[strings.TrimSuffix(v, ",")]; ok {
			list = append(list, name)
		}
	}
	if len(list) == 0 { // nothing that we know: no reason to allow everything
		return ">=TLSv1.2"
	}
	return strings.Join(list, ", ")
}
