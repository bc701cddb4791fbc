package qmgr

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"angarium/lib/address"
	"angarium/lib/conf/mailconf"
	"angarium/lib/conf/maincf"
	smtpagent "angarium/lib/deliver/smtp"
	"angarium/lib/dsn"
	"angarium/lib/maps"
	"angarium/lib/sasl"
)

// clientAuth prepares smtp_sasl_auth_enable.
func (d *daemon) clientAuth(c *smtpagent.Config, conf *maincf.Config, p string) error {
	if !conf.Bool(p + "sasl_auth_enable") {
		return nil
	}
	passwords, err := mailconf.Table(conf, p+"sasl_password_maps", d.log)
	if err == nil && passwords == nil {
		err = fmt.Errorf("specify a password table via the `%ssasl_password_maps' configuration parameter", p)
	}
	if err != nil {
		return err
	}
	a := &passwordTable{
		table: passwords, filter: conf.List(p + "sasl_mechanism_filter"), delimiters: conf.String("recipient_delimiter"),
		clear:     allowsClear(conf.List(p + "sasl_security_options")),
		clearTLS:  allowsClear(conf.List(p + "sasl_tls_security_options")),
		clearSure: allowsClear(conf.List(p + "sasl_tls_verified_security_options")),
	}
	if p == "smtp_" && conf.Bool("smtp_sender_dependent_authentication") {
		a.bySender = true
		c.CacheTime = 0 // a connection speaks for one sender
	}
	if conf.String(p+"sasl_auth_cache_name") != "" {
		a.refused = &refusals{soft: conf.Bool(p + "sasl_auth_soft_bounce"), keep: conf.Duration(p + "sasl_auth_cache_time"), list: map[string]refusal{}}
	}
	c.Auth, c.AuthHard = a.login, !conf.Bool(p+"sasl_auth_soft_bounce")
	return nil
}

// allowsClear reports whether security options let a password be sent as it is.
func allowsClear(options []string) bool { return !has(options, "noplaintext") }

// passwordTable is smtp_sasl_password_maps and how it is used.
type passwordTable struct {
	table                      maps.Table
	bySender                   bool
	delimiters                 string
	filter                     []string // smtp_sasl_mechanism_filter
	clear, clearTLS, clearSure bool     // by how safe the connection is
	refused                    *refusals
}

// keys are what the table is asked for, in this order: the sender, where each has
// a password of his own, then the host, then the next hop as it was written.
func (a *passwordTable) keys(at smtpagent.AuthAt) []string {
	var keys []string
	if a.bySender && !at.Sender.IsNull() {
		keys = append(keys, at.Sender.String())
		if user, _, ok := address.SplitExtension(at.Sender.Local, a.delimiters); ok {
			keys = append(keys, address.Address{Local: user, Domain: at.Sender.Domain}.String())
		}
		keys = append(keys, "@"+at.Sender.Domain)
	}
	return append(keys, at.Host, at.NextHop)
}

// login finds the password and picks the best mechanism that both sides know.
func (a *passwordTable) login(ctx context.Context, at smtpagent.AuthAt) (smtpagent.Login, error) {
	for _, key := range a.keys(at) {
		v, ok, err := a.table.Lookup(ctx, strings.ToLower(key))
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		user, password, _ := strings.Cut(v, ":")
		return a.choose(at, sasl.Credentials{User: user, Password: password})
	}
	return nil, nil
}

func (a *passwordTable) choose(at smtpagent.AuthAt, c sasl.Credentials) (smtpagent.Login, error) {
	offered := slices.DeleteFunc(slices.Clone(at.Offered), func(m string) bool { return len(a.filter) > 0 && !listed(a.filter, m) })
	if len(offered) == 0 {
		return nil, smtpagent.ErrNoMechanism
	}
	key := strings.Join([]string{at.Host, c.User, c.Password}, "\x00")
	if err := a.refused.find(key, at.Host); err != nil {
		return nil, err
	}
	clear := a.clear
	switch {
	case at.Verified:
		clear = a.clearSure
	case at.TLS:
		clear = a.clearTLS
	}
	mech := sasl.Choose(offered, clear)
	if mech == "" {
		return nil, smtpagent.ErrNoWorthy
	}
	cl, err := sasl.NewClient(mech, c)
	if err != nil {
		return nil, err
	}
	return &login{cl, mech, key, a.refused}, nil
}

// listed matches a word against a list in which "!" takes words out.
func listed(list []string, word string) bool {
	for _, w := range list {
		w, not := strings.CutPrefix(w, "!")
		if strings.EqualFold(w, word) || w == "static:all" {
			return !not
		}
	}
	return false
}

// login is one that is under way.
type login struct {
	sasl.Client
	mech, key string
	refused   *refusals
}

func (l *login) Start() (string, []byte, error) {
	b, err := l.Client.Start()
	return l.mech, b, err
}

// Refused remembers a wrong password.
func (l *login) Refused(err *dsn.Error) {
	if err.Reply == 535 {
		l.refused.add(l.key, err)
	}
}

// refusals is smtp_sasl_auth_cache_name: what servers said to passwords, so that
// they do not lock us out for asking again and again. It is in memory: a restart,
// like a new password, is a reason to try.
type refusals struct {
	soft bool
	keep time.Duration

	mu   sync.Mutex
	list map[string]refusal
}

type refusal struct {
	until time.Time
	err   *dsn.Error
}

// maxRefusals bounds the memory of them.
const maxRefusals = 10000

func (r *refusals) add(key string, err *dsn.Error) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) >= maxRefusals {
		clear(r.list)
	}
	r.list[key] = refusal{time.Now().Add(r.keep), err}
}

func (r *refusals) find(key, host string) error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	x, ok := r.list[key]
	if !ok {
		return nil
	}
	if time.Now().After(x.until) {
		delete(r.list, key)
		return nil
	}
	e := *x.err
	if e.Text = "SASL [CACHED] authentication failed; server " + host + " said: "; e.Remote != nil {
		e.Text += e.Remote.Reply
	}
	return &e
}
