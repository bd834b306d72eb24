// SPDX-License-Identifier: Apache-2.0

package content

import (
	"slices"
	"strings"
	"testing"
)

// netbootd runs as an unprivileged user with three capabilities, and can read its
// credentials and write its state.
func TestNetbootdUnitIsUnprivileged(t *testing.T) {
	settings := map[string][]string{}
	for line := range strings.Lines(string(netbootdUnit)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			settings[key] = append(settings[key], value)
		}
	}
	capabilities := []string{"CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE"}
	var credentials []string
	for _, name := range []string{"ca.crt", "server.crt", "server.key"} {
		credentials = append(credentials, name+":/etc/netbootd/"+name)
	}
	for key, want := range map[string][]string{
		"DynamicUser": {"yes"}, "User": {"netbootd"}, "NoNewPrivileges": {"yes"}, "ProtectSystem": {"strict"}, "StateDirectory": {"netbootd"},
		"AmbientCapabilities": capabilities, "CapabilityBoundingSet": capabilities, "LoadCredential": credentials,
	} {
		if got := settings[key]; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}
