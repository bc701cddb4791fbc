// Package mbpath prints where a mailbox lies on the disk. See mbpath(8).
package mbpath

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"angarium/lib/cli"
	"angarium/lib/mailbox"
	"angarium/lib/store"
	"angarium/lib/storetool"
)

const usage = "usage: mbpath [-C <alt_config>] [-7jlqs] [-u|p] [-a|A|D|M|m|S|U] <mailbox name>..."

// Main is mbpath.
func Main(ctx context.Context, c *cli.Cmd) error {
	config := c.String('C', "alt_config", "")
	f := &finder{
		users: c.Bool('u'), folders: c.Bool('p'), modified: c.Bool('7'),
		quiet: c.Bool('q'), stop: c.Bool('s'), json: c.Bool('j'),
	}
	selectors := map[byte]*bool{}
	for _, letter := range []byte("aADMmSU") {
		selectors[letter] = c.Bool(letter)
	}
	c.Bool('l') // every mailbox is local
	c.Fatal = func(err error) string { return err.Error() }
	args, err := c.Parse()
	if err != nil {
		return cli.Exit(cli.Usage, "mbpath: %w\n%s", err, usage)
	}
	f.selector = 'D'
	given := 0
	for letter, on := range selectors {
		if *on {
			f.selector = letter
			given++
		}
	}
	switch {
	case given > 1:
		return cli.Exit(cli.Usage, "%s\n\nERROR: Duplicate selectors given", usage)
	case *f.users && *f.folders:
		return cli.Exit(cli.Usage, "%s\n\nERROR: Multiple modes given", usage)
	}
	if f.tool, err = storetool.Begin("mbpath", *config); err != nil {
		return prefixed(err)
	}
	if f.st, err = store.Open(ctx, f.tool.Store); err != nil {
		return cli.Exit(cli.TempFail, "mbpath: fatal: %w", err)
	}
	return errors.Join(f.each(ctx, c, args), f.st.Close())
}

func prefixed(err error) error {
	var exit *cli.ExitError
	if errors.As(err, &exit) {
		return cli.Exit(exit.Code, "mbpath: fatal: %w", err)
	}
	return fmt.Errorf("mbpath: fatal: %w", err)
}

// finder answers for one call.
type finder struct {
	tool     *storetool.Tool
	st       *store.Store
	users    *bool // -u: the arguments are users
	folders  *bool // -p: the arguments are folders
	modified *bool // -7: names are in modified UTF-7 only
	quiet    *bool // -q
	stop     *bool // -s
	json     *bool // -j
	selector byte  // which of the paths
}

// each prints the paths of every argument. As in Cyrus, the exit status tells of
// the last one; with -s that is the first that failed.
func (f *finder) each(ctx context.Context, c *cli.Cmd, args []string) error {
	var last error
	for _, arg := range args {
		name, err := f.name(arg)
		if err == nil {
			var text string
			if text, err = f.paths(ctx, name); err == nil {
				c.Printf("%s", text)
				last = nil
				continue
			}
		}
		if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, mailbox.ErrBad) {
			return cli.Exit(cli.TempFail, "mbpath: fatal: %w", err)
		}
		if !*f.quiet {
			seen := ""
			if name != "" && f.tool.Namespace.External(name) != arg {
				seen = " ('" + f.tool.Namespace.External(name) + "')"
			}
			fmt.Fprintf(c.Stderr, "Invalid mailbox name: '%s'%s\n", arg, seen)
		}
		last = cli.Exit(cli.DataErr, "")
		if *f.stop && *f.quiet {
			return cli.Exit(cli.DataErr, "fatal error: ")
		}
		if *f.stop {
			return cli.Exit(cli.DataErr, "fatal error: Error in processing mailbox. Stopping")
		}
	}
	return last
}

// name is the mailbox that an argument means.
func (f *finder) name(arg string) (mailbox.Name, error) {
	ns := &f.tool.Namespace
	switch {
	case *f.users:
		return ns.Inbox(arg), nil
	case *f.folders:
		return f.tool.FromFolder(arg)
	}
	name, err := ns.Internal(arg)
	if err != nil && !*f.modified { // UTF-8 is no name on the wire
		name, err = ns.Internal(mailbox.EncodeUTF7(arg))
	}
	return name, err
}

// user are the files of a mailbox's owner.
type user struct {
	Sieve string `json:"sieve"`
	Sub   string `json:"sub"`
}

// description is what -j prints, with the keys of Cyrus in the order of the alphabet.
type description struct {
	Archive string `json:"archive"`
	Data    string `json:"data"`
	Mbname  struct {
		Boxes     []string `json:"boxes"`
		Domain    string   `json:"domain,omitempty"`
		Intname   string   `json:"intname"`
		Localpart string   `json:"localpart,omitempty"`
		Userid    string   `json:"userid,omitempty"`
	} `json:"mbname"`
	Meta string `json:"meta"`
	User *user  `json:"user,omitempty"`
}

// paths is the text for one mailbox.
func (f *finder) paths(ctx context.Context, name mailbox.Name) (string, error) {
	e, err := f.st.Lookup(ctx, name)
	if err != nil {
		return "", err
	}
	// Messages, their index and their archive lie together. A mailbox that is
	// nobody's has the scripts of all, and no user.
	data := filepath.Join(f.st.Partition(e.Partition), e.Name.Path())
	sieve, own := filepath.Join(f.tool.Conf.String("sievedir"), "global"), f.tool.Store.ConfigDirectory
	owner := e.Name.Owner()
	if owner != "" {
		sieve = filepath.Join(f.tool.Conf.String("sievedir"), strings.ToLower(owner[:1]), owner)
		if own, err = f.st.UserFiles(owner); err != nil {
			return "", err
		}
	}
	if *f.json {
		return describe(e.Name, data, sieve, own)
	}
	switch f.selector {
	case 'a':
		return fmt.Sprintf("Archive: %s\nData: %s\nMeta: %s\nSieve: %s\nUser: %s\n", data, data, data, sieve, own), nil
	case 'S':
		return sieve + "\n", nil
	case 'U':
		return own + "\n", nil
	}
	return data + "\n", nil
}

func describe(name mailbox.Name, data, sieve, own string) (string, error) {
	d := description{Archive: data, Data: data, Meta: data}
	d.Mbname.Intname, d.Mbname.Boxes, d.Mbname.Domain = string(name), name.Parts(), name.Domain()
	if owner := name.Owner(); owner != "" {
		d.Mbname.Userid = owner
		d.Mbname.Localpart, _, _ = strings.Cut(owner, "@")
		d.Mbname.Boxes = d.Mbname.Boxes[2:] // behind user.bob
		d.User = &user{Sieve: sieve, Sub: own + ".sub"}
	}
	text, err := json.MarshalIndent(d, "", "  ")
	return string(text) + "\n", err
}
