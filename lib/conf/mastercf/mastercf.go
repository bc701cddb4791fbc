// Package mastercf reads master.cf of Postfix 2.x to 3.7: one service a line,
// what it listens on, how it is confined, and the command that serves it.
package mastercf

import (
	"time"

	"angarium/lib/conf/maincf"
)

// Service is one entry of master.cf.
type Service struct {
	Name           string        // "smtp", "127.0.0.1:10025", "cleanup", "private-path"
	Type           string        // inet unix fifo pass unix-dgram
	Private        bool          // socket in private/, not public/ (unix, fifo, pass)
	Unprivileged   bool          // runs as mail_owner
	Chroot         bool          // runs in queue_directory
	Wakeup         time.Duration // 0: never
	WakeupOnlyUsed bool          // the "?" after the wake-up time
	MaxProc        int           // 0: no limit; -1: "-", that is default_process_limit where set
	Command        string        // program name, below daemon_directory
	Args           []string      // its arguments; -o {name = value} come as name=value
	Line           int           // of the entry's first line in the file
}

// Load reads the file.
func Load(path string, conf *maincf.Config) ([]Service, error) { return nil, nil }

// Overrides are the name=value of the -o options, in their order.
func (s *Service) Overrides() []string { return nil }
