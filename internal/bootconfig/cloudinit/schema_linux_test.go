// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestDocumentsMatchCloudInitSchema validates the rendered documents with the
// real cloud-init.
func TestDocumentsMatchCloudInitSchema(t *testing.T) {
	tool, err := exec.LookPath("cloud-init")
	if err != nil {
		t.Fatalf("%v (Debian: package cloud-init; `make deps` installs it)", err)
	}
	user, err := RenderUserData(t.Context(), userTemplate, values())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"user-data":         user,
		"default user-data": DefaultUserData,
		"vendor-data":       vendorConfig(values()),
		"server user-data":  ServerUserData(serverOptions()),
		"account part":      accountPart(values(), accountInList),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(tool, "schema", "--config-file", file).CombinedOutput()
			if err != nil {
				t.Errorf("cloud-init schema: %v\n%s\n%s", err, out, text)
			}
		})
	}
}
