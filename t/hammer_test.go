package t

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func init() {
	commands["hammer"] = cmdHammer
	commands["rest"] = cmdRest
	commands["acked"] = cmdAcked
}

// hammer is load that goes on beside a script.
type hammer struct {
	stop  chan struct{}
	wait  sync.WaitGroup
	mu    sync.Mutex
	acked map[string]bool
}

var hammers sync.Map // work folder -> *hammer

// hammer host:port recipient sessions [size]: sends letters without a pause,
// over again whenever the server is gone, until "rest". Each carries a number;
// those that got 250 are remembered for "acked".
func cmdHammer(ts *testscript.TestScript, neg bool, args []string) {
	sessions, err := strconv.Atoi(args[2])
	ts.Check(err)
	size := 4000
	if len(args) > 3 {
		size, err = strconv.Atoi(args[3])
		ts.Check(err)
	}
	h := &hammer{stop: make(chan struct{}), acked: map[string]bool{}}
	hammers.Store(ts.Getenv("WORK"), h)
	body := strings.Repeat("sixty-three characters of text that fill a letter, line by line\n", size/64)
	for s := range sessions {
		h.wait.Add(1)
		go func() {
			defer h.wait.Done()
			for n := 0; !h.stopped(); {
				c, err := dialSMTP(args[0])
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				for err == nil && !h.stopped() {
					n++
					id := fmt.Sprintf("%d.%d", s, n)
					letter := fmt.Sprintf("Subject: hammer\nMessage-ID: <%s@hammer.test>\nX-Number: %s\n\n%s", id, id, body)
					if _, err = c.send("a@client.test", []string{args[1]}, []byte(letter)); err == nil {
						h.mu.Lock()
						h.acked[id] = true
						h.mu.Unlock()
					}
				}
				c.Close()
			}
		}()
	}
	ts.Defer(func() { h.end() })
}

func (h *hammer) stopped() bool {
	select {
	case <-h.stop:
		return true
	default:
		return false
	}
}

func (h *hammer) end() {
	if !h.stopped() {
		close(h.stop)
	}
	h.wait.Wait()
}

// rest: the hammer stops; it must have had at least the given number of 250s.
func cmdRest(ts *testscript.TestScript, neg bool, args []string) {
	v, ok := hammers.Load(ts.Getenv("WORK"))
	if !ok {
		ts.Fatalf("no hammer")
	}
	h := v.(*hammer)
	h.end()
	least, err := strconv.Atoi(args[0])
	ts.Check(err)
	if len(h.acked) < least {
		ts.Fatalf("only %d letters were taken, the test says nothing", len(h.acked))
	}
	ts.Logf("%d letters were taken", len(h.acked))
}

var number = regexp.MustCompile(`(?m)^X-Number: (\S+?)\r?$`)

// acked dir doubled: waits until each letter that got 250 is in a file of dir;
// at most so many are there twice.
func cmdAcked(ts *testscript.TestScript, neg bool, args []string) {
	v, _ := hammers.Load(ts.Getenv("WORK"))
	h := v.(*hammer)
	allowed, err := strconv.Atoi(args[1])
	ts.Check(err)
	var missing, doubled []string
	for end := time.Now().Add(3 * patience); ; time.Sleep(200 * time.Millisecond) {
		seen := map[string]int{}
		entries, err := os.ReadDir(ts.MkAbs(args[0]))
		ts.Check(err)
		for _, e := range entries {
			data, err := os.ReadFile(filepath.Join(ts.MkAbs(args[0]), e.Name()))
			if err != nil {
				continue // renamed meanwhile: the next round finds it
			}
			if m := number.FindSubmatch(data); m != nil {
				seen[string(m[1])]++
			}
		}
		missing, doubled = nil, nil
		for id := range h.acked {
			if seen[id] == 0 {
				missing = append(missing, id)
			}
		}
		for id, n := range seen {
			if n > 1 {
				doubled = append(doubled, id)
			}
		}
		if len(missing) == 0 || time.Now().After(end) {
			break
		}
	}
	if len(missing) > 0 {
		ts.Fatalf("%d of %d letters that got 250 are lost: %v", len(missing), len(h.acked), missing[:min(10, len(missing))])
	}
	if len(doubled) > allowed {
		ts.Fatalf("%d letters came twice, at most %d may: %v", len(doubled), allowed, doubled)
	}
}
