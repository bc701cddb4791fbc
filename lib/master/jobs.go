package master

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"angarium/lib/maillog"
)

// Job is a command by the clock: an EVENTS line of cyrus.conf.
type Job struct {
	Name   string
	Path   string
	Args   []string
	Period time.Duration // 0: never
	At     int           // minute of the day; -1: count from the start
	Cron   *Cron         // instead of Period and At
}

// next is when the job runs after t.
func (j *Job) next(t time.Time) time.Time {
	switch {
	case j.Cron != nil:
		return j.Cron.Next(t)
	case j.At >= 0:
		n := time.Date(t.Year(), t.Month(), t.Day(), j.At/60, j.At%60, 0, 0, t.Location())
		if !n.After(t) {
			// By date and not by 24 hours: the clock may be put forward in between.
			n = time.Date(t.Year(), t.Month(), t.Day()+1, j.At/60, j.At%60, 0, 0, t.Location())
		}
		return n
	case j.Period > 0:
		return t.Add(j.Period)
	}
	return time.Time{}
}

// Keeper is a command that is kept alive: a DAEMON line of cyrus.conf.
type Keeper struct {
	Name string
	Path string
	Args []string
	Wait bool // it says "ok" on descriptor 3 before anything else is started
}

func (k *Keeper) same(o *Keeper) bool {
	return k.Name == o.Name && k.Path == o.Path && slices.Equal(k.Args, o.Args)
}

// jobs are what runs beside the plan's processes.
type jobs struct {
	timers  []*time.Timer
	events  map[int]running // commands by the clock
	keepers []*keeper
	begun   bool
}

type running struct {
	kind, name, path string
	started          time.Time
}

// keeper is a Keeper over time.
type keeper struct {
	Keeper
	pid     int
	started time.Time
	quick   int
	gone    bool // no longer in the configuration
}

// startJobs sets the clocks anew, and brings the keepers up to date.
func (m *Master) startJobs(s *Setup) {
	for _, t := range m.jobs.timers {
		t.Stop()
	}
	m.jobs.timers = nil
	for i := range s.Jobs {
		j := &s.Jobs[i]
		if j.Cron == nil && j.At < 0 {
			m.runJob(j) // as Cyrus does: a period begins with the deed
		}
		m.arm(s, j, time.Now())
	}
	for _, k := range m.jobs.keepers {
		if !slices.ContainsFunc(s.Keepers, func(o Keeper) bool { return k.same(&o) }) {
			k.gone = true
			if k.pid != 0 {
				_ = syscall.Kill(k.pid, syscall.SIGTERM)
			}
		} else if k.pid != 0 && m.Cyrus {
			_ = syscall.Kill(k.pid, syscall.SIGHUP)
		}
	}
	for i := range s.Keepers {
		if slices.ContainsFunc(m.jobs.keepers, func(k *keeper) bool { return !k.gone && k.same(&s.Keepers[i]) }) {
			continue
		}
		k := &keeper{Keeper: s.Keepers[i]}
		m.jobs.keepers = append(m.jobs.keepers, k)
		m.keep(k)
	}
}

// arm sets a job's next clock. A clock that was put back doesn't run a job twice:
// the next time is counted from the later of now and the time that was due.
func (m *Master) arm(s *Setup, j *Job, from time.Time) {
	due := j.next(from)
	if due.IsZero() {
		return
	}
	t := time.AfterFunc(time.Until(due), func() {
		m.events <- func() {
			if m.ending || m.setup != s {
				return
			}
			m.runJob(j)
			now := time.Now()
			if now.Before(due) {
				now = due
			}
			m.arm(s, j, now)
		}
	})
	m.jobs.timers = append(m.jobs.timers, t)
	if len(m.jobs.timers) > 4*len(s.Jobs)+64 {
		m.jobs.timers = slices.Clone(m.jobs.timers[len(m.jobs.timers)-len(s.Jobs):])
	}
}

func (m *Master) runJob(j *Job) {
	pid, err := m.fork(j.Path, j.Args)
	if err != nil {
		if !m.missing[j.Path] || !os.IsNotExist(err) { // once will do
			m.missing[j.Path] = true
			m.Log.Log(maillog.Err, "can't exec %s on schedule: %s", j.Path, maillog.Reason(err))
		}
		return
	}
	if m.jobs.events == nil {
		m.jobs.events = map[int]running{}
	}
	m.jobs.events[pid] = running{"EVENT", j.Name, j.Path, time.Now()}
}

// fork starts a command as the user of the set-up; more becomes descriptor 3.
func (m *Master) fork(path string, args []string, more ...uintptr) (int, error) {
	return syscall.ForkExec(path, append([]string{filepath.Base(path)}, args...), &syscall.ProcAttr{
		Env:   m.setup.Environ,
		Files: append([]uintptr{0, 1, 2}, more...),
		Sys:   &syscall.SysProcAttr{Credential: m.setup.Cred},
	})
}

// startWaiting starts the keepers that others need, one by one: each says "ok" on
// descriptor 3 when it is ready. Only the first start is waited for, as in Cyrus.
func (m *Master) startWaiting(s *Setup) {
	if m.jobs.begun {
		return
	}
	m.jobs.begun = true
	for _, k := range s.Keepers {
		if !k.Wait {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			m.Log.Log(maillog.Err, "ERROR: unable to spawn waitdaemon %s/daemon: pipe failed: %v", k.Name, err)
			continue
		}
		pid, err := m.fork(k.Path, k.Args, w.Fd())
		w.Close()
		if err != nil {
			r.Close()
			m.Log.Log(maillog.Err, "cannot find executable for waitdaemon '%s'", k.Name)
			continue
		}
		m.jobs.keepers = append(m.jobs.keepers, &keeper{Keeper: k, pid: pid, started: time.Now()})
		b := make([]byte, 4)
		_ = r.SetReadDeadline(time.Now().Add(waitTime))
		if _, err := io.ReadFull(r, b); err != nil || string(b) != "ok\r\n" {
			m.Log.Log(maillog.Err, "ERROR: waitdaemon %s/daemon did not write \"ok\" to fd 3: %v", k.Name, err)
		}
		r.Close()
	}
}

// waitTime is how long a daemon with wait=y may take. Cyrus waits forever; but a
// server that never starts helps nobody.
const waitTime = 60 * time.Second

func (m *Master) keep(k *keeper) {
	if m.ending || k.gone {
		return
	}
	pid, err := m.fork(k.Path, k.Args)
	if err != nil {
		if os.IsNotExist(err) {
			m.Log.Log(maillog.Err, "cannot find executable for daemon '%s'", k.Name)
			k.gone = true
			return
		}
		m.Log.Log(maillog.Err, "can't fork process to run daemon %s: %v", k.Name, err)
		m.keepLater(k)
		return
	}
	k.pid, k.started = pid, time.Now()
}

func (m *Master) keepLater(k *keeper) {
	time.AfterFunc(10*time.Second, func() { m.events <- func() { m.keep(k) } })
}

// exited reports whether pid was one of ours, and starts a keeper again.
func (j *jobs) exited(m *Master, pid int, status syscall.WaitStatus) bool {
	if r, ok := j.events[pid]; ok {
		delete(j.events, pid)
		m.cyrusEnd(r, pid, status)
		return true
	}
	for _, k := range j.keepers {
		if k.pid != pid {
			continue
		}
		k.pid = 0
		if !m.ending {
			m.cyrusEnd(running{"DAEMON", k.Name, k.Path, k.started}, pid, status)
		}
		if time.Since(k.started) > 10*time.Second {
			k.quick = 0
		} else if k.quick++; k.quick > 5 {
			m.Log.Log(maillog.Err, "daemon %s/daemon is repeatedly failing", k.Name)
			m.keepLater(k)
			return true
		}
		m.keep(k)
		return true
	}
	return false
}

func (j *jobs) pids() (pids []int) {
	for pid := range j.events {
		pids = append(pids, pid)
	}
	for _, k := range j.keepers {
		if k.pid != 0 {
			pids = append(pids, k.pid)
		}
	}
	return pids
}

func (j *jobs) running() bool { return len(j.pids()) > 0 }

func (j *jobs) stop() {
	for _, t := range j.timers {
		t.Stop()
	}
	for _, pid := range j.pids() {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
}

func (j *jobs) kill() {
	for _, pid := range j.pids() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
