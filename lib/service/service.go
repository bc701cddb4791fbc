// Package service is the child's side of the contract between master and the
// daemons: what every daemon's main calls.
//
// A daemon is one process for all lines of master.cf (or cyrus.conf) with the
// same program, user and chroot. Run gets it its listeners from master, or makes
// them when a person starts it by hand, and then keeps this order:
//
//  1. Setup: open keys, maps, databases and the log, with the rights of the parent
//  2. chroot, then setgid, setgroups, setuid: only as root, and as the line says
//  3. tell master "ready", then accept
//  4. one goroutine a session, at most Limit of them for each line; the others wait
//     in the backlog, and new sessions of a full line see Stress
//  5. drain (reload: a successor has the same listeners, or master is gone): take
//     nothing new, end with the last session. SIGTERM: end the sessions' context,
//     let them finish what was acknowledged, and end after StopGrace at the latest
//
// A session that panics ends alone, with its stack in the log. Each session has a
// log number of its own. The process has a memory limit and gives memory back
// after a burst.
//
// The working directory is queue_directory (configdirectory for Cyrus' family), with
// chroot or without, so "private/auth" means the same to both.
//
// A daemon's main looks like this:
//
//	func Main(ctx context.Context, c *cli.Cmd) error {
//		return service.Run(ctx, c, service.Daemon{Program: "smtpd", Setup: setup})
//	}
//
//	func setup(ctx context.Context, env *service.Env) (service.Handler, error) {
//		d := &daemon{}
//		for _, s := range env.Services { // one for each line, with its own -o settings
//			d.open(s.Conf) ...
//		}
//		return d, nil
//	}
//
//	func (d *daemon) Serve(ctx context.Context, s *service.Session) {
//		s.Log.Infof("connect from ...")
//		... s.Conn, s.Service.Name, s.Service.Conf, s.Stress
//	}
package service

import (
	"context"
	"net"
	"time"

	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/maincf"
	"angarium/lib/ipc"
	"angarium/lib/maillog"
)

// StopGrace is how long sessions may take to end after SIGTERM. `postfix stop`
// waits five seconds before it uses force.
const StopGrace = 4 * time.Second

// Family says whose configuration a daemon reads.
type Family int

const (
	Postfix Family = iota // main.cf and master.cf; -c DIR
	Cyrus                 // imapd.conf and cyrus.conf; -C FILE -M FILE
)

// Daemon describes a program to Run.
type Daemon struct {
	Program string // "smtpd"; its own lines, and those it stands in for, are its services
	Family  Family
	// Setup opens what the daemon will need, before rights are dropped, and returns
	// who serves. An error ends the process (by master: throttled, and on reload the
	// old process goes on).
	Setup func(ctx context.Context, env *Env) (Handler, error)
}

// Env is what a daemon was given.
type Env struct {
	Program  string
	Main     *maincf.Config    // Postfix family, without any line's -o settings
	Imapd    *imapdconf.Config // Cyrus family, without any service's prefix
	Log      *maillog.Logger   // the process's own: program name and pid
	Services []*Service
	ByHand   bool // a person started it, not master

	child *child
}

// Conf is main.cf as a line whose work is done in this process sees it: the line of
// that command, and of that name unless it is "". Where there is none, it is Main.
func (e *Env) Conf(command, name string) *maincf.Config {
	for _, s := range e.Services {
		if s.Command == command && (name == "" || s.Name == name) && s.Conf != nil {
			return s.Conf
		}
	}
	return e.Main
}

// Service is one line: what it is called, its settings and what it listens on.
type Service struct {
	ipc.Line
	Conf *maincf.Config // Postfix family: main.cf with the line's -o settings on top
	// StressConf is Conf with stress=yes, for sessions under Stress. Lines without a
	// limit are never under stress; it is Conf there.
	StressConf *maincf.Config
	Imapd      *imapdconf.Config // Cyrus family: imapd.conf as this service sees it
	Log        *maillog.Logger   // tag of the line ("postfix/submission/smtpd", "cyrus/imaps"), pid
	// Dead is for Setup to say that this line can't be served, by a bad -o setting,
	// say: its clients wait in the backlog and the log tells why, as when master(8)
	// throttles a service. The other lines of the process serve.
	Dead error

	run *line
}

// Session is one connection to a Service.
type Session struct {
	*Service
	Conn   net.Conn        // *net.TCPConn or *net.UnixConn; closed when Serve returns
	Log    *maillog.Logger // with a number that no other live session has
	Stress bool            // the line was full when this one came
}

// Handler serves sessions. Serve runs in a goroutine of its own and may panic.
// When ctx ends the session should finish what it has acknowledged and return;
// reads on Conn fail from then on.
type Handler interface {
	Serve(ctx context.Context, s *Session)
}

// A Handler may also be any of these.
type (
	// Runner does work of its own (qmgr's scheduler). Run starts once rights are
	// dropped, before the first session; when it returns the process ends.
	Runner interface {
		Run(ctx context.Context) error
	}
	// Waker is called at the line's wake-up times, and with the bytes that
	// someone wrote to a named pipe. A wake-up of the clock is "W".
	Waker interface {
		Wake(ctx context.Context, s *Service, request []byte)
	}
	// PacketHandler serves unix-dgram and udp lines. b is valid during the call.
	PacketHandler interface {
		ServePacket(ctx context.Context, s *Service, b []byte, from net.Addr)
	}
	// PacketFlusher is a PacketHandler that hears when no packet is waiting any more.
	PacketFlusher interface {
		FlushPackets()
	}
	// Drainer hears that a successor serves (or that master is gone). It returns when
	// nothing of its own is left to do; the process ends when the last session has ended, too.
	Drainer interface {
		Drain(ctx context.Context)
	}
)
