package main

import (
	"angarium/cmd/postmap"
	"angarium/lib/cli"
)

// commands are the programs in this binary, one line each, in the order of the alphabet.
var commands = map[string]cli.Main{
	"postalias": postmap.AliasMain,
	"postmap":   postmap.Main,
}
