// SPDX-License-Identifier: Apache-2.0

package bootconfig

import (
	"context"
	"fmt"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
)

// Check renders the iPXE script and the cloud-init files of a machine as netbootd
// would serve them, and returns the first error: a template does not parse, lacks
// a value, or renders text that its reader would reject. It is pure; cancelling ctx ends it.
func Check(ctx context.Context, in Input) error {
	r := Renderer{Port: 80, DNS: in.Network.DNS}
	if _, err := r.Script(ctx, in, policy.Decision{Action: policy.ActionInstall}); err != nil {
		return fmt.Errorf("iPXE script: %w", err)
	}
	for _, name := range []string{"meta-data", "user-data", "vendor-data", "network-config"} {
		if _, err := r.CloudInit(ctx, name, in); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
