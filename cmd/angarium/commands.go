package main

import (
	"angarium/cmd/postcat"
	"angarium/cmd/postmap"
	"angarium/lib/cli"
)

// commands are the programs in this binary, one line each, in the order of the alphabet.
var commands = map[string]cli.Main{
	"postalias": postmap.AliasMain,
	"postcat":   postcat.Main,
	"postmap":   postmap.Main,
}
