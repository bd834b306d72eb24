// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestEntryCarriesAMachine(t *testing.T) {
	install, disk := validMachines()
	install.Parameters = map[string]string{"b": "<&>", "a": "\u2028"}
	for _, m := range []*Machine{install, disk} {
		entry := NewEntry(&m.Content, m.Control)
		decoded, err := DecodeEntry(entry.Encode())
		if err != nil {
			t.Fatal(err)
		}
		got, err := decoded.Machine(m.UID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", m.UID, diff)
		}
	}
}

// Both sides take the digests of a part over the bytes that were sent, whatever JSON
// would make of them.
func TestDigestsAreOfTheBytesSent(t *testing.T) {
	for name, e := range map[string]Entry{
		"encoded":         NewEntry(&Content{Hostname: "a<b>"}, Control{Token: "t"}),
		"no content":      NewEntry(nil, Control{Token: "t"}),
		"white space":     {Content: []byte("{ \"hostname\":\n \"a\" }"), Control: []byte("{\t}")},
		"unknown fields":  {Content: []byte(`{"later":1,"hostname":"a"}`), Control: []byte(`{"later":{"a":[]}}`)},
		"escapes":         {Content: []byte(`{"hostname":"\u0061\/"}`), Control: []byte(`{"token":"\u003c"}`)},
		"not UTF-8":       {Content: []byte("{\"hostname\":\"\xff\"}"), Control: []byte("{\"token\":\"\xc3\x28\"}")},
		"fields repeated": {Content: []byte(`{"hostname":"a","hostname":"b"}`), Control: []byte(`{}`)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeEntry(e.Encode())
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Content, e.Content) || !bytes.Equal(got.Control, e.Control) {
				t.Errorf("got %q and %q, want the bytes that were sent, %q and %q", got.Content, got.Control, e.Content, e.Control)
			}
			if got.ContentDigest() != e.ContentDigest() || got.ControlDigest() != Digest(e.Control) {
				t.Errorf("got digests %s and %s, want those of the bytes", got.ContentDigest(), got.ControlDigest())
			}
			if e.Content == nil && got.ContentDigest() != "" {
				t.Errorf("without a content: got digest %s, want none", got.ContentDigest())
			}
			if !bytes.Equal(got.Encode(), e.Encode()) {
				t.Errorf("encoded again: got %q, want %q", got.Encode(), e.Encode())
			}
		})
	}
	if got, want := Digest([]byte("abc")), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; got != want {
		t.Errorf("got digest %s, want %s", got, want)
	}
}

// Equal values have equal bytes, or a restarted manager would put every machine again.
func TestEncodingIsStable(t *testing.T) {
	parameters := map[string]string{}
	for _, key := range []string{"c", "a", "b", "z", "y"} {
		parameters[key] = key
	}
	install, _ := validMachines()
	install.Parameters = parameters
	want := NewEntry(&install.Content, install.Control)
	config := valid().Encode()
	for range 20 {
		if got := NewEntry(&install.Content, install.Control); !bytes.Equal(got.Encode(), want.Encode()) {
			t.Fatalf("got entry %s, want %s", got.Encode(), want.Encode())
		}
		if got := valid().Encode(); !bytes.Equal(got, config) {
			t.Fatalf("got config %s, want %s", got, config)
		}
	}
	var decoded ServerConfig
	if err := json.Unmarshal(config, &decoded); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(valid(), &decoded, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("the config decoded (-want +got):\n%s", diff)
	}
}

func TestDecodeEntryRefuses(t *testing.T) {
	for name, raw := range map[string]string{
		"nothing":              "",
		"not JSON":             "x",
		"no control part":      `{"content":{}}`,
		"an array":             "[]",
		"more than one value":  `{"control":{}}{}`,
		"a part that is open":  `{"control":{}`,
		"a part that ends two": `{"control":{}},"content":{}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if e, err := DecodeEntry([]byte(raw)); !errors.Is(err, ErrInvalid) {
				t.Errorf("got %q, %v; want ErrInvalid", e.Encode(), err)
			}
		})
	}
	for name, e := range map[string]Entry{
		"no content":            {Control: []byte("{}")},
		"content not JSON":      {Content: []byte("x"), Control: []byte("{}")},
		"address":               {Content: []byte(`{"address":"x"}`), Control: []byte("{}")},
		"content not object":    {Content: []byte("[]"), Control: []byte("{}")},
		"control of wrong type": {Content: []byte("{}"), Control: []byte(`{"token":1}`)},
	} {
		t.Run(name, func(t *testing.T) {
			if m, err := e.Machine("m"); !errors.Is(err, ErrInvalid) {
				t.Errorf("got %+v, %v; want ErrInvalid", m, err)
			}
		})
	}
}

func TestContentNamesItsBlobs(t *testing.T) {
	install, disk := validMachines()
	if got := install.Texts(); !cmp.Equal(got, []Blob{validText()}) {
		t.Errorf("got texts %v, want the user-data", got)
	}
	if got, want := install.Files(), validFile(); !cmp.Equal(got, []Blob{want, want, want, want}) {
		t.Errorf("got files %v, want four times %v", got, want)
	}
	if texts, files := disk.Texts(), disk.Files(); len(texts)+len(files) != 0 {
		t.Errorf("got texts %v and files %v, want none", texts, files)
	}
	c := Content{
		IPXETemplate: Blob{"i", 1}, UserDataTemplate: Blob{"u", 1}, NetworkConfigTemplate: Blob{"n", 1}, SSHAuthorizedKeys: Blob{"s", 1},
		Kernel: Blob{"k", 1}, Initrd: Blob{"r", 1}, Overlay: Blob{"o", 1}, Image: Blob{"m", 1},
	}
	if got := c.Texts(); !cmp.Equal(got, []Blob{{"i", 1}, {"u", 1}, {"n", 1}, {"s", 1}}) {
		t.Errorf("got texts %v, want all four", got)
	}
	if got := c.Files(); !cmp.Equal(got, []Blob{{"k", 1}, {"r", 1}, {"o", 1}, {"m", 1}}) {
		t.Errorf("got files %v, want all four", got)
	}
}
