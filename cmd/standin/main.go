// Package standin is every daemon of Postfix whose work another program does
// here. The names are installed because installers, monitoring and master.cf
// editors look for them; master(8) starts none of them. See master(8).
package standin

import (
	"context"
	"strings"

	"angarium/lib/cli"
	"angarium/lib/plan"
)

// Is reports whether a program is such a daemon.
func Is(name string) bool {
	_, _, ok := plan.StandIn(name)
	return ok
}

// Main tells a person who runs one by hand who does its work. It ends as the
// daemons of Postfix do when somebody else than master starts them.
func Main(_ context.Context, c *cli.Cmd) error {
	by, why, _ := plan.StandIn(c.Name)
	if len(by) == 0 {
		return cli.Exit(1, "this service has no process here: %s", why)
	}
	return cli.Exit(1, "%s: that is the work of %s; see master(8)", why, strings.Join(by, " and "))
}
