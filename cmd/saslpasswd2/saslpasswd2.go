// Package saslpasswd2 sets the passwords of mail users. See saslpasswd2(8).
package saslpasswd2

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"angarium/lib/accounts"
	"angarium/lib/cli"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/conf/storeconf"
	"angarium/lib/sasl"
	"angarium/lib/sysuser"
)

// maxPassword is where the old program stops reading.
const maxPassword = 1024

type options struct {
	pipe, create, disable, verifierOnly, version bool

	file, realm string
}

// Main is saslpasswd2. Its exit status is the SASL library's code without the sign.
func Main(ctx context.Context, c *cli.Cmd) error {
	c.Fatal = func(err error) string { return c.Name + ": " + err.Error() }
	var o options
	for {
		letter, arg, ok, err := c.Getopt("vpcdnf:u:a:h")
		if err != nil {
			return usage(c)
		}
		if !ok {
			break
		}
		switch letter {
		case 'p':
			o.pipe = true
		case 'c':
			o.create = true
		case 'd':
			o.disable = true
		case 'n':
			o.verifierOnly = true
		case 'v':
			o.version = true
		case 'f':
			o.file = arg
		case 'u':
			o.realm = arg
		case 'h':
			return usage(c)
		}
	}
	if o.version {
		c.Infof("the user database of Angarium, in the place of SASL 2.1.28's")
		return nil
	}
	if len(c.Operands()) != 1 || o.create && o.disable {
		return usage(c)
	}
	return set(ctx, c, o, c.Operands()[0])
}

func usage(c *cli.Cmd) error {
	io.WriteString(c.Stderr, `saslpasswd2: usage: saslpasswd2 [-v] [-c [-p] [-n]] [-d] [-a appname] [-f sasldb] [-u DOM] userid
	-p	pipe mode -- no prompt, password read on stdin
	-c	create -- make the account if there is none
	-d	disable -- delete the account
	-n	no userPassword -- keep a verifier only, whatever the settings say
	-f sasldb	use given file as sasldb
	-a appname	taken, and of no effect
	-u DOM	use DOM for user domain
	-v	print version and exit
`)
	return cli.Exit(1, "")
}

func set(ctx context.Context, c *cli.Cmd, o options, user string) error {
	path, opt, secrets := database(o.file)
	password := ""
	if !o.disable {
		var err error
		if password, err = readPassword(c, o.pipe); err != nil {
			return err
		}
		if password == "" {
			return cli.Exit(7, "invalid parameter supplied")
		}
	}
	db, err := accounts.Open(path, opt)
	if err != nil {
		return failed(err)
	}
	defer db.Close()
	if o.disable {
		// Who is not there is gone already: scripts call this twice.
		if err := db.Delete(ctx, user, o.realm); err != nil && !errors.Is(err, accounts.ErrNotFound) {
			return failed(err)
		}
		return nil
	}
	if !o.create {
		_, ok, err := db.Get(ctx, user, o.realm)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return failed(err)
		}
		if !ok {
			return cli.Exit(-sasl.CodeNoUser, "user not found")
		}
	}
	if secrets && !o.verifierOnly {
		if err := db.EnableSecrets(); err != nil {
			return failed(err)
		}
	}
	if o.verifierOnly {
		err = db.SetVerifier(ctx, user, o.realm, password)
	} else {
		err = db.Set(ctx, user, o.realm, password)
	}
	return failed(err)
}

func failed(err error) error {
	if err == nil {
		return nil
	}
	return cli.Exit(1, "generic failure: %w", err)
}

// database says where the users are kept and how their names are read: as
// imapd.conf has it, where there is one. secrets: recoverable passwords are
// wanted, since CRAM-MD5 or APOP is switched on by name. A file that was named is
// taken as it is.
func database(file string) (path string, opt accounts.Options, secrets bool) {
	conf, err := imapdconf.Load("")
	if err != nil {
		host, _ := os.Hostname()
		path, opt = "/etc/sasldb2", accounts.Options{Realm: host}
	} else {
		path, opt = storeconf.Accounts(conf)
		list, _ := conf.SASL("mech_list")
		_, apop := conf.Raw("allowapop")
		secrets = slices.Contains(strings.Fields(strings.ToUpper(list)), "CRAM-MD5") || apop && conf.Bool("allowapop")
	}
	if file != "" {
		path, secrets = file, false
	}
	if os.Geteuid() == 0 {
		// Daemons that log users in belong to it on Debian, and read the file again
		// after they have become somebody else.
		if g, err := sysuser.LookupGroup("sasl"); err == nil && g != nil {
			opt.Group = g.GID
		}
	}
	return path, opt, secrets
}

func readPassword(c *cli.Cmd, pipe bool) (string, error) {
	in := bufio.NewReader(io.LimitReader(c.Stdin, 2*maxPassword+4))
	line := func() (string, error) {
		text, err := in.ReadString('\n')
		if err != nil && err != io.EOF {
			return "", failed(err)
		}
		if text = strings.TrimRight(text, "\r\n"); len(text) > maxPassword {
			return "", cli.Exit(1, "password too long")
		}
		return text, nil
	}
	if pipe {
		return line()
	}
	quiet := silence(c.Stdin)
	defer quiet()
	ask := func(prompt string) (string, error) {
		io.WriteString(c.Stdout, prompt)
		text, err := line()
		io.WriteString(c.Stdout, "\n")
		return text, err
	}
	first, err := ask("Password: ")
	if err != nil {
		return "", err
	}
	again, err := ask("Again (for verification): ")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", cli.Exit(7, "passwords don't match; aborting")
	}
	return first, nil
}

// silence switches the terminal's echo off until the returned function is called.
func silence(in io.Reader) (back func()) {
	f, ok := in.(*os.File)
	if !ok {
		return func() {}
	}
	fd := int(f.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {} // no terminal
	}
	now := *was
	now.Lflag &^= unix.ECHO
	_ = unix.IoctlSetTermios(fd, unix.TCSETSF, &now)
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, was) }
}
