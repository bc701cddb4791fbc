package imap

import (
	"strconv"
	"strings"
)

// FetchItem is something to be fetched of each message.
type FetchItem struct {
	Kind    FetchKind
	Name    string   // how the answer calls it: "BODY[HEADER.FIELDS (from)]<0>"
	Section *Section // of ItemBody, ItemBinary, ItemBinarySize
}

// FetchKind is the kind of a FetchItem.
type FetchKind uint8

// What can be fetched, in the order in which Cyrus answers.
const (
	ItemFlags FetchKind = iota
	ItemUID
	ItemInternalDate
	ItemModSeq
	ItemEmailID
	ItemThreadID
	ItemSaveDate
	ItemSize
	ItemEnvelope
	ItemBodyStructure
	ItemBodyShort // BODY without a section
	ItemBody      // BODY[...], RFC822 and its kin
	ItemBinary
	ItemBinarySize
)

// Section is which octets of a message.
type Section struct {
	Path    []uint32
	Part    SectionPart
	Fields  []string // of PartFields and PartFieldsNot
	Peek    bool     // does not set \Seen
	Partial bool
	Offset  int64
	Count   int64
}

// SectionPart is what stands behind the part number.
type SectionPart uint8

// The words of RFC 3501, section-text.
const (
	PartAll SectionPart = iota
	PartHeader
	PartFields
	PartFieldsNot
	PartText
	PartMIME
)

var (
	errSection = &BadError{"Invalid body section"}
	errPartial = &BadError{"Invalid body partial"}
)

// FetchItems reads the items of a FETCH: one, a macro, or a list.
func (d *Decoder) FetchItems() []FetchItem {
	var items []FetchItem
	one := func() {
		if len(items) > d.limits.Items {
			d.Bad("Too many items in Fetch")
			return
		}
		items = d.fetchItem(items)
	}
	if !d.Take('(') {
		one()
		return items
	}
	for n := 0; d.err == nil; n++ {
		one()
		if d.Take(')') {
			break
		}
		if !d.Take(' ') {
			d.Fail(ErrNoClose)
		}
	}
	return items
}

// fetchItem reads one item, or a macro, which is several.
func (d *Decoder) fetchItem(items []FetchItem) []FetchItem {
	if d.err != nil {
		return items
	}
	word := d.Word()
	simple := func(kinds ...FetchKind) []FetchItem {
		for _, k := range kinds {
			items = append(items, FetchItem{Kind: k, Name: itemNames[k]})
		}
		return items
	}
	switch word {
	case "ALL":
		return simple(ItemFlags, ItemInternalDate, ItemSize, ItemEnvelope)
	case "FAST":
		return simple(ItemFlags, ItemInternalDate, ItemSize)
	case "FULL":
		return simple(ItemFlags, ItemInternalDate, ItemSize, ItemEnvelope, ItemBodyShort)
	case "RFC822":
		return append(items, FetchItem{ItemBody, word, &Section{}})
	case "RFC822.PEEK":
		return append(items, FetchItem{ItemBody, "RFC822", &Section{Peek: true}})
	case "RFC822.HEADER":
		return append(items, FetchItem{ItemBody, word, &Section{Part: PartHeader, Peek: true}})
	case "RFC822.TEXT":
		return append(items, FetchItem{ItemBody, word, &Section{Part: PartText}})
	case "RFC822.TEXT.PEEK":
		return append(items, FetchItem{ItemBody, "RFC822.TEXT", &Section{Part: PartText, Peek: true}})
	case "BODY":
		if !d.Peek('[') {
			return simple(ItemBodyShort)
		}
		return append(items, d.bodyItem(ItemBody, "BODY", false))
	case "BODY.PEEK":
		return append(items, d.bodyItem(ItemBody, "BODY", true))
	case "BINARY", "BINARY.PEEK":
		return append(items, d.bodyItem(ItemBinary, "BINARY", word != "BINARY"))
	case "BINARY.SIZE":
		return append(items, d.bodyItem(ItemBinarySize, word, true))
	}
	for k, name := range itemNames {
		if name == word && name != "" && FetchKind(k) != ItemBodyShort {
			return simple(FetchKind(k))
		}
	}
	if word == "" && d.atEnd() {
		d.Fail(ErrMissing)
	}
	d.Bad("Invalid Fetch attribute %s", word)
	return items
}

var itemNames = [...]string{
	ItemFlags: "FLAGS", ItemUID: "UID", ItemInternalDate: "INTERNALDATE", ItemSize: "RFC822.SIZE", ItemEnvelope: "ENVELOPE",
	ItemBodyStructure: "BODYSTRUCTURE", ItemBodyShort: "BODY", ItemModSeq: "MODSEQ", ItemEmailID: "EMAILID", ItemThreadID: "THREADID", ItemSaveDate: "SAVEDATE",
}

// bodyItem reads "[section]<partial>".
func (d *Decoder) bodyItem(kind FetchKind, name string, peek bool) FetchItem {
	s := &Section{Peek: peek}
	var echo strings.Builder
	echo.WriteString(name + "[")
	if !d.Take('[') {
		d.Fail(errSection)
	}
	for len(s.Path) < d.limits.Depth && d.err == nil && d.peek() >= '0' && d.peek() <= '9' {
		n := d.Number()
		if n == 0 {
			d.Fail(errSection)
		}
		s.Path = append(s.Path, n)
		echo.WriteString(strconv.FormatUint(uint64(n), 10))
		if !d.Take('.') {
			break
		}
		echo.WriteByte('.')
		if d.Peek(']') {
			d.Fail(errSection)
		}
	}
	if !d.Peek(']') {
		if n := len(s.Path); kind != ItemBody || n > 0 && !strings.HasSuffix(echo.String(), ".") {
			d.Fail(errSection)
		}
		d.sectionText(s, &echo)
	}
	if !d.Take(']') {
		d.Fail(errSection)
	}
	echo.WriteByte(']')
	if kind != ItemBinarySize && d.Take('<') {
		s.Partial = true
		s.Offset = int64(d.Number())
		if !d.Take('.') {
			d.failPartial()
		}
		s.Count = int64(d.Number())
		if s.Count == 0 || !d.Take('>') {
			d.failPartial()
		}
		echo.WriteString("<" + strconv.FormatInt(s.Offset, 10) + ">")
	}
	return FetchItem{kind, echo.String(), s}
}

// failPartial replaces what Number said.
func (d *Decoder) failPartial() {
	if _, fatal := d.fatal(); !fatal {
		d.err = errPartial
	}
}

func (d *Decoder) sectionText(s *Section, echo *strings.Builder) {
	word := d.Word()
	echo.WriteString(word)
	switch word {
	case "HEADER":
		s.Part = PartHeader
	case "TEXT":
		s.Part = PartText
	case "MIME":
		s.Part = PartMIME
		if len(s.Path) == 0 {
			d.Fail(errSection)
		}
	case "HEADER.FIELDS", "HEADER.FIELDS.NOT":
		s.Part = PartFields
		if word != "HEADER.FIELDS" {
			s.Part = PartFieldsNot
		}
		if !d.Take(' ') {
			d.Fail(errSection)
		}
		d.List(func() { s.Fields = append(s.Fields, d.AString()) })
		echo.WriteString(" (" + strings.Join(s.Fields, " ") + ")")
		for _, f := range s.Fields {
			if f == "" || strings.ContainsAny(f, " \r\n():") {
				d.Fail(errSection)
			}
		}
	default:
		d.Fail(errSection)
	}
}
