package smtpd

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestCRLF(t *testing.T) {
	in := strings.Repeat("a\nb\r\n\n\r\r\n", 3000) + "\r"
	want := strings.Repeat("a\r\nb\r\n\r\n\r\r\n", 3000) + "\r"
	for name, r := range map[string]io.Reader{
		"whole":        &crlf{r: strings.NewReader(in)},
		"in octets":    &crlf{r: iotest.OneByteReader(strings.NewReader(in))},
		"to octets":    iotest.OneByteReader(&crlf{r: strings.NewReader(in)}),
		"end with all": &crlf{r: iotest.DataErrReader(strings.NewReader(in))},
	} {
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%s: %d octets, want %d, %v", name, len(got), len(want), err)
		}
	}
}
