// Package imapd is the behaviour of the IMAP server: what each command does to a
// session, and in which order and words it answers, as Cyrus 3.6 shows it.
//
// Sequence numbers, and what a client has been told, live here and nowhere else:
// a session keeps the store's View that its client knows and sends the
// difference to the newest one where the protocol allows it. It does not know
// the grammar (imap), how mail is kept (store) or where settings come from.
package imapd
