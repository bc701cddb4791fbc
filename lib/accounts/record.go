package accounts

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// record is an account as it lies in the file: lines of a name and a value. A
// line that this version does not know is kept as it is.
type record struct {
	user, realm string
	deleted     bool
	disabled    bool
	verifier    verifier
	secret      string // sealed
	others      []string
}

func (r *record) account() Account {
	return Account{User: r.user, Realm: r.realm, Disabled: r.disabled, Recoverable: r.secret != ""}
}

func (r *record) encode() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "user %s\nrealm %s\n", r.user, r.realm)
	if r.deleted {
		b.WriteString("deleted\n")
		return []byte(b.String())
	}
	b64 := base64.StdEncoding.EncodeToString
	if v := r.verifier; v.salt != nil {
		fmt.Fprintf(&b, "scram-sha-256 %d %s %s %s\n", v.iterations, b64(v.salt), b64(v.stored), b64(v.server))
	}
	if r.secret != "" {
		fmt.Fprintf(&b, "secret %s\n", r.secret)
	}
	if r.disabled {
		b.WriteString("disabled\n")
	}
	for _, o := range r.others {
		b.WriteString(o + "\n")
	}
	return []byte(b.String())
}

func decode(data []byte) (r record, err error) {
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, " ")
		switch name {
		case "user":
			r.user = value
		case "realm":
			r.realm = value
		case "deleted":
			r.deleted = true
		case "disabled":
			r.disabled = true
		case "secret":
			r.secret = value
		case "scram-sha-256":
			if r.verifier, err = decodeVerifier(value); err != nil {
				return r, err
			}
		default:
			r.others = append(r.others, line)
		}
	}
	if r.user == "" {
		return r, fmt.Errorf("record without a user")
	}
	return r, nil
}

func decodeVerifier(s string) (v verifier, err error) {
	f := strings.Fields(s)
	if len(f) != 4 {
		return v, fmt.Errorf("bad verifier")
	}
	// The upper limit keeps a damaged file from stopping a daemon.
	if v.iterations, err = strconv.Atoi(f[0]); err != nil || v.iterations < 1 || v.iterations > 10_000_000 {
		return v, fmt.Errorf("bad verifier")
	}
	for i, p := range []*[]byte{&v.salt, &v.stored, &v.server} {
		if *p, err = base64.StdEncoding.DecodeString(f[i+1]); err != nil || len(*p) == 0 {
			return v, fmt.Errorf("bad verifier")
		}
	}
	return v, nil
}
