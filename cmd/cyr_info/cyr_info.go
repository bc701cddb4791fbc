// Package cyr_info shows the settings of the mail store and who is connected.
// See cyr_info(8).
package cyr_info

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"angarium/lib/cli"
	"angarium/lib/conf/cyrusconf"
	"angarium/lib/conf/imapdconf"
	"angarium/lib/proclist"
)

// version is what old scripts compare with.
const version = "3.6.1-Angarium"

type options struct {
	config, services, service, since string
}

// Main is cyr_info.
func Main(_ context.Context, c *cli.Cmd) error {
	c.Fatal = func(err error) string { return "fatal error: " + err.Error() }
	var o options
	for {
		letter, arg, ok, err := c.Getopt("C:M:n:s:")
		if err != nil {
			fmt.Fprintf(c.Stderr, "%s: %v\n", c.Path, err)
			return usage(c)
		}
		if !ok {
			break
		}
		switch letter {
		case 'C':
			o.config = arg
		case 'M':
			o.services = arg
		case 'n':
			o.service = arg
		case 's':
			o.since = arg
		}
	}
	since, ok := parseVersion(o.since)
	if !ok {
		return usage(c)
	}
	conf, err := imapdconf.Load(o.config)
	if err != nil {
		return cli.Exit(cli.Config, "%w", err)
	}
	if o.service == "" {
		o.service = "cyr_info"
	}
	conf = conf.Service(o.service)
	if len(c.Operands()) == 0 {
		return usage(c)
	}
	out := bufio.NewWriter(c.Stdout)
	defer out.Flush()
	switch c.Operands()[0] {
	case "proc":
		return proc(out, conf)
	case "conf":
		show(out, conf, false, since)
	case "conf-all":
		show(out, conf, true, since)
	case "conf-default":
		for _, opt := range imapdconf.Options() {
			printOption(out, opt, imapdconf.Canonical(opt, opt.Default), since)
		}
	case "conf-lint":
		return lint(out, conf, o.services)
	case "conf-check": // the peer has no such command, and so the usage does not tell of it
		return check(out, conf, o.services)
	case "version":
		fmt.Fprintf(out, "Cyrus IMAP %s\n", version)
	default:
		return usage(c)
	}
	return nil
}

func usage(c *cli.Cmd) error {
	io.WriteString(c.Stderr, `cyr_info [-C <altconfig>] [-M <cyrus.conf>] [-n servicename] [-s oldversion] command

If you give a service name (-n), it will show config as if you
were running that service, i.e. imap

If you give an old version (-s), it will highlight config
options that are new or whose behaviour has changed since that
version.

Where command is one of:

  * conf          - listing of non-default config values
  * conf-all      - listing of all config values
  * conf-default  - listing of all default config values
  * conf-lint     - unknown config keys
  * proc          - listing of all open processes
  * version       - Cyrus version

`)
	return cli.Exit(255, "")
}

// proc lists who is connected.
func proc(out io.Writer, conf *imapdconf.Config) error {
	dir := conf.String("proc_path")
	if dir == "" {
		dir = filepath.Join(conf.String("configdirectory"), "proc")
	}
	list, err := proclist.List(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return cli.Exit(cli.Software, "%w", err)
	}
	for _, e := range list {
		fmt.Fprintf(out, "%d %s %s %s %s %s\n", e.ID, e.Service, e.Host, e.User, e.Mailbox, e.Command)
	}
	return nil
}

// show prints the values that count: all, or those that differ from the defaults.
func show(out io.Writer, conf *imapdconf.Config, all bool, since uint32) {
	for _, opt := range imapdconf.Options() {
		value := conf.String(opt.Name)
		if all && value == "" && opt.Type == imapdconf.Duration {
			value = "(null)" // as C prints it
		}
		if all || value != standard(conf, opt) {
			printOption(out, opt, value, since)
		}
	}
	for _, s := range inCyrusOrder(conf.Others()) {
		fmt.Fprintf(out, "%s: %s\n", s.Key, s.Value)
	}
}

// standard is the default, with the folder in it.
func standard(conf *imapdconf.Config, opt imapdconf.Option) string {
	value := imapdconf.Canonical(opt, opt.Default)
	return strings.Replace(value, "{configdirectory}", conf.String("configdirectory"), 1)
}

func printOption(out io.Writer, opt imapdconf.Option, value string, since uint32) {
	if since != 0 && since < opt.Since {
		fmt.Fprintf(out, "(%d.%d.%d) ", opt.Since>>24, opt.Since>>16&0xff, opt.Since>>8&0xff)
	}
	if opt.Type == imapdconf.Bits && value == "" {
		fmt.Fprintf(out, "%s:\n", opt.Name)
		return
	}
	fmt.Fprintf(out, "%s: %s\n", opt.Name, value)
}

// lint prints the lines that mean nothing to anybody.
func lint(out io.Writer, conf *imapdconf.Config, file string) error {
	services, err := serviceNames(file)
	if err != nil {
		return err
	}
	for _, s := range inCyrusOrder(conf.Unknown(services)) {
		fmt.Fprintf(out, "%s: %s\n", s.Key, s.Value)
	}
	return nil
}

// check prints each line that is not obeyed, with its place: unknown, deprecated, or
// not acted on.
func check(out io.Writer, conf *imapdconf.Config, file string) error {
	services, err := serviceNames(file)
	if err != nil {
		return err
	}
	for _, w := range conf.Warnings(services...) {
		fmt.Fprintln(out, w)
	}
	return nil
}

// serviceNames are those of cyrus.conf.
func serviceNames(file string) ([]string, error) {
	lines, err := cyrusconf.Load(file)
	if err != nil {
		return nil, cli.Exit(cli.Config, "%w", err)
	}
	names := []string{}
	for _, s := range lines.Services {
		names = append(names, s.Name)
	}
	return names, nil
}

// inCyrusOrder puts lines in the order in which Cyrus' table of other settings
// holds them, since people compare outputs: 30 buckets by this hash, each in the
// order of the alphabet. Its seed is the first number that rand(3) gives.
func inCyrusOrder(list []imapdconf.Setting) []imapdconf.Setting {
	bucket := func(key string) uint32 {
		h := uint32(5381)
		for _, b := range []byte("\x67\x45\x8b\x6b" + key) {
			h = h*33 ^ uint32(b)
		}
		return h % 30
	}
	slices.SortFunc(list, func(a, b imapdconf.Setting) int {
		return cmp.Or(cmp.Compare(bucket(a.Key), bucket(b.Key)), strings.Compare(a.Key, b.Key))
	})
	return list
}

// parseVersion reads "2.5.10", perhaps with "cyrus-imapd-" before and a suffix behind.
func parseVersion(s string) (v uint32, ok bool) {
	for _, prefix := range []string{"cyrus-imapd-", "cyrus-imapd "} {
		s = strings.TrimPrefix(s, prefix)
	}
	s, _, _ = strings.Cut(s, "-")
	if s == "" {
		return 0, true
	}
	for i, part := range strings.SplitN(s, ".", 4) {
		n, err := strconv.ParseUint(part, 10, 8)
		if i == 3 {
			break
		}
		if err != nil {
			return 0, false
		}
		v |= uint32(n) << (24 - 8*i)
	}
	return v, true
}
