package sasl

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"hash"
	"strconv"
	"strings"
)

// scramServer is RFC 5802 (SCRAM-SHA-1) and RFC 7677 (SCRAM-SHA-256), without
// channel binding.
type scramServer struct {
	v                ScramVerifier
	mech             string
	hash             func() hash.Hash
	step             int
	authcid, authzid string
	id               string
	keys             ScramKeys
	gs2              string // header, for the check of c=
	nonce            string
	auth             bytes.Buffer // AuthMessage
}

func newScramServer(mech string, v ScramVerifier) *scramServer {
	s := &scramServer{v: v, mech: mech, hash: sha256.New}
	if mech == "SCRAM-SHA-1" {
		s.hash = sha1.New
	}
	return s
}

func (s *scramServer) Identity() (string, string) { return s.authcid, s.authzid }

func (s *scramServer) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	if response == nil && s.step == 0 {
		return []byte{}, false, nil
	}
	if len(response) > maxResponse {
		return nil, true, badProtocol("response too long")
	}
	s.step++
	switch s.step {
	case 1:
		challenge, err := s.first(ctx, string(response))
		return challenge, err != nil, err
	case 2:
		challenge, err := s.final(string(response))
		return challenge, true, err
	}
	return nil, true, badProtocol("unexpected response")
}

// first takes client-first-message and gives server-first-message.
func (s *scramServer) first(ctx context.Context, msg string) ([]byte, error) {
	flag, rest, ok1 := strings.Cut(msg, ",")
	authzid, bare, ok2 := strings.Cut(rest, ",")
	if !ok1 || !ok2 || flag != "n" && flag != "y" {
		return nil, badProtocol("bad client-first-message")
	}
	s.gs2 = msg[:len(msg)-len(bare)]
	if authzid != "" {
		name, ok := strings.CutPrefix(authzid, "a=")
		if s.authzid, ok2 = saslname(name); !ok || !ok2 {
			return nil, badProtocol("bad authorization name")
		}
	}
	user, rest, ok1 := strings.Cut(bare, ",")
	nonce, _, _ := strings.Cut(rest, ",")
	user, ok2 = strings.CutPrefix(user, "n=")
	nonce, ok3 := strings.CutPrefix(nonce, "r=")
	if !ok1 || !ok2 || !ok3 || nonce == "" {
		return nil, badProtocol("bad client-first-message")
	}
	if s.authcid, ok1 = saslname(user); !ok1 || s.authcid == "" {
		return nil, badProtocol("bad authentication name")
	}
	keys, id, err := s.v.Scram(ctx, s.mech, s.authcid)
	if err != nil {
		return nil, err
	}
	s.keys, s.id = keys, id
	s.nonce = nonce + rand.Text()
	reply := "r=" + s.nonce + ",s=" + base64.StdEncoding.EncodeToString(keys.Salt) + ",i=" + strconv.Itoa(keys.Iterations)
	s.auth.WriteString(bare + "," + reply + ",")
	return []byte(reply), nil
}

// final takes client-final-message and gives server-final-message.
func (s *scramServer) final(msg string) ([]byte, error) {
	without, proof64, ok := strings.Cut(msg, ",p=")
	binding, nonce, ok1 := strings.Cut(without, ",")
	nonce, _, _ = strings.Cut(nonce, ",")
	proof, err := base64.StdEncoding.DecodeString(proof64)
	size := s.hash().Size()
	if !ok || !ok1 || err != nil || len(proof) != size || len(s.keys.StoredKey) != size {
		return nil, badProtocol("bad client-final-message")
	}
	if binding != "c="+base64.StdEncoding.EncodeToString([]byte(s.gs2)) || nonce != "r="+s.nonce {
		return nil, badProtocol("nonce or channel binding differs")
	}
	s.auth.WriteString(without)
	signature := s.mac(s.keys.StoredKey)
	key := make([]byte, size)
	subtle.XORBytes(key, proof, signature)
	h := s.hash()
	h.Write(key)
	if !hmac.Equal(h.Sum(nil), s.keys.StoredKey) || s.id == "" {
		return nil, &Error{Code: CodeBadAuth, Text: "incorrect client proof"}
	}
	if s.authzid, err = actAs(s.v, s.authzid, s.authcid, s.id); err != nil {
		return nil, err
	}
	s.authcid = s.id
	return []byte("v=" + base64.StdEncoding.EncodeToString(s.mac(s.keys.ServerKey))), nil
}

func (s *scramServer) mac(key []byte) []byte {
	m := hmac.New(s.hash, key)
	m.Write(s.auth.Bytes())
	return m.Sum(nil)
}

// saslname undoes =2C and =3D (RFC 5802, 5.1).
func saslname(s string) (string, bool) {
	if strings.ContainsRune(s, 0) {
		return "", false
	}
	var b strings.Builder
	for {
		plain, rest, ok := strings.Cut(s, "=")
		b.WriteString(plain)
		switch {
		case !ok:
			return b.String(), true
		case strings.HasPrefix(rest, "2C"):
			b.WriteByte(',')
		case strings.HasPrefix(rest, "3D"):
			b.WriteByte('=')
		default:
			return "", false
		}
		s = rest[2:]
	}
}
