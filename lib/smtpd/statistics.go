package smtpd

import (
	"fmt"
	"time"

	"angarium/lib/maillog"
)

// The maxima that anvil(8) logs, in its order.
const (
	maxConnect = iota
	maxOpen
	maxMessage
	maxRecipient
	maxTLS
	maxAuth
	maxClients
	maxima
)

var maximumNames = [maxima]string{"connection rate", "connection count", "message rate", "recipient rate", "newtls rate", "auth rate", "cache size"}

// maxOf is the maximum of an event's rate.
func maxOf(e event) int {
	return [events]int{eventConnect: maxConnect, eventMessage: maxMessage, eventRecipient: maxRecipient, eventAuth: maxAuth, eventTLS: maxTLS}[e]
}

// maximum is the highest value since the last report, who reached it and when.
type maximum struct {
	value int
	who   clientKey
	unit  time.Duration // of a rate; 0: a count
	at    time.Time
}

// note keeps a value if it is the highest. The caller holds the lock.
func (l *Limits) note(which, value int, who clientKey, unit time.Duration) {
	if value > l.max[which].value {
		l.max[which] = maximum{value, who, unit, time.Now()}
	}
}

// Report logs the highest rates and counts since the last report as anvil(8)
// does, "statistics: max connection rate 3/60s for (smtp:192.0.2.7) at Jan  5
// 10:00:00", and starts anew. Without a client it says nothing.
func (l *Limits) Report(log *maillog.Logger) {
	l.mu.Lock()
	all := l.max
	l.max = [maxima]maximum{}
	l.mu.Unlock()
	for i, m := range all {
		if m.value == 0 {
			continue
		}
		text := fmt.Sprintf("statistics: max %s %d", maximumNames[i], m.value)
		if m.unit > 0 {
			text += fmt.Sprintf("/%ds", int(m.unit.Seconds()))
		}
		if i != maxClients {
			text += fmt.Sprintf(" for (%s:%s)", m.who.service, m.who.addr)
		}
		log.Infof("%s at %s", text, m.at.Format(time.Stamp))
	}
}
