// Package smmapd tells a mail server whether a mailbox exists. See smmapd(8).
package smmapd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"angarium/lib/address"
	"angarium/lib/cli"
	"angarium/lib/conf/storeconf"
	"angarium/lib/cyrusd"
	"angarium/lib/lmtpd"
	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/service"
	"angarium/lib/store"
)

const (
	maxRequest = 10000 // octets, as in sendmail's socket maps
	idle       = 10 * time.Minute
)

// Main is smmapd.
func Main(ctx context.Context, c *cli.Cmd) error {
	return cyrusd.Run(ctx, c, "smmapd", setup)
}

func setup(env *service.Env, _ store.Config) (cyrusd.Start, error) {
	return func(st *store.Store) (cyrusd.Servers, error) {
		servers := cyrusd.Servers{}
		for _, s := range env.Services {
			servers[s] = server{lmtpd.New(lmtpd.Config{
				Store: st, Namespace: storeconf.Namespace(s.Imapd, ""),
				Downcase: s.Imapd.Bool("lmtp_downcase_rcpt"), PostUser: s.Imapd.String("postuser"),
			})}
		}
		return servers, nil
	}, nil
}

// server asks the same finder that lmtpd asks, so that both know the same users.
type server struct{ finder }

type finder interface {
	Find(context.Context, address.Address) (store.Entry, error)
}

func (s server) Serve(ctx context.Context, conn net.Conn, log *maillog.Logger) {
	serve(ctx, conn, s.finder, log)
}

// serve answers requests, netstrings of the form "map key", until the client
// goes away.
func serve(ctx context.Context, conn net.Conn, f finder, log *maillog.Logger) {
	r, w := bufio.NewReaderSize(conn, 512), bufio.NewWriterSize(conn, 512)
	for ctx.Err() == nil {
		_ = conn.SetDeadline(time.Now().Add(idle))
		request, err := readNetstring(r)
		if err != nil {
			if errors.Is(err, errNetstring) && ctx.Err() == nil { // else it left, or was idle for long
				log.Errorf("bad request: %v", err)
			}
			return
		}
		answer := reply(ctx, f, request, log)
		fmt.Fprintf(w, "%d:%s,", len(answer), answer)
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
	}
}

func reply(ctx context.Context, f finder, request string, log *maillog.Logger) string {
	_, key, ok := strings.Cut(request, " ")
	if !ok {
		return "PERM Bad protocol (missing key)"
	}
	e, err := f.Find(ctx, address.Parse(key))
	switch {
	case err == nil:
		log.Log(maillog.Debug, "verify %s: %s", key, e.Name)
		return "OK " + key
	case errors.Is(err, store.ErrNotFound) || errors.Is(err, mailbox.ErrBad):
		return "NOTFOUND Mailbox does not exist"
	}
	// Nobody may conclude anything: the mail server defers.
	log.Errorf("verify %s: %v", key, err)
	return "TEMP System I/O error"
}

var errNetstring = errors.New("no netstring")

// readNetstring reads "5:hello,".
func readNetstring(r *bufio.Reader) (string, error) {
	digits := make([]byte, 0, 6)
	for {
		c, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if c == ':' {
			break
		}
		if c < '0' || c > '9' || len(digits) == cap(digits) {
			return "", errNetstring
		}
		digits = append(digits, c)
	}
	n, err := strconv.Atoi(string(digits))
	if err != nil || n > maxRequest {
		return "", errNetstring
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
