package main

import (
	"angarium/cmd/ctl_cyrusdb"
	"angarium/cmd/ctl_mboxlist"
	"angarium/cmd/cyr_expire"
	"angarium/cmd/cyr_info"
	"angarium/cmd/cyrus"
	"angarium/cmd/imapd"
	"angarium/cmd/lmtpd"
	"angarium/cmd/mailsetup"
	"angarium/cmd/mbpath"
	"angarium/cmd/pop3d"
	"angarium/cmd/postcat"
	"angarium/cmd/postconf"
	"angarium/cmd/postfix"
	"angarium/cmd/postkick"
	"angarium/cmd/postlock"
	"angarium/cmd/postlog"
	"angarium/cmd/postlogd"
	"angarium/cmd/postmap"
	"angarium/cmd/postsuper"
	"angarium/cmd/qmgr"
	"angarium/cmd/reconstruct"
	"angarium/cmd/sasldblistusers2"
	"angarium/cmd/saslpasswd2"
	"angarium/cmd/smmapd"
	"angarium/cmd/smtpd"
	"angarium/lib/cli"
)

// commands are the programs in this binary, one line each, in the order of the alphabet.
var commands = map[string]cli.Main{
	"ctl_cyrusdb":      ctl_cyrusdb.Main,
	"ctl_deliver":      cyr_expire.DeliverMain,
	"ctl_mboxlist":     ctl_mboxlist.Main,
	"cyr_expire":       cyr_expire.Main,
	"cyr_info":         cyr_info.Main,
	"cyrus":            cyrus.Main,
	"imapd":            imapd.Main,
	"lmtpd":            lmtpd.Main,
	"mailsetup":        mailsetup.Main,
	"mbpath":           mbpath.Main,
	"pop3d":            pop3d.Main,
	"postalias":        postmap.AliasMain,
	"postcat":          postcat.Main,
	"postconf":         postconf.Main,
	"postfix":          postfix.Main,
	"postkick":         postkick.Main,
	"postlock":         postlock.Main,
	"postlog":          postlog.Main,
	"postlogd":         postlogd.Main,
	"postmap":          postmap.Main,
	"postsuper":        postsuper.Main,
	"qmgr":             qmgr.Main,
	"reconstruct":      reconstruct.Main,
	"sasldblistusers2": sasldblistusers2.Main,
	"saslpasswd2":      saslpasswd2.Main,
	"smmapd":           smmapd.Main,
	"smtpd":            smtpd.Main,
	"tls_prune":        cyr_expire.TLSMain,
}
