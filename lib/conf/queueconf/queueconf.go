// Package queueconf opens the queue and the log that main.cf names, for every
// program that works on the queue. It knows which parameters these are and no more.
package queueconf

import (
	"fmt"
	"io"
	"time"

	"angarium/lib/conf/maincf"
	"angarium/lib/maillog"
	"angarium/lib/queue"
)

// Open opens queue_directory.
func Open(conf *maincf.Config) (*queue.Queue, error) {
	names := conf.List("hash_queue_names")
	if names == nil {
		names = []string{}
	}
	return queue.Open(conf.QueueDir(), queue.Options{
		HashNames: names,
		HashDepth: conf.Int("hash_queue_depth"),
		LongIDs:   conf.Bool("enable_long_queue_ids"),
	})
}

// Log is the mail log of a command: lines also go to stderr as "program: text",
// unless that is nil.
func Log(conf *maincf.Config, program string, stderr io.Writer) *maillog.Logger {
	return LogAs(conf, program, program, stderr)
}

// LogAs is Log for a command that has several names: the log has one, stderr shows
// the other.
func LogAs(conf *maincf.Config, program, shown string, stderr io.Writer) *maillog.Logger {
	sink, err := maillog.Open(maillog.Config{
		File:     conf.String("maillog_file"),
		Prefixes: conf.List("maillog_file_prefixes"),
		Socket:   conf.String("queue_directory") + "/public/postlog",
		Facility: conf.String("syslog_facility"),
		Host:     conf.String("myhostname"),
	})
	if err != nil {
		sink = nil
	}
	return maillog.New(&tee{sink: sink, stderr: stderr, program: shown}, conf.String("syslog_name")+"/"+program)
}

// tee writes to the log and to a terminal.
type tee struct {
	sink    maillog.Sink
	stderr  io.Writer
	program string
}

func (t *tee) Log(at time.Time, pri maillog.Priority, tag string, num int64, text string) error {
	if t.stderr != nil {
		fmt.Fprintf(t.stderr, "%s: %s\n", t.program, text)
	}
	if t.sink == nil {
		return nil
	}
	return t.sink.Log(at, pri, tag, num, text)
}
