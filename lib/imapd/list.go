package imapd

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"angarium/lib/mailbox"
	"angarium/lib/store"
)

// listJob is one LIST or LSUB.
type listJob struct {
	*session
	verb     string // "LIST", "LSUB"
	ref      string
	patterns []string

	onlySubscribed, recursive, onlySpecial bool
	tellSubscribed, tellSpecial            bool
	status                                 *statusItems

	subscribed map[mailbox.Name]bool
	order      []mailbox.Name // subscribed, in order
	calls      int
	implied    map[string]bool // names above a match that were told
	start      time.Time
}

// list is LIST: RFC 3501, 6.3.8; RFC 5258; RFC 5819; RFC 6154.
func (s *session) list() {
	j := &listJob{session: s, verb: "LIST", start: time.Now()}
	s.dec.SP()
	if s.dec.Peek('(') {
		j.selection()
		s.dec.SP()
	}
	j.ref = s.dec.Mailbox()
	if !s.dec.OK() {
		return
	}
	if !s.dec.MoreArgs() {
		s.dec.Bad("Missing required argument to List: mailbox pattern")
		return
	}
	if s.dec.Peek('(') {
		s.dec.List(j.pattern)
	} else {
		j.pattern()
	}
	if s.dec.MoreArgs() {
		if word := s.dec.Word(); word != "RETURN" {
			s.dec.Bad("Unexpected extra arguments to List")
		}
		if !s.dec.Take(' ') || !s.dec.Peek('(') {
			s.dec.Bad("Missing return argument list")
		}
		j.returns()
	}
	j.tellSpecial = true // RFC 6154, 2 allows it unasked, and old clients profit
	if s.dec.CRLF(); s.dec.OK() {
		j.run()
	}
}

// lsub is LSUB, RFC 3501, 6.3.9.
func (s *session) lsub() {
	j := &listJob{session: s, verb: "LSUB", onlySubscribed: true, start: time.Now()}
	s.dec.SP()
	j.ref = s.dec.Mailbox()
	s.dec.SP()
	j.pattern()
	if s.dec.CRLF(); s.dec.OK() {
		j.run()
	}
}

// Matching takes time in proportion to all patterns, for each mailbox.
const (
	maxPatterns = 100
	maxPattern  = 4 * mailbox.MaxLen
)

// pattern reads one.
func (j *listJob) pattern() {
	p := j.dec.Pattern()
	if len(p)+len(j.ref) > maxPattern || len(j.patterns) == maxPatterns {
		j.dec.Bad("Too many or too long mailbox patterns in %s", j.title())
		return
	}
	j.patterns = append(j.patterns, p)
}

func (j *listJob) selection() {
	j.dec.List(func() {
		switch word := j.dec.Word(); word {
		case "SUBSCRIBED":
			j.onlySubscribed, j.tellSubscribed = true, true
		case "RECURSIVEMATCH":
			j.recursive = true
		case "SPECIAL-USE":
			j.onlySpecial = true
		case "REMOTE":
		default:
			j.dec.Bad("Invalid List selection option %q", strings.ToLower(word))
		}
	})
	if j.recursive && !j.onlySubscribed {
		j.dec.Bad("Invalid List selection option \"recursivematch\"")
	}
}

func (j *listJob) returns() {
	j.dec.List(func() {
		switch word := j.dec.Word(); word {
		case "SUBSCRIBED":
			j.tellSubscribed = true
		case "CHILDREN":
		case "SPECIAL-USE":
			j.tellSpecial = true
		case "STATUS":
			j.dec.SP()
			it := j.statusArgs()
			j.status = &it
		default:
			j.dec.Bad("Invalid List return option %q", strings.ToLower(word))
		}
	})
}

func (j *listJob) run() {
	if j.verb == "LIST" && len(j.patterns) == 1 && j.patterns[0] == "" {
		j.root()
	} else if err := j.answer(); err != nil {
		j.fail(err)
		return
	}
	j.sync(true)
	calls := ""
	if j.calls > 0 {
		calls = fmt.Sprintf(" %d calls", j.calls)
	}
	j.OK(fmt.Sprintf("Completed (%.3f secs%s)", time.Since(j.start).Seconds(), calls))
}

// root answers LIST "" "": the separator, and the reference's root.
func (j *listJob) root() {
	sep := string(j.ns.Sep())
	root := ""
	if first, _, ok := strings.Cut(j.ref, sep); ok {
		root = first + sep
	}
	j.Raw(`* LIST (\Noselect) `).String(sep).Byte(' ').String(root).CRLF()
}

func (j *listJob) answer() error {
	for i, p := range j.patterns {
		j.patterns[i] = j.ref + p
	}
	if j.onlySubscribed || j.tellSubscribed {
		names, err := j.conf.Store.Subscribed(j.ctx, j.user.ID)
		if err != nil {
			return err
		}
		j.order = names
		j.subscribed = make(map[mailbox.Name]bool, len(names))
		for _, n := range names {
			j.subscribed[n] = true
		}
	}
	if j.onlySubscribed {
		return j.listSubscribed()
	}
	return j.listAll()
}

// matches tells whether a name as the user sees it is asked for.
func (j *listJob) matches(name string) bool {
	return slices.ContainsFunc(j.patterns, func(p string) bool { return mailbox.Match(p, name, j.ns.Sep()) })
}

// under is the part of the mailbox list that the patterns can reach: "" for all.
func (j *listJob) queries() []store.Query {
	if j.user.Admin {
		return []store.Query{{Deleted: true}}
	}
	own := store.Query{Owner: j.user.ID}
	for _, p := range j.patterns {
		fixed := p
		if i := strings.IndexAny(p, "*%"); i >= 0 {
			fixed = p[:i]
		}
		// A pattern that begins within the user's own names can't match others.
		if n, err := j.ns.Internal(strings.TrimSuffix(fixed, string(j.ns.Sep()))); fixed == "" || err != nil || n.Owner() != j.user.ID {
			return []store.Query{own, {To: &j.user}}
		}
	}
	return []store.Query{own}
}

// listAll goes through the mailbox list with one entry in hand, since only the
// next one tells whether there are children.
func (j *listJob) listAll() error {
	for i, q := range j.queries() {
		var held store.Entry
		have := false
		for e, err := range j.conf.Store.List(j.ctx, q) {
			if err != nil {
				return err
			}
			if i > 0 && e.Name.Owner() == j.user.ID || !j.mayList(&e) {
				continue
			}
			if have {
				j.entry(&held, e.Name.Under(held.Name))
			}
			held, have = e, true
			if j.Err() != nil {
				return nil
			}
		}
		if have {
			j.entry(&held, false)
		}
	}
	return nil
}

func (j *listJob) mayList(e *store.Entry) bool {
	return j.user.Admin || !e.Name.IsDeleted() && e.RightsOf(j.user)&store.RightLookup != 0
}

// entry tells of one mailbox if it is asked for.
func (j *listJob) entry(e *store.Entry, children bool) {
	if j.ns.IsShadow(e.Name) {
		return
	}
	name := j.ns.External(e.Name)
	if name == "INBOX" && j.ns.Alt { // its folders stand beside it
		children = j.hasChildren(e.Name.Child("INBOX"))
	}
	if !j.matches(name) {
		j.above(name)
		return
	}
	if j.onlySpecial && len(e.SpecialUse) == 0 {
		j.calls++
		return
	}
	j.calls++
	var attrs []string
	if j.tellSubscribed && j.subscribed[e.Name] {
		attrs = append(attrs, `\Subscribed`)
	}
	attrs = append(attrs, childAttr(children))
	if j.tellSpecial || j.onlySpecial {
		attrs = append(attrs, e.SpecialUse...)
	}
	j.line(attrs, name, false)
	if j.status != nil && e.RightsOf(j.user)&store.RightRead != 0 {
		if st, err := j.conf.Store.Status(j.ctx, e.Name); err == nil {
			j.tellStatus(name, *j.status, st, e.ID)
		}
	}
}

func childAttr(children bool) string {
	if children {
		return `\HasChildren`
	}
	return `\HasNoChildren`
}

// above tells of a name that is no mailbox but stands above one: with "%" a
// client walks down through it (RFC 3501, 6.3.8).
func (j *listJob) above(name string) {
	sep := string(j.ns.Sep())
	for {
		i := strings.LastIndex(name, sep)
		if i <= 0 {
			return
		}
		name = name[:i]
		if !j.matches(name) {
			continue
		}
		if j.implied[name] {
			return
		}
		if n, err := j.ns.Internal(name); err == nil {
			if e, err := j.conf.Store.Lookup(j.ctx, n); err == nil && j.mayList(&e) {
				return // it speaks for itself
			}
		}
		if j.implied == nil {
			j.implied = map[string]bool{}
		}
		j.implied[name] = true
		j.calls++
		attrs := []string{`\NonExistent`, `\HasChildren`}
		if j.verb == "LSUB" {
			attrs = []string{`\Noselect`, `\HasChildren`}
		}
		j.line(attrs, name, false)
		return
	}
}

func (j *listJob) line(attrs []string, name string, childInfo bool) {
	j.Raw("* " + j.verb + " (" + strings.Join(attrs, " ") + ") ").String(string(j.ns.Sep())).Byte(' ').AString(name)
	if childInfo {
		j.Raw(` (CHILDINFO ("SUBSCRIBED"))`)
	}
	j.CRLF()
}

// listSubscribed tells of subscribed mailboxes, there or not.
func (j *listJob) listSubscribed() error {
	for i, n := range j.order {
		below := i+1 < len(j.order) && j.order[i+1].Under(n)
		name := j.ns.External(n)
		e, err := j.conf.Store.Lookup(j.ctx, n)
		exists := err == nil && j.mayList(&e)
		if j.verb == "LSUB" {
			j.lsubEntry(n, name, exists, below)
			continue
		}
		if !j.matches(name) {
			if j.recursive {
				j.aboveSubscribed(name)
			}
			continue
		}
		if j.onlySpecial && len(e.SpecialUse) == 0 {
			continue
		}
		j.calls++
		var attrs []string
		if !exists {
			attrs = append(attrs, `\NonExistent`)
		}
		above := n
		if j.ns.Alt && name == "INBOX" {
			above = n.Child("INBOX")
		}
		attrs = append(attrs, `\Subscribed`, childAttr(exists && j.hasChildren(above)))
		if exists && (j.tellSpecial || j.onlySpecial) {
			attrs = append(attrs, e.SpecialUse...)
		}
		j.line(attrs, name, j.recursive && below)
		if j.status != nil && exists {
			if st, err := j.conf.Store.Status(j.ctx, n); err == nil {
				j.tellStatus(name, *j.status, st, e.ID)
			}
		}
	}
	return nil
}

// aboveSubscribed tells of a mailbox that matches and has subscribed ones below
// it, RFC 5258, 3 (RECURSIVEMATCH).
func (j *listJob) aboveSubscribed(name string) {
	for sep := string(j.ns.Sep()); ; {
		i := strings.LastIndex(name, sep)
		if i <= 0 {
			return
		}
		name = name[:i]
		n, err := j.ns.Internal(name)
		if !j.matches(name) || j.implied[name] || err != nil || j.subscribed[n] {
			continue
		}
		if j.implied == nil {
			j.implied = map[string]bool{}
		}
		j.implied[name] = true
		attrs := []string{`\HasChildren`}
		if _, err := j.visible(n); err != nil {
			attrs = []string{`\NonExistent`, `\HasChildren`}
		}
		j.calls++
		j.line(attrs, name, true)
	}
}

func (j *listJob) lsubEntry(n mailbox.Name, name string, exists, below bool) {
	if !exists {
		return // Cyrus keeps quiet about what is not there
	}
	if !j.matches(name) {
		j.aboveLsub(name)
		return
	}
	j.calls++
	var attrs []string
	if below && !(j.ns.Alt && name == "INBOX") {
		attrs = []string{`\HasChildren`}
	}
	j.line(attrs, name, false)
}

// aboveLsub tells of an unsubscribed name above a subscribed one: RFC 3501,
// 6.3.9 wants \Noselect, though it may exist.
func (j *listJob) aboveLsub(name string) {
	for sep := string(j.ns.Sep()); ; {
		i := strings.LastIndex(name, sep)
		if i <= 0 {
			return
		}
		name = name[:i]
		n, err := j.ns.Internal(name)
		if !j.matches(name) || err == nil && j.subscribed[n] {
			continue
		}
		if j.implied == nil {
			j.implied = map[string]bool{}
		}
		if !j.implied[name] {
			j.implied[name] = true
			j.calls++
			j.line([]string{`\Noselect`, `\HasChildren`}, name, false)
		}
		return
	}
}
