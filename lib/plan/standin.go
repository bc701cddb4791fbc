package plan

import "path/filepath"

// A standIn says which program does the work of a line that names another.
type standIn struct {
	command string   // as in master.cf's last column
	by      []string // who gets the line; the first one its sockets, too
	sockets bool     // its sockets exist, because commands and triggers use them
	single  bool     // the line's process limit says nothing about work done at a time
	why     string
}

// standIns is design.md's "Who stands in for whom" as a table. A command that
// isn't here is a program of its own.
var standIns = []standIn{
	{"postscreen", []string{"smtpd"}, true, true, "smtpd is its own door: one process serves all connections"},
	{"dnsblog", []string{"smtpd"}, false, true, "the door asks the DNS itself"},
	{"tlsproxy", []string{"smtpd"}, false, true, "a connection costs no process, so TLS needs no proxy"},
	{"anvil", []string{"smtpd"}, false, true, "counters are in the memory of the one smtpd process"},
	{"tlsmgr", []string{"smtpd", "qmgr"}, false, true, "sessions and tickets are kept by the process that has them"},
	{"trivial-rewrite", []string{"qmgr", "smtpd"}, false, true, "rewriting and resolving are function calls"},
	{"cleanup", []string{"smtpd", "qmgr"}, false, true, "smtpd and qmgr write queue files themselves"},

	{"qmgr", []string{"qmgr"}, true, true, ""},
	{"oqmgr", []string{"qmgr"}, true, true, "there is one scheduler"},
	{"nqmgr", []string{"qmgr"}, true, true, "there is one scheduler"},
	{"pickup", []string{"qmgr"}, true, true, "qmgr watches maildrop"},
	{"bounce", []string{"qmgr"}, false, true, "qmgr writes bounce, defer and trace logs, and the notices"},
	{"flush", []string{"qmgr"}, true, true, "qmgr has the queue in memory"},
	{"showq", []string{"qmgr"}, true, true, "qmgr has the queue in memory"},
	{"verify", []string{"qmgr"}, false, true, "probes are deliveries of qmgr"},
	{"scache", []string{"qmgr"}, false, true, "open connections stay in the process that made them"},
	{"smtp", []string{"qmgr"}, false, false, "deliveries are goroutines"},
	{"lmtp", []string{"qmgr"}, false, false, "deliveries are goroutines"},
	{"error", []string{"qmgr"}, false, false, "deliveries are goroutines"},
	{"discard", []string{"qmgr"}, false, false, "deliveries are goroutines"},

	{"postlogd", []string{"postlogd"}, true, true, ""},

	{"proxymap", nil, false, true, "everyone opens its maps before dropping rights"},
	{"qmqpd", nil, false, true, "not supported"},
}

// servedBy finds the entry for a command; a program of its own serves itself.
func servedBy(command string) standIn {
	for _, s := range standIns {
		if s.command == command {
			return s
		}
	}
	return standIn{command: command, by: []string{command}, sockets: true}
}

// StandIn tells of a daemon of Postfix that is no program here: who does its work,
// if anybody, and why it needs no process.
func StandIn(command string) (by []string, why string, ok bool) {
	s := servedBy(command)
	return s.by, s.why, s.why != ""
}

// CyrusNeedless reports whether a command of cyrus.conf has nothing to do here, so
// that its line is fulfilled without a process. idled carries notices of changes
// between imapd processes: there is one imapd, and the store tells it.
func CyrusNeedless(command string) bool { return filepath.Base(command) == "idled" }

// CyrusConfigVariable is the variable of the environment by which cyrmaster tells
// the commands of cyrus.conf its own imapd.conf, where their lines have no -C.
const CyrusConfigVariable = "CYRUS_CONFIG"
