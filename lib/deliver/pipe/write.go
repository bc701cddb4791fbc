package pipe

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"time"

	"angarium/lib/agent"
)

// writer copies a message as the flags of its line ask.
type writer struct {
	line *Line
	r    *agent.Request
}

// write is what the command reads.
func (w *writer) write(out io.Writer) error {
	b := bufio.NewWriterSize(out, 32<<10)
	to, eol := w.r.Recipients[0], w.line.EOL
	sender := w.r.Sender.Quoted()
	if w.r.Sender.IsNull() {
		sender = w.line.NullSender
	}
	if w.line.has('F') {
		from := sender
		if from == "" {
			from = "MAILER-DAEMON"
		}
		b.WriteString("From " + from + "  " + time.Now().Format(time.ANSIC) + eol)
	}
	if w.line.has('R') {
		b.WriteString("Return-Path: <" + sender + ">" + eol)
	}
	if w.line.has('O') {
		original := to.Original
		if original.IsNull() {
			original = to.Address
		}
		b.WriteString("X-Original-To: " + original.String() + eol)
	}
	if w.line.has('D') {
		b.WriteString("Delivered-To: " + to.Address.String() + eol)
	}
	if err := w.body(b); err != nil {
		return err
	}
	if w.line.has('B') {
		b.WriteString(eol)
	}
	return b.Flush()
}

func (w *writer) body(b *bufio.Writer) error {
	r := bufio.NewReaderSize(w.r.Message.Content(), 32<<10)
	fresh := true
	for {
		line, err := r.ReadSlice('\n')
		if fresh && w.line.has('>') && bytes.HasPrefix(line, []byte("From ")) {
			b.WriteByte('>')
		}
		if fresh && w.line.has('.') && bytes.HasPrefix(line, []byte(".")) {
			b.WriteByte('.')
		}
		fresh = err == nil
		if fresh {
			line = line[:len(line)-1]
		}
		b.Write(line)
		switch {
		case fresh:
			b.WriteString(w.line.EOL)
		case err == io.EOF:
			if len(line) > 0 {
				b.WriteString(w.line.EOL)
			}
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// delivered looks for a Delivered-To: with an address in a message's header.
func delivered(content io.Reader, to string) (bool, error) {
	r := bufio.NewReaderSize(content, 8<<10)
	fresh := true
	for {
		line, err := r.ReadSlice('\n')
		if fresh {
			name, value, ok := strings.Cut(strings.TrimRight(string(line), "\r\n"), ":")
			if !ok && len(line) > 0 && line[0] != ' ' && line[0] != '\t' {
				return false, nil // the header is over
			}
			if strings.EqualFold(strings.TrimSpace(name), "Delivered-To") && strings.EqualFold(strings.TrimSpace(value), to) {
				return true, nil
			}
		}
		fresh = err == nil
		switch {
		case err == io.EOF:
			return false, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return false, err
		}
	}
}
