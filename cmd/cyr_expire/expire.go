// Package cyr_expire lets go of what was kept for a while: expunged messages,
// deleted mailboxes, old messages where a mailbox asks for it, and the memory of
// deliveries. ctl_deliver and tls_prune are its relatives. See cyr_expire(8).
package cyr_expire

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"angarium/lib/cli"
	"angarium/lib/lmtpd"
	"angarium/lib/mailbox"
	"angarium/lib/maillog"
	"angarium/lib/store"
	"angarium/lib/storetool"
)

// annotation is how a mailbox says after how many days its messages, or with
// "delete" those below DELETED, may go. What is below it does the same.
const annotation = "/shared/vendor/cmu/cyrus-imapd/"

const usage = `Usage: cyr_expire [-C config-file] [-A duration] [-D duration] [-E duration] [-X duration]
	[-p mailbox-prefix] [-u userid] [-t] [-v] [-a] [-c] [-x]
A duration is a number of days, or with s, m, h or d behind it of these.`

type options struct {
	config, prefix, user    string
	delete, expire, expunge time.Duration // negative: not asked for
	archive, flags, verbose bool
	noAnnotation, noExpunge bool
}

// Main is cyr_expire.
func Main(ctx context.Context, c *cli.Cmd) error {
	o, err := parse(c)
	if err != nil {
		return err
	}
	t, err := storetool.Begin("cyr_expire", o.config)
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, t.Store)
	if err != nil {
		return cli.Exit(cli.TempFail, "%w", err)
	}
	j := &job{c: c, o: o, t: t, st: st, inherited: map[mailbox.Name]map[string]string{}}
	return errors.Join(j.run(ctx), st.Close())
}

func parse(c *cli.Cmd) (options, error) {
	o := options{delete: -1, expire: -1, expunge: -1}
	for {
		letter, arg, ok, err := c.Getopt("C:A:D:E:X:p:u:tvacxh")
		if err != nil {
			return o, cli.Exit(cli.Usage, "%w\n%s", err, usage)
		}
		if !ok {
			break
		}
		switch letter {
		case 'C':
			o.config = arg
		case 'A':
			_, err = duration(arg)
			o.archive = true
		case 'D':
			o.delete, err = duration(arg)
		case 'E':
			o.expire, err = duration(arg)
		case 'X':
			o.expunge, err = duration(arg)
		case 'p':
			o.prefix = arg
		case 'u':
			o.user = arg
		case 't':
			o.flags = true
		case 'v':
			o.verbose = true
		case 'a':
			o.noAnnotation = true
		case 'x':
			o.noExpunge = true
		case 'h':
			c.Printf("%s\n", usage)
			return o, cli.Exit(cli.Usage, "")
		}
		if err != nil {
			return o, cli.Exit(cli.Usage, "%w\n%s", err, usage)
		}
	}
	if o.delete < 0 && o.expire < 0 && o.expunge < 0 && !o.archive && !o.flags {
		return o, cli.Exit(cli.Usage, "Missing arguments.\n%s", usage)
	}
	return o, nil
}

// duration reads "3", "1.5d", "12h", "30m", "90s".
func duration(s string) (time.Duration, error) {
	unit := 24 * time.Hour
	number := s
	if i := len(s) - 1; i >= 0 {
		switch s[i] {
		case 'd':
			number = s[:i]
		case 'h':
			number, unit = s[:i], time.Hour
		case 'm':
			number, unit = s[:i], time.Minute
		case 's':
			number, unit = s[:i], time.Second
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0 && n < 100_000) && unit == 24*time.Hour || !(n >= 0 && n < 1e9) {
		return 0, fmt.Errorf("bad duration: %s", s)
	}
	return time.Duration(n * float64(unit)), nil
}

func days(d time.Duration) float64 { return d.Hours() / 24 }

type job struct {
	c  *cli.Cmd
	o  options
	t  *storetool.Tool
	st *store.Store

	inherited map[mailbox.Name]map[string]string // annotations of mailboxes above

	seen, expired, expunged, mailboxes int
}

func (j *job) say(format string, args ...any) {
	if j.o.verbose {
		fmt.Fprintf(j.c.Stderr, format+"\n", args...)
	}
}

// told goes to the log, and with -v to the terminal.
func (j *job) told(format string, args ...any) {
	j.t.Log.Log(maillog.Notice, format, args...)
	j.say("\n"+format+"\n", args...)
}

func (j *job) run(ctx context.Context) error {
	failed := false
	try := func(name mailbox.Name, err error) {
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			failed = true
			j.t.Log.Log(maillog.Warning, "failure expiring %s: %v", j.t.Namespace.External(name), err)
			j.c.Warnf("%s: %v", j.t.Namespace.External(name), err)
		}
	}
	if j.o.expire >= 0 || j.o.expunge >= 0 || j.o.flags {
		if j.o.expunge >= 0 {
			j.say("Expunging deleted messages in mailboxes older than %0.2f days", days(j.o.expunge))
		}
		for e, err := range j.chosen(ctx) {
			if err != nil {
				return err
			}
			j.mailboxes++
			try(e.Name, j.mailbox(ctx, &e))
		}
		j.told("Expired %d and expunged %d out of %d messages from %d mailboxes", j.expired, j.expunged, j.seen, j.mailboxes)
		if j.o.flags {
			j.told("Expunged %d user flags", 0) // a mailbox keeps the names it knows
		}
	}
	if j.o.delete >= 0 {
		try("", j.deleted(ctx, try))
	}
	if j.o.expire >= 0 {
		if err := j.duplicates(); err != nil {
			return err
		}
	}
	if failed {
		return cli.Exit(cli.TempFail, "")
	}
	return nil
}

// chosen are the mailboxes that -p and -u leave.
func (j *job) chosen(ctx context.Context) func(func(store.Entry, error) bool) {
	return func(yield func(store.Entry, error) bool) {
		for e, err := range j.st.List(ctx, store.Query{Owner: j.o.user, Deleted: true}) {
			// Written as users see names, or as Cyrus' own files have them.
			if err == nil && !strings.HasPrefix(j.t.Namespace.External(e.Name), j.o.prefix) && !strings.HasPrefix(string(e.Name), j.o.prefix) {
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// mailbox expires what is too old, and forgets what was expunged.
func (j *job) mailbox(ctx context.Context, e *store.Entry) error {
	now := time.Now()
	if text := j.setting(ctx, e.Name, "expire"); text != "" {
		keep, err := duration(text)
		if err != nil {
			return err
		}
		if keep > 0 {
			if err := j.old(ctx, e, now.Add(-keep), keep); err != nil {
				return err
			}
		}
	}
	before := time.Time{} // only count
	if j.o.expunge >= 0 && !j.o.noExpunge {
		j.say("cleaning up expunged messages in %s", j.t.Namespace.External(e.Name))
		before = now.Add(-j.o.expunge)
	}
	f, err := j.st.Forget(ctx, e.Name, before)
	j.seen += f.Seen
	j.expunged += f.Files
	return err
}

// old expunges messages that were sent before a time.
func (j *job) old(ctx context.Context, e *store.Entry, before time.Time, keep time.Duration) error {
	j.say("expiring messages in %s older than %0.2f days", j.t.Namespace.External(e.Name), days(keep))
	m, err := j.st.Open(ctx, e.Name, store.User{ID: "cyr_expire", Admin: true})
	if err != nil {
		return err
	}
	defer m.Close()
	v, err := m.View(ctx)
	if err != nil || v.Len() == 0 {
		return err
	}
	var all, gone store.UIDSet
	for i := range v.Len() {
		all.Add(v.At(i).UID)
	}
	for s, err := range m.Summaries(ctx, all) {
		if err != nil {
			return err
		}
		sent := s.Summary.Sent
		if i, ok := v.Find(s.UID); sent == 0 && ok {
			sent = v.At(i).Internal
		}
		if time.Unix(sent, 0).Before(before) {
			gone.Add(s.UID)
		}
	}
	gone, err = m.Expunge(ctx, gone)
	j.expired += gone.Len()
	return err
}

// setting is an annotation of a mailbox, or of the nearest above that has it.
func (j *job) setting(ctx context.Context, name mailbox.Name, what string) string {
	for at, ok := name, !j.o.noAnnotation; ok; at, ok = at.Parent() {
		known, found := j.inherited[at]
		if !found {
			if e, err := j.st.Lookup(ctx, at); err == nil {
				known = e.Annotations
			}
			if len(j.inherited) > 100_000 {
				clear(j.inherited)
			}
			j.inherited[at] = known
		}
		if v := known[annotation+what]; v != "" {
			return v
		}
	}
	return ""
}

// deleted removes mailboxes that were deleted long enough ago.
func (j *job) deleted(ctx context.Context, try func(mailbox.Name, error)) error {
	j.say("Removing deleted mailboxes older than %0.2f days", days(j.o.delete))
	removed := 0
	for e, err := range j.chosen(ctx) {
		if err != nil {
			return err
		}
		at, ok := store.DeletedAt(e.Name)
		if !ok {
			continue
		}
		keep := j.o.delete
		if text := j.setting(ctx, e.Name, "delete"); text != "" {
			d, err := duration(text)
			if err != nil {
				try(e.Name, err)
				continue
			}
			keep = d
		}
		if time.Since(at) < keep {
			continue
		}
		j.say("Removing: %s", j.t.Namespace.External(e.Name))
		err := j.st.Delete(ctx, e.Name)
		if err == nil {
			removed++
		}
		try(e.Name, err)
	}
	j.told("Removed %d deleted mailboxes", removed)
	return nil
}

func seen(t *storetool.Tool) *lmtpd.Duplicates {
	return &lmtpd.Duplicates{Dir: filepath.Join(t.Store.ConfigDirectory, "deliver"), Log: t.Log}
}

// duplicates prunes the memory of deliveries.
func (j *job) duplicates() error {
	j.t.Log.Log(maillog.Notice, "duplicate_prune: pruning back %0.2f days", days(j.o.expire))
	purged, all, err := seen(j.t).Prune(time.Now().Add(-j.o.expire))
	j.t.Log.Log(maillog.Notice, "duplicate_prune: purged %d out of %d entries", purged, all)
	return err
}
