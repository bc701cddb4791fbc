// Package pop3 speaks the Post Office Protocol (RFC 1939, 2449, 1734, 5034) as
// a server: it reads commands within limits and writes replies, and holds the
// dot-stuffing. It promises that no buffer is held while a client is idle.
//
// It does not know users, mailboxes or what a command does: lib/pop3d does.
package pop3
