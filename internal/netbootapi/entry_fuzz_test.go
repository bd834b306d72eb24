// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
)

// FuzzEntry checks that any bytes are decoded or refused, that decoding keeps the bytes
// of both parts, and that what Validate accepts can be indexed.
func FuzzEntry(f *testing.F) {
	content := Content{
		Name: "a", Hostname: "a", MAC: "52:54:00:00:00:01", Address: netip.MustParseAddr("10.0.0.11"), Architecture: "x86_64",
		UserDataTemplate: TextBlob([]byte("0123456789abcdef"), "text"),
	}
	control := Control{Boot: BootDisk, Attempt: "1", InstanceID: "i", Token: "0123456789012345678901", SeedToken: "seed-01234567890123456789"}
	f.Add("u", NewEntry(&content, control).Encode())
	f.Add("u", NewEntry(nil, control).Encode())
	f.Add("u.json", []byte(`{"content":null,"control":[]}`))
	f.Add("", []byte("{\"control\":{\"token\":\"\xff\"}}"))
	n := &Network{MAC: "52:54:00:00:00:02", Address: netip.MustParsePrefix("10.0.0.1/24")}
	f.Fuzz(func(t *testing.T, uid string, raw []byte) {
		e, err := DecodeEntry(raw)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("DecodeEntry: got error %v, want %v", err, ErrInvalid)
			}
			return
		}
		again, err := DecodeEntry(e.Encode())
		if err != nil || !bytes.Equal(again.Content, e.Content) || !bytes.Equal(again.Control, e.Control) {
			t.Errorf("got %q, error %v after Encode, want %q", again, err, e)
		}
		m, err := e.Machine(uid)
		if err == nil {
			err = m.Validate(n)
		}
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("got error %v, want %v", err, ErrInvalid)
			}
			return
		}
		if _, err := ParseMAC(m.MAC); err != nil || !n.Address.Contains(m.Address) || !ValidUID(m.UID) {
			t.Errorf("got %+v as valid, want a MAC, an address of the network and a UID", m)
		}
	})
}
