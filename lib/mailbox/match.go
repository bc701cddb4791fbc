package mailbox

import "strings"

// Match reports whether name matches a LIST pattern: "*" is anything, "%" anything
// but the separator (RFC 3501, 6.3.8). INBOX as a whole first part matches in
// any case. The time it takes is at most len(pattern)*len(name).
func Match(pattern, name string, sep byte) bool {
	if len(pattern) >= 5 && len(name) >= 5 && name[:5] == "INBOX" && strings.EqualFold(pattern[:5], "INBOX") &&
		(len(name) == 5 || name[5] == sep) {
		pattern = "INBOX" + pattern[5:]
	}
	// states[i]: the first i bytes of pattern match what was read of name.
	states := make([]bool, len(pattern)+1)
	states[0] = true
	skip := func() {
		for i := 0; i < len(pattern); i++ {
			if states[i] && (pattern[i] == '*' || pattern[i] == '%') {
				states[i+1] = true
			}
		}
	}
	skip()
	for j := 0; j < len(name); j++ {
		c := name[j]
		for i := len(pattern); i > 0; i-- {
			p := pattern[i-1]
			stay := i < len(pattern) && states[i] && (pattern[i] == '*' || pattern[i] == '%' && c != sep)
			states[i] = stay || states[i-1] && p != '*' && p != '%' && p == c
		}
		states[0] = states[0] && len(pattern) > 0 && (pattern[0] == '*' || pattern[0] == '%' && c != sep)
		skip()
	}
	return states[len(pattern)]
}
