package bounce

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"angarium/lib/address"
	"angarium/lib/queue"
)

// The texts of bounce(5)'s built-in templates: senders know them, and programs
// look for them.
const (
	failedText = `This is the mail system at host %s.

I'm sorry to have to inform you that your message could not
be delivered to one or more recipients. It's attached below.

For further assistance, please send mail to postmaster.

If you do so, please include this problem report. You can
delete your own text from the attached returned message.

                   The mail system
`
	delayText = `This is the mail system at host %s.

####################################################################
# THIS IS A WARNING ONLY.  YOU DO NOT NEED TO RESEND YOUR MESSAGE. #
####################################################################

Your message could not be delivered for more than %d hour(s).
It will be retried until it is %d day(s) old.

For further assistance, please send mail to postmaster.

If you do so, please include this problem report. You can
delete your own text from the attached returned message.

                   The mail system
`
	successText = `This is the mail system at host %s.

Your message was successfully delivered to the destination(s)
listed below. If the message was delivered to mailbox you will
receive no further notifications. Otherwise you may still receive
notifications of mail delivery errors from other systems.

                   The mail system
`
	verifyText = `This is the mail system at host %s.

Enclosed is the mail delivery report that you requested.

                   The mail system
`
)

// writer writes one notice. Errors stay in the bufio.Writer.
type writer struct {
	*Bouncer
	n          *Notice
	w          *bufio.Writer
	boundary   string
	postmaster bool
}

func (w *writer) printf(format string, args ...any) { fmt.Fprintf(w.w, format, args...) }

// date is an RFC 5322 date with the zone's name, as Postfix writes it.
func date(t time.Time) string { return t.Format("Mon, _2 Jan 2006 15:04:05 -0700 (MST)") }

func (w *writer) subject() string {
	if w.postmaster {
		return [...]string{"Postmaster Copy: Undelivered Mail", "Postmaster Warning: Delayed Mail", "", ""}[w.n.Kind]
	}
	return [...]string{"Undelivered Mail Returned to Sender", "Delayed Mail (still being retried)",
		"Successful Mail Delivery Report", "Mail Delivery Status Report"}[w.n.Kind]
}

func (w *writer) header(to address.Address) {
	auto := "auto-replied"
	if w.postmaster {
		auto = "auto-generated"
	}
	daemon := address.Address{Local: "MAILER-DAEMON", Domain: w.c.Origin}
	w.printf("Date: %s\nFrom: Mail Delivery System <%s>\nSubject: %s\nTo: %s\nAuto-Submitted: %s\nMIME-Version: 1.0\n",
		date(w.c.Now()), daemon.Quoted(), w.subject(), to.Quoted(), auto)
	w.printf("Content-Type: multipart/report; report-type=delivery-status;\n\tboundary=\"%s\"\n", w.boundary)
	w.encoding()
	w.printf("\nThis is a MIME-encapsulated message.\n")
}

// global is the prefix of media types that hold UTF-8, RFC 6533.
func (w *writer) global() string {
	if w.n.SMTPUTF8 {
		return "global-"
	}
	return ""
}

func (w *writer) encoding() {
	if w.c.UTF8 {
		w.printf("Content-Transfer-Encoding: 8bit\n")
	}
}

func (w *writer) part(description, contentType string) {
	w.printf("\n--%s\nContent-Description: %s\nContent-Type: %s\n", w.boundary, description, contentType)
}

// text is for people.
func (w *writer) text(entries []queue.LogEntry) {
	charset := "us-ascii"
	if w.c.UTF8 {
		charset = "utf-8"
	}
	w.part("Notification", "text/plain; charset="+charset)
	w.encoding()
	w.printf("\n")
	host := w.c.Hostname
	switch {
	case w.postmaster:
	case w.n.Kind == Failed:
		w.printf(failedText, host)
	case w.n.Kind == Delayed:
		w.printf(delayText, host, int(w.c.DelayWarning.Hours()), int(w.c.QueueLifetime.Hours()/24))
	case w.n.Kind == Success:
		w.printf(successText, host)
	case w.n.Kind == Verify:
		w.printf(verifyText, host)
	}
	for i := range entries {
		e := &entries[i]
		s := "<" + e.Recipient.Quoted() + ">"
		if !e.Original.IsNull() && e.Original != e.Recipient {
			s += " (expanded from <" + e.Original.Quoted() + ">)"
		}
		w.printf("\n")
		w.wrap(s + ": " + e.Reason)
	}
}

// status is the machine's part, RFC 3464, section 2.
func (w *writer) status(entries []queue.LogEntry) {
	w.part("Delivery report", "message/"+w.global()+"delivery-status")
	if w.n.SMTPUTF8 {
		w.encoding()
	}
	w.printf("\nReporting-MTA: dns; %s\n", w.c.Hostname)
	if w.n.EnvID != "" {
		w.printf("Original-Envelope-Id: %s\n", w.n.EnvID) // decoded: RFC 3464, 2.2.1
	}
	w.printf("X-%s-Queue-ID: %s\n", w.c.MailName, w.n.QueueID)
	w.printf("X-%s-Sender: %s; %s\n", w.c.MailName, w.addrType(w.sender().Quoted()), w.sender().Quoted())
	if !w.n.Arrival.IsZero() {
		w.printf("Arrival-Date: %s\n", date(w.n.Arrival))
	}
	for i := range entries {
		w.recipient(&entries[i])
	}
}

// sender has a name also where it is the null one.
func (w *writer) sender() address.Address {
	if w.n.Sender.IsNull() {
		return address.Address{Local: "MAILER-DAEMON", Domain: w.c.Hostname} // no header: not rewritten
	}
	return w.n.Sender
}

func (w *writer) addrType(s string) string {
	if w.n.SMTPUTF8 && !isASCII(s) {
		return "utf-8"
	}
	return "rfc822"
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func (w *writer) recipient(e *queue.LogEntry) {
	to := e.Recipient.Quoted()
	w.printf("\nFinal-Recipient: %s; %s\n", w.addrType(to), to)
	switch {
	case e.ORCPT != "":
		w.printf("Original-Recipient: %s\n", e.ORCPT)
	case !e.Original.IsNull():
		w.printf("Original-Recipient: rfc822;%s\n", e.Original.Quoted())
	default:
		w.printf("Original-Recipient: rfc822;%s\n", to)
	}
	action, status := e.Action, e.Status
	switch {
	case w.n.Kind == Failed:
		action = "failed"
	case w.n.Kind == Delayed:
		action = "delayed"
	case action == "":
		action = "delivered"
	}
	w.printf("Action: %s\nStatus: %s\n", action, status)
	if e.MTAName != "" {
		mtaType := e.MTAType
		if mtaType == "" {
			mtaType = "dns"
		}
		w.printf("Remote-MTA: %s; %s\n", mtaType, e.MTAName)
	}
	if e.DiagText != "" {
		w.wrap("Diagnostic-Code: " + e.DiagType + "; " + e.DiagText)
	} else {
		w.wrap("Diagnostic-Code: X-" + w.c.MailName + "; " + e.Reason)
	}
	if w.n.Kind == Delayed {
		w.printf("Will-Retry-Until: %s\n", date(w.n.Arrival.Add(w.c.QueueLifetime)))
	}
}

// wrap writes a line of at most 79 octets where blanks allow; what goes on is
// indented by four.
func (w *writer) wrap(s string) {
	const width, indent = 79, "    "
	s = strings.TrimRight(s, " ")
	room, prefix := width, ""
	for {
		if len(s) <= room {
			w.printf("%s%s\n", prefix, s)
			return
		}
		cut := strings.LastIndexByte(s[:room+1], ' ')
		if cut <= 0 {
			if cut = strings.IndexByte(s[room:], ' '); cut < 0 {
				w.printf("%s%s\n", prefix, s)
				return
			}
			cut += room
		}
		w.printf("%s%s\n", prefix, strings.TrimRight(s[:cut], " "))
		s = strings.TrimLeft(s[cut:], " ")
		room, prefix = width-len(indent), indent
	}
}

// original returns the message, or its header where that is enough or was
// asked for (RFC 3461, 4.3).
func (w *writer) original() error {
	if w.n.Message == nil {
		return nil
	}
	full := w.n.Kind == Failed && w.n.Ret != "HDRS" && w.n.Message.Size() <= w.c.SizeLimit
	what := "Undelivered Message"
	if w.n.Kind == Success || w.n.Kind == Verify {
		what = "Message"
	}
	switch {
	case full && w.n.SMTPUTF8:
		w.part(what, "message/global")
	case full:
		w.part(what, "message/rfc822")
	case w.n.SMTPUTF8:
		w.part(what+" Headers", "message/global-headers")
	default:
		w.part(what+" Headers", "text/rfc822-headers")
	}
	w.encoding()
	w.printf("\nReturn-Path: <%s>\n", w.sender().Quoted())
	if full {
		_, err := io.Copy(w.w, w.n.Message.Content())
		return err
	}
	return w.copyHeader()
}

// copyHeader copies the lines before the first empty one. Returning a
// message's head must not depend on how long its lines are.
func (w *writer) copyHeader() error {
	r := bufio.NewReader(io.LimitReader(w.n.Message.Content(), math.MaxInt32))
	size, fresh := int64(0), true
	for size < w.c.SizeLimit {
		line, err := r.ReadSlice('\n')
		if fresh && len(line) == 1 && line[0] == '\n' {
			return nil
		}
		size += int64(len(line))
		if _, werr := w.w.Write(line); werr != nil {
			return werr
		}
		fresh = err == nil
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
	return nil
}
