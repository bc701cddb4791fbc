package service

import (
	"context"
	"errors"

	"angarium/lib/cli"
)

// child is the process as Run sees it.
type child struct{}

// line is what Run keeps about a Service.
type line struct{}

// Run serves until it is told to end. See the package comment.
func Run(ctx context.Context, c *cli.Cmd, d Daemon) error {
	return errors.New("service: not built yet")
}
