package mailsetup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"angarium/lib/accounts"
	"angarium/lib/cli"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/storeconf"
	"angarium/lib/mailbox"
	"angarium/lib/store"
	"angarium/lib/sysuser"
)

// addUsers gives users and administrators their passwords, and users a mailbox.
// A new server gets its folders and databases, whoever is named.
func (s *setup) addUsers(ctx context.Context, c *cli.Cmd) error {
	if s.done && len(s.Users)+len(s.Admins) == 0 {
		return nil
	}
	conf, err := imapdconf.Load(s.ImapdConf)
	if err != nil {
		return err
	}
	for _, a := range s.Admins {
		if !slices.Contains(strings.Fields(conf.String("admins")), a.Name) {
			fmt.Fprintf(c.Stderr, "mailsetup: warning: %s has a password, but is no administrator until admins in %s names it\n", a.Name, s.ImapdConf)
		}
	}
	dirs := []string{conf.String("configdirectory"), s.SocketDir}
	for _, p := range conf.Partitions() {
		dirs = append(dirs, p.Path)
	}
	if err := s.asOwner(conf.String("cyrus_user"), dirs, func() error { return s.makeUsers(ctx, conf) }); err != nil {
		return err
	}
	return s.letPostfixIn(conf)
}

// letPostfixIn gives the MTA's user the way to the store's sockets and the right
// to read the user database; nobody else may speak LMTP to the store.
func (s *setup) letPostfixIn(conf *imapdconf.Config) error {
	if os.Geteuid() != 0 {
		return nil
	}
	mta, err := maincf.Load(s.Postfix)
	if err != nil {
		return err
	}
	owner := mta.String("mail_owner")
	postfix, err := sysuser.Lookup(owner)
	if err == nil && postfix == nil {
		err = fmt.Errorf("there is no user %s: make it first (useradd -r -M %s)", owner, owner)
	}
	if err != nil {
		return err
	}
	path, _ := storeconf.Accounts(conf)
	return errors.Join(
		os.Chmod(conf.String("configdirectory"), 0o751),
		os.Chown(s.SocketDir, -1, postfix.GID), os.Chmod(s.SocketDir, 0o750),
		os.Chown(path, -1, postfix.GID), os.Chmod(path, 0o640))
}

// asOwner calls f with the rights of the store's user, to whom the folders are
// given. An ordinary user's private server has no other.
func (s *setup) asOwner(name string, dirs []string, f func() error) error {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		if name == "" {
			name = "cyrus"
		}
		u, err := sysuser.Lookup(name)
		if err == nil && u == nil {
			err = fmt.Errorf("there is no user %s: make it first (useradd -r -M %s)", name, name)
		}
		if err != nil {
			return err
		}
		uid, gid = u.UID, u.GID
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return err
		}
		if uid != os.Geteuid() {
			if err := os.Chown(d, uid, gid); err != nil {
				return err
			}
		}
	}
	if uid == os.Geteuid() {
		return f()
	}
	if err := errors.Join(syscall.Setegid(gid), syscall.Seteuid(uid)); err != nil {
		return err
	}
	return errors.Join(f(), syscall.Seteuid(0), syscall.Setegid(0))
}

// makeUsers fills the user database and makes the mailboxes.
func (s *setup) makeUsers(ctx context.Context, conf *imapdconf.Config) error {
	path, o := storeconf.Accounts(conf)
	db, err := accounts.Open(path, o)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Create(); err != nil {
		return err
	}
	for _, a := range append(append([]account(nil), s.Users...), s.Admins...) {
		if err := db.Set(ctx, a.Name, "", a.Password); err != nil {
			return fmt.Errorf("user %s: %w", a.Name, err)
		}
	}
	where, err := storeconf.Store(conf, nil)
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, where)
	if err != nil {
		return err
	}
	boxes := s.Users
	if len(boxes) == 0 && !s.done {
		boxes = []account{{Name: nobody}}
	}
	for _, a := range boxes {
		_, err := st.Create(ctx, store.Entry{Name: mailbox.Inbox(a.Name)})
		if err != nil && !errors.Is(err, store.ErrExists) {
			st.Close()
			return fmt.Errorf("mailbox of %s: %w", a.Name, err)
		}
	}
	return st.Close()
}
