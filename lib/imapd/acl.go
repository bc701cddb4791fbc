package imapd

import (
	"errors"
	"strings"

	"angarium/lib/store"
)

// entryFor finds the mailbox of an ACL command for one who needs rights on it.
func (s *session) entryFor(name string, need store.Rights) (store.Entry, error) {
	n, err := s.ns.Internal(name)
	if err != nil {
		return store.Entry{}, store.ErrNotFound
	}
	e, err := s.visible(n)
	if err != nil {
		return e, err
	}
	if rights := e.RightsOf(s.user); rights&need == 0 && !s.user.Admin {
		return e, errDenied
	}
	return e, nil
}

// getACL is GETACL, RFC 4314, 3.3.
func (s *session) getACL() {
	s.dec.SP()
	name := s.dec.Mailbox()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	e, err := s.entryFor(name, store.RightAdmin)
	if err != nil {
		s.fail(err)
		return
	}
	s.Raw("* ACL ").AString(name)
	for _, a := range e.ACL {
		s.Byte(' ').AString(a.ID).Byte(' ').AString(a.Rights.String())
	}
	s.CRLF()
	s.OK("Completed")
}

// setACL is SETACL, RFC 4314, 3.1.
func (s *session) setACL() {
	s.dec.SP()
	name := s.dec.Mailbox()
	s.dec.SP()
	id := s.dec.AString()
	s.dec.SP()
	text := s.dec.AString()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	mode := byte('=')
	if text != "" && (text[0] == '+' || text[0] == '-') {
		mode, text = text[0], text[1:]
	}
	rights, ok := store.ParseRights(text)
	if !ok {
		for _, c := range text {
			if _, ok := store.ParseRights(string(c)); !ok {
				s.BAD("The " + string(c) + " right is not supported")
				return
			}
		}
	}
	s.changeACL(name, id, func(was store.Rights) store.Rights {
		switch mode {
		case '+':
			return was | rights
		case '-':
			return was &^ rights
		}
		return rights
	})
}

// deleteACL is DELETEACL, RFC 4314, 3.2.
func (s *session) deleteACL() {
	s.dec.SP()
	name := s.dec.Mailbox()
	s.dec.SP()
	id := s.dec.AString()
	if s.dec.CRLF(); s.dec.OK() {
		s.changeACL(name, id, func(store.Rights) store.Rights { return 0 })
	}
}

func (s *session) changeACL(name, id string, change func(store.Rights) store.Rights) {
	e, err := s.entryFor(name, store.RightAdmin)
	if err == nil && (id == "" || strings.ContainsAny(id, "\t\r\n")) {
		s.NO("Invalid identifier")
		return
	}
	if err == nil {
		err = s.conf.Store.Update(s.ctx, e.Name, func(e *store.Entry) error {
			e.ACL = e.ACL.Set(id, change(e.ACL.Get(id)))
			return nil
		})
	}
	if err != nil {
		s.fail(err)
		return
	}
	s.sync(true)
	s.OK("Completed")
}

// myRights is MYRIGHTS, RFC 4314, 3.5.
func (s *session) myRights() {
	s.dec.SP()
	name := s.dec.Mailbox()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	n, err := s.ns.Internal(name)
	var e store.Entry
	if err != nil {
		err = store.ErrNotFound
	} else {
		e, err = s.visible(n)
	}
	rights := e.RightsOf(s.user)
	if err == nil && rights == 0 {
		err = errDenied
	}
	if err != nil {
		s.fail(err)
		return
	}
	s.Raw("* MYRIGHTS ").AString(name).Byte(' ').AString(rights.String()).CRLF()
	s.OK("Completed")
}

// listRights is LISTRIGHTS, RFC 4314, 3.4. An owner can't lose some rights.
func (s *session) listRights() {
	s.dec.SP()
	name := s.dec.Mailbox()
	s.dec.SP()
	id := s.dec.AString()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	e, err := s.entryFor(name, store.RightAdmin)
	if err != nil {
		s.fail(err)
		return
	}
	always, rest := `""`, "l r s w i p k x t e c d a n"
	switch {
	case id == e.Name.Owner() && id != "":
		always, rest = "lkxcan", "r s w i p t e d"
	case e.Name.IsInbox(): // anybody may send mail there
		always, rest = "p", "l r s w i k x t e c d a n"
	}
	s.Raw("* LISTRIGHTS ").AString(name).Byte(' ').AString(id)
	s.Raw(" " + always + " " + rest + " 0 1 2 3 4 5 6 7 8 9").CRLF()
	s.OK("Completed")
}

// tellQuota sends a QUOTA response, RFC 2087, 5.1.
func (s *session) tellQuota(root string, limit, used store.Quota) {
	s.Raw("* QUOTA ").AString(root).Raw(" (")
	sep := ""
	if limit.Storage >= 0 {
		s.Raw("STORAGE ").Number(uint64(used.Storage / 1024)).Byte(' ').Number(uint64(limit.Storage / 1024))
		sep = " "
	}
	if limit.Messages >= 0 {
		s.Raw(sep + "MESSAGE ").Number(uint64(used.Messages)).Byte(' ').Number(uint64(limit.Messages))
	}
	s.Raw(")\r\n")
}

// getQuota is GETQUOTA, RFC 2087, 4.2.
func (s *session) getQuota() {
	s.dec.SP()
	name := s.dec.AString()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	n, err := s.ns.Internal(name)
	if err != nil || !s.user.Admin && n.Owner() != s.user.ID {
		s.NO("Permission denied")
		return
	}
	e, err := s.conf.Store.Lookup(s.ctx, n)
	if errors.Is(err, store.ErrNotFound) || err == nil && !e.IsQuotaRoot {
		s.NO("Quota root does not exist")
		return
	}
	var used store.Quota
	if err == nil {
		used, err = s.conf.Store.Usage(s.ctx, n)
	}
	if err != nil {
		s.fail(err)
		return
	}
	s.tellQuota(name, e.Quota, used)
	s.OK("Completed")
}

// getQuotaRoot is GETQUOTAROOT, RFC 2087, 4.3.
func (s *session) getQuotaRoot() {
	s.dec.SP()
	name := s.dec.Mailbox()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	e, err := s.entryFor(name, store.RightRead)
	if err != nil {
		s.fail(err)
		return
	}
	s.Raw("* QUOTAROOT ").AString(name)
	if e.QuotaRoot == "" {
		s.CRLF()
		s.OK("Completed")
		return
	}
	root := s.ns.External(e.QuotaRoot)
	s.Byte(' ').AString(root).CRLF()
	r, err := s.conf.Store.Lookup(s.ctx, e.QuotaRoot)
	if err == nil && r.IsQuotaRoot {
		if used, err := s.conf.Store.Usage(s.ctx, e.QuotaRoot); err == nil {
			s.tellQuota(root, r.Quota, used)
		}
	}
	s.OK("Completed")
}

// setQuota is SETQUOTA, RFC 2087, 4.1: for administrators.
func (s *session) setQuota() {
	s.dec.SP()
	name := s.dec.AString()
	s.dec.SP()
	q := store.Quota{Storage: -1, Messages: -1}
	unknown := false
	if !s.dec.Peek('(') {
		s.dec.Bad("Invalid quota list in Setquota")
	}
	s.dec.List(func() {
		word := s.dec.Word()
		if !s.dec.Take(' ') || !s.dec.PeekDigit() {
			s.dec.Bad("Invalid quota list in Setquota")
		}
		n := int64(s.dec.Number())
		switch word {
		case "STORAGE":
			q.Storage = n * 1024
		case "MESSAGE":
			q.Messages = n
		default:
			unknown = true
		}
	})
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	if !s.user.Admin {
		s.NO("Permission denied")
		return
	}
	if unknown {
		s.NO("Unsupported quota resource")
		return
	}
	n, err := s.ns.Internal(name)
	if err == nil {
		err = s.conf.Store.Update(s.ctx, n, func(e *store.Entry) error {
			e.Quota, e.IsQuotaRoot = q, q.Storage >= 0 || q.Messages >= 0
			return nil
		})
	}
	if err != nil {
		s.fail(err)
		return
	}
	s.OK("Completed")
}
