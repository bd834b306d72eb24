// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"fmt"
)

// Await blocks until check reports true. Each time check reports false, it is called
// again when the channel that it has returned with that is closed. The error is that of
// ctx, or wraps context.Canceled if closing, which ends with the Runner, was closed.
func Await(ctx context.Context, closing <-chan struct{}, check func() (ok bool, changed <-chan struct{})) error {
	for {
		ok, changed := check()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-closing:
			return fmt.Errorf("the runner of machines is closing: %w", context.Canceled)
		}
	}
}
