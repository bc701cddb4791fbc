// Package floors draws the house: which package lives on which floor.
//
// Imports go strictly downwards, never sideways: two rooms of a floor that need
// each other are introduced from above, through a small interface that the
// caller owns. The test beside this file reads the import graph and keeps that.
package floors

import "strings"

// house lists the floors from the ground up. A name ending in "/" stands for
// all packages below that folder.
var house = []struct {
	name  string
	rooms string
}{
	{"bedrock", "unixsock"},
	{"cellar: words that need no others", "address dsn cdb safefile maillog sysuser logical proclist powercut floors"},
	{"ground: the shared words", "command ipc message mailbox maps sasl dns tlsconf agent"},
	{"first: protocols, state, judgement", "agent/wire smtp imap pop3 managesieve milter spamc queue store scripts accounts route access alias checks sieve spam virus"},
	{"second: work", "cleanup deliver/ verify screen"},
	{"third: daemons", "smtpd qmgr lmtpd imapd pop3d timsieved list webmail admin"},
	{"roof: settings and command lines", "conf/maincf conf/imapdconf conf/spamconf cli"},
	{"roof: lists of services", "conf/mastercf conf/cyrusconf conf/storeconf conf/mailconf conf/queueconf"},
	{"roof: which processes a set-up consists of", "plan"},
	{"roof: parents and children", "service master storetool"},
	{"roof: what daemons of one kind share", "deputy cyrusd"},
	{"roof: programs", "cmd/"},
	{"roof: the program that is all programs", "cmd/angarium"},
}

// Floor is the number of the floor on which a package lives, -1 if none. The
// name is relative to the module: "lib/queue", "cmd/postsuper".
func Floor(pkg string) int {
	best, length := -1, -1
	for i, f := range house {
		for _, room := range strings.Fields(f.rooms) {
			if !strings.HasPrefix(room, "cmd/") {
				room = "lib/" + room
			}
			match := pkg == room || strings.HasPrefix(pkg, room+"/")
			if strings.HasSuffix(room, "/") {
				match = strings.HasPrefix(pkg, room)
			}
			if match && len(room) > length {
				best, length = i, len(room)
			}
		}
	}
	return best
}

// Name is what a floor is called.
func Name(floor int) string { return house[floor].name }
