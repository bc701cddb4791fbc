package imap

import (
	"strings"
	"time"
)

// SearchOp is what a search key asks.
type SearchOp uint8

// The keys of RFC 3501, 6.4.4, WITHIN (RFC 5032), CONDSTORE and SAVEDATE.
const (
	SearchAll SearchOp = iota
	SearchAnd          // all of Keys
	SearchOr           // one of two Keys
	SearchNot          // not Keys[0]
	SearchSeq
	SearchUID
	SearchFlag    // Text: `\Seen`; with Unset: not set
	SearchKeyword // Text; with Unset: not set
	SearchNew     // recent and unseen
	SearchRecent
	SearchOld
	SearchHeader // Field contains Text
	SearchBody
	SearchText
	SearchLarger
	SearchSmaller
	SearchBefore // INTERNALDATE's day against Date
	SearchOn
	SearchSince
	SearchSentBefore // the day in Date:
	SearchSentOn
	SearchSentSince
	SearchSavedBefore // the day on which it came into the mailbox (RFC 8514)
	SearchSavedOn
	SearchSavedSince
	SearchEmailID  // Text
	SearchThreadID // no message has one
	SearchYounger  // INTERNALDATE within Number seconds
	SearchOlder
	SearchModSeq
)

// SearchKey is a condition on a message.
type SearchKey struct {
	Op     SearchOp
	Keys   []SearchKey
	Text   string // as the client sent it, in the command's charset
	Field  string
	Unset  bool
	Number uint64
	Date   time.Time // midnight UTC of the day that is meant
	Seq    SeqSet
	UID    UIDSet
}

// SearchArgs are the arguments of SEARCH.
type SearchArgs struct {
	Extended                   bool // RETURN was given (RFC 4731)
	Min, Max, Count, All, Save bool
	Charset                    string
	Key                        SearchKey
}

// SearchArgs reads the arguments of SEARCH.
func (d *Decoder) SearchArgs() *SearchArgs {
	a := &SearchArgs{}
	d.SP()
	p := searchParser{Decoder: d}
	word := p.key()
	if word == "RETURN" {
		p.returnOpts(a)
		d.SP()
		word = p.key()
	}
	if word == "CHARSET" {
		d.SP()
		a.Charset = d.AString()
		d.SP()
		word = p.key()
	}
	p.keys(a, word)
	return a
}

// keys reads the search keys, of the first of which the word was read.
func (p *searchParser) keys(a *SearchArgs, word string) {
	keys := []SearchKey{p.search(word, 0)}
	for p.err == nil && p.MoreArgs() {
		keys = append(keys, p.search(p.key(), 0))
	}
	a.Key = SearchKey{Op: SearchAnd, Keys: keys}
	if len(keys) == 1 {
		a.Key = keys[0]
	}
}

func (p *searchParser) returnOpts(a *SearchArgs) {
	a.Extended = true
	p.SP()
	n := 0
	p.List(func() {
		n++
		switch word := p.Word(); word {
		case "MIN":
			a.Min = true
		case "MAX":
			a.Max = true
		case "COUNT":
			a.Count = true
		case "ALL":
			a.All = true
		default:
			p.Bad("Invalid Search return option %s", strings.ToLower(word))
		}
	})
	if n == 0 {
		a.All = true
	}
}

type searchParser struct {
	*Decoder
	count int
}

// key reads a key's word; a set or a parenthesis is not taken and gives "".
func (p *searchParser) key() string {
	c := p.peek()
	if c == '(' || c == '*' || '0' <= c && c <= '9' || p.err != nil {
		return ""
	}
	return p.Word()
}

var errCriteria = &BadError{"Invalid Search criteria"}

// search reads what follows a key's word.
func (p *searchParser) search(word string, depth int) (k SearchKey) {
	if p.err != nil {
		return k
	}
	p.count++
	if depth > p.limits.Depth || p.count > p.limits.Keys {
		p.Bad("Search program too complex")
		return k
	}
	if word == "" {
		if p.Take('(') {
			return p.group(depth)
		}
		if c := p.peek(); c == '*' || '0' <= c && c <= '9' {
			k.Op, k.Seq = SearchSeq, p.SeqSet()
			if p.err == error(ErrSet) {
				p.err = errCriteria
			}
			return k
		}
		p.Fail(errCriteria)
		return k
	}
	if flag, unset, ok := searchFlag(word); ok {
		return SearchKey{Op: SearchFlag, Text: flag, Unset: unset}
	}
	switch word {
	case "ALL", "SAVEDATESUPPORTED": // RFC 8514, 4.3: it is, in every mailbox
		return k
	case "NEW":
		k.Op = SearchNew
	case "OLD":
		k.Op = SearchOld
	case "RECENT":
		k.Op = SearchRecent
	case "NOT":
		k.Op = SearchNot
		p.arg(word)
		k.Keys = []SearchKey{p.search(p.key(), depth+1)}
	case "OR":
		k.Op = SearchOr
		p.arg(word)
		a := p.key()
		first := p.search(a, depth+1)
		p.arg(strings.ToLower(a))
		k.Keys = []SearchKey{first, p.search(p.key(), depth+1)}
	case "KEYWORD", "UNKEYWORD":
		k.Op, k.Unset = SearchKeyword, word != "KEYWORD"
		p.arg(word)
		k.Text = p.Atom()
	case "UID":
		k.Op = SearchUID
		p.arg(word)
		k.UID = p.UIDSet()
		if p.err == error(ErrSet) {
			p.err = &BadError{"Invalid UID sequence in Search command"}
		}
	case "EMAILID", "THREADID": // RFC 8474, 6
		k.Op = SearchEmailID
		if word == "THREADID" {
			k.Op = SearchThreadID
		}
		p.arg(word)
		k.Text = p.AString()
	case "HEADER":
		k.Op = SearchHeader
		p.arg(word)
		k.Field = p.AString()
		p.arg(word)
		k.Text = p.AString()
	case "FROM", "TO", "CC", "BCC", "SUBJECT":
		k.Op, k.Field = SearchHeader, word
		p.arg(word)
		k.Text = p.AString()
	case "BODY", "TEXT":
		k.Op = SearchBody
		if word == "TEXT" {
			k.Op = SearchText
		}
		p.arg(word)
		k.Text = p.AString()
	default:
		p.searchValue(word, &k)
	}
	return k
}

// searchValue reads the keys that compare with a number or a day.
func (p *searchParser) searchValue(word string, k *SearchKey) {
	switch word {
	case "LARGER", "SMALLER", "YOUNGER", "OLDER":
		k.Op = map[string]SearchOp{"LARGER": SearchLarger, "SMALLER": SearchSmaller, "YOUNGER": SearchYounger, "OLDER": SearchOlder}[word]
		p.arg(word)
		k.Number = uint64(p.Number())
		if _, fatal := p.fatal(); p.err != nil && !fatal {
			p.err = &BadError{"Invalid number in Search " + strings.ToLower(word)}
		}
	case "BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE", "SAVEDBEFORE", "SAVEDON", "SAVEDSINCE":
		k.Op = map[string]SearchOp{"BEFORE": SearchBefore, "ON": SearchOn, "SINCE": SearchSince,
			"SENTBEFORE": SearchSentBefore, "SENTON": SearchSentOn, "SENTSINCE": SearchSentSince,
			"SAVEDBEFORE": SearchSavedBefore, "SAVEDON": SearchSavedOn, "SAVEDSINCE": SearchSavedSince}[word]
		p.arg(word)
		text := p.AString()
		day, err := time.Parse("2-Jan-2006", text)
		if err != nil {
			p.Bad("Invalid date in Search command")
		}
		k.Date = day
	case "MODSEQ":
		k.Op = SearchModSeq
		p.arg(word)
		if p.Peek('"') { // an entry and its type (RFC 7162, 3.1.5): flags have no mod-sequences of their own here
			_ = p.String()
			p.arg(word)
			p.Word()
			p.arg(word)
		}
		k.Number = p.Number64()
	default:
		p.Fail(errCriteria)
	}
}

// arg reads the blank before a key's argument.
func (p *searchParser) arg(word string) {
	if p.err == nil && (!p.Take(' ') || p.atEnd()) {
		p.Bad("Missing required argument to Search %s", strings.ToLower(word))
	}
}

// group reads the rest of "(key key)".
func (p *searchParser) group(depth int) SearchKey {
	k := SearchKey{Op: SearchAnd}
	for p.err == nil {
		k.Keys = append(k.Keys, p.search(p.key(), depth+1))
		if p.err != nil || p.Take(')') {
			break
		}
		if !p.Take(' ') {
			p.Bad("Missing required close paren in Search command")
		}
	}
	return k
}

// searchFlag tells which flag a word such as UNSEEN asks for.
func searchFlag(word string) (flag string, unset, ok bool) {
	word, unset = strings.CutPrefix(word, "UN")
	switch word {
	case "ANSWERED":
		flag = `\Answered`
	case "DELETED":
		flag = `\Deleted`
	case "DRAFT":
		flag = `\Draft`
	case "FLAGGED":
		flag = `\Flagged`
	case "SEEN":
		flag = `\Seen`
	}
	return flag, unset, flag != ""
}
