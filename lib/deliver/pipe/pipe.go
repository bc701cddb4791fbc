// Package pipe delivers to a command that a line of master.cf names, as Postfix'
// pipe(8) does.
//
// Parse reads the line once; Deliver runs the command, once for all recipients of
// a request, with the rights that the process has. Macros stand for envelope and
// client; none of them is ever seen by a shell, and none makes more than the
// arguments it stands for.
package pipe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/command"
	"angarium/lib/dsn"
)

// Line is what stands behind "pipe" in master.cf.
type Line struct {
	Flags      string
	User       string // "name" or "name:group"
	Chroot     string
	Directory  string
	EOL        string
	NullSender string
	Size       int64 // 0: no limit
	Argv       []string
}

// Parse reads the words of a line. What it does not know are errors: mail waits,
// and is not delivered as nobody meant it.
func Parse(words []string) (*Line, error) {
	l := &Line{EOL: "\n", NullSender: "MAILER-DAEMON"}
	for i, w := range words {
		name, value, ok := strings.Cut(w, "=")
		switch {
		case !ok:
			return nil, fmt.Errorf("unknown attribute name: %s", w)
		case name == "flags":
			for _, f := range value {
				if !strings.ContainsRune("BDFORXhqu.>", f) {
					return nil, fmt.Errorf("unknown flag: %c (ignored)", f) // Postfix ignores nothing, either
				}
			}
			l.Flags = value
		case name == "user":
			l.User = value
		case name == "chroot":
			l.Chroot = value
		case name == "directory":
			l.Directory = value
		case name == "eol":
			l.EOL = unescape(value)
		case name == "null_sender":
			l.NullSender = value
		case name == "size":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("bad size= value: %s", value)
			}
			l.Size = n
		case name == "argv":
			l.Argv = append([]string{value}, words[i+1:]...)
			if value == "" {
				return nil, errors.New("missing argv= command-line attribute")
			}
			if l.User == "" {
				return nil, errors.New("missing user= command-line attribute")
			}
			return l, nil
		default:
			return nil, fmt.Errorf("unknown attribute name: %s", name)
		}
	}
	if l.User == "" {
		return nil, errors.New("missing user= command-line attribute")
	}
	return nil, errors.New("missing argv= command-line attribute")
}

// unescape reads C's \n, \r\n, \015 and the like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if k := strings.IndexByte("abfnrtv", s[i]); k >= 0 {
			b.WriteByte("\a\b\f\n\r\t\v"[k])
			continue
		}
		end := i
		for end < len(s) && end < i+3 && s[end] >= '0' && s[end] <= '7' {
			end++
		}
		if end == i {
			b.WriteByte(s[i])
			continue
		}
		n, _ := strconv.ParseUint(s[i:end], 8, 16)
		b.WriteByte(byte(n))
		i = end - 1
	}
	return b.String()
}

func (l *Line) has(flag byte) bool { return strings.IndexByte(l.Flags, flag) >= 0 }

// Options are what a delivery needs besides its line.
type Options struct {
	Line       Line
	Service    string // name of the line
	Delimiters string // recipient_delimiter
	Time       time.Duration
	Env        []string
	Dir        string // queue_directory, for who names none
	MasterCF   string // the file of the line, for warnings
}

// Deliver runs the command for all recipients of r.
func Deliver(ctx context.Context, o Options, r *agent.Request) []agent.Result {
	res := deliver(ctx, &o, r)
	res.Relay = o.Service
	out := make([]agent.Result, len(r.Recipients))
	for i := range out {
		out[i] = res
	}
	return out
}

func deliver(ctx context.Context, o *Options, r *agent.Request) agent.Result {
	failed := func(err error) agent.Result { return agent.Result{Err: err} }
	if err := check(o, r); err != nil {
		return failed(err)
	}
	args, err := o.arguments(r)
	if err != nil {
		r.Log.Warnf("%v", err)
		return failed(misconfigured())
	}
	if r.Verify {
		return agent.Result{Text: "delivers to command: " + args[0]}
	}
	c := command.Command{Argv: args, Name: args[0], Exec: "pipe: fatal: pipe_command: execvp", Dir: o.Line.Directory, Env: o.Env, Time: o.Time}
	if c.Dir == "" {
		c.Dir = o.Dir
	}
	if o.Line.Chroot != "" && o.Line.Directory == "" {
		c.Dir = "/"
	}
	c.Feed = (&writer{line: &o.Line, r: r}).write
	out, err := c.Run(ctx)
	if command.NoDirectory(err) {
		r.Log.Warnf("cannot change directory to \"%s\" for uid=%d gid=%d: %s", c.Dir, os.Getuid(), os.Getgid(), command.Reason(err))
	}
	if err != nil {
		return failed(err)
	}
	text := "delivered via " + o.Service + " service"
	if out != "" {
		text += " (" + out + ")"
	}
	action := "relayed"
	if o.Line.has('X') {
		action = "delivered"
	}
	return agent.Result{Text: text, Action: action}
}

func misconfigured() error { return dsn.New(0, "4.3.5", "mail system configuration error") }

// check refuses what must not reach the command.
func check(o *Options, r *agent.Request) error {
	for _, flag := range []byte("DO") {
		if o.Line.has(flag) && len(r.Recipients) > 1 {
			r.Log.Warnf("pipe flag `%c' requires %s_destination_recipient_limit = 1", flag, o.Service)
			return misconfigured()
		}
	}
	if o.Line.Size > 0 && r.Message.Size() > o.Line.Size {
		return dsn.New(0, "5.2.3", "message too large")
	}
	if o.Line.has('D') {
		looped, err := delivered(r.Message.Content(), r.Recipients[0].Address.String())
		if err != nil {
			return err
		}
		if looped {
			return dsn.New(0, "5.4.6", "mail forwarding loop for %s", r.Recipients[0].Address)
		}
	}
	return nil
}

// arguments puts the envelope into the command line. An argument with a macro of
// a recipient is repeated for each of them.
func (o *Options) arguments(r *agent.Request) ([]string, error) {
	var out []string
	for _, template := range o.Line.Argv {
		if strings.HasPrefix(template, "{") && strings.HasSuffix(template, "}") {
			template = strings.Trim(template[1:len(template)-1], " \t")
		}
		for i := range r.Recipients {
			m := macros{o: o, r: r, to: &r.Recipients[i]}
			text, err := m.expand(template)
			if err != nil {
				return nil, err
			}
			out = append(out, text)
			if !m.perRecipient {
				break
			}
		}
	}
	return out, nil
}

// macros are the values for one recipient.
type macros struct {
	o            *Options
	r            *agent.Request
	to           *agent.Recipient
	perRecipient bool // one that depends on the recipient was used
}

// expand replaces $name, ${name}, $(name) and $$.
func (m *macros) expand(s string) (string, error) {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "$")
		b.WriteString(before)
		if !ok {
			return b.String(), nil
		}
		if strings.HasPrefix(rest, "$") {
			b.WriteByte('$')
			s = rest[1:]
			continue
		}
		name := ""
		if rest != "" && (rest[0] == '{' || rest[0] == '(') {
			end := strings.IndexByte(rest, map[byte]byte{'{': '}', '(': ')'}[rest[0]])
			if end < 0 {
				return "", fmt.Errorf("truncated macro reference: \"$%s\"", rest)
			}
			name, s = rest[1:end], rest[end+1:]
		} else {
			end := 0
			for end < len(rest) && (rest[end] == '_' || rest[end] >= '0' && rest[end] <= '9' || rest[end]|0x20 >= 'a' && rest[end]|0x20 <= 'z') {
				end++
			}
			if end == 0 {
				return "", fmt.Errorf("empty macro name: \"$%s\"", rest)
			}
			name, s = rest[:end], rest[end:]
		}
		value, ok := m.value(name)
		if !ok {
			return "", fmt.Errorf("file %s: service %s: unknown macro name: \"%s\"", m.o.MasterCF, m.o.Service, name)
		}
		b.WriteString(value)
	}
}

func (m *macros) value(name string) (string, bool) {
	c := &m.r.Client
	switch name {
	case "sender":
		return m.sender(), true
	case "nexthop":
		return m.host(m.r.NextHop), true
	case "queue_id":
		return m.r.QueueID, true
	case "size":
		return strconv.FormatInt(m.r.Message.Size(), 10), true
	case "client_address":
		return c.Addr, true
	case "client_helo":
		return c.Helo, true
	case "client_hostname":
		return c.Name, true
	case "client_port":
		return c.Port, true
	case "client_protocol":
		return c.Proto, true
	case "sasl_method":
		return c.SASLMethod, true
	case "sasl_username":
		return c.SASLUser, true
	case "sasl_sender":
		return "", true
	}
	m.perRecipient = true
	user, extension, _ := address.SplitExtension(m.to.Address.Local, m.o.Delimiters)
	switch name {
	case "recipient":
		return m.full(m.to.Address), true
	case "original_recipient":
		if m.to.Original.IsNull() {
			return m.full(m.to.Address), true
		}
		return m.full(m.to.Original), true
	case "user":
		return m.local(user), true
	case "extension":
		return m.local(extension), true
	case "mailbox":
		return m.local(m.to.Address.Local), true
	case "domain":
		return m.host(m.to.Address.Domain), true
	}
	return "", false
}

func (m *macros) sender() string {
	a := m.r.Sender
	if a.IsNull() {
		if m.o.Line.NullSender == "" {
			return ""
		}
		a = address.Parse(m.o.Line.NullSender)
	}
	if m.o.Line.has('q') {
		return a.Quoted()
	}
	return a.String()
}

func (m *macros) full(a address.Address) string {
	a.Local, a.Domain = m.local(a.Local), m.host(a.Domain)
	if m.o.Line.has('q') {
		return a.Quoted()
	}
	return a.String()
}

func (m *macros) local(s string) string {
	if m.o.Line.has('u') {
		return strings.ToLower(s)
	}
	return s
}

func (m *macros) host(s string) string {
	if m.o.Line.has('h') {
		return strings.ToLower(s)
	}
	return s
}
