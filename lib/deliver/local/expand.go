// Package local delivers to people of this machine, as Postfix' local(8) does.
//
// It has two halves, because they need different rights. Expander decides, in
// the queue manager, what a local recipient leads to: aliases, mailbox_transport,
// a user's mailbox, or nobody. Doer acts with the rights of one user: .forward
// and :include: files, mailboxes, files and commands.
//
// It promises that a loop of aliases or of Delivered-To: headers ends in a
// bounce, that a table which can't be asked defers, and that nothing is ever
// written or run with more rights than its owner has. It does not know the
// queue, nor how another transport delivers.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/alias"
	"angarium/lib/dsn"
)

// Table answers one question; an error means that nobody may conclude anything.
type Table interface {
	Lookup(ctx context.Context, key string) (value string, ok bool, err error)
}

// Config holds what main.cf says to the Expander. Nil tables are empty ones.
type Config struct {
	Aliases             []Alias
	Users               Table // the lines of passwd(5) by user name
	MailboxTransport    string
	MailboxTransportMap Table
	FallbackTransport   string
	FallbackMap         Table
	LuserRelay          string
	Delimiters          string   // recipient_delimiter
	Propagate           bool     // propagate_unmatched_extensions holds alias
	OwnerSpecial        bool     // owner_request_special
	ExpandOwner         bool     // expand_owner_alias
	ForwardPath         []string // forward_path, with $home and the like
	ForwardFilter       string   // forward_expansion_filter
	DefaultUser         string   // default_privs: for commands and files of root's tables
	// Allow tells what may stand in aliases: allow_mail_to_commands,
	// allow_mail_to_files.
	AllowCommand, AllowFile bool
	NestLimit               int // levels of aliases; 0: 100
	// ThawedDelivered: Delivered-To: names each address that an alias leads to, not
	// the one that the message came for (frozen_delivered_to = no).
	ThawedDelivered bool
	// Resolve completes an address and tells whether it is delivered by this
	// transport, too.
	Resolve func(ctx context.Context, a address.Address) (address.Address, bool, error)
	Warn    func(format string, args ...any) // may be nil
}

// Alias is one table of alias_maps and who owns it: commands and files that
// stand in root's tables run as DefaultUser.
type Alias struct {
	Table
	Name  string // "hash:/etc/aliases", for messages
	Owner string
}

// Step is one thing to do for a recipient: Err is its answer, or Forward sends it
// on, or Hop does. With Recipient.User set, or a Target, it is for the agent that
// has users' rights, and Hop is where the mail goes if there is no .forward file.
type Step struct {
	Recipient agent.Recipient // with Target and User where they matter
	Err       error
	Discard   bool   // nobody wants it, and nobody must hear of it
	Hop       string // "transport:nexthop"
	Forward   bool   // in a new message, from Sender
	Sender    address.Address
	// Expanded is what a notice about success says of an alias that led here, in
	// place of what becomes of its members (RFC 3461, 5.2.7): "expanded", or
	// "delivered" for a list, which has an owner. Empty: there was none.
	Expanded string
}

// Expander decides. It is safe for concurrent use.
type Expander struct {
	c     Config
	users userCache
}

// userCache remembers for a short time who has an account, for mail that goes to
// mailbox_transport in any case: asking may cost a process. Where "no such user"
// bounces mail it is never used.
type userCache struct {
	mu   sync.Mutex
	seen map[string]cachedUser
}

type cachedUser struct {
	line  string
	ok    bool
	until time.Time
}

const (
	userCacheTime = time.Minute
	userCacheSize = 10000
)

func (u *userCache) get(name string) (cachedUser, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c, ok := u.seen[name]
	return c, ok && time.Now().Before(c.until)
}

func (u *userCache) put(name, line string, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seen == nil || len(u.seen) >= userCacheSize {
		u.seen = map[string]cachedUser{}
	}
	u.seen[name] = cachedUser{line, ok, time.Now().Add(userCacheTime)}
}

// NewExpander returns an Expander for c.
func NewExpander(c Config) *Expander {
	if c.NestLimit == 0 {
		c.NestLimit = 100
	}
	return &Expander{c: c}
}

// expansion is one recipient under way.
type expansion struct {
	*Expander
	top       agent.Recipient
	sender    address.Address
	delivered func(address.Address) bool
	seen      map[string]bool
	steps     []Step
	expanded  string // see Step
}

// Expand tells what to do for r. delivered reports whether the message's head
// holds a Delivered-To: with an address. An error is temporary and about all
// of r; what fails for good is a step with an Err.
func (x *Expander) Expand(ctx context.Context, sender address.Address, r agent.Recipient, delivered func(address.Address) bool) ([]Step, error) {
	e := &expansion{Expander: x, top: r, sender: sender, delivered: delivered}
	if err := e.recipient(ctx, r, 0, address.Address{}, false); err != nil {
		return nil, err
	}
	return e.steps, nil
}

func (e *expansion) add(s Step) {
	key := strings.ToLower(s.Recipient.Address.String()) + "\x00" + s.Recipient.Target + "\x00" + s.Hop
	if e.seen[key] {
		return
	}
	if e.seen == nil {
		e.seen = map[string]bool{}
	}
	e.seen[key] = true
	if s.Expanded = e.expanded; s.Expanded != "" {
		s.Recipient.Notify = s.Recipient.Notify.WithoutSuccess()
	}
	if s.Recipient.Address != e.top.Address {
		if s.Recipient.Original.IsNull() {
			s.Recipient.Original = e.top.Address
		}
		if !e.c.ThawedDelivered {
			s.Recipient.Delivered = e.top.Address
		}
	}
	e.steps = append(e.steps, s)
}

// recipient looks at one local address: full name, then without extension.
// owner, where owned, is the sender that a list's bounces go to.
func (e *expansion) recipient(ctx context.Context, r agent.Recipient, level int, owner address.Address, owned bool) error {
	if level > e.c.NestLimit {
		e.warn("alias database loop for %s", r.Address.Local)
		e.add(Step{Recipient: r, Err: dsn.New(0, "5.4.6", "alias database loop for %s", r.Address.Local)})
		return nil
	}
	if e.delivered != nil && e.delivered(r.Address) {
		e.add(Step{Recipient: r, Err: dsn.New(0, "5.4.6", "mail forwarding loop for %s", r.Address)})
		return nil
	}
	if user, ok := strings.CutPrefix(r.Address.Local, `\`); ok {
		r.Address.Local = user // \user: no further expansion
		return e.mailbox(ctx, r)
	}
	name := strings.ToLower(r.Address.Local)
	user, ext, hasExt := address.SplitExtension(name, e.c.Delimiters)
	if done, err := e.alias(ctx, r, name, "", level); done || err != nil {
		return err
	}
	if hasExt {
		keep := ""
		if e.c.Propagate {
			keep = r.Address.Local[len(user) : len(user)+1+len(ext)]
		}
		if done, err := e.alias(ctx, r, user, keep, level); done || err != nil {
			return err
		}
	}
	if owned && !strings.EqualFold(owner.Local, user) {
		e.add(Step{Recipient: ofList(r), Forward: true, Sender: owner})
		return nil
	}
	return e.mailbox(ctx, r)
}

// alias tries the tables for one name. ext is carried over to the members.
func (e *expansion) alias(ctx context.Context, r agent.Recipient, name, ext string, level int) (done bool, err error) {
	for i := range e.c.Aliases {
		t := &e.c.Aliases[i]
		value, ok, err := t.Lookup(ctx, name)
		if err != nil {
			return false, aliasesUnavailable(t.Name, err)
		}
		if !ok {
			continue
		}
		targets, err := alias.Parse(value)
		if err != nil || len(targets) == 0 {
			return false, fmt.Errorf("bad alias for %s in %s: %w", name, t.Name, err)
		}
		owner, owned, err := e.owner(ctx, name)
		if err != nil {
			return false, err
		}
		if e.expanded == "" {
			if e.expanded = "expanded"; owned {
				e.expanded = "delivered"
			}
		}
		for _, target := range targets {
			if err := e.target(ctx, r, t, target, ext, level, owner, owned); err != nil {
				return false, err
			}
		}
		return true, nil
	}
	return false, nil
}

// owner looks for owner-name, who then is the sender for the members.
func (e *expansion) owner(ctx context.Context, name string) (address.Address, bool, error) {
	if !e.c.OwnerSpecial || strings.HasPrefix(name, "owner-") || strings.HasSuffix(name, "-request") {
		return address.Address{}, false, nil
	}
	for i := range e.c.Aliases {
		value, ok, err := e.c.Aliases[i].Lookup(ctx, "owner-"+name)
		if err != nil {
			return address.Address{}, false, aliasesUnavailable(e.c.Aliases[i].Name, err)
		}
		if !ok {
			continue
		}
		owner := address.Address{Local: "owner-" + name}
		if e.c.ExpandOwner {
			if targets, err := alias.Parse(value); err == nil && len(targets) == 1 {
				if a, ok := targets[0].(alias.Address); ok {
					owner = a.Address
				}
			}
		}
		owner, _, err = e.c.Resolve(ctx, owner)
		return owner, true, err
	}
	return address.Address{}, false, nil
}

func (e *expansion) target(ctx context.Context, r agent.Recipient, t *Alias, target alias.Target, ext string, level int, owner address.Address, owned bool) error {
	next := r
	next.Target = ""
	switch target := target.(type) {
	case alias.Address:
		a := target.Address
		special := strings.HasPrefix(a.Local, `\`)
		if ext != "" && !special {
			a.Local += ext
		}
		a, local, err := e.c.Resolve(ctx, a)
		if err != nil {
			return err
		}
		next.Address = a
		if local {
			return e.recipient(ctx, next, level+1, owner, owned)
		}
		s := Step{Recipient: next, Forward: true, Sender: e.sender}
		if owned { // the list's own letter now
			s.Sender, s.Recipient = owner, ofList(next)
		}
		e.add(s)
		return nil
	case alias.Command:
		if !e.c.AllowCommand {
			return e.forbidden(next, "command")
		}
	case alias.File:
		if !e.c.AllowFile {
			return e.forbidden(next, "file")
		}
	}
	next.Target = target.String()
	if next.User = t.Owner; next.User == "" || next.User == "root" {
		next.User = e.c.DefaultUser
	}
	e.add(Step{Recipient: next})
	return nil
}

// ofList makes a member of a list with an owner a recipient of the list's own
// letter: what the first sender wanted to hear about the list, nobody wants to
// hear about its members (RFC 3461, 5.2.7.2).
func ofList(r agent.Recipient) agent.Recipient {
	r.Original, r.ORCPT, r.Notify = r.Address, "", 0
	return r
}

func (e *expansion) warn(format string, args ...any) {
	if e.c.Warn != nil {
		e.c.Warn(format, args...)
	}
}

func (e *expansion) forbidden(r agent.Recipient, what string) error {
	e.add(Step{Recipient: r, Err: dsn.New(0, "5.7.1", "mail to %s is restricted", what)})
	return nil
}

// mailbox is the end of the road: another transport, a user, or nobody.
func (e *expansion) mailbox(ctx context.Context, r agent.Recipient) error {
	user, _, _ := address.SplitExtension(strings.ToLower(r.Address.Local), e.c.Delimiters)
	hop, err := e.hop(ctx, e.c.MailboxTransportMap, e.c.MailboxTransport, user)
	if err != nil {
		return err
	}
	line, exists, err := e.account(ctx, user, hop != "")
	if err != nil {
		return err
	}
	if exists {
		// The user's .forward comes before mailbox_transport, and only someone
		// with the user's rights can see it: the agent says if there is none.
		// Where it is plain that there is none we save the way.
		r.User = user
		if hop != "" && e.noForward(line, r.Address) {
			r.User = ""
			e.add(Step{Recipient: r, Hop: hop})
			return nil
		}
		e.add(Step{Recipient: r, Hop: hop})
		return nil
	}
	if hop != "" {
		e.add(Step{Recipient: r, Hop: hop})
		return nil
	}
	if hop, err := e.hop(ctx, e.c.FallbackMap, e.c.FallbackTransport, user); err != nil || hop != "" {
		e.pass(r, hop, err)
		return err
	}
	if e.c.LuserRelay != "" {
		return e.luser(ctx, r, user)
	}
	if user == "mailer-daemon" || user == "postmaster" {
		e.warn("required alias not found: %s", user)
		e.add(Step{Recipient: r, Discard: true})
		return nil
	}
	e.add(Step{Recipient: r, Err: Unknown(user)})
	return nil
}

func (e *expansion) pass(r agent.Recipient, hop string, err error) {
	if err == nil {
		e.add(Step{Recipient: r, Hop: hop})
	}
}

// Unknown is the failure of mail to nobody.
func Unknown(user string) error {
	return dsn.New(0, "5.1.1", "unknown user: \"%s\"", user)
}

// account is user, from memory where that does no harm.
func (e *expansion) account(ctx context.Context, user string, remember bool) (string, bool, error) {
	if !remember {
		return e.user(ctx, user)
	}
	if c, ok := e.users.get(user); ok {
		return c.line, c.ok, nil
	}
	line, ok, err := e.user(ctx, user)
	if err == nil {
		e.users.put(user, line, ok)
	}
	return line, ok, err
}

// user finds the line of passwd(5).
func (e *expansion) user(ctx context.Context, user string) (string, bool, error) {
	if e.c.Users == nil || user == "" {
		return "", false, nil
	}
	line, ok, err := e.c.Users.Lookup(ctx, user)
	if err != nil {
		return "", false, fmt.Errorf("user database unavailable: %w", err)
	}
	return line, ok, nil
}

// noForward reports whether it is plain, without the user's rights, that there
// is no .forward file.
func (e *expansion) noForward(passwd string, a address.Address) bool {
	fields := strings.Split(passwd, ":")
	if len(fields) < 6 {
		return false
	}
	user, ext, _ := address.SplitExtension(a.Local, e.c.Delimiters)
	if strings.Contains(ext, "/") {
		return false
	}
	for _, name := range ForwardFiles(e.c.ForwardPath, user, fields[5], ext, e.c.Delimiters, e.c.ForwardFilter) {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return false
		}
	}
	return true
}

// filtered replaces what a filter does not hold, so that a stranger's characters
// mean nothing in a name.
func filtered(vars map[string]string, filter string) map[string]string {
	if filter == "" {
		return vars
	}
	for name, value := range vars {
		b := []byte(value)
		for i, c := range b {
			if strings.IndexByte(filter, c) < 0 {
				b[i] = '_'
			}
		}
		vars[name] = string(b)
	}
	return vars
}

// ForwardFiles are the names that forward_path means for a user; filter is
// forward_expansion_filter.
func ForwardFiles(path []string, user, home, ext, delimiters, filter string) []string {
	if len(path) == 0 {
		path = []string{"$home/.forward${recipient_delimiter}${extension}", "$home/.forward"}
	}
	vars := map[string]string{"user": user, "home": home, "extension": ext}
	if ext != "" && delimiters != "" {
		vars["recipient_delimiter"] = delimiters[:1]
	}
	vars = filtered(vars, filter)
	var names []string
	for _, p := range path {
		if name := expandVars(p, vars); strings.HasPrefix(name, "/") && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// hop asks a map by user, then takes the plain setting.
func (e *expansion) hop(ctx context.Context, t Table, plain, user string) (string, error) {
	if t != nil {
		v, ok, err := t.Lookup(ctx, user)
		if err != nil || ok {
			return v, err
		}
	}
	return plain, nil
}

// luser sends mail for nobody to luser_relay, where $user, $local, $domain,
// $recipient and $extension stand for parts of the address.
func (e *expansion) luser(ctx context.Context, r agent.Recipient, user string) error {
	_, ext, _ := address.SplitExtension(r.Address.Local, e.c.Delimiters)
	text := expandVars(e.c.LuserRelay, map[string]string{
		"user": user, "local": r.Address.Local, "domain": r.Address.Domain,
		"recipient": r.Address.String(), "extension": ext, "recipient_delimiter": e.c.Delimiters,
	})
	targets, err := alias.Parse(text)
	if err != nil || len(targets) == 0 {
		return fmt.Errorf("bad luser_relay: %s", text)
	}
	for _, t := range targets {
		a, ok := t.(alias.Address)
		if !ok {
			r.Target, r.User = t.String(), e.c.DefaultUser
			e.add(Step{Recipient: r})
			continue
		}
		to, local, err := e.c.Resolve(ctx, a.Address)
		if err != nil {
			return err
		}
		next := r
		next.Address = to
		u, _, _ := address.SplitExtension(strings.ToLower(to.Local), e.c.Delimiters)
		_, known, err := e.user(ctx, u)
		if err != nil {
			return err
		}
		if local && known {
			next.User = u
			e.add(Step{Recipient: next})
			continue
		}
		e.add(Step{Recipient: next, Forward: true, Sender: e.sender})
	}
	return nil
}

// expandVars replaces $name and ${name}; main.cf's own are long expanded.
func expandVars(s string, vars map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' {
			b.WriteByte(s[i])
			continue
		}
		rest := s[i+1:]
		brace := strings.HasPrefix(rest, "{")
		if brace {
			rest = rest[1:]
		}
		n := 0
		for n < len(rest) && (rest[n] == '_' || rest[n] >= 'a' && rest[n] <= 'z') {
			n++
		}
		b.WriteString(vars[rest[:n]])
		i += n
		if brace {
			i++
			if n < len(rest) && rest[n] == '}' {
				i++
			}
		}
	}
	return b.String()
}

// aliasesUnavailable defers: whether there is an alias is not known.
func aliasesUnavailable(name string, err error) error {
	return &dsn.Error{Code: [3]int{4, 3, 0}, Text: "alias database unavailable", Err: fmt.Errorf("%s: %w", name, err)}
}
