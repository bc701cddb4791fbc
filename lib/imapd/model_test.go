package imapd

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// model is what a client may believe of a mailbox: the UID behind each sequence
// number, 0 where it was not told.
type model struct {
	*talk
	uids []int
}

var (
	fetchLine = regexp.MustCompile(`^\* (\d+) FETCH \((.*)\)$`)
	countLine = regexp.MustCompile(`^\* (\d+) (EXISTS|EXPUNGE)$`)
	uidItem   = regexp.MustCompile(`\bUID (\d+)`)
)

// do sends a command and checks every answer against the model.
func (m *model) do(command string) error {
	quiet := strings.HasPrefix(command, "FETCH") || strings.HasPrefix(command, "STORE") || strings.HasPrefix(command, "SEARCH")
	out := m.cmd(command)
	for _, l := range out[:len(out)-1] {
		if c := countLine.FindStringSubmatch(l); c != nil {
			n, _ := strconv.Atoi(c[1])
			if c[2] == "EXPUNGE" {
				if quiet {
					return fmt.Errorf("%s: EXPUNGE during it", command)
				}
				if n < 1 || n > len(m.uids) {
					return fmt.Errorf("%s: %s of %d", command, l, len(m.uids))
				}
				m.uids = append(m.uids[:n-1], m.uids[n:]...)
				continue
			}
			if n < len(m.uids) {
				return fmt.Errorf("%s: EXISTS went from %d to %d", command, len(m.uids), n)
			}
			for len(m.uids) < n {
				m.uids = append(m.uids, 0)
			}
			continue
		}
		f := fetchLine.FindStringSubmatch(l)
		if f == nil {
			continue
		}
		n, _ := strconv.Atoi(f[1])
		if n < 1 || n > len(m.uids) {
			return fmt.Errorf("%s: %s of %d", command, l, len(m.uids))
		}
		if u := uidItem.FindStringSubmatch(f[2]); u != nil {
			uid, _ := strconv.Atoi(u[1])
			if was := m.uids[n-1]; was != 0 && was != uid {
				return fmt.Errorf("%s: message %d was UID %d and is %d", command, n, was, uid)
			}
			m.uids[n-1] = uid
		}
	}
	last := out[len(out)-1]
	if !strings.HasPrefix(last, "x OK") && !strings.HasPrefix(last, "x NO No matching") && !strings.Contains(last, "expunged") {
		return fmt.Errorf("%s: %s", command, last)
	}
	return nil
}

// TestModel lets several clients work on one mailbox and checks that none is
// told numbers that do not fit together.
func TestModel(t *testing.T) {
	h := newHouse(t, nil)
	setup := h.login("u1")
	setup.ok("CREATE INBOX.busy")
	for range 20 {
		setup.ok("APPEND INBOX.busy " + literal("Subject: first~~x~"))
	}
	const clients, steps = 6, 120
	models := make([]*model, clients)
	var wg sync.WaitGroup
	for i := range clients {
		m := &model{talk: h.login("u1")}
		models[i] = m
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			err := m.do("SELECT INBOX.busy")
			for n := 0; n < steps && err == nil; n++ {
				err = m.do(m.step(r))
			}
			if err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	want := ""
	for i, m := range models {
		if err := m.do("NOOP"); err != nil {
			t.Fatal(err)
		}
		if err := m.do("FETCH 1:* (UID FLAGS)"); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(m.uids); want == "" {
			want = got
		} else if got != want {
			t.Errorf("client %d knows %s, the first %s", i, got, want)
		}
	}
}

// step chooses something to do.
func (m *model) step(r *rand.Rand) string {
	n := r.IntN(max(len(m.uids), 1)) + 1
	switch r.IntN(12) {
	case 0, 1:
		return "APPEND INBOX.busy " + literal("Subject: more~~"+strings.Repeat("y", r.IntN(50))+"~")
	case 2, 3:
		return fmt.Sprintf("STORE %d +FLAGS (\\Deleted)", n)
	case 4:
		return "EXPUNGE"
	case 5:
		return fmt.Sprintf("STORE %d:* -FLAGS (\\Seen k%d)", n, r.IntN(5))
	case 6:
		return fmt.Sprintf("STORE %d +FLAGS (k%d)", n, r.IntN(5))
	case 7:
		return fmt.Sprintf("FETCH %d:* (UID FLAGS)", n)
	case 8:
		return "UID FETCH 1:* (FLAGS ENVELOPE)"
	case 9:
		return "SEARCH UNDELETED"
	case 10:
		return fmt.Sprintf("UID STORE %d +FLAGS.SILENT (\\Flagged)", n)
	}
	return "NOOP"
}
