// Package imapdconf reads imapd.conf of Cyrus 2.2 to 3.6.
//
// One definition per option gives its type, default and one-line doc, for the
// daemons, cyr_info and the man page. A line of an existing file is either
// obeyed, or reported as not acted on, or as unknown, with file and line. The
// package promises to load what Cyrus loads; it does not know who obeys what
// beyond the mark in the table.
package imapdconf

import (
	"io"
	"time"
)

// DefaultPath is where the file lies unless -C says otherwise.
const DefaultPath = "/etc/imapd.conf"

// Config is a file that was read, seen by one service.
type Config struct {
	service string
}

// Warning is something about a file that its owner should know.
type Warning struct {
	File string
	Line int
	Text string
}

// Load reads the file ("": DefaultPath) and what it includes.
func Load(file string) (*Config, error) { return &Config{}, nil }

// Parse reads a configuration from r; name is for messages and the folder of @include.
func Parse(r io.Reader, name string) (*Config, error) { return &Config{}, nil }

// Service is the configuration as the service of that name in cyrus.conf sees
// it: its own imap_tls_server_cert goes before tls_server_cert.
func (c *Config) Service(name string) *Config { return &Config{service: name} }

// Raw is the value as written, and whether the file sets the option at all.
func (c *Config) Raw(name string) (value string, set bool) { return "", false }

// String is the value of an option, its default if it is not set. It panics if
// there is no option of that name: a slip of ours. So do the others.
func (c *Config) String(name string) string { return "" }

// Int is a whole number.
func (c *Config) Int(name string) int { return 0 }

// Bool is a switch.
func (c *Config) Bool(name string) bool { return false }

// Duration is a time; a bare number counts in the unit of the option.
func (c *Config) Duration(name string) time.Duration { return 0 }

// Size is a number of octets; a bare number counts in the unit of the option.
func (c *Config) Size(name string) int64 { return 0 }

// List is a value of words, split at blanks.
func (c *Config) List(name string) []string { return nil }

// Enum is the chosen word of an option that has a fixed choice.
func (c *Config) Enum(name string) string { return "" }

// Has reports whether a bit field has the word switched on.
func (c *Config) Has(name, word string) bool { return false }

// Partition is a place for mail.
type Partition struct{ Name, Path string }

// Partitions lists the partition-NAME lines, in the order of the file.
func (c *Config) Partitions() []Partition { return nil }

// SASL is the value of sasl_NAME.
func (c *Config) SASL(name string) (value string, set bool) { return "", false }

// Warnings lists unknown, deprecated and bad lines, and those that we do not act on.
func (c *Config) Warnings() []Warning { return nil }
