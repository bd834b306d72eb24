// SPDX-License-Identifier: Apache-2.0

package kubeconfig

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const want = `# Written by the pxelab control plane at each start; do not edit.
apiVersion: v1
kind: Config
clusters:
- name: pxelab
  cluster:
    server: https://127.0.0.1:7
    certificate-authority-data: Y2E=
users:
- name: pxelab-admin
  user:
    client-certificate-data: Y2VydA==
    client-key-data: a2V5
contexts:
- name: pxelab
  context:
    cluster: pxelab
    user: pxelab-admin
current-context: pxelab
`

func TestWriteAndRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "config")
	a := Admin{Server: "https://127.0.0.1:7", CA: []byte("ca"), Cert: []byte("cert"), Key: []byte("key")}
	for range 2 { // the second call replaces the file of the first
		if err := a.Write(path); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("kubeconfig (-want +got):\n%s", diff)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("got mode %v, want 0600", mode)
	}
	for range 2 { // the second call finds nothing
		if err := Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove: got stat error %v, want not exist", err)
	}
}

func TestForeignFileIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	const mine = "apiVersion: v1\nkind: Config\n"
	if err := os.WriteFile(path, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"Write": Admin{}.Write(path), "Remove": Remove(path)} {
		if err == nil || !strings.Contains(err.Error(), "not replaced") {
			t.Errorf("%s: got error %v, want one that contains \"not replaced\"", what, err)
		}
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != mine {
		t.Errorf("got content %q, error %v, want it unchanged", data, err)
	}
}
