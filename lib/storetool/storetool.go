// Package storetool is how the commands of the mail store begin: they find their
// imapd.conf, open the log, and become the user whose files these are.
//
// It opens no store: each command knows best how it wants it.
package storetool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"angarium/lib/cli"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/storeconf"
	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/plan"
	"angarium/lib/store"
	"angarium/lib/sysuser"
)

// Tool is what a command has when it begins.
type Tool struct {
	Conf      *imapdconf.Config
	Log       *maillog.Logger
	Store     store.Config
	Namespace mailbox.Namespace // as an administrator sees it
}

// Begin reads the configuration for a command; file is its -C, or "": what
// cyrmaster said, else the default. Root becomes cyrus_user: what root makes, the daemons can't read.
func Begin(name, file string) (*Tool, error) {
	if file == "" {
		file = os.Getenv(plan.CyrusConfigVariable)
	}
	if file == "" {
		file = imapdconf.DefaultPath
	}
	conf, err := imapdconf.Load(file)
	if err != nil {
		return nil, cli.Exit(cli.Config, "%w", err)
	}
	t := &Tool{Conf: conf.Service(name)}
	logFile, _ := conf.Raw("maillog_file")
	sink, err := maillog.Open(maillog.Config{File: logFile, Facility: conf.String("syslog_facility")})
	if err != nil {
		return nil, cli.Exit(cli.Config, "%w", err)
	}
	prefix := conf.String("syslog_prefix")
	if prefix == "" {
		prefix = "cyrus"
	}
	t.Log = maillog.New(sink, prefix+"/"+name)
	if err := Become(conf); err != nil {
		return nil, cli.Exit(cli.NoPerm, "%w", err)
	}
	if t.Store, err = storeconf.Store(t.Conf, t.Log); err != nil {
		return nil, cli.Exit(cli.Config, "%w", err)
	}
	t.Namespace = storeconf.Namespace(t.Conf, "")
	t.Namespace.Admin = true
	return t, nil
}

// Become makes root the user of the store; others stay who they are.
func Become(conf *imapdconf.Config) error {
	if os.Geteuid() != 0 {
		return nil
	}
	name := os.Getenv("CYRUS_USER")
	if name == "" {
		name = conf.String("cyrus_user")
	}
	if name == "" {
		name = "cyrus"
	}
	u, err := sysuser.Lookup(name)
	if err != nil {
		return err
	}
	if u == nil {
		return fmt.Errorf("unknown user: %s", name)
	}
	groups, err := sysuser.Groups(u)
	if err == nil {
		err = os.NewSyscallError("setgroups", syscall.Setgroups(groups))
	}
	return errors.Join(err, os.NewSyscallError("setgid", syscall.Setgid(u.GID)), os.NewSyscallError("setuid", syscall.Setuid(u.UID)))
}

// FromFolder is the mailbox whose folder it is, in the list or not; symbolic links
// may lead there. What can be no mailbox's folder is mailbox.ErrBad.
func (t *Tool) FromFolder(path string) (mailbox.Name, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	path, err = filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", mailbox.ErrBad
	} else if err != nil {
		return "", err
	}
	for _, root := range t.Store.Partitions {
		root, err := filepath.EvalSymlinks(root)
		if err != nil {
			continue // a disk that is not mounted has no folders
		}
		if below, ok := strings.CutPrefix(path, root+"/"); ok {
			return mailbox.FromPath(below)
		}
	}
	return "", mailbox.ErrBad
}
