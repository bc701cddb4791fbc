package master

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// timerSlack is how late the kernel may wake a daemon's threads, so that it can
// do it together with others. The Go runtime watches its threads by naps of 20 us,
// as long as the process is not idle: with the kernel's 50 us a fifth of what a
// letter costs is that watch. No time-out of a mail system cares for a millisecond.
const timerSlack = time.Millisecond

// relaxed starts a process whose timers have that slack: it is inherited, and
// the runtime of a process makes its threads before any code of the program runs.
func relaxed(start func() (int, error)) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0) == nil {
		defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }()
	}
	return start()
}

// startsOthers reports whether a program runs people's own commands, which get the
// timers that they are used to.
func startsOthers(program string) bool {
	switch program {
	case "local", "virtual", "pipe", "spawn":
		return true
	}
	return false
}
