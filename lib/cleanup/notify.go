package cleanup

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"angarium/lib/unixsock"
)

// Notifier tells qmgr which messages are new, so that it opens them without
// scanning: "N", the queue id and LF, on a connection to public/qmgr that stays
// open. It never waits for qmgr and never fails: qmgr scans incoming anyway, when
// it starts and now and then.
type Notifier struct {
	path string
	ids  chan string
	lost atomic.Bool // some id did not fit
	once sync.Once
}

// NewNotifier tells the queue manager that listens at path.
func NewNotifier(path string) *Notifier {
	return &Notifier{path: path, ids: make(chan string, 1024)}
}

// Notify passes an id on. While more than a thousand wait, further ones are
// dropped, and qmgr is asked to scan.
func (n *Notifier) Notify(id string) {
	n.once.Do(func() { go n.run() })
	select {
	case n.ids <- id:
	default:
		n.lost.Store(true)
	}
}

// run sends what has come up since the last write in one piece.
func (n *Notifier) run() {
	var conn net.Conn
	var buf []byte
	for id := range n.ids {
		buf = append(append(append(buf[:0], 'N'), id...), '\n')
		for more := true; more && len(buf) < 32<<10; {
			select {
			case id := <-n.ids:
				buf = append(append(append(buf, 'N'), id...), '\n')
			default:
				more = false
			}
		}
		if n.lost.Swap(false) {
			buf = append(buf, 'I')
		}
		for try := 0; try < 2; try++ { // qmgr may have been restarted since
			if conn == nil {
				c, err := unixsock.Dial(context.Background(), "unix", n.path)
				if err != nil {
					break
				}
				conn = c
			}
			_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := conn.Write(buf); err == nil {
				break
			}
			conn.Close()
			conn = nil
		}
	}
}
