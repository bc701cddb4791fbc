package command

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"angarium/lib/dsn"
)

func run(time time.Duration, argv ...string) (string, error) {
	c := Command{Argv: argv, Name: argv[0], Exec: "local: fatal: execvp", Dir: "/", Env: []string{"PATH=/usr/bin:/bin"}, Time: time, Feed: func(w io.Writer) error {
		_, err := io.WriteString(w, strings.Repeat("a line of the letter\n", 20_000))
		return err
	}}
	out, err := c.Run(context.Background())
	if err != nil {
		return dsn.From(err, "").Status(), err
	}
	return out, nil
}

func TestEnds(t *testing.T) {
	for _, c := range []struct{ script, status, text string }{
		{"cat >/dev/null; echo two; echo lines", "two lines", ""},
		{"exit 0", "", ""}, // reads nothing
		{"exit 75", "4.3.0", "temporary failure"},
		{"exit 73", "5.2.0", "can't create user output file"},
		{"echo no; exit 67", "5.1.1", "user unknown. Command output: no "},
		{"echo 4.2.1 closed; exit 67", "4.2.1", "closed "},
		{"echo 2.0.0 fine; exit 1", "5.3.0", `Command died with status 1: "/bin/sh". Command output: 2.0.0 fine `},
		{"echo 4.2.1 closed; exit 0", "4.2.1 closed", ""}, // a good end is a good end
		{"kill -15 $$", "4.3.0", `Command died with signal 15: "/bin/sh"`},
	} {
		got, err := run(10*time.Second, "/bin/sh", "-c", c.script)
		if text := errText(err); got != c.status || text != c.text {
			t.Errorf("%s: %q %q", c.script, got, text)
		}
	}
	if got, err := run(time.Second, "/no/such/program"); got != "4.3.0" || errText(err) != "temporary failure. Command output: local: fatal: execvp /no/such/program: No such file or directory " {
		t.Errorf("no program: %s %v", got, err)
	}
	if got, err := run(time.Second, "nosuchprogram"); got != "4.3.0" || !strings.Contains(errText(err), "execvp nosuchprogram: No such file or directory ") {
		t.Errorf("no program in PATH: %s %v", got, err)
	}
	c := Command{Argv: []string{"/bin/true"}, Dir: "/no/such/directory", Time: time.Second}
	if _, err := c.Run(context.Background()); !NoDirectory(err) || errText(err) != "temporary failure" {
		t.Errorf("no directory: %v", err)
	}
	if out, err := run(10*time.Second, "/bin/sh", "-c", "yes | head -c 100000"); err != nil || len(out) > maxOutput {
		t.Errorf("much output: %d octets, %v", len(out), err)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return dsn.From(err, "").Text
}

func TestTimeLimit(t *testing.T) {
	began := time.Now()
	got, err := run(200*time.Millisecond, "/bin/sh", "-c", "echo waiting; sleep 30 & sleep 30")
	if got != "5.3.0" || errText(err) != `Command time limit exceeded: "/bin/sh". Command output: waiting ` {
		t.Errorf("%s %v", got, err)
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("children outlived the limit: %v", d)
	}
}

// The diagnostic code of a notice is what the program said, or what its status means.
func TestDiagnostic(t *testing.T) {
	for script, want := range map[string]string{
		"exit 67": "user unknown", "echo no such; exit 67": "no such ", "exit 3": "unknown mail system error 3",
		"echo 5.7.1 go away; exit 1": "go away ", "kill -9 $$": "internal software error",
	} {
		_, err := run(10*time.Second, "/bin/sh", "-c", script)
		if got := dsn.From(err, "").Unix; got != want {
			t.Errorf("%s: %q", script, got)
		}
	}
}
