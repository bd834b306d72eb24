// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"encoding/base64"
	"encoding/binary"
	"net/url"
	"strings"
)

// maxHostKey bounds one reported host key, in bytes. An RSA key of 16384 bits has
// 2.8 KB.
const maxHostKey = 4 << 10

// hostKeys returns the well-formed SSH public keys of a phone-home form, as
// "TYPE BASE64" without comment.
func hostKeys(form url.Values) []string {
	var keys []string
	for _, name := range []string{"pub_key_ed25519", "pub_key_ecdsa", "pub_key_rsa"} {
		if key, ok := publicKey(form.Get(name)); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// publicKey returns a key without its comment, and whether the type in the text
// matches the type in the encoded key (RFC 4253, section 6.6).
func publicKey(text string) (string, bool) {
	fields := strings.Fields(text)
	if len(fields) < 2 || len(text) > maxHostKey {
		return "", false
	}
	raw, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil || len(raw) < 4 {
		return "", false
	}
	size := binary.BigEndian.Uint32(raw)
	if uint64(size) > uint64(len(raw)-4) || string(raw[4:4+size]) != fields[0] {
		return "", false
	}
	return fields[0] + " " + fields[1], true
}
