// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const status = `Package: qemu-utils
Status: install ok installed
Architecture: amd64
Version: 1:10.0.2+ds-2
Description: QEMU utilities
 Version: not a field

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: base-files
Status: install ok installed
Architecture: amd64
Version: 13.8
`

func TestDocument(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "status"), filepath.Join(dir, "spdx.json")
	if err := os.WriteFile(in, []byte(status), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable() // any Go program
	if err != nil {
		t.Fatal(err)
	}
	if err := run("pxelab/manager:test", in, out, []string{self, self}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	var debian []string
	ids := map[string]bool{}
	modules := 0
	for _, p := range d.Packages {
		if ids[p.ID] {
			t.Errorf("got package %s twice, want unique IDs", p.Name)
		}
		ids[p.ID] = true
		for _, ref := range p.Refs {
			if strings.HasPrefix(ref.Locator, "pkg:deb/") {
				debian = append(debian, ref.Locator)
			}
			if ref.Locator == "pkg:golang/github.com/google/renameio/v2@"+p.Version {
				modules++
			}
		}
	}
	want := []string{"pkg:deb/debian/base-files@13.8?arch=amd64", "pkg:deb/debian/qemu-utils@1:10.0.2+ds-2?arch=amd64"}
	if diff := cmp.Diff(want, debian); diff != "" {
		t.Errorf("Debian packages (-want +got):\n%s", diff)
	}
	if modules != 1 {
		t.Errorf("got a compiled-in module %d times, want once", modules)
	}
	for _, r := range d.Relationships[1:] {
		if r.Element != imageID {
			t.Errorf("got relationship of %s, want one of the image, %s", r.Element, imageID)
		}
		if !ids[r.Related] {
			t.Errorf("got relationship to %s, want one to a listed package", r.Related)
		}
	}
}

func TestDebianPackagesRejectsEmptyStatus(t *testing.T) {
	if _, err := debianPackages(strings.NewReader("")); err == nil {
		t.Error("empty status file: got no error, want one")
	}
}

func TestCreatedFollowsSourceDateEpoch(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	if got, err := created(); err != nil || got.Unix() != 1700000000 {
		t.Errorf("created() = %v, %v, want 1700000000", got, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if got, err := created(); err == nil {
		t.Errorf("created() = %v, want an error", got)
	}
}
