// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package netboot

import (
	"errors"
	"fmt"

	"github.com/pxelab/pxelab/internal/agent"
)

// SetUpLink needs Linux.
func SetUpLink(*agent.Network) (string, error) {
	return "", fmt.Errorf("setting up the lab interface: %w on this system", errors.ErrUnsupported)
}
