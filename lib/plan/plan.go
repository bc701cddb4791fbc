// Package plan tells which processes a set-up consists of: it turns the lines of
// master.cf or cyrus.conf into processes, with the sockets each listens on.
//
// Lines with the same program, user and chroot share one process. Many of
// Postfix' programs have no process here, because another program does their
// work in-process; their lines are still handed to it, so that their settings
// and limits are obeyed (the table in standin.go says who and why).
//
// The package opens nothing and starts nothing: master does that, and service
// for a daemon that a person started by hand.
package plan

import (
	"path/filepath"
	"strings"

	"angarium/lib/ipc"
)

// Process is one program to run.
type Process struct {
	Program string   // name of the program file
	Path    string   // where it lies
	Args    []string // what follows the name: for ps(1), and for programs that aren't ours
	Config  string   // configuration directory (Postfix) or file (Cyrus)
	Root    bool     // keeps the rights of master
	Chroot  bool
	Eager   bool // start it now; others when someone knocks
	Lines   []ipc.Line
}

// Key tells processes apart, and finds the successor of one after a reload.
func (p *Process) Key() string {
	key := p.Path + " " + p.Config
	if p.Root {
		key += " root"
	}
	if p.Chroot {
		key += " chroot"
	}
	return key
}

// Own reports whether the line's command is the process's program, and not one
// that it stands in for.
func (p *Process) Own(l *ipc.Line) bool { return filepath.Base(l.Command) == p.Program }

// Plan is the whole.
type Plan struct {
	Processes []*Process
	Notes     []string // what a reader of the log should know: lines that nobody serves
}

// find returns the process with p's key, adding p if there is none.
func (pl *Plan) find(p Process) *Process {
	for _, q := range pl.Processes {
		if q.Key() == p.Key() {
			return q
		}
	}
	pl.Processes = append(pl.Processes, &p)
	return &p
}

// Only keeps the processes of one program and returns them.
func (pl *Plan) Only(program string) []*Process {
	var keep []*Process
	for _, p := range pl.Processes {
		if p.Program == program {
			keep = append(keep, p)
		}
	}
	return keep
}

// splitHostPort splits as Postfix and Cyrus do: a bare word is a
// port, brackets hold an IPv6 address.
func splitHostPort(s string) (host, port string) {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		if h, p, ok := strings.Cut(rest, "]"); ok {
			return h, strings.TrimPrefix(p, ":")
		}
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		return s[:i], s[i+1:]
	}
	return "", s
}
