package message

import (
	"bytes"
	"io"
	"sync"
)

// Limits on what a stranger's message may make us remember. Beyond them octets
// are still counted and served; they are only no longer looked into.
const (
	maxDepth    = 128       // multiparts and messages within each other
	maxParts    = 10_000    // parts of one message
	maxHeader   = 512 << 10 // octets of one header that are read for meaning
	maxBoundary = 1000      // octets of a boundary line
	maxCached   = 32 << 10  // octets of Summary.Header
)

// span is a stretch of Parser.arena.
type span struct{ from, to int }

// node is a part while the message is read.
type node struct {
	first, last, next int // children and sibling in Parser.nodes; 0: none (the root is nobody's child)
	count             int // children

	header, body, end int64
	lines             int64 // in the body
	kind              Kind
	encoding          Encoding

	fields   span // what BODY says of this part before its size
	ext      span // what only BODYSTRUCTURE adds
	envelope span // of a message
	boundary span
	digest   bool // a multipart whose parts are messages by default
}

// Parser makes a Summary of what is written to it. Write never fails.
type Parser struct {
	at     int64  // offset of the next octet
	lines  int64  // LFs seen
	eol    int    // length of the line end just before at: 0, 1 or 2
	cr     bool   // the octet before at, in a body, is a CR
	line   []byte // start of a line that a Write cut off
	inside bool   // the rest of the current line is of no interest
	head   bool   // in a header
	root   bool   // the header begun last belongs to a message (it has an envelope)
	depth  int    // multiparts that wait for a boundary

	nodes []node
	open  []int // the part that is being read, within its parents, the root first
	hdr   []byte
	arena []byte

	cached   []byte
	complete bool
	sent     int64
	zone     int32
}

// NewParser returns a Parser for one message.
func NewParser() *Parser {
	p := &Parser{}
	p.reset()
	return p
}

var parsers = sync.Pool{New: func() any { return new(Parser) }}

func (p *Parser) reset() {
	*p = Parser{
		line: p.line[:0], nodes: p.nodes[:0], open: p.open[:0], hdr: p.hdr[:0], arena: p.arena[:0], cached: p.cached[:0],
		complete: true,
	}
	p.begin(-1, true)
}

// Parse reads a message of size octets.
func Parse(r io.ReaderAt, size int64) (*Summary, error) {
	p := parsers.Get().(*Parser)
	defer p.release()
	p.reset()
	buf := windows.Get().(*[window]byte)
	defer windows.Put(buf)
	for off := int64(0); off < size; {
		n, err := r.ReadAt(buf[:min(window, size-off)], off)
		p.Write(buf[:n])
		off += int64(n)
		if err != nil && (err != io.EOF || off < size) {
			return nil, err
		}
	}
	return p.Summary(), nil
}

// ParseBytes reads a message that is in memory.
func ParseBytes(b []byte) *Summary {
	p := parsers.Get().(*Parser)
	defer p.release()
	p.reset()
	p.Write(b)
	return p.Summary()
}

// release keeps p's memory for the next message unless this one was a monster.
func (p *Parser) release() {
	if cap(p.arena)+cap(p.hdr) < 256<<10 && cap(p.nodes) < 1000 {
		parsers.Put(p)
	}
}

const window = 64 << 10

var windows = sync.Pool{New: func() any { return new([window]byte) }}

// Write takes the next octets of the message.
func (p *Parser) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if p.inside || !p.head && len(p.line) == 0 && b[0] != '-' {
			b = p.skip(b)
			continue
		}
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			p.keep(b)
			p.at += int64(len(b))
			break
		}
		line := b[:i+1]
		b = b[i+1:]
		p.at += int64(len(line))
		p.lines++
		if len(p.line) > 0 {
			p.line = append(p.line, line...)
			line = p.line
		}
		p.take(line)
		p.line = p.line[:0]
	}
	return n, nil
}

// skip passes over body text up to the next line that may be a boundary. It is
// called in a body at a place that is not the start of such a line.
func (p *Parser) skip(b []byte) []byte {
	if p.head { // the rest of an overlong header line
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			p.at += int64(len(b))
			return nil
		}
		p.inside = false
		p.pass(b[:i+1])
		return b[i+1:]
	}
	i := -1
	if p.depth > 0 {
		i = bytes.Index(b, []byte("\n-"))
	}
	if i < 0 {
		i = len(b) - 1
	}
	p.inside = b[i] != '\n'
	p.pass(b[:i+1])
	return b[i+1:]
}

// pass counts octets and lines of a body.
func (p *Parser) pass(b []byte) {
	p.at += int64(len(b))
	p.lines += int64(bytes.Count(b, []byte{'\n'}))
	switch {
	case b[len(b)-1] != '\n':
		p.eol = 0
	case len(b) > 1 && b[len(b)-2] == '\r', len(b) == 1 && p.cr:
		p.eol = 2
	default:
		p.eol = 1
	}
	p.cr = b[len(b)-1] == '\r'
}

// keep stores the start of a line whose end has not arrived.
func (p *Parser) keep(b []byte) {
	limit := maxBoundary
	if p.head {
		limit = maxHeader
	}
	p.line = append(p.line, b...)
	if len(p.line) > limit {
		if p.head {
			p.addHeader(p.line)
		}
		p.line, p.inside = p.line[:0], true
	}
}

// take looks at a whole line, which ends at p.at: of a header, or one that may be a boundary.
func (p *Parser) take(line []byte) {
	start := p.at - int64(len(line))
	eol := 1
	if len(line) > 1 && line[len(line)-2] == '\r' {
		eol = 2
	}
	if line[0] == '-' && p.depth > 0 {
		if i, last, ok := p.match(line[:len(line)-eol]); ok {
			p.boundary(i, last, start)
			p.eol = eol
			return
		}
	}
	p.eol = eol
	if !p.head {
		return
	}
	if len(line) == eol { // the empty line
		p.endHeader(p.at)
		return
	}
	p.addHeader(line)
}

// addHeader keeps header octets for endHeader.
func (p *Parser) addHeader(line []byte) {
	if len(p.hdr)+len(line) <= maxHeader {
		p.hdr = append(p.hdr, line...)
	}
}

// match finds the open multipart that a line is a boundary of, the innermost
// first, as Cyrus does.
func (p *Parser) match(line []byte) (depth int, last, ok bool) {
	if len(line) < 3 || line[1] != '-' {
		return 0, false, false
	}
	line = line[2:]
	for i := len(p.open) - 1; i >= 0; i-- {
		s := p.nodes[p.open[i]].boundary
		b := p.arena[s.from:s.to]
		if len(b) == 0 || !bytes.HasPrefix(line, b) {
			continue
		}
		rest := line[len(b):]
		if bytes.HasPrefix(rest, []byte("--")) {
			return i, true, true
		}
		if len(bytes.TrimRight(rest, " \t\r")) == 0 {
			return i, false, true
		}
	}
	return 0, false, false
}

// boundary ends what was open within the multipart open[depth], at the line
// that begins at start, and begins its next part, or its epilogue.
func (p *Parser) boundary(depth int, last bool, start int64) {
	// RFC 2046, 5.1.1: the line end before the boundary belongs to it.
	end, lines := start-int64(p.eol), p.lines-1
	if p.eol > 0 {
		lines--
	}
	if p.head {
		p.endHeader(start)
	}
	for len(p.open) > depth+1 {
		p.finish(end, lines)
	}
	m := p.open[depth]
	if last {
		p.nodes[m].boundary = span{}
		p.depth--
		p.head = false
		return
	}
	if len(p.nodes) >= maxParts {
		return
	}
	p.begin(m, false)
}

// begin opens a part below parent (-1: the message itself) with its header. A
// message's header has an envelope.
func (p *Parser) begin(parent int, root bool) {
	i := len(p.nodes)
	p.nodes = append(p.nodes, node{header: p.at, body: p.at})
	if parent >= 0 {
		n := &p.nodes[parent]
		if n.count == 0 {
			n.first = i
		} else {
			p.nodes[n.last].next = i
		}
		n.last = i
		n.count++
	}
	p.open = append(p.open, i)
	p.hdr, p.head, p.root = p.hdr[:0], true, root
}

// endHeader reads the header that was collected; the body begins at body.
func (p *Parser) endHeader(body int64) {
	i := p.open[len(p.open)-1]
	p.head = false
	p.nodes[i].body = body
	p.nodes[i].lines = p.lines // until finish, the count at its start
	digest := len(p.open) > 1 && p.nodes[p.open[len(p.open)-2]].digest
	p.describe(i, p.hdr, digest)
	n := &p.nodes[i]
	deep := len(p.open) >= maxDepth || len(p.nodes) >= maxParts
	switch {
	case deep:
		n.boundary = span{}
	case n.kind == Multipart:
		p.depth++
	case n.kind == Message:
		at := p.at
		p.at = body
		p.begin(i, true)
		p.at = at
	}
}

// finish closes the innermost part at end, where lines LFs were seen.
func (p *Parser) finish(end, lines int64) {
	i := p.open[len(p.open)-1]
	n := &p.nodes[i]
	if n.boundary.from < n.boundary.to {
		p.depth--
		n.boundary = span{}
	}
	n.end = max(end, n.body)
	n.lines = max(lines-n.lines, 0)
	p.open = p.open[:len(p.open)-1]
}

// Summary ends the message and returns what was found. The Parser is then spent.
func (p *Parser) Summary() *Summary {
	if len(p.line) > 0 {
		if line := p.line; p.head {
			p.addHeader(line)
		} else if i, last, ok := p.match(bytes.TrimRight(line, "\r")); ok {
			p.boundary(i, last, p.at-int64(len(line)))
		}
		p.line = p.line[:0]
	}
	for p.head {
		p.endHeader(p.at)
	}
	for len(p.open) > 0 {
		p.finish(p.at, p.lines)
	}
	return p.render()
}
