package reconstruct

import (
	"fmt"
	"os"
	"syscall"

	"angarium/lib/conf/imapdconf"
	"angarium/lib/sysuser"
)

// become makes root the user whose files these are: what root makes, the
// daemons can't read.
func become(conf *imapdconf.Config) error {
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
	if err := syscall.Setgroups([]int{u.GID}); err != nil {
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
