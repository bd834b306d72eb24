// SPDX-License-Identifier: Apache-2.0

package imageformat

import (
	"slices"
	"testing"
)

func TestDetect(t *testing.T) {
	for head, want := range map[string]struct{ format, unsupported string }{
		"":                                   {Raw, ""},
		"\x00\x00\x00\x00":                   {Raw, ""},
		"QFI":                                {Raw, ""}, // truncated
		"QFI\xfb\x00\x00\x00\x03":            {QCOW2, ""},
		"\x1f\x8b\x08":                       {RawGzip, ""},
		"\xfd7zXZ\x00\x00":                   {RawXZ, ""},
		"\x28\xb5\x2f\xfd\x04":               {RawZstd, ""},
		"KDMV\x01":                           {Raw, "VMDK"},
		"<<< QEMU VM Virtual Disk Image >>>": {Raw, "VDI"},
		"PK\x03\x04":                         {Raw, "zip"},
	} {
		if got := Detect([]byte(head)); got != want.format {
			t.Errorf("Detect(%q) = %q, want %q", head, got, want.format)
		}
		if got := DetectUnsupported([]byte(head)); got != want.unsupported {
			t.Errorf("DetectUnsupported(%q) = %q, want %q", head, got, want.unsupported)
		}
	}
}

func TestMagicNumbersFitHead(t *testing.T) {
	all := All()
	for _, m := range append(slices.Clone(supported), unsupported...) {
		if len(m.bytes) == 0 || len(m.bytes) > HeadSize {
			t.Errorf("%s: magic number has %d bytes, want 1 to %d", m.format, len(m.bytes), HeadSize)
		}
	}
	for _, m := range supported {
		if !slices.Contains(all, m.format) {
			t.Errorf("got formats %q, want %s among them", all, m.format)
		}
	}
}
