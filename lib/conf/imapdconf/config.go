// Package imapdconf reads imapd.conf of Cyrus 2.2 to 3.6.
//
// One definition per option gives its type, default and one-line doc, for the
// daemons, cyr_info and the man page. A line of an existing file is either
// obeyed, or reported as not acted on, or as unknown, with file and line. The
// package promises to load what Cyrus 3.6 loads, and to refuse in the same words
// what that refuses; it does not know who obeys what beyond the mark in the table.
package imapdconf

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// DefaultPath is where the file lies unless -C says otherwise.
const DefaultPath = "/etc/imapd.conf"

// Config is a file that was read, as one service sees it. It does not change.
type Config struct {
	lines   []line
	service string
	set     map[string]int // option, or other key -> place in lines
}

// line is one setting of the file.
type line struct {
	file       string
	num        int
	key, value string // key in small letters
}

// Warning is something about a file that its owner should know.
type Warning struct {
	File string
	Line int
	Text string
}

func (w Warning) String() string { return fmt.Sprintf("%s: line %d: %s", w.File, w.Line, w.Text) }

// Setting is a line as written.
type Setting struct{ Key, Value string }

// Partition is a place for mail.
type Partition struct{ Name, Path string }

// Service is the configuration as the service of that name in cyrus.conf sees
// it: its own imap_tls_server_cert goes before tls_server_cert. (Load has
// checked such values too, so this can't fail.)
func (c *Config) Service(name string) *Config {
	return view(c.lines, strings.ToLower(name))
}

// view resolves the lines for one service.
func view(lines []line, service string) *Config {
	c := &Config{lines: lines, service: service, set: make(map[string]int, len(lines))}
	own := map[string]bool{} // set by a line with the service's name
	for i, l := range lines {
		key := l.key
		if rest, ok := strings.CutPrefix(key, service+"_"); ok && service != "" {
			if _, ok := Lookup(rest); ok {
				own[rest], key = true, rest
			}
		} else if own[key] {
			continue
		}
		c.set[key] = i
	}
	for _, l := range lines {
		o, _ := Lookup(l.key)
		if i, ok := c.set[l.key]; ok && o.Preferred != "" {
			if _, ok := c.set[o.Preferred]; !ok {
				c.set[o.Preferred] = i
				if o.Type == String {
					delete(c.set, l.key) // as Cyrus does: the value has moved
				}
			}
		}
	}
	return c
}

// Raw is the value as written, and whether the file sets the option at all.
func (c *Config) Raw(name string) (value string, set bool) {
	i, ok := c.set[name]
	if !ok {
		return "", false
	}
	return c.lines[i].value, true
}

// value is what counts: as written, or the default, in canonical form.
func (c *Config) value(name string, types ...Type) (string, Option) {
	o, ok := Lookup(name)
	if !ok {
		panic("imapdconf: no option " + name)
	}
	match := len(types) == 0
	for _, t := range types {
		match = match || t == o.Type
	}
	if !match {
		panic("imapdconf: wrong type for option " + name)
	}
	v, set := c.Raw(name)
	if !set {
		v = o.Default
	}
	return Canonical(o, v), o
}

// String is the value of an option, its default if it is not set. It panics if
// there is no option of that name: a slip of ours. So do the others.
func (c *Config) String(name string) string {
	v, o := c.value(name)
	const prefix = "{configdirectory}"
	if o.Type == String && name != "configdirectory" && len(v) >= len(prefix) && strings.EqualFold(v[:len(prefix)], prefix) {
		v = c.String("configdirectory") + v[len(prefix):]
	}
	if name == "defaultpartition" {
		v = strings.ToLower(v) // keys are in small letters
	}
	return v
}

// Int is a whole number.
func (c *Config) Int(name string) int {
	v, o := c.value(name, Int)
	n, _ := parseInt(o, v)
	return int(n)
}

// Bool is a switch.
func (c *Config) Bool(name string) bool {
	v, _ := c.value(name, Switch)
	return v == "yes"
}

// Duration is a time; a bare number counts in the unit of the option.
func (c *Config) Duration(name string) time.Duration {
	v, o := c.value(name, Duration)
	if v == "" {
		return 0
	}
	d, _ := ParseDuration(v, o.Unit)
	return d
}

// Size is a number of octets; a bare number counts in the unit of the option,
// so that the 32 of sieve_maxscriptsize is 32768. Negative values stay as they are.
func (c *Config) Size(name string) int64 {
	v, o := c.value(name, Int)
	n, _ := parseInt(o, v)
	if o.Unit == 'K' && n > 0 {
		n <<= 10
	}
	return n
}

// List is a value of words, split at blanks.
func (c *Config) List(name string) []string { return strings.Fields(c.String(name)) }

// Enum is the chosen word of an option that has a fixed choice.
func (c *Config) Enum(name string) string {
	v, _ := c.value(name, Enum, Choice)
	return v
}

// Has reports whether a bit field has the word switched on.
func (c *Config) Has(name, word string) bool {
	v, _ := c.value(name, Bits)
	for _, w := range strings.Fields(v) {
		if w == word {
			return true
		}
	}
	return false
}

// Other is the value of a key that is no option, such as sasl_mech_list or
// partition-default; the service's own line goes first.
func (c *Config) Other(key string) (value string, set bool) {
	key = strings.ToLower(key)
	if c.service != "" {
		if v, ok := c.Raw(c.service + "_" + key); ok {
			return v, true
		}
	}
	return c.Raw(key)
}

// SASL is the value of sasl_NAME.
func (c *Config) SASL(name string) (value string, set bool) { return c.Other("sasl_" + name) }

// Others lists the lines whose key is no option to this service, and those with
// deprecated names, in the order of the file.
func (c *Config) Others() []Setting {
	var list []Setting
	for _, l := range c.lines {
		key := l.key
		if rest, ok := strings.CutPrefix(key, c.service+"_"); ok && c.service != "" {
			if _, ok := Lookup(rest); ok {
				key = rest
			}
		}
		if o, ok := Lookup(key); !ok || o.Deprecated != "" {
			list = append(list, Setting{l.key, l.value})
		}
	}
	return list
}

// Partitions lists the partition-NAME lines, in the order of the file.
func (c *Config) Partitions() []Partition {
	var list []Partition
	for _, l := range c.lines {
		if name, ok := strings.CutPrefix(l.key, "partition-"); ok {
			list = append(list, Partition{name, l.value})
		}
	}
	return list
}

// ServerName is servername, or what this machine calls itself.
func (c *Config) ServerName() string {
	if name := c.String("servername"); name != "" {
		return name
	}
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

// Warnings lists unknown and deprecated lines, and those that we do not act on.
// services are the names in cyrus.conf; nil: unknown, so any prefix may be one.
func (c *Config) Warnings(services ...string) []Warning {
	var list []Warning
	for _, l := range c.lines {
		warn := func(format string, args ...any) {
			list = append(list, Warning{l.file, l.num, fmt.Sprintf(format, args...)})
		}
		o, ok := Lookup(l.key)
		if !ok {
			o, ok = prefixed(l.key, services)
		}
		switch {
		case !ok && l.key != "maillog_file" && !c.known(l.key, services, true): // that one is ours
			warn("unknown option '%s'", l.key)
		case !ok && !obeyedOther(l.key):
			warn("option '%s' is not acted on", l.key)
		case !ok:
		case o.Deprecated != "" && o.Preferred != "":
			warn("Option '%s' is deprecated in favor of '%s' since version %s.", o.Name, o.Preferred, o.Deprecated)
		case o.Deprecated != "":
			warn("Option '%s' is deprecated in version %s.", o.Name, o.Deprecated)
		case !o.Acted:
			warn("option '%s' is not acted on", o.Name)
		}
	}
	return list
}

// obeyedOther reports whether our programs obey a key that is no option, behind a
// service's name, too: the partitions, the file of the log, and what there is of SASL.
func obeyedOther(key string) bool {
	for {
		if strings.HasPrefix(key, "partition-") || key == "sasl_mech_list" || key == "sasl_sasldb_path" || key == "maillog_file" {
			return true
		}
		_, rest, ok := strings.Cut(key, "_")
		if !ok {
			return false
		}
		key = rest
	}
}

// Unknown lists the lines that conf-lint shows: no option under any of these
// services' names.
func (c *Config) Unknown(services []string) []Setting {
	if services == nil {
		services = []string{} // known to be none
	}
	var list []Setting
	for _, s := range c.Others() {
		if _, ok := prefixed(s.Key, services); !ok && !c.known(s.Key, services, false) {
			list = append(list, s)
		}
	}
	return list
}

// prefixed finds the option of "imap_timeout", for the services or, if these are
// not known, for any.
func prefixed(key string, services []string) (Option, bool) {
	for _, s := range services {
		if rest, ok := strings.CutPrefix(key, s+"_"); ok {
			if o, ok := Lookup(rest); ok {
				return o, true
			}
		}
	}
	if services != nil {
		return Option{}, false
	}
	for i := range len(key) {
		if key[i] == '_' {
			if o, ok := Lookup(key[i+1:]); ok {
				return o, true
			}
		}
	}
	return Option{}, false
}

// known reports whether a key that is no option has a meaning all the same. Cyrus'
// lint does not know imap_sasl_mech_list, although its daemons obey it.
func (c *Config) known(key string, services []string, sasl bool) bool {
	has := func(key string) bool { _, ok := c.Other(key); return ok }
	other := func(key string) bool {
		if i := strings.Index(key, "searchpartition-"); i >= 0 && has(key[i+len("search"):]) {
			return true
		}
		return strings.HasPrefix(key, "partition-") ||
			strings.HasPrefix(key, "metapartition-") && has(key[len("meta"):]) ||
			strings.HasPrefix(key, "archivepartition-") && has(key[len("archive"):]) ||
			strings.HasPrefix(key, "xlist-") ||
			strings.HasPrefix(key, "sasl_")
	}
	if other(key) {
		return true
	}
	if services == nil {
		if _, rest, ok := strings.Cut(key, "_"); ok && other(rest) {
			return true
		}
	}
	for _, s := range services {
		if rest, ok := strings.CutPrefix(key, s+"_"); ok && other(rest) && (sasl || !strings.HasPrefix(rest, "sasl_")) {
			return true
		}
	}
	for _, channel := range c.List("sync_log_channels") {
		if rest, ok := strings.CutPrefix(key, channel+"_"); ok && strings.HasPrefix(rest, "sync_") {
			_, ok := Lookup(rest)
			return ok
		}
	}
	return false
}
