package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/dsn"
)

// command feeds the message to a shell command in the user's home. Its exit
// status is one of sysexits.h; its output is quoted in the notice.
func (j *job) command(ctx context.Context, line string) agent.Result {
	ctx, cancel := context.WithTimeout(ctx, j.o.CommandTime)
	defer cancel()
	shell := []string{"/bin/sh", "-c", line}
	if j.o.CommandShell != "" {
		shell = append(strings.Fields(j.o.CommandShell), line)
	}
	cmd := exec.CommandContext(ctx, shell[0], shell[1:]...)
	cmd.Dir = j.o.User.Home
	if st, err := os.Stat(cmd.Dir); cmd.Dir == "" || err != nil || !st.IsDir() {
		cmd.Dir = "/"
	}
	cmd.Env = j.environ()
	var out bytes.Buffer
	cmd.Stdout = &capped{b: &out}
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return failed(dsn.From(err, "unable to run command"))
	}
	w := bufio.NewWriterSize(in, 32<<10)
	j.head(w, true, time.Now())
	werr := j.body(w, false) // a command need not read all of it
	in.Close()
	err = cmd.Wait()
	if ctx.Err() != nil {
		return failed(dsn.New(0, "4.3.0", "Command time limit exceeded: \"%s\"%s", line, output(&out)))
	}
	if err == nil && werr != nil && !errors.Is(werr, syscall.EPIPE) {
		err = werr
	}
	if err == nil {
		return sent("delivered to command: %s", line)
	}
	return failed(exitError(err, line, &out))
}

// exitError puts a command's end in Postfix' words.
func exitError(err error, line string, out *bytes.Buffer) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return dsn.From(err, "error talking to command")
	}
	st, _ := exit.Sys().(syscall.WaitStatus)
	if st.Signaled() {
		return dsn.New(0, "4.3.0", "Command died with signal %d: \"%s\"%s", int(st.Signal()), line, output(out))
	}
	text := strings.TrimSpace(out.String())
	if status, rest, ok := strings.Cut(text, " "); ok {
		if code, err := dsn.ParseCode(status); err == nil && code[0] != 2 {
			return &dsn.Error{Code: code, Text: rest}
		}
	}
	status, known := "5.3.0", ""
	switch st.ExitStatus() {
	case 64:
		known = "command line usage error"
	case 65:
		status, known = "5.6.0", "data format error"
	case 66:
		known = "cannot open input"
	case 67:
		status, known = "5.1.1", "user unknown"
	case 68:
		status, known = "5.1.2", "host name unknown"
	case 69:
		known = "service unavailable"
	case 70:
		known = "internal software error"
	case 71:
		status, known = "4.3.0", "system resource problem"
	case 72:
		known = "critical OS file missing"
	case 73:
		status, known = "5.2.0", "can't create user output file"
	case 74:
		known = "input/output error"
	case 75:
		status, known = "4.3.0", "temporary failure"
	case 76:
		status, known = "5.5.0", "remote error in protocol"
	case 77:
		status, known = "5.7.0", "permission denied"
	case 78:
		status, known = "5.3.5", "local configuration error"
	default:
		return dsn.New(0, status, "Command died with status %d: \"%s\"%s", st.ExitStatus(), line, output(out))
	}
	return dsn.New(0, status, "%s%s", known, output(out))
}

func output(out *bytes.Buffer) string {
	s := strings.Join(strings.Fields(out.String()), " ")
	if s == "" {
		return ""
	}
	return ". Command output: " + s
}

// capped keeps the beginning of what a command says.
type capped struct{ b *bytes.Buffer }

const maxOutput = 4096

func (c *capped) Write(p []byte) (int, error) {
	if room := maxOutput - c.b.Len(); room > 0 {
		c.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// environ is what a command sees; nothing of ours leaks into it.
func (j *job) environ() []string {
	user, ext, _ := address.SplitExtension(j.to.Address.Local, j.o.Delimiters)
	original := j.to.Original
	if original.IsNull() {
		original = j.to.Address
	}
	env := []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin"}
	for _, e := range j.o.ExportEnv {
		if strings.Contains(e, "=") {
			env = append(env, e)
		} else if v, ok := os.LookupEnv(e); ok {
			env = append(env, e+"="+v)
		}
	}
	set := func(name, value string) {
		if value != "" {
			env = append(env, name+"="+clean(value))
		}
	}
	set("HOME", j.o.User.Home)
	set("LOGNAME", j.o.User.Name)
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
