// Package ctl_cyrusdb makes the databases of the store ready at a start, and
// copies them by the clock. See ctl_cyrusdb(8).
package ctl_cyrusdb

import (
	"context"
	"errors"

	"angarium/lib/cli"
	"angarium/lib/maillog"
	"angarium/lib/store"
	"angarium/lib/storetool"
)

const usage = "usage: ctl_cyrusdb [-C <altconfig>] -c\n       ctl_cyrusdb [-C <altconfig>] -r [-x]"

// Main is ctl_cyrusdb.
func Main(ctx context.Context, c *cli.Cmd) error {
	config := c.String('C', "altconfig", "")
	recover, checkpoint, only := c.Bool('r'), c.Bool('c'), c.Bool('x')
	if _, err := c.Parse(); err != nil {
		return cli.Exit(cli.Usage, "%w\n%s", err, usage)
	}
	if *recover == *checkpoint {
		return cli.Exit(cli.Usage, "%s", usage)
	}
	t, err := storetool.Begin("ctl_cyrusdb", *config)
	if err != nil {
		return err
	}
	what, do := "checkpointing cyrus databases", copyList
	if *recover {
		what, do = "recovering cyrus databases", mend
		if *only {
			do = open
		}
	}
	t.Log.Log(maillog.Notice, "%s", what)
	if err := do(ctx, t); err != nil {
		t.Log.Log(maillog.Err, "DBERROR: %v", err)
		return cli.Exit(cli.TempFail, "%w", err)
	}
	t.Log.Log(maillog.Notice, "done %s", what)
	return nil
}

// open begins and ends an epoch, and with it finishes moves that were under way.
func open(ctx context.Context, t *storetool.Tool) error {
	st, err := store.Open(ctx, t.Store)
	if err != nil {
		return err
	}
	return st.Close()
}

func mend(ctx context.Context, t *storetool.Tool) error {
	st, err := store.Recover(ctx, t.Store)
	if err != nil {
		return err
	}
	return st.Close()
}

func copyList(ctx context.Context, t *storetool.Tool) error {
	st, err := store.Open(ctx, t.Store)
	if err != nil {
		return err
	}
	return errors.Join(st.Checkpoint(ctx), st.Close())
}
