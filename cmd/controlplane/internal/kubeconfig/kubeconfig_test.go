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
	for range 2 { // the second time over its own
		if err := a.Write(path); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want mode 0600", info.Mode(), err)
	}
	for range 2 { // the second time nothing
		if err := Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestFilesOfOthersStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	const mine = "apiVersion: v1\nkind: Config\n"
	if err := os.WriteFile(path, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"Write": Admin{}.Write(path), "Remove": Remove(path)} {
		if err == nil || !strings.Contains(err.Error(), "left alone") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != mine {
		t.Errorf("content %q, %v", data, err)
	}
}
