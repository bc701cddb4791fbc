// Package mbpath prints where a mailbox lies on the disk. See mbpath(8).
package mbpath

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"angarium/lib/cli"
	"angarium/lib/mailbox"
	"angarium/lib/store"
	"angarium/lib/storetool"
)

const usage = "usage: mbpath [-C <alt_config>] [-7jlmqs] [-u] [-a|A|D|M|S|U] <mailbox name>..."

// Main is mbpath.
func Main(ctx context.Context, c *cli.Cmd) error {
	config := c.String('C', "alt_config", "")
	users, quiet, stop, asJSON := c.Bool('u'), c.Bool('q'), c.Bool('s'), c.Bool('j')
	modified := c.Bool('7')
	kinds := map[string]*bool{}
	for _, letter := range "aADMSUm" {
		kinds[string(letter)] = c.Bool(byte(letter))
	}
	c.Bool('l') // every mailbox is local
	args, err := c.Parse()
	if err != nil {
		return cli.Exit(cli.Usage, "%w\n%s", err, usage)
	}
	if len(args) == 0 {
		return cli.Exit(cli.Usage, "%s", usage)
	}
	t, err := storetool.Begin("mbpath", *config)
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, t.Store)
	if err != nil {
		return cli.Exit(cli.TempFail, "%w", err)
	}
	f := &finder{t: t, st: st, users: *users, modified: *modified}
	failed := false
	for _, arg := range args {
		p, err := f.find(ctx, arg)
		if err != nil {
			failed = true
			if !*quiet {
				c.Infof("Invalid mailbox name: '%s'", arg)
			}
			if *stop {
				break
			}
			continue
		}
		c.Printf("%s", p.text(kinds, *asJSON))
	}
	err = st.Close()
	if failed {
		return errors.Join(cli.Exit(cli.DataErr, ""), err)
	}
	return err
}

type finder struct {
	t               *storetool.Tool
	st              *store.Store
	users, modified bool
}

// paths are the folders that belong to a mailbox.
type paths struct {
	Mailbox string `json:"mailbox"`
	Data    string `json:"data"`
	Sieve   string `json:"sieve"`
	User    string `json:"user"`
}

func (f *finder) find(ctx context.Context, arg string) (paths, error) {
	name := f.t.Namespace.Inbox(arg)
	if !f.users {
		if !f.modified {
			arg = mailbox.EncodeUTF7(arg)
		}
		var err error
		if name, err = f.t.Namespace.Internal(arg); err != nil {
			return paths{}, err
		}
	}
	e, err := f.st.Lookup(ctx, name)
	if err != nil {
		return paths{}, err
	}
	p := paths{Mailbox: f.t.Namespace.External(e.Name), Data: filepath.Join(f.st.Partition(e.Partition), e.Name.Path())}
	if owner := e.Name.Owner(); owner != "" {
		p.Sieve = filepath.Join(f.t.Conf.String("sievedir"), owner[:1], owner)
		p.User = filepath.Join(f.t.Store.ConfigDirectory, "user", owner[:1], owner)
	}
	return p, nil
}

func (p paths) text(kinds map[string]*bool, asJSON bool) string {
	if asJSON {
		b, _ := json.MarshalIndent(p, "", "  ")
		return string(b) + "\n"
	}
	switch {
	case *kinds["a"]:
		return fmt.Sprintf("Archive: %s\nData: %s\nMeta: %s\nSieve: %s\nUser: %s\n", p.Data, p.Data, p.Data, p.Sieve, p.User)
	case *kinds["S"]:
		return p.Sieve + "\n"
	case *kinds["U"]:
		return p.User + "\n"
	}
	return p.Data + "\n" // messages, their index and their archive lie together
}
