package postconf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"angarium/lib/conf/maincf"
	"angarium/lib/conf/mastercf"
	"angarium/lib/logical"
)

// flags say what kind of name a parameter has.
type flags uint8

const (
	builtin  flags = 1 << iota // defined in lib/conf/maincf
	service                    // a service's name with a suffix
	user                       // a name of the admin's own
	legacy                     // looked at by other defaults only
	readonly                   // set by Postfix itself
	raw                        // $name is not expanded
	dbms                       // a database's name with a suffix

	anyClass = builtin | service | user
)

// parseClasses reads the argument of -C.
func parseClasses(arg string) (flags, error) {
	var set flags
	for _, word := range logical.Tokens(arg, logical.CommaBlanks) {
		switch strings.ToLower(word) {
		case "builtin":
			set |= builtin
		case "service":
			set |= service
		case "user":
			set |= user
		case "all":
			set |= anyClass
		default:
			return 0, fmt.Errorf("unknown -C option value \"%s\" in \"%s\"", word, arg)
		}
	}
	return set, nil
}

// param is a name that something uses.
type param struct {
	flags flags
	def   string
}

// scope is one service of master.cf with the settings of its own.
type scope struct {
	entry  *mastercf.Entry
	name   string // service/type
	values map[string]string
	valid  map[string]bool
}

// known is every parameter name that has a meaning, with what main.cf and
// master.cf say about them.
type known struct {
	*command
	conf    *maincf.Config
	params  map[string]*param
	scopes  []*scope        // one for each entry of master.cf
	ignored map[string]bool // names in main.cf that nobody may set
	visited map[string]bool // client files of databases
	classes map[string]bool // smtpd_restriction_classes of main.cf
}

func newKnown(p *command, conf *maincf.Config, entries []mastercf.Entry) *known {
	k := &known{
		command: p,
		conf:    conf,
		params:  make(map[string]*param, 1400),
		ignored: make(map[string]bool),
		visited: make(map[string]bool),
		classes: make(map[string]bool),
	}
	defs := maincf.Params()
	nodes := make([]param, len(defs))
	for i := range defs {
		d := &defs[i]
		nodes[i] = param{builtin, d.Default}
		switch {
		case d.Kind == maincf.Raw:
			nodes[i].flags |= raw
		case d.Name == "process_id", d.Name == "process_name", d.Name == "service_name":
			nodes[i].flags |= readonly
		}
		k.params[d.Name] = &nodes[i]
	}
	for _, name := range maincf.Legacy() {
		k.params[name] = &param{legacy, ""}
	}
	for i := range entries {
		e := &entries[i]
		s := &scope{entry: e, name: e.Field[0] + "/" + e.Field[1]}
		for _, o := range e.Overrides() {
			if name, value, err := logical.NameValue(o); err == nil {
				if s.values == nil {
					s.values, s.valid = make(map[string]string), make(map[string]bool)
				}
				s.values[name] = value
			}
		}
		k.scopes = append(k.scopes, s)
	}
	return k
}

// services adds the names that services bring with them.
func (k *known) services() {
	for _, s := range k.scopes {
		for _, suffix := range maincf.Suffixes(s.entry.Field[mastercf.FieldCommand]) {
			name := s.entry.Field[0] + suffix.Suffix
			if p, ok := k.params[name]; ok {
				p.flags = p.flags&^anyClass | service
			} else {
				k.params[name] = &param{service, "$" + suffix.Default}
			}
		}
	}
}

// set is the explicit value of a parameter in main.cf.
func (k *known) set(name string) (string, bool) {
	if k.ignored[name] {
		return "", false
	}
	value, set := k.conf.Raw(name)
	if !set && name == "config_directory" && k.given && k.mode&defaults == 0 {
		return k.dir, true
	}
	return value, set
}

// def is the default value of a parameter.
func (k *known) def(name string) (string, bool, error) {
	p, ok := k.params[name]
	if !ok {
		return "", false, nil
	}
	switch name {
	case "myhostname", "mydomain", "mynetworks":
		v, err := k.conf.Compute(name)
		return v, true, err
	case "process_name":
		return filepath.Base(k.Path), true, nil
	case "process_id":
		return strconv.Itoa(os.Getpid()), true, nil
	}
	if p.flags&anyClass == user {
		return "", false, nil
	}
	return p.def, true, nil
}

// expand resolves $name in a value, as s (nil: main.cf) sees it.
func (k *known) expand(value string, s *scope) (string, error) {
	var failed error
	out, err := maincf.Expand(value, func(name string) (string, bool) {
		if k.mode&defaults == 0 {
			if s != nil {
				switch name {
				case "service_name":
					return s.entry.Field[0], true
				case "process_name":
					return s.entry.Field[mastercf.FieldCommand], true
				}
				if v, ok := s.values[name]; ok {
					return v, true
				}
			}
			if v, ok := k.set(name); ok {
				return v, true
			}
		}
		v, ok, err := k.def(name)
		if err != nil {
			failed = err
		}
		return v, ok
	})
	var x *maincf.ExpandError
	if errors.As(err, &x) {
		k.warn(x.Detail)
	}
	if err == nil {
		err = failed
	}
	return out, err
}

// users adds the names that the admin invented: restriction classes, and
// whatever has a value and is mentioned as $name. It warns about mentions of
// names without a value.
func (k *known) users() error {
	for _, s := range k.scopes {
		if s.values != nil {
			if err := k.scan(s); err != nil {
				return err
			}
		}
	}
	for _, d := range maincf.Params() {
		if _, set := k.set(d.Name); set || d.Kind == maincf.Raw {
			continue
		}
		def, _, err := k.def(d.Name)
		if err != nil {
			k.warnDetail(err)
			return err
		}
		if err := k.mentions(def, user, nil); err != nil {
			k.warnDetail(err)
		}
	}
	return k.scan(nil)
}

// scan looks at the settings of one service, or of main.cf.
func (k *known) scan(s *scope) error {
	if list, ok := k.get("smtpd_restriction_classes", s); ok {
		// Only what the same file says counts here.
		list, err := maincf.Expand(list, func(name string) (string, bool) { return k.get(name, s) })
		if err != nil {
			k.warnDetail(err)
			return err
		}
		for _, name := range logical.Tokens(list, logical.CommaBlanks) {
			if s == nil {
				k.classes[name] = true
			}
			k.flag(name, user, s)
		}
	}
	for _, e := range k.settings(s) {
		if s != nil && k.classes[e.Name] {
			s.valid[e.Name] = true
		}
		p, ok := k.params[e.Name]
		// Only what Postfix itself looks at can name a database.
		used := ok && p.flags&(builtin|service|legacy) != 0
		if ok {
			if p.flags&readonly != 0 {
				k.warnf("%s/%s: read-only parameter assignment: %s=%s", k.dir, file(s), e.Name, e.Value)
				if s != nil {
					delete(s.values, e.Name)
				} else {
					k.ignored[e.Name] = true
				}
				continue
			}
			if p.flags&legacy != 0 {
				p.flags = user
			}
			if p.flags&raw != 0 {
				continue
			}
		}
		if err := k.mentions(e.Value, user, s); err != nil {
			k.warnDetail(err)
		}
		if !used {
			continue
		}
		value, err := k.expand(e.Value, s)
		if err != nil {
			return err
		}
		k.databases(value, s)
	}
	return nil
}

func (k *known) warnDetail(err error) {
	var x *maincf.ExpandError
	if errors.As(err, &x) {
		k.warn(x.Detail)
	}
}

func (k *known) get(name string, s *scope) (string, bool) {
	if s == nil {
		return k.set(name)
	}
	v, ok := s.values[name]
	return v, ok
}

// settings are the "name = value" of a service, or of main.cf.
func (k *known) settings(s *scope) []maincf.Entry {
	if s == nil {
		return k.conf.Entries()
	}
	var list []maincf.Entry
	for name, value := range s.values {
		list = append(list, maincf.Entry{Name: name, Value: value})
	}
	slices.SortFunc(list, func(a, b maincf.Entry) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// file is the file that a scope's settings stand in.
func file(s *scope) string {
	if s == nil {
		return "main.cf"
	}
	return "master.cf"
}

// mentions flags every $name in value.
func (k *known) mentions(value string, class flags, s *scope) error {
	return maincf.References(value, func(name string) { k.flag(name, class, s) })
}

// flag makes name a known one wherever it has a value.
func (k *known) flag(name string, class flags, s *scope) {
	set := false
	if s != nil && s.values != nil {
		if _, set = s.values[name]; set {
			s.valid[name] = true
		}
	}
	if !set {
		if _, set = k.set(name); set && k.params[name] == nil {
			k.params[name] = &param{flags: class &^ dbms}
		}
	}
	if s == nil {
		for _, o := range k.scopes {
			if _, has := o.values[name]; has {
				set, o.valid[name] = true, true
			}
		}
	}
	if !set && class&dbms == 0 && k.params[name] == nil {
		k.warnf("%s/%s: undefined parameter: %s", k.dir, file(s), name)
	}
}

// databases looks for type:name words in value. For the types that once took
// their settings from main.cf as <name>_<setting>, those names become known;
// names that are files are read for settings that nobody knows.
func (k *known) databases(value string, s *scope) {
	for _, word := range logical.Tokens(value, logical.CommaBlanks) {
		if word[0] == '{' {
			k.databases(k.inside(word, s), s)
			continue
		}
		kind, name, ok := strings.Cut(word, ":")
		for ok && kind == "proxy" {
			kind, name, ok = strings.Cut(name, ":")
		}
		switch {
		case !ok || name == "" || name[0] == '.':
		case name[0] == '/':
			if settings := clientSettings(kind); settings != nil {
				k.clientFile(kind, name, settings)
			}
		case name[0] == '{':
			k.databases(k.inside(name, s), s)
		default:
			for _, setting := range clientSettings(kind) {
				k.flag(name+"_"+setting, user|dbms, s)
			}
		}
	}
}

// inside takes the braces off.
func (k *known) inside(word string, s *scope) string {
	text, err := logical.Extract(word)
	if err != nil {
		if s != nil {
			k.warnf("master.cf:%s: %v", s.name, err)
		} else {
			k.warnf("main.cf: %v", err)
		}
	}
	return text
}

// clientFile warns about settings in a database client's file that it does not know.
func (k *known) clientFile(kind, path string, settings []string) {
	spec := kind + ":" + path
	if k.visited[spec] {
		return // once is enough
	}
	k.visited[spec] = true
	f, err := os.Open(path)
	if err != nil {
		if !errors.Is(err, os.ErrPermission) {
			k.warnf("open \"%s\" configuration \"%s\": %s", kind, path, reason(err))
		}
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() {
		k.warnf("open \"%s\" configuration \"%s\": not a regular file", kind, path)
		return
	}
	conf, err := maincf.Read(f, path)
	if err != nil {
		k.warn(err.Error())
		return
	}
	for _, w := range conf.Warnings() {
		k.warn(w)
	}
	for _, e := range conf.Entries() {
		if !slices.Contains(settings, e.Name) {
			k.warnf("%s: unused parameter: %s=%s", spec, e.Name, e.Value)
		}
	}
}

// reason is an error of the operating system without the path.
func reason(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	s := err.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

// unusedMain warns about settings in main.cf that nothing looks at.
func (k *known) unusedMain() {
	for _, e := range k.conf.Entries() {
		if k.params[e.Name] == nil {
			k.warnf("%s/main.cf: unused parameter: %s=%s", k.dir, e.Name, e.Value)
		}
	}
}

// unusedMaster does so for master.cf.
func (k *known) unusedMaster() {
	for _, s := range k.scopes {
		for _, e := range k.settings(s) {
			if k.params[e.Name] == nil && !s.valid[e.Name] {
				k.warnf("%s/master.cf: unused parameter: %s=%s", k.dir, e.Name, e.Value)
			}
		}
	}
}

// clientSettings are the names that a database client's file may hold.
func clientSettings(kind string) []string {
	switch kind {
	case "ldap":
		return []string{"bind", "bind_dn", "bind_pw", "cache", "cache_expiry", "cache_size", "chase_referrals", "debuglevel",
			"dereference", "domain", "expansion_limit", "leaf_result_attribute", "query_filter", "recursion_limit",
			"result_attribute", "result_filter", "result_format", "sasl_authz_id", "sasl_mechs", "sasl_minssf", "sasl_realm",
			"scope", "search_base", "server_host", "server_port", "size_limit", "special_result_attribute", "start_tls",
			"terminal_result_attribute", "timeout", "tls_ca_cert_dir", "tls_ca_cert_file", "tls_cert", "tls_cipher_suite",
			"tls_key", "tls_random_file", "tls_require_cert", "version"}
	case "mysql":
		return []string{"additional_conditions", "dbname", "domain", "expansion_limit", "hosts", "option_file", "option_group",
			"password", "query", "require_result_set", "result_format", "select_field", "table", "tls_CAfile", "tls_CApath",
			"tls_cert_file", "tls_ciphers", "tls_key_file", "tls_verify_cert", "user", "where_field"}
	case "pgsql":
		return []string{"additional_conditions", "dbname", "domain", "expansion_limit", "hosts", "password", "query",
			"result_format", "select_field", "select_function", "table", "user", "where_field"}
	case "sqlite":
		return []string{"additional_conditions", "dbpath", "domain", "expansion_limit", "query", "result_format",
			"select_field", "table", "where_field"}
	case "memcache":
		return []string{"backup", "data_size_limit", "domain", "flags", "key_format", "line_size_limit", "max_try", "memcache",
			"retry_pause", "timeout", "ttl"}
	}
	return nil
}
