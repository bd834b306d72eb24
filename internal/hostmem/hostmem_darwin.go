// SPDX-License-Identifier: Apache-2.0

package hostmem

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// Limit returns how much memory this process and its children may use.
func Limit() (Memory, error) {
	bytes, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return Memory{}, fmt.Errorf("reading hw.memsize: %w", err)
	}
	return Memory{int64(min(bytes, math.MaxInt64)), "the host's memory"}, nil
}
