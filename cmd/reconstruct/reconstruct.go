// Package reconstruct makes mailboxes whole again. See reconstruct(8).
package reconstruct

import (
	"context"
	"errors"
	"slices"
	"strings"

	"angarium/lib/cli"
	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/store"
	"angarium/lib/storetool"
)

type job struct {
	c         *cli.Cmd
	st        *store.Store
	ns        mailbox.Namespace
	recursive bool // -r
	find      bool // -f
	users     bool // -u
	dry       bool // -n
	quiet     bool // -q
	partition string
	tool      *storetool.Tool
}

// Main is reconstruct.
func Main(ctx context.Context, c *cli.Cmd) error {
	file := c.String('C', "config-file", "")
	j := &job{c: c}
	recursive, find, users, dry, quiet := c.Bool('r'), c.Bool('f'), c.Bool('u'), c.Bool('n'), c.Bool('q')
	paths := c.Bool('P')
	partition := c.String('p', "partition", "")
	list, list2 := c.Bool('m'), c.Bool('d')
	// Accepted, since scripts give them: what they ask for is always done, or
	// has no meaning in this store. See reconstruct(8).
	for _, letter := range []byte("xskgGRIUoOM") {
		c.Bool(letter)
	}
	c.String('V', "version", "")
	args, err := c.Parse()
	if err != nil {
		return err
	}
	j.recursive, j.find, j.users, j.dry, j.quiet, j.partition = *recursive, *find, *users, *dry, *quiet, *partition
	t, err := storetool.Begin("reconstruct", *file)
	if err != nil {
		return err
	}
	t.Store.Log = maillog.New(maillog.ToWriter(c.Stderr), t.Log.Tag())
	j.ns, j.tool = t.Namespace, t
	if j.st, err = store.Open(ctx, t.Store); err != nil {
		return cli.Exit(cli.TempFail, "%v", err)
	}
	if *paths {
		err = j.addFolders(ctx, args)
	} else {
		err = j.run(ctx, args, *list || *list2)
	}
	return errors.Join(err, j.st.Close())
}

func (j *job) run(ctx context.Context, args []string, list bool) error {
	if list && !j.dry {
		n, err := j.st.RebuildList(ctx, true)
		if err != nil {
			return err
		}
		if !j.quiet {
			j.c.Infof("%d mailboxes in the list", n)
		}
		if len(args) == 0 {
			return nil
		}
	}
	names, err := j.choose(ctx, args)
	if err != nil {
		return err
	}
	failed := false
	for _, n := range names {
		if !j.dry {
			if err := j.st.Reconstruct(ctx, n); err != nil {
				j.c.Warnf("%s: %v", j.ns.External(n), err)
				failed = true
				continue
			}
		}
		if !j.quiet {
			j.c.Printf("%s\n", j.ns.External(n))
		}
	}
	if failed {
		return cli.Exit(cli.IOErr, "")
	}
	return nil
}

// choose are the mailboxes that the arguments mean: patterns as in LIST, or users.
func (j *job) choose(ctx context.Context, args []string) ([]mailbox.Name, error) {
	var patterns []string
	for _, a := range args {
		p := a
		if j.users {
			p = j.ns.External(j.ns.Inbox(a))
		}
		patterns = append(patterns, p)
		if j.recursive || j.users {
			patterns = append(patterns, p+string(j.ns.Sep())+"*")
		}
		if err := j.findOnDisk(ctx, p); err != nil {
			return nil, err
		}
	}
	if len(args) == 0 {
		if err := j.findOnDisk(ctx, ""); err != nil {
			return nil, err
		}
	}
	var names []mailbox.Name
	for e, err := range j.st.List(ctx, store.Query{Deleted: true}) {
		if err != nil {
			return nil, err
		}
		name := j.ns.External(e.Name)
		wanted := slices.ContainsFunc(patterns, func(p string) bool { return mailbox.Match(p, name, j.ns.Sep()) })
		if (wanted || len(args) == 0) && (j.partition == "" || e.Partition == j.partition) {
			names = append(names, e.Name)
		}
	}
	return names, nil
}

// findOnDisk adds mailboxes that the list does not know: -f, and -p.
func (j *job) findOnDisk(ctx context.Context, arg string) error {
	if j.dry || !j.find && j.partition == "" {
		return nil
	}
	under := mailbox.Name("")
	if arg != "" {
		n, err := j.ns.Internal(arg)
		if err != nil {
			return nil // a pattern: nothing to look below
		}
		under = n
	}
	added, err := j.st.AddFound(ctx, func(n mailbox.Name) bool { return under == "" || n == under || n.Under(under) })
	for _, e := range added {
		if !j.quiet {
			j.c.Printf("discovered %s\n", j.ns.External(e.Name))
		}
	}
	return err
}

// addFolders adds the mailboxes of these folders to the list, and does nothing else: -P.
func (j *job) addFolders(ctx context.Context, paths []string) error {
	wanted := map[mailbox.Name]bool{}
	for _, path := range paths {
		path = strings.TrimSuffix(path, "/.mailbox") // as Cyrus takes a cyrus.header
		n, err := j.tool.FromFolder(path)
		if errors.Is(err, mailbox.ErrBad) {
			j.c.Printf("Can not resolve path '%s'\n", path)
			continue
		} else if err != nil {
			return err
		}
		wanted[n] = true
	}
	if j.dry || len(wanted) == 0 {
		return nil
	}
	added, err := j.st.AddFound(ctx, func(n mailbox.Name) bool { return wanted[n] })
	for _, e := range added {
		if !j.quiet {
			j.c.Printf("created mbentry for %s (%s)\n", e.Name, e.ID)
		}
	}
	return err
}
