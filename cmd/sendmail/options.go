package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"angarium/lib/agent"
)

// letters are the options of Sendmail 8 that Postfix knows. Most of them are
// accepted and mean nothing here.
const letters = "+A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:q:tvx"

// options reads the command line. The first wrong one ends it; what came before
// stands, so that the error gets into the right log.
func (s *call) options() (operands []string, err error) {
	for {
		args := s.c.Rest()
		if len(args) > 0 {
			if args[0] == "-q" { // alone it has no argument
				s.c.Skip(1)
				if s.mode == daemon {
					s.warn("ignoring -q option in daemon mode")
				} else {
					s.mode = flush
				}
				continue
			}
			if n, err := s.verpOption(args); err != nil {
				return nil, err
			} else if n > 0 {
				s.c.Skip(n)
				continue
			}
		}
		letter, arg, ok, err := s.c.Getopt(letters)
		if err != nil {
			fmt.Fprintf(s.c.Stderr, "%s: %v\n", s.c.Name, err)
			return nil, fmt.Errorf("usage: %s [options]", s.c.Name)
		}
		if !ok {
			return s.c.Operands(), nil
		}
		if err := s.option(letter, arg); err != nil {
			return nil, err
		}
	}
}

func (s *call) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// verpOption takes -XV and -XVxy, and their old spellings -V and -Vxy: of those
// only what can't be a DSN envelope id. It returns how many arguments it took.
func (s *call) verpOption(args []string) (int, error) {
	arg := args[0]
	if arg == "-XV" {
		s.verp = "+="
		return 1, nil
	}
	delims, ok := strings.CutPrefix(arg, "-XV")
	if !ok {
		if len(arg) != 4 || !strings.HasPrefix(arg, "-V") || !verpDelims(arg[2:]) {
			return 0, nil
		}
		delims = arg[2:]
		s.warn("option %s is deprecated with Postfix 2.3; specify -X%s instead", arg, arg[1:])
	}
	if !verpDelims(delims) {
		return 0, errors.New("-V requires two characters from -=+")
	}
	s.verp = delims
	return 1, nil
}

func verpDelims(s string) bool { return len(s) == 2 && strings.Trim(s, "-=+") == "" }

func (s *call) option(letter byte, arg string) error {
	switch letter {
	case 'B':
		switch strings.ToUpper(arg) {
		case "8BITMIME":
			s.encoding = "8bit"
		case "7BIT":
			s.encoding = "7bit"
		default:
			return errors.New("-B option needs 8BITMIME or 7BIT")
		}
	case 'C':
		s.dir = arg
		if base := filepath.Base(arg); base == "main.cf" || base == "sendmail.cf" {
			s.dir = filepath.Dir(arg)
		}
	case 'F':
		s.fullName = &arg
	case 'f', 'r':
		s.sender = &arg
	case 'G':
		s.rewrite = "remote"
	case 'I':
		s.mode = aliases
	case 'N':
		s.notifyOption(arg)
	case 'R':
		switch strings.ToLower(arg) {
		case "full":
			s.ret = "1"
		case "hdrs":
			s.ret = "2"
		default:
			s.warn("bad -R option value -- ignored")
		}
	case 'V':
		switch {
		case len(arg) > 100:
			s.warn("too long -V option value -- ignored")
		case strings.IndexFunc(arg, func(r rune) bool { return r < ' ' || r >= 127 }) >= 0:
			s.warn("bad syntax in -V option value -- ignored")
		default:
			s.envID = arg
		}
	case 'X':
		return fmt.Errorf("unsupported: -%c%c", letter, first(arg))
	case 'b':
		return s.modeOption(arg)
	case 'i':
		s.keepDots = true
	case 'n':
		return fmt.Errorf("-%c option not supported", letter)
	case 'o':
		return s.oldOption(arg)
	case 'q':
		return s.queueOption(arg)
	case 't':
		s.extract = true
	case 'v':
		s.verbose++
	}
	return nil // A L O U c e h m p x: accepted, and mean nothing
}

func first(s string) byte {
	if s == "" {
		return ' '
	}
	return s[0]
}

func (s *call) modeOption(arg string) error {
	switch first(arg) {
	case 'm':
		s.mode = deliver
	case 'v':
		s.mode, s.verify = deliver, true
	case 'p':
		s.mode = list
	case 'i':
		s.mode = aliases
	case 's':
		s.mode = serve
	case 'd', 'l':
		if s.mode == flush {
			s.warn("ignoring -q option in daemon mode")
		}
		s.mode = daemon
	case 'h', 'H': // Sendmail's persistent host status
		s.mode = nothing
	default:
		return fmt.Errorf("unsupported: -b%c", first(arg))
	}
	return nil
}

// oldOption is -ox: options of Sendmail's configuration file.
func (s *call) oldOption(arg string) error {
	switch first(arg) {
	case 'A':
		if s.aliasFile = arg[1:]; s.aliasFile == "" {
			return errors.New("-oA requires pathname")
		}
	case 'i':
		s.keepDots = true
	case '7':
		s.encoding = "7bit"
	case '8':
		s.encoding = "8bit"
	}
	return nil
}

func (s *call) queueOption(arg string) error {
	switch c := first(arg); {
	case c >= '0' && c <= '9': // the daemon's interval; queue runs need nobody's help
		if s.mode != daemon {
			s.mode = nothing
		}
	case c == 'R':
		if s.mode, s.operand = flushSite, arg[1:]; s.operand == "" {
			return errors.New("specify: -qRsitename")
		}
	case c == 'I':
		if s.mode, s.operand = flushID, arg[1:]; s.operand == "" {
			return errors.New("specify: -qIqueueid")
		}
	default:
		return fmt.Errorf("-q%c is not implemented", c)
	}
	return nil
}

// notifyOption is -N, RFC 3461, section 4.1.
func (s *call) notifyOption(arg string) {
	s.notify = 0
	var n agent.Notify
	for _, word := range strings.FieldsFunc(arg, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		switch strings.ToLower(word) {
		case "never":
			n |= agent.NotifyNever
		case "success":
			n |= agent.NotifySuccess
		case "failure":
			n |= agent.NotifyFailure
		case "delay":
			n |= agent.NotifyDelay
		default:
			s.warn("unknown DSN NOTIFY command value \"%s\" in \"%s\"", word, arg)
			n = 0
		}
		if n == 0 {
			break
		}
	}
	if n == 0 || n&agent.NotifyNever != 0 && n != agent.NotifyNever {
		s.warn("bad -N option value -- ignored")
		return
	}
	s.notify = n
}
