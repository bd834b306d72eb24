// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// pollEnd polls until the process has ended. It is for platforms that cannot wait
// for a process that is not a child.
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

// signalByPID checks the identity immediately before it sends the signal. It is for
// platforms without process handles.
func signalByPID(id Identity, sig syscall.Signal) error {
	if !Alive(id) {
		return ErrGone
	}
	err := syscall.Kill(id.PID, sig)
	if errors.Is(err, syscall.ESRCH) {
		return ErrGone
	}
	return err
}
