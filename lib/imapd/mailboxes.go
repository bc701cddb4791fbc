package imapd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"angarium/lib/mailbox"
	"angarium/lib/store"
)

// namespace is NAMESPACE, RFC 2342.
func (s *session) namespace() {
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	personal, others, shared, has := s.ns.Prefixes()
	sep := string(s.ns.Sep())
	one := func(prefix string, ok bool) {
		if !ok {
			s.Raw(" NIL")
			return
		}
		s.Raw(" ((").String(prefix).Byte(' ').String(sep).Raw("))")
	}
	s.Raw("* NAMESPACE")
	one(personal, has)
	one(others, true)
	one(shared, true)
	s.CRLF()
	s.OK("Completed")
}

// mayCreate tells whether the user may make a mailbox of that name: k on the
// nearest one above that exists. INBOXes and what stands alone are the
// administrators' to make.
func (s *session) mayCreate(n mailbox.Name) error {
	if err := n.Check(); err != nil {
		return err
	}
	if s.user.Admin {
		return nil
	}
	for p, ok := n.Parent(); ok; p, ok = p.Parent() {
		e, err := s.conf.Store.Lookup(s.ctx, p)
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrBadName) {
			continue
		}
		if err != nil {
			return err
		}
		if e.RightsOf(s.user)&store.RightCreate == 0 {
			return errDenied
		}
		return nil
	}
	return errDenied
}

// specialUses are those of RFC 6154 that a mailbox can be given.
func specialUse(word string) (string, bool) {
	for _, u := range [...]string{`\Archive`, `\Drafts`, `\Junk`, `\Sent`, `\Trash`, `\Flagged`, `\Important`} {
		if strings.EqualFold(u, word) {
			return u, true
		}
	}
	return "", false
}

// create is CREATE, RFC 3501, 6.3.3, with Cyrus' optional partition and USE of RFC 6154.
func (s *session) create() {
	s.dec.SP()
	name := s.dec.Mailbox()
	var entry store.Entry
	badUse := false
	if s.dec.MoreArgs() {
		if s.dec.Peek('(') {
			badUse = s.createParams(&entry)
		} else {
			entry.Partition = s.dec.AString()
		}
	}
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	name = strings.TrimSuffix(name, string(s.ns.Sep())) // RFC 3501: only says that there will be children
	n, err := s.ns.Internal(name)
	if err != nil {
		s.NO("Invalid mailbox name")
		return
	}
	if _, err := s.conf.Store.Lookup(s.ctx, n); err == nil {
		s.NO("Mailbox already exists")
		return
	}
	if err := s.mayCreate(n); err != nil {
		s.fail(err)
		return
	}
	if entry.Partition != "" && !s.user.Admin {
		s.NO("Permission denied")
		return
	}
	if badUse { // RFC 6154, 3
		s.NO("[USEATTR] Invalid annotation entry")
		return
	}
	if s.useTaken(n, entry.SpecialUse) {
		s.NO("[USEATTR] SPECIAL-USE flag conflict")
		return
	}
	entry.Name = n
	s.createParents(n)
	made, err := s.conf.Store.Create(s.ctx, entry)
	if err != nil {
		s.fail(err)
		return
	}
	s.sync(true)
	s.OK("[MAILBOXID (" + string(made.ID) + ")] Completed")
}

// useTaken tells whether another of the owner's mailboxes has one of the uses.
func (s *session) useTaken(n mailbox.Name, uses []string) bool {
	if len(uses) == 0 {
		return false
	}
	for e, err := range s.conf.Store.List(s.ctx, store.Query{Owner: n.Owner()}) {
		if err == nil && slices.ContainsFunc(e.SpecialUse, func(u string) bool { return slices.Contains(uses, u) }) {
			return true
		}
	}
	return false
}

// createParents makes what is missing between a mailbox and the nearest one above.
func (s *session) createParents(n mailbox.Name) {
	var missing []mailbox.Name
	for p, ok := n.Parent(); ok && p.Check() == nil; p, ok = p.Parent() {
		if _, err := s.conf.Store.Lookup(s.ctx, p); !errors.Is(err, store.ErrNotFound) {
			break
		}
		missing = append(missing, p)
	}
	if n.Owner() == "" || n.IsInbox() {
		return // shared hierarchies are made as an administrator names them
	}
	for _, p := range slices.Backward(missing) {
		if p.IsInbox() || s.ns.IsShadow(p) {
			continue
		}
		if _, err := s.conf.Store.Create(s.ctx, store.Entry{Name: p}); err != nil && !errors.Is(err, store.ErrExists) {
			s.log.Errorf("create %s: %v", p, err)
		}
	}
}

func (s *session) createParams(e *store.Entry) (bad bool) {
	s.dec.List(func() {
		word := s.dec.Word()
		s.dec.SP()
		switch word {
		case "USE":
			s.dec.List(func() {
				if !s.dec.Take('\\') {
					s.dec.Bad("Invalid Create parameter")
					return
				}
				u, ok := specialUse(`\` + s.dec.Atom())
				if !ok {
					u, bad = "", true
				}
				e.SpecialUse = append(e.SpecialUse, u)
			})
		case "PARTITION":
			e.Partition = s.dec.AString()
		default:
			s.dec.Bad("Unrecognized Create parameter %s", word)
		}
	})
	return bad
}

// delete is DELETE, RFC 3501, 6.3.4.
func (s *session) delete() {
	s.dec.SP()
	name := s.dec.Mailbox()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	n, err := s.ns.Internal(name)
	if err != nil {
		s.NO("Mailbox does not exist")
		return
	}
	e, err := s.visible(n)
	switch {
	case err != nil:
	case n.IsInbox() && n.Owner() == s.user.ID:
		err = errUnsupported
	case e.RightsOf(s.user)&store.RightDelete == 0:
		err = errDenied
	case n.IsInbox():
		err = s.deleteUser(n)
	case s.hasChildren(n):
		err = store.ErrHasChild
	case !s.user.Admin && slices.ContainsFunc(e.SpecialUse, func(u string) bool { return slices.Contains(s.conf.Protected, u) }):
		s.NO("SPECIAL-USE flag conflict")
		return
	default:
		err = s.conf.Store.Delete(s.ctx, n)
	}
	if err != nil {
		s.fail(err)
		return
	}
	s.sync(true)
	if !s.bye {
		s.OK("Completed")
	}
}

// deleteUser removes an INBOX with all that is below it: the user is gone.
func (s *session) deleteUser(inbox mailbox.Name) error {
	var names []mailbox.Name
	for e, err := range s.conf.Store.List(s.ctx, store.Query{Under: inbox}) {
		if err != nil {
			return err
		}
		names = append(names, e.Name)
	}
	for _, n := range slices.Backward(names) {
		if err := s.conf.Store.Delete(s.ctx, n); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (s *session) hasChildren(n mailbox.Name) bool {
	for e, err := range s.conf.Store.List(s.ctx, store.Query{Under: n, After: n}) {
		return err == nil && e.Name.Under(n)
	}
	return false
}

// visible looks a mailbox up; one that the user may not see does not exist.
func (s *session) visible(n mailbox.Name) (store.Entry, error) {
	e, err := s.conf.Store.Lookup(s.ctx, n)
	if err == nil && !s.user.Admin && e.RightsOf(s.user)&(store.RightLookup|store.RightAdmin) == 0 {
		return e, store.ErrNotFound
	}
	return e, err
}

// rename is RENAME, RFC 3501, 6.3.5, with Cyrus' optional partition.
func (s *session) rename() {
	s.dec.SP()
	from := s.dec.Mailbox()
	s.dec.SP()
	to := s.dec.Mailbox()
	partition := ""
	if s.dec.MoreArgs() {
		partition = s.dec.AString()
	}
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	if err := s.doRename(from, to, partition); err != nil {
		s.fail(err)
		return
	}
	s.sync(true)
	if !s.bye {
		s.OK("Completed")
	}
}

func (s *session) doRename(from, to, partition string) error {
	old, err := s.ns.Internal(from)
	if err != nil {
		return store.ErrNotFound
	}
	e, err := s.visible(old)
	if err != nil {
		return err
	}
	now, err := s.ns.Internal(strings.TrimSuffix(to, string(s.ns.Sep())))
	if err != nil {
		return err
	}
	if partition != "" && !s.user.Admin {
		return errDenied
	}
	if _, err := s.conf.Store.Lookup(s.ctx, now); err == nil && (partition == "" || now != old) {
		return store.ErrExists
	}
	if !s.user.Admin && e.RightsOf(s.user)&store.RightDelete == 0 { // unlike DELETE
		return errDenied
	}
	if now != old {
		if now.Under(old) && !old.IsInbox() {
			return store.ErrBadName
		}
		if err := s.mayCreate(now); err != nil {
			return err
		}
		s.createParents(now)
	}
	var names []mailbox.Name
	if !old.IsInbox() || s.user.Admin && old.Owner() != s.user.ID {
		for e, err := range s.conf.Store.List(s.ctx, store.Query{Under: old}) {
			if err != nil {
				return err
			}
			names = append(names, e.Name)
		}
	}
	if err := s.conf.Store.Rename(s.ctx, old, now, partition); err != nil {
		return err
	}
	for _, n := range names { // Cyrus tells each one
		s.Raw("* OK rename ").AString(s.ns.External(n)).Byte(' ').AString(s.ns.External(n.Rename(old, now))).CRLF()
	}
	return nil
}

// subscribe is SUBSCRIBE and UNSUBSCRIBE, RFC 3501, 6.3.6 and 6.3.7.
func (s *session) subscribe() {
	s.dec.SP()
	name := s.dec.Mailbox()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	on := s.command == "SUBSCRIBE"
	n, err := s.ns.Internal(name)
	if err == nil && on {
		_, err = s.visible(n)
	}
	if err == nil {
		err = s.conf.Store.Subscribe(s.ctx, s.user.ID, n, on)
	}
	switch {
	case err == nil:
		s.OK("Completed")
	case on && (errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrBadName)):
		s.NO("Subscribe: Mailbox does not exist")
	case !on && errors.Is(err, store.ErrBadName):
		s.OK("Completed")
	default:
		s.fail(err)
	}
}

// statusItems are what STATUS can tell, in the order in which Cyrus does.
type statusItems struct {
	messages, recent, uidnext, validity, unseen, size, deleted, modseq, id bool
}

// statusArgs reads "(MESSAGES UNSEEN)".
func (s *session) statusArgs() (it statusItems) {
	n := 0
	if !s.dec.Peek('(') {
		s.dec.Bad("Bad status string")
		return it
	}
	s.dec.List(func() {
		n++
		switch word := s.dec.Word(); word {
		case "MESSAGES":
			it.messages = true
		case "RECENT":
			it.recent = true
		case "UIDNEXT":
			it.uidnext = true
		case "UIDVALIDITY":
			it.validity = true
		case "UNSEEN":
			it.unseen = true
		case "SIZE":
			it.size = true
		case "DELETED":
			it.deleted = true
		case "HIGHESTMODSEQ":
			it.modseq = true
		case "MAILBOXID":
			it.id = true
		default:
			s.dec.Bad("Invalid Status attributes %s", strings.ToLower(word))
		}
	})
	if n == 0 {
		s.dec.Bad("Bad status string")
	}
	return it
}

// status is STATUS, RFC 3501, 6.3.10.
func (s *session) status() {
	s.dec.SP()
	name := s.dec.Mailbox()
	s.dec.SP()
	it := s.statusArgs()
	if s.dec.CRLF(); !s.dec.OK() {
		return
	}
	n, err := s.ns.Internal(name)
	if err != nil {
		s.fail(store.ErrNotFound)
		return
	}
	e, err := s.visible(n)
	if err == nil && e.RightsOf(s.user)&store.RightRead == 0 {
		err = errDenied
	}
	var st store.Status
	if err == nil {
		st, err = s.conf.Store.Status(s.ctx, n)
	}
	if err != nil {
		s.fail(err)
		return
	}
	if it.modseq {
		s.condstore = true // RFC 7162, 3.1.2: an enabling command
	}
	s.tellStatus(name, it, st, e.ID)
	s.sync(true)
	s.OK("Completed")
}

func (s *session) tellStatus(name string, it statusItems, st store.Status, id store.ID) {
	s.Raw("* STATUS ").AString(name).Raw(" (")
	sep := ""
	put := func(on bool, word string, v uint64) {
		if on {
			s.Raw(sep).Raw(word).Byte(' ').Number(v)
			sep = " "
		}
	}
	put(it.messages, "MESSAGES", uint64(st.Messages))
	put(it.recent, "RECENT", uint64(st.Recent))
	put(it.uidnext, "UIDNEXT", uint64(st.UIDNext))
	put(it.validity, "UIDVALIDITY", uint64(st.UIDValidity))
	put(it.unseen, "UNSEEN", uint64(st.Unseen))
	put(it.size, "SIZE", uint64(st.Size))
	put(it.deleted, "DELETED", uint64(st.Deleted))
	put(it.modseq, "HIGHESTMODSEQ", uint64(st.HighestModSeq))
	if it.id {
		s.Raw(fmt.Sprintf("%sMAILBOXID (%s)", sep, id))
	}
	s.Raw(")\r\n")
}
