package maillog

import (
	"errors"
	"syscall"
)

// Reason is the system's own word for an error, as %m of syslog(3) has it: "No such
// file or directory". An error without a number of the system says what it says.
func Reason(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	text := errno.Error() // Go's table is the C library's in lower case
	if text != "" && text[0] >= 'a' && text[0] <= 'z' {
		text = string(text[0]-'a'+'A') + text[1:]
	}
	return text
}
