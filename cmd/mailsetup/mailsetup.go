// Package mailsetup makes a mail server: the configuration files, folders,
// certificate, users and mailboxes, either private (all below one folder, for
// one ordinary user) or at the system's places. See mailsetup(8).
package mailsetup

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/conf/mastercf"
	"angarium/lib/smtp"
	"angarium/lib/sysuser"
)

// Main is mailsetup(8).
func Main(ctx context.Context, c *cli.Cmd) error {
	o, err := parse(c)
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		syscall.Umask(0o022) // other users than root must pass the folders and read the files
	}
	s, err := newSetup(o)
	if err != nil {
		return err
	}
	if err := s.claim(o); err != nil {
		return err
	}
	s.warnKept(c, o)
	if !s.done || o.force {
		for _, w := range s.warnings {
			fmt.Fprintf(c.Stderr, "mailsetup: warning: %s\n", w)
		}
	}
	if err := s.writeConfiguration(o.force); err != nil {
		return err
	}
	if err := s.addUsers(ctx, c); err != nil {
		return err
	}
	if !s.done || o.force {
		if err := s.finish(ctx, c); err != nil {
			return err
		}
	} else if s.Private {
		if err := s.updateReadme(); err != nil {
			return err
		}
	}
	switch {
	case o.run:
		return s.run(ctx, c)
	case !s.Private:
		s.warnAliases(c)
		return nil
	case s.done && !o.force: // only users were added
		return nil
	}
	text, err := os.ReadFile(s.Readme)
	if err == nil {
		_, err = c.Stdout.Write(text)
	}
	return err
}

// account is a user with a password in clear, as the command line gives it.
type account struct{ Name, Password string }

// options are the command line.
type options struct {
	dir, domain, hostname, profile string
	system, run, force, keep       bool
	base                           int
	users, admins                  []account
}

const usage = `usage: mailsetup --dir DIR | --system
  --domain NAME          domain of the users' addresses
  --hostname NAME        what the server calls itself
  --port-base N          add N to the standard ports (private: 10000)
  --user NAME:PASSWORD   make a user with a mailbox; may be repeated; - reads them from standard input
  --admin NAME:PASSWORD  make an administrator of the store (imapd.conf admins)
  --profile default|apple-10.4
  --keep                 leave the configuration files that are there
  --force                write them anew; mail and users stay
  --run                  run everything in the foreground, log on standard output
`

func parse(c *cli.Cmd) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("mailsetup", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.dir, "dir", "", "")
	f.BoolVar(&o.system, "system", false, "")
	f.Func("domain", "", hostname(&o.domain))
	f.Func("hostname", "", hostname(&o.hostname))
	f.IntVar(&o.base, "port-base", -1, "")
	f.StringVar(&o.profile, "profile", "default", "")
	f.BoolVar(&o.run, "run", false, "")
	f.BoolVar(&o.keep, "keep", false, "")
	f.BoolVar(&o.force, "force", false, "")
	in := &lines{from: c.Stdin}
	f.Func("user", "", func(s string) error { return addAccounts(&o.users, s, in) })
	f.Func("admin", "", func(s string) error { return addAccounts(&o.admins, s, in) })
	err := f.Parse(c.Args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(c.Stdout, usage)
		return nil, cli.Exit(0, "")
	}
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("unexpected argument: %s", f.Arg(0))
	}
	if err == nil {
		err = o.check()
	}
	if err != nil {
		fmt.Fprint(c.Stderr, usage)
		return nil, cli.Exit(cli.Usage, "%v", err)
	}
	return o, nil
}

// check reports what does not go together.
func (o *options) check() error {
	switch {
	case (o.dir == "") == !o.system:
		return errors.New("say either --dir DIR or --system")
	case o.keep && o.force:
		return errors.New("say either --keep or --force")
	case o.system && o.run:
		return errors.New("--run goes with --dir; the system starts its server with postfix start and cyrmaster -d")
	case o.profile != "default" && o.profile != "apple-10.4":
		return fmt.Errorf("no such profile: %s", o.profile)
	case o.base > 60000 || o.base < -1:
		return errors.New("--port-base must be between 0 and 60000")
	}
	passwords := map[string]string{}
	for _, a := range append(o.users[:len(o.users):len(o.users)], o.admins...) {
		if p, ok := passwords[a.Name]; ok && p != a.Password {
			return fmt.Errorf("two passwords for %s", a.Name)
		}
		passwords[a.Name] = a.Password
	}
	return nil
}

// hostname takes the value of --domain or --hostname.
func hostname(to *string) func(string) error {
	return func(s string) error {
		ascii := strings.IndexFunc(s, func(r rune) bool { return r > 126 }) < 0
		if !ascii || strings.Contains(s, "_") || !smtp.ValidHostname(s) {
			return errors.New("not a host name (one with other letters is written as DNS has it, xn--...)")
		}
		*to = s
		return nil
	}
}

// lines is standard input, which can be read once.
type lines struct {
	from io.Reader
	read bool
}

// addAccounts reads "name:password", or lines of that from standard input for "-".
func addAccounts(to *[]account, s string, in *lines) error {
	if s != "-" {
		a, err := parseAccount(s)
		*to = append(*to, a)
		return err
	}
	if in.read {
		return errors.New("standard input can be read once only")
	}
	in.read = true
	before := len(*to)
	for sc := bufio.NewScanner(in.from); ; {
		if !sc.Scan() {
			if err := sc.Err(); err != nil {
				return err
			}
			break
		}
		line := strings.TrimRight(sc.Text(), "\r")
		if strings.TrimSpace(line) == "" || line[0] == '#' {
			continue
		}
		a, err := parseAccount(line)
		if err != nil {
			return err
		}
		*to = append(*to, a)
	}
	if len(*to) == before { // else a lost list would make the users that come unasked
		return errors.New("nobody is named on standard input")
	}
	return nil
}

// parseAccount reads name:password. A name is kept in small letters, as the
// store looks for it (username_tolower, lmtp_downcase_rcpt). The password does
// not stand in its errors.
func parseAccount(s string) (account, error) {
	name, password, ok := strings.Cut(s, ":")
	switch {
	case !ok || password == "":
		return account{}, errors.New("need name:password")
	case !plainName(name):
		return account{}, fmt.Errorf("not a user name: %q", name)
	case strings.IndexFunc(password, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0:
		return account{}, fmt.Errorf("the password of %s has a control character", name)
	}
	return account{strings.ToLower(name), password}, nil
}

// maxName is the length of a local part: RFC 5321, 4.5.3.1.1.
const maxName = 64

// plainName keeps what would need quoting in an address or a mailbox name out.
func plainName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' && i > 0 ||
			c == '.' && i > 0 && i < len(s)-1 && s[i-1] != '.'
		if !ok {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

// setup is what the files' templates see, and where the files go.
type setup struct {
	Dir, Domain, Hostname string
	Private, Apple, Home  bool // Home: mail for other domains goes back
	Owner, Group, Bin     string
	StoreOwner            string // of a private server's mail; the system's is cyrus
	Privs                 string // default_privs; empty: as main.cf has it by default
	Daemons, Commands     string // of Postfix and of its users; empty: where main.cf has them by default
	done                  bool   // the set-up was there, and whole
	oldAliases            bool   // so was the file of aliases
	warnings              []string

	Postfix, ImapdConf, CyrusConf, SSL string // configuration
	Spool, ImapSpool, Lib              string // queue, mail, state
	ConfigDirectory, SocketDir, Log    string
	Sasldb, Readme, Interfaces         string
	Aliases                            string
	SMTP, Submission, SMTPS, LMTP      string // listeners
	IMAP, IMAPS, POP3, POP3S           string
	MaxIMAP, AdminNames                string
	Users, Admins                      []account
}

// First and Last are between whom the README's letter goes.
func (s *setup) First() account { return s.user(0) }
func (s *setup) Last() account  { return s.user(len(s.Users) - 1) }

// user is a word to be filled in where the files are written anew and nobody
// is named.
func (s *setup) user(n int) account {
	if len(s.Users) == 0 {
		return account{"NAME", "PASSWORD"}
	}
	return s.Users[n]
}

// nobody is the mailbox that keeps the mail of a server without users, until
// somebody is named in aliases or gives it a password.
const nobody = "postmaster"

// Alias are the names that everybody expects, and whom they lead to. A user
// who has such a name gets the mail; without users there is a mailbox for it.
func (s *setup) Alias() []alias {
	all := []alias{{"postmaster", "root"}, {"mailer-daemon", "postmaster"}, {"abuse", "postmaster"}, {"spam", "postmaster"}}
	if len(s.Users) == 0 {
		return append(all[1:], alias{"root", nobody})
	}
	all = append(all, alias{"root", s.Users[0].Name})
	return slices.DeleteFunc(all, func(a alias) bool {
		return slices.ContainsFunc(s.Users, func(u account) bool { return u.Name == a.Name })
	})
}

// alias is a line of aliases.
type alias struct{ Name, To string }

func newSetup(o *options) (*setup, error) {
	s := &setup{Private: !o.system, Apple: o.profile == "apple-10.4", Users: o.users, Admins: o.admins}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s.Bin = filepath.Dir(exe)
	if s.Private {
		err = s.private(o)
	} else {
		err = s.system(o)
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, a := range s.Admins {
		names = append(names, a.Name)
	}
	s.AdminNames = strings.Join(names, " ")
	if s.AdminNames == "" { // a word must stand there
		s.AdminNames = "cyrus"
	}
	if s.Apple {
		s.MaxIMAP = " maxchild=32"
	}
	s.Home = s.Apple || o.domain == "" && o.hostname == ""
	return s, nil
}

func (s *setup) private(o *options) (err error) {
	if s.Dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	if strings.ContainsAny(s.Dir, " \t\n$\"'\\,{}") {
		return fmt.Errorf("%s: a folder with blanks or one of $ \" ' \\ , { } in its name can't stand in main.cf", s.Dir)
	}
	s.Domain, s.Hostname = o.domain, o.hostname
	if s.Domain == "" {
		s.Domain = "example.test"
	}
	if s.Hostname == "" {
		s.Hostname = "mail." + s.Domain
	}
	if err := s.owners(); err != nil {
		return err
	}
	s.Daemons, s.Commands = s.Bin, s.Bin
	at := func(p string) string { return filepath.Join(s.Dir, p) }
	s.Postfix, s.SSL = at("etc/postfix"), at("etc/ssl")
	s.ImapdConf, s.CyrusConf = at("etc/imapd.conf"), at("etc/cyrus.conf")
	s.Spool, s.ImapSpool, s.Lib, s.Log = at("spool/postfix"), at("spool/imap"), at("lib"), at("log")
	s.ConfigDirectory, s.Readme, s.Aliases = at("lib/imap"), at("README"), at("etc/postfix/aliases")
	base := o.base
	if base < 0 {
		base = 10000
	}
	s.paths()
	s.listen("127.0.0.1:", func(port int) string { return fmt.Sprint(base + port) })
	s.LMTP = fmt.Sprint("127.0.0.1:", base+24)
	s.Interfaces = "127.0.0.1"
	return nil
}

func (s *setup) system(o *options) error {
	s.Hostname = o.hostname
	if s.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		s.Hostname = name
	}
	_, domain, dotted := strings.Cut(s.Hostname, ".")
	switch {
	case o.domain != "":
		s.Domain = o.domain
	case dotted:
		s.Domain = domain
	default: // as Postfix calls the domain of a host that has none
		s.Domain = "localdomain"
	}
	if !dotted {
		s.Hostname += "." + s.Domain
	}
	s.Dir, s.Owner, s.Group = "/", "postfix", "postdrop"
	switch prefix := filepath.Dir(s.Bin); {
	case prefix == "/usr":
	case filepath.Base(s.Bin) == "sbin": // make install PREFIX=
		s.Daemons, s.Commands = prefix+"/lib/postfix/sbin", prefix+"/bin"
	default:
		s.Daemons, s.Commands = s.Bin, s.Bin
	}
	s.Postfix, s.SSL = "/etc/postfix", "/etc/postfix/ssl"
	s.ImapdConf, s.CyrusConf = "/etc/imapd.conf", "/etc/cyrus.conf"
	s.Spool, s.ImapSpool, s.Lib, s.Log = "/var/spool/postfix", "/var/spool/imap", "/var/lib", "/var/log"
	s.ConfigDirectory, s.Aliases = "/var/lib/imap", "/etc/aliases"
	s.paths()
	port := func(n int) string {
		if o.base > 0 {
			return fmt.Sprint(o.base + n)
		}
		return map[int]string{25: "smtp", 465: "465", 587: "submission", 143: "imap", 993: "imaps", 110: "pop3", 995: "pop3s"}[n]
	}
	s.listen("", port)
	s.Interfaces = "all"
	if o.domain == "" && o.hostname == "" { // nobody said whose mail this is: stay at home
		s.Interfaces = "loopback-only"
	}
	return nil
}

func (s *setup) paths() {
	s.SocketDir = s.ConfigDirectory + "/socket"
	s.Sasldb = s.ConfigDirectory + "/sasldb2"
}

func (s *setup) listen(host string, port func(int) string) {
	for _, l := range []struct {
		to   *string
		port int
	}{{&s.SMTP, 25}, {&s.SMTPS, 465}, {&s.Submission, 587}, {&s.IMAP, 143}, {&s.IMAPS, 993}, {&s.POP3, 110}, {&s.POP3S, 995}} {
		*l.to = host + port(l.port)
	}
}

// claim fails if there is a set-up and nobody said what to do with it. It
// notes whether it is whole: a private server's README is written last, so
// that one whose making was interrupted is completed.
func (s *setup) claim(o *options) error {
	found := ""
	for _, f := range s.configuration() {
		_, err := os.Lstat(f.to)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !o.keep && !o.force {
			return fmt.Errorf("%s: there is a set-up already; --keep uses it as it is, --force writes its configuration files anew", f.to)
		}
		found = f.to
	}
	s.done = found != ""
	if !s.Private {
		return s.haveUsers()
	}
	if _, err := os.Stat(s.Readme); errors.Is(err, os.ErrNotExist) {
		s.done = false
	} else if err != nil {
		return err
	}
	if !s.done && len(s.Users)+len(s.Admins) == 0 {
		s.Users = []account{{"alice", "secret"}, {"bob", "secret"}}
		s.Admins = []account{{"cyrus", "secret"}}
	}
	return nil
}

// haveUsers fails before anything is written if somebody must be made first.
func (s *setup) haveUsers() error {
	if os.Geteuid() != 0 {
		return errors.New("--system is for root")
	}
	for _, name := range []string{s.Owner, "cyrus"} {
		u, err := sysuser.Lookup(name)
		if err == nil && u == nil {
			err = fmt.Errorf("there is no user %s: make it first (useradd -r -M -s /usr/sbin/nologin %s)", name, name)
		}
		if err != nil {
			return err
		}
	}
	g, err := sysuser.LookupGroup(s.Group)
	if err == nil && g == nil {
		err = fmt.Errorf("there is no group %s: make it first (groupadd -r %s)", s.Group, s.Group)
	}
	return err
}

// warnKept says which options changed nothing because the files stay.
func (s *setup) warnKept(c *cli.Cmd, o *options) {
	if !s.done || o.force {
		return
	}
	kept := func(file, option string) {
		fmt.Fprintf(c.Stderr, "mailsetup: warning: %s stays as it is, %s changes nothing in it (--force writes it anew)\n", file, option)
	}
	conf, err := maincf.Load(s.Postfix)
	if err != nil {
		return // who reads it next says so
	}
	if o.domain != "" && conf.String("mydomain") != o.domain {
		kept(s.Postfix+"/main.cf", "--domain "+o.domain)
	}
	if o.hostname != "" && conf.String("myhostname") != o.hostname {
		kept(s.Postfix+"/main.cf", "--hostname "+o.hostname)
	}
	if o.base < 0 {
		return
	}
	if services, err := mastercf.Load(s.Postfix+"/master.cf", mastercf.Options{}); err == nil &&
		!slices.ContainsFunc(services, func(l mastercf.Service) bool { return l.Type == "inet" && l.Name == s.SMTP }) {
		kept(s.Postfix+"/master.cf", fmt.Sprint("--port-base ", o.base))
	}
}

// warnAliases: every domain has a postmaster (RFC 5321, 4.5.1), but a file that
// was there before us stays as it is.
func (s *setup) warnAliases(c *cli.Cmd) {
	text, err := os.ReadFile(s.Aliases)
	if s.oldAliases && err == nil && !regexp.MustCompile(`(?im)^"?postmaster"?\s*:`).Match(text) {
		fmt.Fprintf(c.Stderr, "mailsetup: warning: %s has no line for postmaster; add one and run newaliases\n", s.Aliases)
	}
}
