package maincf

import (
	"sort"
	"strings"
)

// Kind is a parameter's type.
type Kind uint8

// The kinds of parameters, as Postfix has them.
const (
	String   Kind = iota // text; Min and Max bound its length
	Raw                  // text in which $name is left alone, for later
	Bool                 // yes or no
	Int                  // a number
	Long                 // a number of bytes
	Time                 // a number with a unit: s m h d w
	Computed             // text whose default depends on this host
)

func (k Kind) String() string {
	return [...]string{"string", "raw", "bool", "int", "long", "time", "computed"}[k]
}

// Param defines one parameter.
type Param struct {
	Name    string
	Kind    Kind
	Default string // may contain $name
	Min     int64  // 0: no lower bound, as in Postfix
	Max     int64  // 0: no upper bound
	Doc     string // one line
}

// Params are all parameters in the order of their names. Nobody may change them.
func Params() []Param { return params[:] }

// Find gives the definition of a parameter.
func Find(name string) (*Param, bool) {
	i := sort.Search(len(params), func(i int) bool { return params[i].Name >= name })
	if i < len(params) && params[i].Name == name {
		return &params[i], true
	}
	return nil, false
}

// Legacy are names that only other parameters' defaults look at, for the sake
// of old files; they have no default and postconf shows them only when set.
func Legacy() []string {
	return []string{
		"authorized_verp_clients", "fallback_relay", "lmtp_per_record_deadline",
		"postscreen_blacklist_action", "postscreen_dnsbl_ttl", "postscreen_dnsbl_whitelist_threshold",
		"postscreen_whitelist_interfaces", "smtp_per_record_deadline", "smtpd_client_connection_limit_exceptions",
		"smtpd_per_record_deadline", "tlsproxy_client_level", "tlsproxy_client_policy", "virtual_maps",
	}
}

// Suffix is the end of a parameter name that starts with a service's name, and
// the parameter whose value is its default.
type Suffix struct{ Suffix, Default string }

// Suffixes are the parameters that each service of master.cf with this program
// brings with it: <service>_destination_concurrency_limit and so on.
func Suffixes(program string) []Suffix {
	switch program {
	case "pipe":
		return suffixes[:]
	case "local", "error", "virtual", "smtp", "lmtp":
		return suffixes[1:]
	case "spawn":
		return suffixes[:1]
	}
	return nil
}

var suffixes = [...]Suffix{
	{"_time_limit", "command_time_limit"},
	{"_recipient_limit", "default_recipient_limit"},
	{"_extra_recipient_limit", "default_extra_recipient_limit"},
	{"_recipient_refill_limit", "default_recipient_refill_limit"},
	{"_recipient_refill_delay", "default_recipient_refill_delay"},
	{"_delivery_slot_cost", "default_delivery_slot_cost"},
	{"_delivery_slot_loan", "default_delivery_slot_loan"},
	{"_delivery_slot_discount", "default_delivery_slot_discount"},
	{"_minimum_delivery_slots", "default_minimum_delivery_slots"},
	{"_initial_destination_concurrency", "initial_destination_concurrency"},
	{"_destination_concurrency_limit", "default_destination_concurrency_limit"},
	{"_destination_recipient_limit", "default_destination_recipient_limit"},
	{"_destination_concurrency_positive_feedback", "default_destination_concurrency_positive_feedback"},
	{"_destination_concurrency_negative_feedback", "default_destination_concurrency_negative_feedback"},
	{"_destination_concurrency_failed_cohort_limit", "default_destination_concurrency_failed_cohort_limit"},
	{"_destination_rate_delay", "default_destination_rate_delay"},
	{"_transport_rate_delay", "default_transport_rate_delay"},
}

// suffixDefault is the parameter that gives the default for a suffix.
func suffixDefault(suffix string) (string, bool) {
	suffix = "_" + strings.TrimPrefix(suffix, "_")
	for _, s := range suffixes {
		if s.Suffix == suffix {
			return s.Default, true
		}
	}
	return "", false
}
