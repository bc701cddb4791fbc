// Package sysuser looks system users and groups up without cgo: in the passwd
// and group files, and, where nsswitch.conf names other sources (LDAP, systemd
// and the like), by getent(1).
//
// It promises to tell "no such user" from "could not ask", so that a directory
// server that is down defers mail instead of bouncing it.
package sysuser

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// User is a line of passwd(5).
type User struct {
	Name     string
	Password string
	UID, GID int
	Gecos    string
	Home     string
	Shell    string
}

// Line is the user as passwd(5) has it.
func (u *User) Line() string {
	return fmt.Sprintf("%s:%s:%d:%d:%s:%s:%s", u.Name, u.Password, u.UID, u.GID, u.Gecos, u.Home, u.Shell)
}

// Group is a line of group(5).
type Group struct {
	Name    string
	GID     int
	Members []string
}

// Line is the group as group(5) has it.
func (g *Group) Line() string {
	return fmt.Sprintf("%s:x:%d:%s", g.Name, g.GID, strings.Join(g.Members, ","))
}

// Lookup finds a user by name. A nil user without an error: there is none.
func Lookup(name string) (*User, error) {
	f, err := find("passwd", func(f []string) bool { return f[0] == name }, name)
	return user(f), err
}

// LookupID finds a user by number.
func LookupID(uid int) (*User, error) {
	id := strconv.Itoa(uid)
	f, err := find("passwd", func(f []string) bool { return len(f) > 2 && f[2] == id }, id)
	return user(f), err
}

// LookupGroup finds a group by name. A nil group without an error: there is none.
func LookupGroup(name string) (*Group, error) {
	f, err := find("group", func(f []string) bool { return f[0] == name }, name)
	return group(f), err
}

// Groups are the numbers of all groups that a user belongs to, its own first.
func Groups(u *User) ([]int, error) {
	out := []int{u.GID}
	err := eachLine("/etc/group", func(f []string) bool {
		if g := group(f); g != nil && g.GID != u.GID {
			for _, m := range g.Members {
				if m == u.Name {
					out = append(out, g.GID)
				}
			}
		}
		return true
	})
	return out, err
}

func user(f []string) *User {
	if len(f) < 7 {
		return nil
	}
	uid, err1 := strconv.Atoi(f[2])
	gid, err2 := strconv.Atoi(f[3])
	if err1 != nil || err2 != nil {
		return nil
	}
	return &User{f[0], f[1], uid, gid, f[4], f[5], f[6]}
}

func group(f []string) *Group {
	if len(f) < 4 {
		return nil
	}
	gid, err := strconv.Atoi(f[2])
	if err != nil {
		return nil
	}
	g := &Group{Name: f[0], GID: gid}
	if f[3] != "" {
		g.Members = strings.Split(f[3], ",")
	}
	return g
}

// find returns the fields of the first line that matches, from the file or else
// from getent. A nil slice: none.
func find(database string, match func([]string) bool, key string) (found []string, err error) {
	if key == "" || strings.ContainsAny(key, ":\n\x00") {
		return nil, nil
	}
	err = eachLine("/etc/"+database, func(f []string) bool {
		if match(f) {
			found = f
		}
		return found == nil
	})
	if err != nil || found != nil || !otherSources(database) {
		return found, err
	}
	return getent(database, key)
}

func eachLine(file string, f func(fields []string) bool) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		s := strings.TrimRight(string(line), "\n")
		if s == "" || s[0] == '#' || s[0] == '+' || s[0] == '-' {
			continue
		}
		if !f(strings.Split(s, ":")) {
			return nil
		}
	}
	return nil
}

// otherSources reports whether nsswitch.conf names more than the files.
func otherSources(database string) bool {
	f, err := os.Open("/etc/nsswitch.conf")
	if err != nil {
		return false
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line, ok := strings.CutPrefix(strings.TrimSpace(sc.Text()), database+":")
		if !ok {
			continue
		}
		for _, word := range strings.Fields(line) {
			switch {
			case word == "files", word == "compat", word[0] == '[':
			case word == "systemd" && !exists("/run/systemd/userdb"):
			default:
				return true
			}
		}
	}
	return false
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// answers of getent are kept for a minute: a busy server asks often.
const keep = time.Minute

type answer struct {
	fields []string
	until  time.Time
}

var cache struct {
	sync.Mutex
	m map[string]answer
}

func getent(database, key string) ([]string, error) {
	id := database + ":" + key
	cache.Lock()
	if a, ok := cache.m[id]; ok && time.Now().Before(a.until) {
		cache.Unlock()
		return a.fields, nil
	}
	cache.Unlock()
	path, err := exec.LookPath("getent")
	if err != nil {
		return nil, nil // no other way to ask on this system
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--", database, key).Output()
	var fields []string
	var exit *exec.ExitError
	switch {
	case err == nil:
		fields = strings.Split(strings.TrimRight(string(out), "\n"), ":")
	case errors.As(err, &exit) && exit.ExitCode() == 2: // getent(1): not found
	default:
		return nil, fmt.Errorf("getent %s: %w", database, err)
	}
	cache.Lock()
	defer cache.Unlock()
	if cache.m == nil || len(cache.m) > 10000 {
		cache.m = map[string]answer{}
	}
	cache.m[id] = answer{fields, time.Now().Add(keep)}
	return fields, nil
}
