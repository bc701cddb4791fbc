// Package ctl_mboxlist shows the list of mailboxes, and compares it with the
// disk. See ctl_mboxlist(8).
package ctl_mboxlist

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"angarium/lib/cli"
	"angarium/lib/store"
	"angarium/lib/storetool"
)

const usage = `DUMP:
  ctl_mboxlist [-C <alt_config>] -d [-p partition]
VERIFY:
  ctl_mboxlist [-C <alt_config>] -v`

// Main is ctl_mboxlist.
func Main(ctx context.Context, c *cli.Cmd) error {
	config, partition := c.String('C', "alt_config", ""), c.String('p', "partition", "")
	dump, verify, undump, populate := c.Bool('d'), c.Bool('v'), c.Bool('u'), c.Bool('m')
	c.Bool('y') // the list has no hidden entries
	if _, err := c.Parse(); err != nil {
		return cli.Exit(1, "%w\n%s", err, usage)
	}
	switch {
	case *undump:
		return cli.Exit(cli.Unavailable, "-u is not supported: reconstruct -m reads the list from the mailboxes themselves")
	case *populate:
		return cli.Exit(cli.Unavailable, "-m is not supported: there is no MUPDATE server to tell")
	case *dump == *verify:
		return cli.Exit(1, "%s", usage)
	}
	t, err := storetool.Begin("ctl_mboxlist", *config)
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, t.Store)
	if err != nil {
		return cli.Exit(cli.TempFail, "%w", err)
	}
	if *dump {
		err = dumpList(ctx, c, st, *partition)
	} else {
		err = compare(ctx, c, st)
	}
	return errors.Join(err, st.Close())
}

// entry is a mailbox in Cyrus' words.
type entry struct {
	Name          string     `json:"name"`
	Mtime         string     `json:"mtime"`
	UIDValidity   string     `json:"uidvalidity"`
	CreatedModSeq string     `json:"createdmodseq"`
	FolderModSeq  string     `json:"foldermodseq"`
	Type          string     `json:"mbtype"`
	Partition     string     `json:"partition"`
	ACL           acl        `json:"acl"`
	UniqueID      store.ID   `json:"uniqueid"`
	History       []struct{} `json:"name_history"`
}

// acl keeps the order of its entries.
type acl store.ACL

// MarshalJSON writes an object of identifiers and their rights.
func (a acl) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, e := range a {
		if i > 0 {
			b = append(b, ',')
		}
		id, err := json.Marshal(e.ID)
		if err != nil {
			return nil, err
		}
		b = append(append(b, id...), ':')
		b = strconv.AppendQuote(b, e.Rights.String())
	}
	return append(b, '}'), nil
}

func dumpList(ctx context.Context, c *cli.Cmd, st *store.Store, partition string) error {
	out := bufio.NewWriter(c.Stdout)
	fmt.Fprint(out, "{")
	between := "\n"
	for e, err := range st.List(ctx, store.Query{Deleted: true}) {
		if err != nil {
			return err
		}
		if partition != "" && e.Partition != partition {
			continue
		}
		name, err := json.Marshal(string(e.Name))
		if err != nil {
			return err
		}
		value, err := json.Marshal(entry{
			Name: string(e.Name), Mtime: fmt.Sprint(e.Created.Unix()), UIDValidity: fmt.Sprint(e.UIDValidity),
			CreatedModSeq: "1", FolderModSeq: "1", Type: "e", Partition: e.Partition, ACL: acl(e.ACL), UniqueID: e.ID, History: []struct{}{},
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s%s: %s", between, name, value)
		between = ",\n"
	}
	fmt.Fprint(out, "\n}\n")
	return out.Flush()
}

func compare(ctx context.Context, c *cli.Cmd, st *store.Store) error {
	for m, err := range st.Compare(ctx) {
		switch {
		case err != nil:
			return err
		case m.Listed:
			c.Printf("'%s' has a DB entry but no directory on partition '%s'\n", m.Name, m.Partition)
		default:
			c.Printf("'%s' has a directory '%s' but no DB entry\n", m.Name, m.Path)
		}
	}
	return nil
}
