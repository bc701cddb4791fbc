package postmap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/maps"
)

// A task is the making of one table.
type task struct {
	c    *cli.Cmd
	conf *maincf.Config
	f    flags
	kind string
	file string
	b    *maps.Builder
}

func create(c *cli.Cmd, conf *maincf.Config, f flags, t tool, name string) error {
	kind, file, _ := strings.Cut(name, ":")
	if !maps.CanBuild(kind) {
		return cli.Exit(1, "unsupported dictionary type: %s does not support bulk-mode creation.", kind)
	}
	source, text, mode, err := openSource(c, f, file)
	if err != nil {
		return err
	}
	if text != nil {
		defer text.Close()
	}
	if !f.plainMode && mode != 0 {
		f.build.Mode = mode
	}
	// Nearly all of what we take stays until the end: to collect garbage is for nothing.
	debug.SetGCPercent(800)
	k := &task{c: c, conf: conf, f: f, kind: kind, file: file}
	if f.incremental {
		if k.b, err = maps.Edit(kind, file, f.build); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		if err != nil {
			return err
		}
	} else {
		k.b = maps.Create(kind, file, f.build)
	}
	if err := t.read(k, file, source); err != nil {
		return err
	}
	if t.finish != nil {
		if err := t.finish(k); err != nil {
			return err
		}
	}
	return k.b.Commit()
}

// openSource opens the text, or takes standard input in incremental mode. Root
// becomes the owner of the text, so that nobody's table is made with root's
// rights.
func openSource(c *cli.Cmd, f flags, file string) (io.Reader, io.Closer, os.FileMode, error) {
	if f.incremental {
		info, err := os.Stat(file)
		if err != nil {
			return c.Stdin, nil, 0, nil
		}
		return c.Stdin, nil, info.Mode().Perm(), becomeOwner(f, info)
	}
	text, err := os.Open(file)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("open %s: %s", file, maps.Strerror(err))
	}
	info, err := text.Stat()
	if err != nil {
		return nil, nil, 0, err
	}
	return text, text, info.Mode().Perm(), becomeOwner(f, info)
}

func becomeOwner(f flags, info os.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || f.keepOwner || os.Geteuid() != 0 || st.Uid == 0 {
		return nil
	}
	if err := syscall.Setegid(int(st.Gid)); err != nil {
		return err
	}
	return syscall.Seteuid(int(st.Uid))
}

// add puts an entry in and warns of a second one for a key.
func (k *task) add(key, value string) error {
	err := k.b.Add(key, value)
	if errors.Is(err, maps.ErrDuplicate) {
		if !k.f.warnOff {
			if !k.f.build.KeepCase {
				key = strings.ToLower(key)
			}
			k.c.Warnf("%s: duplicate entry: %q", k.shown(), key)
		}
		return nil
	}
	return err
}

// shown is what the old programs call the table in warnings.
func (k *task) shown() string {
	switch k.kind {
	case "hash", "btree":
		return k.file + ".db"
	case "lmdb":
		return "lmdb:" + k.file
	}
	return k.file
}

func readTable(k *task, name string, r io.Reader) error {
	return maps.Lines(r, func(number int, line string) error {
		o := k.f.table
		o.KeepCase = true // the builder folds
		key, value, err := maps.Entry(line, o)
		if err != nil {
			k.c.Warnf("%s, line %d: %v", name, number, err)
			return nil
		}
		if strings.HasSuffix(key, ":") {
			k.c.Warnf("%s, line %d: record is in \"key: value\" format; is this an alias file?", name, number)
		}
		return k.add(key, value)
	})
}

func readAliases(k *task, name string, r io.Reader) error {
	var room []token
	return maps.Lines(r, func(number int, line string) error {
		key, value, err := aliasEntry(&room, line)
		if err != nil {
			k.c.Warnf("%s, line %d: %v", name, number, err)
			return nil
		}
		return k.add(key, value)
	})
}

// addAliasExtras adds what NIS and sendmail expect in an alias database.
func addAliasExtras(k *task) error {
	if k.f.incremental {
		return nil
	}
	for _, e := range [][2]string{
		{"@", "@"},
		{"YP_LAST_MODIFIED", strconv.FormatInt(time.Now().Unix(), 10)},
		{"YP_MASTER_NAME", k.conf.String("myhostname")},
	} {
		if err := k.b.AddRaw(e[0], e[1]); err != nil && !errors.Is(err, maps.ErrDuplicate) {
			return err
		}
	}
	return nil
}
