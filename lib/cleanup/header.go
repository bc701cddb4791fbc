package cleanup

import (
	"bytes"
	"strings"
	"time"

	"angarium/lib/dsn"
	"angarium/lib/maillog"
	"angarium/lib/queue"
)

// Headers that matter when one is missing.
const (
	hasMessageID uint16 = 1 << iota
	hasDate
	hasFrom
	hasRecipient // To, Cc, Bcc, Apparently-To
	hasResent    // any Resent- header
	hasResentMessageID
	hasResentDate
	hasResentFrom
)

// Trace writes headers that the caller puts on top of a letter from the network,
// before any other Write. The letter's own first line is then looked at for itself:
// it can't continue the header above it, and a line of a mailbox file ("From x",
// maybe with > before it) is made a header.
func (d *Draft) Trace(headers []byte) error {
	if _, err := d.Write(headers); err != nil {
		return err
	}
	if d.state != inHeader {
		return nil
	}
	d.first = true
	return d.flushHeader()
}

func isMailboxLine(line []byte) bool {
	line = bytes.TrimLeft(line, ">")
	return len(line) >= 5 && bytes.EqualFold(line[:5], []byte("From "))
}

// headerPart takes a line of the header, or a part of one; ended tells whether it
// has its LF.
func (d *Draft) headerPart(part []byte, ended bool) error {
	if !ended || len(d.line) > 0 {
		// Between chunks only the beginning of a line is kept, up to the limit.
		if room := d.c.c.HeaderSizeLimit - len(d.line); len(part) <= room {
			d.line = append(d.line, part...)
		} else {
			d.line = append(d.line, part[:max(room, 0)]...)
			if ended {
				d.line = append(bytes.TrimRight(d.line, "\n"), '\n')
			}
		}
		if !ended {
			return nil
		}
		part = d.line
		d.line = d.line[:0]
	}
	if d.first {
		d.first = false
		if isMailboxLine(part) {
			part = append([]byte("X-Mailbox-Line: "), part...)
		}
	}
	if len(part) > 1 && (part[0] == ' ' || part[0] == '\t') && len(d.header) > 0 {
		d.appendHeader(part)
		return nil
	}
	if err := d.flushHeader(); err != nil {
		return err
	}
	if isHeader(part) {
		d.over = false
		d.appendHeader(part)
		return nil
	}
	// The end of the header, by an empty line or by one that can be none.
	if err := d.endHeader(); err != nil {
		return err
	}
	if len(part) > 1 {
		d.put("\n")
	}
	return d.put(string(part))
}

// appendHeader adds a line to the current header; what passes header_size_limit
// is dropped, as a whole line where there are several.
func (d *Draft) appendHeader(part []byte) {
	if d.over {
		return
	}
	if len(d.header)+len(part) > d.c.c.HeaderSizeLimit {
		d.over = true
		if len(d.header) > 0 {
			return
		}
		part = append(part[:d.c.c.HeaderSizeLimit-1:d.c.c.HeaderSizeLimit-1], '\n')
	}
	d.header = append(d.header, part...)
}

// isHeader reports whether a line begins with a field name and a colon; white
// space between the two is obsolete (RFC 5322, section 4.5.3) but seen.
func isHeader(line []byte) bool {
	i := 0
	for i < len(line) && line[i] > ' ' && line[i] < 127 && line[i] != ':' {
		i++
	}
	if i == 0 {
		return false
	}
	for i < len(line) && (line[i] == ' ' || line[i] == '\t') {
		i++
	}
	return i < len(line) && line[i] == ':'
}

func (d *Draft) put(s string) error {
	if d.err != nil || s == "" {
		return d.err
	}
	if _, err := d.q.Write([]byte(s)); err != nil {
		return d.failed(err)
	}
	return nil
}

// flushHeader does what is to be done for one header, and writes it.
func (d *Draft) flushHeader() error {
	h := d.header
	if len(h) == 0 || d.err != nil {
		return d.err
	}
	d.header = d.header[:0]
	colon := bytes.IndexByte(h, ':')
	name := strings.ToLower(strings.TrimRight(string(h[:colon]), " \t"))
	d.note(name, h[colon+1:])
	if d.err != nil || !d.env.Plain && d.c.drop[name] {
		return d.err
	}
	if eightBit(h) {
		d.sendOpt(queue.UTF8Header)
	}
	if kind := addressHeader(name); kind != notAddresses && !d.env.Plain && d.rewrites() {
		return d.rewriteHeader(h, colon+1, kind)
	}
	if _, err := d.q.Write(h); err != nil {
		return d.failed(err)
	}
	return nil
}

// note remembers which headers there are, counts hops, and logs message ids.
func (d *Draft) note(name string, value []byte) {
	resent := strings.HasPrefix(name, "resent-")
	if resent {
		d.has |= hasResent
	}
	switch name {
	case "received":
		if d.hops++; d.hops >= d.c.c.HopLimit && d.err == nil { // the one on top counts, too
			d.log.Warnf("%s: message rejected: hopcount exceeded", d.q.ID())
			d.err = dsn.New(554, "5.4.0", "Error: too many hops")
		}
	case "message-id":
		d.has |= hasMessageID
		d.log.Infof("%s: message-id=%s", d.q.ID(), maillog.Printable(unfold(value)))
	case "resent-message-id":
		d.has |= hasResentMessageID
		d.log.Infof("%s: resent-message-id=%s", d.q.ID(), maillog.Printable(unfold(value)))
	case "content-transfer-encoding":
		switch strings.ToLower(strings.TrimSpace(string(value))) {
		case "8bit", "binary":
			d.q.ExtraAttr("encoding", "8bit")
		}
	case "date":
		d.has |= hasDate
	case "resent-date":
		d.has |= hasResentDate
	case "from":
		d.has |= hasFrom
	case "resent-from":
		d.has |= hasResentFrom
	case "to", "cc", "bcc", "apparently-to", "resent-to", "resent-cc", "resent-bcc":
		d.has |= hasRecipient
	}
}

// unfold is a header's value on one line.
func unfold(value []byte) string {
	return strings.Join(strings.FieldsFunc(string(value), func(r rune) bool { return r == '\n' || r == '\r' }), "")[blanks(value):]
}

// blanks counts the white space, line ends left out, before the value.
func blanks(value []byte) (n int) {
	for _, c := range value {
		switch c {
		case ' ', '\t':
			n++
		case '\n', '\r':
		default:
			return n
		}
	}
	return n
}

type headerKind int

const (
	notAddresses headerKind = iota
	senderHeader
	recipientHeader
)

// addressHeader tells which headers hold addresses that a local writer may have
// left incomplete.
func addressHeader(name string) headerKind {
	switch strings.TrimPrefix(name, "resent-") {
	case "from", "sender", "reply-to", "errors-to", "return-receipt-to", "disposition-notification-to":
		return senderHeader
	case "to", "cc", "bcc", "apparently-to", "mail-followup-to":
		return recipientHeader
	}
	return notAddresses
}

// rewrites reports whether addresses in headers may be touched at all.
func (d *Draft) rewrites() bool { return d.env.Rewrite == "local" || d.c.c.RemoteDomain != "" }

// rewriteHeader completes and maps the addresses of a header, in place: the rest
// of it stays as it was written.
func (d *Draft) rewriteHeader(h []byte, colon int, kind headerKind) error {
	text := string(h[colon:])
	special := d.c.c.SenderCanonical
	if kind == recipientHeader {
		special = d.c.c.RecipientCanonical
	}
	var out strings.Builder
	out.Write(h[:colon])
	last := 0
	for _, f := range Addresses(text) {
		a := d.c.complete(f.Address, d.env.Rewrite == "local")
		a, err := d.c.canonical(d.ctx, a, special)
		if err != nil {
			return d.tableFailed(err)
		}
		if a == f.Address {
			continue
		}
		out.WriteString(text[last:f.Start])
		out.WriteString(a.Quoted())
		last = f.End
	}
	out.WriteString(text[last:])
	return d.put(out.String())
}

// endHeader adds what is missing where the writer is local, and ends the header.
// The empty line after it is the caller's.
func (d *Draft) endHeader() error {
	d.state = inBody
	add := d.rewrites() || d.c.c.AddMissing
	prefix, id, date, from := "", hasMessageID, hasDate, hasFrom
	if d.has&hasResent != 0 {
		prefix, id, date, from = "Resent-", hasResentMessageID, hasResentDate, hasResentFrom
	}
	if add && !d.env.Plain {
		d.addMissing(prefix, id, date, from)
	}
	if d.has&hasMessageID == 0 {
		d.log.Infof("%s: message-id=<>", d.q.ID())
	}
	return d.err
}

func (d *Draft) addMissing(prefix string, id, date, from uint16) {
	now := d.env.Arrival
	if d.has&id == 0 {
		value := "<" + d.q.ID() + "@" + d.c.c.Hostname + ">"
		if !queue.IsLong(d.q.ID()) { // a short id comes again
			value = "<" + now.UTC().Format("20060102150405") + "." + value[1:]
		}
		d.put(prefix + "Message-Id: " + value + "\n")
		d.note(strings.ToLower(prefix)+"message-id", []byte(value))
	}
	if d.has&date == 0 {
		d.put(prefix + "Date: " + Date(now) + "\n")
	}
	if d.has&from == 0 {
		d.put(prefix + "From: " + d.from() + "\n")
	}
	if d.has&hasRecipient == 0 && d.c.c.Undisclosed != "" {
		d.put(d.c.c.Undisclosed + "\n")
	}
}

// Date is a date for headers, RFC 5322, section 3.3, in the shape that Postfix
// gives it: with the zone's name as a comment, and a blank before a single digit.
func Date(t time.Time) string { return t.Format("Mon, _2 Jan 2006 15:04:05 -0700 (MST)") }

// from is the sender for an added From header.
func (d *Draft) from() string {
	a := d.env.Sender
	if a.IsNull() {
		return "MAILER-DAEMON"
	}
	if d.env.FullName == "" {
		return a.Quoted()
	}
	return phrase(d.env.FullName) + " <" + a.Quoted() + ">"
}

// phrase quotes a display name where RFC 5322 wants it.
func phrase(s string) string {
	if strings.ContainsAny(s, "()<>[]:;@\\,.\"") {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	return s
}

// endOfInput ends a letter that has no body.
func (d *Draft) endOfInput() {
	if len(d.line) > 0 {
		rest := append(d.line, '\n')
		d.line = nil
		if d.headerPart(rest, true) != nil || d.state != inHeader {
			return
		}
	}
	if d.flushHeader() == nil {
		d.endHeader()
	}
}
