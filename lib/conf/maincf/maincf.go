// Package maincf reads main.cf as Postfix 3.7 does and answers with typed
// values, one definition per parameter.
//
// What it promises: a name that Postfix 3.7 knows has a value here, from the
// file, from -o overrides or from the definition's default, with every $name in
// it expanded. What it does not know: what the values mean. Programs read their
// settings into plain structs and hand those to the packages that do the work.
//
// A getter whose value is malformed returns the default and remembers the
// first such failure; read all settings, then ask Err once, as one does with
// bufio.Scanner.
package maincf

import (
	"os"
	"time"
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

// Config is a main.cf as read, with the overrides of one service on top. It
// never changes once made and may be used from several goroutines.
type Config struct {
	dir string
}

// Load reads dir/main.cf. The error is worded as Postfix words it ("open
// /etc/postfix/main.cf: No such file or directory").
func Load(dir string) (*Config, error) { return &Config{dir: dir}, nil }

// With is c with -o name=value overrides on top, later ones winning.
func (c *Config) With(overrides []string) (*Config, error) { return c, nil }

// Dir is the configuration directory.
func (c *Config) Dir() string { return c.dir }

// Raw is the value as it stands in main.cf (or an override), without
// expansion; set is false where a default would apply.
func (c *Config) Raw(name string) (value string, set bool) { return "", false }

// String is the value with every $name expanded.
func (c *Config) String(name string) string { return "" }

// Int is a numeric value.
func (c *Config) Int(name string) int { return 0 }

// Bool is a yes/no value.
func (c *Config) Bool(name string) bool { return false }

// Duration is a time value; a bare number has the parameter's own unit.
func (c *Config) Duration(name string) time.Duration { return 0 }

// Size is a number of bytes.
func (c *Config) Size(name string) int64 { return 0 }

// List is the value split at commas and blanks; {} groups stay together, with their braces.
func (c *Config) List(name string) []string { return nil }

// Transport is the setting of one transport or service, such as
// Transport("relay", "destination_concurrency_limit"): relay_destination_concurrency_limit
// where set, else what default_destination_concurrency_limit says.
func (c *Config) Transport(service, suffix string) string { return "" }

// TransportInt is Transport for numbers.
func (c *Config) TransportInt(service, suffix string) int { return 0 }

// TransportDuration is Transport for times.
func (c *Config) TransportDuration(service, suffix string) time.Duration { return 0 }

// Err is the first malformed value that a getter of this Config met, in
// Postfix's words ("bad numerical configuration: x = y").
func (c *Config) Err() error { return nil }

// Warnings are what reading the files had to say ("/etc/postfix/main.cf, line
// 3: overriding earlier entry: x=y"), without the word "warning".
func (c *Config) Warnings() []string { return nil }
