// SPDX-License-Identifier: Apache-2.0

//go:build unix

package netboot

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/agent"
)

// freeBytes is what an unprivileged writer can still store in dir.
func freeBytes(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("asking for free space: %w", err)
	}
	free := float64(fs.Bavail) * float64(fs.Bsize)
	return int64(min(free, math.MaxInt64/2)), nil
}

// noSpace marks an error that comes of a full disk.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", agent.ErrNoSpace, err)
	}
	return err
}
