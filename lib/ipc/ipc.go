// Package ipc is how the programs of one mail system meet: listening sockets that
// a parent opens and a child inherits, open files that travel over a unix socket,
// and the one-byte knocks (triggers) that make a service look around.
//
// A parent describes to its child which descriptors are what in a Handover, a
// value of one environment variable, and keeps one control socket to it:
//
//	child -> parent   "ready"            rights are dropped, clients are served
//	child -> parent   "failed TEXT"      it will not come up, and has no log to say so
//	child -> parent   "open NAME"        NAME stands in the configuration, but this
//	                                     child may not (or no longer) open it
//	parent -> child   "file" + descriptor, or "sorry TEXT"
//	parent -> child   "drain"            a successor serves: take no new session, and
//	                                     end with the last one
//
// A parent that goes away closes the control socket; for the child that is "drain".
//
// The package trusts descriptors only as far as the kernel vouches for them
// (Peer). It does not know which services exist, nor what they talk.
package ipc

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// EnvHandover is the environment variable that holds a Handover.
const EnvHandover = "ANGARIUM_HANDOVER"

// Handover tells a child what it has inherited.
type Handover struct {
	Parent  int    `json:"parent"`           // pid that must be ours, so that a grandchild doesn't believe it
	Control int    `json:"control"`          // descriptor of the control socket
	Config  string `json:"config,omitempty"` // configuration directory or file
	Lines   []Line `json:"lines"`
}

// Line is one line of master.cf or cyrus.conf, as far as the program that does
// its work needs it. Several lines share a process when program, user and
// chroot are the same.
type Line struct {
	Name         string        `json:"name"`    // "smtp", "127.0.0.1:10025", "cleanup", "imaps"
	Type         string        `json:"type"`    // inet unix fifo pass unix-dgram
	Command      string        `json:"command"` // the program that the line names; another may stand in for it
	Args         []string      `json:"args,omitempty"`
	Overrides    []string      `json:"overrides,omitempty"` // the name=value of -o
	Limit        int           `json:"limit,omitempty"`     // sessions or deliveries at a time; 0: none
	Wakeup       time.Duration `json:"wakeup,omitempty"`
	WakeupUsed   bool          `json:"wakeup_used,omitempty"` // wake up only once it was used
	Private      bool          `json:"private,omitempty"`
	Chroot       bool          `json:"chroot,omitempty"`
	Unprivileged bool          `json:"unprivileged,omitempty"`
	Sockets      []Socket      `json:"sockets,omitempty"`
}

// Socket is one listening descriptor of a Line.
type Socket struct {
	Address
	FD int `json:"fd"`
}

// Inherited returns what the parent of this process handed over; ok is false for
// a process that a person started. The variable is taken out of the
// environment: it is for this process only.
func Inherited() (h Handover, ok bool, err error) {
	s := os.Getenv(EnvHandover)
	if s == "" {
		return h, false, nil
	}
	os.Unsetenv(EnvHandover)
	if err := json.Unmarshal([]byte(s), &h); err != nil {
		return h, false, fmt.Errorf("%s: %w", EnvHandover, err)
	}
	if h.Parent != os.Getppid() {
		return Handover{}, false, nil
	}
	return h, true, nil
}

// Environ is h as an environment entry.
func (h Handover) Environ() (string, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return "", err
	}
	return EnvHandover + "=" + string(b), nil
}
