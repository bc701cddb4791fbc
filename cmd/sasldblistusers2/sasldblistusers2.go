// Package sasldblistusers2 lists the users that may log in. See sasldblistusers2(8).
package sasldblistusers2

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"angarium/lib/accounts"
	"angarium/lib/cli"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/storeconf"
)

// Main is sasldblistusers2.
func Main(ctx context.Context, c *cli.Cmd) error {
	file := ""
	for {
		letter, arg, ok, err := c.Getopt("f:vh")
		if err != nil || letter == 'h' && ok {
			io.WriteString(c.Stderr, "sasldblistusers2: usage: sasldblistusers2 [-v] [[-f] sasldb]\n"+
				"\t-f sasldb\tuse given file as sasldb\n\t-v\tprint version and exit\n")
			return cli.Exit(1, "")
		}
		if !ok {
			break
		}
		switch letter {
		case 'f':
			file = arg
		case 'v':
			c.Infof("the user database of Angarium, in the place of SASL 2.1.28's")
			return nil
		}
	}
	if rest := c.Operands(); file == "" && len(rest) > 0 {
		file = rest[0]
	}
	if file == "" {
		file = "/etc/sasldb2"
		if conf, err := imapdconf.Load(""); err == nil {
			file, _ = storeconf.Accounts(conf)
		}
	}
	if err := list(ctx, c, file); err != nil {
		// The old program says so, and is content all the same.
		fmt.Fprintf(c.Stderr, "listusers failed: %v\n", err)
	}
	return nil
}

func list(ctx context.Context, c *cli.Cmd, file string) error {
	db, err := accounts.Open(file, accounts.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	out := bufio.NewWriter(c.Stdout)
	defer out.Flush()
	for a, err := range db.All(ctx) {
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s@%s: userPassword\n", a.User, a.Realm)
	}
	return nil
}
