package postfix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"angarium/lib/conf/maincf"
	"angarium/lib/conf/mastercf"
	"angarium/lib/sysuser"
)

// directory is one that the mail system needs, as Postfix' postfix-files has it.
type directory struct {
	path  string
	owner string // "root" or "mail_owner"
	group string // "setgid_group" or ""
	mode  fs.FileMode
	deep  bool // what lies in it belongs to the owner, too
}

func (s *script) directories() []directory {
	dirs := []directory{
		{s.conf.String("data_directory"), "mail_owner", "", 0700, true},
		{s.queue, "root", "", 0755, false},
	}
	for _, name := range strings.Fields("active bounce corrupt defer deferred flush hold incoming private saved trace") {
		dirs = append(dirs, directory{filepath.Join(s.queue, name), "mail_owner", "", 0700, true})
	}
	return append(dirs,
		directory{filepath.Join(s.queue, "maildrop"), "mail_owner", "setgid_group", 0730, false},
		directory{filepath.Join(s.queue, "public"), "mail_owner", "setgid_group", 0710, true},
		directory{filepath.Join(s.queue, "pid"), "root", "", 0755, false},
	)
}

// ids are the numbers behind the owners' names. An ordinary user is all of them.
type ids struct {
	owner, ownerGroup, setgid int
	root                      bool
}

func (s *script) ids() (ids, error) {
	if os.Geteuid() != 0 {
		return ids{owner: os.Geteuid(), ownerGroup: os.Getegid(), setgid: -1}, nil
	}
	id := ids{root: true}
	name := s.conf.String("mail_owner")
	u, err := sysuser.Lookup(name)
	if err != nil || u == nil {
		return id, errors.Join(fmt.Errorf("mail_owner: unknown user name value: %s", name), err)
	}
	id.owner, id.ownerGroup = u.UID, u.GID
	name = s.conf.String("setgid_group")
	g, err := sysuser.LookupGroup(name)
	if err != nil || g == nil {
		return id, errors.Join(fmt.Errorf("setgid_group: unknown group name value: %s", name), err)
	}
	id.setgid = g.GID
	return id, nil
}

func (id ids) of(d directory) (uid, gid int) {
	uid, gid = 0, -1
	if d.owner == "mail_owner" || !id.root {
		uid = id.owner
	}
	if d.group == "setgid_group" {
		gid = id.setgid
	}
	return uid, gid
}

// createMissing makes the directories that aren't there. What is there stays.
func (s *script) createMissing() error {
	id, err := s.ids()
	if err != nil {
		return err
	}
	for _, d := range s.directories() {
		if exists(d.path) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(d.path), 0755); err != nil {
			return err
		}
		if err := os.Mkdir(d.path, d.mode); err != nil {
			return err
		}
		if err := dress(d, id); err != nil {
			return err
		}
	}
	return nil
}

// dress sets owner before mode: chown takes mode bits away.
func dress(d directory, id ids) error {
	if id.root {
		uid, gid := id.of(d)
		if err := os.Lchown(d.path, uid, gid); err != nil {
			return err
		}
	}
	return os.Chmod(d.path, d.mode)
}

// checkFatal does what must be done before the system may start.
func (s *script) checkFatal(ctx context.Context) error {
	if err := s.createMissing(); err != nil {
		s.warn("%v", err)
		return s.fatal("unable to create missing queue directories")
	}
	path := filepath.Join(s.conf.Dir(), "master.cf")
	if _, err := os.Stat(path); err != nil {
		return s.fatal("no %s file found", path)
	}
	services, err := mastercf.Load(path, mastercf.Options{Disable: s.conf.List("master_service_disable")})
	if err != nil {
		return s.fatal("%v", err)
	}
	if s.conf.String("maillog_file") != "" && !slices.ContainsFunc(services, func(m mastercf.Service) bool {
		return m.Name == s.conf.String("postlog_service_name") && m.Type == "unix-dgram"
	}) {
		return s.fatal("missing 'postlog' service in master.cf - run 'postfix upgrade-configuration'")
	}
	for _, w := range s.conf.Warnings() {
		s.warn("%s", w)
	}
	s.sharedRights()
	s.unused(ctx)
	s.buildTables(ctx)
	if exists(filepath.Join(s.commands, "postsuper")) {
		return s.command(ctx, "postsuper", "-c", s.conf.Dir())
	}
	return nil
}

// sharedRights warns where the three identities of a mail system are not apart: its
// own, that of users' commands, and the group of the set-gid programs. Postfix
// refuses to run then; a private server of root's has nobody to be kept apart from.
func (s *script) sharedRights() {
	if os.Geteuid() != 0 {
		return
	}
	id, err := s.ids()
	privs, err2 := sysuser.Lookup(s.conf.String("default_privs"))
	if err != nil || err2 != nil || privs == nil {
		return // said elsewhere
	}
	owner, setgid := s.conf.String("mail_owner"), s.conf.String("setgid_group")
	file := filepath.Join(s.conf.Dir(), "main.cf")
	for _, p := range []struct {
		name, kind, value string
		uid, gid          int
	}{
		{"mail_owner", "user", owner, id.owner, id.ownerGroup},
		{"default_privs", "user", privs.Name, privs.UID, privs.GID},
		{"setgid_group", "group", setgid, -1, id.setgid},
	} {
		switch {
		case p.uid == 0:
			s.warn("file %s: parameter %s: user %s has privileged user ID", file, p.name, p.value)
		case p.gid == 0:
			s.warn("file %s: parameter %s: %s %s has privileged group ID", file, p.name, p.kind, p.value)
		}
	}
	switch {
	case id.owner == privs.UID:
		s.warn("file %s: parameters default_privs and mail_owner specify the same user %s", file, owner)
	case id.ownerGroup == id.setgid:
		s.warn("file %s: parameters mail_owner and setgid_group: user %s and group %s have the same group ID: %d", file, owner, setgid, id.setgid)
	case privs.GID == id.setgid:
		s.warn("file %s: parameters default_privs and setgid_group: user %s and group %s have the same group ID: %d", file, privs.Name, setgid, id.setgid)
	}
}

// unused has postconf warn of parameters that nothing uses, misspelt ones above all,
// in its own name as in Postfix.
func (s *script) unused(ctx context.Context) {
	path := filepath.Join(s.commands, "postconf")
	if !exists(path) {
		return
	}
	cmd := exec.CommandContext(ctx, path, "-c", s.conf.Dir(), "-h", "mail_version")
	cmd.Env, cmd.Stderr = s.environ(), s.c.Stderr
	if err := cmd.Run(); err != nil {
		s.warn("%s: %v", path, err)
	}
}

// indexed are the table types that are served from name.cdb.
var indexed = []string{"hash", "btree", "lmdb", "dbm", "cdb"}

// buildTables makes missing indexes from their text files: a table that was a .db
// of Berkeley DB yesterday has none of ours yet, and mail would be deferred.
func (s *script) buildTables(ctx context.Context) {
	done := map[string]bool{}
	build := func(program, word string) {
		kind, name, ok := strings.Cut(strings.Trim(word, "{},"), ":")
		kind = strings.TrimPrefix(kind, "proxy:")
		if !ok || !slices.Contains(indexed, kind) || !filepath.IsAbs(name) || done[name] {
			return
		}
		done[name] = true
		if !exists(name) || exists(name+".cdb") || !exists(filepath.Join(s.commands, program)) {
			return
		}
		s.info("building missing table %s.cdb", name)
		cmd := exec.CommandContext(ctx, filepath.Join(s.commands, program), "-c", s.conf.Dir(), kind+":"+name)
		cmd.Env = s.environ()
		if out, err := cmd.CombinedOutput(); err != nil {
			s.warn("%s %s:%s: %s", program, kind, name, strings.TrimSpace(string(out)))
		}
	}
	for _, name := range []string{"alias_database", "alias_maps"} {
		// The default is /etc/aliases, which is no business of a private set-up.
		if _, set := s.conf.Raw(name); !set && s.conf.Dir() != maincf.DefaultDir {
			continue
		}
		for _, word := range s.conf.List(name) {
			build("postalias", word)
		}
	}
	params := maincf.Params()
	for i := range params {
		if _, set := s.conf.Raw(params[i].Name); !set {
			continue
		}
		for _, word := range s.conf.List(params[i].Name) {
			build("postmap", strings.TrimPrefix(word, "proxy:"))
		}
	}
}

// checkWarn warns about owners and modes that let someone else in. Files below the
// queue directories are looked at only when asked: there may be many.
func (s *script) checkWarn(files bool) {
	id, err := s.ids()
	if err != nil {
		s.warn("%v", err)
		return
	}
	for _, d := range s.directories() {
		uid, gid := id.of(d)
		s.checkOne(d.path, uid, gid, d, id)
		if d.deep && files {
			s.checkBelow(d.path, uid, id)
		}
	}
	s.checkRoot(s.conf.Dir(), id)
	// Programs are shared: they are the business of the default set-up.
	if s.conf.Dir() == maincf.DefaultDir {
		s.checkRoot(s.daemons, id)
		s.checkSetgid(id)
	}
	corrupt, _ := os.ReadDir(filepath.Join(s.queue, "corrupt"))
	for _, e := range corrupt {
		s.warn("damaged message: corrupt/%s", e.Name())
	}
}

func (s *script) checkOne(path string, uid, gid int, d directory, id ids) {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return
	}
	if int(st.Uid) != uid {
		s.warn("not owned by %s: %s", s.name(uid, id), path)
	}
	if gid >= 0 && int(st.Gid) != gid {
		s.warn("not owned by group %s: %s", s.conf.String("setgid_group"), path)
	}
	if d.group == "" && st.Mode&022 != 0 {
		s.warn("group or other writable: %s", path)
	}
}

// name is a user's name in a warning.
func (s *script) name(uid int, id ids) string {
	if uid == 0 {
		return "root"
	}
	return s.conf.String("mail_owner")
}

func (s *script) checkBelow(dir string, uid int, id ids) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir || e.Type()&(fs.ModeSocket|fs.ModeNamedPipe) != 0 {
			return nil
		}
		if fi, err := e.Info(); err == nil {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != uid {
				s.warn("not owned by %s: %s", s.name(uid, id), path)
			}
		}
		return nil
	})
}

// checkRoot looks at what only root may change: settings and programs.
func (s *script) checkRoot(dir string, id ids) {
	uid := 0
	if !id.root {
		uid = id.owner
	}
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		fi, err := os.Stat(path)
		if err != nil {
			return nil
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != uid && int(st.Uid) != 0 {
			s.warn("not owned by root: %s", path)
		}
		if fi.Mode()&022 != 0 {
			s.warn("group or other writable: %s", path)
		}
		return nil
	})
}

// checkSetgid looks at the two commands that are more than their callers.
func (s *script) checkSetgid(id ids) {
	if !id.root || s.conf.String("mail_owner") == "root" { // a private server of root's has no other users
		return
	}
	for _, name := range []string{"postqueue", "postdrop"} {
		path := filepath.Join(s.commands, name)
		var st syscall.Stat_t
		if syscall.Stat(path, &st) != nil {
			continue
		}
		if int(st.Gid) != id.setgid {
			s.warn("not owned by group %s: %s", s.conf.String("setgid_group"), path)
		}
		if st.Mode&02111 != 02111 {
			s.warn("not set-gid or not owner+group+world executable: %s", path)
		}
	}
}

// setPermissions gives every directory of ours, and the set-gid commands, the owner
// and mode they should have. name=value arguments are not saved to main.cf yet.
func (s *script) setPermissions() error {
	if err := s.noSettings(); err != nil {
		return err
	}
	if err := s.createMissing(); err != nil {
		return s.fatal("unable to create missing queue directories: %v", err)
	}
	id, err := s.ids()
	if err != nil {
		return s.fatal("%v", err)
	}
	for _, d := range s.directories() {
		if err := dress(d, id); err != nil {
			return s.fatal("%v", err)
		}
		if !d.deep || !id.root {
			continue
		}
		uid, _ := id.of(d)
		err := filepath.WalkDir(d.path, func(path string, e fs.DirEntry, err error) error {
			if err != nil || path == d.path || e.Type()&(fs.ModeSocket|fs.ModeNamedPipe) != 0 {
				return err
			}
			return os.Lchown(path, uid, -1)
		})
		if err != nil {
			return s.fatal("%v", err)
		}
	}
	if id.root && s.conf.Dir() == maincf.DefaultDir {
		for _, name := range []string{"postqueue", "postdrop"} {
			path := filepath.Join(s.commands, name)
			if !exists(path) {
				continue
			}
			if err := errors.Join(os.Lchown(path, 0, id.setgid), os.Chmod(path, 0755|fs.ModeSetgid)); err != nil {
				return s.fatal("%v", err)
			}
		}
	}
	return nil
}

// noSettings refuses name=value: nothing is done rather than half of it.
func (s *script) noSettings() error {
	if len(s.args) > 0 {
		return s.fatal("name=value arguments are not supported: use postconf -e, then try again")
	}
	return nil
}

// upgrade builds missing tables and tells what a master.cf of an older Postfix lacks.
// Services that are functions here (see master(8)) need no line.
func (s *script) upgrade(ctx context.Context) error {
	if err := s.noSettings(); err != nil {
		return err
	}
	path := filepath.Join(s.conf.Dir(), "master.cf")
	services, err := mastercf.Load(path, mastercf.Options{})
	if err != nil {
		return s.fatal("%v", err)
	}
	s.buildTables(ctx)
	missing := 0
	for _, want := range []struct{ name, kind, line string }{
		{"postlog", "unix-dgram", "postlog   unix-dgram n  -       n       -       1       postlogd"},
	} {
		has := slices.ContainsFunc(services, func(m mastercf.Service) bool { return m.Name == want.name && m.Type == want.kind })
		if has {
			continue
		}
		missing++
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return s.fatal("%v", err)
		}
		_, err = f.WriteString(want.line + "\n")
		if err := errors.Join(err, f.Close()); err != nil {
			return s.fatal("%v", err)
		}
		fmt.Fprintf(s.c.Stdout, "Editing %s, adding missing entry for %s %s service\n", path, want.name, want.kind)
	}
	if missing == 0 {
		fmt.Fprintf(s.c.Stdout, "%s needs no change\n", path)
	}
	return nil
}
