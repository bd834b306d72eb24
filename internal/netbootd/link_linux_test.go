// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

func TestNeighbourLimitsAreOnlyRaised(t *testing.T) {
	dir := t.TempDir()
	const high = 10 * netbootapi.MaxMachines
	for name, text := range map[string]string{"gc_thresh1": "128\n", "gc_thresh3": strconv.Itoa(high) + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	raiseNeighbours(dir)
	for name, want := range map[string]int{"gc_thresh1": netbootapi.MaxMachines, "gc_thresh3": high} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if got := strings.TrimSpace(string(raw)); err != nil || got != strconv.Itoa(want) {
			t.Errorf("%s: got %q, error %v, want %d", name, got, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "gc_thresh2")); !os.IsNotExist(err) {
		t.Errorf("a limit that does not exist: got error %v, want none created", err)
	}
}
