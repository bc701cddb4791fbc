package t

import (
	"fmt"
	"strconv"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

func init() { commands["crowd"] = cmdCrowd }

// crowd host:port recipient sessions letters: that many clients at a time, all of
// them connected before the first one sends, each sends so many letters and quits.
func cmdCrowd(ts *testscript.TestScript, neg bool, args []string) {
	sessions, err := strconv.Atoi(args[2])
	ts.Check(err)
	letters, err := strconv.Atoi(args[3])
	ts.Check(err)
	var here, done sync.WaitGroup
	here.Add(sessions)
	errs := make([]error, sessions)
	for s := range sessions {
		done.Go(func() {
			c, err := dialSMTP(args[0])
			here.Done()
			if err != nil {
				errs[s] = err
				return
			}
			defer c.Close()
			here.Wait()
			for n := range letters {
				letter := fmt.Sprintf("Subject: crowd\nMessage-ID: <%d.%d@crowd.test>\n\nhello\n", s, n)
				if _, err := c.send("a@client.test", []string{args[1]}, []byte(letter)); err != nil {
					errs[s] = err
					return
				}
			}
			_, errs[s] = c.command("QUIT")
		})
	}
	done.Wait()
	for _, err := range errs {
		ts.Check(err)
	}
}
