package mailsetup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"angarium/lib/sysuser"
)

// owners chooses who a private server's queue and mail belong to, and who its
// daemons become. An ordinary user is all of that. Root is nothing of it where it
// can be helped, since the daemons parse what strangers send: then it is the
// users that Postfix and Cyrus have on this machine, or else nobody. They must be
// able to reach the server's folder and the programs.
func (s *setup) owners() error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	s.Owner, s.StoreOwner = me.Username, me.Username
	if s.Group, err = groupName(me.Gid); err != nil || os.Geteuid() != 0 {
		return err
	}
	mta, err := firstUser("postfix", "nobody")
	if err != nil {
		return err
	}
	cyrus, err := firstUser("cyrus", "nobody")
	if err != nil {
		return err
	}
	why, err := s.hindrance(mta, cyrus)
	if err != nil {
		return err
	}
	if why != "" {
		s.warnings = append(s.warnings, why+": all daemons keep the rights of root, though they read what strangers send;"+
			" a folder that every user can pass, or another user than root, avoids that")
		return nil
	}
	s.Owner, s.StoreOwner = mta.Name, cyrus.Name
	if mta.Name == "nobody" { // who is default_privs, too: users' commands are not to have the queue
		s.Privs = "daemon"
	}
	s.Group, err = dropGroup(mta)
	return err
}

// hindrance says why the users can't run the server, or nothing.
func (s *setup) hindrance(users ...*sysuser.User) (string, error) {
	for _, u := range users {
		if u == nil {
			return "there is no user nobody", nil
		}
		for _, dir := range []string{s.Dir, s.Bin} {
			if closed, err := closedTo(u, dir); closed != "" || err != nil {
				return fmt.Sprintf("the user %s cannot pass %s", u.Name, closed), err
			}
		}
	}
	return "", nil
}

// dropGroup is setgid_group: a group that is not the MTA's own. Only root posts on
// a private server of root's, so it matters little which.
func dropGroup(mta *sysuser.User) (string, error) {
	for _, name := range []string{"postdrop", "maildrop", "mail"} {
		g, err := sysuser.LookupGroup(name)
		if err != nil {
			return "", err
		}
		if g != nil && g.GID != mta.GID {
			return g.Name, nil
		}
	}
	return groupName(strconv.Itoa(mta.GID))
}

// firstUser is the first of the users that exists, or nil.
func firstUser(names ...string) (*sysuser.User, error) {
	for _, name := range names {
		if u, err := sysuser.Lookup(name); u != nil || err != nil {
			return u, err
		}
	}
	return nil, nil
}

// groupName is the name of a group.
func groupName(gid string) (string, error) {
	g, err := user.LookupGroupId(gid)
	if err != nil {
		return "", err
	}
	return g.Name, nil
}

// closedTo is the first folder on the way to dir, itself included, that a user
// can't pass, or "". What is not there yet will be passable.
func closedTo(u *sysuser.User, dir string) (string, error) {
	groups, err := sysuser.Groups(u)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	path := "/"
	for _, name := range strings.Split(dir, "/") {
		path = filepath.Join(path, name)
		var st syscall.Stat_t
		err := syscall.Stat(path, &st)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		if err != nil {
			return "", &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		bit := uint32(0o001)
		switch {
		case int(st.Uid) == u.UID:
			bit = 0o100
		case int(st.Gid) == u.GID || slices.Contains(groups, int(st.Gid)):
			bit = 0o010
		}
		if st.Mode&bit == 0 {
			return path, nil
		}
	}
	return "", nil
}
