package cleanup

import (
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
	hasRecipient // To, Cc, and those of Resent-
	hasResent    // any Resent- header
	hasResentMessageID
	hasResentDate
	hasResentFrom
)

// note remembers which headers there are, counts hops, and logs message ids.
func (d *Draft) note(name string, value []byte) {
	resent := strings.HasPrefix(name, "resent-")
	if resent {
		d.has |= hasResent
	}
	switch name {
	case "received":
		if d.hops++; d.hops >= d.c.c.HopLimit { // the one on top counts, too
			d.log.Warnf("%s: message rejected: hopcount exceeded", d.q.ID())
			d.refuse(dsn.New(554, "5.4.0", "Error: too many hops"))
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
	case "to", "cc", "resent-to", "resent-cc":
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
	case "from", "sender", "reply-to", "errors-to", "return-receipt-to", "disposition-notification-to", "return-path":
		return senderHeader
	case "to", "cc", "bcc", "apparently-to", "mail-followup-to":
		return recipientHeader
	}
	return notAddresses
}

// rewrites reports whether addresses in headers may be touched at all.
func (d *Draft) rewrites() bool { return d.env.Rewrite == "local" || d.c.c.RemoteDomain != "" }

// rewriteHeader completes and maps the addresses of a header, in place: the rest
// of it stays as it was written, as far as header_address_token_limit.
func (d *Draft) rewriteHeader(h []byte, colon int, kind headerKind) error {
	text := string(h[colon:])
	special, class := d.c.c.SenderCanonical, HeaderSender
	if kind == recipientHeader {
		special, class = d.c.c.RecipientCanonical, HeaderRecipient
	}
	var out strings.Builder
	out.Write(h[:colon])
	last := 0
	list, end := addresses(text, d.c.c.TokenLimit)
	for _, f := range list {
		a := d.c.complete(f.Address, d.env.Rewrite == "local")
		a, err := d.mapped(d.ctx, a, special, class)
		if err != nil {
			return d.tableFailed(err)
		}
		if a == f.Address {
			continue
		}
		out.WriteString(text[last:f.Start])
		if a.IsNull() {
			out.WriteString(`""`)
		}
		out.WriteString(a.Quoted())
		last = f.End
	}
	out.WriteString(text[last:end])
	out.WriteByte('\n')
	return d.put(out.String())
}

// endHeader adds what is missing where the writer is local, and ends the header.
// The empty line after it is the caller's.
func (d *Draft) endHeader() error {
	add := d.rewrites() || d.c.c.AddMissing
	prefix, id, date, from := "", hasMessageID, hasDate, hasFrom
	if d.has&hasResent != 0 {
		prefix, id, date, from = "Resent-", hasResentMessageID, hasResentDate, hasResentFrom
	}
	if d.refused != nil || d.discard {
		return d.err
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
	if d.c.c.ColumnFrom {
		return a.Quoted() + " (" + d.env.FullName + ")"
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
