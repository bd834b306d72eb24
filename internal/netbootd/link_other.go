// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package netbootd

import (
	"errors"
	"fmt"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// SetUpLink returns errors.ErrUnsupported: it requires Linux.
func SetUpLink(*netbootapi.Network) (string, error) {
	return "", fmt.Errorf("setting up the lab interface: %w on this system", errors.ErrUnsupported)
}
