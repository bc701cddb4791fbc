package local

import (
	"bufio"
	"context"
	"io"
	"os"
	"strings"
	"time"

	"angarium/lib/agent"
	"angarium/lib/command"
)

// command feeds the message to a shell command. Its exit status is one of
// sysexits.h; its output is quoted in the notice.
func (j *job) command(ctx context.Context, line string) agent.Result {
	if j.r.Verify {
		return sent("delivers to command: %s", line)
	}
	c := command.Command{Argv: argv(line), Name: line, Exec: "local: fatal: execvp", Dir: j.o.QueueDir, Env: j.environ(), Time: j.o.CommandTime}
	if j.o.CommandShell != "" {
		c.Argv = append(strings.Fields(j.o.CommandShell), line)
	}
	if st, err := os.Stat(c.Dir); c.Dir == "" || err != nil || !st.IsDir() {
		c.Dir = "/"
	}
	if j.o.CommandDir != "" {
		c.Dir = j.directory()
	}
	c.Feed = func(in io.Writer) error {
		w := bufio.NewWriterSize(in, 32<<10)
		j.head(w, "command", true, time.Now())
		return j.body(w, false)
	}
	_, err := c.Run(ctx)
	if command.NoDirectory(err) {
		j.r.Log.Warnf("cannot change directory to \"%s\" for uid=%d gid=%d: %s", c.Dir, os.Getuid(), os.Getgid(), command.Reason(err))
	}
	if err != nil {
		return failed(err)
	}
	return sent("delivered to command: %s", line)
}

// directory is what command_execution_directory means for the recipient.
func (j *job) directory() string {
	user, ext := j.split()
	vars := map[string]string{"home": j.o.User.Home, "shell": j.o.User.Shell, "user": user, "local": j.to.Address.Local,
		"recipient": j.to.Address.String(), "domain": j.to.Address.Domain, "extension": ext}
	if ext != "" && j.o.Delimiters != "" {
		vars["recipient_delimiter"] = j.o.Delimiters[:1]
	}
	return expandVars(j.o.CommandDir, filtered(vars, j.o.DirFilter))
}

// argv is how a command line is run: by a shell, but for plain words that name a
// program by its path. If that program is missing no shell turns it into a failure
// for good.
func argv(line string) []string {
	const plain = "1234567890!@%-_=+:,./abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ \t"
	if words := strings.Fields(line); strings.Trim(line, plain) == "" && len(words) > 0 && strings.Contains(words[0], "/") {
		return words
	}
	return []string{"sh", "-c", line} // its messages begin with this name
}

// environ is what a command sees; nothing of ours leaks into it.
func (j *job) environ() []string {
	user, ext := j.split()
	original := j.to.Original
	if original.IsNull() {
		original = j.to.Address
	}
	env := append([]string{"PATH=/usr/bin:/bin"}, j.o.Env...)
	set := func(name, value string) {
		if value != "" {
			env = append(env, name+"="+clean(value))
		}
	}
	set("HOME", j.o.User.Home)
	set("LOGNAME", user)
	set("SHELL", j.o.User.Shell)
	set("USER", user)
	set("LOCAL", j.to.Address.Local)
	set("DOMAIN", j.to.Address.Domain)
	set("EXTENSION", ext)
	set("RECIPIENT", j.to.Address.String())
	set("ORIGINAL_RECIPIENT", original.String())
	env = append(env, "SENDER="+clean(j.r.Sender.String()))
	set("CLIENT_HOSTNAME", j.r.Client.Name)
	set("CLIENT_ADDRESS", j.r.Client.Addr)
	set("CLIENT_HELO", j.r.Client.Helo)
	set("CLIENT_PROTOCOL", j.r.Client.Proto)
	set("SASL_METHOD", j.r.Client.SASLMethod)
	set("SASL_USERNAME", j.r.Client.SASLUser)
	return env
}

// clean keeps a stranger's characters from meaning something to a shell.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("!@%-_=+:,./", r):
			return r
		}
		return '_'
	}, s)
}
