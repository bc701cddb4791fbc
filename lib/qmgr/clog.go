package qmgr

// clog warns, once in a while, of a destination whose mail takes up much of the
// active queue, and says what may help. It needs the lock.
func (m *Manager) clog(d *destination) {
	length, limit := d.waiting+d.busy, m.c.ActiveLimit
	if m.c.ClogWarn <= 0 || d.t.Name == "" || d.t.Name[0] == 0 || length <= limit/5 || m.c.Now().Before(d.warn) {
		return
	}
	d.warn = m.c.Now().Add(m.c.ClogWarn)
	warn, count := m.c.Log.Warnf, max(len(m.active), 1)
	share := float64(length) / float64(count)
	warn("mail for %s is using up %d of %d active queue entries", d.name, length, count)
	if share < 0.9 {
		warn("this may slow down other mail deliveries")
	}
	t := d.t
	switch {
	case t.Concurrency > 0 && t.Concurrency <= d.busy+1:
		warn("you may need to increase the main.cf %s_destination_concurrency_limit from %d", t.Name, t.Concurrency)
	case float64(d.window) > float64(limit)*share:
		warn("you may need to increase the main.cf qmgr_message_active_limit from %d", limit)
	case len(t.dests) > 1:
		warn("you may need a separate master.cf transport for %s", d.name)
	default:
		warn("you may need to reduce %s connect and helo timeouts", t.Name)
		warn("so that Postfix quickly skips unavailable hosts")
		warn("you may need to increase the main.cf minimal_backoff_time and maximal_backoff_time")
		warn("so that Postfix wastes less time on undeliverable mail")
		warn("you may need to increase the master.cf %s process limit", t.Name)
	}
	warn("please avoid flushing the whole queue when you have")
	warn("lots of deferred mail, that is bad for performance")
	warn("to turn off these warnings specify: qmgr_clog_warn_time = 0")
}
