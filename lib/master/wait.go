package master

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// reap collects the ends of our children, and as pid 1 those of everyone's.
func (m *Master) reap(ctx context.Context) {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGCHLD)
	defer signal.Stop(ends)
	for {
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			m.events <- func() { m.exited(pid, status) }
		}
		select {
		case <-ends:
		case <-ctx.Done():
			return
		}
	}
}

// watch waits for the first client of a group that nobody serves yet.
func (m *Master) watch(g *group) {
	for _, l := range g.proc.Lines {
		for _, s := range l.Sockets {
			e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(s.FD)}
			if err := unix.EpollCtl(m.epoll, unix.EPOLL_CTL_ADD, s.FD, &e); err != nil {
				m.Log.Warnf("%s: epoll: %v", s.Addr, err)
				continue
			}
			m.knocks[s.FD] = g
			g.watched = append(g.watched, s.FD)
		}
	}
}

func (m *Master) unwatch(g *group) {
	for _, fd := range g.watched {
		_ = unix.EpollCtl(m.epoll, unix.EPOLL_CTL_DEL, fd, nil)
		delete(m.knocks, fd)
	}
	g.watched = nil
}

// listenForKnocks turns the first clients into events.
func (m *Master) listenForKnocks() {
	events := make([]unix.EpollEvent, 16)
	for {
		n, err := unix.EpollWait(m.epoll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			fd := int(e.Fd)
			m.events <- func() { m.knocked(fd) }
		}
	}
}

func (m *Master) knocked(fd int) {
	g := m.knocks[fd]
	if g == nil {
		return
	}
	m.unwatch(g)
	if g.current == nil && !g.throttled && !m.ending {
		g.current = m.spawn(g)
	}
}
