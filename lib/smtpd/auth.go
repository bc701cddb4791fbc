package smtpd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"

	"angarium/lib/maillog"
	"angarium/lib/sasl"
	"angarium/lib/smtp"
	"angarium/lib/tlsconf"
)

func clientCert(state *tls.ConnectionState) *x509.Certificate {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	return state.PeerCertificates[0]
}

// certText tells of the client's certificate, as Postfix does.
func certText(conf *tls.Config, state *tls.ConnectionState) string {
	cert := clientCert(state)
	switch {
	case conf.ClientAuth == tls.NoClientCert:
		return "No client certificate requested"
	case cert == nil:
		return "Client did not present a certificate"
	}
	verdict := "not verified"
	if tlsconf.Trust(conf, state) == "Trusted" {
		verdict = "verified OK"
	}
	return "Client CN \"" + maillog.Printable(cert.Subject.CommonName) + "\", Issuer \"" + maillog.Printable(cert.Issuer.CommonName) + "\" (" + verdict + ")"
}

// offer are the mechanisms for this client now.
func (s *session) offer(tls bool) []string {
	_, secrets := s.c.Auth.(sasl.SecretVerifier)
	return sasl.Offer{List: s.c.AuthList, Cleartext: tls || s.c.AuthCleartext, Secrets: secrets}.Mechanisms()
}

// AuthAllowed: see smtp.Authenticator.
func (s *session) AuthAllowed(context.Context) smtp.Reply {
	switch {
	case s.c.Auth == nil, s.c.AuthTLSOnly && s.conn.TLS() == nil:
		return smtp.Reply{Code: 503, Status: "5.5.1", Text: "Error: authentication not enabled"}
	case s.over(eventAuth, s.c.Limit.Auth, "AUTH command"):
		return smtp.Reply{Code: 450, Status: "4.7.1", Text: "Error: too many AUTH commands from " + s.peer.address()}
	}
	return smtp.Reply{}
}

// Auth: see smtp.Authenticator.
func (s *session) Auth(_ context.Context, mech string) (smtp.Exchange, smtp.Reply) {
	for _, m := range s.offer(s.conn.TLS() != nil) {
		if !strings.EqualFold(m, mech) {
			continue
		}
		x, err := sasl.NewServer(m, s.c.Auth, sasl.Options{Host: s.c.MyName})
		if err == nil {
			return x, smtp.Reply{}
		}
	}
	why := "no mechanism available"
	for _, m := range s.offer(true) {
		if strings.EqualFold(m, mech) { // but not in clear
			why = "encryption needed to use mechanism"
		}
	}
	if why == "no mechanism available" {
		s.log.Warnf("SASL authentication failure: Couldn't find mech %.100s", maillog.Printable(mech))
	}
	s.log.Warnf("%s: SASL %.100s authentication failed: %s, sasl_username=(unavailable)", s.peer.id(), maillog.Printable(mech), why)
	return nil, smtp.Reply{Code: 535, Status: "5.7.8", Text: "Error: authentication failed: " + why}
}

// AuthDone: see smtp.Authenticator.
func (s *session) AuthDone(_ context.Context, mech string, sx smtp.Exchange, err error) smtp.Reply {
	id, as := "", ""
	if x, ok := sx.(sasl.Server); ok {
		id, as = x.Identity()
	}
	if err == nil && as != "" && as != id {
		err = &sasl.Error{Code: sasl.CodeNoAuthz}
	}
	if err == nil {
		s.saslMethod, s.saslUser = mech, id
		return smtp.Reply{}
	}
	if !errors.Is(err, smtp.ErrAuthAborted) && !errors.Is(err, smtp.ErrAuthEncoding) && !sasl.Refused(err) {
		s.log.Warnf("%s: SASL %s authentication failed: Connection lost to authentication server", s.peer.id(), mech)
		s.log.Warnf("%v", err)
		return smtp.Reply{Code: 454, Status: "4.7.0", Text: "Temporary authentication failure: Connection lost to authentication server"}
	}
	if errors.Is(err, smtp.ErrAuthAborted) {
		s.log.Warnf("%s: SASL %s authentication aborted", s.peer.id(), mech)
		return smtp.Reply{}
	}
	why := "authentication failure"
	var e *sasl.Error
	switch {
	case errors.Is(err, smtp.ErrAuthEncoding):
		why = "another step is needed in authentication"
	case errors.As(err, &e) && e.Code == sasl.CodeBadProt:
		why = "bad protocol / cancel"
	}
	user := as
	if user == "" {
		user = id
	}
	if user == "" {
		user = "(unavailable)"
	}
	if why == "authentication failure" && mech == "PLAIN" { // libsasl says that, too
		what := "Password verification failed"
		if e != nil && e.Code == sasl.CodeNoAuthz {
			what = "Requested identity not authenticated identity"
		}
		s.log.Warnf("SASL authentication failure: %s", what)
	}
	s.log.Warnf("%s: SASL %s authentication failed: %s, sasl_username=%.100s", s.peer.id(), mech, why, maillog.Printable(user))
	return smtp.Reply{Code: 535, Status: "5.7.8", Text: "Error: authentication failed: " + why}
}
