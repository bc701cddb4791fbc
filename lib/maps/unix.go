package maps

import (
	"context"
	"fmt"

	"angarium/lib/sysuser"
)

// unixTable is the system's own list of users or groups.
type unixTable string

func newUnix(name string) (Table, error) {
	if name != "passwd.byname" && name != "group.byname" {
		return nil, fmt.Errorf("unknown table: unix:%s", name)
	}
	return unixTable(name), nil
}

func (t unixTable) Lookup(_ context.Context, key string) (string, bool, error) {
	if t == "group.byname" {
		g, err := sysuser.LookupGroup(key)
		if g == nil {
			return "", false, err
		}
		return g.Line(), true, nil
	}
	u, err := sysuser.Lookup(key)
	if u == nil {
		return "", false, err
	}
	return u.Line(), true, nil
}
