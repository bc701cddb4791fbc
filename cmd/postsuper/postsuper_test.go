package postsuper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/cli"
	"angarium/lib/maillog"
	"angarium/lib/queue"
)

// The words are those of Postfix' own; as root the command becomes mail_owner, so
// here it is called behind that step.
func TestWords(t *testing.T) {
	q, err := queue.Open(filepath.Join(t.TempDir(), "spool"), queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for range 3 {
		d, err := q.Create(context.Background(), queue.Envelope{})
		if err != nil {
			t.Fatal(err)
		}
		d.Recipient(agent.Recipient{Address: address.Parse("b@y.test")})
		io.WriteString(d, "x\n")
		if err := d.Commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, d.ID())
	}
	steps := []struct{ args, stdin, want string }{
		{"-h 0", "", "0: placed on hold\nPlaced on hold: 1 message\n"},
		{"-h ALL", "", "Placed on hold: 2 messages\n"},
		{"-H ALL hold", "", "Released from hold: 3 messages\n"},
		{"-h ALL incoming", "", "Placed on hold: 0 messages\n"},
		{"-e 0 -e 1", "", "0: expired\n1: expired\nForce-expired: 2 messages\n"},
		{"-h 2 -f 2", "", "2: expired\n2: placed on hold\n2: released from hold\nForce-expired: 1 message\nPlaced on hold: 1 message\nReleased from hold: 1 message\n"},
		{"-r 0", "", "0: requeued\nRequeued: 1 message\n"},
		{"-d -", "1\n\n../x\n", "1: removed\nwarning: invalid mail queue id: ../x\nDeleted: 1 message\n"},
		{"-d nosuch", "", "Deleted: 0 messages\n"},
		{"-d ALL", "", "Deleted: 2 messages\n"},
		{"-d all", "", "Deleted: 0 messages\n"},
	}
	for _, s := range steps {
		acts := actions()
		args := strings.Fields(s.args)
		var dirs []queue.Dir
		for len(args) > 0 {
			letter, ok := strings.CutPrefix(args[0], "-")
			if !ok {
				dirs = append(dirs, queue.Dir(args[0]))
				args = args[1:]
				continue
			}
			for _, a := range acts {
				if a.letter == letter[0] || letter == "f" && (a.letter == 'e' || a.letter == 'H') {
					id := args[1]
					if len(id) == 1 && id != "-" {
						id = ids[id[0]-'0']
					}
					a.ids = append(a.ids, id)
				}
			}
			args = args[2:]
		}
		var out lines
		p := &super{q: q, log: maillog.New(&out, "x"), stdin: strings.NewReader(strings.Replace(s.stdin, "1", ids[1], 1)), dirs: dirs}
		if err := p.run(acts, queue.FixOptions{}, false); err != nil {
			t.Fatal(err)
		}
		want := s.want
		for i, id := range ids {
			want = strings.ReplaceAll("\n"+want, "\n"+string(rune('0'+i))+": ", "\n"+id+": ")[1:]
		}
		if out.String() != want {
			t.Errorf("%s:\n%swant\n%s", s.args, out.String(), want)
		}
	}
}

// TestCorrupt: -s names the files of all queues by their inodes, but leaves damaged
// ones as they are.
func TestCorrupt(t *testing.T) {
	dir := t.TempDir()
	q, err := queue.Open(dir, queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"corrupt", "hold"} {
		if err := errors.Join(os.MkdirAll(dir+"/"+d, 0o700), os.WriteFile(dir+"/"+d+"/ABCDEF0", nil, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	p := &super{q: q, log: maillog.New(&lines{}, "x")}
	if err := p.fix(queue.FixOptions{Names: true}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/corrupt/ABCDEF0"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/hold/ABCDEF0"); err == nil {
		t.Error("the file in hold has its wrong name still")
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(dir+"/spool/active", 0o700)
	os.WriteFile(dir+"/main.cf", []byte("compatibility_level = 3.6\nmyhostname = here.test\nmail_owner = root\nmaillog_file = "+dir+"/log\nmaillog_file_prefixes = /\nqueue_directory = "+dir+"/spool\n"), 0o644)
	for args, want := range map[string]string{
		"-c relative -d x": "-c requires absolute pathname",
		"-d x nosuch":      "invalid directory name: nosuch",
		"-z":               "usage: postsuper [-c config_dir]",
	} {
		var errs bytes.Buffer
		c := &cli.Cmd{Name: "postsuper", Args: append([]string{"-c", dir}, strings.Fields(args)...), Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &errs}
		if code := cli.Run(context.Background(), c, Main); code != 1 || !strings.Contains(errs.String(), "postsuper: fatal: "+want) {
			t.Errorf("%s: %d %s", args, code, errs.String())
		}
	}
}

// lines keeps the texts of the log.
type lines struct{ strings.Builder }

func (l *lines) Log(_ time.Time, _ maillog.Priority, _ string, _ int64, text string) error {
	l.WriteString(text + "\n")
	return nil
}
