// SPDX-License-Identifier: Apache-2.0

package startrecord

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	check := func(name string, want Record) {
		t.Helper()
		got, err := Load(dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
	check("no directory", Record{})
	for _, r := range []Record{{Digest: "sha256:a", Fields: map[string]string{"spec.machine.cpus": "1"}}, {Digest: "sha256:b"}} {
		if err := Save(dir, r); err != nil {
			t.Fatal(err)
		}
		check("saved", r)
	}
	if err := os.WriteFile(filepath.Join(dir, recordName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	check("damaged", Record{})
}
