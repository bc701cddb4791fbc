package sasl

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"
)

// maxResponse is more than any honest response has.
const maxResponse = 4096

func badProtocol(text string) error { return &Error{Code: CodeBadProt, Text: text} }

// plainServer is RFC 4616.
type plainServer struct {
	v                Verifier
	authcid, authzid string
}

func (s *plainServer) Identity() (string, string) { return s.authcid, s.authzid }

func (s *plainServer) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	if len(response) > maxResponse {
		return nil, true, badProtocol("response too long")
	}
	authzid, rest, ok1 := bytes.Cut(response, []byte{0})
	authcid, password, ok2 := bytes.Cut(rest, []byte{0})
	if !ok1 || !ok2 || len(authcid) == 0 || bytes.IndexByte(password, 0) >= 0 {
		return nil, true, badProtocol("Can only find author (no password)")
	}
	s.authcid, s.authzid = string(authcid), string(authzid)
	id, err := s.v.Verify(ctx, s.authcid, string(password))
	if err != nil {
		return nil, true, err
	}
	if s.authzid, err = actAs(s.v, s.authzid, s.authcid, id); err != nil {
		return nil, true, err
	}
	s.authcid = id
	return nil, true, nil
}

// actAs brings the name as whom a client wants to act into the form of ids, so
// that "Bob" is not another than "bob". said is how the client called itself.
func actAs(v Verifier, authzid, said, id string) (string, error) {
	n, ok := v.(Namer)
	switch {
	case authzid == "":
		return "", nil
	case authzid == said:
		return id, nil
	case !ok:
		return authzid, nil
	}
	if authzid = n.Name(authzid); authzid == "" {
		return "", &Error{Code: CodeNoAuthz, Text: "bad authorization name"}
	}
	return authzid, nil
}

// loginServer is the mechanism that was never more than a draft
// (draft-murchison-sasl-login): two questions, two answers.
type loginServer struct {
	v    Verifier
	user string
	step int
}

func (s *loginServer) Identity() (string, string) { return s.user, "" }

func (s *loginServer) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	if len(response) > maxResponse {
		return nil, true, badProtocol("response too long")
	}
	if response == nil && s.step == 0 {
		return []byte("Username:"), false, nil
	}
	s.step++
	if s.step == 1 { // also as an initial response, which some clients send
		s.user = string(bytes.TrimSuffix(response, []byte{0}))
		return []byte("Password:"), false, nil
	}
	id, err := s.v.Verify(ctx, s.user, string(bytes.TrimSuffix(response, []byte{0})))
	if err != nil {
		return nil, true, err
	}
	s.user = id
	return nil, true, nil
}

// cramServer is RFC 2195.
type cramServer struct {
	v         SecretVerifier
	host      string
	challenge []byte
	user      string
}

func (s *cramServer) Identity() (string, string) { return s.user, "" }

func (s *cramServer) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	if s.challenge == nil {
		if len(response) > 0 {
			return nil, true, badProtocol("CRAM-MD5 does not allow for initial client data")
		}
		s.challenge = []byte(Stamp(s.host))
		return s.challenge, false, nil
	}
	if len(response) > maxResponse {
		return nil, true, badProtocol("response too long")
	}
	// The name may contain blanks, the digest can't.
	i := bytes.LastIndexByte(response, ' ')
	if i <= 0 {
		return nil, true, badProtocol("need authentication name")
	}
	s.user = string(response[:i])
	secret, id, err := s.v.Secret(ctx, s.user)
	if err != nil && !Refused(err) {
		return nil, true, err
	}
	// The digest is computed in any case: an unknown user takes as long.
	want := CRAM(secret, s.challenge)
	if !hmac.Equal([]byte(want), response[i+1:]) || err != nil {
		if err == nil {
			err = &Error{Code: CodeBadAuth, Text: "incorrect digest response"}
		}
		return nil, true, err
	}
	s.user = id
	return nil, true, nil
}

// CRAM is the digest of RFC 2195, 2: the keyed MD5 of the challenge in hex.
func CRAM(secret string, challenge []byte) string {
	h := hmac.New(md5.New, []byte(secret))
	h.Write(challenge)
	return hex.EncodeToString(h.Sum(nil))
}

// Stamp makes a challenge that never was and never will be given again, in the
// shape of a message id. It serves CRAM-MD5 and the greeting of POP3's APOP.
func Stamp(host string) string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return fmt.Sprintf("<%d.%d@%s>", uint64(b[0])<<56|uint64(b[1])<<48|uint64(b[2])<<40|uint64(b[3])<<32|
		uint64(b[4])<<24|uint64(b[5])<<16|uint64(b[6])<<8|uint64(b[7]), time.Now().Unix(), host)
}

// externalServer is RFC 4422, appendix A: the certificate has said it all.
type externalServer struct{ id, authzid string }

func (s *externalServer) Identity() (string, string) { return s.id, s.authzid }

func (s *externalServer) Next(_ context.Context, response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	if len(response) > maxResponse || bytes.IndexByte(response, 0) >= 0 {
		return nil, true, badProtocol("bad authorization name")
	}
	s.authzid = string(response)
	return nil, true, nil
}
