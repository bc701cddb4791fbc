package service

import (
	"fmt"
	"os"
	"syscall"

	"angarium/lib/sysuser"
)

// dropRights makes the process what its lines say, in the only order that works:
// chroot needs root, setgid and setgroups need root, setuid ends it. An ordinary
// user has nothing to drop: everything belongs to that user.
func dropRights(e *Env) error {
	if os.Geteuid() != 0 {
		return nil
	}
	owner, chroot, keep := e.owner()
	var u *sysuser.User
	var groups []int
	if !keep {
		var err error
		if u, err = sysuser.Lookup(owner); err != nil {
			return err
		}
		if u == nil {
			return fmt.Errorf("unknown user: %s", owner)
		}
		groups = []int{u.GID}
		if e.Imapd != nil {
			// Cyrus' user may read keys through a group, such as ssl-cert.
			if groups, err = sysuser.Groups(u); err != nil {
				return err
			}
		}
	}
	if chroot {
		if err := syscall.Chroot("."); err != nil { // begin went to queue_directory
			return os.NewSyscallError("chroot", err)
		}
		if err := os.Chdir("/"); err != nil {
			return err
		}
	}
	if keep {
		return nil
	}
	if err := syscall.Setgroups(groups); err != nil {
		return os.NewSyscallError("setgroups", err)
	}
	if err := syscall.Setgid(u.GID); err != nil {
		return os.NewSyscallError("setgid", err)
	}
	if err := syscall.Setuid(u.UID); err != nil {
		return os.NewSyscallError("setuid", err)
	}
	return nil
}

// owner says who the process becomes: as its own lines say, not those it stands in for.
func (e *Env) owner() (name string, chroot, keep bool) {
	if e.Imapd != nil {
		name = os.Getenv("CYRUS_USER")
		if name == "" {
			name = e.Imapd.String("cyrus_user")
		}
		if name == "" {
			name = "cyrus"
		}
		return name, false, false
	}
	name = e.Main.String("mail_owner")
	line := &e.Services[0].Line
	for _, s := range e.Services {
		if s.Command == e.Program {
			line = &s.Line
			break
		}
	}
	return name, line.Chroot, !line.Unprivileged
}
