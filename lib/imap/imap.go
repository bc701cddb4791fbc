// Package imap is the grammar of IMAP4rev1 (RFC 3501, section 9) and of the
// extensions we speak: a Decoder whose methods are the grammar's rules, for what
// clients send, and an Encoder for what we answer.
//
// It promises limits on everything a stranger can make long or deep, and that a
// sequence number is never taken for a UID (they are different types). It does
// not know mailboxes, users or what a command does; that is imapd's.
package imap
