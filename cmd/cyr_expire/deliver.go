package cyr_expire

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"angarium/lib/cli"
	"angarium/lib/lmtpd"
	"angarium/lib/storetool"
)

// DeliverMain is ctl_deliver: it shows what is remembered of deliveries.
func DeliverMain(ctx context.Context, c *cli.Cmd) error {
	const usage = "usage: ctl_deliver [-C <altconfig>] -d [-f <dbfile>]"
	config, file := c.String('C', "altconfig", ""), c.String('f', "dbfile", "")
	dump, expire := c.Bool('d'), c.String('E', "days", "")
	if _, err := c.Parse(); err != nil {
		return cli.Exit(cli.Usage, "%w\n%s", err, usage)
	}
	switch {
	case *expire != "":
		c.Infof("ctl_deliver -E is deprecated: using cyr_expire -E instead")
		args := []string{"-E", *expire}
		if *config != "" {
			args = append(args, "-C", *config)
		}
		return Main(ctx, &cli.Cmd{Name: c.Name, Path: c.Path, Args: args, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr})
	case !*dump:
		return cli.Exit(cli.Usage, "%s", usage)
	}
	t, err := storetool.Begin("ctl_deliver", *config)
	if err != nil {
		return err
	}
	d := seen(t)
	if *file != "" {
		d = &lmtpd.Duplicates{Dir: *file, Log: t.Log}
	}
	out := bufio.NewWriter(c.Stdout)
	defer out.Flush()
	fmt.Fprintf(out, "it is NOW: %d\n", time.Now().Unix())
	n := 0
	for r, err := range d.All() {
		if err != nil {
			return cli.Exit(cli.IOErr, "%w", err)
		}
		n++
		fmt.Fprintf(out, "id: %-40s\tat: %d\n", hex.EncodeToString(r.Hash[:]), r.Day.Unix())
	}
	fmt.Fprintf(out, "got %d entries\n", n)
	return nil
}

// TLSMain is tls_prune. Sessions of TLS are in the memory of the process that has
// them, and in tickets: there is no file to prune.
func TLSMain(_ context.Context, c *cli.Cmd) error {
	c.String('C', "altconfig", "")
	_, err := c.Parse()
	return err
}
