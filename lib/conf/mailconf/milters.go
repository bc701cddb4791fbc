package mailconf

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"angarium/lib/access"
	"angarium/lib/conf/maincf"
	"angarium/lib/maillog"
	"angarium/lib/milter"
)

// Milters reads a list of mail filters: "inet:host:port", "unix:path" or
// "{ inet:host:port, connect_timeout=10s, default_action=accept }"; nil if it is empty.
func Milters(conf *maincf.Config, words []string, log *maillog.Logger) (*milter.Config, error) {
	base := milter.Filter{
		Default: conf.String("milter_default_action"), ConnectTimeout: conf.Duration("milter_connect_timeout"),
		CommandTimeout: conf.Duration("milter_command_timeout"), ContentTimeout: conf.Duration("milter_content_timeout"),
	}
	var err error
	if base.Protocol, err = protocol(conf.String("milter_protocol")); err != nil {
		return nil, err
	}
	if err := defaultAction(base.Default); err != nil {
		return nil, err
	}
	c := &milter.Config{Warn: log.Warnf, Macros: map[milter.Event][]string{
		milter.EventConnect: macroNames(conf.String("milter_connect_macros")), milter.EventHelo: macroNames(conf.String("milter_helo_macros")),
		milter.EventMail: macroNames(conf.String("milter_mail_macros")), milter.EventRcpt: macroNames(conf.String("milter_rcpt_macros")),
		milter.EventData: macroNames(conf.String("milter_data_macros")), milter.EventEOH: macroNames(conf.String("milter_end_of_header_macros")),
		milter.EventEOM: macroNames(conf.String("milter_end_of_data_macros")), milter.EventUnknown: macroNames(conf.String("milter_unknown_command_macros")),
	}}
	for _, w := range words {
		f := base
		inner, braces := strings.CutPrefix(strings.TrimSpace(w), "{")
		if !braces {
			f.Name = w
			c.Filters = append(c.Filters, f)
			continue
		}
		args := access.Words(strings.TrimSuffix(strings.TrimSpace(inner), "}"))
		if len(args) == 0 {
			return nil, fmt.Errorf("empty milter definition: \"%s\"", w)
		}
		f.Name = args[0]
		for _, a := range args[1:] {
			if err := milterSetting(&f, strings.Trim(a, "{} \t")); err != nil {
				return nil, err
			}
		}
		c.Filters = append(c.Filters, f)
	}
	if len(c.Filters) == 0 {
		return nil, nil
	}
	return c, nil
}

// macroNames reads a list of macros, whose names have braces of their own.
func macroNames(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' })
}

func milterSetting(f *milter.Filter, setting string) (err error) {
	name, value, _ := strings.Cut(setting, "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	switch name {
	case "connect_timeout":
		f.ConnectTimeout, err = Seconds(value)
	case "command_timeout":
		f.CommandTimeout, err = Seconds(value)
	case "content_timeout":
		f.ContentTimeout, err = Seconds(value)
	case "default_action":
		f.Default, err = value, defaultAction(value)
	case "protocol":
		f.Protocol, err = protocol(value)
	default:
		err = fmt.Errorf("unknown milter option: %s", setting)
	}
	return err
}

func defaultAction(v string) error {
	switch v {
	case "accept", "reject", "tempfail", "quarantine", "shutdown":
		return nil
	}
	return fmt.Errorf("bad milter_default_action value: %s", v)
}

// protocol reads milter_protocol: a version, and maybe words about single events,
// which filters say for themselves since version 6.
func protocol(v string) (int, error) {
	for _, w := range macroNames(v) {
		if n, err := strconv.Atoi(w); err == nil && (n == 2 || n == 3 || n == 4 || n == 6) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("bad milter_protocol value: %s", v)
}

// MilterMacros are the values of macros that no session changes.
func MilterMacros(conf *maincf.Config) milter.Lookup {
	values := make(map[string]string)
	for _, w := range conf.List("milter_macro_defaults") {
		name, value, _ := strings.Cut(strings.Trim(w, "{} \t"), "=")
		name = strings.TrimSpace(name)
		if len(name) > 1 && name[0] != '{' {
			name = "{" + name + "}"
		}
		values[name] = strings.TrimSpace(value)
	}
	values["j"], values["v"] = conf.String("myhostname"), conf.String("milter_macro_v")
	values["{daemon_name}"] = conf.String("milter_macro_daemon_name")
	return func(name string) (string, bool) {
		v, ok := values[name]
		if !ok && len(name) == 3 && name[0] == '{' {
			v, ok = values[name[1:2]]
		}
		return v, ok
	}
}

// Seconds reads a time as main.cf spells it; without a unit it is in seconds.
func Seconds(value string) (time.Duration, error) {
	unit := time.Second
	if n := len(value); n > 0 {
		if u, ok := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[value[n-1]]; ok {
			unit, value = u, value[:n-1]
		}
	}
	n, err := strconv.Atoi(value)
	return time.Duration(n) * unit, err
}
