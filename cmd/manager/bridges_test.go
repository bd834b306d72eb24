// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAllowBridge(t *testing.T) {
	var o options
	for _, name := range []string{"br0", "pxelab0"} {
		if err := allowBridge(&o, name); err != nil {
			t.Errorf("got %v for %q, want no error", err, name)
		}
	}
	for _, name := range []string{"", "br0,br1", "*", "sixteen-letters-"} {
		if allowBridge(&o, name) == nil {
			t.Errorf("got no error for %q, want one", name)
		}
	}
	if diff := cmp.Diff([]string{"br0", "pxelab0"}, o.bridges); diff != "" {
		t.Errorf("bridges (-want +got):\n%s", diff)
	}
}
