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
	"os/user"
	"path/filepath"
	"strings"

	"angarium/lib/cli"
)

// Main is mailsetup(8).
func Main(ctx context.Context, c *cli.Cmd) error {
	o, err := parse(c)
	if err != nil {
		return err
	}
	s, err := newSetup(o)
	if err != nil {
		return err
	}
	fresh, err := s.claim(o)
	if err != nil {
		return err
	}
	if fresh && s.Private && len(s.Users) == 0 {
		s.Users = []account{{"alice", "secret"}, {"bob", "secret"}}
	}
	if fresh || o.force {
		if err := s.writeConfiguration(); err != nil {
			return err
		}
	}
	if err := s.addUsers(ctx); err != nil {
		return err
	}
	if fresh || o.force {
		if err := s.finish(ctx); err != nil {
			return err
		}
	}
	if o.run {
		return s.run(ctx, c)
	}
	if !s.Private {
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
	f.StringVar(&o.domain, "domain", "", "")
	f.StringVar(&o.hostname, "hostname", "", "")
	f.IntVar(&o.base, "port-base", -1, "")
	f.StringVar(&o.profile, "profile", "default", "")
	f.BoolVar(&o.run, "run", false, "")
	f.BoolVar(&o.keep, "keep", false, "")
	f.BoolVar(&o.force, "force", false, "")
	f.Func("user", "", func(s string) error { return addAccounts(&o.users, s, c.Stdin) })
	f.Func("admin", "", func(s string) error { return addAccounts(&o.admins, s, c.Stdin) })
	err := f.Parse(c.Args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(c.Stdout, usage)
		return nil, cli.Exit(0, "")
	case err == nil && f.NArg() > 0:
		err = fmt.Errorf("unexpected argument: %s", f.Arg(0))
	case err == nil && (o.dir == "") == !o.system:
		err = errors.New("say either --dir DIR or --system")
	case err == nil && o.system && o.run:
		err = errors.New("--run goes with --dir; the system starts its server with postfix start and cyrmaster -d")
	case err == nil && o.profile != "default" && o.profile != "apple-10.4":
		err = fmt.Errorf("no such profile: %s", o.profile)
	case err == nil && (o.base > 60000 || o.base < -1):
		err = errors.New("--port-base must be between 0 and 60000")
	}
	if err != nil {
		fmt.Fprint(c.Stderr, usage)
		return nil, cli.Exit(cli.Usage, "%v", err)
	}
	return o, nil
}

// addAccounts reads "name:password", or lines of that from standard input for "-".
func addAccounts(to *[]account, s string, stdin io.Reader) error {
	if s != "-" {
		name, password, ok := strings.Cut(s, ":")
		if !ok || password == "" {
			return fmt.Errorf("need name:password, not %q", name)
		}
		if !plainName(name) {
			return fmt.Errorf("not a user name: %q", name)
		}
		*to = append(*to, account{name, password})
		return nil
	}
	sc := bufio.NewScanner(stdin)
	for sc.Scan() {
		if line := strings.TrimSpace(sc.Text()); line != "" && line[0] != '#' {
			if err := addAccounts(to, line, nil); err != nil {
				return err
			}
		}
	}
	return sc.Err()
}

// plainName keeps what would need quoting in an address or a mailbox name out.
func plainName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' && i > 0 || c == '.' && i > 0
		if !ok {
			return false
		}
	}
	return s != ""
}

// setup is what the files' templates see, and where the files go.
type setup struct {
	Dir, Domain, Hostname string
	Private, Apple        bool
	Owner, Group, Bin     string

	Postfix, ImapdConf, CyrusConf, SSL string // configuration
	Spool, ImapSpool, Lib              string // queue, mail, state
	ConfigDirectory, SocketDir, Log    string
	Sasldb, Readme, Interfaces         string
	SMTP, Submission, SMTPS, LMTP      string // listeners
	IMAP, IMAPS, POP3, POP3S           string
	MaxIMAP, AdminNames, Postmaster    string
	Users, Admins                      []account
}

// Last is the user whom the README's letter goes to.
func (s *setup) Last() account { return s.Users[len(s.Users)-1] }

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
	s.Postmaster = "alice"
	if len(s.Users) > 0 {
		s.Postmaster = s.Users[0].Name
	}
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
	me, err := user.Current()
	if err != nil {
		return err
	}
	group, err := user.LookupGroupId(me.Gid)
	if err != nil {
		return err
	}
	s.Owner, s.Group = me.Username, group.Name
	at := func(p string) string { return filepath.Join(s.Dir, p) }
	s.Postfix, s.SSL = at("etc/postfix"), at("etc/ssl")
	s.ImapdConf, s.CyrusConf = at("etc/imapd.conf"), at("etc/cyrus.conf")
	s.Spool, s.ImapSpool, s.Lib, s.Log = at("spool/postfix"), at("spool/imap"), at("lib"), at("log")
	s.ConfigDirectory, s.Readme = at("lib/imap"), at("README")
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
	s.Domain = o.domain
	if s.Domain == "" {
		_, domain, ok := strings.Cut(s.Hostname, ".")
		if !ok {
			return fmt.Errorf("host name %s has no domain: say --domain", s.Hostname)
		}
		s.Domain = domain
	}
	s.Dir, s.Owner, s.Group = "/", "postfix", "postdrop"
	s.Postfix, s.SSL = "/etc/postfix", "/etc/postfix/ssl"
	s.ImapdConf, s.CyrusConf = "/etc/imapd.conf", "/etc/cyrus.conf"
	s.Spool, s.ImapSpool, s.Lib, s.Log = "/var/spool/postfix", "/var/spool/imap", "/var/lib", "/var/log"
	s.ConfigDirectory = "/var/lib/imap"
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

// claim reports whether there is no set-up yet. It fails if there is one and
// nobody said what to do with it.
func (s *setup) claim(o *options) (fresh bool, err error) {
	for _, f := range []string{s.Postfix + "/main.cf", s.ImapdConf} {
		_, err := os.Stat(f)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		if o.keep || o.force {
			return false, nil
		}
		return false, fmt.Errorf("%s: there is a set-up already; --keep uses it as it is, --force writes its configuration files anew", f)
	}
	return true, nil
}
