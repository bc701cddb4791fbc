package t

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// wildCase is one thing that can go wrong, or differently, on the way out.
type wildCase struct {
	name     string
	zone     []string // "@ MX 10 mx.@"; nil: "@ A <address 1>"
	hop      string   // next hop; "": the domain
	settings []string // of the transport
	lmtp     bool
	to       []string // local parts; nil: "rcpt"
	from     string   // "": a sender at home.test
	options  []string // of sendmail
	client   string   // posted by SMTP, by a client that says EHLO with this name
	message  string
	servers  []server // on address 1, 2...

	// differs says why we do otherwise; ours is then what our log must hold.
	differs, ours string
}

// server is a script. An answer may be "drop" (close), "rst", "hang", or lines.
type server struct {
	greet  string            // "": 220
	ext    []string          // behind EHLO; "STARTTLS" needs cert
	answer map[string]string // by beginning of the command; "." for the end of the message
	port   string            // "": 25
	closed bool              // nobody listens
	cert   string            // "": none; "good", "other", "expired", "self"
	wrap   bool              // TLS from the first byte
	inject string
	lmtp   bool
}

func (c *wildCase) domain() string       { return c.name + ".test" }
func (c *wildCase) addr(i, k int) string { return fmt.Sprintf("127.1.%d.%d", i+1, k) }
func (c *wildCase) sender() string {
	if c.from != "" {
		return c.from
	}
	return "s-" + c.name + "@home.test"
}

func (c *wildCase) recipients() []string {
	list := c.to
	if list == nil {
		list = []string{"rcpt"}
	}
	var all []string
	for _, l := range list {
		if !strings.Contains(l, "@") {
			l += "@" + c.domain()
		}
		all = append(all, l)
	}
	return all
}

func (c *wildCase) text() string {
	if c.message != "" {
		return c.message
	}
	return "From: <s@home.test>\nTo: <r@far.test>\nDate: Sat, 28 Nov 2026 10:00:00 +0000\nMessage-Id: <1@home.test>\nSubject: hello\n\n.dot\n..two\nend\n"
}

// serve starts the servers of a case, and once the one for what goes home.
func (n *wild) serve(i int) {
	c := &wildCases[i]
	if i == 0 {
		n.listen(c, "home", "127.1.0.1:25", &server{ext: []string{"8BITMIME", "SMTPUTF8"}})
	}
	for k := range c.servers {
		s := &c.servers[k]
		if s.closed {
			continue
		}
		port := s.port
		if port == "" {
			port = "25"
		}
		n.listen(c, fmt.Sprint(k+1), c.addr(i, k+1)+":"+port, s)
	}
}

func (n *wild) listen(c *wildCase, who, addr string, s *server) {
	ln, err := net.Listen("tcp", addr)
	must(n.t, err)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go n.talk(c, who, conn, s)
		}
	}()
}

// talk is one connection. What a client said is noted when it ends, in one piece.
func (n *wild) talk(c *wildCase, who string, conn net.Conn, s *server) {
	d := &dialog{conn: conn, r: bufio.NewReader(conn), s: s, certs: n.certs}
	if who == "home" {
		d.letter = n.home
	} else {
		defer func() { n.hear(c.name+" "+who, d.heard.String()+"--") }()
	}
	defer func() { d.conn.Close() }()
	if s.wrap {
		d.secure()
	}
	greet := s.greet
	if greet == "" {
		greet = "220 peer.test ESMTP"
	}
	if !d.say(greet) {
		return
	}
	for d.step() {
	}
}

// home notes what goes back to a sender, by the case that is in its name.
func (n *wild) home(d *dialog) {
	name, _, _ := strings.Cut(strings.TrimPrefix(d.to, "s-"), "@")
	text := d.heard.String()
	if i := strings.Index(text, "MAIL FROM"); i >= 0 {
		n.hear(name+" home", text[i:]+"--")
	}
	d.heard.Reset()
}

type dialog struct {
	conn   net.Conn
	r      *bufio.Reader
	s      *server
	heard  bytes.Buffer
	to     string
	taken  int
	letter func(*dialog) // has come in
	certs  map[string]tls.Certificate
}

func (d *dialog) say(text string) bool {
	switch text {
	case "drop":
		return false
	case "rst":
		if t, ok := d.conn.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		return false
	case "hang":
		time.Sleep(4 * time.Second)
		return false
	}
	after, drop := strings.CutSuffix(text, "+drop")
	_, err := io.WriteString(d.conn, strings.ReplaceAll(after, "\n", "\r\n")+"\r\n")
	return err == nil && !drop
}

func (d *dialog) secure() {
	t := tls.Server(d.conn, &tls.Config{Certificates: []tls.Certificate{d.certs[d.s.cert]}})
	if err := t.Handshake(); err != nil {
		fmt.Fprintf(&d.heard, "no TLS\n")
	} else {
		fmt.Fprintf(&d.heard, "TLS sni=%s\n", t.ConnectionState().ServerName)
	}
	d.conn, d.r = t, bufio.NewReader(t)
}

// step reads a command and answers.
func (d *dialog) step() bool {
	line, err := d.r.ReadString('\n')
	if err != nil {
		if len(line) > 0 {
			fmt.Fprintf(&d.heard, "half a line: %s\n", line)
		}
		return false
	}
	line = strings.TrimRight(line, "\r\n")
	d.heard.WriteString(line + "\n")
	verb := strings.ToUpper(strings.SplitN(line, " ", 2)[0])
	if verb == "RCPT" {
		d.to = strings.Trim(strings.SplitN(line[len("RCPT TO:"):], " ", 2)[0], "<>")
	}
	answer := d.lookup(line)
	switch {
	case answer != "":
	case verb == "EHLO" || verb == "LHLO":
		answer = "250 peer.test"
		if n := len(d.s.ext); n > 0 {
			answer = "250-peer.test"
			for i, e := range d.s.ext {
				answer += "\n250" + map[bool]string{true: " ", false: "-"}[i == n-1] + e
			}
		}
	case verb == "DATA" && d.taken == 0 && d.lookup("RCPT TO:") != "":
		answer = "503 5.5.1 no recipients"
	case verb == "DATA":
		answer = "354 go on"
	case verb == "STARTTLS":
		answer = "220 go on" + d.s.inject
	case verb == "QUIT":
		d.say("221 bye")
		return false
	default:
		answer = "250 2.0.0 fine"
	}
	if verb == "RCPT" && answer[0] == '2' {
		d.taken++
	}
	if verb == "MAIL" || verb == "RSET" {
		d.taken = 0
	}
	if !d.say(answer) {
		return false
	}
	if verb == "STARTTLS" && answer[0] == '2' {
		d.secure()
	}
	if verb == "DATA" && answer[0] == '3' {
		return d.message()
	}
	return true
}

func (d *dialog) lookup(line string) string {
	best := ""
	for k := range d.s.answer {
		if len(k) > len(best) && strings.HasPrefix(strings.ToUpper(line), strings.ToUpper(k)) {
			best = k
		}
	}
	return d.s.answer[best]
}

func (d *dialog) message() bool {
	if a, ok := d.s.answer["body"]; ok { // after some of it
		_, _ = d.r.ReadString('\n')
		return d.say(a)
	}
	for {
		line, err := d.r.ReadString('\n')
		if err != nil {
			fmt.Fprintf(&d.heard, "no end\n")
			return false
		}
		line = strings.TrimSuffix(line, "\r\n")
		d.heard.WriteString(line + "\n")
		if line == "." {
			break
		}
	}
	n := 1
	if d.s.lmtp {
		n = d.taken
	}
	for i := range n {
		a := d.s.answer["."]
		if v, ok := d.s.answer[fmt.Sprint(".", i+1)]; ok {
			a = v
		}
		if a == "" {
			a = "250 2.0.0 taken as 1234"
		}
		if !d.say(a) {
			return false
		}
	}
	d.taken = 0
	if d.letter != nil {
		d.letter(d)
	}
	return true
}
