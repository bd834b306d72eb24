// SPDX-License-Identifier: Apache-2.0

package machine

import "testing"

func TestFootprint(t *testing.T) {
	for name, c := range map[string]struct {
		memory      int
		accelerator Accelerator
		want        int64
	}{
		"emulated":                  {1024, TCG, 1792 << 20},
		"virtualized":               {1024, KVM, 1280 << 20},
		"virtualized on macOS":      {1024, HVF, 1280 << 20},
		"not known yet":             {512, "", 1280 << 20},
		"more than any host can do": {100 << 20, TCG, 100<<40 + 768<<20},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Footprint(c.memory, c.accelerator); got != c.want {
				t.Errorf("got %d bytes, want %d", got, c.want)
			}
		})
	}
}
