// Package pop3d is how a POP3 server behaves: states, logins, the maildrop as
// it was at login, deletion at QUIT only. Its replies and log lines are those of
// Cyrus 3.6, because clients and log readers know them.
//
// It does not know the store: whoever starts it brings an Opener. It does not
// know configuration files either.
package pop3d
