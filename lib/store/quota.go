package store

// Quota is storage and messages: a root's limits (negative: none), or what is used.
type Quota struct {
	Storage  int64 // octets; IMAP speaks of units of 1,024
	Messages int64
}
