package main

import (
	"angarium/cmd/mailsetup"
	"angarium/cmd/postcat"
	"angarium/cmd/postconf"
	"angarium/cmd/postfix"
	"angarium/cmd/postlog"
	"angarium/cmd/postlogd"
	"angarium/cmd/postmap"
	"angarium/cmd/postsuper"
	"angarium/cmd/qmgr"
	"angarium/lib/cli"
)

// commands are the programs in this binary, one line each, in the order of the alphabet.
var commands = map[string]cli.Main{
	"mailsetup": mailsetup.Main,
	"postalias": postmap.AliasMain,
	"postcat":   postcat.Main,
	"postconf":  postconf.Main,
	"postfix":   postfix.Main,
	"postlog":   postlog.Main,
	"postlogd":  postlogd.Main,
	"postmap":   postmap.Main,
	"postsuper": postsuper.Main,
	"qmgr":      qmgr.Main,
}
