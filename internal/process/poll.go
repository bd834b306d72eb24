// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"time"
)

// pollEnd is for platforms that cannot wait for a process that is no child.
func pollEnd(ctx context.Context, id Identity, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for Alive(id) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
