package qmgr

import (
	"strings"
	"sync"

	"angarium/lib/address"
	"angarium/lib/queue"
)

// loopCheck knows the Delivered-To: headers of a message, read when first asked.
type loopCheck struct {
	once sync.Once
	seen map[string]bool
}

// maxHeaderLines bounds how far into a message we look.
const maxHeaderLines = 5000

func (l *loopCheck) has(f *queue.Message, a address.Address) bool {
	l.once.Do(func() { l.load(f) })
	return l.seen[strings.ToLower(a.String())]
}

func (l *loopCheck) load(f *queue.Message) {
	r := f.OpenContent()
	begin := true
	for n := 0; n < maxHeaderLines; n++ {
		line, complete, err := r.Line()
		if err != nil || begin && len(line) == 0 && complete {
			break
		}
		const name = "delivered-to:"
		if begin && len(line) > len(name) && strings.EqualFold(string(line[:len(name)]), name) {
			if l.seen == nil {
				l.seen = map[string]bool{}
			}
			l.seen[strings.ToLower(strings.TrimSpace(string(line[len(name):])))] = true
		}
		begin = complete
	}
	r.Close()
}
