// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"net/url"
	"slices"
	"strings"
)

// maxHostKey bounds one reported host key, in bytes. An RSA key of 16384 bits has
// 2.8 KB.
const maxHostKey = 4 << 10

// hostKeyField is a field of cloud-init's phone-home form that has a host key.
type hostKeyField struct {
	name  string
	types []string
	// values is the number of values that follow the type in the encoded key.
	values int
}

var hostKeyFields = []hostKeyField{
	{"pub_key_ed25519", []string{"ssh-ed25519"}, 1},                                                     // RFC 8709, section 4
	{"pub_key_ecdsa", []string{"ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"}, 2}, // RFC 5656, section 3.1
	{"pub_key_rsa", []string{"ssh-rsa"}, 2},                                                             // RFC 4253, section 6.6
}

// hostKeys returns the well-formed SSH public keys of a phone-home form, as "TYPE BASE64"
// without comment and at most one of each field, and the names of the fields that have
// something else.
func hostKeys(form url.Values) (keys, refused []string) {
	for _, field := range hostKeyFields {
		text := form.Get(field.name)
		if text == "" || text == "N/A" { // a key that the machine does not have
			continue
		}
		if key, ok := field.parse(text); ok {
			keys = append(keys, key)
		} else {
			refused = append(refused, field.name)
		}
	}
	return keys, refused
}

// parse returns a key without its comment, and whether it is one of the field's types and
// its encoding is complete.
func (f hostKeyField) parse(text string) (string, bool) {
	if len(text) > maxHostKey {
		return "", false
	}
	fields := strings.Fields(text)
	if len(fields) < 2 || !slices.Contains(f.types, fields[0]) {
		return "", false
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(fields[1])
	if err != nil {
		return "", false
	}
	values, ok := sshStrings(raw)
	if !ok || len(values) != 1+f.values || string(values[0]) != fields[0] {
		return "", false
	}
	for _, v := range values {
		if len(v) == 0 {
			return "", false
		}
	}
	switch curve, isECDSA := strings.CutPrefix(fields[0], "ecdsa-sha2-"); {
	case isECDSA && !bytes.Equal(values[1], []byte(curve)):
		return "", false
	case fields[0] == "ssh-ed25519" && len(values[1]) != 32:
		return "", false
	}
	return fields[0] + " " + fields[1], true
}

// sshStrings splits a sequence of strings (RFC 4251, section 5), and reports whether the
// last one ends where raw does.
func sshStrings(raw []byte) (values [][]byte, ok bool) {
	for len(raw) > 0 {
		if len(raw) < 4 {
			return nil, false
		}
		size := binary.BigEndian.Uint32(raw)
		raw = raw[4:]
		if uint64(size) > uint64(len(raw)) {
			return nil, false
		}
		values = append(values, raw[:size])
		raw = raw[size:]
	}
	return values, true
}
