// Package postkick makes a service of the mail system look around. See postkick(1).
package postkick

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/ipc"
)

// Main sends one request to a service's socket or named pipe, and waits for no answer.
func Main(ctx context.Context, c *cli.Cmd) error {
	dir := c.String('c', "config_dir", "")
	c.Count('v')
	words, err := c.Parse()
	if err != nil || len(words) != 3 {
		return cli.Exit(1, "usage: postkick [-c config_dir] [-v] class service request")
	}
	conf, err := maincf.Load(maincf.Dir(*dir))
	if err != nil {
		return err
	}
	class, service, request := words[0], words[1], words[2]
	queue := conf.String("queue_directory")
	err = ipc.Trigger(ctx, filepath.Join(queue, class, service), []byte(request))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		c.Warnf("unable to look up %s/%s: No such file or directory", class, service)
	default:
		c.Warnf("%v", err)
	}
	c.Warnf("Cannot contact class %s service %s - perhaps the mail system is down", class, service)
	return cli.Exit(1, "")
}
