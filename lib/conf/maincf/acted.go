package maincf

import "sort"

// ActedOn reports whether the programs here obey a parameter. All others are
// read, shown and expanded, and change nothing.
func ActedOn(name string) bool {
	i := sort.SearchStrings(acted[:], name)
	return i < len(acted) && acted[i] == name
}

// NotActedOn are the settings of this Config that are known and not obeyed.
func (c *Config) NotActedOn() []Entry {
	var list []Entry
	for _, e := range c.entries {
		if _, known := Find(e.Name); known && !ActedOn(e.Name) {
			list = append(list, e)
		}
	}
	return list
}
