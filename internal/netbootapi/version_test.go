// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"strings"
	"testing"
)

func TestShownVersion(t *testing.T) {
	for version, want := range map[string]string{
		"":                      "",
		"sha256:ba7816bf8f01":   "sha256:ba7816bf8f01",
		strings.Repeat("a", 64): strings.Repeat("a", 64),
		strings.Repeat("a", 65): "",
		"sha256:\x1b[31m":       "",
		"sha256:é":              "",
	} {
		if got := (State{Version: version}).ShownVersion(); got != want {
			t.Errorf("version %q: got %q, want %q", version, got, want)
		}
	}
}
