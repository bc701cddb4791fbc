// Package sasl holds the mechanisms by which a client proves who it is (RFC
// 4422): PLAIN, LOGIN, CRAM-MD5, SCRAM-SHA-256, SCRAM-SHA-1 and EXTERNAL for
// servers, PLAIN, LOGIN and CRAM-MD5 for clients.
//
// It knows mechanisms, not users: whoever asks brings a Verifier (lib/accounts
// is one). It does not know which protocol is asking, so base64, the cancelling
// "*", initial responses on the command line and limits on line length are the
// protocol's business; what arrives here are octets.
//
// It promises that a failure does not say which half of a name and password was
// wrong, and that a mechanism which sends the password itself is marked
// Cleartext, so that services offer it under TLS only unless told otherwise.
package sasl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Result codes of the SASL library that old log lines show in parentheses.
const (
	CodeFail     = -1  // a failure of ours: try again later
	CodeNoMech   = -4  // mechanism not available
	CodeBadProt  = -5  // the client broke the rules of the mechanism
	CodeBadAuth  = -13 // wrong name or password
	CodeNoAuthz  = -14 // may not act as somebody else
	CodeTooWeak  = -15 // mechanism too weak for this user
	CodeNoUser   = -20 // no such user, or no secret of the needed kind
	CodeDisabled = -22 // account disabled
)

// Error is why a client was not let in. Its text is for the log: what the
// client may read is the protocol's one sentence for all of them.
type Error struct {
	Code int
	What string // "user not found"; "": what the code means
	Text string // "checkpass failed"
	Err  error  // the cause, where it is ours
}

// Error has the form that log readers know:
// "SASL(-13): authentication failure: checkpass failed".
func (e *Error) Error() string {
	what := e.What
	if what == "" {
		what = codeText(e.Code)
	}
	s := fmt.Sprintf("SASL(%d): %s", e.Code, what)
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

func codeText(code int) string {
	switch code {
	case CodeNoMech:
		return "no mechanism available"
	case CodeBadProt:
		return "bad protocol / cancel"
	case CodeBadAuth:
		return "authentication failure"
	case CodeNoAuthz:
		return "authorization failure"
	case CodeTooWeak:
		return "mechanism too weak for this user"
	case CodeNoUser:
		return "user not found"
	case CodeDisabled:
		return "account disabled"
	}
	return "generic failure"
}

// Refused reports whether err says that the client has no right to come in. Any
// other error is trouble of ours (a file that can't be read), and the client
// should be told to try again, not that its password is wrong.
func Refused(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code != CodeFail
}

// Verifier knows users and passwords. user is as the client gave it; id is the
// account's one canonical name. An *Error other than CodeFail refuses.
type Verifier interface {
	Verify(ctx context.Context, user, password string) (id string, err error)
}

// Namer is a Verifier that brings a name into the form in which Verify gives
// ids, whether or not there is such an account; "" is for what can't be one.
type Namer interface{ Name(user string) string }

// SecretVerifier is a Verifier that can also give back the password itself,
// which CRAM-MD5 and APOP need.
type SecretVerifier interface {
	Verifier
	Secret(ctx context.Context, user string) (secret, id string, err error)
}

// ScramVerifier is a Verifier that keeps what SCRAM needs (RFC 5802, 3). It
// answers for unknown users too, with made-up keys and id "".
type ScramVerifier interface {
	Verifier
	Scram(ctx context.Context, hash, user string) (keys ScramKeys, id string, err error)
}

// ScramKeys are a verifier of RFC 5802.
type ScramKeys struct {
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// Options are what a mechanism needs to know of the connection.
type Options struct {
	Host     string // our name, in the challenge of CRAM-MD5
	External string // who the TLS certificate says the client is; EXTERNAL
}

// Server is our side of one attempt.
type Server interface {
	// Next takes the client's response and gives the next challenge, or done.
	// The first response is nil if the client sent none with its command, and
	// not nil but empty if it sent an empty one. When done, a challenge that is
	// not nil is data for the client to be sent before success is announced; a
	// protocol with no place for that sends it as one more challenge and expects
	// an empty response.
	Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error)

	// Identity is who the client proved to be, in canonical form, and as whom it
	// wants to act ("" or the same: as itself). Before success authcid is the
	// name it claimed, for the log. Whether authcid may act as authzid is for
	// the caller to decide.
	Identity() (authcid, authzid string)
}

// Mechanism describes one.
type Mechanism struct {
	Name      string
	Cleartext bool // sends the password itself: only under TLS
	Secret    bool // needs recoverable passwords: a SecretVerifier
	External  bool // needs a client certificate
}

// all is in the order of preference in which they are offered.
func all() []Mechanism {
	return []Mechanism{
		{Name: "EXTERNAL", External: true},
		{Name: "SCRAM-SHA-256"},
		{Name: "SCRAM-SHA-1"},
		{Name: "CRAM-MD5", Secret: true},
		{Name: "PLAIN", Cleartext: true},
		{Name: "LOGIN", Cleartext: true},
	}
}

// Lookup finds a mechanism by its name, in any case.
func Lookup(name string) (Mechanism, bool) {
	for _, m := range all() {
		if strings.EqualFold(m.Name, name) {
			return m, true
		}
	}
	return Mechanism{}, false
}

// Offer says under which conditions mechanisms are offered.
type Offer struct {
	List      []string // sasl_mech_list or smtpd's mech_list; empty: all that work
	Cleartext bool     // the connection is encrypted, or clear text was configured
	Secrets   bool     // the user database has recoverable passwords
	Scram     []string // hashes that the user database has: "SCRAM-SHA-256"
	External  bool     // the client showed a certificate that names someone
}

// Mechanisms lists what to offer, in the order of the list, else in ours. With
// no list CRAM-MD5 is offered only if the database can serve it.
func (o Offer) Mechanisms() []string {
	var names []string
	add := func(m Mechanism) {
		switch {
		case m.Cleartext && !o.Cleartext,
			m.External && !o.External,
			m.Secret && !o.Secrets,
			strings.HasPrefix(m.Name, "SCRAM-") && !slices.Contains(o.Scram, m.Name),
			slices.Contains(names, m.Name):
			return
		}
		names = append(names, m.Name)
	}
	if len(o.List) == 0 {
		for _, m := range all() {
			add(m)
		}
		return names
	}
	for _, name := range o.List {
		if m, ok := Lookup(name); ok {
			add(m)
		}
	}
	return names
}

// NewServer begins an attempt. It knows the mechanism or returns an *Error with
// CodeNoMech; whether it was offered is for the caller to check.
func NewServer(mech string, v Verifier, opt Options) (Server, error) {
	switch strings.ToUpper(mech) {
	case "PLAIN":
		return &plainServer{v: v}, nil
	case "LOGIN":
		return &loginServer{v: v}, nil
	case "CRAM-MD5":
		if sv, ok := v.(SecretVerifier); ok {
			return &cramServer{v: sv, host: opt.Host}, nil
		}
	case "SCRAM-SHA-256", "SCRAM-SHA-1":
		if sv, ok := v.(ScramVerifier); ok {
			return newScramServer(strings.ToUpper(mech), sv), nil
		}
	case "EXTERNAL":
		if opt.External != "" {
			return &externalServer{id: opt.External}, nil
		}
	}
	return nil, &Error{Code: CodeNoMech, Text: "No worthy mechs found"}
}

// Client is the other side: we log in somewhere.
type Client interface {
	// Start gives the initial response, nil if the mechanism has none.
	Start() (initial []byte, err error)
	// Next answers a challenge.
	Next(challenge []byte) (response []byte, err error)
}

// Credentials are what a client logs in with.
type Credentials struct {
	Authzid  string // usually empty
	User     string
	Password string
}

// NewClient takes the mechanism to use; see Choose.
func NewClient(mech string, c Credentials) (Client, error) {
	switch strings.ToUpper(mech) {
	case "PLAIN":
		return &plainClient{c}, nil
	case "LOGIN":
		return &loginClient{c: c}, nil
	case "CRAM-MD5":
		return &cramClient{c}, nil
	}
	return nil, &Error{Code: CodeNoMech, Text: mech}
}

// Choose takes the best mechanism that both sides have, "" if there is none.
// Without cleartext the password itself is not sent.
func Choose(offered []string, cleartext bool) string {
	has := func(name string) bool {
		return slices.ContainsFunc(offered, func(o string) bool { return strings.EqualFold(o, name) })
	}
	for _, name := range []string{"CRAM-MD5", "PLAIN", "LOGIN"} {
		if m, _ := Lookup(name); has(name) && (cleartext || !m.Cleartext) {
			return name
		}
	}
	return ""
}
