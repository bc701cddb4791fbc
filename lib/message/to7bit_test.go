package message

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestTo7Bit(t *testing.T) {
	const eight = "Content-Transfer-Encoding: 8bit\n"
	const quoted = "Content-Transfer-Encoding: quoted-printable\n"
	const seven = "Content-Transfer-Encoding: 7bit\n"
	for _, c := range []struct{ name, in, want string }{
		{"nothing said", "A: b\n\n\xfc\n", "A: b\n\n\xfc\n"},
		{"text", "A: b\n" + eight + "C: d\n\n\xfc = x \n\n.\t\nno end\xfc", "A: b\nC: d\n" + quoted + "\n=FC =3D x=20\n\n.=09\nno end=FC"},
		{"binary", "Content-transfer-encoding:  BINARY (really)\n\n\x00\r\n", quoted + "\n=00=0D\n"},
		{"long", eight + "\n" + strings.Repeat("x", 80) + "\n", quoted + "\n" + strings.Repeat("x", 73) + "=\n" + strings.Repeat("x", 7) + "\n"},
		{"base64", "Content-Transfer-Encoding: base64\n\nAAAA\n", "Content-Transfer-Encoding: base64\n\nAAAA\n"},
		{"folded", "Content-Transfer-Encoding:\n 8bit\nContent-Type: text/plain;\n charset=utf-8\n\n\xfc\n", "Content-Type: text/plain;\n charset=utf-8\n" + quoted + "\n=FC\n"},
		{"parts", "Content-Type: multipart/mixed; boundary=\"a b\"\n" + eight + "\npre \xfc\n--a b\n" + eight + "\n\xfc\n--a b\n\n\xfc\n--a b--\npost \xfc\n",
			"Content-Type: multipart/mixed; boundary=\"a b\"\n" + seven + "\npre \xfc\n--a b\n" + quoted + "\n=FC\n--a b\n\n\xfc\n--a b--\npost \xfc\n"},
		{"nested", "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: message/rfc822\n" + eight + "\nS: x\n" + eight + "\n\xfc\n--o--\n",
			"Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: message/rfc822\n" + seven + "\nS: x\n" + quoted + "\n=FC\n--o--\n"},
		{"inner ends with outer", "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/mixed; boundary=i\n\n--i\n" + eight + "\n\xfc\n--o\n\n\xfc\n",
			"Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/mixed; boundary=i\n\n--i\n" + quoted + "\n=FC\n--o\n\n\xfc\n"},
		{"header only", eight, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := io.ReadAll(To7Bit(iotest.OneByteReader(strings.NewReader(c.in))))
			if err != nil || string(got) != c.want {
				t.Errorf("%v\n got %q\nwant %q", err, got, c.want)
			}
		})
	}
}

func FuzzTo7Bit(f *testing.F) {
	f.Add("Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Transfer-Encoding: 8bit\n\n\xfc\n--o--\n")
	f.Add("Content-Transfer-Encoding: 8bit\n\n" + strings.Repeat("\xfc", 5000))
	f.Fuzz(func(t *testing.T, in string) {
		got, err := io.ReadAll(To7Bit(strings.NewReader(in)))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.ToLower(in), "content-transfer-encoding") && !bytes.Equal(got, []byte(in)) {
			t.Errorf("%q became %q", in, got)
		}
	})
}
