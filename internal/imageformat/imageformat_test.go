// SPDX-License-Identifier: Apache-2.0

package imageformat

import (
	"archive/tar"
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func tarHeader(t testing.TB) string {
	t.Helper()
	var out bytes.Buffer
	if err := tar.NewWriter(&out).WriteHeader(&tar.Header{Name: "disk.raw", Size: 64 << 20, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// An archive of before POSIX has no magic number.
func TestDetectOldTar(t *testing.T) {
	head := []byte(tarHeader(t))
	sum := 0
	for i := range head[257:HeadSize] {
		head[257+i] = 0
	}
	copy(head[148:156], "        ")
	for _, b := range head {
		sum += int(b)
	}
	copy(head[148:], fmt.Sprintf("%06o\x00 ", sum))
	if got, _ := Unsupported(head); got != "a tar archive" {
		t.Errorf("got %q, want a tar archive", got)
	}
	head[0]++
	if got, _ := Unsupported(head); got != "" {
		t.Errorf("with another checksum: got %q, want nothing", got)
	}
}

func TestDetect(t *testing.T) {
	for head, want := range map[string]struct{ format, unsupported string }{
		"":                                   {Raw, ""},
		"\x00\x00\x00\x00":                   {Raw, ""},
		"QFI":                                {Raw, ""}, // truncated
		"QFI\xfb\x00\x00\x00\x03":            {QCOW2, ""},
		"\x1f\x8b\x08":                       {RawGzip, ""},
		"\xfd7zXZ\x00\x00":                   {RawXZ, ""},
		"\x28\xb5\x2f\xfd\x04":               {RawZstd, ""},
		"KDMV\x01":                           {Raw, "a VMDK image"},
		"# Disk DescriptorFile\nversion=1":   {Raw, "a VMDK image"},
		"<<< QEMU VM Virtual Disk Image >>>": {Raw, "a VDI image"},
		"PK\x03\x04":                         {Raw, "a zip archive"},
		tarHeader(t):                         {Raw, "a tar archive"},
		"<html><body>404</body>":             {Raw, "an HTML page"},
		"\xef\xbb\xbf\r\n <!DOCTYPE HTML":    {Raw, "an HTML page"},
		"<?xml version=\"1.0\"?><Error>":     {Raw, "an XML document"},
		strings.Repeat("\x00", HeadSize):     {Raw, ""},
		strings.Repeat("0", HeadSize):        {Raw, ""},
	} {
		if got := Detect([]byte(head)); got != want.format {
			t.Errorf("Detect(%q) = %q, want %q", head, got, want.format)
		}
		got, remedy := Unsupported([]byte(head))
		if got != want.unsupported || (remedy == "") != (want.unsupported == "") {
			t.Errorf("Unsupported(%q) = %q, %q, want %q and a remedy if that is not empty", head, got, remedy, want.unsupported)
		}
	}
}

func TestMagicNumbersFitHead(t *testing.T) {
	all := All()
	lengths := map[string]int{}
	for _, m := range supported {
		lengths[m.format] = len(m.bytes)
		if !slices.Contains(all, m.format) {
			t.Errorf("got formats %q, want %s among them", all, m.format)
		}
	}
	for _, f := range append(slices.Clone(unsupported), texts...) {
		lengths[f.what] = len(f.bytes)
	}
	for what, n := range lengths {
		if n == 0 || n > HeadSize {
			t.Errorf("%s: magic number has %d bytes, want 1 to %d", what, n, HeadSize)
		}
	}
}

func FuzzUnsupported(f *testing.F) {
	f.Add([]byte(tarHeader(f)))
	f.Add([]byte("<html>"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, head []byte) {
		what, remedy := Unsupported(head)
		if (what == "") != (remedy == "") {
			t.Errorf("got %q with remedy %q, want both or neither", what, remedy)
		}
		if what != "" && Detect(head) != Raw && what != "a tar archive" {
			t.Errorf("got %q for a file of format %s", what, Detect(head))
		}
	})
}
