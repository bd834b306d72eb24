// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"strings"
	"testing"

	"github.com/pxelab/pxelab/internal/bootfile"
	"github.com/pxelab/pxelab/internal/bootfile/bootfiletest"
)

func TestEnsureChecksBootFiles(t *testing.T) {
	const x86, arm = "x86_64", "aarch64"
	s := newStore(t)
	files := map[string][]byte{
		"kernel": bootfiletest.Kernel(x86, ""), "initrd": bootfiletest.Initrd(""), "ipxe": bootfiletest.Program(x86, ""),
		"page": []byte("<html><body>404 Not Found</body></html>"),
	}
	for name, content := range files {
		put(t, s, name, content)
	}
	for name, c := range map[string]struct {
		file         string
		kind         bootfile.Kind
		architecture string
		want         []string // parts of the error; nil if the file is accepted
	}{
		"kernel":          {"kernel", bootfile.Kernel, x86, nil},
		"initrd":          {"initrd", bootfile.Initrd, x86, nil},
		"program":         {"ipxe", bootfile.Program, x86, nil},
		"any":             {"page", "", "", nil},
		"architecture":    {"kernel", bootfile.Kernel, arm, []string{"a Linux kernel for x86_64", "kernel must be a Linux kernel for aarch64"}},
		"page as kernel":  {"page", bootfile.Kernel, x86, []string{"page is an HTML page", "a Linux kernel for x86_64"}},
		"page as initrd":  {"page", bootfile.Initrd, x86, []string{"an HTML page", "an initrd"}},
		"page as program": {"page", bootfile.Program, x86, []string{"an HTML page", "a UEFI program for x86_64"}},
	} {
		t.Run(name, func(t *testing.T) {
			boot := bootfile.Expectation{Kind: c.kind, Architecture: c.architecture}
			a, err := s.Ensure(t.Context(), Source{Path: c.file, Checksum: sha256Of(files[c.file]), Boot: boot}, nil)
			if c.want == nil {
				wantContent(t, a, err, files[c.file])
				return
			}
			for _, part := range c.want {
				wantReason(t, err, ReasonUnsupportedFormat, part)
			}
		})
	}
}

// A checksum in upper case, as Get-FileHash prints it, is the same as in lower case.
func TestEnsureAcceptsUpperCaseChecksums(t *testing.T) {
	s := newStore(t)
	content := []byte("content")
	put(t, s, "f", content)
	for _, sum := range []string{sha256Of(content), sha512Of(content)} {
		algo, value, _ := strings.Cut(sum, ":")
		for _, text := range []string{algo + ":" + strings.ToUpper(value), strings.ToUpper(sum)} {
			a, err := s.Ensure(t.Context(), Source{Path: "f", Checksum: text}, nil)
			wantContent(t, a, err, content)
		}
	}
}

// Get is called for each file of each target: it must not depend on the size of the file.
func TestGetReadsNoContent(t *testing.T) {
	s := newStore(t)
	allocated := func(name string, content []byte) float64 {
		put(t, s, name, content)
		a, err := s.Ensure(t.Context(), Source{Path: name, Checksum: sha256Of(content)}, nil)
		wantContent(t, a, err, content)
		return testing.AllocsPerRun(20, func() {
			if _, ok := s.Get(a.Digest); !ok {
				t.Error("got no content, want that of the store")
			}
		})
	}
	if small, large := allocated("small", []byte("x")), allocated("large", noise(8<<20, 1)); large > small+2 || small > 100 {
		t.Errorf("got %v allocations for a byte and %v for 8 MiB, want about the same and at most 100", small, large)
	}
}
