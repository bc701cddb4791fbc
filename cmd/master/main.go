// Command master starts the daemons and keeps them alive: those of master.cf, or,
// called cyrmaster or living below a path that says cyrus, those of cyrus.conf.
//
// It runs as root, so it is a binary of its own, with nothing in it that talks to
// strangers. See master(8) and cyrmaster(8).
package main

import (
	"context"
	"strings"

	"angarium/lib/cli"
	"angarium/lib/master"
)

func main() {
	cli.Exec(func(ctx context.Context, c *cli.Cmd) error {
		if c.Name == "cyrmaster" || strings.Contains(c.Path, "cyrus") {
			return master.Cyrus(ctx, c)
		}
		return master.Postfix(ctx, c)
	})
}
