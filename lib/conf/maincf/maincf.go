// Package maincf reads main.cf as Postfix 3.7 does and answers with typed
// values, one definition per parameter.
//
// What it promises: a name that Postfix 3.7 knows has a value here, from -o
// overrides, from the file, or from the definition's default, with every $name
// in it expanded. What it does not know: what the values mean. Programs read
// their settings into plain structs and hand those to the packages that do the
// work.
//
// A getter whose value is malformed returns the default and remembers the
// first such failure; read all settings, then ask Err once, as one does with
// bufio.Scanner.
package maincf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"angarium/lib/logical"
)

// DefaultDir is where main.cf lies unless -c or MAIL_CONFIG says otherwise.
const DefaultDir = "/etc/postfix"

// Dir is the configuration directory: the value of -c, else of MAIL_CONFIG, else DefaultDir.
func Dir(flag string) string {
	if flag != "" {
		return flag
	}
	if dir := os.Getenv("MAIL_CONFIG"); dir != "" {
		return dir
	}
	return DefaultDir
}

// Entry is one "name = value" as it stands, without expansion.
type Entry struct {
	Name, Value string
	Line        int // 0: not from main.cf
}

// Config is a main.cf as read, with the overrides of one service on top. Its
// settings never change once made, and several goroutines may use it.
type Config struct {
	dir      string
	entries  []Entry // last definition of each name, in the order of the file
	index    map[string]int
	warnings []string

	mu  sync.Mutex
	err error
}

// Load reads dir/main.cf. Errors are worded as Postfix words them ("open
// /etc/postfix/main.cf: No such file or directory").
func Load(dir string) (*Config, error) {
	path := filepath.Join(dir, "main.cf")
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, reason(err))
	}
	defer f.Close()
	c, err := Read(f, path)
	if err != nil {
		return nil, err
	}
	c.dir = dir
	return c, nil
}

// Empty is a Config where every parameter has its default.
func Empty(dir string) *Config { return &Config{dir: dir, index: make(map[string]int)} }

// Read is Load from an open file; path is its name in messages.
func Read(r io.Reader, path string) (*Config, error) {
	c := Empty(filepath.Dir(path))
	lines := logical.NewReader(r, path, func(text string) { c.warnings = append(c.warnings, text) })
	for lines.Next() {
		name, value, err := logical.NameValue(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w: \"%s\"", path, lines.Line(), err, lines.Text())
		}
		if i, dup := c.index[name]; dup {
			c.warnings = append(c.warnings, fmt.Sprintf("%s, line %d: overriding earlier entry: %s=%s", path, lines.Line(), name, c.entries[i].Value))
		}
		c.set(Entry{name, value, lines.Line()})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, reason(err))
	}
	return c, nil
}

func (c *Config) set(e Entry) {
	if i, ok := c.index[e.Name]; ok {
		c.entries[i] = e
		return
	}
	c.index[e.Name] = len(c.entries)
	c.entries = append(c.entries, e)
}

// With is c with -o name=value overrides on top, later ones winning.
func (c *Config) With(overrides []string) (*Config, error) {
	n := Empty(c.dir)
	n.warnings = c.warnings
	for _, e := range c.entries {
		n.set(e)
	}
	for _, o := range overrides {
		name, value, err := logical.NameValue(o)
		if err != nil {
			return nil, fmt.Errorf("invalid parameter override: %s: %w", o, err)
		}
		n.set(Entry{Name: name, Value: value})
	}
	return n, nil
}

// Dir is the configuration directory.
func (c *Config) Dir() string { return c.dir }

// QueueDir is queue_directory, or "." where that is the working directory: a
// daemon goes there before it changes its root, and finds it by no other name
// afterwards.
func (c *Config) QueueDir() string {
	dir := c.String("queue_directory")
	here, err := os.Stat(".")
	if there, err2 := os.Stat(dir); err == nil && err2 == nil && os.SameFile(here, there) {
		return "."
	}
	return dir
}

// Entries are all settings, in the order of the file.
func (c *Config) Entries() []Entry { return c.entries }

// Warnings are what reading the file had to say ("/etc/postfix/main.cf, line
// 3: overriding earlier entry: x=y"), without the word "warning".
func (c *Config) Warnings() []string { return c.warnings }

// Raw is the value as it stands in main.cf (or an override), without
// expansion; set is false where a default would apply.
func (c *Config) Raw(name string) (value string, set bool) {
	e, set := c.Entry(name)
	return e.Value, set
}

// Entry is what the file or an override says about a parameter; false where a
// default would apply.
func (c *Config) Entry(name string) (Entry, bool) {
	if i, ok := c.index[name]; ok {
		return c.entries[i], true
	}
	return Entry{}, false
}

// Lookup is the value before expansion, defaults included; false for a name
// that nobody has defined.
func (c *Config) Lookup(name string) (string, bool) {
	switch name {
	case "process_id":
		return strconv.Itoa(os.Getpid()), true
	case "process_name":
		return filepath.Base(os.Args[0]), true
	}
	if v, ok := c.Raw(name); ok {
		return v, true
	}
	if name == "config_directory" {
		return c.dir, true
	}
	p, ok := Find(name)
	if !ok {
		return "", false
	}
	return c.def(p), true
}

func (c *Config) def(p *Param) string {
	if p.Kind != Computed {
		return p.Default
	}
	v, err := c.Compute(p.Name)
	if err != nil {
		c.fail(err)
	}
	return v
}

// expand resolves $names in the value of a parameter.
func (c *Config) expand(name, value string) string {
	v, err := Expand(value, c.Lookup)
	if err != nil {
		detail := ""
		var x *ExpandError
		if errors.As(err, &x) {
			detail = x.Detail
		}
		c.fail(fmt.Errorf("parameter %s: %w: %s", name, err, detail))
	}
	return v
}

func (c *Config) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// Err is the first malformed value that a getter of this Config met, in
// Postfix's words ("bad numerical configuration: x = y").
func (c *Config) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// String is the value with every $name expanded, except in the few parameters
// whose $names wait for a message (forward_path, default_rbl_reply...). A name
// that is not set and not known is empty.
func (c *Config) String(name string) string {
	value, _ := c.Lookup(name)
	p, known := Find(name)
	if known && p.Kind == Raw {
		return value
	}
	value = c.expand(name, value)
	if known && p.Kind == String {
		if n := int64(len(value)); p.Min != 0 && n < p.Min {
			c.fail(fmt.Errorf("bad string length %d < %d: %s = %s", n, p.Min, name, value))
		} else if p.Max != 0 && n > p.Max {
			c.fail(fmt.Errorf("bad string length %d > %d: %s = %s", n, p.Max, name, value))
		}
	}
	if name == "myorigin" && strings.HasPrefix(value, "/") {
		return c.firstLine(value)
	}
	return value
}

// firstLine reads myorigin from a file (/etc/mailname), as Debian's Postfix does.
func (c *Config) firstLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		c.fail(fmt.Errorf("open %s: %w", path, reason(err)))
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

// Int is a numeric value.
func (c *Config) Int(name string) int { return int(c.number(name, c.expanded(name), 32)) }

// Size is a number of bytes.
func (c *Config) Size(name string) int64 { return c.number(name, c.expanded(name), 64) }

func (c *Config) expanded(name string) string {
	value, _ := c.Lookup(name)
	return c.expand(name, value)
}

// fallback is the default of a parameter whose value was refused.
func (c *Config) fallback(name string) string {
	if p, ok := Find(name); ok {
		return c.expand(name, c.def(p))
	}
	return ""
}

func (c *Config) number(name, value string, bits int) int64 {
	n, err := strconv.ParseInt(trimLeft(value), 10, bits)
	if err != nil {
		c.fail(fmt.Errorf("bad numerical configuration: %s = %s", name, value))
		n, _ = strconv.ParseInt(c.fallback(name), 10, bits)
		return n
	}
	c.bounds(name, n)
	return n
}

func (c *Config) bounds(name string, n int64) {
	p, ok := Find(name)
	switch {
	case !ok:
	case p.Min != 0 && n < p.Min:
		c.fail(fmt.Errorf("invalid %s parameter value %d < %d", name, n, p.Min))
	case p.Max != 0 && n > p.Max:
		c.fail(fmt.Errorf("invalid %s parameter value %d > %d", name, n, p.Max))
	}
}

// Bool is a yes/no value.
func (c *Config) Bool(name string) bool {
	value := c.expanded(name)
	switch {
	case strings.EqualFold(value, "yes"):
		return true
	case strings.EqualFold(value, "no"):
		return false
	}
	c.fail(fmt.Errorf("bad boolean configuration: %s = %s", name, value))
	return c.fallback(name) == "yes"
}

// Duration is a time value; a bare number has the unit of the parameter's default.
func (c *Config) Duration(name string) time.Duration {
	return c.duration(name, c.expanded(name), c.fallback(name))
}

func (c *Config) duration(name, value, def string) time.Duration {
	unit := byte('s')
	if def != "" {
		unit = def[len(def)-1]
	}
	d, ok := parseTime(value, unit)
	if !ok {
		c.fail(fmt.Errorf("parameter %s: bad time value or unit: %s", name, value))
		d, _ = parseTime(def, unit)
		return d
	}
	c.bounds(name, int64(d/time.Second))
	return d
}

// parseTime reads digits and at most one of s m h d w. Postfix counts seconds
// in 32 bits.
func parseTime(s string, unit byte) (time.Duration, bool) {
	s = trimLeft(s)
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(s[:end], 10, 32)
	if err != nil || len(s) > end+1 {
		return 0, false
	}
	if end < len(s) {
		unit = s[end]
	}
	factor := map[byte]int64{'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}[unit]
	if factor == 0 || n*factor > 1<<31-1 {
		return 0, false
	}
	return time.Duration(n*factor) * time.Second, true
}

// List is the value split at commas and blanks; {} groups stay together, with their braces.
func (c *Config) List(name string) []string {
	return logical.Tokens(c.String(name), logical.CommaBlanks)
}

// CompatBelow reports whether compatibility_level is below a level such as "3.6".
func (c *Config) CompatBelow(level string) bool {
	set, err := parseLevel(c.String("compatibility_level"))
	if err != nil {
		c.fail(err)
		return false
	}
	limit, _ := parseLevel(level)
	return set < limit
}

// Transport is the setting of one transport or service, such as
// Transport("relay", "destination_concurrency_limit"): relay_destination_concurrency_limit
// where set, else what default_destination_concurrency_limit says.
func (c *Config) Transport(service, suffix string) string {
	name, value := c.transport(service, suffix)
	return c.expand(name, value)
}

func (c *Config) transport(service, suffix string) (name, value string) {
	name = service + "_" + strings.TrimPrefix(suffix, "_")
	if v, ok := c.Lookup(name); ok {
		return name, v
	}
	if def, ok := suffixDefault(suffix); ok {
		v, _ := c.Lookup(def)
		return def, v
	}
	return name, ""
}

// TransportInt is Transport for numbers.
func (c *Config) TransportInt(service, suffix string) int {
	name, value := c.transport(service, suffix)
	return int(c.number(name, c.expand(name, value), 32))
}

// TransportDuration is Transport for times.
func (c *Config) TransportDuration(service, suffix string) time.Duration {
	name, value := c.transport(service, suffix)
	def, _ := suffixDefault(suffix)
	return c.duration(name, c.expand(name, value), c.fallback(def))
}

// reason is an operating system error with strerror's capital letter; errors.Is
// still knows it.
func reason(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &sysError{err}
}

type sysError struct{ err error }

func (e *sysError) Error() string {
	s := e.err.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

func (e *sysError) Unwrap() error { return e.err }
