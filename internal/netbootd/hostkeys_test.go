// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"encoding/base64"
	"encoding/binary"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqyzpVSCXwRMfPEgEhTDpBzvjn8fdVnPBpBLCXsVDHq"

// encodedKey returns the encoding of a type and values (RFC 4253, section 6.6).
func encodedKey(values ...string) string {
	var raw []byte
	for _, v := range values {
		raw = binary.BigEndian.AppendUint32(raw, uint32(len(v)))
		raw = append(raw, v...)
	}
	return base64.StdEncoding.EncodeToString(raw)
}

func TestHostKeys(t *testing.T) {
	ecdsa := "ecdsa-sha2-nistp256 " + encodedKey("ecdsa-sha2-nistp256", "nistp256", strings.Repeat("q", 65))
	rsa := "ssh-rsa " + encodedKey("ssh-rsa", "\x01\x00\x01", strings.Repeat("n", 257))
	ed25519 := strings.Repeat("k", 32)
	for name, c := range map[string]struct {
		field, text string
		want        string // "" for none
		refused     bool
	}{
		"with comment":      {field: "pub_key_ed25519", text: hostKey + " root@host\n", want: hostKey},
		"ECDSA":             {field: "pub_key_ecdsa", text: ecdsa, want: ecdsa},
		"RSA":               {field: "pub_key_rsa", text: rsa + " a comment", want: rsa},
		"absent":            {field: "pub_key_rsa", text: "N/A"},
		"empty":             {field: "pub_key_rsa"},
		"another field":     {field: "pub_key_rsa", text: hostKey, refused: true},
		"unknown field":     {field: "pub_key_dsa", text: hostKey},
		"no key":            {field: "pub_key_rsa", text: "ssh-rsa", refused: true},
		"no base64":         {field: "pub_key_rsa", text: "ssh-rsa ***", refused: true},
		"type of the text":  {field: "pub_key_ed25519", text: "ssh-rsa " + strings.Fields(hostKey)[1], refused: true},
		"type of the key":   {field: "pub_key_ed25519", text: "ssh-ed25519 " + encodedKey("ssh-rsa", ed25519), refused: true},
		"any type":          {field: "pub_key_rsa", text: "<script> " + encodedKey("<script>", "e", "n"), refused: true},
		"option as type":    {field: "pub_key_rsa", text: "@cert-authority " + encodedKey("@cert-authority", "e", "n"), refused: true},
		"length too long":   {field: "pub_key_rsa", text: "ssh-rsa AAAAAA==", refused: true},
		"cut":               {field: "pub_key_rsa", text: "ssh-rsa " + base64.StdEncoding.EncodeToString([]byte("\x00\x00\x00\x07ssh-rsa\x00")), refused: true},
		"type alone":        {field: "pub_key_rsa", text: "ssh-rsa " + encodedKey("ssh-rsa"), refused: true},
		"more values":       {field: "pub_key_rsa", text: "ssh-rsa " + encodedKey("ssh-rsa", "e", "n", "x"), refused: true},
		"empty value":       {field: "pub_key_rsa", text: "ssh-rsa " + encodedKey("ssh-rsa", "", "n"), refused: true},
		"another curve":     {field: "pub_key_ecdsa", text: "ecdsa-sha2-nistp256 " + encodedKey("ecdsa-sha2-nistp256", "nistp384", "q"), refused: true},
		"short Ed25519 key": {field: "pub_key_ed25519", text: "ssh-ed25519 " + encodedKey("ssh-ed25519", ed25519[1:]), refused: true},
		"huge":              {field: "pub_key_rsa", text: "ssh-rsa " + encodedKey("ssh-rsa", "e", strings.Repeat("n", maxHostKey)), refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			// Neither of the others is affected.
			form := url.Values{"pub_key_ed25519": {hostKey}, "pub_key_ecdsa": {ecdsa}, "pub_key_rsa": {rsa}}
			want := []string{hostKey, ecdsa, rsa}
			at := slices.IndexFunc(hostKeyFields, func(f hostKeyField) bool { return f.name == c.field })
			form[c.field] = []string{c.text, rsa}
			switch {
			case at >= 0 && c.want == "":
				want = slices.Delete(want, at, at+1)
			case at >= 0:
				want[at] = c.want
			}
			got, refused := hostKeys(form)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			if c.refused != slices.Equal(refused, []string{c.field}) || !c.refused && len(refused) > 0 {
				t.Errorf("got fields %v refused, want that of the key: %t", refused, c.refused)
			}
		})
	}
}

// FuzzHostKeys checks that what is reported of a key is of a known type, small, and one
// line without characters that a known_hosts file or JSON gives a meaning.
func FuzzHostKeys(f *testing.F) {
	f.Add(hostKey+" root@host\n", "N/A", "ecdsa AAAA")
	f.Add("ssh-ed25519 "+encodedKey("ssh-ed25519", ""), "ssh-rsa "+encodedKey("ssh-rsa", "e", "n"), "ssh-rsa\x00 AAAA")
	f.Fuzz(func(t *testing.T, ed25519, rsa, ecdsa string) {
		keys, refused := hostKeys(url.Values{"pub_key_ed25519": {ed25519}, "pub_key_rsa": {rsa}, "pub_key_ecdsa": {ecdsa}})
		if len(keys)+len(refused) > len(hostKeyFields) {
			t.Errorf("got %d keys and %d refused, want at most %d", len(keys), len(refused), len(hostKeyFields))
		}
		for _, key := range keys {
			kind, encoded, _ := strings.Cut(key, " ")
			known := slices.ContainsFunc(hostKeyFields, func(f hostKeyField) bool { return slices.Contains(f.types, kind) })
			if !known || len(key) > maxHostKey || strings.ContainsAny(encoded, " \r\n\t\"\\<>&,@") {
				t.Errorf("got key %q, want one of a known type", key)
			}
		}
	})
}
