package mailsetup

import (
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
)

// updateReadme tells DIR/README of users that were added, or got another
// password. Whatever else stands there stays, since it may not be ours any more.
func (s *setup) updateReadme() error {
	text, err := os.ReadFile(s.Readme)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	now := withAccounts(string(text), "  users     ", s.Users)
	now = withAccounts(now, "  admins    ", s.Admins)
	if now == string(text) {
		return nil
	}
	return writeFile(s.Readme, []byte(now), 0o600) // passwords stand in it
}

// withAccounts puts accounts into the line of the README that begins with label,
// or in front of the line of the ports if there is none.
func withAccounts(text, label string, accounts []account) string {
	for _, a := range accounts {
		at := strings.Index("\n"+text, "\n"+label)
		if at < 0 {
			if at = strings.Index(text, "\n  smtp      ") + 1; at == 0 {
				return text // written anew by somebody
			}
			text = text[:at] + label + "\n" + text[at:]
		}
		end := at + strings.IndexByte(text[at:]+"\n", '\n')
		line, entry := text[at:end], a.Name+" (password "+a.Password+")  "
		// Passwords may hold anything that a line may: theirs ends where the next name begins.
		old := regexp.MustCompile(`  ` + regexp.QuoteMeta(a.Name) + ` \(password (.*?)\)  ([^ ]+ \(password |$)`).FindStringSubmatchIndex(line)
		if old == nil {
			text = text[:end] + entry + text[end:]
			continue
		}
		before := line[old[2]:old[3]]
		text = text[:at] + line[:old[0]+2] + entry + line[old[4]:] + text[end:]
		text = strings.ReplaceAll(text, shellWord(a.Name+":"+before), shellWord(a.Name+":"+a.Password))
	}
	return text
}
