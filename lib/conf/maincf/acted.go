package maincf

import "sort"

// ActedOn reports whether the programs here obey a parameter. All others are
// read, shown and expanded, and change nothing.
func ActedOn(name string) bool {
	i := sort.SearchStrings(acted[:], name)
	return i < len(acted) && acted[i] == name
}
