package queueconf

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"angarium/lib/conf/maincf"
	"angarium/lib/sysuser"
)

// Elevated reports whether this process has rights that its caller lacks; root lacks none.
func Elevated() bool {
	return os.Getuid() != 0 && (os.Getegid() != os.Getgid() || os.Geteuid() != os.Getuid())
}

// Setgid is how postdrop and postqueue begin: before anything else they drop what
// the caller could have set a trap with, and then read main.cf, from a directory
// that the administrator has allowed. flag is the value of -c.
//
// A caller without privileges needs nothing of this; his own rights are all there is.
func Setgid(flag string) (*maincf.Config, error) {
	dir := maincf.Dir(flag)
	if !Elevated() {
		return maincf.Load(dir)
	}
	cleanEnvironment()
	closeStray()
	if err := allowed(dir); err != nil {
		return nil, err
	}
	return maincf.Load(dir)
}

// allowed checks a directory against the default main.cf.
func allowed(dir string) error {
	if filepath.Clean(dir) == maincf.DefaultDir {
		return nil
	}
	conf, err := maincf.Load(maincf.DefaultDir)
	if err != nil {
		return err
	}
	known := append(conf.List("alternate_config_directories"), conf.List("multi_instance_directories")...)
	if slices.Contains(known, dir) {
		return nil
	}
	return &DirError{dir}
}

// DirError says that a configuration directory is not allowed.
type DirError struct{ Dir string }

func (e *DirError) Error() string {
	return fmt.Sprintf("specify \"alternate_config_directories = %s\" or \"multi_instance_directories = %s\" in %s/main.cf", e.Dir, e.Dir, maincf.DefaultDir)
}

// Detail is what the peer says before the error itself.
func (e *DirError) Detail() string {
	return "unauthorized configuration directory name: " + e.Dir
}

// cleanEnvironment keeps the time zone, unless it names a file.
func cleanEnvironment() {
	zone, ok := os.LookupEnv("TZ")
	os.Clearenv()
	if ok && !strings.HasPrefix(zone, ":") && !strings.HasPrefix(zone, "/") && !strings.Contains(zone, "..") {
		os.Setenv("TZ", zone)
	}
}

// closeStray closes the descriptors that the caller left open above standard
// error. Those of the Go runtime are anonymous.
func closeStray() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < 3 {
			continue
		}
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:") {
			continue
		}
		os.NewFile(uintptr(fd), target).Close()
	}
}

// Authorized reports whether a user is on one of the authorized_*_users lists:
// names, !names, static:, and files of names. root and mail_owner always are. Other
// tables are not opened with privileges, and match nobody.
func Authorized(conf *maincf.Config, parameter string, uid int) (name string, ok bool) {
	name = "unknown"
	if u, err := sysuser.LookupID(uid); err == nil && u != nil {
		name = u.Name
	}
	if uid == 0 || name == conf.String("mail_owner") {
		return name, true
	}
	return name, onList(conf.List(parameter), name, 0)
}

func onList(list []string, name string, depth int) bool {
	for _, item := range list {
		item, not := strings.CutPrefix(item, "!")
		switch {
		case strings.HasPrefix(item, "static:"):
		case strings.HasPrefix(item, "/"):
			text, err := os.ReadFile(item)
			if err != nil || depth > 10 || !onList(strings.Fields(string(text)), name, depth+1) {
				continue
			}
		case item != name:
			continue
		}
		return !not
	}
	return false
}
