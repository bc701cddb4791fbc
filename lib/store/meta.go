package store

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"angarium/lib/mailbox"
)

// meta is what the file .mailbox says: one thing a line, "end" the last of them.
// It is never changed in place, neither here nor on disk.
type meta struct {
	id          ID
	uidValidity uint32
	created     int64
	uidCeiling  UID    // no UID at or above it was ever given
	modCeiling  ModSeq // nor a ModSeq
	acl         ACL
	quotaRoot   mailbox.Name
	isRoot      bool
	quota       Quota
	specialUse  []string
	keywords    []string
	annotations map[string]string
}

const (
	metaName    = ".mailbox"
	maxKeywords = 128 // bits of a record
	maxMeta     = 4 << 20
)

func newID() ID {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return ID(hex.EncodeToString(b[:]))
}

func validID(id ID) bool {
	if len(id) < 8 || len(id) > 64 {
		return false
	}
	for i := 0; i < len(id); i++ {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return !strings.ContainsAny(string(id[:8]), "-_")
}

func (m *meta) clone() *meta {
	c := *m
	c.acl = slices.Clone(m.acl)
	c.specialUse = slices.Clone(m.specialUse)
	c.keywords = slices.Clone(m.keywords)
	c.annotations = maps.Clone(m.annotations)
	return &c
}

func (m *meta) write(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "version 1\nuniqueid %s\nuidvalidity %d\ncreated %d\nuid-ceiling %d\nmodseq-ceiling %d\n",
		m.id, m.uidValidity, m.created, m.uidCeiling, m.modCeiling)
	for _, e := range m.acl {
		fmt.Fprintf(b, "acl %s\t%s\n", quoteWord(e.ID), e.Rights.plain())
	}
	if m.quotaRoot != "" {
		fmt.Fprintf(b, "quotaroot %s\n", m.quotaRoot)
	}
	if m.isRoot {
		fmt.Fprintf(b, "quota-storage %d\nquota-messages %d\n", m.quota.Storage, m.quota.Messages)
	}
	for _, u := range m.specialUse {
		fmt.Fprintf(b, "specialuse %s\n", quoteWord(u))
	}
	for _, k := range m.keywords {
		fmt.Fprintf(b, "keyword %s\n", quoteWord(k))
	}
	for _, k := range slices.Sorted(maps.Keys(m.annotations)) {
		fmt.Fprintf(b, "annotation %s %s\n", strconv.Quote(k), strconv.Quote(m.annotations[k]))
	}
	b.WriteString("end\n")
	return b.Flush()
}

// quoteWord leaves what is plain as it is.
func quoteWord(s string) string {
	if q := strconv.Quote(s); len(q) != len(s)+2 || strings.HasPrefix(s, `"`) || s == "" {
		return q
	}
	return s
}

func unquoteWord(s string) string {
	if strings.HasPrefix(s, `"`) {
		if u, err := strconv.Unquote(s); err == nil {
			return u
		}
	}
	return s
}

var errMeta = fmt.Errorf("damaged %s", metaName)

// parseMeta reads .mailbox. Unknown lines are an error: an older program must
// not drop what a newer one wrote.
func parseMeta(text []byte) (*meta, error) {
	m := &meta{uidCeiling: 1, modCeiling: 1}
	ended := false
	for line := range bytes.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		if ended || !bytes.HasSuffix(line, []byte("\n")) {
			return nil, errMeta
		}
		var err error
		switch key {
		case "":
		case "version":
			if value != "1" {
				return nil, fmt.Errorf("%s is of version %s, which is too new", metaName, value)
			}
		case "end":
			ended = true
		default:
			err = m.line(key, value)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %q: %v", errMeta, line, err)
		}
	}
	if !ended || !validID(m.id) || m.uidValidity == 0 || len(m.keywords) > maxKeywords {
		return nil, errMeta
	}
	return m, nil
}

func (m *meta) line(key, value string) (err error) {
	switch key {
	case "uniqueid":
		m.id = ID(value)
	case "uidvalidity":
		m.uidValidity, err = parseUint[uint32](value, 32)
	case "created":
		m.created, err = strconv.ParseInt(value, 10, 64)
	case "uid-ceiling":
		m.uidCeiling, err = parseUint[UID](value, 32)
	case "modseq-ceiling":
		m.modCeiling, err = parseUint[ModSeq](value, 63)
	case "acl":
		id, letters, _ := strings.Cut(value, "\t")
		r, _ := ParseRights(letters)
		m.acl = append(m.acl, ACE{unquoteWord(id), r})
	case "quotaroot":
		m.quotaRoot = mailbox.Name(value)
	case "quota-storage":
		m.isRoot = true
		m.quota.Storage, err = strconv.ParseInt(value, 10, 64)
	case "quota-messages":
		m.isRoot = true
		m.quota.Messages, err = strconv.ParseInt(value, 10, 64)
	case "specialuse":
		m.specialUse = append(m.specialUse, unquoteWord(value))
	case "keyword":
		m.keywords = append(m.keywords, unquoteWord(value))
	case "annotation":
		q, err := strconv.QuotedPrefix(value)
		if err != nil {
			return err
		}
		k, _ := strconv.Unquote(q)
		v, err := strconv.Unquote(strings.TrimPrefix(value[len(q):], " "))
		if err != nil {
			return err
		}
		if m.annotations == nil {
			m.annotations = map[string]string{}
		}
		m.annotations[k] = v
	default:
		return fmt.Errorf("unknown word")
	}
	return err
}

func parseUint[T ~uint32 | ~uint64](s string, bits int) (T, error) {
	n, err := strconv.ParseUint(s, 10, bits)
	return T(n), err
}

// keywordBit finds a keyword; the case of its letters does not matter (RFC 3501, 2.3.2).
func keywordBit(keywords []string, name string) int {
	return slices.IndexFunc(keywords, func(k string) bool { return strings.EqualFold(k, name) })
}
