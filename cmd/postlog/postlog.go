// Package postlog writes lines to the mail log for scripts. See postlog(1).
package postlog

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"angarium/lib/cli"
	"angarium/lib/conf/maincf"
	"angarium/lib/maillog"
)

// level is a word of -p.
type level struct {
	pri  maillog.Priority
	word string // before the text
}

func levels(name string) (level, bool) {
	switch strings.ToLower(name) {
	case "info":
		return level{maillog.Info, ""}, true
	case "warn", "warning":
		return level{maillog.Warning, "warning: "}, true
	case "error":
		return level{maillog.Err, "error: "}, true
	case "fatal":
		return level{maillog.Crit, "fatal: "}, true
	case "panic":
		return level{maillog.Crit, "panic: "}, true
	}
	return level{}, false
}

// Main logs its arguments as one line, or standard input line by line. A person at a
// terminal also sees what is logged.
func Main(_ context.Context, c *cli.Cmd) error {
	dir := c.String('c', "config_dir", "")
	pid := c.Bool('i')
	pri := c.String('p', "priority", "info")
	tag := c.String('t', "tag", "")
	verbose := c.Count('v')
	words, err := c.Parse()
	if err != nil {
		fmt.Fprintf(c.Stderr, "%s: %v\n", c.Name, err)
		return cli.Exit(1, "usage: postlog [-c config_dir] [-i] [-p priority] [-t tag] [-v] [text]")
	}
	_ = verbose
	l, ok := levels(*pri)
	if !ok {
		return cli.Exit(1, "bad severity: \"%s\"", *pri)
	}
	log, name, err := open(c, *dir, *tag)
	if err != nil {
		return err
	}
	_ = pid // the number of the process is always there, as in Postfix since 3.4
	say := func(text string) {
		if cli.Terminal(c.Stderr) {
			fmt.Fprintf(c.Stderr, "%s: %s%s\n", name, l.word, text)
		}
		log.Log(l.pri, "%s", l.word+text)
	}
	if len(words) > 0 {
		say(strings.Join(words, " "))
		return nil
	}
	lines := bufio.NewReader(c.Stdin)
	for {
		text, err := lines.ReadString('\n')
		if err == nil || text != "" {
			say(strings.TrimSuffix(text, "\n"))
		}
		if err != nil {
			return nil
		}
	}
}

// open finds the log and the name in front of the lines. Without a main.cf there is
// still syslog: postlog is what says that main.cf is missing.
func open(c *cli.Cmd, dir, tag string) (*maillog.Logger, string, error) {
	conf, err := maincf.Load(maincf.Dir(dir))
	if err != nil {
		return nil, "", err
	}
	if tag == "" {
		tag = os.Getenv("MAIL_LOGTAG")
		if tag == "" {
			tag = conf.String("syslog_name")
		}
		tag += "/postlog"
	}
	sink, err := maillog.Open(maillog.Config{
		File:     conf.String("maillog_file"),
		Prefixes: conf.List("maillog_file_prefixes"),
		Socket:   filepath.Join(conf.String("queue_directory"), "public", conf.String("postlog_service_name")),
		Facility: conf.String("syslog_facility"),
		Host:     conf.String("myhostname"),
	})
	if err != nil {
		return nil, "", err
	}
	return maillog.New(sink, tag), tag, nil
}
