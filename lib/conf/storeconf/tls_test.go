package storeconf

import (
	"strings"
	"testing"

	"angarium/lib/conf/imapdconf"
)

func TestProtocols(t *testing.T) {
	for text, want := range map[string]string{
		"":                               ">=TLSv1.2",
		"tls_versions: tls1_2, tls1_3\n": "TLSv1.2, TLSv1.3",
		"tls_versions: tls1_0 tls1_2\n":  "TLSv1, TLSv1.2",
		"tls_versions: TLSv1.3\n":        ">=TLSv1.2", // no word of imapd.conf(5): not "anything goes"
	} {
		c, err := imapdconf.Parse(strings.NewReader("configdirectory: /x\n"+text), "imapd.conf")
		if err != nil {
			t.Fatal(err)
		}
		if got := protocols(c); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
