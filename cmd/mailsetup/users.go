package mailsetup

import (
	"context"
	"errors"
	"fmt"
	"os"

	"angarium/lib/accounts"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/storeconf"
	"angarium/lib/mailbox"
	"angarium/lib/store"
)

// addUsers gives users and administrators their passwords, and users a mailbox.
func (s *setup) addUsers(ctx context.Context) error {
	if len(s.Users)+len(s.Admins) == 0 {
		return nil
	}
	conf, err := imapdconf.Load(s.ImapdConf)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(conf.String("configdirectory"), 0o750); err != nil {
		return err
	}
	path, o := storeconf.Accounts(conf)
	db, err := accounts.Open(path, o)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, a := range append(append([]account(nil), s.Users...), s.Admins...) {
		if err := db.Set(ctx, a.Name, "", a.Password); err != nil {
			return fmt.Errorf("user %s: %w", a.Name, err)
		}
	}
	where, err := storeconf.Store(conf, nil)
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, where)
	if err != nil {
		return err
	}
	for _, a := range s.Users {
		_, err := st.Create(ctx, store.Entry{Name: mailbox.Inbox(a.Name)})
		if err != nil && !errors.Is(err, store.ErrExists) {
			st.Close()
			return fmt.Errorf("mailbox of %s: %w", a.Name, err)
		}
	}
	return st.Close()
}
