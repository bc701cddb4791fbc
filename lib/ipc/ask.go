package ipc

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"angarium/lib/unixsock"
)

// maxAnswer bounds what a service may answer.
const maxAnswer = 1 << 16

// Ask sends one request to a service that greets with the name of its protocol,
// as Postfix' do, and returns the answer.
func Ask(ctx context.Context, path, protocol string, request ...Attr) ([]Attr, error) {
	conn, err := unixsock.Dial(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	in := bufio.NewReader(io.LimitReader(conn, maxAnswer))
	hello, err := ReadAttrs(in)
	if err != nil {
		return nil, err
	}
	if got := Get(hello, "protocol"); got != protocol {
		return nil, fmt.Errorf("%s speaks %q instead of %q", path, got, protocol)
	}
	if _, err := conn.Write(EndAttrs(AppendAttrs(nil, request...))); err != nil {
		return nil, err
	}
	return ReadAttrs(in)
}
