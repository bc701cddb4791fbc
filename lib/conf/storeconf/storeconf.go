// Package storeconf reads from imapd.conf what the programs of the store share:
// where mail lies, who may log in, and how mailbox names look.
//
// It promises that imapd, pop3d, lmtpd and the commands agree on these. It opens
// nothing itself.
package storeconf

import (
	"errors"
	"strings"
	"time"

	"angarium/lib/accounts"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/store"
)

// Store says where mail lies and how it is kept.
func Store(c *imapdconf.Config, log *maillog.Logger) (store.Config, error) {
	s := store.Config{
		ConfigDirectory:  c.String("configdirectory"),
		Partitions:       map[string]string{},
		DefaultPartition: c.String("defaultpartition"),
		Log:              log,
		DelayedDelete:    c.Enum("delete_mode") == "delayed",
		DefaultACL:       store.ParseACL(strings.Join(strings.Fields(c.String("defaultacl")), "\t")),
	}
	if s.ConfigDirectory == "" {
		return s, errors.New("configdirectory option not specified in configuration file")
	}
	for _, p := range c.Partitions() {
		s.Partitions[p.Name] = p.Path
	}
	if len(s.Partitions) == 0 {
		return s, errors.New("no partition-NAME option in configuration file")
	}
	if _, ok := s.Partitions[s.DefaultPartition]; !ok {
		for name := range s.Partitions {
			if s.DefaultPartition == "" && len(s.Partitions) == 1 {
				s.DefaultPartition = name
			}
		}
		if _, ok := s.Partitions[s.DefaultPartition]; !ok {
			return s, errors.New("defaultpartition names no partition-NAME option: " + s.DefaultPartition)
		}
	}
	switch c.Enum("expunge_mode") {
	case "delayed":
		s.ExpungeKeep = -1
	default:
		s.ExpungeKeep = 10 * time.Minute
	}
	return s, nil
}

// Accounts is the file of users, sasl_sasldb_path, and how their names are read.
func Accounts(c *imapdconf.Config) (path string, o accounts.Options) {
	path, ok := c.SASL("sasldb_path")
	if !ok {
		path = "/etc/sasldb2"
	}
	return path, accounts.Options{
		Realm:         c.ServerName(),
		DefaultDomain: c.String("defaultdomain"),
		KeepCase:      !c.Bool("username_tolower"),
	}
}

// Namespace is how mailbox names look to a user; for an administrator set Admin.
func Namespace(c *imapdconf.Config, user string) mailbox.Namespace {
	ns := mailbox.Namespace{
		Alt:           c.Bool("altnamespace"),
		UnixSep:       c.Bool("unixhierarchysep"),
		DefaultDomain: c.String("defaultdomain"),
		UserPrefix:    c.String("userprefix"),
		SharedPrefix:  c.String("sharedprefix"),
		User:          user,
	}
	if c.Enum("virtdomains") != "off" {
		ns.Virtual = mailbox.VirtualUserID
	}
	return ns
}

// NewInbox is the INBOX that a user who has none gets at log-in, without its name;
// ok: users get one. Above zero, autocreate_quota and autocreate_quota_messages
// are the limits of a quota root of its own.
func NewInbox(c *imapdconf.Config) (e store.Entry, ok bool) {
	storage, messages := c.Int("autocreate_quota"), c.Int("autocreate_quota_messages")
	e.Quota = store.Quota{Storage: -1, Messages: -1}
	if storage > 0 {
		e.Quota.Storage = int64(storage) * 1024
	}
	if messages > 0 {
		e.Quota.Messages = int64(messages)
	}
	e.IsQuotaRoot = storage > 0 || messages > 0
	return e, storage >= 0
}
