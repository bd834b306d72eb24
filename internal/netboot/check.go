// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"fmt"

	"github.com/pxelab/pxelab/internal/agent"
)

// Check renders every document of a machine as it would be served, and returns
// the first error: a template that does not parse, misses a value, or makes
// something that its reader would not take. It is pure.
func Check(n *agent.Network, m *agent.Machine) error {
	r := renderer{port: 80, dns: n.DNS}
	if _, err := r.script(n, m, Decision{Action: ActionInstall}); err != nil {
		return fmt.Errorf("iPXE script: %w", err)
	}
	for _, name := range []string{"meta-data", "user-data", "vendor-data", "network-config"} {
		if _, err := r.cloudInit(name, n, m); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
