// Package proclist is the list of who is connected: a small file for each live
// session, in the folder proc below configdirectory or at proc_path.
//
//	proc/4194394    pop3 <tab> pc.test [192.0.2.20] <tab> bob <tab> user.bob <tab> command
//
// The form is Cyrus', so that its programs read ours; the name of a file is the
// session's number in the log, whose low bits are the pid of its process (see
// maillog). It promises a whole entry or none, and that entries of dead processes
// are not shown. Nothing is synced: after a crash nobody is connected.
package proclist

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Entry is a session.
type Entry struct {
	ID      int64 // the number in brackets in the log
	Service string
	Host    string // "pc.test [192.0.2.20]"
	User    string
	Mailbox string
	Command string
}

// pidBits is how many low bits of a session's number are its process's pid.
const pidBits = 22

// Put writes or replaces the session's file.
func Put(dir string, e Entry) error {
	line := strings.Join([]string{clean(e.Service), clean(e.Host), clean(e.User), clean(e.Mailbox), clean(e.Command)}, "\t") + "\n"
	name := filepath.Join(dir, strconv.FormatInt(e.ID, 10))
	if err := os.WriteFile(name+".new", []byte(line), 0o644); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Remove takes the session off the list.
func Remove(dir string, id int64) error {
	return os.Remove(filepath.Join(dir, strconv.FormatInt(id, 10)))
}

// clean keeps a stranger's text from forging fields.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 127 {
			return '?'
		}
		return r
	}, s)
}

// List reads the sessions of living processes, in the order of their numbers. It
// removes what dead ones left where it may.
func List(dir string) ([]Entry, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []Entry
	for _, f := range files {
		id, err := strconv.ParseInt(f.Name(), 10, 64)
		if err != nil || id <= 0 {
			continue
		}
		name := filepath.Join(dir, f.Name())
		if pid := int(id & (1<<pidBits - 1)); syscall.Kill(pid, 0) == syscall.ESRCH {
			_ = os.Remove(name)
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			continue // the session has just ended
		}
		e, err := parse(string(data))
		if err != nil {
			continue
		}
		e.ID = id
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

func parse(line string) (Entry, error) {
	f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
	if len(f) < 2 {
		return Entry{}, fmt.Errorf("bad entry %q", line)
	}
	f = append(f, "", "", "")
	return Entry{Service: f[0], Host: f[1], User: f[2], Mailbox: f[3], Command: f[4]}, nil
}
