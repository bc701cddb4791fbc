package message

import "bytes"

// field is a header field that this package knows by name.
type field uint8

const (
	other field = iota
	fDate
	fSubject
	fFrom
	fSender
	fReplyTo
	fTo
	fCc
	fBcc
	fInReplyTo
	fMessageID
	fContentType
	fContentEncoding
	fContentID
	fContentDescription
	fContentDisposition
	fContentLanguage
	fContentLocation
	fContentMD5
	fKept // nothing but worth keeping
	fieldCount
)

// cached tells whether the field's lines go into Summary.Header.
func (f field) cached() bool {
	switch f {
	case other, fContentID, fContentLanguage, fContentLocation, fContentMD5:
		return false
	}
	return true
}

// known finds a field by its name in any case.
func known(name []byte) field {
	var buf [40]byte
	if len(name) > len(buf) {
		return other
	}
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		buf[i] = c
	}
	switch string(buf[:len(name)]) {
	case "date":
		return fDate
	case "subject":
		return fSubject
	case "from":
		return fFrom
	case "sender":
		return fSender
	case "reply-to":
		return fReplyTo
	case "to":
		return fTo
	case "cc":
		return fCc
	case "bcc":
		return fBcc
	case "in-reply-to":
		return fInReplyTo
	case "message-id":
		return fMessageID
	case "content-type":
		return fContentType
	case "content-transfer-encoding":
		return fContentEncoding
	case "content-id":
		return fContentID
	case "content-description":
		return fContentDescription
	case "content-disposition":
		return fContentDisposition
	case "content-language":
		return fContentLanguage
	case "content-location":
		return fContentLocation
	case "content-md5":
		return fContentMD5
	case "references", "mime-version", "priority", "x-priority", "x-msmail-priority", "importance", "sensitivity",
		"newsgroups", "followup-to", "lines", "keywords", "comments", "status", "x-status", "x-label", "x-keywords",
		"list-id", "list-post", "list-unsubscribe", "list-unsubscribe-post", "list-help", "list-subscribe", "list-archive", "list-owner",
		"precedence", "auto-submitted", "mail-followup-to", "mail-reply-to", "disposition-notification-to", "return-receipt-to",
		"resent-from", "resent-to", "resent-cc", "resent-date", "resent-message-id", "resent-sender", "resent-reply-to",
		"delivered-to", "x-original-to", "errors-to", "x-mailing-list", "x-beenthere", "x-loop", "x-draft-info",
		"x-spam-flag", "x-spam-level", "x-spam-status", "x-uniform-type-identifier", "x-universally-unique-identifier":
		return fKept
	}
	return other
}

// NextField cuts the first field off a raw header: its name, its value as it
// stands (folds and all, without the last line end), and the field's octets. A
// line that is no field has no name and is its own value. ok is false at the
// end of the header: at the empty line, or where b ends.
func NextField(b []byte) (name, value, raw, rest []byte, ok bool) {
	if len(b) == 0 || b[0] == '\n' || b[0] == '\r' && (len(b) == 1 || b[1] == '\n') {
		return nil, nil, nil, b, false
	}
	end := 0
	for {
		i := bytes.IndexByte(b[end:], '\n')
		if i < 0 {
			end = len(b)
			break
		}
		end += i + 1
		if end == len(b) || b[end] != ' ' && b[end] != '\t' {
			break
		}
	}
	raw, rest = b[:end], b[end:]
	value = bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte{'\n'}), []byte{'\r'})
	i := bytes.IndexByte(value, ':')
	if i <= 0 {
		return nil, value, raw, rest, true
	}
	name = bytes.TrimRight(value[:i], " \t")
	if len(name) == 0 || bytes.IndexByte(name, '\n') >= 0 {
		return nil, value, raw, rest, true
	}
	return name, value[i+1:], raw, rest, true
}

// unfold appends a field's value without its line ends and leading blanks.
func unfold(b, value []byte) []byte {
	start := len(b)
	for _, c := range value {
		if c == '\r' || c == '\n' || len(b) == start && (c == ' ' || c == '\t') {
			continue
		}
		b = append(b, c)
	}
	return b
}

// describe reads the header of part i: what it is, and for a message (p.root)
// its envelope. digest: without a Content-Type it is a message.
func (p *Parser) describe(i int, hdr []byte, digest bool) {
	var f [fieldCount][]byte
	for b := hdr; ; {
		name, value, raw, rest, ok := NextField(b)
		if !ok {
			break
		}
		b = rest
		k := known(name)
		// Of fields that should be single the last one counts, as in Cyrus.
		f[k] = value
		if i == 0 && k.cached() {
			if len(p.cached)+len(raw) > maxCached {
				p.complete = false
			} else {
				p.cached = append(p.cached, raw...)
				if raw[len(raw)-1] != '\n' {
					p.cached = append(p.cached, "\r\n"...)
				}
			}
		}
	}
	n := &p.nodes[i]
	a := p.arena
	if p.root {
		n.envelope.from = len(a)
		a = appendEnvelope(a, &f)
		n.envelope.to = len(a)
		if i == 0 {
			p.sent, p.zone, _ = ParseDate(f[fDate])
		}
	}
	t := parseContentType(f[fContentType], digest)
	encoding := parseEncoding(f[fContentEncoding])
	n.encoding = encodingOf(encoding)
	n.kind = kindOf(t)
	n.fields.from = len(a)
	if n.kind == Multipart {
		n.digest = equalFold(t.minor, "DIGEST")
		boundary := t.get("BOUNDARY")
		if len(boundary) == 0 { // nothing could end its parts: plain text
			t, n.kind = contentType{major: []byte("TEXT"), minor: []byte("PLAIN"), ascii: true}, Text
		} else {
			n.boundary.from = len(a)
			a = append(a, boundary...)
			n.boundary.to = len(a)
			n.fields.from = len(a)
		}
	}
	if n.kind == Multipart {
		a = appendUpper(a, t.minor)
		n.fields.to = len(a)
		n.ext.from = len(a)
		a = t.appendParams(append(a, ' '))
	} else {
		a = append(appendUpper(a, t.major), ' ')
		a = append(appendUpper(a, t.minor), ' ')
		a = append(t.appendParams(a), ' ')
		a = append(appendNString(a, f[fContentID]), ' ')
		a = append(appendNString(a, f[fContentDescription]), ' ')
		a = appendUpper(a, encoding)
		n.fields.to = len(a)
		n.ext.from = len(a)
		a = appendNString(append(a, ' '), f[fContentMD5])
	}
	a = appendDisposition(append(a, ' '), f[fContentDisposition])
	a = appendLanguages(append(a, ' '), f[fContentLanguage])
	a = appendNString(append(a, ' '), f[fContentLocation])
	n.ext.to = len(a)
	p.arena = a
}

// kindOf tells how a part of that type is read on.
func kindOf(t contentType) Kind {
	switch {
	case equalFold(t.major, "TEXT"):
		return Text
	case equalFold(t.major, "MULTIPART"):
		return Multipart
	case equalFold(t.major, "MESSAGE") && (equalFold(t.minor, "RFC822") || equalFold(t.minor, "GLOBAL")):
		return Message
	}
	return Leaf
}

// equalFold compares with an ASCII word in capitals.
func equalFold(b []byte, upper string) bool {
	if len(b) != len(upper) {
		return false
	}
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != upper[i] {
			return false
		}
	}
	return true
}
