package smtpd

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"angarium/lib/access"
	"angarium/lib/address"
	"angarium/lib/smtp"
	"angarium/lib/tlsconf"
	"angarium/lib/unixsock"
)

// asked is what Attributes tells of: a session, at a command.
type asked struct {
	s    *session
	verb string
}

// Attributes are what a policy server is told, in the order in which Postfix says
// it. subject must come from this package.
func Attributes(subject *access.Subject, context string) []string {
	a, ok := subject.Session.(asked)
	if !ok {
		return nil
	}
	s, p := a.s, a.s.peer
	queueID, recipient, count := "", subject.Recipient, 0
	if s.letter != nil {
		queueID = s.letter.ID()
	}
	to := ""
	switch a.verb {
	case "DATA", "END-OF-MESSAGE":
		if count = s.rcpts; count == 1 {
			to = address.Parse(s.only).String()
		}
	}
	if recipient != nil {
		to = recipient.String()
	}
	from := ""
	if subject.Sender != nil {
		from = subject.Sender.String()
	}
	port := ""
	if p.server.IsValid() {
		port = itoa(int(p.server.Port()))
	}
	server := ""
	if p.server.IsValid() {
		server = p.server.Addr().String()
	}
	sender := s.mail.Auth
	if s.sender == nil || s.saslMethod == "" {
		sender = ""
	}
	stress := ""
	if s.stress {
		stress = "yes"
	}
	list := []string{"request=smtpd_access_policy", "protocol_state=" + a.verb, "protocol_name=" + s.protocol(),
		"client_address=" + p.address(), "client_name=" + p.name, "client_port=" + p.port, "reverse_client_name=" + p.reverse,
		"server_address=" + server, "server_port=" + port, "helo_name=" + s.heloName(), "sender=" + from, "recipient=" + to,
		"recipient_count=" + itoa(count), "queue_id=" + queueID,
		fmt.Sprintf("instance=%x.%x.%x.0", s.log.Number(), s.began.Unix(), s.serial),
		"size=" + strconv.FormatInt(s.size, 10), "etrn_domain=" + subject.Etrn, "stress=" + stress,
		"sasl_method=" + s.saslMethod, "sasl_username=" + s.saslUser, "sasl_sender=" + sender}
	list = append(list, s.tlsAttributes()...)
	list = append(list, "policy_context="+context)
	for i := range list {
		list[i] = strings.Map(func(r rune) rune {
			if r == '\n' || r == 0 {
				return '?'
			}
			return r
		}, list[i])
	}
	return list
}

// tlsAttributes tell of the secure layer.
func (s *session) tlsAttributes() []string {
	var subject, issuer, print, key, version, cipher string
	bits := 0
	if s.conn != nil && s.conn.TLS() != nil {
		state := s.conn.TLS()
		version = tlsconf.Protocol(state)
		cipher, bits = tlsconf.Cipher(state.CipherSuite)
		if cert := clientCert(state); cert != nil {
			subject, issuer = cert.Subject.CommonName, cert.Issuer.CommonName
			print, key = fingerprint(cert.Raw), fingerprint(cert.RawSubjectPublicKeyInfo)
		}
	}
	return []string{"ccert_subject=" + subject, "ccert_issuer=" + issuer, "ccert_fingerprint=" + print, "ccert_pubkey_fingerprint=" + key,
		"encryption_protocol=" + version, "encryption_cipher=" + cipher, "encryption_keysize=" + itoa(bits)}
}

// fingerprint is that of smtpd_tls_fingerprint_digest = sha256.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}

// PolicyConfig is how a policy server is talked to: the settings
// smtpd_policy_service_*, which a restriction may override one by one.
type PolicyConfig struct {
	Timeout       time.Duration // for connecting, and for each request
	MaxIdle       time.Duration // an idle connection is closed after that
	MaxTTL        time.Duration // and any at that age
	RetryDelay    time.Duration
	TryLimit      int
	RequestLimit  int    // requests over one connection; 0: any number
	DefaultAction string // when there is no answer
	Context       string // policy_context
}

// PolicyClient asks policy servers (SMTPD_POLICY_README): an attribute a line, an
// empty line, and an action comes back. Connections are kept for the next request.
// It is safe for concurrent use.
type PolicyClient struct {
	Warn func(format string, args ...any)

	mu   sync.Mutex
	idle map[string][]*policyConn
}

type policyConn struct {
	net.Conn
	r           *bufio.Reader
	since, used time.Time
	requests    int
}

// maxIdlePolicy limits the idle connections to one server.
const maxIdlePolicy = 100

// Ask sends attributes to a server (inet:host:port, unix:path) and returns its
// action, or the default one if it can't be asked.
func (p *PolicyClient) Ask(ctx context.Context, server string, c PolicyConfig, attrs []string) string {
	request := []byte(strings.Join(attrs, "\n") + "\n\n")
	var err error
	for try := 1; ; try++ {
		var action string
		if action, err = p.once(ctx, server, c, request); err == nil {
			return action
		}
		if try > 1 || !errors.Is(err, errStale) {
			p.Warn("problem talking to server %s: %s", strings.TrimPrefix(server, "inet:"), troubleText(err))
		}
		if try >= c.TryLimit || ctx.Err() != nil {
			return c.DefaultAction
		}
		if errors.Is(err, errStale) {
			continue // it hung up while nobody talked
		}
		select {
		case <-time.After(c.RetryDelay):
		case <-ctx.Done():
		}
	}
}

// troubleText is the reason in Postfix' words.
func troubleText(err error) string {
	if errors.Is(err, io.EOF) {
		return "Application error"
	}
	return smtp.ErrorText(err)
}

// errStale: a connection of old was closed by the other side.
var errStale = errors.New("lost connection")

func (p *PolicyClient) once(ctx context.Context, server string, c PolicyConfig, request []byte) (string, error) {
	conn, err := p.get(ctx, server, c)
	if err != nil {
		return "", err
	}
	old := conn.requests > 0
	conn.requests++
	_ = conn.SetDeadline(time.Now().Add(c.Timeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err = conn.Write(request)
	action := ""
	if err == nil {
		action, err = readAction(conn.r)
	}
	switch {
	case err == nil:
		p.put(server, c, conn)
		return action, nil
	case old && !isTimeout(err):
		err = errStale
	}
	_ = conn.Close()
	return "", err
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// readAction reads an answer: lines up to an empty one. An action longer than a
// buffer makes no sense.
func readAction(r *bufio.Reader) (string, error) {
	action, found := "", false
	for range 100 {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return "", err
		}
		text := strings.TrimRight(string(line), "\r\n")
		if text == "" {
			if !found {
				return "", errors.New("malformed reply")
			}
			return action, nil
		}
		if name, value, ok := strings.Cut(text, "="); ok && name == "action" && !found {
			action, found = value, true
		}
	}
	return "", errors.New("malformed reply")
}

func (p *PolicyClient) get(ctx context.Context, server string, c PolicyConfig) (*policyConn, error) {
	now := time.Now()
	p.mu.Lock()
	list := p.idle[server]
	for len(list) > 0 {
		conn := list[len(list)-1]
		list = list[:len(list)-1]
		p.idle[server] = list
		if now.Sub(conn.used) < c.MaxIdle && now.Sub(conn.since) < c.MaxTTL {
			p.mu.Unlock()
			return conn, nil
		}
		_ = conn.Close()
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	kind, where, _ := strings.Cut(server, ":")
	network := map[string]string{"inet": "tcp", "unix": "unix", "local": "unix"}[kind]
	if network == "" {
		return nil, fmt.Errorf("bad policy service endpoint: %q", server)
	}
	conn, err := unixsock.Dial(ctx, network, where)
	if err != nil {
		p.Warn("connect to %s: %s", strings.TrimPrefix(server, "inet:"), troubleText(err))
		return nil, err
	}
	return &policyConn{Conn: conn, r: bufio.NewReader(conn), since: now}, nil
}

func (p *PolicyClient) put(server string, c PolicyConfig, conn *policyConn) {
	conn.used = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.RequestLimit > 0 && conn.requests >= c.RequestLimit || len(p.idle[server]) >= maxIdlePolicy {
		_ = conn.Close()
		return
	}
	if p.idle == nil {
		p.idle = make(map[string][]*policyConn)
	}
	p.idle[server] = append(p.idle[server], conn)
}
