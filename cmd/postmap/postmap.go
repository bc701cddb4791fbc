// Package postmap makes and asks look-up tables: postmap(1) for tables of
// "key value" lines, postalias(1) for aliases(5). They are one program with two
// ways of reading a source file.
package postmap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/queueconf"
	"angarium/lib/maillog"
	"angarium/lib/maps"
)

// A tool is one of the two commands.
type tool struct {
	spec  string // option letters
	usage string
	// read adds the entries of a source text.
	read func(t *task, name string, r io.Reader) error
	// finish adds what comes behind them.
	finish func(t *task) error
}

// Main is postmap(1).
func Main(ctx context.Context, c *cli.Cmd) error {
	return run(ctx, c, tool{
		spec:  "bc:d:fFhimnNopq:rsuUvw",
		usage: "postmap [-bfFhimnNoprsuUvw] [-c config_dir] [-d key] [-q key] [map_type:]file...",
		read:  readTable,
	})
}

// AliasMain is postalias(1).
func AliasMain(ctx context.Context, c *cli.Cmd) error {
	return run(ctx, c, tool{
		spec:   "c:d:finNopq:rsuvw",
		usage:  "postalias [-Nfinoprsuvw] [-c config_dir] [-d key] [-q key] [map_type:]file...",
		read:   readAliases,
		finish: addAliasExtras,
	})
}

// flags are the options of one call.
type flags struct {
	query, remove, sequence, incremental bool
	queryKey, removeKey                  string
	header, body, mime                   bool
	warnOff, keepOwner, plainMode        bool
	dir                                  string
	build                                maps.BuildOptions
	table                                maps.Options
}

func run(ctx context.Context, c *cli.Cmd, t tool) error {
	f, err := parse(c, t)
	if err != nil {
		return err
	}
	conf, err := maincf.Load(maincf.Dir(f.dir))
	if err != nil {
		return err
	}
	// Nobody may look at what a nightly job writes: the mail log has it, too.
	log := queueconf.Log(conf, c.Name, nil)
	c.Log = func(text string) { log.Log(maillog.Warning, "%s", text) }
	names := c.Operands()
	if len(names) == 0 {
		return cli.Exit(1, "usage: %s", t.usage)
	}
	for i, n := range names {
		if !strings.Contains(n, ":") {
			names[i] = conf.String("default_database_type") + ":" + n
		}
	}
	f.table.Warn = c.Warnf
	switch {
	case f.sequence:
		return list(c, f, names)
	case f.query:
		return query(ctx, c, f, names)
	case f.remove:
		return remove(c, f, names)
	}
	for _, n := range names {
		if err := create(c, conf, f, t, n); err != nil {
			return err
		}
	}
	return nil
}

func parse(c *cli.Cmd, t tool) (f flags, err error) {
	modes := 0
	for {
		letter, arg, ok, err := c.Getopt(t.spec)
		if err != nil {
			c.Infof("%v", err)
			return f, cli.Exit(1, "usage: %s", t.usage)
		}
		if !ok {
			break
		}
		switch letter {
		case 'b':
			f.body = true
		case 'c':
			f.dir = arg
		case 'd':
			f.remove, f.removeKey = true, arg
			modes++
		case 'f':
			f.build.KeepCase, f.table.KeepCase = true, true
		case 'F':
			f.table.IncludeValue = true
		case 'h':
			f.header = true
		case 'i':
			f.incremental = true
		case 'm':
			f.mime = true
		case 'N':
			f.build.NUL = true
		case 'n':
			f.build.NUL = false
		case 'o':
			f.keepOwner = true
		case 'p':
			f.plainMode = true
		case 'q':
			f.query, f.queryKey = true, arg
			modes++
		case 'r':
			f.build.Replace = true
		case 's':
			f.sequence = true
			modes++
		case 'w':
			f.warnOff = true
		}
	}
	if modes > 1 {
		return f, cli.Exit(1, "specify only one of -s -q or -d")
	}
	if (f.header || f.body || f.mime) && (!f.query || f.queryKey != "-") {
		return f, cli.Exit(1, "specify -b -h or -m only with \"-q -\"")
	}
	if f.mime && !f.header && !f.body {
		c.Warnf("ignoring -m option without -b or -h")
	}
	return f, nil
}

func list(c *cli.Cmd, f flags, names []string) error {
	out := bufio.NewWriter(c.Stdout)
	defer out.Flush()
	sep := "\t"
	if c.Name == "postalias" {
		sep = ":\t"
	}
	for _, n := range names {
		err := maps.Each(n, f.table, func(k, v string) bool {
			fmt.Fprintf(out, "%s%s%s\n", k, sep, v)
			return true
		})
		if errors.Is(err, maps.ErrNoSequence) {
			return cli.Exit(1, "table %s: %v", n, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// query answers one key, or one key a line of standard input. The exit status
// tells whether anything was found.
func query(ctx context.Context, c *cli.Cmd, f flags, names []string) error {
	f.table.Whole = f.queryKey == "-"
	var tables []maps.Table
	for _, n := range names {
		t, err := maps.Open(n, f.table)
		if err != nil {
			return err
		}
		tables = append(tables, t)
	}
	out := bufio.NewWriterSize(c.Stdout, 32<<10)
	defer out.Flush()
	ask := func(key, format string) (bool, error) {
		for i, t := range tables {
			v, ok, err := t.Lookup(ctx, key)
			var missing *maps.OpenError
			switch {
			case errors.As(err, &missing):
				return false, err
			case err != nil:
				return false, fmt.Errorf("table %s: query error: %s", names[i], maps.Strerror(err))
			case ok && format == "":
				fmt.Fprintln(out, v)
				return true, nil
			case ok:
				out.WriteString(key)
				out.WriteString(format)
				out.WriteString(v)
				return true, out.WriteByte('\n')
			}
		}
		return false, nil
	}
	found := false
	if f.queryKey != "-" {
		var err error
		if found, err = ask(f.queryKey, ""); err != nil {
			return err
		}
	} else {
		sep := "\t"
		if c.Name == "postalias" {
			sep = ":\t"
		}
		err := keys(c.Stdin, f, func(key string) error {
			ok, err := ask(key, sep)
			found = found || ok
			return err
		})
		if err != nil {
			return err
		}
	}
	if !found {
		return cli.Exit(1, "")
	}
	return nil
}

func remove(c *cli.Cmd, f flags, names []string) error {
	found := false
	for _, n := range names {
		kind, file, _ := strings.Cut(n, ":")
		if !maps.CanBuild(kind) {
			return cli.Exit(1, "%s map requires O_RDONLY access mode", n)
		}
		b, err := maps.Edit(kind, file, f.build)
		if err != nil {
			return err
		}
		f.build.Mode = modeOf(file+".cdb", 0o644)
		before := b.Len()
		if f.removeKey == "-" {
			sc := bufio.NewScanner(c.Stdin)
			for sc.Scan() {
				b.Delete(sc.Text())
			}
			if err := sc.Err(); err != nil {
				return err
			}
		} else {
			b.Delete(f.removeKey)
		}
		if b.Len() == before {
			continue
		}
		found = true
		if err := b.Commit(); err != nil {
			return err
		}
	}
	if !found {
		return cli.Exit(1, "")
	}
	return nil
}

func modeOf(file string, otherwise os.FileMode) os.FileMode {
	if info, err := os.Stat(file); err == nil {
		return info.Mode().Perm()
	}
	return otherwise
}
