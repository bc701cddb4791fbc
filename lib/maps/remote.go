package maps

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"angarium/lib/unixsock"
)

// maxReply bounds an answer of another process, in octets.
const maxReply = 100_000

// maxIdle is how many connections to one server wait for the next question.
const maxIdle = 4

// pool keeps a few connections to one server.
type pool struct {
	network, address string
	timeout          time.Duration

	mu   sync.Mutex
	idle []*conn
}

type conn struct {
	net.Conn
	r *bufio.Reader
}

// ask does one exchange. A kept connection that turns out to be dead is
// replaced once by a new one.
func (p *pool) ask(ctx context.Context, f func(*conn) error) error {
	for {
		c, kept, err := p.get(ctx)
		if err != nil {
			return err
		}
		deadline := time.Now().Add(p.timeout)
		if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
			deadline = d
		}
		c.SetDeadline(deadline)
		if err = f(c); err == nil {
			p.put(c)
			return nil
		}
		c.Close()
		if !kept {
			return err
		}
	}
}

func (p *pool) get(ctx context.Context) (c *conn, kept bool, err error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c, p.idle = p.idle[n-1], p.idle[:n-1]
		p.mu.Unlock()
		return c, true, nil
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	nc, err := unixsock.Dial(ctx, p.network, p.address)
	if err != nil {
		return nil, false, err
	}
	return &conn{nc, bufio.NewReaderSize(nc, 512)}, false, nil
}

func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) >= maxIdle {
		c.Close()
		return
	}
	p.idle = append(p.idle, c)
}

// socketmap asks a server in Sendmail's socketmap protocol: netstrings of
// "name key", answered by "OK value", "NOTFOUND ", "TEMP why", "TIMEOUT why" or
// "PERM why". See socketmap_table(5).
type socketmap struct {
	pool pool
	name string
	opt  Options
}

func newSocketmap(spec string, o Options) (Table, error) {
	network, rest, ok := strings.Cut(spec, ":")
	i := strings.LastIndexByte(rest, ':')
	if !ok || i <= 0 || i+1 == len(rest) || network != "unix" && network != "inet" {
		return nil, fmt.Errorf("bad socketmap syntax: %q; need \"inet:host:port:name\" or \"unix:pathname:name\"", spec)
	}
	if network == "inet" {
		network = "tcp"
	}
	return &socketmap{pool: pool{network: network, address: rest[:i], timeout: o.timeout()}, name: rest[i+1:], opt: o}, nil
}

func (t *socketmap) Lookup(ctx context.Context, key string) (string, bool, error) {
	var reply string
	err := t.pool.ask(ctx, func(c *conn) (err error) {
		if err = WriteNetstring(c, t.name+" "+key); err == nil {
			reply, err = ReadNetstring(c.r, maxReply)
		}
		return err
	})
	if err != nil {
		t.opt.warnf("table socketmap:%s:%s:%s lookup error: %s", socketNetwork(t.pool.network), t.pool.address, t.name, Strerror(err))
		return "", false, err
	}
	status, text, _ := strings.Cut(reply, " ")
	switch status {
	case "OK":
		return text, true, nil
	case "NOTFOUND":
		return "", false, nil
	case "TEMP", "TIMEOUT", "PERM":
		return "", false, fmt.Errorf("socketmap server: %s", reply)
	}
	return "", false, fmt.Errorf("socketmap server: bad reply %q", reply)
}

func socketNetwork(network string) string {
	if network == "tcp" {
		return "inet"
	}
	return network
}

// WriteNetstring writes "length:text,".
func WriteNetstring(w io.Writer, s string) error {
	_, err := io.WriteString(w, strconv.Itoa(len(s))+":"+s+",")
	return err
}

var errNetstring = errors.New("bad netstring")

// ReadNetstring reads a netstring of at most limit octets.
func ReadNetstring(r *bufio.Reader, limit int) (string, error) {
	n, digits := 0, 0
	for {
		c, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if c == ':' && digits > 0 {
			break
		}
		if c < '0' || c > '9' {
			return "", errNetstring
		}
		if n, digits = n*10+int(c-'0'), digits+1; n > limit {
			return "", errNetstring
		}
	}
	b := make([]byte, n+1)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	if b[n] != ',' {
		return "", errNetstring
	}
	return string(b[:n]), nil
}

// tcpMap asks a server in the protocol of tcp_table(5): "get key", answered by
// "200 value", "500 not found", "400 why", all %-quoted.
type tcpMap struct {
	pool pool
	opt  Options
}

func newTCP(name string, o Options) Table {
	return &tcpMap{pool{network: "tcp", address: name, timeout: o.timeout()}, o}
}

func (t *tcpMap) Lookup(ctx context.Context, key string) (string, bool, error) {
	var reply string
	err := t.pool.ask(ctx, func(c *conn) error {
		if _, err := io.WriteString(c, "get "+quoteTCP(key)+"\n"); err != nil {
			return err
		}
		line, err := c.r.ReadString('\n')
		reply = strings.TrimRight(line, "\r\n")
		return err
	})
	if err != nil {
		t.opt.warnf("connect to TCP map %s: %s", t.pool.address, Strerror(err))
		return "", false, err
	}
	code, text, _ := strings.Cut(reply, " ")
	text, err = url.PathUnescape(text)
	if err != nil {
		return "", false, fmt.Errorf("tcp map %s: bad reply", t.pool.address)
	}
	switch code {
	case "200":
		return text, true, nil
	case "500":
		return "", false, nil
	}
	return "", false, fmt.Errorf("tcp map %s: %s", t.pool.address, text)
}

// quoteTCP writes white space, control characters and % as %XX.
func quoteTCP(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c == '%' || c >= 127 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
