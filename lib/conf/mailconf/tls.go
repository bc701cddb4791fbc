package mailconf

import (
	"strconv"

	"angarium/lib/conf/maincf"
)

// TLSLogLevel is the number in smtp_tls_loglevel and its like, which are strings
// to Postfix. What is no number counts as 0.
func TLSLogLevel(conf *maincf.Config, name string) int {
	n, err := strconv.Atoi(conf.String(name))
	if err != nil {
		return 0
	}
	return n
}
